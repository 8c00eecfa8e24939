"""What the profiles that shipped first generate never changes: figures of models trained on them stay comparable."""

import hashlib

import pytest

from datasets.charts.draw import render
from datasets.charts.held_out import held_out_items
from datasets.charts.profile import PROFILES, make_profile
from datasets.charts.reading import WordSource
from datasets.charts.samples import ChartSource, TableSource
from datasets.charts.spec import make_spec
from vlm.image import open_image
from vlm.sample import Image, Text

FROZEN = {  # made before stacked bars, areas and scatter joined
    "sight": "b4dcba91d44122e413c39f1b",
    "glance": "ab1470d306c7834310ff8c77",
    "read": "c6ceb5648ab0f39a3475d23f",
}


def content(profile):
    """A hash of the first 200 samples of both sources and of 100 held-out items. Of pictures with text the sizes alone: their
    glyphs are FreeType's."""
    blake = hashlib.blake2b(digest_size=12)
    for source in (ChartSource(profile=profile), TableSource(profile=profile)):
        for index in range(200):
            sample = source.get(0, index)
            blake.update(sample.key.encode())
            for segment in sample.segments:
                blake.update(pixels(segment.data) if isinstance(segment, Image) else f"{segment.text}|{segment.learn}".encode())
    for item in held_out_items(0, 100, profile):
        blake.update(repr((item.id, item.question, item.answer, item.rationale, item.table_text)).encode() + pixels(item.image))
    return blake.hexdigest()


def pixels(data):
    picture = open_image(data)
    return repr(picture.size).encode() + (picture.tobytes() if max(picture.size) <= 64 else b"")


@pytest.mark.parametrize("profile", FROZEN)
def test_the_first_profiles_are_as_they_were(profile):
    assert content(profile) == FROZEN[profile]


def test_they_draw_the_first_types_with_our_own_renderer():
    for name in FROZEN:
        assert set(PROFILES[name].types) <= {"vertical_bar", "horizontal_bar", "grouped_bar", "line", "pie"}
        assert PROFILES[name].renderers == {"own": 1.0} and PROFILES[name].table_share == 0


SAID = {  # made before generated pictures went as specifications: all that is read and asked, in the loader's order
    "all": "9f8e71b5f40c71757af7acda",
    "reading": "a46e0dde81fa1d4c3a629446",
    "words": "fa0a9b8df14a103fa7e70571",
}
SHOWN = {  # pictures without text, at 96 pixels
    "sight": "ec34698dadc8398c486f7c76",
    "glance": "2241a45b17b5eb9e060ca76b",
    "all": "a5ada6ae0d66821b34b7325e",
}


def source_of(name):
    if name == "words":
        return WordSource(seed=3, words=(1, 4), side=256)
    return ChartSource(seed=3, profile=name, questions_per_chart=3, rationale_share=0.2)


def digest(parts):
    blake = hashlib.blake2b(digest_size=12)
    for part in parts:
        blake.update(part)
    return blake.hexdigest()


@pytest.mark.parametrize("name", SAID)
def test_samples_say_what_they_said(name):
    source = source_of(name)
    samples = [source.get(0, index) for index in range(400)]
    texts = [(s.key, s.source, [(t.text, t.learn) for t in s.segments if isinstance(t, Text)]) for s in samples]
    assert digest(repr(text).encode() for text in texts) == SAID[name]


@pytest.mark.parametrize("name", SHOWN)
def test_charts_without_text_look_as_they_did(name):
    profile = make_profile(name, side=(96, 96))
    pictures = (render(make_spec(3, index, "train", profile)) for index in range(200))
    assert digest(picture.tobytes() for picture in pictures) == SHOWN[name]
