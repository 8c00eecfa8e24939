"""Writing by a recorded step against writing by the modules; on the CPU the step is called where a GPU replays it."""

from __future__ import annotations

import pytest
import torch
from vlm_fakes import DOCUMENTS, build, change

from vlm import generate

pytest.importorskip("triton")
from vlm.kernels import launch

SMALL = change(decoder={"num_layers": 2, "num_experts": 3}, fusion={"every": 2})


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
            patch.setattr(generate, "can_record", lambda model: True)
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
def test_rows_that_end_at_different_times(processor, both, temperature: float) -> None:
    """They are passengers first, and left behind when half have ended; the others' tokens stay what they were."""

    def ends(tokens: list[int]) -> bool:
        return len(tokens) > tokens[0] % 5

    plain, fast = both(build(SMALL), processor(DOCUMENTS), max_new_tokens=6, ends=ends, temperature=temperature)
    same(plain, fast)
    assert len({len(tokens) for tokens in plain.tokens}) > 2


def test_a_stream_is_what_is_generated(processor, monkeypatch) -> None:
    model, batch = build(SMALL), processor(DOCUMENTS[1:2])
    expected = model.generate(batch, max_new_tokens=5).tokens[0]
    monkeypatch.setattr(generate, "can_record", lambda model: True)
    assert [token for token, _ in model.stream(batch, max_new_tokens=5)] == expected


def test_weights_changed_between_two_generations_count(processor, both) -> None:
    model, batch = build(SMALL), processor(DOCUMENTS[1:2])
    before, _ = both(model, batch, max_new_tokens=4)
    torch.nn.init.normal_(model.decoder.embedding.weight)
    plain, fast = both(model, batch, max_new_tokens=4)
    same(plain, fast)
    assert plain.tokens != before.tokens


def test_logits_that_are_not_numbers_are_refused(processor, monkeypatch) -> None:
    model = build(SMALL)
    monkeypatch.setattr(generate, "can_record", lambda model: True)
    model.decoder.norm.weight.data.fill_(float("nan"))
    with pytest.raises(ValueError, match="logits for row 0 are not finite"):
        model.generate(processor(DOCUMENTS[:1]), max_new_tokens=4)
