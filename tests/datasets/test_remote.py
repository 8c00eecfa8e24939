"""Shards from afar: fetched once, then as any other; nothing runs that was not asked for."""

import errno
import functools
import gzip
import http.server
import threading
from collections import Counter

import fsspec
import pytest

from datasets import remote
from datasets.build import build_source
from datasets.remote import fetch
from datasets.shards import ShardSource, ShardWriter
from vlm.sample import Sample, Text


@pytest.fixture
def shards(tmp_path):
    with ShardWriter(tmp_path / "far", "train", max_samples=2) as writer:
        for i in range(5):
            writer.write(Sample((Text(f"text {i}"),), str(i)))
    return tmp_path / "far"


@pytest.fixture
def server(shards):
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(shards)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def texts(source):
    return [source.get(0, i).segments[0].text for i in range(len(source))]


def test_pipes_and_addresses_give_what_files_give(shards, tmp_path, server):
    cache, here = tmp_path / "cache", texts(ShardSource(shards, seed=2))
    pipe = [f"pipe:cat {path}" for path in sorted(shards.glob("*.tar"))]
    assert texts(ShardSource(pipe, seed=2, cache=cache, allow_pipe=True)) == here
    source = ShardSource(server + "/train-{000000..000002}.tar", seed=2, cache=cache)
    assert texts(source) == here and source.name == "train"
    assert texts(ShardSource(f"file://{shards}/train-*.tar", seed=2, cache=cache)) == here


def test_a_second_run_needs_the_cache_alone(shards, tmp_path):
    url = f"file://{shards}/train-000000.tar"
    source = {"kind": "shards", "path": [url], "cache": str(tmp_path / "cache")}
    first = texts(build_source(source))
    for path in shards.iterdir():
        path.unlink()
    assert texts(build_source(source)) == first
    assert not list((tmp_path / "cache").glob("*.part"))


def test_two_at_once_fetch_once(shards, tmp_path, monkeypatch):
    copy, copied = remote._copy, []

    def slow(url, path):
        copied.append(url)
        threading.Event().wait(0.3)
        return copy(url, path)

    monkeypatch.setattr(remote, "_copy", slow)
    address = f"file://{shards}/train-000000.tar"
    both = [threading.Thread(target=fetch, args=(address, tmp_path / "cache")) for _ in range(2)]
    for one in both:
        one.start()
    for one in both:
        one.join()
    assert copied == [address]


def test_a_pipe_runs_only_where_it_is_allowed(tmp_path):
    mark = tmp_path / "ran"
    for spec in ({"path": f"pipe:touch {mark}"}, {"path": [f"pipe:touch {mark}"]}):
        with pytest.raises(ValueError, match="would run a command: set `allow_pipe: true`"):
            build_source({"kind": "shards", **spec, "cache": str(tmp_path)})
    assert not mark.exists()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("pipe:echo half; exit 3", "cannot be fetched"),
        ("nosuch://host/a.tar", "cannot be fetched: nosuch: is no protocol"),
        ("file:///no/such/a.tar", "cannot be fetched"),
        ("file:///no/such/*.tar", "the pattern matches none"),
    ],
)
def test_what_cannot_be_had_is_one_line_and_leaves_nothing(url, message, tmp_path):
    with pytest.raises(ValueError, match=message) as error:
        ShardSource(url, cache=tmp_path, allow_pipe=True)
    assert "\n" not in str(error.value) and not list(tmp_path.glob("*.tar")) and not list(tmp_path.glob("*.part"))


def test_a_missing_page_of_a_server(server, tmp_path):
    with pytest.raises(ValueError, match=r"http://.*/none\.tar cannot be fetched"):
        fetch(server + "/none.tar", tmp_path)


