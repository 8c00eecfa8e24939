"""Which shards a path means, and what is refused before it is opened."""

import gzip
import os
import tarfile

import pytest

from datasets.build import build_source
from datasets.shard_paths import find_shards
from datasets.shards import ShardSource, ShardWriter
from vlm.sample import Sample, Text


@pytest.fixture
def folder(tmp_path):
    with ShardWriter(tmp_path / "set", "a", max_samples=2) as writer:
        for i in range(6):
            writer.write(Sample((Text(f"text {i}"),), str(i)))
    return tmp_path / "set"


def names(found):
    return [path.name for path in found]


def test_a_pattern_hides_no_command(tmp_path):
    mark = tmp_path / "ran"
    for path in (f"{{pipe:touch {mark};#,a}}://x", f"{{p,s}}ipe:touch {mark};#://x", [f"{{pipe:touch {mark};#,a}}://x"]):
        with pytest.raises(ValueError, match="would run a command: set `allow_pipe: true`"):
            build_source({"kind": "shards", "path": path, "cache": str(tmp_path / "cache")})
    with pytest.raises(ValueError, match="no shards at"):
        build_source({"kind": "shards", "path": f"{{pipe:touch {mark},a}}"}, data_root=tmp_path)
    assert not mark.exists()


def test_nothing_is_fetched_where_one_is_refused(folder, tmp_path):
    with pytest.raises(ValueError, match="would run a command"):
        find_shards([f"file://{folder}/a-000000.tar", "pipe:cat x"], cache=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_braces_and_home(folder, monkeypatch):
    assert names(find_shards(folder / "a-{000002..000001}.tar")) == ["a-000002.tar", "a-000001.tar"]
    monkeypatch.setenv("HOME", str(folder.parent))
    assert names(find_shards("~/set/a-00000[01].tar")) == ["a-000000.tar", "a-000001.tar"]
    assert len(build_source({"kind": "shards", "path": "~/set"}, data_root="/nowhere")) == 6
    (folder / "a-000000.tar").rename(folder / "{x,y}.tar")
    assert names(find_shards(folder / "{x,y}.tar")) == ["{x,y}.tar"]
    with pytest.raises(ValueError, match=r"no shards at .*a-000003\.tar"):
        find_shards(folder / "a-{000001..000003}.tar")
    with pytest.raises(ValueError, match="Unbalanced braces"):
        find_shards(folder / "a-{000001.tar")


def test_one_shard_named_twice_is_one(folder, tmp_path):
    (tmp_path / "link").symlink_to(folder)
    (folder / "b.tar").symlink_to(folder / "a-000001.tar")
    lists = ([folder, folder / "a-*.tar"], [folder / "a-000001.tar", folder], [tmp_path / "link", folder])
    assert [len(ShardSource(paths)) for paths in lists] == [6, 6, 6]
    assert names(find_shards(lists[1])) == ["a-000001.tar", "a-000000.tar", "a-000002.tar"]


def test_a_folder_gives_no_hidden_file(folder):
    (folder / "._a-000000.tar").write_bytes(b"a Macintosh's")
    (folder / ".old.tar").write_bytes((folder / "a-000000.tar").read_bytes() * 2)
    assert names(find_shards(folder)) == ["a-000000.tar", "a-000001.tar", "a-000002.tar"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (os.mkdir, "is no file"),
        (os.mkfifo, "is no file"),
        (lambda path: path.symlink_to("/nowhere"), "cannot be read: No such file"),
        (lambda path: path.write_bytes(gzip.compress(b"x" * 2000)), r"compressed \(gzip\)"),
        (lambda path: tarfile.open(path, "w:xz").close(), r"compressed \(xz\)"),
        (lambda path: tarfile.open(path, "w:bz2").close(), r"compressed \(bzip2\)"),
    ],
)
def test_what_is_no_plain_shard_is_one_line(folder, make, message):
    make(folder / "x.tar")
    for path in (folder, folder / "*.tar", [folder / "a-000000.tar", folder / "x*"]):
        with pytest.raises(ValueError, match=rf"shard .*x\.tar.* {message}") as error:
            ShardSource(path)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("path", "message"),
    [([], "`path` is an empty list"), ([5], "path 5 is no text"), ([["a"]], r"path \['a'\] is no text"), (5, "'path'")],
)
def test_paths_that_are_none(path, message):
    with pytest.raises(ValueError, match=message):
        build_source({"kind": "shards", "path": path})
