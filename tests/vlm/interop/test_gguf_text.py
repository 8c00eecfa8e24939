"""Tokenizers of GGUF files: the same ids as the tokenizer that the file was made from."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from vlm.interop.gguf_text import LLAMA3_WORDS, read_gguf_text

pytest.importorskip("gguf", reason="the extra gguf is not installed")
from gguf_fakes import write

TEXTS = [
    "The year 2024 had 366 days,  and 12,345.67 is a number; 1 2  3   45",
    "we'll SHE'LL isn't   x\n\n\ty = f(a)[0] + 1e-5\r\n",
    "Größe, naïve, 東京 2020, ½ and Ⅷ, 👩‍👩‍👧 🇫🇷",
    "   leading and trailing   ",
]
CUTS = {
    "gpt-2": pre_tokenizers.ByteLevel(add_prefix_space=False),
    "smollm": pre_tokenizers.Sequence([pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(add_prefix_space=False)]),
    "llama-bpe": pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(LLAMA3_WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    ),
}


def byte_level(cut: pre_tokenizers.PreTokenizer) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = cut, decoders.ByteLevel()
    special = ["<|end|>", "<|start|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(TEXTS * 3, trainer)
    return tokenizer


def fields(tokenizer: Tokenizer, pre: str, **more) -> dict[str, object]:
    model = json.loads(tokenizer.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    header = {
        "model": "gpt2",
        "pre": pre,
        "tokens": tokens,
        "token_type": [3 if token.startswith("<|") else 1 for token in tokens],
        "merges": [" ".join(pair) for pair in model["merges"]],
        "bos_token_id": 1,
        "eos_token_id": 0,
    }
    return {f"tokenizer.ggml.{key}": value for key, value in (header | more).items()}


@pytest.mark.parametrize("pre", CUTS)
def test_byte_level_ids_are_those_of_the_source(tmp_path, pre):
    source = byte_level(CUTS[pre])
    header = fields(source, pre) | {"tokenizer.chat_template": "{{ messages }}"}
    text = read_gguf_text(write(tmp_path / "m.gguf", {}, header))
    assert (text.bos, text.eos, text.pad, text.unk, text.chat_template) == (
        "<|start|>",
        "<|end|>",
        None,
        None,
        "{{ messages }}",
    )
    assert text.add_bos == (pre == "llama-bpe")
    for sample in [*TEXTS, "<|start|>user 12<|end|>"]:
        ids = source.encode(sample).ids
        assert text.tokenizer.encode(sample).ids == ids
        assert text.tokenizer.decode(ids, skip_special_tokens=False) == source.decode(ids, skip_special_tokens=False)
    assert text.tokenizer.decode(text.tokenizer.encode("<|start|>hi<|end|>").ids) == "hi"


def test_control_and_user_tokens(tmp_path):
    """Both stay whole; only a control token is special."""
    source = byte_level(CUTS["gpt-2"])
    header = fields(source, "gpt-2")
    header["tokenizer.ggml.tokens"] += ["<think>", "[PAD]"]
    header["tokenizer.ggml.token_type"] += [4, 3]
    text = read_gguf_text(write(tmp_path / "m.gguf", {}, header))
    encoded = text.tokenizer.encode("a<think>b[PAD]")
    assert encoded.tokens == ["a", "<think>", "b", "[PAD]"]
    assert text.tokenizer.decode(encoded.ids) == "a<think>b"


PIECES = ["▁", "a", "b", "c", "ab", "▁a", "▁ab", "abc", "bc", "▁abc", "▁▁", "é", "cab"]


@pytest.fixture(scope="module")
def sentencepiece(tmp_path_factory):
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), *PIECES]
    count = len(PIECES)
    header = {
        "model": "llama",
        "tokens": tokens,
        "scores": [0.0] * 259 + [-float(i) for i in range(count)],
        "token_type": [2, 3, 3] + [6] * 256 + [1] * count,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "unknown_token_id": 0,
    }
    header = {f"tokenizer.ggml.{key}": value for key, value in header.items()}
    folder = tmp_path_factory.mktemp("spm")
    return tuple(read_gguf_text(write(folder / str(prefix), {}, header | {"tokenizer.ggml.add_space_prefix": prefix}))
                 for prefix in (True, False))  # fmt: skip


def by_scores(text: str) -> list[str]:
    """SentencePiece's BPE by its definition: neighbours that make the best piece are joined, leftmost first."""
    pieces = list(text)
    while True:
        joined = [(PIECES.index(a + b), i) for i, (a, b) in enumerate(itertools.pairwise(pieces)) if a + b in PIECES]
        if not joined:
            return [p for piece in pieces for p in ([piece] if piece in PIECES else [f"<0x{b:02X}>" for b in piece.encode()])]
        _, at = min(joined)
        pieces[at : at + 2] = [pieces[at] + pieces[at + 1]]


