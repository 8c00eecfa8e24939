"""Shards from afar: fetched once, then as any other; nothing runs that was not asked for."""

import functools
import http.server
import threading

import pytest

from datasets.build import build_source
from datasets.remote import expand, fetch
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


def test_names_lead_nowhere_else(tmp_path, shards):
    path = fetch(f"pipe:cat {shards}/train-000000.tar; true ../../x", tmp_path / "cache")
    assert path.parent == tmp_path / "cache"
    assert expand("s3://bucket/{a,b}-{00..01}.tar") == [f"s3://bucket/{n}-0{i}.tar" for n in "ab" for i in range(2)]
