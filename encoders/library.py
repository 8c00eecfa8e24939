"""Dealing with timm and open_clip: names and tags they know, and whatever they raise or log, in one line of ours."""

from __future__ import annotations

import contextlib
import difflib
import logging
import socket
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

from huggingface_hub import constants as hub
from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled

from encoders.base import EncoderConfig
from encoders.weights import MisfitError, one_line


def is_file(config: EncoderConfig) -> bool:
    """Is `pretrained` a file (tags have no suffix)? Raises `ValueError` for one that is not there."""
    if config.pretrained is None or not (Path(config.pretrained).suffix or Path(config.pretrained).is_file()):
        return False
    if not Path(config.pretrained).is_file():
        raise ValueError(f"encoder weights file {config.pretrained} does not exist")
    return True


def known(what: str, name: str, names: Sequence[str]) -> None:
    """Raise `ValueError` with the nearest valid one when `name` is not among `names`."""
    if name not in names:
        near = difflib.get_close_matches(name, names, 1)
        raise ValueError(f"{what} {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""))


@contextlib.contextmanager
def library_errors(config: EncoderConfig) -> Iterator[None]:
    """Turn whatever a library raises on a shape, tag or weights file that does not fit into one `ValueError` line."""
    try:
        with _quiet(), _cache_only_without_network(config):
            yield
    except MisfitError:
        raise
    except Exception as error:
        weights = f" with weights {config.pretrained!r}" if config.pretrained else ""
        raise ValueError(f"{config.library} model {config.name!r}{weights} cannot be built: {one_line(error)}") from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep open_clip from logging what is no news: random weights where none were asked for, and errors that it raises too."""

    def news(record: logging.LogRecord) -> bool:
        return record.levelno < logging.ERROR and not record.getMessage().startswith("No pretrained weights loaded")

    root = logging.getLogger()
    root.addFilter(news)
    try:
        yield
    finally:
        root.removeFilter(news)


@contextlib.contextmanager
def _cache_only_without_network(config: EncoderConfig) -> Iterator[None]:
    """Without a way to the hub a tag is looked for in the cache alone: its client would try again for a minute."""
    if config.pretrained is None or is_file(config) or _hub_in_reach():
        yield
        return
    before, hub.HF_HUB_OFFLINE = hub.HF_HUB_OFFLINE, True
    try:
        yield
    except Exception as error:
        if any(isinstance(e, LocalEntryNotFoundError | OfflineModeIsEnabled) for e in _causes(error)):
            raise ValueError(f"{hub.ENDPOINT} cannot be reached, the cache lacks them; `pretrained` may be a file") from error
        raise
    finally:
        hub.HF_HUB_OFFLINE = before


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _hub_in_reach() -> bool:
    if urllib.request.getproxies():
        return True  # names are the proxy's to resolve
    try:
        return bool(socket.getaddrinfo(urllib.parse.urlparse(hub.ENDPOINT).hostname, 443))
    except OSError:
        return False
