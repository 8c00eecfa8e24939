"""A local server of chat completions that does what a test tells it to, misbehaviour included."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = tuple[int, Any] | Callable[[BaseHTTPRequestHandler], None]  # status and JSON (or bytes), or anything at all
Script = Callable[[dict, int], Answer]  # body, number of the request → what is answered


def completion(*texts: str | None, finish: str = "stop", **message: Any) -> tuple[int, dict]:
    choices = [{"message": {"role": "assistant", "content": text, **message}, "finish_reason": finish} for text in texts]
    return 200, {"choices": choices}


class Server:
    def __init__(self, script: Script) -> None:
        self.script, self.bodies, self.headers, self.lock = script, [], [], threading.Lock()
        self.at_once = self.most = 0


@contextlib.contextmanager
def serving(script: Script) -> Iterator[tuple[str, Server]]:
    """The address up to /v1, and what was asked."""
    state = Server(script)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            with state.lock:
                state.bodies.append(body)
                state.headers.append({**self.headers, "path": self.path})
                number = len(state.bodies)
                state.at_once += 1
                state.most = max(state.most, state.at_once)
            try:
                answer = state.script(body, number)
                if callable(answer):
                    answer(self)
                else:
                    self._send(*answer)
            finally:
                with state.lock:
                    state.at_once -= 1

        def _send(self, status: int, content: Any, **headers: str) -> None:
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(data)))
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # a client that hangs up
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", state
    finally:
        server.shutdown()
        server.server_close()
