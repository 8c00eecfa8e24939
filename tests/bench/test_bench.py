"""Each benchmark runs at its tiniest shape and says what it must; arithmetic, routing and peers are what they claim."""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tests.bench import (
    arithmetic,
    default_config,
    feed,
    first_token,
    generation,
    image_text_train,
    losses,
    measure,
    moe_train,
    plain,
    scaling,
    training,
    width_transfer,
)
from tests.bench.batches import image_batch
from tests.bench.real import batches
from tests.bench.shapes import IDEFICS, MOE
from train.config import read_config
from train.optim.groups import freeze
from vlm import VLM
from vlm.moe import Router

ROOT = Path(__file__).resolve().parents[2]
TINY = ["--device", "cpu", "--shape", "tiny", "--windows", "1"]
KEYS = {"bench", "unit", "figure", "limits", "hardware", "versions", "commit", "config"}
CONFIG = ["--config", str(ROOT / "configs/tiny.yaml")]
transformers = pytest.mark.skipif(find_spec("transformers") is None, reason="pip install transformers")


def check(line: dict, peers: tuple[str, ...] = ()) -> None:
    assert line.keys() >= KEYS
    assert line["figure"] > 0 and min(line["limits"].values()) > 0
    assert set(line.get("ratio", {})) == set(peers), line.get("peers")


@transformers
@pytest.mark.parametrize("options", [[], ["--experts", "8", "--expert-dim", "16", "--top-k", "4", "--balanced"]])
def test_moe_train(options: list[str]) -> None:
    line = moe_train.main([*TINY, "--peer", "mixtral", *options])
    check(line, ("mixtral",))
    assert line["loss"][1] < line["loss"][0] and line["peers"]["mixtral"]["loss"][1] < line["peers"]["mixtral"]["loss"][0]


@transformers
def test_image_text_train() -> None:
    check(image_text_train.main([*TINY, "--peer", "idefics"]), ("idefics",))
    check(image_text_train.main([*TINY, "--unfrozen", "--experts", "4"]))


@transformers
def test_generation() -> None:
    for line in generation.main([*TINY, "--batch", "1", "3", "--peer", "idefics"]):
        check(line, ("idefics",))
    (line,) = generation.main([*TINY, "--model", "moe", "--batch", "2", "--peer", "mixtral", "mixtral_static"])
    check(line, ("mixtral", "mixtral_static"))


