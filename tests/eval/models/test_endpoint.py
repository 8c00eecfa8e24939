"""An endpoint against a local server that misbehaves: busy, broken, slow, gone, and hostile."""

from __future__ import annotations

import base64
import io
import json
import socket
import sys
import time

import PIL.Image
import pytest
from scripted_server import completion, serving

from eval import run as run_command
from eval.models import Request, UnusableError
from eval.models import open as open_model
from eval.models.endpoint import KEY, Endpoint
from eval.models.endpoint_http import Limits
from tests.eval.conftest import picture
from vlm.command import status
from vlm.sample import Image, Sample, Text

LIMITS = Limits(concurrency=4, attempts=4, first_wait=0.01, longest_wait=0.05, timeout=0.5, connect=1.0, max_bytes=20_000)


def request(text: str = "How many?", *pictures, key: str = "k", **options) -> Request:
    return Request(Sample((*map(Image, pictures), Text(text, learn=False)), key=key), **{"max_new_tokens": 8, **options})


def opened(url: str) -> Endpoint:
    return Endpoint.open(f"{url}#tiny", LIMITS)


def ask(url: str, *requests: Request) -> list[list[str]]:
    return [[c.text for c in row] for row in opened(url).complete(requests or [request()])]


def echo(body, number):
    content = body["messages"][-1]["content"]
    text = content if isinstance(content, str) else next(part["text"] for part in content if part["type"] == "text")
    return completion(f"to {text}")


def test_each_request_gets_its_own_answer_and_several_are_under_way():
    def slow(body, number):
        time.sleep(0.03)
        return echo(body, number)

    with serving(slow) as (url, server):
        assert ask(url, *(request(f"q{i}") for i in range(12))) == [[f"to q{i}"] for i in range(12)]
        assert 2 <= server.most <= 4 and server.headers[0]["path"] == "/v1/chat/completions"


def test_pictures_are_sent_in_place_and_as_they_are():
    def jpeg(format):
        buffer = io.BytesIO()
        PIL.Image.new("RGB", (9, 7), "red").save(buffer, format)
        return buffer.getvalue()

    sample = Sample(
        (Image(picture(1)), Text("one"), Text(" 1", learn=True), Image(jpeg("JPEG")), Image(jpeg("BMP")), Text("x"))
    )
    turns = [Text(s.text, learn=s.text == " 1") if isinstance(s, Text) else s for s in sample.segments]
    with serving(echo) as (url, server):
        opened(url).complete([Request(Sample(tuple(turns)), 4)])
    user, model, last = server.bodies[0]["messages"]
    assert [m["role"] for m in (user, model, last)] == ["user", "assistant", "user"] and model["content"] == " 1"
    urls = [part["image_url"]["url"] for part in (*user["content"], *last["content"]) if part["type"] == "image_url"]
    sent = [base64.b64decode(url.partition(",")[2]) for url in urls]
    assert sent[0] == picture(1) and sent[1] == jpeg("JPEG") and PIL.Image.open(io.BytesIO(sent[2])).size == (9, 7)
    assert [url.partition(";")[0] for url in urls] == ["data:image/png", "data:image/jpeg", "data:image/png"]


def test_options_are_sent():
    with serving(lambda body, number: completion(*"abc")) as (url, server):
        drawn = request(stop=("\n", "END"), temperature=0.5, top_p=0.9, num_samples=3, seed=2**40 + 5)
        assert ask(url, drawn) == [["a", "b", "c"]]
    body = server.bodies[0]
    want = {"model": "tiny", "max_tokens": 8, "temperature": 0.5, "top_p": 0.9, "n": 3, "stop": ["\n", "END"], "seed": 5}
    assert want.items() <= body.items() and "authorization" not in {name.lower() for name in server.headers[0]}


def test_stop_strings_hold_whatever_the_server_does_and_logprobs_are_read():
    tokens = {"content": [{"token": "a", "logprob": -0.5}, {"token": "b", "logprob": -1.5}]}

    def script(body, number):
        answer = completion("7 ENDless", finish="length")
        answer[1]["choices"][0]["logprobs"] = tokens
        return answer

    with serving(script) as (url, _):
        (answer,) = opened(url).complete([request(stop=("END",))])[0]
    assert (answer.text, answer.finish, answer.logprobs) == ("7 ", "length", (-0.5, -1.5))


# -- what may pass --------------------------------------------------------------------------------------------------------


def drop(handler):
    handler.connection.close()


