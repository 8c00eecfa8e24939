"""Ids to text: characters and stop strings that fall across tokens, streamed and whole."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers
from vlm_fakes import CONFIG, DOCUMENTS, byte_tokenizer

from vlm import Sample, Text
from vlm.load import build_processor
from vlm.text_stream import TextStream, ends_with, generate_text, stop_at, stream_text

BYTES = byte_tokenizer()
BYTES.encode_special_tokens = True
TEXTS = st.text(alphabet=st.sampled_from("ab\n .é語😀"), max_size=20)
STOPS = st.lists(st.text(alphabet=st.sampled_from("ab\né語"), min_size=1, max_size=4), max_size=3)


def metaspace_tokenizer() -> Tokenizer:
    """As Llama 2's: a blank is ▁, one goes before the text, unknown characters fall into bytes."""
    pieces = ["<unk>", *(f"<0x{b:02X}>" for b in range(256)), "▁", "a", "b", "ab", "▁a", "▁ab", "ba"]
    merges = [("a", "b"), ("▁", "a"), ("▁a", "b"), ("b", "a")]
    vocab = {piece: i for i, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges, byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(parts)
    return tokenizer


TOKENIZERS = {"bytes": BYTES, "metaspace": metaspace_tokenizer()}


def streamed(tokenizer, tokens, stop=()):
    """All pieces, and how many tokens it took."""
    stream, pieces = TextStream(tokenizer, stop), []
    for token in tokens:
        pieces.append(stream.push(token))
        if stream.stopped:
            break
    return [*pieces, stream.finish()], stream


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=80, deadline=None)
@given(text=TEXTS)
def test_pieces_make_the_text_and_hold_whole_characters(name, text):
    pieces, _ = streamed(TOKENIZERS[name], TOKENIZERS[name].encode(text, add_special_tokens=False).ids)
    assert "".join(pieces) == text and "\ufffd" not in "".join(pieces)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.integers(0, 259), max_size=25))
def test_any_tokens_stream_to_what_they_decode_to(tokens):
    pieces, _ = streamed(BYTES, tokens)
    assert "".join(pieces) == BYTES.decode(tokens, skip_special_tokens=True)


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=120, deadline=None)
@given(text=TEXTS, stop=STOPS)
def test_a_stream_ends_before_a_stop_string_and_shows_nothing_of_it(name, text, stop):
    tokens = TOKENIZERS[name].encode(text, add_special_tokens=False).ids
    pieces, stream = streamed(TOKENIZERS[name], tokens, stop)
    assert "".join(pieces) == text[: stop_at(text, stop)]
    assert stream.stopped == any(s in text for s in stop)
    for n in range(len(pieces)):
        shown = "".join(pieces[:n])
        assert text.startswith(shown) and not any(s in shown for s in stop)


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=80, deadline=None)
@given(text=TEXTS, stop=STOPS)
def test_the_first_token_that_completes_a_stop_string_ends_the_text(name, text, stop):
    tokenizer = TOKENIZERS[name]
    tokens = tokenizer.encode(text, add_special_tokens=False).ids
    ends = ends_with(tokenizer, stop) or (lambda _: False)
    asked = next((n for n in range(1, len(tokens) + 1) if ends(tokens[:n])), None)
    expected = next((n for n in range(1, len(tokens) + 1) if any(s in tokenizer.decode(tokens[:n]) for s in stop)), None)
    assert asked == expected


def test_special_tokens_between_do_not_hide_a_stop_string():
    a, b = BYTES.encode("ab").ids
    tokens = [a, *[0] * 50, b]
    assert ends_with(BYTES, ["ab"])(tokens) and streamed(BYTES, tokens, ["ab"])[1].stopped


@pytest.mark.parametrize(
    ("text", "stop", "place"),
    [
        ("xabcx", ["abc"], 1),
        ("xabcx", ["abc", "b"], 2),  # complete first
        ("xabcx", ["bc", "abc"], 1),  # complete together: the longer
        ("xx", ["abc"], None),
        ("", [], None),
    ],
)
def test_which_stop_string_counts(text, stop, place):
    assert stop_at(text, stop) == place


def test_what_may_become_a_stop_string_is_held_back():
    stream = TextStream(BYTES, ["\nQuestion:"])
    out = [stream.push(token) for token in BYTES.encode("hi\nQuestX\nQuestion: no").ids]
    assert out[:8] == ["h", "i", "", "", "", "", "", ""] and out[8] == "\nQuestX"
    assert "".join(out) == "hi\nQuestX" and stream.finish() == ""


@pytest.mark.parametrize("stop", ["abc", [""], ["a", ""]])
def test_stop_strings_that_cannot_be_are_refused(stop):
    with pytest.raises(ValueError, match="stop"):
        TextStream(BYTES, stop)
    with pytest.raises(ValueError, match="stop"):
        ends_with(BYTES, stop)


PROCESSOR = build_processor(CONFIG, byte_tokenizer())


def test_generated_text_ends_before_the_stop_string(model):
    """Stop strings taken from what the model would write, in the middle of its text."""
    free = generate_text(model, PROCESSOR, DOCUMENTS, max_new_tokens=16, temperature=1.5)
    stop = [free[0].text[4:6], free[2].text[3:4]]
    cut = generate_text(model, PROCESSOR, DOCUMENTS, stop=stop, max_new_tokens=16, temperature=1.5)
    for whole, part in zip(free, cut, strict=True):
        place = stop_at(whole.text, stop)
        assert part.text == whole.text[:place] and part.tokens == whole.tokens[: len(part.tokens)]
        assert part.finish == (whole.finish if place is None else "stop") and len(part.logprobs) == len(part.tokens)
    assert any(len(part.tokens) < 16 and part.finish == "stop" for part in cut)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_streamed_text_is_generated_text(model, document):
    for options in ({}, {"temperature": 1.5, "seed": 4}):
        whole = generate_text(model, PROCESSOR, [document], max_new_tokens=16, **options)[0].text
        for stop in ([], [whole[2:4] or "x"]):
            expected = generate_text(model, PROCESSOR, [document], stop=stop, max_new_tokens=16, **options)[0].text
            assert "".join(stream_text(model, PROCESSOR, document, stop=stop, max_new_tokens=16, **options)) == expected


def test_samples_and_beams_as_text(model):
    prompts = [Sample((Text("q", learn=False),)), DOCUMENTS[1]]
    drawn = generate_text(model, PROCESSOR, prompts, num_samples=3, temperature=1.0, max_new_tokens=4)
    assert len(drawn) == 6 and all(c.score is None for c in drawn)
    best = generate_text(model, PROCESSOR, prompts, num_samples=2, num_beams=3, max_new_tokens=4)
    assert [c.score for c in best[:2]] == sorted((c.score for c in best[:2]), reverse=True)


def test_the_end_token_ends_a_text(model, monkeypatch):
    prompt = Sample((Text("q", learn=False),))
    monkeypatch.setattr(PROCESSOR, "eos_id", model.generate(PROCESSOR([prompt]), max_new_tokens=1).tokens[0][0])
    assert generate_text(model, PROCESSOR, [prompt])[0].text == ""
    assert list(stream_text(model, PROCESSOR, prompt)) == []
