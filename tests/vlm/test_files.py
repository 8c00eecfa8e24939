"""Reading and writing of safetensors in shards, and of bounded JSON and text."""

from __future__ import annotations

import json
import weakref

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from vlm.files import INDEX, WEIGHTS, Weights, read_json, read_text, write_json, write_weights


def tensors(*sizes):
    return {f"t{i}": torch.arange(float(n)) + i for i, n in enumerate(sizes)}


@settings(max_examples=25, deadline=None)
@given(sizes=st.lists(st.integers(1, 40), min_size=1, max_size=12), limit=st.integers(1, 400))
def test_shards_hold_what_was_written_and_no_more_than_the_limit(sizes, limit, tmp_path_factory):
    directory = tmp_path_factory.mktemp("shards")
    written = tensors(*sizes)
    placed = write_weights(directory, written.items(), limit)
    found = Weights(directory)
    assert set(found) == set(written) == set(placed)
    assert all(torch.equal(found[name], tensor) for name, tensor in written.items())
    for file in set(placed.values()):
        here = [written[name].nbytes for name in written if placed[name] == file]
        assert sum(here) <= limit or len(here) == 1
    names = {p.name for p in directory.iterdir()}
    if len(set(placed.values())) == 1:
        assert names == {WEIGHTS}
    else:
        assert names == {INDEX, *placed.values()}
        index = json.loads((directory / INDEX).read_text())
        assert index == {"metadata": {"total_size": 4 * sum(sizes)}, "weight_map": placed}


def test_weights_that_stood_there_go_and_other_files_stay(tmp_path):
    write_weights(tmp_path, tensors(9, 9, 9).items(), 40)
    (tmp_path / "README.md").write_text("kept")
    write_weights(tmp_path, tensors(2).items())
    assert {p.name for p in tmp_path.iterdir()} == {WEIGHTS, "README.md"}
    assert set(Weights(tmp_path)) == {"t0"}


def test_one_shard_is_held_at_a_time(tmp_path):
    made = []

    def stream():
        for i in range(10):
            array = np.full(1000, i, dtype=np.float32)
            made.append(weakref.ref(array))  # a tensor of it keeps it alive
            yield f"t{i}", torch.from_numpy(array)
            del array
            assert sum(ref() is not None for ref in made) <= 3  # two of a shard, and the one after

    write_weights(tmp_path, stream(), 8000)
    assert len(Weights(tmp_path).files) == 5


def test_views_are_written_as_what_they_show(tmp_path):
    whole = torch.randn(4, 6)
    views = {"rows": whole[1:3], "turned": whole.T, "again": whole, "strided": whole[:, ::2]}
    write_weights(tmp_path, views.items())
    found = Weights(tmp_path)
    assert all(torch.equal(found[name], view) for name, view in views.items())
    assert (tmp_path / WEIGHTS).stat().st_size < 1000


def test_a_link_at_the_place_of_a_file_is_replaced(tmp_path):
    """As in a download's cache, where the files are links to others."""
    outside = tmp_path / "outside"
    outside.write_text("{}")
    (tmp_path / "config.json").symlink_to(outside)
    write_json(tmp_path / "config.json", {"a": 1})
    assert outside.read_text() == "{}"
    assert json.loads((tmp_path / "config.json").read_text()) == {"a": 1}


def test_shape_and_names_are_known_without_reading(tmp_path):
    save_file({"a": torch.zeros(2, 3, dtype=torch.bfloat16), "b": torch.zeros(4, dtype=torch.int64)}, tmp_path / WEIGHTS)
    weights = Weights(tmp_path)
    assert (len(weights), "a" in weights, "c" in weights) == (2, True, False)
    assert weights.shape("a") == (2, 3)
    assert weights["a"].dtype == torch.bfloat16
    weights.release()
    assert weights["a"].shape == (2, 3)
    with pytest.raises(ValueError, match="'b' is I64"):
        weights["b"]


def test_an_empty_tensor_is_refused(tmp_path):
    save_file({"a": torch.zeros(0, 3)}, tmp_path / WEIGHTS)
    with pytest.raises(ValueError, match=r"'a' of shape .* is empty"):
        Weights(tmp_path)


def test_no_shard_of_no_size(tmp_path):
    with pytest.raises(ValueError, match="max_shard_bytes 0"):
        write_weights(tmp_path, tensors(1).items(), 0)


@given(
    value=st.dictionaries(
        st.text(),
        st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner), max_leaves=5),
    )
)
@settings(max_examples=25, deadline=None)
def test_json_is_read_as_written(value, tmp_path_factory):
    path = tmp_path_factory.mktemp("json") / "x.json"
    write_json(path, value)
    assert read_json(path) == value


def test_text_is_bounded(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("four")
    assert read_text(path, 4) == "four"
    with pytest.raises(ValueError, match=r"a\.txt is larger than 3 bytes"):
        read_text(path, 3)
    with pytest.raises(ValueError, match="does not exist"):
        read_text(tmp_path)