def truncated(handler):
    handler.send_response(200)
    handler.send_header("content-length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"choices": [')
    handler.connection.shutdown(socket.SHUT_RDWR)


def dripping(handler):
    handler.send_response(200)
    handler.end_headers()
    for _ in range(30):
        handler.wfile.write(b" ")
        handler.wfile.flush()
        time.sleep(0.05)


def endless(handler):
    handler.send_response(200)
    handler.end_headers()
    for _ in range(1000):
        handler.wfile.write(b" " * 10_000)


MISHAPS = {
    "500": (500, {"error": {"message": "worker died"}}), "429": (429, {"error": "slow down"}), "503": (503, b"<html>busy"),
    "garbage": (200, b"\xff\xfe no json"), "deep": (200, b"[" * 15000), "list": (200, []), "no choices": (200, {"choices": []}),
    "null": (200, {"choices": [None]}), "content": (200, {"choices": [{"message": {"content": {"a": 1}}}]}),
    "dropped": drop, "truncated": truncated, "dripping": dripping, "silent": lambda _: time.sleep(0.8), "endless": endless,
}  # fmt: skip


@pytest.mark.parametrize("mishap", MISHAPS)
def test_what_passes_is_tried_again(mishap):
    with serving(lambda body, number: MISHAPS[mishap] if number < 3 else echo(body, number)) as (url, server):
        assert ask(url) == [["to How many?"]] and len(server.bodies) == 3


@pytest.mark.parametrize("mishap", [name for name in MISHAPS if name != "429"])
def test_what_does_not_pass_is_one_line_that_names_the_item(mishap):
    with serving(lambda body, number: MISHAPS[mishap]) as (url, server):
        model = Endpoint.open(f"{url}#tiny", Limits(4, 2, 0.01, 0.05, 0.3, 1.0, 20_000))
        with pytest.raises(ValueError, match=r"item q3: http.*\(2 attempts\)") as caught:
            model.complete([request(key="q3")])
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 500 and len(server.bodies) == 2
        assert not isinstance(caught.value, UnusableError)


def test_the_server_says_how_long_to_wait_but_not_for_ever():
    def busy(handler):
        handler._send(429, b"{}", retry_after="100000")

    started = time.monotonic()
    with serving(lambda body, number: busy if number == 1 else echo(body, number)) as (url, _):
        assert ask(url) == [["to How many?"]]
    assert 0.05 <= time.monotonic() - started < 5


def test_one_bad_item_does_not_make_the_others_be_asked_again():
    def script(body, number):
        return (400, {"error": {"message": "bad image"}}) if "bad" in str(body["messages"]) else echo(body, number)

    requests = [request("bad" if i == 5 else f"q{i}", key=f"i{i}") for i in range(8)]
    with serving(script) as (url, server):
        model = opened(url)
        with pytest.raises(ValueError, match=r"item i5: .*status 400: bad image"):
            model.complete(requests)
        for half in (requests[:4], requests[6:], requests[4:5]):
            assert len(model.complete(half)) == len(half)
        with pytest.raises(ValueError, match="item i5"):
            model.complete(requests[5:6])
        assert len(server.bodies) == 8 and not model._kept


@pytest.mark.parametrize("gives", [1, 2, 7])
def test_too_few_or_too_many_choices(gives):
    with serving(lambda body, number: completion(*(f"{number}-{i}" for i in range(gives)))) as (url, server):
        texts = ask(url, request(num_samples=3, temperature=1.0, seed=10))[0]
    assert len(texts) == 3 and len(set(texts)) == 3 and len(server.bodies) == -(-3 // min(gives, 3))
    assert [body["seed"] for body in server.bodies] == list(range(10, 13, min(gives, 3)))


@pytest.mark.parametrize("option", ["logprobs", "seed", "n", "stop", "max_tokens"])
def test_an_option_that_the_server_refuses_is_left_out(option, capsys):
    def script(body, number):
        if option in body:
            return 400, {"error": {"message": f"Unsupported parameter: '{option}' is not supported", "param": option}}
        return echo(body, number)

    with serving(script) as (url, server):
        model = opened(url)
        for _ in range(2):
            (row,) = model.complete([request(stop=("\n",), num_samples=2, temperature=1.0)])
            assert [c.text for c in row] == ["to How many?"] * 2
        assert sum(option in body for body in server.bodies) == 1 and capsys.readouterr().err.count(repr(option)) == 1
        assert option != "max_tokens" or server.bodies[-1]["max_completion_tokens"] == 8


def test_refusals_and_empty_answers():
    answers = [completion(None, refusal="no"), completion("", finish="content_filter"), completion(None), completion("x")]
    with serving(lambda body, number: answers[number - 1]) as (url, _):
        found = [opened(url).complete([request()])[0][0] for _ in answers]
    assert [(c.text, c.finish) for c in found] == [("", "refused"), ("", "refused"), ("", "stop"), ("x", "stop")]


# -- what does not ----------------------------------------------------------------------------------------------------------

SECRET = "sk-very-secret-123"


@pytest.mark.parametrize("code", [401, 403, 404, 307])
def test_a_refused_key_or_model_ends_it_at_once_and_the_key_is_never_said(code, monkeypatch):
    monkeypatch.setenv(KEY, SECRET)
    with serving(lambda body, number: (code, {"error": {"message": f"bad key {SECRET}\n\x1b[31m"}})) as (url, server):
        with pytest.raises(UnusableError, match=f"status {code}: bad key \\*\\*\\*") as caught:
            opened(url).complete([request(f"q{i}") for i in range(30)])
        assert len(server.bodies) <= 8 and server.headers[0]["Authorization"] == f"Bearer {SECRET}"
    assert SECRET not in str(caught.value) and "\n" not in str(caught.value) and "\x1b" not in str(caught.value)
    assert SECRET not in opened(url).fingerprint()


def test_a_server_that_is_not_there_and_one_without_quota():
    with serving(echo) as (url, _):
        pass
    with pytest.raises(UnusableError, match=r"cannot be reached.*3 attempts"):
        ask(url)
    with serving(lambda body, number: (429, {"error": {"code": "insufficient_quota", "message": "pay"}})) as (url, server):
        with pytest.raises(UnusableError, match="pay"):
            ask(url)
        assert len(server.bodies) == 1


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("http://localhost:1/v1", "want endpoint:URL#MODEL"), ("ftp://a/v1#m", "want endpoint:URL#MODEL"),
        ("http://me:secret@a/v1#m", KEY), ("http://a/v1?key=secret#m", KEY), ("http://[::1#m", "endpoint:"), ("#m", "want"),
    ],
)  # fmt: skip
def test_addresses_that_are_none(spec, message):
    with pytest.raises(ValueError, match=message) as caught:
        open_model(f"endpoint:{spec}")
    assert "secret" not in str(caught.value)


