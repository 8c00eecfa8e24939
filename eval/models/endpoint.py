"""A server that speaks OpenAI's chat completions (vLLM, SGLang, llama.cpp, Ollama, hosted models): `endpoint:URL#MODEL`.

    ENDPOINT_API_KEY=… python -m eval.run --model endpoint:http://localhost:8000/v1#llava --task chartqa --convention chat

PNG and JPEG files are sent as they are, other pictures as PNG. Requests of a batch are under way at once. An answer need not
be repeatable: a server may ignore the seed. Options it refuses (log-probabilities, seeds, several choices, stop strings) are
left out from then on, which is said once; stop strings are applied here in any case.

An item that the server refuses, or for which it fails again and again, is named; a refused key, a missing model or a server
that is gone ends the evaluation. Answers that the model itself refuses to give count as empty, and as `refused`.
"""

from __future__ import annotations

import base64
import io
import math
import os
import queue
import re
import sys
import threading
from collections.abc import Sequence
from typing import Any

import PIL.Image

from eval.hashing import request_hash
from eval.models.base import Completion, Request, UnusableError
from eval.models.conversation import ASSISTANT, Part, Turn, conversation
from vlm.image import open_image
from vlm.sample import Image, Picture, Sample, Text
from vlm.text_stream import stop_at

KEY = "ENDPOINT_API_KEY"
INSTALL = "endpoints need httpx2: pip install -e '.[endpoint]'"
AS_IT_IS = {"PNG": "image/png", "JPEG": "image/jpeg"}
OPTIONAL = ("logprobs", "seed", "n", "stop")
MAX_STOPS = 4  # that the protocol takes
Outcome = list[Completion] | ValueError


class Endpoint:
    """`transport.post(body, read)` sends a request."""

    def __init__(self, url: str, model: str, transport: Any, concurrency: int = 16) -> None:
        self.url, self.model, self.transport, self.concurrency = url, model, transport, concurrency
        self.left_out: set[str] = set()  # options that the server refused
        self._kept: dict[str, Outcome] = {}  # of a batch that one item made fail: the others are not asked again

    @classmethod
    def open(cls, spec: str, limits: Any = None) -> Endpoint:
        """`URL#MODEL`, the URL up to `/v1`. Raises `ValueError` for what is no such thing."""
        try:
            from eval.models.endpoint_http import Limits, Transport, httpx
        except ImportError:
            raise ValueError(INSTALL) from None
        url, _, model = spec.partition("#")
        try:
            parsed = httpx.URL(url)
        except (httpx.InvalidURL, ValueError) as error:
            raise ValueError(f"endpoint:{spec}: {error}") from None
        if parsed.userinfo or parsed.query:
            raise ValueError(f"endpoint:{parsed.scheme}://{parsed.host}…: a key goes into {KEY}, not into the address")
        if parsed.scheme not in ("http", "https") or not parsed.host or not model:
            raise ValueError(f"endpoint:{spec}: want endpoint:URL#MODEL, such as endpoint:http://localhost:8000/v1#llava")
        limits = limits or Limits()
        return cls(url.rstrip("/"), model, Transport(f"{url.rstrip('/')}/chat/completions", _key(), limits), limits.concurrency)

    def fingerprint(self) -> str:
        return f"{self.url}#{self.model}"

    def length(self, sample: Sample) -> int:
        """About four characters a token; pictures are the server's."""
        return 1 + sum(len(segment.text) for segment in sample.segments if isinstance(segment, Text)) // 4

    def context_length(self) -> None:
        return None

    def complete(self, requests: Sequence[Request]) -> list[list[Completion]]:
        """Raises `UnusableError` when nothing can be asked, `ValueError` naming the sample for what this one cannot."""
        keys = [request_hash("", request) for request in requests]
        new = {key: request for key, request in zip(keys, requests, strict=True) if key not in self._kept}
        outcomes = {key: self._kept[key] for key in keys if key in self._kept} | self._ask_all(new)
        failed = [outcome for outcome in outcomes.values() if isinstance(outcome, ValueError)]
        if failed and len(requests) > 1:
            self._kept |= outcomes
            raise failed[0]
        for key in outcomes:
            self._kept.pop(key, None)
        if failed:
            raise failed[0]
        return [_written(outcomes[key]) for key in keys]

    def _ask_all(self, requests: dict[str, Request]) -> dict[str, Outcome]:
        """In threads that nobody waits for at the end: after Ctrl-C no answer is."""
        waiting, done = queue.SimpleQueue[str](), queue.SimpleQueue[tuple[str, Outcome | Exception]]()
        for key in requests:
            waiting.put(key)

        def work() -> None:
            while True:
                try:
                    key = waiting.get_nowait()
                except queue.Empty:
                    return
                done.put((key, self._outcome(requests[key])))

        for _ in range(min(self.concurrency, len(requests))):
            threading.Thread(target=work, daemon=True).start()
        outcomes: dict[str, Outcome] = {}
        try:
            while len(outcomes) < len(requests):
                key, outcome = done.get()
                if isinstance(outcome, UnusableError) or not isinstance(outcome, list | ValueError):
                    raise outcome
                outcomes[key] = outcome
        except BaseException:  # Ctrl-C: those under way give up
            self.transport.stop()
            raise
        return {key: outcomes[key] for key in requests}

    def _outcome(self, request: Request) -> Outcome | Exception:
        try:
            return self._ask(request)
        except Exception as error:  # raised again by the thread that waits
            if isinstance(error, ValueError) and not isinstance(error, UnusableError):
                return ValueError(f"item {request.sample.key}: {error}")
            self.transport.stop()
            return error

    def _ask(self, request: Request) -> list[Completion]:
        """Servers that know no `n` give fewer choices: the others are asked for."""
        messages = self._messages(request.sample)
        found: list[Completion] = []
        while (wanted := request.num_samples - len(found)) > 0:
            found += self._send(request, messages, wanted, request.seed + len(found))[:wanted]
        return found

    def _send(self, request: Request, messages: list[dict], wanted: int, seed: int) -> list[Completion]:
        from eval.models.endpoint_http import RefusedError

        while True:
            body = self._body(request, messages, wanted, seed)
            try:
                return self.transport.post(body, lambda answer: read_choices(answer, request.stop))
            except RefusedError as error:
                name = _named(error, body)
                if name is None:
                    raise
                if name not in self.left_out:
                    self.left_out.add(name)
                    print(f"{self.url} refuses {name!r}: left out from now on", file=sys.stderr, flush=True)

    def _body(self, request: Request, messages: list[dict], wanted: int, seed: int) -> dict[str, Any]:
        room = "max_completion_tokens" if "max_tokens" in self.left_out else "max_tokens"
        body: dict[str, Any] = {"model": self.model, "messages": messages, room: request.max_new_tokens}
        body["temperature"] = request.temperature
        if request.temperature and request.top_p < 1:
            body["top_p"] = request.top_p
        body |= {"n": wanted} if wanted > 1 else {}
        body |= {"stop": list(request.stop[:MAX_STOPS])} if request.stop else {}
        body |= {"seed": seed % 2**31, "logprobs": True}
        return {name: value for name, value in body.items() if name not in self.left_out}

    def _messages(self, sample: Sample) -> list[dict]:
        turns = conversation(sample)
        if turns[-1].role == ASSISTANT:
            raise UnusableError(
                f"endpoint:{self.fingerprint()}: chat completions do not go on within the model's own turn, "
                "as --cot calculator needs"
            )
        return [_message(turn) for turn in turns]