def test_generation_raises_our_errors_and_reports_a_peers(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(generation, "peer_model", fail)
    (line,) = generation.main([*TINY, "--batch", "1", "--peer", "idefics"])
    assert line["peers"] == {"idefics": {"error": "RuntimeError: broken"}}
    monkeypatch.setattr(generation, "our_model", fail)
    with pytest.raises(RuntimeError, match="broken"):
        generation.main([*TINY, "--batch", "1"])


@transformers
def test_first_token() -> None:
    check(first_token.main([*TINY, "--peer"]), ("idefics",))


def test_default_config_writes_what_recomputing_writes() -> None:
    training_line, writing_line = default_config.main([*TINY, *CONFIG])
    check(training_line, ("plain",))
    check(writing_line, ("recomputing",))
    assert writing_line["same_tokens"]


def test_scaling(tmp_path: Path) -> None:
    line = scaling.main([*TINY, "--out", str(tmp_path)])
    check(line)
    assert [path.name for path in tmp_path.iterdir()] == ["scaling.png"] and set(line["curves"]) == set(scaling.CURVES)


def test_width_transfer(tmp_path: Path) -> None:
    shape = [
        "--widths",
        "32",
        "64",
        "--rates",
        "1e-3",
        "4e-3",
        "--steps",
        "2",
        "--batches",
        "2",
        "--rows",
        "2",
        "--length",
        "48",
    ]
    line = width_transfer.main([*TINY, *CONFIG, *shape, "--kind", "muon", "--out", str(tmp_path / "runs.jsonl")])
    written = [json.loads(row) for row in (tmp_path / "runs.jsonl").read_text().splitlines()]
    assert [(row["width"], row["rate"]) for row in written] == [(32, 1e-3), (32, 4e-3), (64, 1e-3), (64, 4e-3)]
    assert line["figure"] >= 1 and line["edge"] and line["config"]["base_width"] == 32


def test_a_best_rate_is_the_parabolas() -> None:
    losses = {rate: (math.log(rate) - math.log(3e-3)) ** 2 for rate in width_transfer.RATES}
    assert width_transfer.best_rate(losses) == (pytest.approx(3e-3), False)
    assert width_transfer.best_rate({1e-3: 2.0, 2e-3: 1.0}) == (2e-3, True)
    assert width_transfer.best_rate({1e-3: 2.0, 2e-3: 1.0, 4e-3: math.inf}) == (2e-3, False)


def test_losses_of_both_paths_are_the_same() -> None:
    line = losses.main(["--device", "cpu", "--shape", "tiny", "--steps", "4", "--orders", "1", *CONFIG])
    assert line["figure"] < 1e-4 and line["noise"] < 1e-4
    assert line["loss"][0] != line["loss"][1]


@pytest.mark.parametrize("workers", [0, 1])
def test_feed_measures_each_stage_of_the_way(workers: int) -> None:
    config = [CONFIG[1], "--set", "run.seed=3", "--stage", "tune"]
    line = feed.main([*config, "--workers", str(workers), "--steps", "2"])
    assert line["loader"]["workers"] == workers and line["loader"]["images_per_second"] > 0
    assert (line["loader"]["handover_ms"] > 0) == (workers > 0)
    assert {"all", "charts"} <= line["ms"].keys()
    for cost in line["ms"].values():
        whole = cost.pop("whole")
        assert list(cost) == ["fetch", "tokenize", "pixels", "collate", "pack"] and min(cost.values()) >= 0
        assert sum(cost.values()) == pytest.approx(whole, rel=0.01)


def test_feed_refuses_a_stage_that_is_not_there() -> None:
    with pytest.raises(ValueError, match="no stage 'tun'; there are"):
        feed.main([CONFIG[1], "--stage", "tun"])


def test_one_json_line_from_the_command() -> None:
    command = [sys.executable, "-m", "tests.bench.moe_train", *TINY]
    out = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert json.loads(out)["bench"] == "moe_train"


def test_a_peer_that_fails_is_reported_and_ours_stands() -> None:
    def missing() -> measure.Figures:
        raise ImportError("no such peer")

    peers = measure.beside({"a": missing, "b": lambda: {"figure": 50.0}}, "cpu")
    assert peers["a"] == {"error": "ImportError: no such peer"}
    against = measure.against({"figure": 100.0}, peers, cost=2.0, limit=400.0)
    assert against == {"ratio": {"b": 2.0}, "share": 0.5, "peer_share": {"b": 0.25}}


def test_a_rate_is_the_median_over_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 2.0, 2.0, 5.0, 5.0, 15.0])
    monkeypatch.setattr(measure.time, "perf_counter", lambda: next(clock))
    calls = []
    found = measure.timing(lambda: calls.append(1), "cpu", windows=3, calls=2, warm=1)
    assert (found.seconds, len(calls)) == (1.5, 7)


