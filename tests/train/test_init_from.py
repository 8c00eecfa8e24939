"""Training from imported weights: a text decoder with its vocabulary, given by a flag or the configuration."""

from __future__ import annotations

import dataclasses
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from train_runs import TINY, config, same_results, train

import vlm
from train import fit as command
from train.config import plain_yaml
from train.run_dir import RunDirectory
from vlm.decoder import TextDecoder
from vlm.load import build_processor

ONE = ["budget_scale=0.15e-6", "run.checkpoint_every=1", "run.keep=99"]
STILL = [*ONE, "optim.lr=1.0e-20"]  # the first step leaves all as it was
TEMPLATE = "{% for message in messages %}<s>{{ message['content'] }}</s>{% endfor %}"


def tokenizer() -> Tokenizer:
    """259 tokens, none of them for pictures, the special ones under names of their own."""
    alphabet = ["<s>", "</s>", "<none>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    made = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    made.add_special_tokens(["<s>", "</s>", "<none>"])
    return made


@pytest.fixture(scope="module")
def text_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(1)
    shape = dataclasses.replace(config(Path("x")).model.decoder, vocab_size=259)
    decoder = TextDecoder(shape)
    for parameter in decoder.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    special = {"pad": "<none>", "bos": "<s>", "eos": "</s>"}
    path = tmp_path_factory.mktemp("text") / "model"
    vlm.save(path, decoder, build_processor(shape, tokenizer(), special, TEMPLATE))
    return path


@pytest.fixture(scope="module")
def begun(text_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("begun") / "run", *STILL, init_from=str(text_model))


def first_weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "checkpoints" / "0-text" / "step-00000001" / "model.safetensors")


def test_the_decoders_weights_are_taken_and_new_rows_start_at_the_mean(begun: Path, text_model: Path) -> None:
    source, weights = vlm.load(text_model)[0].state_dict(), first_weights(begun)
    taken = {name.removeprefix("decoder."): t for name, t in weights.items() if name.startswith("decoder.")}
    table = taken.pop("embedding.weight")
    old = source.pop("embedding.weight")
    assert taken.keys() == source.keys() and all(torch.equal(taken[name], source[name]) for name in source)
    assert torch.equal(table[:259], old)
    assert len(table) == 512
    torch.testing.assert_close(table[259:], old.mean(dim=0).expand(512 - 259, -1))
    assert all(torch.isfinite(t).all() for t in weights.values())
    assert weights["resampler.layers.0.query.weight"].std() > 0 and weights["fusion.0.query.weight"].std() > 0


def test_vocabulary_special_tokens_and_chat_template_come_along(begun: Path) -> None:
    model, processor = vlm.load(begun)
    assert processor.special == {"pad": "<none>", "bos": "<s>", "eos": "</s>", "medium": "<image>"}
    assert processor.image_id == 259 and processor.vocab_size == 260 and processor.chat_template == TEMPLATE
    assert model.config.decoder.vocab_size == 512


