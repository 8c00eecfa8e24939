"""`python compile_kernels.py ARCH`: every Triton kernel of the project compiled for a GPU of that compute capability (90 is an
H100), without one. The interpreter that the other tests use takes what the compiler refuses. Prints the largest shared memory.
"""

from __future__ import annotations

import os
import sys
from typing import Any

os.environ["TRITON_INTERPRET"] = "0"

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

from train.optim.adamw_kernel import adamw_
from train.optim.muon_kernel import ahead_, apply_
from train.optim.symmetric_kernel import symmetric_product
from vlm import TextDecoder
from vlm.cache import Cache
from vlm.config import DecoderConfig, FusionConfig
from vlm.decode import DecodeStep, rotary_rows
from vlm.fusion import GatedCrossAttention
from vlm.kernels import launch
from vlm.kernels.cross_entropy import cross_entropy_
from vlm.kernels.gated import gated_gradient
from vlm.kernels.rows import sum_rows, take_rows
from vlm.sight import Rows, Sight

TYPES = {
    torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32",
    torch.int32: "i32", torch.int64: "i64", torch.bool: "i1", torch.uint8: "u8",
}  # fmt: skip
OPTIONS = ("num_warps", "num_stages", "launch_pdl")
BASE = {"vocab_size": 96, "dim": 64, "num_layers": 1, "num_heads": 4, "num_kv_heads": 2, "expert_dim": 48}
DECODERS = [
    {"num_experts": 4, "top_k": 2, "ffn_bias": True, "attention_bias": True, "query_key_norm": "head"},
    {"num_experts": 1, "top_k": 1, "query_key_norm": "width", "clip_qkv": 1.0, "sliding_window": 9, "activation": "gelu_tanh"},
    {"num_experts": 4, "top_k": 3, "router": "sigmoid", "balance_bias_rate": 0.1, "shared_dim": 24, "shifted_kv_heads": 1},
    {"num_experts": 4, "top_k": 2, "dim": 4096, "expert_dim": 4096, "num_heads": 32, "num_kv_heads": 8},
]
shared = 0


def kind(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return "*" + TYPES[value.dtype]
    if isinstance(value, float):
        return "fp32"
    return "i1" if isinstance(value, bool) else "i32" if abs(value) < 2**31 else "i64"


def compile_instead(self: JITFunction, *arguments: Any, grid: Any, warmup: bool = False, **constants: Any) -> None:
    """In the place of a launch. Arguments that 16 divides are said to be so, as a launch does."""
    global shared
    options = {name: constants.pop(name) for name in OPTIONS if name in constants}
    values = dict(zip(self.arg_names, arguments, strict=False)) | constants
    fixed = {p.name for p in self.params if p.is_constexpr} | {name for name, value in values.items() if value is None}
    signature = {name: "constexpr" if name in fixed else kind(values[name]) for name in self.arg_names}
    aligned = [n for n, t in signature.items() if t[0] == "*" or (t in ("i32", "i64") and values[n] % 16 == 0)]
    attributes = {(self.arg_names.index(name),): [["tt.divisibility", 16]] for name in aligned}
    source = ASTSource(self, signature, {name: values[name] for name in fixed}, attributes)
    shared = max(shared, triton.compile(source, target=TARGET, options=options).metadata.shared)


def step(config: DecoderConfig, rows: int, dtype: torch.dtype) -> None:
    decoder = TextDecoder(config).to(dtype)
    cache = Cache.empty(config, rows, 512, torch.device("cpu"), dtype)
    fusion = FusionConfig(every=1, num_heads=2, head_dim=16, ffn_dim=40, query_key_norm=True)
    decoder.fusion = torch.nn.ModuleDict({"0": GatedCrossAttention(fusion, config.dim, 24).to(dtype)})
    media = torch.zeros(rows, 2, dtype=torch.int64)
    cache.media = {"0": (torch.zeros(1, 5, 2, 16, dtype=dtype), torch.zeros(1, 5, 2, 16, dtype=dtype))}
    cache.sight = Sight(torch.ones(rows, dtype=torch.bool), media[:, :1], Rows(media, media == 0))
    tokens, found = torch.zeros(rows, dtype=torch.int64), torch.zeros(rows, 2)
    logits = DecodeStep(decoder, cache, rotary_rows(512, config, torch.device("cpu")))(tokens, tokens)
    launch.pick(logits, tokens, found)


def training(dtype: torch.dtype) -> None:
    x, order = torch.zeros(8, 64, dtype=dtype), torch.arange(8)
    take_rows(x, order, 4)
    sum_rows(x, order, 4)
    cross_entropy_(x, order)
    for activation in ("silu", "gelu", "gelu_tanh", "relu"):
        gated_gradient(x, torch.zeros(8), x[:, :32], activation, activation != "relu")
    never = torch.zeros((), dtype=torch.bool)
    adamw_(x, x, x, x, torch.ones(()), never, 1e-3, (0.9, 0.95), 1e-8, 0.1)
    apply_(x, ahead_(x, x, 0.95, never), 1.0, -0.1, never)
    if dtype == torch.bfloat16:
        symmetric_product(torch.zeros(2, 40, 72, dtype=dtype))
        symmetric_product(torch.zeros(2, 40, 40, dtype=dtype), 2.0, -1.0, 3.0)


if __name__ == "__main__":
    TARGET = GPUTarget("cuda", int(sys.argv[1]), 32)
    JITFunction.run = compile_instead
    launch._early = lambda x: {"EARLY": True, "launch_pdl": True} if TARGET.arch >= 90 else {"EARLY": False}
    with torch.no_grad():
        for dtype in (torch.bfloat16, torch.float32):
            training(dtype)
        for options in DECODERS:
            for rows in (1, 32):
                step(DecoderConfig(**(BASE | options)), rows, torch.bfloat16)
    print(shared)
