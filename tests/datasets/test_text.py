import pytest
from hypothesis import given
from hypothesis import strategies as st

from datasets import text
from datasets.text import StdlibSource, chunks


@given(st.text(alphabet="ab \n", max_size=400), st.integers(5, 60))
def test_chunks_are_the_text_in_pieces(whole, size):
    pieces = list(chunks(whole, size))
    assert all(0 < len(p) <= size for p in pieces)
    assert whole.startswith("".join(pieces)) and not whole["".join(pieces).__len__() :].strip()


def test_chunks_end_with_lines():
    assert list(chunks("aaaa\nbbbb\ncccc\n", 10)) == ["aaaa\nbbbb\n", "cccc\n"]


def test_the_slice_has_the_asked_size_and_is_spread():
    source = StdlibSource(300_000)
    size = sum(len(t.encode()) for _, t in source.documents)
    assert 300_000 <= size < 300_000 + 4 * text.CHUNK
    files = {key.split("#")[0] for key, _ in source.documents}
    assert len(files) > 15 and len({f.split("/")[0] for f in files}) > 10
    assert not any(part in text.LEFT_OUT for f in files for part in f.split("/"))


def test_larger_slices_contain_smaller_ones_and_seeds_only_reorder():
    small, large = StdlibSource(50_000), StdlibSource(100_000, seed=5)
    assert large.documents[: len(small) - 1] == small.documents[:-1]
    assert [large.get(0, i).key for i in range(len(large))] != [large.get(1, i).key for i in range(len(large))]


def test_held_out_files_are_other_files():
    train, val = StdlibSource(None), StdlibSource(None, split="val")
    files = [{key.split("#")[0] for key, _ in s.documents} for s in (train, val)]
    assert not files[0] & files[1]
    assert 0.02 < len(files[1]) / len(files[0] | files[1]) < 0.1
    assert sum(len(t) for _, t in train.documents) > 5_000_000


@pytest.mark.parametrize(("options", "message"), [({"bytes": 0}, "bytes .* is 0"), ({"split": "test"}, "split .* is 'test'")])
def test_mistakes_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        StdlibSource(**options)
