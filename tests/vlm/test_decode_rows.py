"""Writing by a recorded step against writing by the modules; on the CPU the step is called where a GPU replays it."""

from __future__ import annotations

import dataclasses
import gc
import weakref
from types import SimpleNamespace

import pytest
import torch
from vlm_fakes import DOCUMENTS, build, change

from vlm import VLM, generate

pytest.importorskip("triton", "3.9", reason="with NumPy 2.4 an older interpreter cannot loop up to a tensor")
from vlm import decode_graph, decode_rows
from vlm.cache import Cache
from vlm.config import RopeScaling
from vlm.decode_prompt import waits
from vlm.kernels import launch

SMALL = change(decoder={"num_layers": 2, "num_experts": 3}, fusion={"every": 2})


def key_on_any_device(model) -> tuple[int, ...]:
    return tuple(p.data_ptr() for p in model.parameters())


@pytest.fixture(autouse=True)
def _few_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Interpreted, each program costs milliseconds."""
    monkeypatch.setattr(launch, "TILES", dict.fromkeys(launch.TILES, launch.Tile(128, 32, 1, 4)))


@pytest.fixture
def both(monkeypatch: pytest.MonkeyPatch):
    """A function that generates with the modules and with the recorded step."""

    def write(model, batch, **options):
        plain = model.generate(batch, **options)
        with monkeypatch.context() as patch:
            patch.setattr(generate, "recording_key", key_on_any_device)
            fast = model.generate(batch, **options)
        return plain, fast

    return write


def same(plain, fast) -> None:
    assert fast.tokens == plain.tokens and fast.finish == plain.finish
    for ours, theirs in zip(fast.logprobs, plain.logprobs, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-4)


def test_greedy(processor, both) -> None:
    same(*both(build(SMALL), processor(DOCUMENTS[:4]), max_new_tokens=4))


def test_without_images(processor, both) -> None:
    same(*both(build(SMALL).decoder, processor(DOCUMENTS[:1]), max_new_tokens=5))


def test_samples_with_a_penalty(processor, both) -> None:
    options = {"temperature": 1.0, "top_p": 0.9, "repetition_penalty": 1.3, "seed": 3, "num_samples": 2}
    same(*both(build(SMALL), processor(DOCUMENTS[2:4]), max_new_tokens=4, **options))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_rows_that_end_at_different_times(processor, both, monkeypatch, temperature: float) -> None:
    """They are passengers first, and left behind when a quarter goes on; the others' tokens stay what they were."""

    model, batch, sizes = build(SMALL), processor(DOCUMENTS), []
    options = {"temperature": temperature, "seed": list(range(7))}
    first = [tokens[0] for tokens in model.generate(batch, max_new_tokens=1, **options).tokens]

    def ends(tokens: list[int]) -> bool:
        return len(tokens) > first.index(tokens[0])

    monkeypatch.setattr(decode_rows, "RECORDED", 1)
    take = decode_rows.take
    monkeypatch.setattr(decode_rows, "take", lambda model, sort, key: sizes.append(key) or take(model, sort, key))
    plain, fast = both(model, batch, max_new_tokens=8, ends=ends, **options)
    same(plain, fast)
    assert len({len(tokens) for tokens in plain.tokens}) > 2 and len(sizes) > 1


def test_a_stream_is_what_is_generated(processor, monkeypatch) -> None:
    model, batch = build(SMALL), processor(DOCUMENTS[1:2])
    expected = model.generate(batch, max_new_tokens=5).tokens[0]
    monkeypatch.setattr(generate, "recording_key", key_on_any_device)
    assert [token for token, _ in model.stream(batch, max_new_tokens=5)] == expected


def test_the_first_token_waits_for_no_step(processor, monkeypatch) -> None:
    model, steps, call = build(SMALL), [], decode_rows.DecodeStep.__call__
    monkeypatch.setattr(generate, "recording_key", key_on_any_device)
    monkeypatch.setattr(decode_rows.DecodeStep, "__call__", lambda *arguments: steps.append(1) or call(*arguments))
    stream = model.stream(processor(DOCUMENTS[1:2]), max_new_tokens=5)
    assert [(next(stream), len(steps))[1] for _ in range(5)] == [0, 2, 3, 4, 4]


def test_weights_changed_between_two_generations_count(processor, both) -> None:
    model, batch = build(SMALL), processor(DOCUMENTS[1:2])
    before, _ = both(model, batch, max_new_tokens=4)
    torch.nn.init.normal_(model.decoder.embedding.weight)
    plain, fast = both(model, batch, max_new_tokens=4)
    same(plain, fast)
    assert plain.tokens != before.tokens


def test_logits_that_are_not_numbers_are_refused(processor, monkeypatch) -> None:
    model = build(SMALL)
    monkeypatch.setattr(generate, "recording_key", key_on_any_device)
    model.decoder.norm.weight.data.fill_(float("nan"))
    with pytest.raises(ValueError, match="logits for row 0 are not finite"):
        model.generate(processor(DOCUMENTS[:1]), max_new_tokens=4)


