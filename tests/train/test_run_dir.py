"""Which directories a run may use."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
import yaml
from tokenizers import Tokenizer, models
from train_runs import config, same_results, train

from train.config import plain_yaml, read_config, to_yaml
from train.run_dir import RunDirectory


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ("run.seed=9", "run.seed"),
        ("optim.lr=1.0e-4", "optim.lr"),
        ("stages.tune.rows=8", "stages.tune.rows"),
        ("model.decoder.dim=64", "model.decoder.dim"),
        ("sources.code.epochs=1", "sources.code.epochs"),
        ("run.precision=bf16-true", "run.precision"),
        ("tokenizer.documents=9", "tokenizer.documents"),
    ],
)
def test_a_run_of_another_configuration_is_refused_by_its_keys(change: str, key: str, finished: Path) -> None:
    before = (finished / "config.yaml").read_text()
    with pytest.raises(ValueError, match=f"another configuration: {key} differ"):
        train(finished, change)
    assert (finished / "config.yaml").read_text() == before


def test_a_run_keeps_its_kind_of_optimizer(finished: Path) -> None:
    with pytest.raises(ValueError, match=r"begun with optim\.kind 'adamw', not 'muon'.*--init-from"):
        train(finished, "optim.kind=muon")


def test_what_does_not_change_the_mathematics_may_change(finished: Path) -> None:
    free = [
        "budget_scale=1.0e-6",
        "stages.tune.tokens=9e12",
        "run.workers=3",
        "run.checkpoint_every=7",
        "run.keep=9",
        "run.threads=2",
    ]
    free += [
        "run.log_every=3",
        "eval.charts=5",
        "eval.profile=glance",
        "validation.every=3",
        "run.accelerator=cpu",
        "run.devices=2",
        "data_root=/elsewhere",
        "sources.code.cache=/tmp",
    ]
    RunDirectory(finished, config(finished, *free)).check()


def test_a_source_named_as_a_free_key_is_not_free(finished: Path, tmp_path: Path) -> None:
    run = shutil.copytree(finished, tmp_path / "run")
    more = ["sources.tokens={kind: stdlib}", "stages.text.mixture={code: 1.0, tokens: 1.0}"]
    begun = config(run, *more)
    (run / "config.yaml").write_text(to_yaml(begun))
    with pytest.raises(ValueError, match=r"stages\.text\.mixture\.tokens differ"):
        RunDirectory(run, config(run, more[0], "stages.text.mixture={code: 1.0, tokens: 9.0}")).check()


def test_a_run_from_before_a_key_was_there_goes_on(finished: Path, tmp_path: Path) -> None:
    run = shutil.copytree(finished, tmp_path / "run")
    old = plain_yaml(run / "config.yaml")
    del old["init_from"], old["run"]["checkpoint_activations"], old["model"]["decoder"]["attention_bias"]
    for stage in old["stages"]:
        del stage["rope_theta"], stage["rope_scaling"]
    (run / "config.yaml").write_text(yaml.safe_dump(old))
    (run / "processor.json").unlink()
    train(run)
    assert same_results(finished, run)


def test_a_directory_with_other_things_is_refused(tmp_path: Path) -> None:
    (tmp_path / "letters.txt").write_text("dear")
    with pytest.raises(ValueError, match="is not empty and holds no run"):
        train(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["letters.txt"]


def test_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(ValueError, match="is a file"):
        train(tmp_path / "run")


@pytest.mark.parametrize("text", ["", "- a", "x: &x 1\ny: *x", "\tx", "a: !!python/object/apply:os.system ['true']"])
def test_a_configuration_that_is_none_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"config\.yaml"):
        train(tmp_path)


def test_an_empty_directory_and_one_killed_at_its_very_start_are_taken(tmp_path: Path) -> None:
    RunDirectory(tmp_path, config(tmp_path)).check()
    (tmp_path / ".config.yaml.new").write_text("half")
    RunDirectory(tmp_path, config(tmp_path)).check()


def test_a_mistake_found_at_the_start_leaves_no_directory(tmp_path: Path) -> None:
    for mistake, says in [
        ("sources.code={kind: stdlb}", "did you mean 'stdlib'"),
        ("sources.code={kind: stdlib, byts: 5}", "did you mean 'bytes'"),
        ("sources.code={kind: shards, path: nowhere}", "no shards at nowhere"),
        ("sources.charts_held_out={kind: shards, path: nowhere}", "no shards at nowhere"),
        ("sources.charts.profile=glanc", "did you mean 'glance'"),
        ("eval.profile=glanc", "did you mean 'glance'"),
        ("sources.code.epochs=-1", "epochs of source 'code' is -1"),
        ("model.encoder.name=vit_tiny_patch16_225", "vit_tiny_patch16_224"),
        ("tokenizer.path=nowhere.json", "nowhere.json does not exist"),
        ("model.decoder.vocab_size=100", "it must hold 260"),
        *([] if torch.cuda.is_available() else [("run.accelerator=gpu", "CUDA devices")]),
    ]:
        with pytest.raises(ValueError) as caught:
            train(tmp_path / "run", mistake)
        assert says in str(caught.value), mistake
        assert not (tmp_path / "run").exists(), mistake


def test_the_directory_holds_the_whole_configuration(finished: Path) -> None:
    written = read_config(finished / "config.yaml")
    assert written == config(finished)


def test_one_process_at_a_time(tmp_path: Path) -> None:
    first, second = (RunDirectory(tmp_path / "run", config(tmp_path / "run")) for _ in range(2))
    first.begin(Tokenizer(models.BPE()))
    with pytest.raises(ValueError, match="is being trained by another process"):
        second.begin(Tokenizer(models.BPE()))
    first.release()
    second.begin(Tokenizer(models.BPE()))


def test_a_closed_stage_with_another_budget_is_said(finished: Path) -> None:
    same, raised = (RunDirectory(finished, config(finished, *more)) for more in ([], ["stages.text.tokens=9e12"]))
    assert same.changed_budgets(2) == []
    (line,) = raised.changed_budgets(2)
    assert line.startswith("text stays at its")
