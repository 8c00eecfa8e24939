import contextlib
import errno
import io
import itertools
import json
import multiprocessing
import os
import random
import shutil
import tarfile
import tracemalloc
from collections import Counter

import pytest
from dataset_fakes import png
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets import shard_index, shard_scan, shards, tar_members
from datasets.charts.reading import WordSource
from datasets.members import from_members, to_members
from datasets.shard_index import LINE, index_shard
from datasets.shards import ShardSource, ShardWriter, find_shards
from datasets.source import BadSample
from vlm.image import open_image
from vlm.sample import Image, Sample, Text, Video

pictures = st.integers(0, 255).map(png)
segments = st.lists(
    st.one_of(
        st.builds(Text, st.text(), st.booleans()),
        st.builds(Image, pictures),
        st.lists(pictures, min_size=1, max_size=3).map(lambda f: Video(tuple(f), tuple(0.5 * i for i in range(len(f))))),
    ),
    min_size=1,
    max_size=6,
).map(tuple)


def write(folder, samples, name="train", **options):
    with ShardWriter(folder, name, **options) as writer:
        for sample in samples:
            writer.write(sample)
    return [folder / shard for shard in writer.shards]


def pages(count):
    return [Sample((Image(png(i % 256)), Text(f"page {i}")), key=f"p/{i}.x") for i in range(count)]


def add(tar, name, data=b"x", **fields):
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for field, value in fields.items():
        setattr(info, field, value)
    tar.addfile(info, io.BytesIO(data))


def places(path):
    index = index_shard(path)
    return [edge for number in range(len(index)) for edge in index.place(number)]


def texts(source):
    return [source.get(0, i).segments[-1].text for i in range(len(source))]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(segments, st.text(max_size=30)), min_size=1, max_size=5))
def test_every_sample_comes_back(tmp_path_factory, specs):
    folder = tmp_path_factory.mktemp("shards")
    written = [Sample(parts, key) for parts, key in specs]
    write(folder, written)
    source = ShardSource(folder, shuffle=False)
    for i, sample in enumerate(written):
        read = source.get(0, i)
        assert read.segments == sample.segments and read.source == "train"
        assert read.key == (sample.key or f"{i:08d}_")


def test_pil_images_and_meta(tmp_path):
    picture = open_image(png(7))
    write(tmp_path, [Sample((Image(picture), Text("x")), "k", meta={"part": "human"})])
    sample = ShardSource(tmp_path).get(0, 0)
    assert open_image(sample.segments[0].data).tobytes() == picture.tobytes() and sample.meta == {"part": "human"}


def test_drawings_are_written_as_png(tmp_path):
    (picture,) = (segment for segment in WordSource().get(0, 5).segments if isinstance(segment, Image))
    write(tmp_path, [Sample((picture, Video((picture.data,), (0.5,)), Text("x")), "k")])
    image, clip, _ = ShardSource(tmp_path).get(0, 0).segments
    assert image.data[:4] == b"\x89PNG" and clip == Video((image.data,), (0.5,))
    assert open_image(image.data).tobytes() == picture.data.render().tobytes()


def test_the_same_samples_give_the_same_bytes_and_stale_shards_go(tmp_path):
    write(tmp_path, pages(9), max_samples=2)
    paths = write(tmp_path, pages(5), max_samples=2)
    again = write(tmp_path / "again", pages(5), max_samples=2)
    assert [p.read_bytes() for p in paths] == [p.read_bytes() for p in again]
    assert sorted(p.name for p in tmp_path.glob("train-*")) == [f"train-00000{i}.tar" for i in range(3)]


def test_an_interrupted_run_leaves_the_shards_of_the_earlier_one(tmp_path):
    paths = write(tmp_path, pages(9), max_samples=2)
    before = [p.read_bytes() for p in paths]
    with pytest.raises(KeyboardInterrupt), ShardWriter(tmp_path, "train", max_samples=2) as writer:
        for page in pages(20)[15:]:
            writer.write(page)
        raise KeyboardInterrupt
    assert [p.read_bytes() for p in paths] == before and sorted(tmp_path.iterdir()) == paths


