"""Every module's gradients, with every option, against finite differences in float64: by all inputs and all weights."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from moe_fakes import OPTIONS, SHAPE
from torch import Tensor, nn
from torch.func import functional_call
from vlm_fakes import CONFIG, change

from vlm import Batch, DecoderConfig, FusionConfig, ResamplerConfig, TextDecoder
from vlm.attention import Attention, document_mask, window_mask
from vlm.config import RopeScaling
from vlm.decoder import DecoderLayer
from vlm.fusion import GatedCrossAttention
from vlm.losses import total_loss
from vlm.model import VLM
from vlm.moe import MoE, Router
from vlm.resampler import PerceiverResampler, ResamplerLayer
from vlm.rope import rotary_table
from vlm.sight import Sight

DOCUMENT = torch.tensor([[0, 0, 0, 1, 1], [0, 0, 0, 0, -1]])  # two documents in a row, and one with padding
POSITIONS = torch.tensor([[0, 1, 2, 0, 1], [0, 1, 2, 3, 0]])
REAL = DOCUMENT >= 0
IMAGE_INDEX = torch.tensor([[-1, 0, 1, -1, -1], [-1, -1, 2, 2, -1]])
SEES = IMAGE_INDEX >= 0
CLEAR = 1e-4  # of an expert's score above the next one's: finite differences must not move a choice


class Called(nn.Module):
    """`function` of a module's inputs as a forward pass, for `functional_call` to put other weights into the module."""

    def __init__(self, module: nn.Module, function: Callable[..., Any]) -> None:
        super().__init__()
        self.module, self.function = module, function

    def forward(self, *inputs: Tensor) -> Any:
        return self.function(*inputs)


def check(module: nn.Module, function: Callable[..., Any], *inputs: Tensor, fast: bool = False) -> None:
    """`fast`: along random directions in place of the whole Jacobian."""
    called = Called(module, function)
    names, weights = zip(*called.named_parameters(), strict=True)

    def of_all(*tensors: Tensor) -> Any:
        return functional_call(called, dict(zip(names, tensors[len(inputs) :], strict=True)), tensors[: len(inputs)])

    leaves = [t.detach().clone().requires_grad_() for t in (*inputs, *weights)]
    assert torch.autograd.gradcheck(of_all, leaves, atol=1e-6, rtol=1e-5, fast_mode=fast)


def fill(module: nn.Module) -> nn.Module:
    """Every weight random, biases and norms too, in float64."""
    for name, parameter in module.double().named_parameters():
        nn.init.normal_(parameter, mean=1.0 if "norm" in name and name.endswith("weight") else 0.0, std=0.4)
    for buffer in module.buffers():
        nn.init.normal_(buffer, std=0.1)
    return module


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


# -- decoder ------------------------------------------------------------------------------------------------------------

ATTENTION: dict[str, dict[str, Any]] = {
    "all heads": {"num_kv_heads": 2},
    "one key head": {},
    "groups of wide heads": {"num_heads": 4, "num_kv_heads": 2, "head_dim": 4},
    "bias": {"attention_bias": True},
    "norm of a head": {"query_key_norm": "head", "head_dim": 4},
    "norm of the width": {"query_key_norm": "width"},
    "clip": {"clip_qkv": 0.3},
    "clip after the norm": {"clip_qkv": 0.8, "query_key_norm": "width"},
    "shifted": {"shifted_kv_heads": 1},
    "shifted, normed": {"num_kv_heads": 2, "shifted_kv_heads": 1, "query_key_norm": "head"},
    "window": {"sliding_window": 2},
    "linear": {"rope_scaling": RopeScaling("linear", 2.0)},
    "dynamic": {"rope_scaling": RopeScaling("dynamic", 2.0, 2), "head_dim": 4},
    "yarn": {"rope_scaling": RopeScaling("yarn", 4.0, 8)},
    "llama3": {"rope_scaling": RopeScaling("llama3", 4.0, 8)},
}


