"""Shards that are not files here: fetched whole, once, into a folder; from there on they are local shards.

Random access is what exact resume stands on, and no stream has it; so a shard is copied before it is indexed and stays where
it is. Addresses are those of fsspec (`s3://`, `https://`, `gs://`, `hf://`, …), those that webdataset opens besides (`ais://`),
and `pipe:command`, which runs a shell command and is refused unless the configuration allows it by name. What a network or a
server may do better next time is tried again; a command runs once. Only a whole archive with samples is kept. A shard at an
address is taken never to change, whoever signs the address: remove the folder to fetch anew. The disk must hold all shards of a
run. An address may hold a key: what stands behind its `?` is never said.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import re
import shutil
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from pathlib import Path
from typing import IO, Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import fsspec
from webdataset.gopen import gopen, gopen_schemes

from datasets.cache import alone, cache_folder
from datasets.shard_scan import scan

CHUNK = 1 << 20  # bytes copied at a time
PAUSES = (1.0, 4.0, 16.0)  # seconds before each further attempt
AT_ONCE = 8  # shards
# Of a query: who may read until when (S3, Google, Azure, CloudFront), and not what.
_SIGNATURE = re.compile(
    r"(?i)x-(amz|goog)-.*|googleaccessid|awsaccesskeyid|signature|expires|key-pair-id|policy|token|sig|s[eiprtv]|sk[etv]|spr|skoid|sktid"
)

log = logging.getLogger(__name__)


def is_remote(path: str | Path) -> bool:
    return isinstance(path, str) and ("://" in path or path.startswith("pipe:"))


def fetch_all(urls: Sequence[str], cache: Path | None = None, *, allow_pipe: bool = False) -> list[Path]:
    """As `fetch`, some at once; nothing is fetched where one of them is refused."""
    for url in urls:
        _check_allowed(url, allow_pipe)
    pool = ThreadPoolExecutor(AT_ONCE)
    try:
        return list(pool.map(lambda url: fetch(url, cache, allow_pipe=allow_pipe), urls))
    finally:
        pool.shutdown(cancel_futures=True)


def fetch(url: str, cache: Path | None = None, *, allow_pipe: bool = False) -> Path:
    """The local copy of one shard, made now where there is none. Raises `ValueError` in one line when it cannot be had."""
    _check_allowed(url, allow_pipe)
    folder, lasting = cache_folder(cache), _lasting(url)
    name = re.sub(r"[^A-Za-z0-9_.-]+", "_", _shown(url).rsplit("/", 1)[-1])[-80:].removesuffix(".tar")
    path = folder / f"{name}-{hashlib.sha256(lasting.encode()).hexdigest()[:16]}.tar"
    if path.exists():
        return path
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with path.with_suffix(".lock").open("w") as lock, alone(lock.fileno()):
            if not path.exists():
                _persist(url, path)
    except Exception as error:  # every protocol and its library has exceptions of its own
        raise ValueError(f"shard {_shown(url)} cannot be fetched: {_why(error)}") from None
    return path


def _check_allowed(url: str, allow_pipe: bool) -> None:
    if url.startswith("pipe:") and not allow_pipe:
        raise ValueError(f"{url} would run a command: set `allow_pipe: true` on the source if that is meant")


def _lasting(url: str) -> str:
    """The address without what is signed anew each time."""
    parts = None if url.startswith("pipe:") else urlsplit(url)
    if parts is None or not parts.query:
        return url
    query = [(key, value) for key, value in parse_qsl(parts.query, keep_blank_values=True) if not _SIGNATURE.fullmatch(key)]
    return urlunsplit(parts._replace(query=urlencode(query)))


def _shown(text: str) -> str:
    """Addresses in a text, without passwords and queries."""
    return text if text.startswith("pipe:") else re.sub(r"(\w+://)([^\s/@]*@)?([^\s?'\"]*)(\?[^\s'\"]*)?", r"\1\3", text)


def listed(url: str) -> list[str | Path]:
    """All addresses that a pattern stands for, in order, where the protocol can list (`*`)."""
    if "*" not in url:
        return [url]
    try:
        system, path = fsspec.core.url_to_fs(url)
        return sorted(system.unstrip_protocol(one) for one in system.glob(path))
    except Exception as error:
        raise ValueError(f"shards {_shown(url)} cannot be listed: {_why(error)}") from None


def _persist(url: str, path: Path) -> None:
    log.warning("fetching %s", _shown(url))
    for pause in () if url.startswith("pipe:") else PAUSES:
        try:
            return _copy(url, path)
        except Exception as error:
            if _is_final(error):
                raise
            log.warning("shard %s: %s; trying again", _shown(url), _why(error))
            time.sleep(pause)
    return _copy(url, path)


def _is_final(error: Exception) -> bool:
    """Would it be the same next time? fsspec may say `FileNotFoundError` of a server's failure, which is then the cause."""
    cause = error.__cause__ or error
    status = getattr(cause, "status", None)  # of HTTP
    if isinstance(status, int):
        return status < 500 and status != HTTPStatus.TOO_MANY_REQUESTS
    full = isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT)
    return full or isinstance(cause, FileNotFoundError | PermissionError | ImportError | ValueError)


def _why(error: Exception) -> str:
    cause = error.__cause__ or error
    said = _shown(" ".join(str(cause).split()))
    return f"{type(cause).__name__} {said}".strip()[:300] if isinstance(cause, FileNotFoundError) or not said else said[:300]


def _copy(url: str, path: Path) -> None:
    """Only what is whole takes the name: it is never looked at again."""
    part = path.with_suffix(".part")
    try:
        with _open(url) as source, part.open("wb") as target:
            size = getattr(source, "size", None)
            shutil.copyfileobj(source, target, CHUNK)
            target.flush()
            os.fsync(target.fileno())
        came = part.stat().st_size
        if not came or (isinstance(size, int) and came != size):
            raise OSError(f"{came:,} bytes came" + (f" of {size:,}" if isinstance(size, int) else ""))
        facts, _ = scan(part)
        if not facts.samples:
            raise ValueError("what came is no shard: it has no samples")
        if facts.cut:
            raise OSError("what came is cut off")  # which may do better next time
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _open(url: str) -> IO[bytes] | Any:
    scheme = url.partition(":")[0]
    if scheme != "pipe" and scheme in fsspec.available_protocols():
        return fsspec.open(url, "rb").open()
    if scheme not in gopen_schemes:
        raise ValueError(f"{scheme}: is no protocol that fsspec or webdataset opens")
    return gopen(url)
