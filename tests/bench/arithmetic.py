"""What the mathematics needs, counted from a configuration: multiplications and additions, and bytes of weights.

A weight used once for a token costs 2 operations forward; 2 more give the gradient of what enters it, and 2 more its own. So
`factor` below is 2 for what only runs forward, 4 for frozen weights that a gradient passes through, 6 for those that learn.
The two products of attention cost 4 for each channel and place seen, and 8 more whenever there is a gradient. Norms, softmaxes
and the like are not counted.
"""

from __future__ import annotations

from collections.abc import Collection

from vlm import DecoderConfig, FusionConfig, ModelConfig, ResamplerConfig


def attention_weights(config: DecoderConfig) -> int:
    """Of the four projections of a layer."""
    return 2 * config.dim * config.head_size * (config.num_heads + config.num_kv_heads)


def layer_weights(config: DecoderConfig, layer: int, experts: float) -> float:
    """Of attention, router, and `experts` of the layer's experts."""
    router = config.num_experts * config.dim if config.is_moe(layer) else 0
    return attention_weights(config) + router + experts * 3 * config.dim * config.ffn_dim(layer)


def active_weights(config: DecoderConfig, tokens: int = 1) -> float:
    """That are read for so many tokens, each with experts of its own drawn evenly: for one, k of each layer. The head counts;
    the embedding's table is looked up."""
    expected = config.num_experts * (1 - (1 - config.top_k / config.num_experts) ** tokens)
    layers = (layer_weights(config, layer, expected if config.is_moe(layer) else 1) for layer in range(config.num_layers))
    return config.vocab_size * config.dim + sum(layers)


def text_flops(config: DecoderConfig, length: float, factor: int = 6) -> float:
    """A token of rows of `length` tokens, one document each: it sees half the row."""
    pairs = config.num_layers * config.num_heads * config.head_size * (length + 1) / 2
    return factor * active_weights(config) + _attention(factor) * pairs


def image_text_flops(config: ModelConfig, length: float, images: float, train: Collection[str]) -> float:
    """A token of rows with so many images, each token seeing one. `train`: the groups that learn, resampler and gated blocks
    among them, whose gradient passes through a decoder that does not learn; none: forward alone."""
    learnt = 6 if train else 2
    vision, text = (6 if "encoder" in train else 2), (6 if "decoder" in train else 4 if train else 2)
    image = encoder_flops(config, vision) + resampler_flops(config.resampler, _tokens(config), learnt)
    image += media_flops(config, learnt)
    return text_flops(config.decoder, length, text) + fusion_flops(config, learnt) + image * images / length


def encoder_flops(config: ModelConfig, factor: int) -> float:
    """A picture through the Vision Transformer, whose sizes the configuration must name."""
    encoder, tokens = config.encoder, _tokens(config)
    block = 4 * encoder.width**2 + 2 * encoder.width * (encoder.ffn_dim or 4 * encoder.width)
    patches = min(factor, 4) * (tokens - 1) * 3 * encoder.patch_size**2 * encoder.width  # pixels want no gradient
    scores = _attention(factor) * encoder.depth * encoder.width * tokens**2
    return factor * tokens * encoder.depth * block + patches + scores


def resampler_flops(config: ResamplerConfig, patches: int, factor: int) -> float:
    """A picture's `patches` to its latents, which also look at themselves."""
    inner, latents, keys = config.num_heads * config.head_size, config.num_latents, patches + config.num_latents
    layer = 2 * latents * config.dim * inner + 2 * keys * config.dim * inner + 2 * latents * config.dim * config.ffn_dim
    return config.depth * (factor * layer + _attention(factor) * latents * keys * inner)


def media_flops(config: ModelConfig, factor: int) -> float:
    """The keys and values of a picture's latents, for all gated blocks."""
    fusion = config.fusion
    blocks = len(fusion.gated_layers(config.decoder.num_layers))
    return factor * blocks * config.resampler.num_latents * config.resampler.dim * 2 * fusion.num_heads * fusion.head_dim


def fusion_weights(config: ModelConfig) -> int:
    """That each token passes in the gated blocks."""
    fusion, dim = config.fusion, config.decoder.dim
    block = dim * (2 * fusion.num_heads * fusion.head_dim + fusion.ffn_dim * _matrices(fusion))
    return len(fusion.gated_layers(config.decoder.num_layers)) * block


def fusion_flops(config: ModelConfig, factor: int) -> float:
    """A token that sees one picture, through all gated blocks."""
    fusion = config.fusion
    blocks = len(fusion.gated_layers(config.decoder.num_layers))
    pairs = blocks * fusion.num_heads * fusion.head_dim * config.resampler.num_latents
    return factor * fusion_weights(config) + _attention(factor) * pairs


def decode_bytes(config: DecoderConfig | ModelConfig, rows: int, length: float, itemsize: int) -> float:
    """Read for one more token in each of so many rows of `length` tokens: weights, and the keys and values kept."""
    decoder = config.decoder if isinstance(config, ModelConfig) else config
    numbers = active_weights(decoder, rows)
    numbers += rows * length * decoder.num_layers * 2 * decoder.num_kv_heads * decoder.head_size
    if isinstance(config, ModelConfig):
        blocks = len(config.fusion.gated_layers(decoder.num_layers))
        seen = blocks * config.resampler.num_latents * 2 * config.fusion.num_heads * config.fusion.head_dim
        numbers += fusion_weights(config) + rows * seen
    return numbers * itemsize


def _attention(factor: int) -> int:
    return 4 if factor == 2 else 12


def _tokens(config: ModelConfig) -> int:
    """That the encoder gives for a picture; its class token is counted whether given or not."""
    return (config.encoder.image_size // config.encoder.patch_size) ** 2 + 1


def _matrices(config: FusionConfig) -> int:
    return 3 if config.ffn == "gated" else 2