def test_a_key_that_is_none(monkeypatch):
    monkeypatch.setenv(KEY, "sk-ü")
    with pytest.raises(ValueError, match=KEY):
        open_model("endpoint:http://a/v1#m")


def test_it_says_that_it_cannot_go_on_within_a_turn():
    with serving(echo) as (url, server), pytest.raises(UnusableError, match="--cot calculator"):
        opened(url).complete([Request(Sample((Text("q", learn=False), Text("so", learn=True))), 4)])
    assert not server.bodies


# -- the command ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv(KEY, SECRET)
    data = tmp_path / "data"
    data.mkdir()
    rows = [{"id": f"a{i}", "image": "0.png", "question": f"Which {i}?", "answers": [str(i)]} for i in range(20)]
    (data / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (data / "0.png").write_bytes(picture(9))

    def run(url: str, *more: str) -> tuple[int, str]:
        run_command._model.cache_clear()
        arguments = f"--model endpoint:{url}#tiny --task custom --data {data} --out {tmp_path / 'out'} --batch-size 4"
        monkeypatch.setattr(sys, "argv", ["eval.run", *arguments.split(), *more])
        return status(run_command.main), capsys.readouterr().err

    return run


def test_an_evaluation_goes_on_where_the_server_went_away(command, tmp_path):
    def script(body, number):
        if number > 9 and not back:
            return 401, {"error": {"message": "gone"}}
        if "Which 3?" in str(body["messages"]):
            return completion(None, refusal="no")
        return completion(str(body["messages"]).partition("Which ")[2].partition("?")[0])

    back: list[bool] = []
    with serving(script) as (url, server):
        code, error = command(url)
        assert code == 2 and error.count("\n") == 1 and "status 401" in error
        kept = (tmp_path / "out" / "records.jsonl").read_text().count("\n")
        assert 4 <= kept <= 9
        back.append(True)
        asked = len(server.bodies)
        assert command(url)[0] == 0 and 0 <= len(server.bodies) - asked - (20 - kept) <= 4  # those under way before
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["exact_match"]["value"] == 0.95 and summary["refused"]["value"] == summary["empty"]["value"] == 0.05
    assert SECRET not in "".join(path.read_text() for path in (tmp_path / "out").rglob("*") if path.is_file())


def test_a_server_that_fails_for_one_item_loses_that_one(command, tmp_path):
    def script(body, number):
        return (422, b"{}") if "Which 7?" in str(body["messages"]) else completion("0")

    with serving(script) as (url, server):
        assert command(url)[0] == 0 and len(server.bodies) == 20
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["errors"]["count"] == 1
