"""What the profiles that shipped first generate never changes: figures of models trained on them stay comparable."""

import hashlib
import io

import PIL.Image
import pytest

from datasets.charts.held_out import held_out_items
from datasets.charts.profile import PROFILES
from datasets.charts.samples import ChartSource, TableSource
from vlm.sample import Image

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


def pixels(png):
    picture = PIL.Image.open(io.BytesIO(png))
    return repr(picture.size).encode() + (picture.tobytes() if max(picture.size) <= 64 else b"")


@pytest.mark.parametrize("profile", FROZEN)
def test_the_first_profiles_are_as_they_were(profile):
    assert content(profile) == FROZEN[profile]


def test_they_draw_the_first_types_with_our_own_renderer():
    for name in FROZEN:
        assert set(PROFILES[name].types) <= {"vertical_bar", "horizontal_bar", "grouped_bar", "line", "pie"}
        assert PROFILES[name].renderers == {"own": 1.0} and PROFILES[name].table_share == 0
