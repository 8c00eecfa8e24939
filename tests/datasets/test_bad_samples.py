"""Everything that web-scale shards hold besides samples: read right, or left out and counted by source and reason."""

import gc
import io
import tarfile
import tracemalloc
import zlib

import numpy as np
import PIL.Image
import pytest
from dataset_fakes import Words, png, processor

from datasets.counts import Counts
from datasets.loader import MixtureLoader
from datasets.mixture import Mixture
from datasets.pack import Lane
from datasets.shards import ShardSource
from datasets.source import BadSample
from vlm.sample import Image, Sample, Text

PROCESSOR = processor()
RED = PIL.Image.new("RGB", (40, 20), "red")


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def shard(path, members):
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return ShardSource(path, shuffle=False, name="web")


def pair(image, text=b"a caption"):
    return [("0.jpg", image), ("0.txt", text)]


def packed(source, **options):
    lane, total, documents = Lane(Mixture([source], [1], [1]), PROCESSOR, lane=0, lanes=1, length=64, **options), Counts(), []
    while (step := lane.row())[0] or step[1].drawn or step[1].skipped:
        documents += step[0]
        total += step[1]
    return documents, total


def palette():
    image = RED.convert("P")
    image.info["transparency"] = image.getpixel((0, 0))
    return encoded(image, transparency=image.getpixel((0, 0)))


def animation():
    return encoded(RED, "GIF", save_all=True, append_images=[PIL.Image.new("RGB", (40, 20), "blue")])


def turned():
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    return encoded(RED, "JPEG", exif=exif)


def hundred_megapixels():
    return encoded(PIL.Image.new("L", (10_000, 10_000), 255))


@pytest.mark.parametrize(
    "make",
    [
        lambda: encoded(RED.convert("CMYK"), "JPEG"),
        palette,
        animation,
        turned,
        lambda: encoded(PIL.Image.fromarray(np.full((20, 40), 60_000, np.uint16))),
        hundred_megapixels,
    ],
    ids=["cmyk", "palette-with-transparency", "animation", "exif", "16-bit", "100-megapixel"],
)
def test_pictures_of_any_kind_are_used(make, tmp_path):
    documents, counts = packed(shard(tmp_path / "a.tar", pair(make())))
    assert counts.images == 1 and not counts.skipped and documents[0].media[0][1].shape == (1, 3, 4, 4)


def bomb():
    data = bytearray(encoded(RED))
    data[16:24] = (60_000).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    return bytes(data)


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        (pair(encoded(RED, "JPEG")[:400]), "broken media"),
        (pair(bomb()), "broken media"),
        (pair(b""), "broken media"),
        (pair(b"<html>404</html>"), "broken media"),
        (pair(png(1), b""), "nothing to learn"),
        (pair(png(1), b" \n"), "nothing to learn"),
        (pair(png(1), b"caf\xe9"), "not UTF-8"),
        ([("0.json", b'{"segments": [{"text": "caf\xe9"}]}')], "bad record"),
        ([("0.json", b"")], "bad record"),
        ([("0.json", b'{"segments": []}')], "nothing to learn"),
        ([("0.jpg", png(1))], "unknown layout"),
        ([("0.json", b'{"width": 3}')], "unknown layout"),
        ([("0.json", b'{"segments": [{"image": "0.png"}, {"text": "x"}]}')], "bad record"),
        ([("0.json", b'{"segments": [{"text": "\\ud800"}]}')], "broken media"),
    ],
)
def test_what_cannot_be_used_is_counted_and_told(members, reason, tmp_path):
    source = shard(tmp_path / "a.tar", [*members, ("1.txt", b"a good one")])
    documents, counts = packed(source)
    assert counts.skipped == {("web", reason): 1} and counts.drawn == {"web": 2} and len(documents) == 1
    (example,) = counts.examples
    assert example[:2] == ("web", reason) and example.detail.startswith("0") and "\n" not in example.detail


class Things(Words):
    """Every second picture is none of the kinds that a sample may hold."""

    def get(self, epoch, index):
        wrong = (np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), "picture.png", None)[index // 2 % 4]
        return Sample((Image(wrong if index % 2 else png(index)), Text("what")), f"thing {index}")


@pytest.mark.parametrize("workers", [0, 1])
def test_what_is_no_picture_at_all_is_counted_as_broken_media(workers):
    mixture = Mixture([Things("t", 8)], [1], [1])
    step = next(iter(MixtureLoader(mixture, PROCESSOR, rows=1, length=64, workers=workers)))
    assert step.counts.skipped == {("t", "broken media"): 4} and step.counts.images == 4
    said = {example.detail for example in step.counts.examples}
    assert "thing 1: a picture's pixels are uint8 [H, W, 3], not uint8 [4, 4]" in said
    assert "thing 5: a picture is encoded bytes, a PIL image, uint8 pixels or a Drawing, not str" in said
    assert not any("\n" in detail for detail in said)


def test_a_caption_with_a_byte_order_mark(tmp_path):
    assert shard(tmp_path / "a.tar", pair(png(1), "\ufeffcaption".encode())).get(0, 0).segments[1].text == "caption"


def test_a_text_without_a_picture_is_text(tmp_path):
    _, counts = packed(shard(tmp_path / "a.tar", [("0.txt", b"alone"), *[("1.jpg", png(1)), ("1.txt", b"both")]]))
    assert counts.documents == 2 and counts.images == 1


def test_more_images_than_a_row_holds_are_spread_over_rows(tmp_path):
    record = b'{"segments": [' + b", ".join(b'{"image": "%d.png"}, {"text": "x"}' % i for i in range(9)) + b"]}"
    source = shard(tmp_path / "a.tar", [("0.json", record), *((f"0.{i}.png", png(i)) for i in range(9))])
    lane = Lane(Mixture([source], [1], [1]), PROCESSOR, lane=0, lanes=1, length=64, max_images=4)
    images = [lane.row()[1].images for _ in range(4)]
    assert sum(images) == 9 and max(images) <= 4


class Mixed(Words):
    """Some text, some bad samples, for ever new keys."""

    def get(self, epoch, index):
        if index % 7 == 3:
            raise BadSample("rotten", f"number {index}")
        return Sample((Text(f"sample {index}"),), str(index))


def growth(samples: int) -> int:
    """Bytes that a lane holds more after all samples than after the first tenth."""
    lane = Lane(Mixture([Mixed("m", samples)], [1], [1]), PROCESSOR, lane=0, lanes=1, length=256)
    tracemalloc.start()
    held = 0
    while (step := lane.row())[0]:
        if not held and lane.draws > samples // 10:
            del step
            gc.collect()
            held = tracemalloc.get_traced_memory()[0]
    gc.collect()
    more = tracemalloc.get_traced_memory()[0] - held
    tracemalloc.stop()
    return more


def test_memory_is_flat():
    assert growth(8_000) < 50_000


@pytest.mark.slow
def test_memory_is_flat_over_a_million_samples():
    assert growth(1_000_000) < 50_000
