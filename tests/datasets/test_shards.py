import io
import json
import random
import tarfile
from collections import Counter

import pytest
from dataset_fakes import png
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets import shard_index, shards
from datasets.shard_index import index_shard
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
    ends = index_shard(path).samples[1::2]
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
    start = index_shard(path).samples[6]
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
        add(tar, "n" * (shard_index.MAX_HEADER + 600) + ".txt", b"a name of a megabyte")
    assert len(ShardSource(tmp_path / "b.tar")) == 1
    header = tarfile.TarInfo("9.txt")
    header.size = 1 << 40
    (tmp_path / "c.tar").write_bytes(data[:1024] + header.tobuf() + b"x")
    assert len(ShardSource(tmp_path / "c.tar")) == 1


def test_the_index_is_kept_used_and_made_anew(tmp_path, monkeypatch):
    (path,) = write(tmp_path, pages(5))
    first = index_shard(path)
    scans = Counter()
    scan = shard_index._scan
    monkeypatch.setattr(shard_index, "_scan", lambda *a: scans.update("s") or scan(*a))
    assert index_shard(path) == first and not scans
    kept = tmp_path / ".train-000000.tar.index.json"
    record = json.loads(kept.read_text())
    for forged in [
        "",
        "[]",
        "[" * 99_999,
        *(json.dumps(record | {"samples": s}) for s in ([5, 2], [0], [0, 1 << 50], ["a", "b"], 3)),
    ]:
        kept.write_text(forged)
        assert index_shard(path) == first
    write(tmp_path, pages(7))
    assert len(index_shard(path).samples) == 14
    assert scans["s"] == 9


def test_a_folder_that_cannot_be_written_to(tmp_path, monkeypatch):
    (path,) = write(tmp_path, pages(3))

    def refuse(*_):
        raise PermissionError("read-only")

    monkeypatch.setattr(type(path), "write_text", refuse)
    assert len(ShardSource(path)) == 3 and not list(tmp_path.glob(".*"))
