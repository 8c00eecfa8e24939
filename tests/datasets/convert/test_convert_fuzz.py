"""Every converter on its tiny set with a few values, bytes or names changed: it converts or says what is wrong, reads nothing
outside SRC, and every sample that it writes can be read."""

import json
import random
import shutil
import signal

import pytest
from convert_fakes import LAYOUTS, png, put, read

from datasets.convert.__main__ import run

SECRET = png(222)
VALUES = [
    None, True, 0, -1, 7, 10**30, 1.5, float("nan"), float("inf"), "", " ", "x", "<image>", "\ud800", "a\0b", "é" * 5000, [],
    {}, [[]], [None], {"a": 1}, ["x", 3], "../secret.png", "../../secret.png", "link.png", "linked/secret.png", "..", ".",
    "/", "/etc/passwd", "train", "9", [1, 2], [[float("nan")]], [["x"]], [{"from": "human"}], "<image>" * 9,
]  # fmt: skip
ANNOTATIONS = (".json", ".jsonl", ".csv", ".txt")


@pytest.fixture(autouse=True)
def _no_hang():
    signal.signal(signal.SIGALRM, lambda *_: pytest.fail("a conversion hangs"))
    signal.alarm(50)
    yield
    signal.alarm(0)


def places(value, path=()):
    """Where in a JSON value something can be replaced."""
    yield path
    for key, child in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from places(child, (*path, key))


def changed(value, path, new):
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = changed(value[path[0]], path[1:], new)
    return copy


def damage(rng, data: bytes) -> bytes:
    """Bytes cut off, flipped, doubled or of another encoding."""
    at = rng.randrange(len(data) + 1)
    kind = rng.randrange(5)
    if kind == 0:
        return data[:at]
    if kind == 1:
        return data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :]
    if kind == 2:
        return data[:at] + data[at // 2 :]
    if kind == 3:
        return data.decode("utf-8", "replace").encode("utf-16")
    return data[:at] + b"\xff\xfe\x00[[[{" + data[at:]


def mutate(rng, path, outside) -> None:
    data = path.read_bytes()
    if path.suffix in (".json", ".jsonl") and rng.random() < 0.8:
        rows = [json.loads(line) for line in data.splitlines()]
        row = rng.randrange(len(rows))
        for _ in range(rng.choice((1, 1, 3))):
            where = rng.choice(list(places(rows[row])))
            rows[row] = changed(rows[row], where, rng.choice([*VALUES, str(outside)]))
        path.write_text("\n".join(map(json.dumps, rows)))
    else:
        path.write_bytes(damage(rng, data))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_hostile_files(layout, tmp_path):
    name, make = LAYOUTS[layout]
    rng = random.Random(layout)
    whole, src, dst = tmp_path / "whole", tmp_path / "src", tmp_path / "dst"
    make(whole)
    outside = put(tmp_path / "secret.png", SECRET)
    put(tmp_path / "secret.txt", b"outside")
    converted = 0
    for _ in range(60):
        for folder in (src, dst):
            shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(whole, src)
        (src / "link.png").symlink_to(outside)
        (src / "linked").symlink_to(tmp_path, target_is_directory=True)
        files = sorted(p for p in src.rglob("*") if p.is_file() and not p.is_symlink() and "linked" not in p.parts)
        annotations = [p for p in files if p.name.endswith((*ANNOTATIONS, ".gz", ".tar"))]
        for path in rng.sample(annotations, rng.choice((1, 1, min(2, len(annotations))))):
            mutate(rng, path, outside)
        if rng.random() < 0.2:
            path = rng.choice(files)
            path.unlink()
            path.symlink_to(outside)
        try:
            summary = run(name, src, dst)
        except ValueError as error:
            assert "\n" not in str(error)
            continue
        converted += 1
        for source, kept in summary["kept"].items():
            samples = read([dst / shard for shard in kept["shards"]])
            assert len(samples) == kept["samples"], source
        assert not any(SECRET in shard.read_bytes() for shard in dst.glob("*.tar"))
    assert converted > 10
