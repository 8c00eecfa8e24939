"""Damaged and hostile GGUF files: one line, soon and in little memory."""

from __future__ import annotations

import dataclasses
import struct
import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vlm.interop.gguf import load_gguf
from vlm.interop.gguf_file import GGUFFile

pytest.importorskip("gguf", reason="the extra gguf is not installed")
from gguf_fakes import DENSE, decoder, write_model


def header(tensors: int = 0, count: int = 0, version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, count)


def text(value: bytes, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(value) if length is None else length) + value


def row(dims: tuple[int, ...] = (1,), kind: int = 0, offset: int = 0, num_dims: int | None = None) -> bytes:
    count = len(dims) if num_dims is None else num_dims
    return text(b"t") + struct.pack(f"<I{len(dims)}QIQ", count, *dims, kind, offset)


ARRAY, STRING = struct.pack("<I", 9), struct.pack("<I", 8)
PAD = bytes(64)
HOSTILE = {
    "empty": (b"", "does not begin with GGUF"),
    "another magic": (b"GGML" + PAD, "does not begin with GGUF"),
    "only the magic": (b"GGUF", "cut short"),
    "version 1": (header(version=1) + PAD, "version 1"),
    "fields": (header(count=10**18) + PAD, "claims 1,000,000,000,000,000,000 fields"),
    "tensors": (header(10**18) + PAD, "claims 1,000,000,000,000,000,000 tensors"),
    "key": (header(count=1) + text(b"k", 10**15) + PAD, "bytes of text"),
    "text": (header(count=1) + text(b"k") + STRING + text(b"v", 10**15) + PAD, "bytes of text"),
    "not text": (header(count=1) + text(b"\xff\xfe") + PAD, "UTF-8"),
    "two lines": (header(count=1) + text(b"a\nb") + PAD, "no name"),
    "escape": (header(1) + text(b"\x1b[2J") + PAD, "no name"),
    "type": (header(count=1) + text(b"k") + struct.pack("<I", 77) + PAD, "unknown type 77"),
    "texts": (header(count=1) + text(b"k") + ARRAY + STRING + struct.pack("<Q", 10**17) + PAD, "texts"),
    "numbers": (header(count=1) + text(b"k") + ARRAY + struct.pack("<IQ", 4, 2**63) + PAD, "numbers"),
    "arrays of arrays": (header(count=1) + text(b"k") + ARRAY + ARRAY + struct.pack("<Q", 1) + PAD, "of type 9"),
    "twice": (header(count=2) + (text(b"k") + struct.pack("<II", 4, 1)) * 2 + PAD, "twice"),
    "tensor twice": (header(2) + row() * 2 + PAD, "twice"),
    "dimensions": (header(1) + row(num_dims=10**9) + PAD, "1000000000 dimensions"),
    "no dimension": (header(1) + row((), num_dims=0) + PAD, "0 dimensions"),
    "empty axis": (header(1) + row((0, 4)) + PAD, "not made of"),
    "half a block": (header(1) + row((33,), 2) + PAD, "not made of"),
    "huge": (header(1) + row((2**63, 2**63)) + PAD, "cut short"),
    "outside": (header(1) + row((4,), 0, 2**60) + PAD, "cut short"),
    "kind": (header(1) + row((4,), 999) + PAD, "unknown type 999"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_one_line_at_once(tmp_path, name):
    data, words = HOSTILE[name]
    path = tmp_path / "m.gguf"
    path.write_bytes(data)
    started = time.process_time()
    with pytest.raises(ValueError, match=words) as error:
        load_gguf(path)
    assert time.process_time() - started < 1 and "\n" not in str(error.value) and "m.gguf" in str(error.value)


def test_tensors_that_share_their_bytes_are_refused(tmp_path):
    rows = b"".join(text(str(i).encode()) + struct.pack("<IQIQ", 1, 64, 0, 0) for i in range(50))
    (tmp_path / "m.gguf").write_bytes(header(50) + rows + bytes(512))
    with pytest.raises(ValueError, match="overlap"):
        GGUFFile(tmp_path / "m.gguf")


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> bytes:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("gguf") / "m.gguf"
    return write_model(
        path, decoder(dataclasses.replace(DENSE, num_layers=1)), tokenizer__ggml__tokens=["a", "bc"]
    ).read_bytes()


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_a_damaged_file_is_a_model_or_one_line(whole, tmp_path_factory, data):
    """Cut anywhere, or with bytes of the header changed."""
    path = tmp_path_factory.getbasetemp() / "damaged.gguf"
    damaged = bytearray(whole)
    for at in data.draw(st.lists(st.integers(0, 1400), max_size=3)):
        damaged[at] = data.draw(st.integers(0, 255))
    path.write_bytes(damaged[: data.draw(st.integers(0, len(whole)) | st.just(len(whole)))])
    started = time.process_time()
    try:
        load_gguf(path)
    except ValueError as error:
        assert "\n" not in str(error)
    assert time.process_time() - started < 2