@pytest.fixture
def flaky(shards, monkeypatch):
    """A server whose paths begin with what goes wrong, and how often."""
    monkeypatch.setattr(remote, "PAUSES", (0.0, 0.0))
    data, tries = (shards / "train-000000.tar").read_bytes(), Counter()

    class Server(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_HEAD(self):
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()

        def do_GET(self):
            _, kind, times, _ = self.path.split("/")
            tries[kind] += 1
            bad = tries[kind] <= int(times)
            if bad and kind.isdigit():
                self.send_error(int(kind))
                return
            self.do_HEAD()
            self.wfile.write(data[: len(data) // 2] if bad else data)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", data, tries
    server.shutdown()


@pytest.mark.parametrize(("kind", "times", "tried"), [("500", 1, 2), ("503", 2, 3), ("429", 1, 2), ("short", 1, 2)])
def test_what_a_server_does_better_next_time(flaky, tmp_path, kind, times, tried):
    address, data, tries = flaky
    assert fetch(f"{address}/{kind}/{times}/a.tar", tmp_path).read_bytes() == data and tries[kind] == tried


@pytest.mark.parametrize(("kind", "tried"), [("500", 3), ("short", 3), ("404", 1), ("403", 1)])
def test_what_a_server_never_does_is_one_line(flaky, tmp_path, kind, tried):
    address, _, tries = flaky
    with pytest.raises(ValueError, match=rf"{kind}/9/a\.tar cannot be fetched: ({kind}|.*(bytes|data))") as error:
        fetch(f"{address}/{kind}/9/a.tar", tmp_path / "cache")
    assert "\n" not in str(error.value) and tries[kind] == tried
    assert not [p for p in (tmp_path / "cache").iterdir() if p.suffix != ".lock"]


def test_a_full_disk_is_not_tried_again(shards, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(remote.shutil, "copyfileobj", full)
    with pytest.raises(ValueError, match=r"cannot be fetched: .*No space left"):
        fetch(f"file://{shards}/train-000000.tar", tmp_path / "cache")


def test_shards_in_memory(shards, tmp_path):
    fsspec.filesystem("memory").pipe("/set/a.tar", (shards / "train-000000.tar").read_bytes())
    assert len(ShardSource("memory://set/*.tar", cache=tmp_path)) == 2


def test_names_lead_nowhere_else(tmp_path, shards):
    path = fetch(f"pipe:cat {shards}/train-000000.tar; true ../../x", tmp_path / "cache", allow_pipe=True)
    assert path.parent == tmp_path / "cache"


def fakes(tmp_path):
    whole = b"".join(p.read_bytes() for p in [tmp_path / "far/train-000000.tar"])
    yield "page.tar", b"<html>please log in</html>" * 99, "what came is no shard"
    yield "cut.tar", whole[:2000], "what came is cut off"
    yield "zip.tar", gzip.compress(whole), "compressed \\(gzip\\)"


def test_what_is_no_whole_shard_is_never_kept(shards, tmp_path, server, monkeypatch):
    monkeypatch.setattr(remote, "PAUSES", ())
    for name, data, message in fakes(tmp_path):
        (shards / name).write_bytes(data)
        for url in (f"{server}/{name}", f"pipe:cat {shards / name}"):
            with pytest.raises(ValueError, match=rf"{name} cannot be fetched: .*{message}") as error:
                fetch(url, tmp_path / "cache", allow_pipe=True)
            assert "\n" not in str(error.value)
        assert not [p for p in (tmp_path / "cache").glob(f"{name[:-4]}*") if p.suffix != ".lock"]
        (shards / name).write_bytes((shards / "train-000001.tar").read_bytes())
        assert len(ShardSource(f"{server}/{name}", cache=tmp_path / "cache")) == 2


def test_keys_are_not_said_and_make_no_other_shard(shards, tmp_path, server, caplog):
    query = "?X-Amz-Signature={0}&X-Amz-Expires=9&part=1&sig={0}"
    first, second = (fetch(f"{server}/train-000000.tar{query.format(key)}", tmp_path / "cache") for key in ("s3cret", "other"))
    assert first == second and "s3cret" not in str(first)
    assert fetch(f"{server}/train-000000.tar?part=2", tmp_path / "cache") != first
    with pytest.raises(ValueError, match=r"none\.tar cannot be fetched") as error:
        fetch(f"{server.replace('//', '//me:s3cret@')}/none.tar{query.format('s3cret')}", tmp_path / "cache")
    assert "s3cret" not in str(error.value) + caplog.text and "train-000000.tar" in caplog.text


def test_shards_are_fetched_some_at_once(tmp_path, monkeypatch):
    together = threading.Barrier(4, timeout=20)
    monkeypatch.setattr(remote, "_persist", lambda url, path: (together.wait() and None) or path.write_bytes(b""))
    urls = [f"memory://a/{i}.tar" for i in range(4)]
    paths = remote.fetch_all(urls, tmp_path)
    assert [p.name.split("-")[0] for p in paths] == ["0", "1", "2", "3"]


def test_of_many_shards_the_first_that_fails_ends_it(tmp_path):
    with pytest.raises(ValueError, match=r"^shard file:///no/such/0.tar cannot be fetched"):
        remote.fetch_all([f"file:///no/such/{i}.tar" for i in range(50)], tmp_path)