def decoder_config(**options: Any) -> DecoderConfig:
    shape = {"vocab_size": 7, "dim": 4, "num_layers": 1, "num_heads": 2, "num_kv_heads": 1, "expert_dim": 3}
    return DecoderConfig(**{**shape, "num_experts": 3, "top_k": 2, "rope_theta": 100.0, **options})


def around(config: DecoderConfig) -> tuple[Any, Tensor, Tensor]:
    """What a layer is given beside the stream: rotary table, mask, and which tokens are first."""
    place = torch.arange(DOCUMENT.shape[1]).expand_as(DOCUMENT)
    mask = window_mask(document_mask(DOCUMENT), place, config.window(0))
    return rotary_table(POSITIONS, DOCUMENT, config), mask, POSITIONS == 0


@pytest.mark.parametrize("options", ATTENTION.values(), ids=ATTENTION)
def test_attention(options):
    config = decoder_config(**options)
    module = fill(Attention(config))
    check(module, lambda x: module(x, *around(config)), random(2, 5, 4))


def margins(module: nn.Module, function: Callable[[Tensor], Any], x: Tensor) -> list[float]:
    """For each router and token, how far it is from another choice: the score of its last expert above that of the next."""
    found: list[float] = []

    def note(router: Router, inputs: tuple[Tensor, ...]) -> None:
        logits = inputs[0] @ router.weight.T
        scores = logits.softmax(-1) if router.kind == "softmax" else logits.sigmoid()
        ranked = (scores if router.bias is None else scores + router.bias).sort(descending=True).values
        first_out = ranked[:, router.top_k : router.top_k + 1]  # none when all are chosen
        found.extend((ranked[:, router.top_k - 1 : router.top_k] - first_out).flatten().tolist())

    handles = [m.register_forward_pre_hook(note) for m in module.modules() if isinstance(m, Router)]
    with torch.no_grad():
        function(x)
    for handle in handles:
        handle.remove()
    return found


def clear_choice(module: nn.Module, function: Callable[[Tensor], Any], make: Callable[[], Tensor]) -> Tensor:
    """An input that leaves every router of the module a clear choice."""
    return next(x for x in (make() for _ in range(100)) if all(m > CLEAR for m in margins(module, function, x)))


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_mixture_of_experts_and_its_sums(options):
    module = fill(MoE(DecoderConfig(**{**SHAPE, "dim": 4, "expert_dim": 3, **options}), layer=0))

    def outputs(x: Tensor) -> tuple[Tensor, ...]:
        y, stats = module(x, REAL, SEES)
        return (y,) if stats is None else (y, stats.probability, stats.z)

    check(module, outputs, clear_choice(module, outputs, lambda: random(2, 5, 4)))


LAYER: dict[str, dict[str, Any]] = {
    "mixtral": {},
    "deepseek": {"router": "sigmoid", "balance_bias_rate": 0.1, "shared_dim": 2},
    "llama": {"num_experts": 1, "top_k": 1},
}


@pytest.mark.parametrize("options", LAYER.values(), ids=LAYER)
def test_decoder_layer(options):
    config = decoder_config(**options)
    module = fill(DecoderLayer(config, 0))

    def output(x: Tensor) -> Tensor:
        return module(x, *around(config), REAL, SEES, None)[0]

    check(module, output, clear_choice(module, output, lambda: random(2, 5, 4)))


@pytest.mark.parametrize("tied", [True, False])
def test_text_decoder(tied):
    module = fill(TextDecoder(decoder_config(num_layers=2, tie_embeddings=tied, dense_layers=(1,))))
    tokens = torch.randint(0, 7, DOCUMENT.shape)
    check(module, lambda: module(tokens, POSITIONS, DOCUMENT), fast=True)


# -- vision -------------------------------------------------------------------------------------------------------------

