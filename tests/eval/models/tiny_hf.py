"""Tiny random models of transformers as directories, with a tokenizer of one token a byte; nothing is downloaded."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

transformers = pytest.importorskip("transformers")

TEXT = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "max_position_embeddings": 4096, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
TEMPLATE = (
    "<bos>{% for m in messages %}[{{ m.role }}]{% for p in m.content %}"
    "{% if p.type == 'image' %}IMAGE{% else %}{{ p.text }}{% endif %}{% endfor %}<end>{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


def make(family: str, folder: Path, *, template: bool = True, **settings) -> Path:
    """`settings`: of the generation config."""
    torch.manual_seed(0)
    model, processor = FAMILIES[family](template)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=1.5 * parameter.shape[-1] ** -0.5)
    for name, value in settings.items():
        setattr(model.generation_config, name, value)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def tokenizer(*special: str):
    alphabet = ["<pad>", "<bos>", "<eos>", "<end>", *special, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    made = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    made.add_special_tokens(alphabet[: 4 + len(special)])
    roles = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>"}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=made, **roles)


def _template(used: bool, image: str) -> str | None:
    return TEMPLATE.replace("IMAGE", image) if used else None


def _llava(template: bool):
    words = tokenizer("<image>")
    vision = transformers.CLIPVisionConfig(
        hidden_size=24, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=16, patch_size=8
    )
    text = transformers.LlamaConfig(vocab_size=len(words), **TEXT)
    model = transformers.LlavaForConditionalGeneration(
        transformers.LlavaConfig(vision_config=vision, text_config=text, image_token_index=4)
    )
    images = transformers.CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    processor = transformers.LlavaProcessor(
        images, words, patch_size=8, vision_feature_select_strategy="default", num_additional_image_tokens=1,
        chat_template=_template(template, "<image>"),
    )  # fmt: skip
    return model, processor


def _idefics3(template: bool):
    words = tokenizer("<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>")
    vision = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 16,
              "patch_size": 4}  # fmt: skip
    text = transformers.LlamaConfig(vocab_size=len(words), **TEXT)
    config = transformers.Idefics3Config(vision_config=vision, text_config=text, image_token_id=4, scale_factor=2)
    images = transformers.Idefics3ImageProcessor(
        size={"longest_edge": 16}, max_image_size={"longest_edge": 16}, do_image_splitting=False
    )
    processor = transformers.Idefics3Processor(images, words, image_seq_len=4, chat_template=_template(template, "<image>"))
    return transformers.Idefics3ForConditionalGeneration(config), processor


def _qwen2_vl(template: bool):
    words = tokenizer("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>")
    vision = {"depth": 2, "embed_dim": 32, "hidden_size": 32, "num_heads": 2, "patch_size": 4, "mlp_ratio": 2}
    text = {"vocab_size": len(words), **TEXT, "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2],
            "rope_theta": 1e4}}  # fmt: skip
    ids = {"image_token_id": 4, "video_token_id": 5, "vision_start_token_id": 6, "vision_end_token_id": 7}
    config = transformers.Qwen2VLConfig(vision_config=vision, text_config=text, **ids)
    sizes = {"patch_size": 4, "size": {"shortest_edge": 64, "longest_edge": 1024}}
    processor = transformers.Qwen2VLProcessor(
        transformers.Qwen2VLImageProcessor(**sizes), words, transformers.Qwen2VLVideoProcessor(**sizes),
        chat_template=_template(template, "<|vision_start|><|image_pad|><|vision_end|>"),
    )  # fmt: skip
    return transformers.Qwen2VLForConditionalGeneration(config), processor


FAMILIES = {"llava": _llava, "idefics3": _idefics3, "qwen2_vl": _qwen2_vl}
