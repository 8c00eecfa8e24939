"""Weights from files and tags: loaded as the library does, and what is wrong with them said in one line."""

import dataclasses
import logging
import pickle
import socket
import struct
import time
import zipfile
from pathlib import Path

import numpy as np
import open_clip
import pytest
import timm
import torch
from encoder_fakes import OPEN_CLIP, SMALL, TEXT, TIMM, TOWER, TRUNK, load, pictures, randomize, save_weights, write
from safetensors.torch import save

from encoders import EncoderConfig, build_encoder
from encoders.weights import read_weights

BOTH = pytest.mark.parametrize("config", [TIMM, OPEN_CLIP], ids=["timm", "open_clip"])


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin", ".safetensors"])
@BOTH
def test_a_local_file_gives_the_same_tokens(config, suffix, tmp_path):
    path, images = tmp_path / f"weights{suffix}", pictures()
    assert torch.equal(save_weights(config, path)(images), load(config, path)(images))


@BOTH
def test_the_wrappings_of_training_come_off(config, tmp_path):
    tokens = save_weights(config, tmp_path / "plain.pth")(images := pictures())
    state = torch.load(tmp_path / "plain.pth")
    write({"state_dict": {f"module.{n}": t for n, t in state.items()}, "epoch": 3}, tmp_path / "wrapped.pth")
    assert torch.equal(load(config, tmp_path / "wrapped.pth")(images), tokens)


def peer(size, patch=8, name="vit_base_patch16_224", **options):
    model = timm.create_model(name, img_size=size, patch_size=patch, embed_dim=32, depth=2, num_heads=2, **options)
    randomize(model)
    return model.eval().requires_grad_(False)


NAMES = ["vit_base_patch16_224", "vit_small_patch14_reg4_dinov2", "flexivit_small", "deit3_small_patch16_224"]
NAMES += ["vit_base_patch16_radio_v3", "beit_base_patch16_224", "eva02_base_patch14_224", "vit_base_patch16_siglip_224"]


@pytest.mark.parametrize("name", NAMES)
def test_timm_weights_of_another_size_are_resampled_as_timm_does(name, tmp_path):
    """The whole model's file, classifier and pooling included, at two thirds of the size and half the patch."""
    patch = 8 if "beit" in name else 4  # timm does not resample BEiT's patches
    state = peer(32, patch, name).state_dict()
    if "deit3" in name:  # the authors' own names
        state = {n.replace("ls1.gamma", "gamma_1").replace("ls2.gamma", "gamma_2"): t for n, t in state.items()}
    write(state, tmp_path / "weights.safetensors")
    options = {"img_size": 48, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
    given = {"file": str(tmp_path / "weights.safetensors")}
    theirs = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=given, **options).eval()
    ours = load(dataclasses.replace(TIMM, name=name), tmp_path / "weights.safetensors", image_size=48)
    for key, value in ours.model.state_dict().items():
        assert torch.equal(value, theirs.state_dict()[key]), key
    assert ours.grid == 6 and not torch.equal(ours.model.blocks[0].attn.proj.weight, peer(48).blocks[0].attn.proj.weight)


def test_open_clip_weights_of_another_size_are_resampled_as_open_clip_does(tmp_path):
    model = open_clip.create_model("ViT-B-32", vision_cfg=TOWER, text_cfg=TEXT)
    write(model.state_dict(), tmp_path / "weights.pt")
    large = open_clip.create_model("ViT-B-32", vision_cfg=TOWER | {"image_size": 48}, text_cfg=TEXT)
    open_clip.load_checkpoint(large, str(tmp_path / "weights.pt"))
    ours = load(OPEN_CLIP, tmp_path / "weights.pt", image_size=48)
    assert all(torch.equal(value, large.visual.state_dict()[key]) for key, value in ours.visual.state_dict().items())
    assert ours.grid == 6 and ours.visual.positional_embedding.shape == (37, 32)


def test_weights_of_open_clips_timm_trunk(monkeypatch, tmp_path):
    """Saved by open_clip at its size, read by both at another."""
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "tiny", TRUNK)
    model = open_clip.create_model("tiny")
    randomize(model)
    write(model.state_dict(), tmp_path / "weights.safetensors")
    theirs = open_clip.create_model("tiny", pretrained=str(tmp_path / "weights.safetensors"), force_image_size=64).visual.trunk
    config = EncoderConfig("open_clip", "tiny", image_size=64)
    ours = load(config, tmp_path / "weights.safetensors")
    assert all(torch.equal(value, theirs.state_dict()[key]) for key, value in ours.trunk.state_dict().items())
    load(config, tmp_path / "weights.safetensors", final_norm=False)
    state = {n: t for n, t in model.state_dict().items() if "blocks.3.norm1" not in n}
    write(state, tmp_path / "less.safetensors")
    with pytest.raises(ValueError, match=r"2 missing \(blocks.3.norm1.bias, blocks.3.norm1.weight\)$"):
        load(config, tmp_path / "less.safetensors")