def test_prompts_read_on_fixed_tensors_are_read_as_they_are(processor, monkeypatch) -> None:
    """From the second time on; other pictures, other lengths, the same number of rows and media."""
    model = build(SMALL)
    batches = [processor([DOCUMENTS[i], DOCUMENTS[j]]) for i, j in ((1, 4), (4, 2), (6, 4), (2, 4))]
    expected = [model.generate(batch, max_new_tokens=3) for batch in batches]
    monkeypatch.setattr(generate, "recording_key", key_on_any_device)
    read = []
    monkeypatch.setattr(model, "read_prompts", lambda batch, cache: read.append(batch) or VLM.read_prompts(model, batch, cache))
    found = [model.generate(batch, max_new_tokens=3) for batch in batches]
    for ours, theirs in zip(found, expected, strict=True):
        same(theirs, ours)
    assert read[1] is read[2] is read[3] and read[0] is not read[1]


def test_generations_may_take_turns(processor, monkeypatch) -> None:
    model, batches = build(SMALL), [processor([DOCUMENTS[i]]) for i in (1, 2)]
    expected = [model.generate(batch, max_new_tokens=5).tokens[0] for batch in batches]
    monkeypatch.setattr(generate, "recording_key", key_on_any_device)
    for _ in range(3):
        streams = [model.stream(batch, max_new_tokens=5) for batch in batches]
        turns = [tuple(token for token, _ in news) for news in zip(*streams, strict=True)]
        assert turns == list(zip(*expected, strict=True))


def test_a_pass_that_waits_for_the_device_is_not_recorded() -> None:
    config, weight = SMALL.decoder, torch.zeros(1, dtype=torch.bfloat16)
    on_gpu = SimpleNamespace(is_cuda=True, dtype=torch.bfloat16)
    assert not waits(config, weight) and not waits(config, on_gpu)
    assert waits(config, SimpleNamespace(is_cuda=True, dtype=torch.float32))
    assert waits(dataclasses.replace(config, expert_dim=20), on_gpu)
    assert not waits(dataclasses.replace(config, expert_dim=20, num_experts=1, top_k=1), on_gpu)
    assert waits(dataclasses.replace(config, rope_scaling=RopeScaling("dynamic", 2.0, 8)), weight)


def desks(model) -> dict:
    return {key: desk for key, (desk, _) in decode_graph._kept[model]["steps"].items()}


def test_a_desk_is_kept_for_the_next_generation_of_its_kind(processor, monkeypatch) -> None:
    monkeypatch.setattr(generate, "recording_key", key_on_any_device)
    model, batch = build(SMALL), processor(DOCUMENTS[1:3])
    model.generate(batch, max_new_tokens=4)
    (first,) = desks(model).values()
    model.generate(batch, max_new_tokens=5)
    assert list(desks(model).values()) == [first]
    model.generate(batch, max_new_tokens=4, temperature=1.0)
    assert len(desks(model)) == 2 and first in desks(model).values()


def test_a_first_generation_writes_into_the_cache_it_read_its_prompt_into(processor, monkeypatch) -> None:
    """No second one: at long contexts it is most of the memory."""
    monkeypatch.setattr(generate, "recording_key", key_on_any_device)
    made, empty = [], Cache.empty
    monkeypatch.setattr(Cache, "empty", lambda *arguments: made.append(empty(*arguments)) or made[-1])
    model = build(SMALL)
    model.generate(processor(DOCUMENTS[1:2]), max_new_tokens=4)
    (desk,) = desks(model).values()
    assert len(made) == 1 and desk.cache.layers[0].keys.data_ptr() == made[0].layers[0].keys.data_ptr()


def test_few_tokens_leave_nothing_in_what_is_kept_for_prompts(processor, monkeypatch) -> None:
    """What stands behind a prompt is masked, but a NaN there would be one in every sum."""
    monkeypatch.setattr(generate, "recording_key", key_on_any_device)
    model, batch = build(SMALL), processor(DOCUMENTS[1:2])
    for _ in range(3):
        model.generate(batch, max_new_tokens=3)
    ((reading, _),) = decode_graph._kept[model]["prompts"].values()
    assert all(not layer.keys[:, :, reading.batch.tokens.shape[1] :].any() for layer in reading.cache.layers)


def test_prompts_met_once_push_nothing_out(processor, monkeypatch) -> None:
    monkeypatch.setattr(generate, "recording_key", key_on_any_device)
    model, batch = build(SMALL), processor(DOCUMENTS[1:2])
    for _ in range(2):
        model.generate(batch, max_new_tokens=1)
    kept = list(decode_graph._kept[model]["prompts"])
    for rows in range(2, 7):
        model.generate(processor(DOCUMENTS[1:2] * rows), max_new_tokens=1)
    assert list(decode_graph._kept[model]["prompts"]) == kept


def test_what_is_kept_does_not_keep_the_model(processor, monkeypatch) -> None:
    monkeypatch.setattr(generate, "recording_key", key_on_any_device)
    model = build(SMALL)
    for _ in range(2):
        model.generate(processor(DOCUMENTS[1:2]), max_new_tokens=4)
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


def test_weights_that_move_while_they_are_used_are_noticed(processor, monkeypatch) -> None:
    monkeypatch.setattr(generate, "recording_key", key_on_any_device)
    model = build(SMALL)
    stream = model.stream(processor(DOCUMENTS[1:2]), max_new_tokens=6)
    next(stream)
    model.decoder.embedding.weight.data = model.decoder.embedding.weight.data.clone()
    with pytest.raises(RuntimeError, match="moved"):
        list(stream)
