import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from datasets.tokenizer import first_texts, train_tokenizer
from vlm.processor import SPECIAL_TOKENS
from vlm.sample import Sample, Text

TEXTS = ["def add(a, b):\n    return a + b  # 1999\n" * 20, "The mean of 1999 and 2001 is 2000.\n" * 20]
TOKENIZER = train_tokenizer(TEXTS, 400)


@given(st.text())
def test_any_text_comes_back(text):
    TOKENIZER.encode_special_tokens = True
    ids = TOKENIZER.encode(text, add_special_tokens=False).ids
    assert TOKENIZER.decode(ids, skip_special_tokens=False) == text


@given(st.binary())
def test_any_bytes_come_back(data):
    text = data.decode("latin-1")  # every byte value as a character
    assert TOKENIZER.decode(TOKENIZER.encode(text, add_special_tokens=False).ids).encode("latin-1") == data


def test_digits_stand_alone():
    assert all(len(re.findall(r"\d", token)) <= 1 for token in TOKENIZER.get_vocab() if token not in SPECIAL_TOKENS)
    assert TOKENIZER.encode("in 1999.").tokens[-5:] == ["Ġ1", "9", "9", "9", "."]


def test_special_tokens_come_first_and_only_by_id():
    assert [TOKENIZER.token_to_id(t) for t in SPECIAL_TOKENS] == [0, 1, 2, 3]
    TOKENIZER.encode_special_tokens = True
    assert min(TOKENIZER.encode("<image><eos>").ids) > 3


def test_the_same_texts_give_the_same_tokenizer_saved_or_not(tmp_path):
    assert train_tokenizer(TEXTS, 400).to_str() == train_tokenizer(iter(TEXTS), 400).to_str()
    TOKENIZER.save(str(tmp_path / "tokenizer.json"))
    assert Tokenizer.from_file(str(tmp_path / "tokenizer.json")).to_str() == TOKENIZER.to_str()
    assert TOKENIZER.get_vocab_size() <= 400


def test_merges_shorten_the_text():
    assert len(TOKENIZER.encode(TEXTS[0]).ids) < len(TEXTS[0]) * 0.6


def test_too_small_a_vocabulary():
    with pytest.raises(ValueError, match="vocabulary of 259 tokens: it must hold 260"):
        train_tokenizer(TEXTS, 259)


class Broken:
    """The second sample holds half a surrogate pair."""

    name = "broken"

    def __len__(self):
        return 3

    def get(self, epoch, index):
        return Sample((Text(("some prose", "half an emoji \ud83d", "more")[index]),))


def test_a_sample_that_is_no_text_teaches_nothing():
    assert list(first_texts(Broken(), 3)) == ["some prose", "more"]
    train_tokenizer(first_texts(Broken(), 3), 400)