def test_a_whole_models_file_serves_an_encoder_without_last_norm(tmp_path):
    for config in (TIMM, OPEN_CLIP):
        save_weights(config, tmp_path / "weights.pth")
        load(config, tmp_path / "weights.pth", final_norm=False)


def test_jax_weights(tmp_path):
    """timm's own reader of .npz; a tensor that misses there is named."""
    encoder = build_encoder(TIMM)
    randomize(encoder)
    state = {n: t.detach().numpy() for n, t in encoder.model.state_dict().items()}
    arrays = {"embedding/kernel": state["patch_embed.proj.weight"].transpose(2, 3, 1, 0), "cls": state["cls_token"]}
    arrays |= {"embedding/bias": state["patch_embed.proj.bias"]}
    arrays |= {"Transformer/posembed_input/pos_embedding": state["pos_embed"]}
    arrays |= {"Transformer/encoder_norm/scale": state["norm.weight"], "Transformer/encoder_norm/bias": state["norm.bias"]}
    for layer in range(2):
        ours, theirs = f"blocks.{layer}", f"Transformer/encoderblock_{layer}"
        for kind, scale in (("weight", "scale"), ("bias", "bias")):
            arrays[f"{theirs}/LayerNorm_0/{scale}"] = state[f"{ours}.norm1.{kind}"]
            arrays[f"{theirs}/LayerNorm_2/{scale}"] = state[f"{ours}.norm2.{kind}"]
        attention = f"{theirs}/MultiHeadDotProductAttention_1"
        for part, weight, bias in zip(
            ("query", "key", "value"),
            np.split(state[f"{ours}.attn.qkv.weight"], 3),
            np.split(state[f"{ours}.attn.qkv.bias"], 3),
            strict=True,
        ):
            arrays[f"{attention}/{part}/kernel"], arrays[f"{attention}/{part}/bias"] = weight.T, bias.reshape(2, 16)
        arrays[f"{attention}/out/kernel"] = state[f"{ours}.attn.proj.weight"].T.reshape(2, 16, 32)
        arrays[f"{attention}/out/bias"] = state[f"{ours}.attn.proj.bias"]
        for i in range(2):
            arrays[f"{theirs}/MlpBlock_3/Dense_{i}/kernel"] = state[f"{ours}.mlp.fc{i + 1}.weight"].T
            arrays[f"{theirs}/MlpBlock_3/Dense_{i}/bias"] = state[f"{ours}.mlp.fc{i + 1}.bias"]
    np.savez(tmp_path / "w.npz", **arrays)
    loaded = load(TIMM, tmp_path / "w.npz")
    assert all(torch.equal(t, encoder.model.state_dict()[n]) for n, t in loaded.model.state_dict().items())
    np.savez(tmp_path / "w.npz", **{n: a for n, a in arrays.items() if "encoder_norm/scale" not in n})
    with pytest.raises(ValueError, match="encoder_norm/scale"):
        load(TIMM, tmp_path / "w.npz")


# -- what does not fit --------------------------------------------------------------------------------------------------


@BOTH
def test_what_does_not_fit_is_named(config, tmp_path):
    path = tmp_path / "weights.pth"
    save_weights(config, path)
    state = torch.load(path)
    part = "" if config.library == "timm" else "visual."
    bias = "patch_embed.proj.bias" if config.library == "timm" else "ln_pre.bias"
    gone = [name for name in state if "blocks.1." in name and name.startswith(part)]
    for name in (*gone, part + bias):
        del state[name]
    state |= {f"{part}more\n{i}": torch.zeros(1) for i in range(5)}
    matrix = next(name for name in state if "blocks.0." in name and name.startswith(part) and state[name].ndim == 2)
    state[matrix] = torch.zeros(7, 32)
    torch.save(state, path)
    with pytest.raises(ValueError) as error:
        load(config, path)
    message = str(error.value)
    assert f"{len(gone) + 1} missing (" in message and "5 left over (more 0, more 1, more 2)" in message and "\n" not in message
    assert f"1 of another shape ({matrix.removeprefix(part)} (7, 32) for (96, 32))" in message and str(path) in message


