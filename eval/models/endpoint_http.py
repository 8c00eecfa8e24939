"""One POST of JSON to a server that may be busy, slow, broken or gone: what may pass is tried again, a bounded number of times
and bytes; the rest is one line. The key is sent and nowhere else: not in messages, not in records.
"""

from __future__ import annotations

import email.utils
import json
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import httpx2 as httpx

from eval.models.base import UnusableError
from vlm.command import printable

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Limits:
    """Times in seconds."""

    concurrency: int = 16  # requests under way; a smaller --batch-size asks fewer
    attempts: int = 6
    first_wait: float = 1.0  # doubles with each attempt, drawn from its half to the whole
    longest_wait: float = 60.0  # also when the server asks for more
    timeout: float = 300.0  # of a whole answer
    connect: float = 15.0
    max_bytes: int = 2**24  # of an answer


class RefusedError(ValueError):
    """The server does not take this request; `param`: the option it names."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class _PassingError(ValueError):
    """May pass. `wait`: what the server asks for; `lasting`: if it does not pass, nothing else can be asked."""

    def __init__(self, message: str, wait: float = 0.0, *, lasting: bool = False, absent: bool = False) -> None:
        super().__init__(message)
        self.wait, self.lasting, self.absent = wait, lasting, absent


class Transport:
    """`post` may be called from several threads; after `stop` all of them give up."""

    def __init__(self, url: str, key: str | None, limits: Limits) -> None:
        self.url, self.limits, self._key = url, limits, key
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        timeout = httpx.Timeout(limits.timeout, connect=limits.connect)
        connections = httpx.Limits(max_connections=limits.concurrency, max_keepalive_connections=limits.concurrency)
        self._client = httpx.Client(headers=headers, timeout=timeout, limits=connections)
        self._stopped = threading.Event()
        self._answered = False  # has it ever been there

    def post(self, body: dict, read: Callable[[Any], T]) -> T:
        """What `read` makes of the answer; its `ValueError` counts as a broken answer.

        Raises `RefusedError`, `UnusableError`, and `ValueError` for what did not pass.
        """
        for attempt in range(self.limits.attempts):
            if self._stopped.is_set():
                raise ValueError(f"{self.url}: given up")
            try:
                return self._once(body, read)
            except _PassingError as error:
                last = error
            if last.absent and not self._answered and attempt >= 2:
                break  # a mistyped address rather than a restart
            if attempt + 1 < self.limits.attempts:
                self._stopped.wait(self._delay(attempt, last.wait))
        message = f"{last} ({attempt + 1} attempts)"
        raise UnusableError(message) if last.lasting else ValueError(message)

    def stop(self) -> None:
        self._stopped.set()

    def _delay(self, attempt: int, asked: float) -> float:
        wait = self.limits.first_wait * 2**attempt * random.uniform(0.5, 1.0)
        return min(max(wait, asked), self.limits.longest_wait)

    def _once(self, body: dict, read: Callable[[Any], T]) -> T:
        try:
            with self._client.stream("POST", self.url, json=body) as response:
                data = self._read(response)
        except httpx.TimeoutException:
            raise _PassingError(f"{self.url}: no answer within {self.limits.timeout:g} s") from None
        except httpx.ConnectError as error:
            raise _PassingError(f"{self.url} cannot be reached: {self._clean(error)}", lasting=True, absent=True) from None
        except (httpx.TransportError, httpx.DecodingError) as error:
            raise _PassingError(f"{self.url}: the connection broke: {self._clean(error)}") from None
        self._answered = True
        if response.status_code != 200:
            self._refuse(response, data)
        try:
            return read(json.loads(data))
        except (ValueError, RecursionError) as error:
            raise _PassingError(f"{self.url}: an answer that cannot be read: {self._clean(error)}") from None

    def _read(self, response: httpx.Response) -> bytes:
        """A server that sends a byte now and then must not hold us, nor one that never ends."""
        data, deadline = bytearray(), time.monotonic() + self.limits.timeout
        for piece in response.iter_bytes():
            data += piece
            if len(data) > self.limits.max_bytes:
                raise _PassingError(f"{self.url}: an answer of more than {self.limits.max_bytes:,} bytes")
            if time.monotonic() > deadline or self._stopped.is_set():
                raise httpx.ReadTimeout("slow")
        return bytes(data)

    def _refuse(self, response: httpx.Response, data: bytes) -> None:
        status = response.status_code
        message, param, code = _error(data)
        line = f"{self.url}: status {status}" + (f": {self._clean(message)}" if message else "")
        if code == "insufficient_quota" or status in (401, 402, 403, 404, 405) or status < 400:
            raise UnusableError(line)
        if status in (408, 409, 425, 429) or status >= 500:
            raise _PassingError(line, _retry_after(response.headers.get("retry-after")), lasting=status == 429)
        raise RefusedError(line, param)

    def _clean(self, message: object) -> str:
        """One line without the key, which servers like to repeat."""
        text = str(message).replace(self._key, "***") if self._key else str(message)
        return " ".join(printable(text).split())[:300]


def _error(data: bytes) -> tuple[str, str | None, str | None]:
    """Message, option and code of an error's body, whatever it looks like."""
    try:
        found = json.loads(data)
        found = found.get("error", found)
        if isinstance(found, dict):
            message = found.get("message") or found.get("detail") or ""
            param, code = (value if isinstance(value := found.get(name), str) else None for name in ("param", "code"))
            return str(message), param, code
        return str(found), None, None
    except (ValueError, AttributeError, RecursionError):
        return data[:300].decode(errors="replace"), None, None


def _retry_after(header: str | None) -> float:
    """Seconds, of a number or a date."""
    if not header:
        return 0.0
    try:
        seconds = float(header)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(header).timestamp() - time.time()
        except ValueError:
            return 0.0
    return seconds if 0 <= seconds < float("inf") else 0.0