def test_each_epoch_shows_all_in_a_new_order(tmp_path):
    write(tmp_path, pages(23), max_samples=5)
    source = ShardSource(tmp_path, seed=3)
    orders = [[source.get(epoch, i).key for i in range(23)] for epoch in range(3)]
    assert all(sorted(order) == sorted(orders[0]) for order in orders) and len(set(map(tuple, orders))) == 3
    assert orders[1] == [ShardSource(tmp_path, seed=3).get(1, i).key for i in range(23)]


def test_a_shard_limited_by_bytes(tmp_path):
    big = [Sample((Text("x" * 1000),), str(i)) for i in range(6)]
    assert len(write(tmp_path, big, max_bytes=2500)) == 3


def test_folder_pattern_and_list(tmp_path):
    write(tmp_path, pages(3), "train", max_samples=1)
    write(tmp_path, pages(2), "val")
    assert len(find_shards(tmp_path)) == 4
    assert len(ShardSource(tmp_path / "train-*.tar")) == 3
    assert len(ShardSource([tmp_path / "train-000001.tar", str(tmp_path / "val-*")])) == 3
    with pytest.raises(ValueError, match=r"no shards at .*missing"):
        ShardSource(tmp_path / "missing")


def test_plain_webdataset_pairs_and_unknown_layouts(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        add(tar, "1.jpg", png(1))
        add(tar, "1.json", b'{"width": 4}')
        add(tar, "1.txt", b"a caption")
        add(tar, "2.txt", b"text alone")
        add(tar, "3.npy")
        add(tar, "4.json", b"[1]")
        add(tar, "5.json", b'{"segments": [{"image": "0.png"}]}')
        add(tar, "6.json", b"[" * 100_000)
        for i, times in enumerate(("1" + "0" * 400, '"soon"', "null"), 7):
            add(tar, f"{i}.json", b'{"segments": [{"video": ["0.png"], "times": [%s]}]}' % times.encode())
            add(tar, f"{i}.0.png", png(1))
    source = ShardSource(tmp_path / "a.tar", shuffle=False)
    assert source.get(0, 0).segments == (Image(png(1)), Text("a caption"))
    assert source.get(0, 1).segments == (Text("text alone"),)
    for index, reason in [(2, "unknown layout"), *((i, "bad record") for i in range(3, 9))]:
        with pytest.raises(BadSample) as error:
            source.get(0, index)
        assert error.value.reason == reason and "\n" not in str(error.value)


def test_a_shard_cut_anywhere_gives_the_whole_samples_before_the_cut(tmp_path, caplog):
    (path,) = write(tmp_path, pages(20))
    whole = path.read_bytes()
    ends = places(path)[1::2]
    for size in [*random.Random(0).sample(range(len(whole)), 40), ends[4], ends[4] + 100]:
        path.write_bytes(whole[:size])
        complete = sum(end <= size for end in ends)
        if not complete:
            continue
        source = ShardSource(path, shuffle=False)
        for i in range(len(source)):
            if i < complete:
                assert source.get(0, i).segments[-1].text == f"page {i}"
            else:  # begun, but not whole
                with pytest.raises(BadSample):
                    source.get(0, i)
        if size < ends[-1] + 512:
            assert source.cut == [path]
    assert "is cut off: the" in caplog.text


def test_garbage_in_the_middle_and_no_archive_at_all(tmp_path):
    (path,) = write(tmp_path, pages(5))
    data = bytearray(path.read_bytes())
    start = places(path)[6]
    data[start : start + 512] = b"\xff" * 512
    path.write_bytes(data)
    source = ShardSource(path, shuffle=False)
    assert texts(source) == ["page 0", "page 1", "page 2"] and source.cut == [path]
    for data in (b"", b"no archive" * 200):
        path.write_bytes(data)
        with pytest.raises(ValueError, match="no samples in"):
            ShardSource(path)


@pytest.mark.parametrize("header", [{"GNU.sparse.map": "x"}, {"GNU.sparse.size": "x"}, {"size": "9" * 30}])
def test_a_header_that_cannot_be_read_ends_the_shard(tmp_path, header, caplog):
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        add(tar, "1.txt", b"one")
        add(tar, "2.txt", b"two", pax_headers=header)
    source = ShardSource(tmp_path / "a.tar", shuffle=False)
    assert texts(source) == ["one"] and source.cut and "a.tar is cut off" in caplog.text


def test_hostile_members_are_passed_over_and_counted(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        add(tar, "1.txt", b"one")
        add(tar, "../../evil.txt")
        add(tar, "/etc/evil.txt")
        add(tar, "folder", b"", type=tarfile.DIRTYPE)
        add(tar, "2.txt", b"", type=tarfile.SYMTYPE, linkname="/etc/passwd")
        add(tar, "3.txt", b"", type=tarfile.LNKTYPE, linkname="1.txt")
        add(tar, "4.txt", b"", type=tarfile.CHRTYPE)
        add(tar, "nothing", b"no extension")
        add(tar, "folder/5.txt", b"five")
    source = ShardSource(tmp_path / "a.tar", shuffle=False)
    assert texts(source) == ["one", "five"] and not source.cut
    assert source.skipped == {"no plain file": 3, "name leads elsewhere": 2, "name without a key and an extension": 1}
    assert source.passed_over == source.skipped
    assert [e.detail.split(": ")[1] for e in source.examples if e.reason == "no plain file"] == ["2.txt", "3.txt", "4.txt"]


def test_giant_claims(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "MAX_SAMPLE", 4096)
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        add(tar, "1.txt", b"one")
        add(tar, "2.txt", b"x" * 5000)
        add(tar, "3.txt", b"three")
    data = (tmp_path / "a.tar").read_bytes()
    source = ShardSource(tmp_path / "a.tar", shuffle=False)
    with pytest.raises(BadSample, match="too large"):
        source.get(0, 1)
    assert source.get(0, 2).segments[0].text == "three"
    with tarfile.open(tmp_path / "b.tar", "w", format=tarfile.GNU_FORMAT) as tar:
        add(tar, "1.txt", b"one")
        add(tar, "n" * (shard_scan.MAX_HEADER + 600) + ".txt", b"a name of a megabyte")
    assert len(ShardSource(tmp_path / "b.tar")) == 1
    header = tarfile.TarInfo("9.txt")
    header.size = 1 << 40
    (tmp_path / "c.tar").write_bytes(data[:1024] + header.tobuf() + b"x")
    assert len(ShardSource(tmp_path / "c.tar")) == 1


def opened_anew(path):
    """As in a new process."""
    shard_index._index.cache_clear()
    index = index_shard(path)
    return index.facts, places(path)


@pytest.fixture
def scans(monkeypatch):
    """How often headers were walked."""
    counted, scan = Counter(), shard_index.scan
    monkeypatch.setattr(shard_index, "scan", lambda *a: counted.update("s") or scan(*a))
    return counted


def forgeries(whole: bytes):
    line, numbers = json.loads(whole[:LINE]), whole[LINE:]
    yield from (b"", b"[]", b"[" * 99_999, b"9" * 9_999, b"\xff", whole[:LINE], whole[:-1], whole + b"x" * 16)
    facts = [{"stamp": stamp} for stamp in ([0, 0], "x", [1], None)]
    facts += [{"samples": n} for n in (-1, 4, 6, 1 << 60, "5", 5.0, None)]
    facts += [{"skipped": s} for s in ({"other": 1}, {"no plain file": -1}, {"no plain file": "1"}, {"x": "y"}, [], None)]
    facts += [{"examples": {"no plain file": names}} for names in (["x"] * 6, ["a\nWARNING: forged"], [3], ["x" * 999])]
    facts += [{"digest": "x" * 32}, {"digest": "a" * 33}, {"cut": 3}]
    yield from (json.dumps(line | one).encode().ljust(LINE) + numbers for one in facts)


def test_the_index_is_kept_used_and_made_anew(tmp_path, scans):
    (path,) = write(tmp_path, pages(5))
    first = opened_anew(path)
    assert opened_anew(path) == first and scans["s"] == 1
    kept = tmp_path / ".train-000000.tar.index"
    whole = kept.read_bytes()
    forged = list(forgeries(whole))
    for data in forged:
        kept.write_bytes(data)
        assert opened_anew(path) == first, data[:200]
    assert scans["s"] == 1 + len(forged) and kept.read_bytes() == whole
    write(tmp_path, pages(7))
    assert len(places(path)) == 14


@pytest.mark.parametrize("pair", [(5, 2), (0, 1 << 50), (-512, 512), (0, 0), (1 << 62, (1 << 62) + 512)])
def test_an_index_that_leads_elsewhere_is_one_line(tmp_path, pair):
    (path,) = write(tmp_path, pages(5))
    opened_anew(path)
    kept = tmp_path / ".train-000000.tar.index"
    kept.write_bytes(kept.read_bytes()[:LINE] + b"".join(n.to_bytes(8, "little", signed=True) for n in pair) * 5)
    shard_index._index.cache_clear()
    with pytest.raises(ValueError, match=r"^index .*train-000000.tar.index of shard .* is damaged"):
        ShardSource(path).get(0, 0)


def test_a_giant_index_is_not_read(tmp_path):
    (path,) = write(tmp_path, pages(5))
    first, kept = opened_anew(path), tmp_path / ".train-000000.tar.index"
    line = json.loads(kept.read_bytes()[:LINE])
    with kept.open("wb") as file:
        file.write(json.dumps(line | {"samples": (3 << 30) // 16}).encode().ljust(LINE))
        file.truncate(LINE + (3 << 30))
    tracemalloc.start()
    assert opened_anew(path) == first and tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()


def test_a_folder_that_cannot_be_written_to_has_its_indices_in_the_cache(tmp_path, monkeypatch, scans, caplog):
    paths = write(tmp_path / "set", pages(6), max_samples=2)
    monkeypatch.setenv("VLM_CACHE", str(tmp_path / "cache"))
    opened = type(paths[0]).open

    def refuse(self, mode="r", **options):
        if self.parent == tmp_path / "set" and ("x" in mode or "w" in mode):
            raise PermissionError(errno.EACCES, "Permission denied")
        return opened(self, mode, **options)

    monkeypatch.setattr(type(paths[0]), "open", refuse)
    first = [opened_anew(path) for path in paths]
    assert [opened_anew(path) for path in paths] == first and scans["s"] == 3
    assert caplog.text.count("indices of shards cannot be kept in") == 1
    assert not list((tmp_path / "set").glob(".*")) and len(list((tmp_path / "cache/indices").iterdir())) == 3
    monkeypatch.setattr(shard_index, "_keep", lambda *_: None)
    write(tmp_path / "set", pages(8), max_samples=2)
    assert len({tuple(texts(ShardSource(tmp_path / "set", shuffle=False))) for _ in range(5)}) == 1 and scans["s"] == 7


def test_a_set_is_opened_without_reading_its_places(tmp_path, scans):
    """What a billion samples would cost must not be read: neither at the start nor into memory."""
    paths = write(tmp_path, [Sample((Text("x"),), str(i)) for i in range(4000)], max_samples=2000)
    len(ShardSource(tmp_path))
    shard_index._index.cache_clear()
    tracemalloc.start()
    sources = [ShardSource(tmp_path, seed=seed) for seed in range(5)]
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert held < 30_000 and scans["s"] == 2 and {len(s) for s in sources} == {4000} and len(paths) == 2


def test_an_index_that_goes_while_it_is_used_is_made_anew(tmp_path):
    (path,) = write(tmp_path, pages(5))
    source = ShardSource(path, shuffle=False)
    for i in range(5):
        (tmp_path / ".train-000000.tar.index").unlink()
        assert source.get(0, i).segments[-1].text == f"page {i}"


def test_an_index_that_is_no_file_is_not_opened_and_a_link_not_followed(tmp_path):
    (path,) = write(tmp_path / "web", pages(5))
    first, kept, victim = opened_anew(path), path.with_name(f".{path.name}.index"), tmp_path / "victim"
    kept.unlink()
    os.mkfifo(kept)  # to open it would hang
    assert opened_anew(path) == first and not kept.is_fifo()
    victim.write_text("precious")
    for link in (kept, kept.with_name(f"{kept.name}.{os.getpid()}")):
        kept.unlink(missing_ok=True)
        link.symlink_to(victim)
        assert opened_anew(path) == first and victim.read_text() == "precious"


def test_two_processes_index_a_folder_at_once(tmp_path, monkeypatch):
    paths = write(tmp_path / "set", pages(60), max_samples=3)
    scan, tally = shard_index.scan, tmp_path / "tally"

    def counted(path):
        with tally.open("a") as file:
            file.write(f"{path.name}\n")
        return scan(path)

    monkeypatch.setattr(shard_index, "scan", counted)
    context = multiprocessing.get_context("fork")
    with context.Pool(4) as pool:
        found = pool.map(index_shard, [path for path in paths for _ in range(4)], chunksize=1)
    assert [index.facts for index in found[::4]] == [index_shard(path).facts for path in paths]
    assert all(a == b for a, b in zip(found[::4], found[3::4], strict=True))
    assert {path.suffix for path in (tmp_path / "set").iterdir()} == {".tar", ".index"}
    assert sorted(tally.read_text().split()) == [path.name for path in paths]  # one walks, the others wait


def test_a_full_disk_leaves_no_part_of_an_index(tmp_path, monkeypatch):
    (path,) = write(tmp_path, pages(3))

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(type(path), "replace", full)
    assert len(ShardSource(path)) == 3 and list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_written_to(tmp_path, monkeypatch):
    (path,) = write(tmp_path, pages(3))
    opened = type(path).open

    def refuse(self, mode="r", **options):
        if "x" in mode or "w" in mode:
            raise PermissionError(errno.EACCES, "read-only")
        return opened(self, mode, **options)

    monkeypatch.setattr(type(path), "open", refuse)
    assert len(ShardSource(path)) == 3 and not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("change", ["other", "same size", "shorter", "gone", "folder", "link to nothing"])
def test_a_shard_that_changes_while_it_is_read_is_one_line(tmp_path, change):
    first, second = write(tmp_path, pages(8), max_samples=4)
    source, data = ShardSource(tmp_path, shuffle=False), second.read_bytes()
    assert source.get(0, 5).segments[-1].text == "page 5"
    second.unlink()
    if change == "folder":
        second.mkdir()
    elif change == "link to nothing":
        second.symlink_to(tmp_path / "nothing")
    elif change != "gone":
        second.write_bytes({"other": first.read_bytes() + data, "same size": bytes(len(data)), "shorter": data[:-1024]}[change])
    with pytest.raises(ValueError, match=r"^source 'train': shard .*train-000001.tar (has changed|can no longer be)") as error:
        source.get(0, 5)
    assert "\n" not in str(error.value) and source.get(0, 3).segments[-1].text == "page 3"


def test_a_name_that_comes_again_begins_a_new_sample(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for text in (b"one", b"two"):
            add(tar, "0.txt", text)
            add(tar, "0.jpg", png(1))
    source = ShardSource(tmp_path / "a.tar", shuffle=False)
    assert [len(source.get(0, i).segments) for i in range(len(source))] == [2, 2] and texts(source) == ["one", "two"]


def test_a_name_that_comes_again_in_capitals(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for i in range(3):
            add(tar, "0.JPG", png(i))
            add(tar, "0.jpg", png(i + 3))
            add(tar, "0.TXT", b"text %d" % i)
        for _ in range(6):
            add(tar, "sample.txt", b"same")
    source = ShardSource(tmp_path / "a.tar", shuffle=False)
    assert len(source) == 12 and [len(source.get(0, i).segments) for i in (1, 3, 5)] == [2, 2, 2]


def test_archives_one_behind_the_other(tmp_path):
    paths = write(tmp_path / "parts", pages(6), max_samples=2)
    whole = tmp_path / "whole.tar"
    for filling in (b"", bytes(5120)):
        whole.write_bytes(filling.join(path.read_bytes() for path in paths))
        source = ShardSource(whole, shuffle=False)
        assert texts(source) == [f"page {i}" for i in range(6)] and not source.cut
    whole.write_bytes(b"".join(path.read_bytes() for path in paths)[:-9_000])
    source = ShardSource(whole, shuffle=False)
    assert len(source) >= 4 and source.cut == [whole]
    whole.write_bytes(paths[0].read_bytes() + b"no archive" * 200)
    source = ShardSource(whole, shuffle=False)
    assert texts(source) == ["page 0", "page 1"] and source.cut == [whole]


def test_a_sample_does_not_go_on_in_an_appended_archive(tmp_path):
    for name, member in (("a", "0.txt"), ("b", "0.jpg")):
        with tarfile.open(tmp_path / f"{name}.tar", "w") as tar:
            add(tar, member, png(1))
    whole = tmp_path / "whole.tar"
    whole.write_bytes((tmp_path / "a.tar").read_bytes() + (tmp_path / "b.tar").read_bytes())
    assert len(ShardSource(whole)) == 2


def test_blocks_keep_reads_together(tmp_path):
    write(tmp_path, pages(23), max_samples=5)
    source = ShardSource(tmp_path, seed=3, shuffle={"block": 5})
    orders = [[int(source.get(epoch, i).segments[-1].text[5:]) for i in range(23)] for epoch in range(3)]
    assert all(sorted(order) == list(range(23)) for order in orders) and len(set(map(tuple, orders))) == 3
    for order in orders:
        assert sum(a // 5 != b // 5 for a, b in itertools.pairwise(order)) == 4
    again = ShardSource(tmp_path, seed=3, shuffle={"block": 5})
    assert all(source.get(2, i).key == again.get(2, i).key for i in range(23))
    for shuffle in ({}, {"block": 0}, {"block": True}, {"block": "5"}, {"blok": 5}, {"block": 5, "x": 1}):
        with pytest.raises(ValueError, match=r"shuffle is .*want true, false or"):
            ShardSource(tmp_path, shuffle=shuffle)


def test_special_text_needs_leave(tmp_path):
    write(tmp_path, [Sample((Text("<|system|>", special=True), Text("x")), "k")])
    with pytest.raises(BadSample, match="special tokens"):
        ShardSource(tmp_path).get(0, 0)
    assert ShardSource(tmp_path, allow_special=True).get(0, 0).segments[0].special


def test_a_sample_that_no_reader_takes_is_not_written(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "MAX_SAMPLE", 10_000)
    with ShardWriter(tmp_path, "train") as writer:
        with pytest.raises(BadSample, match="sample too large: b"):
            writer.write(Sample((Text("x" * 9000),), "b"))
        writer.write(Sample((Text("x" * 7000),), "a"))
    assert len(ShardSource(tmp_path)) == 1


def tree(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.tar")}


def test_two_writers_of_one_name_do_not_mix(tmp_path):
    first, second = (ShardWriter(tmp_path, "train", max_samples=2) for _ in range(2))
    for i, (a, b) in enumerate(zip(pages(9), pages(20)[10:15], strict=False)):
        first.write(a)
        if i < 5:
            second.write(b)
    for page in pages(9)[5:]:
        first.write(page)
    first.close()
    assert len(ShardSource(tmp_path)) == 9
    second.close()
    assert texts(ShardSource(tmp_path, shuffle=False)) == [f"page {i}" for i in range(10, 15)]
    assert len(tree(tmp_path)) == 3 and not [p for p in tmp_path.iterdir() if p.is_dir()]


def die_while_writing(folder, count):
    writer = ShardWriter(folder, "train", max_samples=2)
    for page in pages(count):
        writer.write(page)
    os._exit(9)


def test_what_a_killed_writer_left_is_swept_but_not_what_a_living_one_writes(tmp_path):
    living = ShardWriter(tmp_path, "train")
    living.write(pages(1)[0])
    process = multiprocessing.get_context("fork").Process(target=die_while_writing, args=(tmp_path, 9))
    process.start()
    process.join()
    assert len([p for p in tmp_path.iterdir() if p.is_dir()]) == 2 and not tree(tmp_path)
    write(tmp_path, pages(3))
    assert len([p for p in tmp_path.iterdir() if p.is_dir()]) == 1
    living.close()
    assert len(ShardSource(tmp_path)) == 1 and not [p for p in tmp_path.iterdir() if p.is_dir()]


@pytest.mark.parametrize("survives", range(9))
def test_a_kill_in_the_middle_of_publishing_leaves_no_mixture(tmp_path, monkeypatch, survives):
    """Whatever was done until then, the folder holds the beginning of the old run or of the new one."""
    old = [p.read_bytes() for p in write(tmp_path, pages(8), max_samples=2)]
    new = [p.read_bytes() for p in write(tmp_path / "other", pages(16)[10:], max_samples=2)]
    done = itertools.count()

    def dying(call):
        def stop(self, *arguments, **options):
            if self.suffix == ".tar" and next(done) == survives:
                raise KeyboardInterrupt
            return call(self, *arguments, **options)

        return stop

    for call in ("unlink", "replace"):
        monkeypatch.setattr(type(tmp_path), call, dying(getattr(type(tmp_path), call)))
    with contextlib.suppress(KeyboardInterrupt):
        write(tmp_path, pages(16)[10:], max_samples=2)
    monkeypatch.undo()
    found = [path.read_bytes() for path in sorted(tmp_path.glob("*.tar"))]
    assert found in (old[: len(found)], new[: len(found)]) and (survives > 6 or found != new)


def test_a_fingerprint_tells_other_samples_but_not_another_place(tmp_path):
    write(tmp_path / "a", pages(9), max_samples=4)
    shutil.copytree(tmp_path / "a", tmp_path / "b", copy_function=shutil.copyfile)
    write(tmp_path / "c", [*pages(8), Sample((Image(png(8)), Text("page  8")), key="p/8.x")], max_samples=4)
    a, b, c = (ShardSource(tmp_path / name).fingerprint for name in "abc")
    assert a == b != c


@given(
    st.lists(
        st.one_of(st.builds(Text, st.text(), st.booleans(), st.booleans()), st.builds(Image, pictures)), min_size=1, max_size=6
    ),
    st.booleans(),
)
def test_members_keep_all_of_a_sample(parts, framed):
    sample = Sample(tuple(parts), "k", "s", framed=framed)
    members = to_members(sample)
    assert from_members("k", members, "s", allow_special=True) == sample
    record = json.loads(members["json"])
    assert ("framed" in record) == (not framed)
    assert [s.get("special", False) for s in record.get("segments", ())] == [isinstance(p, Text) and p.special for p in parts]


@pytest.mark.parametrize("value", [b"0", b"1", b'"x"', b"null", b"[]", b"{}"])
def test_only_true_and_false_change_a_chat(value):
    record = b'{"framed": %s, "segments": [{"text": "x", "special": %s}]}' % (value, value)
    assert from_members("k", {"json": record}, "s", allow_special=True) == Sample((Text("x"),), "k", "s")


names = st.sampled_from(["a.jpg", "00_x.0.jpg", ".a", "a", "a..b", "a.b.", "x/a.jpg", "é.jpg", "a b.txt", "_.a" * 33])
edits = st.lists(st.tuples(st.integers(0, 511), st.sampled_from(b"\0 07.x\xff")), max_size=2)


@settings(max_examples=500, deadline=None)
@given(
    names,
    st.sampled_from([0, 511, 8**11 - 1, 8**11]),
    st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT]),
    edits,
    st.booleans(),
)
def test_a_header_read_without_tarfile_is_what_tarfile_reads(name, size, kind, edits, summed):
    info = tarfile.TarInfo(name)
    info.size = min(size, 8**11 - 1) if kind == tarfile.USTAR_FORMAT else size
    header = bytearray(info.tobuf(kind)[-512:])
    for place, value in edits:
        header[place] = value
    if summed:
        header[148:156] = b" " * 8
        header[148:156] = b"%06o\0 " % sum(header)
    found = tar_members.plain_header(bytes(header))
    if found is not None:
        member = tarfile.TarInfo.frombuf(bytes(header), "utf-8", "surrogateescape")
        assert found == (member.name, member.size) and member.isreg() and not shard_scan.refused(member)
    elif not edits and size < 8**11:
        assert name not in ("a.jpg", "00_x.0.jpg")