FUSION: dict[str, dict[str, Any]] = {
    "flamingo": {},
    "one gate a channel": {"gate": "channel"},
    "normed queries and keys": {"query_key_norm": True},
    "rms norms": {"norm": "rms", "query_key_norm": True},
    "gated ffn": {"ffn": "gated", "activation": "silu"},
    "relu": {"activation": "relu"},
    "ffn without image": {"pass_without_image": False},
    "idefics": {
        "gate": "channel",
        "norm": "rms",
        "query_key_norm": True,
        "ffn": "gated",
        "activation": "silu",
        "pass_without_image": False,
    },
}
BATCH = Batch(
    tokens=torch.zeros_like(DOCUMENT),
    labels=torch.zeros_like(DOCUMENT),
    positions=POSITIONS,
    document=DOCUMENT,
    image_index=IMAGE_INDEX,
    media_document=torch.tensor([[0, 0], [0, 0], [1, 0]]),
    images=torch.zeros(3, 3, 1, 1, dtype=torch.uint8),
    media_of_frame=torch.arange(3),
    frame_time=torch.zeros(3),
)


@pytest.mark.parametrize("sees", ["last", "all"])
@pytest.mark.parametrize("options", FUSION.values(), ids=FUSION)
def test_gated_cross_attention(options, sees):
    config = FusionConfig(**{"num_heads": 2, "head_dim": 3, "ffn_dim": 5, "sees": sees, **options})
    module = fill(GatedCrossAttention(config, dim=4, latent_dim=3))
    sight = Sight.of(BATCH, sees)
    check(module, lambda x, latents: module(x, module.project_media(latents), sight), random(2, 5, 4), random(3, 2, 3))


RESAMPLER: dict[str, dict[str, Any]] = {
    "flamingo": {},
    "wide heads": {"head_dim": 3},
    "idefics": {"query_key_norm": True, "activation": "relu", "head_dim": 3},
}


@pytest.mark.parametrize("options", RESAMPLER.values(), ids=RESAMPLER)
def test_resampler_layer(options):
    config = ResamplerConfig(**{"dim": 4, "num_heads": 2, "ffn_dim": 5, **options})
    module = fill(ResamplerLayer(config))
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]]).bool()
    check(module, lambda latents, patches: module(latents, patches, mask), random(2, 3, 4), random(2, 4, 4))


@pytest.mark.parametrize("options", RESAMPLER.values(), ids=RESAMPLER)
@pytest.mark.parametrize("encoder_dim", [4, 3])
def test_perceiver_resampler(options, encoder_dim):
    shape = {"dim": 4, "num_heads": 2, "ffn_dim": 5, "num_latents": 2, "depth": 2, "max_frames": 3}
    module = fill(PerceiverResampler(ResamplerConfig(**{**shape, **options}), encoder_dim))
    frames, times = torch.tensor([0, 1, 1]), torch.tensor([0.0, 0.25, 9.0])
    check(module, lambda patches: module(patches, frames, times, 2), random(3, 2, encoder_dim), fast=True)


# -- everything ---------------------------------------------------------------------------------------------------------

WHOLE: dict[str, dict[str, Any]] = {
    "default": {},
    "every image": {"fusion": {"sees": "all", "pass_without_image": False, "gate": "channel"}},
    "deepseek": {"decoder": {"router": "sigmoid", "balance_bias_rate": 0.1, "shared_dim": 8, "tie_embeddings": False}},
    "qwen3": {"decoder": {"query_key_norm": "head", "attention_bias": True, "shifted_kv_heads": 1}},
}


@pytest.mark.parametrize("parts", WHOLE.values(), ids=WHOLE)
def test_loss_of_the_whole_model(parts, mixed):
    small = {"decoder": {"balance_loss": 0.5, "router_z_loss": 0.3, **parts.get("decoder", {})}}
    config = change(CONFIG, **{**parts, **small})

    def loss(module: VLM) -> Tensor:
        out = module(mixed)
        return total_loss(out.nll, out.learnt, out.router, config.decoder)

    models = (fill(VLM(config)) for _ in range(100))
    module = next(m for m in models if all(gap > CLEAR for gap in margins(m, lambda _, m=m: loss(m), mixed.tokens)))
    check(module, lambda: loss(module), fast=True)