@given(st.text("abc é?", max_size=24))
@settings(max_examples=200, deadline=None)
def test_sentencepiece_is_its_definition(sentencepiece, sample):
    with_prefix, without = sentencepiece
    assert without.tokenizer.encode(sample).tokens == by_scores(sample.replace(" ", "▁"))
    assert without.tokenizer.decode(without.tokenizer.encode(sample).ids) == sample
    if sample:
        assert with_prefix.tokenizer.encode(sample).tokens == by_scores("▁" + sample.replace(" ", "▁"))
        assert with_prefix.tokenizer.decode(with_prefix.tokenizer.encode(sample).ids) == sample


def test_sentencepiece_roles(sentencepiece):
    text = sentencepiece[0]
    assert (text.bos, text.eos, text.unk, text.add_bos) == ("<s>", "</s>", "<unk>", True)
    assert text.tokenizer.encode("ab</s>").ids[-1] == 2


BROKEN = {
    "model": ("bert", "kind 'bert'; gpt2 and llama"),
    "pre": ("tekken9", "'tekken9' is not a way"),
    "tokens": (["a", "a"], "different texts"),
    "token_type": ([1], "token_type"),
    "merges": (["a b c"], "merges"),
}


@pytest.mark.parametrize("key", BROKEN)
def test_a_vocabulary_that_is_not_read_is_one_line(tmp_path, key):
    value, words = BROKEN[key]
    header = fields(byte_level(CUTS["gpt-2"]), "gpt-2") | {f"tokenizer.ggml.{key}": value}
    with pytest.raises(ValueError, match=words) as error:
        read_gguf_text(write(tmp_path / "m.gguf", {}, header))
    assert "m.gguf" in str(error.value) and "\n" not in str(error.value)


def test_a_kind_that_is_a_list_is_one_line(tmp_path):
    with pytest.raises(ValueError, match="kind"):
        read_gguf_text(write(tmp_path / "m.gguf", {}, {"tokenizer.ggml.model": ["gpt2"]}))


def test_merges_of_unknown_pieces_are_one_line(tmp_path):
    header = fields(byte_level(CUTS["gpt-2"]), "gpt-2") | {"tokenizer.ggml.merges": ["qqq zzz"]}
    with pytest.raises(ValueError, match="makes no tokenizer") as error:
        read_gguf_text(write(tmp_path / "m.gguf", {}, header))
    assert "\n" not in str(error.value)


def test_ids_outside_the_vocabulary_are_no_roles(tmp_path):
    header = fields(byte_level(CUTS["gpt-2"]), "gpt-2", bos_token_id=4_000_000)
    assert read_gguf_text(write(tmp_path / "m.gguf", {}, header)).bos is None


def test_added_tokens_keep_their_ids(tmp_path):
    source = byte_level(CUTS["gpt-2"])
    text = read_gguf_text(write(tmp_path / "m.gguf", {}, fields(source, "gpt-2")))
    added = text.tokenizer.get_added_tokens_decoder()
    assert {i: str(t.content) for i, t in added.items()} == {0: "<|end|>", 1: "<|start|>"}
    assert all(isinstance(t, AddedToken) and t.special for t in added.values())