def _written(outcome: Outcome) -> list[Completion]:
    assert not isinstance(outcome, ValueError)
    return outcome


def _key() -> str | None:
    key = os.environ.get(KEY, "").strip()
    if not (key.isascii() and key.isprintable()):
        raise ValueError(f"{KEY} holds characters that no key has")
    return key or None


def _message(turn: Turn) -> dict[str, Any]:
    if all(isinstance(part, str) for part in turn.parts):
        return {"role": turn.role, "content": turn.text}  # which servers of text alone take, too
    return {"role": turn.role, "content": [_part(part) for part in turn.parts]}


def _part(part: Part) -> dict[str, Any]:
    if isinstance(part, Image):
        return {"type": "image_url", "image_url": {"url": data_url(part.data)}}
    return {"type": "text", "text": part}


def data_url(data: Picture) -> str:
    """PNG and JPEG files as they are (no pixel is decoded), all else as PNG. Raises `ValueError` for what is no picture."""
    if isinstance(data, bytes):
        try:
            with PIL.Image.open(io.BytesIO(data), formats=tuple(AS_IT_IS)) as image:
                return _url(AS_IT_IS[str(image.format)], data)
        except Exception:  # another format, or none: which it is, is said below
            pass
    buffer = io.BytesIO()
    open_image(data).save(buffer, "PNG")
    return _url("image/png", buffer.getvalue())


def _url(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def _named(error: Any, body: dict) -> str | None:
    """The option that the server does not take, if it can be done without."""
    names = [name for name in (*OPTIONAL, "max_tokens") if name in body]
    if error.param is not None:
        return error.param if error.param in names else None
    quoted = re.search(r"['\"`](\w+)['\"`]", str(error))
    return quoted[1] if quoted and quoted[1] in names else None


def read_choices(answer: Any, stop: Sequence[str] = ()) -> list[Completion]:
    """At least one. Raises `ValueError` for what is no chat completion."""
    choices = answer.get("choices") if isinstance(answer, dict) else None
    if not isinstance(choices, list) or not choices:
        raise ValueError("no choices in it")
    return [_completion(choice, stop) for choice in choices]


def _completion(choice: Any, stop: Sequence[str]) -> Completion:
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(message, dict):
        raise ValueError("a choice without a message")
    text = message.get("content")
    if not isinstance(text, str | None):
        raise ValueError(f"a content that is {type(text).__name__}")
    refused = message.get("refusal") or choice.get("finish_reason") == "content_filter"
    finish = "refused" if refused else "length" if choice.get("finish_reason") == "length" else "stop"
    text = text or ""
    return Completion(text[: stop_at(text, stop)], finish, (), _logprobs(choice.get("logprobs")))


def _logprobs(found: Any) -> tuple[float, ...] | None:
    """One a token, `None` where the server does not tell."""
    tokens = found.get("content") if isinstance(found, dict) else None
    values = [token.get("logprob") if isinstance(token, dict) else None for token in tokens] if isinstance(tokens, list) else []
    known = [float(v) for v in values if isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v)]
    return tuple(known) if known and len(known) == len(values) else None
