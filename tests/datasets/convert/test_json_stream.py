import json
import math
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets.convert import json_stream
from datasets.convert.json_stream import list_values, object_items, values_under

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("json") / "a.json"


@settings(max_examples=200, deadline=None)
@given(st.lists(values, max_size=5), values, st.sampled_from([None, 1]), st.booleans(), st.integers(1, 20))
def test_agrees_with_json_whatever_the_window_cuts(path, rows, other, indent, ascii_only, window):
    before = json_stream.WINDOW
    json_stream.WINDOW = window
    try:
        for content in (rows, {"before": other, "list": [other], "rows": rows, "after": other}):
            text = json.dumps(content, indent=indent, ensure_ascii=ascii_only)
            path.write_text(text, encoding="utf-8", errors="replace")  # half a surrogate pair cannot be written
            content = json.loads(path.read_text("utf-8"))
            if isinstance(content, list):
                assert list(list_values(path)) == content
            else:
                assert dict(object_items(path)) == content and list(values_under(path, "rows")) == content["rows"]
    finally:
        json_stream.WINDOW = before


@pytest.mark.parametrize(
    "text",
    [
        "", "[", "[1", "[1,", "[1,]", "[1 2]", "[1]x", "[1][2]", "{}", '["a', "[tru]", "[1e]", "[01]", "[{]}", "[" * 99_999,
        "[" + "9" * 5000,
    ],
)  # fmt: skip
def test_what_is_no_list_is_said_in_a_line(text, path):
    path.write_text(text)
    with pytest.raises(ValueError, match=r"a\.json is no JSON") as error:
        list(list_values(path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "text", ["[]", "{", '{"a"', '{"a":', '{"a":1', '{"a":1,}', "{1:2}", '{"a":1}x', "{'a':1}", '{"a":1 "b":2}']
)
def test_what_is_no_object_is_said_in_a_line(text, path):
    path.write_text(text)
    for reader in (object_items, lambda path: values_under(path, "rows")):
        with pytest.raises(ValueError, match=r"a\.json is no JSON"):
            list(reader(path))


def test_a_list_that_is_not_there(path):
    path.write_text('{"rows": 1, "other": [1]}')
    with pytest.raises(ValueError, match=r"a\.json has no list 'rows'"):
        list(values_under(path, "rows"))


def test_bytes_that_are_no_text(path):
    path.write_bytes(b'\xef\xbb\xbf ["a\xff", 1]')
    assert list(list_values(path)) == ["a\udcff", 1]  # as a half surrogate, so that it can be counted
    path.write_text('["a"]', encoding="utf-16")
    with pytest.raises(ValueError, match="no JSON"):
        list(list_values(path))


def test_memory_does_not_grow_with_the_file(path):
    row = json.dumps({"text": "x" * 1000, "number": math.pi})
    with path.open("w") as file:
        file.write("[" + ",\n".join([row] * 20_000) + "]")
    tracemalloc.start()
    count = sum(1 for _ in list_values(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 20_000 and path.stat().st_size > 20e6 and peak < 8e6


def test_a_value_without_end_is_not_read_for_ever(path, monkeypatch):
    monkeypatch.setattr(json_stream, "MAX_VALUE", 1 << 20)
    monkeypatch.setattr(json_stream, "WINDOW", 1 << 16)
    path.write_text('["' + "x" * (8 << 20))
    tracemalloc.start()
    with pytest.raises(ValueError, match="no JSON: Unterminated string"):
        list(list_values(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6 << 20
