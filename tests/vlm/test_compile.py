"""Compiled blocks against plain ones: losses, gradients, generation; and one compilation for ragged batches."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from vlm_fakes import CONFIG, DOCUMENTS, build, byte_tokenizer, change

from vlm.compile import compile_blocks
from vlm.load import build_processor
from vlm.model import VLM

CONFIGS = {
    "plain": CONFIG,
    "all media": change(fusion={"sees": "all", "norm": "rms", "ffn": "gated", "query_key_norm": True}),
    "experts": change(decoder={"num_experts": 6, "top_k": 5, "ffn_bias": True, "shared_dim": 16, "dense_layers": (1,)}),
    "attention": change(decoder={"query_key_norm": "head", "shifted_kv_heads": 1, "sliding_window": 7, "attention_bias": True}),
}


@pytest.fixture(autouse=True)
def _anew():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def batches(model: VLM):
    """Packed rows and padded ones; clips and pictures, several media, one, none."""
    processor = build_processor(model.config, byte_tokenizer())
    documents = [processor.encode(sample) for sample in DOCUMENTS]
    packed, alone = [documents[:4], documents[4:]], [[d] for d in documents[1:3]]
    for rows in (
        packed,
        packed[::-1],
        alone,
        [[documents[1]], [documents[2]]],
        [[documents[0]], [documents[0]]],
        [documents[3:], documents[:3]],
    ):
        yield processor.collate(rows, length=96)


def loss_and_gradients(model: VLM, batch):
    model.zero_grad()
    loss = model(batch).loss
    loss.backward()
    return loss.detach(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_losses_and_gradients_are_the_plain_ones(config):
    torch.manual_seed(0)
    plain = build(config)
    compiled = copy.deepcopy(plain)
    compile_blocks(compiled, backend="aot_eager")
    assert list(compiled.state_dict()) == list(plain.state_dict())
    for batch in batches(plain):
        (ours, gradients), (theirs, expected) = loss_and_gradients(compiled, batch), loss_and_gradients(plain, batch)
        torch.testing.assert_close(ours, theirs)
        assert gradients.keys() == expected.keys()
        for name, gradient in gradients.items():
            torch.testing.assert_close(gradient, expected[name], msg=lambda text, name=name: f"{name}: {text}")


def test_ragged_batches_are_compiled_twice_at_most():
    torch.manual_seed(0)
    model = build()
    compile_blocks(model, backend="aot_eager")
    processor = build_processor(model.config, byte_tokenizer())
    documents = [processor.encode(sample) for sample in DOCUMENTS]
    rows = [[[1, 2], [3, 0]], [[1, 0], [2, 0]], [[3, 4], [1, 2]], [[3, 4], [3, 2]], [[0, 4], [6, 0]]]
    ragged = [processor.collate([[documents[i] for i in row] for row in two], length=96) for two in rows]
    assert len({batch.num_media for batch in ragged}) == 5
    for batch in ragged[:2]:
        loss_and_gradients(model, batch)
    with torch.compiler.set_stance("fail_on_recompile"):
        for batch in ragged[2:]:
            loss_and_gradients(model, batch)


def test_a_copy_of_a_compiled_model_is_plain_and_knows_it():
    model = build()
    compile_blocks(model, backend="eager")
    assert all(layer._compiled_call_impl is not None for layer in model.decoder.layers)
    assert all(layer._compiled_call_impl is None for layer in copy.deepcopy(model).decoder.layers)


def test_compiled_blocks_write_what_plain_ones_write():
    torch.manual_seed(0)
    plain = build()
    compiled = copy.deepcopy(plain)
    compile_blocks(compiled, backend="eager")
    processor = build_processor(plain.config, byte_tokenizer())
    prompts = processor(DOCUMENTS[1:4])
    ours, theirs = (model.generate(prompts, max_new_tokens=5, stop_ids=()) for model in (compiled, plain))
    assert ours.tokens == theirs.tokens


def test_no_compiler_is_said_before_the_first_batch():
    from torch._inductor import config

    nowhere = config.patch({"cpp.cxx": ("no-such-compiler",)})
    with nowhere, pytest.raises(ValueError, match=r"C\+\+ compiler.*run\.compile: false"):
        compile_blocks(build())


WORKERS = """
import os, signal, time
from torch._inductor.async_compile import AsyncCompile
from vlm.compile import start_workers

if __name__ == "__main__":
    start_workers()
    signal.signal(signal.SIGTERM, lambda *_: print("stopping", flush=True))
    kernel = AsyncCompile.process_pool().submit(time.sleep, 1)
    time.sleep(0.5)
    os.killpg(os.getpgrp(), signal.SIGTERM)
    print(kernel.result(timeout=90), flush=True)
    os._exit(0)
"""


def test_a_signal_to_the_whole_group_leaves_the_compilers_workers(tmp_path):
    (script := tmp_path / "run.py").write_text(WORKERS)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "TORCHINDUCTOR_COMPILE_THREADS": "2"}
    run = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, env=environment, start_new_session=True, timeout=120
    )
    assert run.stdout.split() == ["stopping", "None"], run.stderr
