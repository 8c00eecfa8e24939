"""The members in a stretch of a tar: name and content of each, read whole, with tarfile only where a header is not plain."""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Iterator

from webdataset.tariterators import base_plus_ext

from datasets.shard_scan import BLOCK, refused

_NAME = re.compile(rb"([\w-]+(?:\.[\w-]+)+)\0*")  # a key and an extension, no folder
_NUMBERS = re.compile(rb"(?:[0-7]{7}\0){3}([0-7]{11})[\0 ][0-7]{11}[\0 ]([0-7]{6})\0 ")  # mode, owners, size, time, sum
_REST = re.compile(rb"(?:[0-7]{7}\0|\0{8}){2}\0{167}")  # device numbers, and no prefix to the name


def members_of(data: bytes) -> list[tuple[str, bytes]]:
    """(name, content) of each. Raises what tarfile raises for a broken header."""
    return _plain_members(data) or list(_members(data))


def keyed_members(data: bytes) -> tuple[str, dict[str, bytes]]:
    """Key of the one sample that `data` holds, and extension, in small letters → content. Raises as `members_of`."""
    key, members = "", {}
    for name, content in members_of(data):
        key, extension = base_plus_ext(name)
        members[extension.lower()] = content
    return key, members


def _plain_members(data: bytes) -> list[tuple[str, bytes]] | None:
    """(name, content) of members that are all plain files with plain headers, as most are; `None` where tarfile must look.

    tarfile takes as long over two headers as everything else over reading a pair.
    """
    found, start = [], 0
    while start < len(data):
        plain = plain_header(data[start : start + BLOCK])
        if plain is None:
            return None
        name, size = plain
        content = data[start + BLOCK : start + BLOCK + size]
        if len(content) < size:
            return None
        found.append((name, content))
        start += BLOCK + -(-size // BLOCK) * BLOCK
    return found


def plain_header(header: bytes) -> tuple[str, int] | None:
    """Name and size of a plain file, where every field is as POSIX's ustar has it and their sum is right."""
    name, numbers = _NAME.fullmatch(header, 0, 100), _NUMBERS.fullmatch(header, 100, 156)
    if not (name and numbers and _REST.fullmatch(header, 329) and header[156:157] == tarfile.REGTYPE):
        return None
    if int(numbers[2], 8) != sum(header) - sum(header[148:156]) + 8 * ord(" "):
        return None
    return name[1].decode(), int(numbers[1], 8)


def _members(data: bytes) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
        for member in tar:
            if not refused(member) and (file := tar.extractfile(member)):
                yield member.name, file.read()
