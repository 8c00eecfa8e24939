"""The layouts of others: read as they were meant, or refused; never a text in the place of a picture."""

import pytest
from dataset_fakes import png

from datasets import members
from datasets.members import from_members
from datasets.source import BadSample
from vlm.sample import Image, Sample, Text, Video


@pytest.mark.parametrize("ending", ["jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "ppm", "jp2", "jfif"])
def test_all_pictures_that_can_be_decoded_make_a_pair(ending):
    assert from_members("k", {ending: b"x", "txt": b"a caption"}, "s").segments == (Image(b"x"), Text("a caption"))


@pytest.mark.parametrize("others", [["image.jpg"], ["json"], ["npy"], ["jpg.txt"], ["mp4", "json"]])
def test_a_caption_without_its_picture_is_no_text(others):
    with pytest.raises(BadSample) as error:
        from_members("k", {"txt": b"a caption"} | dict.fromkeys(others, b"{}"), "s")
    assert error.value.reason == "member without partner" and others[0] in str(error.value)


def test_a_picture_may_have_more_beside_it():
    found = from_members("k", {"jpg": b"x", "json": b'{"width": 4}', "npy": b"y", "txt": b"a caption"}, "s")
    assert found.segments == (Image(b"x"), Text("a caption"))


def test_names_in_a_record_may_have_capitals():
    record = b'{"segments": [{"image": "0.PNG"}, {"video": ["1.Jpg"]}]}'
    found = from_members("k", {"json": record, "0.png": b"x", "1.jpg": b"y"}, "s")
    assert found.segments == (Image(b"x"), Video((b"y",)))


@pytest.mark.parametrize("segment", ['{"image": 3}', '{"image": null}', '{"video": [["x"]]}', '{"video": 3}'])
def test_names_of_other_types(segment):
    with pytest.raises(BadSample, match="bad record"):
        from_members("k", {"json": f'{{"segments": [{segment}]}}'.encode()}, "s")


def test_control_tokens_come_only_where_they_are_allowed():
    record = b'{"segments": [{"text": "<|system|>", "special": true}, {"text": "x"}]}'
    with pytest.raises(BadSample, match="`allow_special: true`") as error:
        from_members("k", {"json": record}, "s")
    assert error.value.reason == "special tokens"
    allowed = from_members("k", {"json": record}, "s", allow_special=True)
    assert allowed == Sample((Text("<|system|>", special=True), Text("x")), "k", "s")


def test_a_key_forges_no_line():
    for content in ({"npy": b""}, {"json": b"{"}, {"txt": b"", "a\nb": b""}, {"txt": b"\xff"}, {"json": b'{"segments": 3}'}):
        with pytest.raises(BadSample) as error:
            from_members("k\nWARNING: forged\x1b[2J", content, "s")
        assert str(error.value).isprintable()


STRUCTURE = b'{"segments": [%s]}' % (b"[]," * 1_500_000)
STRINGS = b'{"segments": [%s]}' % (b'"",' * 1_500_000)
QUOTES = b'{"segments": "' + b'\\"' * 3_000_000  # no end


@pytest.mark.parametrize("record", [STRUCTURE, STRINGS], ids=["lists", "strings"])
def test_a_record_of_too_many_parts_is_not_read(record, monkeypatch):
    monkeypatch.setattr(members.json, "loads", lambda _: pytest.fail("it was read"))
    with pytest.raises(BadSample, match="record too large"):
        from_members("k", {"json": record}, "s")


def test_one_text_may_be_as_long_as_it_likes():
    text = 'a "word", and [more]: ' * 500_000
    record = members.to_members(Sample((Text(text),), "k"))
    assert from_members("k", record, "s").segments == (Text(text),)
    with pytest.raises(BadSample, match="bad record"):
        from_members("k", {"json": QUOTES}, "s")


def test_a_picture_has_a_caption():
    with pytest.raises(BadSample, match="unknown layout"):
        from_members("k", {"jpg": png(1)}, "s")