class Evil:
    """A pickle that would write a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def lying_header(claim):
    return struct.pack("<Q", claim) + b'{"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}' + bytes(4)


def long_tensor():
    head = b'{"x":{"dtype":"F32","shape":[1000000000000],"data_offsets":[0,4000000000000]}}'
    return struct.pack("<Q", len(head)) + head + bytes(8)


def bad_files(folder):
    """Name → what the message says."""
    (folder / "evil.pth").write_bytes(pickle.dumps({"x": Evil(folder / "written")}))
    torch.save({"x": Evil(folder / "written")}, folder / "evil.bin")
    torch.save({"x": torch.zeros(9)}, folder / "other.pth")
    torch.save({"x": torch.zeros(1).expand(10**6, 10**6)}, folder / "folded.pth")
    torch.save({"x": 3}, folder / "number.pth")
    torch.save([torch.zeros(2)], folder / "list.pth")
    with zipfile.ZipFile(folder / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as bomb:
        whole = zipfile.ZipFile(folder / "other.pth")
        for name in whole.namelist():
            bomb.writestr(name, whole.read(name))
    (folder / "cut.pth").write_bytes((folder / "other.pth").read_bytes()[:-300])
    (folder / "cut.safetensors").write_bytes(save({"x": torch.zeros(9)})[:-5])
    (folder / "broken.safetensors").write_bytes(b"nothing")
    (folder / "lies.safetensors").write_bytes(lying_header(2**62))
    (folder / "short.safetensors").write_bytes(lying_header(2**20))
    (folder / "long.safetensors").write_bytes(long_tensor())
    (folder / "empty.pt").touch()
    np.save(folder / "one.npz", np.zeros(3))
    return {path.name: "could run code" if "evil" in path.name else path.name for path in folder.iterdir()}


@BOTH
def test_bad_files_are_refused_in_one_line_and_nothing_runs(config, tmp_path, capfd, recwarn):
    names = bad_files(tmp_path)
    assert len(names) == 15
    for name, message in (names | {"absent.pth": "does not exist", "no_such_tag": "has no weights 'no_such_tag'"}).items():
        value = name if name == "no_such_tag" else str(tmp_path / name)
        with pytest.raises(ValueError, match=message) as error:
            build_encoder(dataclasses.replace(config, pretrained=value))
        assert "\n" not in str(error.value) and name in str(error.value) and len(str(error.value)) < 600
    assert not (tmp_path / "written").exists()
    assert capfd.readouterr() == ("", "") and not list(recwarn)


def test_a_file_of_any_dtype_is_read_whole(tmp_path):
    state = {"a": torch.randn(3).to(torch.bfloat16), "b": torch.arange(4), "c": torch.randn(2, 3).T}
    torch.save(state, tmp_path / "x.pt")
    read = read_weights(tmp_path / "x.pt")
    assert read.keys() == state.keys() and all(torch.equal(read[n], state[n]) for n in state)


# -- tags ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "near"),
    [
        (EncoderConfig(name="vit_tiny_patch16_224", pretrained="augreg_in21"), "augreg_in21k"),
        (EncoderConfig("open_clip", "ViT-B-32", pretrained="laion2b_s34b_b79"), "laion2b_s34b_b79k"),
    ],
)
def test_an_unknown_tag_is_met_with_the_nearest(config, near):
    with pytest.raises(ValueError, match=f"did you mean '{near}'"):
        build_encoder(config)


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A tag's file, as the libraries fetch it: what is written there comes back."""
    path = str(tmp_path / "weights.pth")
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", lambda *args, **kwargs: torch.load(path))
    for module in ("open_clip", "open_clip.factory"):
        monkeypatch.setattr(f"{module}.download_pretrained", lambda *args, **kwargs: path)
    return path


@pytest.mark.parametrize(("config", "tag"), [(TIMM, "mae"), (OPEN_CLIP, "laion2b_s34b_b79k")], ids=["timm", "open_clip"])
def test_a_tag_is_held_against_the_model_as_a_file_is(config, tag, hub):
    tokens = save_weights(config, Path(hub))(images := pictures())
    loaded = load(config, tag)
    statistics = dataclasses.replace(config, mean=loaded.config.mean, std=loaded.config.std)
    assert torch.equal(loaded(images), load(statistics, hub)(images))
    assert torch.equal(loaded(images), tokens) == (config is OPEN_CLIP)  # MAE's statistics are others
    for depth, message in ((3, "12 missing"), (1, "12 left over")):
        with pytest.raises(ValueError, match=message):
            load(config, tag, depth=depth)
    with pytest.raises(ValueError, match="divisible by num_heads"):
        load(config, tag, num_heads=3)


@pytest.mark.parametrize(
    "config",
    [
        EncoderConfig(name="vit_tiny_patch16_224", pretrained="augreg_in21k", **SMALL),
        EncoderConfig("open_clip", "ViT-B-32", pretrained="laion2b_s34b_b79k", **SMALL),
    ],
    ids=["timm", "open_clip"],
)
def test_without_network_a_tag_is_refused_at_once(config, monkeypatch, tmp_path, capfd):
    def unknown(*args, **kwargs):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    monkeypatch.setattr("urllib.request.getproxies", dict)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    start = time.perf_counter()
    with pytest.raises(ValueError, match="cannot be reached, the cache lacks them") as error:
        build_encoder(config)
    assert time.perf_counter() - start < 10 and "\n" not in str(error.value)
    assert capfd.readouterr().err == ""


def test_random_weights_are_no_news_but_other_warnings_are(caplog):
    build_encoder(OPEN_CLIP)
    assert caplog.records == []
    logging.getLogger().warning("of something else")
    assert len(caplog.records) == 1
