"""What is kept for the backward pass: with checkpointed activations, and where parts are frozen."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters
from train_runs import config, same_results, train

from train.config import Config
from train.data import StageData
from train.optim.groups import freeze
from train.parallel import checkpoint_activations
from train.run_dir import RunDirectory
from train.start import first_model, first_processor
from vlm.batch import Batch
from vlm.compile import compile_blocks
from vlm.losses import nll_sum
from vlm.model import GROUPS, VLM

LIBRARIES = {
    "timm": [],
    "open_clip": [
        "model.encoder={library: open_clip, name: ViT-B-32, image_size: 32, patch_size: 8, width: 32, depth: 2, num_heads: 2}"
    ],
}
VISION = ("encoder", "resampler", "fusion")


def made(tmp_path: Path, *more: str) -> tuple[Config, VLM, Batch]:
    """A tiny model with every weight random and every gate open, and a batch with pictures."""
    settings = config(tmp_path / "run", *more)
    processor = first_processor(settings, RunDirectory(tmp_path / "run", settings), None)
    batch = StageData(settings, settings.stages[1], processor).validation_batches(1)[0]
    assert batch.num_media
    model = first_model(settings, None)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return settings, model, batch


def kept(model: VLM, function: Callable[[], Tensor]) -> tuple[Tensor, int]:
    """What a forward pass gives, and the bytes of activations it keeps; weights are there anyway."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    storages = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            storages[storage.data_ptr()] = (storage.nbytes(), tensor)  # the tensor too, so that its place is not used again
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = function()
    return out, sum(size for size, _ in storages.values())


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize(
    "train_groups", [("encoder", "resampler", "fusion", "decoder"), ("encoder", "resampler", "fusion")], ids=len
)
def test_checkpointing_changes_nothing_but_the_memory(library: str, train_groups: tuple[str, ...], tmp_path: Path) -> None:
    _, plain, batch = made(tmp_path, *LIBRARIES[library], "model.decoder.num_layers=6", "model.resampler.depth=3")
    freeze(plain, dict.fromkeys(train_groups, 1.0))
    blocks = copy.deepcopy(plain)
    checkpoint_activations(blocks)
    assert list(plain.state_dict()) == list(blocks.state_dict())
    assert [n for n, _ in plain.named_parameters()] == [n for n, _ in blocks.named_parameters()]
    runs = [kept(model, lambda model=model: model(batch, with_logits=False)) for model in (plain, blocks)]
    outputs, bytes_kept = zip(*runs, strict=True)
    assert bytes_kept[1] < 0.5 * bytes_kept[0], bytes_kept
    assert torch.equal(outputs[0].loss, outputs[1].loss)
    for name in ("counts", "probability", "z", "tokens"):
        assert torch.equal(getattr(outputs[0].router, name), getattr(outputs[1].router, name)), name
    for output in outputs:
        output.loss.backward()
    for (name, a), b in zip(plain.named_parameters(), blocks.parameters(), strict=True):
        assert (a.grad is None) == (b.grad is None) and (a.grad is None or torch.equal(a.grad, b.grad)), name
    with torch.no_grad():
        assert torch.equal(plain(batch).logits, blocks(batch).logits)
        assert plain.generate(batch, max_new_tokens=3).tokens == blocks.generate(batch, max_new_tokens=3).tokens


def test_a_run_with_checkpointed_activations_ends_the_same(tmp_path: Path) -> None:
    small = "budget_scale=0.15e-6"
    assert same_results(train(tmp_path / "a", small), train(tmp_path / "b", small, "run.checkpoint_activations=blocks"))


class KeptIn:
    """Counts what is kept for the backward pass while each of some modules runs."""

    def __init__(self, modules: dict[str, nn.Module]) -> None:
        self.counts = dict.fromkeys(modules, 0)
        self.running: list[str] = []
        for name, module in modules.items():
            module.register_forward_pre_hook(lambda *_, name=name: self.running.append(name))
            module.register_forward_hook(lambda *_: self.running.pop() and None)

    def pack(self, tensor: Tensor) -> Tensor:
        for name in self.running:
            self.counts[name] += 1
        return tensor


def test_in_align_nothing_of_the_layers_before_the_first_gated_block_is_kept(tmp_path: Path) -> None:
    _, model, batch = made(tmp_path, "model.decoder.num_layers=3", "model.fusion.layers=[1]")
    freeze(model, {"encoder": 1.0, "resampler": 1.0, "fusion": 1.0})
    watch = KeptIn({"embedding": model.decoder.embedding, "0": model.decoder.layers[0], "1": model.decoder.layers[1]})
    with torch.autograd.graph.saved_tensors_hooks(watch.pack, lambda tensor: tensor):
        loss = model(batch, with_logits=False).loss
    assert watch.counts["embedding"] == watch.counts["0"] == 0 < watch.counts["1"]
    loss.backward()
    assert all(p.grad is None for p in model.decoder.parameters())
    assert all(p.grad is not None for part in VISION for p in model.group(part).parameters())


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_frozen_encoder_keeps_nothing(library: str, tmp_path: Path) -> None:
    _, model, batch = made(tmp_path, *LIBRARIES[library])
    freeze(model, {"fusion": 1.0})
    watch = KeptIn({"encoder": model.encoder, "resampler": model.resampler, "fusion": model.fusion["0"]})
    with torch.autograd.graph.saved_tensors_hooks(watch.pack, lambda tensor: tensor):
        loss = model(batch, with_logits=False).loss
    assert watch.counts["encoder"] == watch.counts["resampler"] == 0 < watch.counts["fusion"]
    loss.backward()
    assert all((p.grad is not None) == (part == "fusion") for part in GROUPS for p in model.group(part).parameters())


def test_frozen_decoder_the_loss_keeps_no_gradient_of_the_head(tmp_path: Path) -> None:
    _, model, batch = made(tmp_path, "model.decoder.tie_embeddings=false")
    freeze(model, {"fusion": 1.0})
    sizes = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
        states = model.hidden(batch).states.detach().requires_grad_()
        sizes.clear()
        nll_sum(states, batch.labels, model.decoder.head_weight).backward()
    assert max(sizes) <= states.numel() and model.decoder.head_weight.grad is None


def test_checkpointed_blocks_are_compiled_whole(tmp_path: Path) -> None:
    _, model, batch = made(tmp_path, "model.decoder.num_experts=1", "model.decoder.top_k=1")
    plain = copy.deepcopy(model)
    checkpoint_activations(model)
    torch._dynamo.reset()
    before = counters["stats"]["unique_graphs"]
    compile_blocks(model, backend="aot_eager")
    model(batch, with_logits=False).loss.backward()
    assert counters["stats"]["unique_graphs"] - before >= 4  # decoder, fusion, resampler, encoder
    plain(batch, with_logits=False).loss.backward()
    for (name, ours), theirs in zip(model.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, msg=lambda text, name=name: f"{name}: {text}")
    torch._dynamo.reset()