def gradients(model: VLM, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_plain_network_has_the_same_loss_and_gradients() -> None:
    torch.manual_seed(0)
    config = read_config(ROOT / "configs/tiny.yaml")
    model = VLM(config.model).double()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1 and not parameter.any():
                parameter.normal_(std=0.1)
    (batch,) = batches(config, "tune", 1, "cpu")
    assert batch.num_media and batch.extent.packed
    ours = gradients(model, model(batch, with_logits=False).loss)
    theirs = gradients(model, plain.loss(model, batch))
    assert ours.keys() == theirs.keys()
    for name, grad in theirs.items():
        torch.testing.assert_close(grad, ours[name], rtol=1e-3, atol=1e-6, msg=name)


def test_rows_in_another_order_are_the_same_batch() -> None:
    batch = image_batch(50, 3, 8, 2, 28, "cpu")
    other = losses.rows_in_order(batch, torch.tensor([2, 0, 1]))
    assert torch.equal(other.tokens[0], batch.tokens[2]) and other.media_document[4:, 0].tolist() == [0, 0]
    model = VLM(IDEFICS["tiny"].model)
    with torch.no_grad():
        for block in model.fusion.values():
            block.attention_gate.fill_(1.0)
        torch.testing.assert_close(model(other).logits, model(batch).logits[[2, 0, 1]])


@pytest.mark.parametrize("balanced", [False, True])
def test_forced_routing_is_even(balanced: bool) -> None:
    options = argparse.Namespace(device="cpu", compile=False)
    config = MOE["tiny"].decoder
    decoder = training.our_decoder(config, options, balanced=balanced)
    chosen = []
    next(m for m in decoder.modules() if isinstance(m, Router)).register_forward_hook(lambda *a: chosen.append(a[2][1]))
    decoder(torch.randint(config.vocab_size, (2, 16)))
    load = chosen[0].flatten().bincount(minlength=config.num_experts)
    assert (load.unique().numel() == 1) == balanced


@transformers
def test_idefics_is_the_same_network(tmp_path: Path) -> None:
    """With our weights the peer has our loss."""
    from transformers import IdeficsForVisionText2Text

    from tests.bench.peers import idefics
    from vlm.interop import export

    shape = IDEFICS["tiny"]
    model = VLM(shape.model).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():
                parameter.normal_(std=0.1)
        model.resampler.time.zero_()
    export(model, tmp_path)
    built = idefics.idefics(shape, "cpu", torch.float32)
    peer = IdeficsForVisionText2Text.from_pretrained(tmp_path)
    assert {n: p.shape for n, p in built.named_parameters()} == {n: p.shape for n, p in peer.named_parameters()}
    batch = image_batch(shape.model.decoder.vocab_size, 2, 16, 2, 28, "cpu")
    inputs = idefics.inputs(batch, torch.float32)
    inputs["pixel_values"] = model.encoder.normalise(batch.images).unflatten(0, (2, 2))
    with torch.no_grad():
        torch.testing.assert_close(peer(**inputs).logits, model(batch).logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("train", [("encoder", "resampler", "fusion", "decoder"), ("resampler", "fusion"), ()])
def test_arithmetic_is_what_is_counted(train: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """By PyTorch's own counter, attention left out, of which kernels do more than causality needs."""
    monkeypatch.setattr(arithmetic, "_attention", lambda factor: 0)
    shape = IDEFICS["tiny"]
    model = VLM(shape.model)
    freeze(model, dict.fromkeys(train, 1.0))
    batch = image_batch(shape.model.decoder.vocab_size, 2, 16, 2, shape.model.encoder.image_size, "cpu")
    with FlopCounterMode(display=False) as counter:
        loss = model(batch, with_logits=False).loss
        if train:
            loss.backward()
    counted = sum(n for operation, n in counter.get_flop_counts()["Global"].items() if "attention" not in str(operation))
    assert counted / batch.tokens.numel() == arithmetic.image_text_flops(shape.model, 16, 2, train)


def test_arithmetic_of_the_anchors() -> None:
    """As published beside them: 0.494 B active, 3.2 GB read a token, 7.8 GFLOP a token."""
    moe, idefics = MOE["anchor"].decoder, IDEFICS["anchor"]
    assert arithmetic.active_weights(moe) == pytest.approx(0.494e9, rel=0.002)
    assert arithmetic.decode_bytes(idefics.model, 1, 256, 2) == pytest.approx(3.2e9, rel=0.02)
    assert arithmetic.image_text_flops(idefics.model, 1024, 4, ("resampler", "fusion")) == pytest.approx(7.8e9, rel=0.03)
