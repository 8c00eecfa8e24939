"""Models of transformers behind the protocol: three families of tiny random weights, and our model exported as Idefics."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parents[2] / "vlm"))  # the fakes of that folder's tests

from tiny_hf import FAMILIES, make, transformers
from vlm_fakes import byte_tokenizer

from eval import run as run_command
from eval.engine import Budget
from eval.evaluate import Running, evaluate
from eval.models import Request
from eval.models import open as open_model
from eval.models.own import Own
from eval.tasks import Item, Task
from tests.eval.conftest import picture
from tests.vlm.interop.idefics_fakes import idefics_like
from vlm.command import status
from vlm.interop import export
from vlm.interop.text import TextFiles
from vlm.load import build_processor
from vlm.sample import Image, Sample, Text, Video


def sample(pictures: int, text: str, *after: Text, key: str = "k") -> Sample:
    media = [Image(picture(40 * i, 16 + i)) for i in range(pictures)]
    return Sample((*media, Text(text, learn=False), *after), key=key)


@pytest.fixture(scope="module", params=FAMILIES)
def model(request, tmp_path_factory):
    return open_model(
        f"hf:{make(request.param, tmp_path_factory.mktemp(request.param), repetition_penalty=3.0, do_sample=True)}"
    )


PROMPTS = (sample(1, "How many?"), sample(2, "A much longer question about them?"), sample(0, "Nothing to see"), sample(1, "x"))


def test_a_prompt_is_answered_the_same_alone_and_in_any_company(model):
    requests = [Request(prompt, 10) for prompt in PROMPTS]
    together = model.complete(requests)
    alone = [model.complete([request])[0] for request in reversed(requests)][::-1]
    assert [c.tokens for (c,) in together] == [c.tokens for (c,) in alone]
    assert len({c.tokens for (c,) in together}) > 1 and all(c.finish == "length" and len(c.tokens) == 10 for (c,) in together)


def test_greedy_is_the_argmax_of_the_model_whatever_its_repository_wants(model):
    (answer,) = model.complete([Request(PROMPTS[0], 6)])[0]
    inputs = model._inputs([PROMPTS[0]])
    for token, logprob in zip(answer.tokens, answer.logprobs, strict=True):
        with torch.no_grad():
            logits = model.model(**inputs).logits[0, -1].log_softmax(-1)
        assert logits.argmax() == token and logits[token].item() == pytest.approx(logprob, abs=1e-4)
        for name in ("input_ids", "attention_mask", "mm_token_type_ids"):
            if name in inputs:
                more = torch.tensor([[{"input_ids": token, "attention_mask": 1}.get(name, 0)]])
                inputs[name] = torch.cat([inputs[name], more], dim=1)


def test_samples_depend_on_the_seed_and_not_on_the_batch(model):
    request = Request(PROMPTS[0], 5, temperature=1.0, top_p=0.9, num_samples=3, seed=7)
    other = Request(PROMPTS[1], 5, temperature=1.0, top_p=0.9, num_samples=3, seed=8)
    texts = [c.tokens for c in model.complete([other, request])[1]]
    assert texts == [c.tokens for c in model.complete([request])[0]] and len(set(texts)) == 3


def test_a_text_ends_before_a_stop_string_and_at_an_end_token(model):
    (free,) = model.complete([Request(PROMPTS[3], 12)])[0]
    stop = model._decode(list(free.tokens[4:6]))
    if not stop or free.text.find(stop) < 0:
        pytest.skip("bytes that are no characters")
    (cut,) = model.complete([Request(PROMPTS[3], 12, stop=(stop,))])[0]
    assert cut.finish == "stop" and cut.text == free.text[: free.text.index(stop)] and len(cut.tokens) <= 6
    ends, model.ends = model.ends, [free.tokens[3]]
    (ended,) = model.complete([Request(PROMPTS[3], 12)])[0]
    model.ends = ends
    assert ended.finish == "stop" and free.tokens[3] not in ended.tokens and ended.tokens == free.tokens[: len(ended.tokens)]


def test_the_conversation_has_its_turns_and_pictures_in_place(model):
    shot = Sample((Image(picture(3)), Text("two?"), Text(" 2", learn=True), Image(picture(4)), Text("three?", learn=False)))
    shot = Sample((shot.segments[0], Text("two?", learn=False), *shot.segments[2:]))
    mark = model.processor.chat_template.split("'image' %}")[1].split("{%")[0]
    want = f"<bos>[user]{mark}two?<end>[assistant] 2<end>[user]{mark}three?<end>[assistant]"
    assert model._prompt(shot) == want and model.length(shot) > model.length(PROMPTS[3])


def test_it_goes_on_within_its_own_turn(model):
    begun = sample(1, "Add.", Text("It is <<1+", learn=True))
    assert model._prompt(begun).endswith("[assistant]It is <<1+")
    assert len(model.complete([Request(begun, 3)])[0][0].tokens) == 3


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (Sample((Image(b"no picture"), Text("x", learn=False)), key="q7"), "item q7: image cannot be decoded"),
        (sample(1, "two <eos> of", key="q8"), "item q8: its text holds '<eos>'"),
        (Sample((Video((picture(1),)), Text("x", learn=False)), key="q9"), "item q9: a video"),
    ],
)
def test_what_cannot_be_asked_is_one_line_that_names_the_item(model, bad, message):
    with pytest.raises(ValueError, match=message) as caught:
        model.complete([Request(PROMPTS[0], 3), Request(bad, 3)])
    assert "\n" not in str(caught.value)


def test_a_picture_typed_by_a_user_is_not_one(tmp_path):
    model = open_model(f"hf:{make('llava', tmp_path, template=False)}")
    with pytest.raises(ValueError, match="item q1: its text holds '<image>'"):
        model.complete([Request(sample(1, "an <image> here", key="q1"), 3)])


def test_without_a_template_text_and_pictures_stand_in_a_row(tmp_path):
    model = open_model(f"hf:{make('llava', tmp_path, template=False)}")
    assert model._prompt(sample(2, "Question: a\nAnswer:")) == "<image><image>Question: a\nAnswer:"
    assert model.complete([Request(sample(2, "Q"), 4)])[0][0].tokens


def test_the_fingerprint_tells_models_templates_and_precision_apart(tmp_path):
    folder = make("llava", tmp_path / "a")
    first, same = (open_model(f"hf:{folder}") for _ in range(2))
    first.complete([Request(PROMPTS[0], 2)])
    assert first.fingerprint() == same.fingerprint() and first.context_length() == 4096
    plain = open_model(f"hf:{make('llava', tmp_path / 'b', template=False)}")
    half = open_model(f"hf:{folder}", dtype=torch.bfloat16)
    assert open_model(f"hf:{shutil.copytree(folder, tmp_path / 'c')}").fingerprint() == first.fingerprint()
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["rms_norm_eps"] = 0.5
    (tmp_path / "c" / "config.json").write_text(json.dumps(config))
    assert open_model(f"hf:{tmp_path / 'c'}").fingerprint() != first.fingerprint()
    assert len({model.fingerprint() for model in (first, plain, half)}) == 3
    assert half.complete([Request(PROMPTS[0], 2)])[0][0].tokens


def _pickled(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")


def _with_code(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "evil.Config", "AutoModelForImageTextToText": "evil.Model"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text("raise SystemExit('code of a repository was run')")


@pytest.mark.parametrize(
    "damage",
    [_pickled, _with_code, lambda f: (f / "config.json").unlink(), lambda f: (f / "model.safetensors").write_bytes(b"{")],
)
def test_a_damaged_or_hostile_directory_is_one_line(tmp_path, damage):
    damage(make("llava", tmp_path))
    with pytest.raises(ValueError, match=f"hf:{tmp_path}") as caught:
        open_model(f"hf:{tmp_path}")
    assert "\n" not in str(caught.value)


# -- our own model, exported ----------------------------------------------------------------------------------------------

AROUND = "<fake_token_around_image>"


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    torch.manual_seed(1)
    ours, tokenizer = idefics_like(decoder={"vocab_size": 261}), byte_tokenizer()
    tokenizer.add_special_tokens([AROUND])
    processor = build_processor(ours.config, tokenizer, {"around": AROUND})
    folder = tmp_path_factory.mktemp("idefics")
    export(ours, folder, "idefics", text=TextFiles(tokenizer, None, "<bos>", "<eos>", "<pad>"))
    return Own(ours, processor), open_model(f"hf:{folder}")


@pytest.mark.parametrize("drawn", [{}, {"temperature": 0.8, "top_p": 0.95, "num_samples": 3, "seed": 5}])
def test_our_model_says_the_same_through_transformers(both, drawn):
    requests = [Request(sample(pictures, f"Question: {'why ' * pictures}?\nAnswer:"), 12, **drawn) for pictures in (1, 2, 3, 1)]
    ours, theirs = (model.complete(requests) for model in both)
    assert [[c.tokens for c in row] for row in ours] == [[c.tokens for c in row] for row in theirs]
    assert [[(c.text, c.finish) for c in row] for row in ours] == [[(c.text, c.finish) for c in row] for row in theirs]
    for a, b in zip(ours, theirs, strict=True):
        assert a[0].logprobs == pytest.approx(b[0].logprobs, abs=1e-3)


def test_an_evaluation_of_both_gives_the_same_records(both, tmp_path):
    items = [Item(f"q{i}", f"Is it {'so ' * i}?", ("yes",), (picture(9 * i, 16),), group=f"p{i}") for i in range(6)]
    from eval.arms import make as make_arm

    task = Task("made", lambda *_: items, "exact_match")
    found = []
    for name, model, rows in (("ours", both[0], 4), ("theirs", both[1], 3)):
        running = Running(Budget(rows=rows))
        evaluate(model, task, items, tmp_path / name, arm=make_arm(task), running=running)
        lines = (tmp_path / name / "records.jsonl").read_text().splitlines()
        found.append([{k: r[k] for k in ("id", "output", "prediction", "score", "tokens")} for r in map(json.loads, lines)])
    assert found[0] == found[1] and len(found[0]) == 6


def test_idefics_fetches_nothing(both):
    with pytest.raises(ValueError, match="item k: its text begins with an address"):
        both[1].complete([Request(sample(1, "http://127.0.0.1:9/x.png"), 3)])


def test_the_command_takes_one(tmp_path, monkeypatch, capsys):
    folder, data = make("llava", tmp_path / "model"), tmp_path / "data"
    data.mkdir()
    rows = [{"id": f"a{i}", "image": "0.png", "question": f"Which {i}?", "answers": [str(i)]} for i in range(3)]
    (data / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (data / "0.png").write_bytes(picture(9))
    run_command._model.cache_clear()
    arguments = f"--model hf:{folder} --task custom --data {data} --out {tmp_path / 'out'} --cot calculator --convention chat"
    monkeypatch.setattr(sys, "argv", ["eval.run", *arguments.split()])
    assert status(run_command.main) == 0, capsys.readouterr().err
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["exact_match"]["n"] == 3
    page = (tmp_path / "out" / "report.html").read_text()
    assert f"hf:{folder}" in page and page.count("<details") == 3 and (tmp_path / "out" / "report.md").is_file()
    run_command._model.cache_clear()


def test_transformers_is_an_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ValueError, match=r"pip install -e '\.\[hf\]'"):
        open_model("hf:somewhere")
    assert transformers is not None
