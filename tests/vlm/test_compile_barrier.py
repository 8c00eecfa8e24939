"""The barrier that earlier torch leaves out: in the kernels that it writes, and in gradients on a GPU."""

from __future__ import annotations

import copy
import inspect
from unittest import mock

import pytest
import torch
import torch._inductor.config
from torch._inductor.codecache import compiled_fx_graph_hash
from torch._inductor.codegen.triton import TritonKernel
from torch._inductor.graph import GraphLowering

from vlm.compile import compile_blocks
from vlm.compile_barrier import add_barriers
from vlm.config import DecoderConfig
from vlm.decoder import TextDecoder

LACKS = pytest.mark.skipif("barrier" in inspect.getsource(TritonKernel.load), reason="this torch has the barrier")


class WrittenError(Exception):
    """The kernels, before anything runs them."""


def kernels(function, *arguments) -> str:
    """What is written for a GPU, here without one."""
    code = []

    def write(graph):
        code.append(graph.codegen()[0].value)
        raise WrittenError

    options = {"cpu_backend": "triton", "triton.persistent_reductions": False, "force_disable_caches": True}
    with (
        mock.patch("torch.utils._triton.triton_hash_with_backend", lambda: ""),
        mock.patch.object(GraphLowering, "compile_to_module", write),
        torch._inductor.config.patch(options),
        pytest.raises(Exception, match="WrittenError"),
    ):
        torch.compile(function)(*arguments)
    return code[0]


def centred(x, weight):
    """What is reduced is also given, so that it is written, and then read again."""
    y = x.sin()
    return y, (y - y.mean(dim=-1, keepdim=True)) * weight


@LACKS
def test_a_kernel_waits_before_it_reads_what_it_wrote():
    add_barriers()
    loop = kernels(centred, torch.randn(64, 4096), torch.randn(4096)).rsplit("for r0_offset", 1)[1]
    lines = [line.split("tl.load")[0].strip() for line in loop.splitlines()]
    loads = [line for line in loop.splitlines() if "tl.load" in line]
    assert "out_ptr" in loads[0] and lines.count("tl.debug_barrier()") == 1
    assert lines.index("tl.debug_barrier()") < loop.splitlines().index(loads[0])


@LACKS
def test_what_is_cached_without_is_not_taken():
    def key() -> str:
        return compiled_fx_graph_hash(torch.fx.symbolic_trace(torch.nn.Identity()), [torch.ones(2)], {}, [])[0]

    add_barriers()
    with torch.compiler.config.patch(cache_key_tag=""):
        without = key()
    assert key() != without


@LACKS
def test_it_is_added_once():
    add_barriers()
    load, tag = TritonKernel.load, torch.compiler.config.cache_key_tag
    add_barriers()
    assert (TritonKernel.load, torch.compiler.config.cache_key_tag) == (load, tag)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="wants a GPU")
def test_gradients_on_a_gpu_do_not_depend_on_what_memory_held():
    torch.manual_seed(0)
    config = DecoderConfig(
        vocab_size=4096, dim=256, num_layers=2, num_heads=8, num_kv_heads=2, num_experts=8, top_k=2, expert_dim=256
    )  # fmt: skip
    plain = TextDecoder(config).to("cuda", torch.bfloat16)
    for parameter in plain.parameters():
        if not parameter.any():  # else the layers give nothing yet
            torch.nn.init.normal_(parameter, std=0.03)
    compiled = copy.deepcopy(plain)
    compile_blocks(compiled)
    for _ in range(10):
        tokens, slope = torch.randint(4096, (2, 256), device="cuda"), torch.randn(2, 256, 256, device="cuda")
        for size in (1 << 17, 1 << 22):  # what kernels then find in memory they are given, of the small pool and the large one
            _ = [torch.full((size,), 300.0, device="cuda") for _ in range(100)]
            del _
        found = []
        for model in (compiled, plain):
            model.zero_grad()
            (model.hidden(tokens).states * slope).sum().backward()
            found.append(model.embedding.weight.grad.float())
        assert (found[0] - found[1]).norm() < 0.5 * found[1].norm()
