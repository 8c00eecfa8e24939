"""The vision tower of any open_clip model (its own ViT, or the timm trunk of SigLIP, PE, EVA and others) as an encoder."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.convert import convert_state_dict
from open_clip.model import resize_pos_embed
from open_clip.transform import PreprocessCfg
from torch import Tensor, nn

from encoders import timm_vit
from encoders.base import Encoder, EncoderConfig, Pixels, check_whole
from encoders.library import is_file, known, library_errors
from encoders.weights import read_weights

# The text tower is thrown away: without weights to fit, it is built as small as can be.
NO_TEXT = {"context_length": 1, "vocab_size": 1, "width": 8, "heads": 1, "layers": 1}


class OpenClipEncoder(Encoder):
    """Tokens after the tower's last norm: what open_clip returns beside the pooled vector with `output_tokens`."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__(config)
        visual = _create(config)
        # The pooled vector is not used: pooling and projection would be parameters without gradient.
        self.trunk = getattr(visual, "trunk", None)
        if self.trunk is not None:
            self.dim, self.grid = self.trunk.num_features, self.trunk.patch_embed.grid_size[0]
            prefix, patch = self.trunk.num_prefix_tokens, self.trunk.patch_embed.feat_ratio()
        else:
            self.visual = visual
            self.dim, self.grid = visual.conv1.out_channels, visual.grid_size[0]
            prefix, patch = 1, visual.patch_size[0]
        check_whole(config, patch, open_clip.get_model_config(config.name)["vision_cfg"].get("image_size"))
        self._skip = 0 if config.prefix_tokens else prefix
        self.num_prefix_tokens = prefix - self._skip

    @property
    def blocks(self) -> nn.ModuleList | nn.Sequential:
        return self.visual.transformer.resblocks if self.trunk is None else self.trunk.blocks

    def features(self, pixels: Tensor) -> Tensor:
        tokens = self.trunk.forward_features(pixels) if self.trunk is not None else self.visual(pixels)[1]
        return tokens[:, self._skip :]


def pixels(config: EncoderConfig) -> Pixels:
    """Of the tag. A file is taken to be like the published weights of its name, where those agree with each other."""
    _check_name(config)
    tags = [] if config.pretrained is None else open_clip.list_pretrained_tags_by_model(config.name)
    if config.pretrained in tags:
        tags = [config.pretrained]
    published = {_pixels(open_clip.get_pretrained_cfg(config.name, tag)) for tag in tags}
    return published.pop() if len(published) == 1 else _pixels({})


def _pixels(published: dict[str, Any]) -> Pixels:
    given = {name: published.get(name) or getattr(PreprocessCfg, name) for name in ("mean", "std", "interpolation")}
    return Pixels(tuple(given["mean"]), tuple(given["std"]), "bilinear" if given["interpolation"] == "bilinear" else "bicubic")


def _check_name(config: EncoderConfig) -> None:
    known("open_clip has no model", config.name, open_clip.list_models())
    if config.pretrained is not None and not is_file(config):
        tags = open_clip.list_pretrained_tags_by_model(config.name)
        known(f"open_clip model {config.name!r} has no weights", config.pretrained, tags)


def _create(config: EncoderConfig) -> Any:
    """The vision tower, with its weights and without what follows its tokens."""
    _check_name(config)  # open_clip would take an address for a name
    if config.stem != "patch":
        raise ValueError("open_clip towers have no convolutional stem: use library: timm")
    big_vision = is_file(config) and Path(str(config.pretrained)).suffix == ".npz"  # only these need the whole model
    with library_errors(config):
        model = open_clip.create_model(
            config.name,
            pretrained=None if is_file(config) and not big_vision else config.pretrained,
            load_weights=big_vision,
            device=torch.get_default_device(),
            force_image_size=config.image_size,
            vision_cfg=_vision_config(config),
            weights_only=True,
            pretrained_text=False,
            **({} if big_vision else {"text_cfg": NO_TEXT}),
            **({} if config.activation is None else {"quick_gelu": config.activation == "quick_gelu"}),
        )
    visual: Any = model.visual
    trunk = getattr(visual, "trunk", None)
    if not (hasattr(visual, "transformer") if trunk is None else timm_vit.is_vit(trunk)):
        raise ValueError(f"open_clip model {config.name!r} has no Vision Transformer")
    if getattr(visual, "attn_pool", None) is not None:
        raise ValueError(f"open_clip model {config.name!r} pools its patches: it has no tokens to give")
    unused = _only_tokens(visual, config)
    if config.pretrained is not None and not big_vision:
        _load(model, unused, config)
    return visual


def _only_tokens(visual: Any, config: EncoderConfig) -> set[str]:
    """Drop what follows the tokens; the names of what was dropped."""
    trunk = getattr(visual, "trunk", None)
    if trunk is not None:
        unused = timm_vit.unused_names(trunk)
        timm_vit.only_tokens(trunk, config)
        return unused
    visual.output_tokens, visual.pool_type, visual.proj = True, "none", None
    if visual.final_ln_after_pool or not config.final_norm:
        visual.ln_post = nn.Identity()
    timm_vit.set_norm_eps(visual, config)
    return {"proj", "ln_post.weight", "ln_post.bias"}


def _load(model: Any, unused: set[str], config: EncoderConfig) -> None:
    """The vision tower's part of a whole model's weights, by open_clip's own conversion and resampling."""
    path = str(config.pretrained)
    if not is_file(config):
        with library_errors(config):  # the file that `create_model` has fetched
            path = open_clip.download_pretrained(open_clip.get_pretrained_cfg(config.name, path))
    state = read_weights(path)
    with library_errors(config):
        state = convert_state_dict(model, state)
        resize_pos_embed(state, model)
    trunk = getattr(model.visual, "trunk", None)
    prefix = "visual." if trunk is None else "visual.trunk."
    weights = {name.removeprefix(prefix): t for name, t in state.items() if name.startswith(prefix)}
    if trunk is not None:
        name = open_clip.get_model_config(config.name)["vision_cfg"]["timm_model_name"]
        with library_errors(config):
            weights = timm_vit.converted(weights, trunk, name)
    tower = model.visual if trunk is None else trunk
    tower.load_state_dict(timm_vit.needed(tower, weights, unused, path))


def _vision_config(config: EncoderConfig) -> dict[str, Any]:
    """The named model's tower with what the config replaces."""
    tower = copy.deepcopy(open_clip.get_model_config(config.name)["vision_cfg"])
    fields = {"patch_size": config.patch_size, "width": config.width, "layers": config.depth}
    changed = {name: value for name, value in fields.items() if value is not None}
    if "timm_model_name" in tower and (changed or config.num_heads or config.ffn_dim or config.activation):
        raise ValueError(f"{config.name!r} is a timm tower in open_clip: change its size through library: timm")
    if config.activation == "relu":
        raise ValueError("open_clip towers have no relu: use library: timm")
    tower |= {"image_size": config.image_size} | changed
    if config.num_heads is not None:
        tower["head_width"] = tower["width"] // config.num_heads
    if config.ffn_dim is not None:
        tower["mlp_ratio"] = (config.ffn_dim + 0.5) / tower["width"]  # open_clip rounds down
    if config.activation == "gelu_tanh":
        tower["act_kwargs"] = {"approximate": "tanh"}
    return tower
