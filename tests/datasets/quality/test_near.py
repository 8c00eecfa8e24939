import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from quality_fakes import WORDS, changed, prose

from datasets.quality import words
from datasets.quality.near import BANDS, PERMUTATIONS, BandIndex, minhash
from datasets.quality.words import Digest, matches, ngrams, walk, walk_ngrams, word_hashes


def digest(text):
    total = Digest()
    for chunk in walk(text):
        total.add(chunk)
    return total.value


def signature(text):
    return minhash(ngrams(word_hashes(words.words(text)), 3))


def jaccard(a, b):
    a, b = ({tuple(w[i : i + 3]) for i in range(len(w) - 2)} for w in (words.words(a), words.words(b)))
    return len(a & b) / len(a | b)


def test_words_hash_the_same_in_every_process():
    assert word_hashes(["the", "漢"]).tolist() == [0x2E3A97906CABDA5E, 0xADB36433C229E33F]
    assert words.words("Don’t ＡＢＣ straße_1 漢字かな") == ["don", "t", "abc", "straße_1", "漢", "字", "か", "な"]


def test_digest_ignores_case_width_and_white_space_alone():
    assert digest("Ｈello,\n\n World ") == digest("hello, world")
    assert digest("hello world") != digest("hello, world") != digest("hello, worlds")


@given(st.lists(st.sampled_from(WORDS[:50]), max_size=40), st.integers(1, 9), st.integers(20, 60))
@settings(max_examples=60, deadline=None)
def test_ngrams_of_chunks_are_those_of_the_whole(split, n, size):
    text = "\n".join(split)
    whole = ngrams(word_hashes(split), n)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(words, "CHUNK", size)
        assert np.array_equal(np.concatenate([*walk_ngrams(text, n), np.zeros(0, np.uint64)]), whole)
    pairs = {tuple(split[i : i + n]) for i in range(len(split) - n + 1)}
    assert len(np.unique(whole)) == len(pairs)


def test_matches():
    known = np.array([3, 5, 5, 9], np.uint64)
    hit, places = matches(np.array([5, 4, 10, 3], np.uint64), known)
    assert hit.tolist() == [True, False, False, True] and places[[0, 3]].tolist() == [1, 0]
    assert not matches(known, known[:0])[0].any()


@pytest.mark.parametrize("share", [0.02, 0.1, 0.3])
def test_signatures_estimate_the_jaccard_similarity(share):
    errors = []
    for seed in range(30):
        a, b = prose(seed), changed(prose(seed), share, seed)
        errors.append((signature(a) == signature(b)).mean() - jaccard(a, b))
    assert abs(np.mean(errors)) < 0.03 and np.std(errors) < 0.06


def test_the_index_finds_what_shares_a_band_and_only_that():
    """Against a search through everything, over the growth of the tables, with many equal bands in one bucket."""
    rng = np.random.default_rng(0)
    signatures = rng.integers(0, 40, (3000, 8), np.uint16)
    index = BandIndex(8, 4, np.uint16, keyed=4)
    for number, one in enumerate(signatures):
        assert index.add(one) == number
    probe = np.array([41, 7, 42, 43, 1, 1, 1, 1], np.uint16)
    sharing = np.flatnonzero((signatures[:, :4] == probe[:4]).any(axis=1))
    found, stored = index.candidates(probe)
    wanted = sharing[-64:] if len(sharing) > 64 else sharing
    assert set(wanted) <= set(found) and len(found) < 300
    assert np.array_equal(stored, signatures[found]) and (np.diff(found) > 0).all()
    assert len(index) == 3000 and index.nbytes < 3000 * 2 * (16 + 4 * 4 + 4 * 4) * 1.5


def test_near_duplicates_are_found_and_others_are_not():
    """Recall of texts with 10 % of their words changed; no false finds among texts of one vocabulary."""
    index = BandIndex(PERMUTATIONS, BANDS, np.uint32)
    texts = [prose(seed) for seed in range(150)]
    false = 0
    for text in texts:
        one = signature(text)
        false += (index.candidates(one)[1] == one).mean(axis=1).max(initial=0) >= 0.5
        index.add(one)
    found = 0
    for number, text in enumerate(texts):
        one = signature(changed(text, 0.1, number))
        numbers, others = index.candidates(one)
        alike = (others == one).mean(axis=1)
        found += bool(len(numbers)) and alike.max() >= 0.5 and numbers[alike.argmax()] == number
    assert false == 0 and found >= 0.85 * len(texts)
