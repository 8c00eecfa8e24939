"""The grouped kernel of a GPU against the product of each expert: forward, gradients, and that nothing waits for the device."""

import itertools

import pytest
import torch
from moe_fakes import OPTIONS, moe

from vlm import moe as module_under_test
from vlm.moe import MoE, grouped_matmul

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

GROUPS = {
    "even": [64, 64, 64, 64],
    "uneven": [1, 130, 7, 118],
    "empty first and last": [0, 200, 56, 0],
    "empty in the middle": [3, 0, 0, 253],
    "all in one": [0, 0, 256, 0],
    "few rows": [1, 0, 2, 0],
}
WIDE = {"dim": 64, "expert_dim": 48, "num_heads": 4, "num_kv_heads": 2}
ROUTED = {name: options for name, options in OPTIONS.items() if not name.startswith("dense")}


@pytest.fixture
def plain(monkeypatch):
    """Call it to turn the grouped kernel off."""
    return lambda: monkeypatch.setattr(module_under_test, "_ROW", 1 << 40)


def error(ours: torch.Tensor, expected: torch.Tensor) -> float:
    return float((ours.double() - expected.double()).norm() / expected.double().norm().clamp(min=1e-12))


def product(x, weight, sizes, direction):
    """The product and its two gradients."""
    x, weight = (t.detach().clone().requires_grad_() for t in (x, weight))
    y = grouped_matmul(x, weight, torch.tensor(list(itertools.accumulate(sizes)), device=x.device))
    return y, *torch.autograd.grad((y * direction.to(y.dtype)).sum(), (x, weight))


@pytest.mark.parametrize("sizes", GROUPS.values(), ids=GROUPS)
@pytest.mark.parametrize("shape", [(64, 96), (8, 8), (128, 40), (12, 10)])  # the last has rows the kernel does not take
def test_the_grouped_product_is_that_of_each_expert(sizes, shape, plain):
    torch.manual_seed(0)
    x = torch.randn(sum(sizes), shape[0], device="cuda", dtype=torch.bfloat16)
    weight = torch.randn(len(sizes), *shape, device="cuda", dtype=torch.bfloat16)
    direction = torch.randn(sum(sizes), shape[1], device="cuda", dtype=torch.bfloat16)
    ours = product(x, weight, sizes, direction)
    plain()
    for other in (product(x, weight, sizes, direction), product(x.double(), weight.double(), sizes, direction)):
        for a, b in zip(ours, other, strict=True):
            assert a.shape == b.shape and error(a, b) < 0.004  # one rounding to bf16 is 0.002
    empty = [e for e, size in enumerate(sizes) if not size]
    assert not ours[2][empty].any()


def block(x: torch.Tensor, module: MoE, autocast: bool) -> dict[str, torch.Tensor]:
    """Output, sums and every gradient."""
    x = x.detach().clone().requires_grad_()
    module.zero_grad()
    real = torch.arange(x.shape[1], device=x.device).expand(x.shape[:2]) < x.shape[1] - 3
    with torch.autocast("cuda", torch.bfloat16, enabled=autocast):
        y, stats = module(x, real, real)
    (y.float().square().sum() + stats.probability.square().sum() + stats.z.sum()).backward()
    gradients = {name: p.grad.clone() for name, p in module.named_parameters()}
    return {"y": y, "counts": stats.counts, "probability": stats.probability, "z": stats.z, "x": x.grad, **gradients}


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("options", ROUTED.values(), ids=ROUTED)
def test_the_block_is_the_same_with_either_product(options, autocast, plain):
    """bf16 throughout, or float32 weights under autocast; then against float32, where rounding is all that differs."""
    torch.manual_seed(0)
    module = moe(**{**WIDE, **options}).cuda()
    for parameter in module.parameters():  # the same numbers in bf16 and in float32
        parameter.data = parameter.data.div(4).bfloat16().to(torch.float32 if autocast else torch.bfloat16)
    x = torch.randn(2, 150, 64, device="cuda").bfloat16().to(module.experts.down.dtype)
    ours = block(x, module, autocast)
    plain()
    same, exact = block(x, module, autocast), block(x.float(), module.float(), False)
    for name in ours:
        assert ours[name].dtype == same[name].dtype
        assert error(ours[name], same[name]) < 0.006, name
        assert error(ours[name], exact[name]) < 0.02, name
    assert torch.equal(ours["counts"], exact["counts"])


@pytest.mark.skipif(
    torch.cuda.is_available() and torch.cuda.get_device_capability() < (9, 0), reason="no kernel: a loop inside"
)
@pytest.mark.parametrize("options", ROUTED.values(), ids=ROUTED)
def test_nothing_waits_for_the_device(options):
    module = moe(**{**WIDE, **options}).cuda().bfloat16()
    x = torch.randn(2, 150, 64, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    real = torch.ones(2, 150, dtype=torch.bool, device="cuda")
    module(x, real, real)[0].sum().backward()  # what is set up once
    torch.cuda.set_sync_debug_mode("error")
    try:
        module(x, real, real)[0].sum().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("options", ROUTED.values(), ids=ROUTED)
def test_the_gpu_in_float64_is_the_cpu(options):
    torch.manual_seed(0)
    module = moe(**{**WIDE, **options}).double()
    x = torch.randn(2, 50, 64, dtype=torch.float64)
    on_cpu = block(x, module, False)
    on_gpu = block(x.cuda(), module.cuda(), False)
    for name, value in on_cpu.items():
        torch.testing.assert_close(on_gpu[name].cpu(), value, atol=1e-9, rtol=1e-9, msg=lambda m, name=name: f"{name}: {m}")
