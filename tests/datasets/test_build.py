from pathlib import Path

import pytest

from datasets.build import build_mixture, build_source
from datasets.shards import ShardWriter
from vlm.sample import Sample, Text


@pytest.fixture
def root(tmp_path: Path) -> Path:
    with ShardWriter(tmp_path / "pages", "train") as writer:
        writer.write(Sample((Text("x"),), "k"))
    return tmp_path


def test_sources_from_specifications(root):
    code = build_source({"kind": "stdlib", "bytes": 10_000, "name": "code"}, seed=3)
    assert (code.name, code.seed) == ("code", 3)
    assert build_source({"kind": "stdlib", "bytes": 10_000, "seed": 9}, seed=3).seed == 9
    assert len(build_source({"kind": "shards", "path": "pages"}, data_root=root)) == 1
    pattern = {"kind": "shards", "path": ["pages/train-*.tar"], "shuffle": False}
    assert len(build_source(pattern, data_root=root)) == 1


@pytest.mark.parametrize("kind", ["charts", "tables"])
def test_generated_sources(kind):
    source = build_source({"kind": kind, "size": 10}, seed=1)
    assert len(source) == 10 and source.get(0, 0) == source.get(0, 0)


def test_mixture_from_specifications(root):
    specs = [{"kind": "stdlib", "bytes": 10_000, "weight": 3, "epochs": 4}, {"kind": "shards", "path": "pages"}]
    mixture = build_mixture(specs, data_root=root)
    assert (mixture.weights, mixture.epochs, mixture.names) == ((3, 1.0), (4, None), ("stdlib", "train"))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"kind": "stdlb"}, "source kind 'stdlb' is unknown; did you mean 'stdlib'"),
        ({"kind": "zzz"}, "unknown; valid: charts, tables, stdlib, shards"),
        ({}, "source kind None is unknown"),
        ({"kind": "stdlib", "byts": 3}, "source kind 'stdlib' has no argument 'byts'; did you mean 'bytes'"),
        ({"kind": "stdlib", "bytes": "many"}, r"argument 'bytes' of source kind 'stdlib' is 'many': want int \| None"),
        ({"kind": "charts", "size": True}, "argument 'size' of source kind 'charts' is True"),
        ({"kind": "shards", "path": 3}, "argument 'path' of source kind 'shards' is 3"),
        ({"kind": "shards"}, "source kind 'shards' needs the argument 'path'"),
        ({"kind": "shards", "path": "nowhere"}, "no shards at .*nowhere"),
    ],
)
def test_mistakes_are_named(spec, message, root):
    with pytest.raises(ValueError, match=message):
        build_source(spec, data_root=root)


def test_an_empty_mixture():
    with pytest.raises(ValueError, match="the mixture is empty"):
        build_mixture([])


def test_what_happens_when_a_source_is_used_up(root):
    specs = [{"kind": "stdlib", "bytes": 10_000, "epochs": 2, "used_up": "stop"}, {"kind": "shards", "path": "pages"}]
    mixture = build_mixture(specs, data_root=root)
    assert mixture.used_up == ("stop", "drop") and mixture.size == 2 * 2 * len(mixture.sources[0]) - 1
    with pytest.raises(ValueError, match="used_up of source 'stdlib' is 'halt'"):
        build_mixture([specs[0] | {"used_up": "halt"}], data_root=root)