def test_what_starts_anew_is_said(text_model: Path, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    train(tmp_path / "run", *ONE, init_from=str(text_model))
    said = [line for line in capfd.readouterr().err.splitlines() if "starts anew" in line]
    assert [line.split()[0] for line in said] == ["encoder", "resampler", "fusion"]
    assert all("is a text decoder alone" in line for line in said)


def test_the_key_does_what_the_flag_does_and_the_flag_wins(begun: Path, text_model: Path, tmp_path: Path) -> None:
    by_key = train(tmp_path / "key", *STILL, f"init_from={text_model}")
    assert same_results(begun, by_key)
    by_flag = train(tmp_path / "flag", *STILL, "init_from=nowhere", init_from=str(text_model))
    assert same_results(begun, by_flag)
    assert [plain_yaml(run / "config.yaml")["init_from"] for run in (by_key, by_flag, begun)] == [str(text_model)] * 3


def test_once_begun_the_source_is_not_needed(begun: Path, text_model: Path, tmp_path: Path) -> None:
    source, run = shutil.copytree(text_model, tmp_path / "source"), tmp_path / "run"
    train(run, *STILL, init_from=str(source))
    shutil.rmtree(source)
    shutil.rmtree(run / "checkpoints" / "2-tune")
    shutil.rmtree(run / "model")
    train(run, *STILL)
    assert same_results(begun, run)
    assert plain_yaml(run / "config.yaml")["init_from"] == str(source)


def test_killed_before_its_first_checkpoint_it_begins_from_the_same_place(begun: Path, tmp_path: Path) -> None:
    run = shutil.copytree(begun, tmp_path / "run")
    for made in ("checkpoints", "model", "tensorboard"):
        shutil.rmtree(run / made)
    (run / "metrics.csv").unlink()
    train(run, *STILL)
    assert same_results(begun, run)


def test_another_decoder_is_refused_by_its_fields(text_model: Path, tmp_path: Path) -> None:
    other = ["model.decoder.num_experts=2", "model.decoder.rope_theta=500.0"]
    with pytest.raises(ValueError, match=r"differs from .* in rope_theta \(500.0, not 10000.0\), num_experts \(2, not 4\)$"):
        train(tmp_path / "run", *other, init_from=str(text_model))
    with pytest.raises(ValueError, match=r"vocab_size 200 is below the 259|has 260 tokens"):
        train(tmp_path / "run", "model.decoder.vocab_size=200", init_from=str(text_model))
    with pytest.raises(ValueError, match=r"the tokenizer has 260 tokens, model.decoder.vocab_size is 259"):
        train(tmp_path / "run", "model.decoder.vocab_size=259", init_from=str(text_model))
    assert not (tmp_path / "run").exists()


def test_a_run_may_gain_tokens_too(finished: Path, tmp_path: Path) -> None:
    run = train(tmp_path / "run", *STILL, "model.decoder.vocab_size=520", init_from=str(finished))
    old = load_file(finished / "model" / "model.safetensors")["decoder.embedding.weight"]
    new = first_weights(run)["decoder.embedding.weight"]
    assert torch.equal(new[:512], old)
    torch.testing.assert_close(new[512:], old.mean(dim=0).expand(8, -1))


def test_a_balance_bias_may_be_new(finished: Path, tmp_path: Path) -> None:
    run = train(tmp_path / "run", *STILL, "model.decoder.balance_bias_rate=1.0e-3", init_from=str(finished))
    assert torch.equal(
        first_weights(run)["decoder.embedding.weight"],
        load_file(finished / "model" / "model.safetensors")["decoder.embedding.weight"],
    )
    assert first_weights(run)["decoder.layers.0.moe.router.bias"].abs().max() == pytest.approx(1e-3)


def test_the_command_shows_where_it_begins_from(capsys: pytest.CaptureFixture) -> None:
    command.main([TINY, "--init-from", "somewhere", "--print-config"])
    assert "init_from: somewhere\n" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"special_tokens": {"eos": 3}, "chat_template": null}', '{"more": 1}'])
def test_damaged_settings_of_a_vocabulary_are_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "processor.json").write_text(text)
    with pytest.raises(ValueError, match=r"processor\.json is damaged") as caught:
        RunDirectory(tmp_path, config(tmp_path)).settings()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("model.fusion.sees=all", "fusion starts anew: .*sees"),
        ("model.encoder.activation=relu", "encoder starts anew: .*activation"),
    ],
)
def test_a_group_that_would_compute_something_else_starts_anew(
    finished: Path, tmp_path: Path, capfd: pytest.CaptureFixture, change: str, says: str
) -> None:
    train(tmp_path / "run", *STILL, change, init_from=str(finished))
    assert re.search(says, capfd.readouterr().err)


def test_a_decoder_that_would_compute_something_else_is_refused(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"decoder differs from .* in top_k \(1, not 2\), norm_eps"):
        train(tmp_path / "run", "model.decoder.top_k=1", "model.decoder.norm_eps=1.0e-3", init_from=str(finished))


def test_balance_may_come_and_go(finished: Path, tmp_path: Path) -> None:
    biased = train(tmp_path / "a", *STILL, "model.decoder.balance_bias_rate=0.001", init_from=str(finished))
    plain = train(tmp_path / "b", *STILL, init_from=str(biased))
    old, new = (load_file(run / "model" / "model.safetensors") for run in (finished, plain))
    assert old.keys() == new.keys()


def test_without_a_resampler_it_begins_too(finished: Path, text_model: Path, tmp_path: Path) -> None:
    for name, source in (("a", finished), ("b", text_model)):
        stage = "stages.align.train={fusion: 1.0}", "stages.tune.train={fusion: 1.0}"
        assert vlm.load(train(tmp_path / name, *STILL, "model.resampler=null", *stage, init_from=str(source)))
