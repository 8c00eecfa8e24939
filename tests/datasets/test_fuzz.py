"""Shards cut, flipped, misnamed and of wrong types: no crash, no hang, nothing written elsewhere, every sample counted."""

import io
import json
import random
import tarfile
import time

import pytest
from dataset_fakes import png, processor

from datasets.mixture import Mixture
from datasets.pack import Lane
from datasets.shards import ShardSource

PROCESSOR = processor()
NAMES = (
    "../../x.txt",
    "/etc/x.txt",
    "a/../../b.json",
    "x" * 300 + ".txt",
    "\x01\x02.txt",
    ".txt",
    "a.",
    "ä\udcff.txt",
    "a\\b.txt",
    "",
    "é.json",
)
TEXTS = (b"", b"\xff\xfe\x00", b"null", b"[]", b'"x"', b"{", b'{"segments": 3}', b'{"segments": [null]}', b'{"segments": [[]]}',
         b'{"segments": [{"text": 3}]}', b'{"segments": [{"image": {}}]}', b'{"segments": [{"video": "0.png", "times": "x"}]}',
         b'{"segments": [{"text": "\\ud800"}]}', b'{"segments": [{"video": [], "times": [1e999]}]}',
         b'{"id": [1], "segments": []}', b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"9" * 5000)  # fmt: skip
TYPES = (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE, tarfile.GNUTYPE_SPARSE, b"Z")


def shard(chance: random.Random) -> bytes:
    """A few samples, some of their members strange, then perhaps damaged as a whole."""
    buffer = io.BytesIO()
    kind = chance.choice((tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT))
    with tarfile.open(fileobj=buffer, mode="w", format=kind, encoding="utf-8", errors="surrogateescape") as tar:
        for i in range(chance.randrange(1, 6)):
            record = json.dumps({"segments": [{"image": "0.png"}, {"text": f"page {i}"}]}).encode()
            members = {f"{i}.json": record, f"{i}.0.png": png(i)} if i % 2 else {f"{i}.txt": b"caption", f"{i}.jpg": png(i)}
            for name, data in members.items():
                info = tarfile.TarInfo(chance.choice(NAMES) if chance.random() < 0.1 else name)
                data = chance.choice(TEXTS) if chance.random() < 0.2 else data
                info.type = chance.choice(TYPES) if chance.random() < 0.1 else tarfile.REGTYPE
                info.size = len(data) if info.isreg() else 0
                try:
                    tar.addfile(info, io.BytesIO(data))
                except (ValueError, UnicodeError):  # a name that this format cannot hold
                    continue
    data = bytearray(buffer.getvalue())
    damage = chance.randrange(4)
    if damage == 1:
        del data[chance.randrange(len(data)) :]
    elif damage == 2:
        for _ in range(chance.randrange(1, 30)):
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    elif damage == 3:
        start = chance.randrange(len(data))
        data[start : start + 700] = chance.randbytes(700)
    return bytes(data)


def survive(folder, count: int, seed: int) -> None:
    chance, opened = random.Random(seed), 0
    for number in range(count):
        path = folder / "work" / "s.tar"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(shard(chance))
        start = time.process_time()
        try:
            source = ShardSource(path, seed=number)
        except ValueError as error:
            assert "no samples in" in str(error)
            continue
        opened += 1
        lane = Lane(Mixture([source], [1], [1]), PROCESSOR, lane=0, lanes=1, length=64)
        documents = skipped = drawn = 0
        while (step := lane.row())[0] or step[1].drawn or step[1].skipped:
            documents += step[1].documents
            skipped += sum(step[1].skipped.values())
            drawn += sum(step[1].drawn.values())
        assert drawn == len(source) == documents + skipped
        assert time.process_time() - start < 10
    assert opened > count / 2
    assert {p.name for p in folder.iterdir()} == {"work"}
    assert all("s.tar" in p.name for p in (folder / "work").iterdir())


def test_fuzzed_shards(tmp_path):
    survive(tmp_path, 250, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_ten_thousand_fuzzed_shards(tmp_path, seed):
    survive(tmp_path, 1000, seed=seed + 1)
