from pathlib import Path

import pytest

from datasets.build import build_mixture, build_source, source_seed
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


def test_each_source_has_an_order_of_its_own(tmp_path):
    for name in "ab":
        with ShardWriter(tmp_path / name, name) as writer:
            for i in range(50):
                writer.write(Sample((Text(str(i)),), str(i)))

    def orders(*names):
        specs = [{"kind": "shards", "path": path} | ({"name": name} if name else {}) for name, path in names]
        mixture = build_mixture(specs, data_root=tmp_path, seed=3)
        return [[s.get(epoch, i).key for epoch in range(2) for i in range(50)] for s in mixture.sources]

    first, second = orders(("one", "a"), ("two", "b"))
    assert first != second and sum(x == y for x, y in zip(first, second, strict=True)) < 15
    assert orders(("three", "b"), ("two", "b"), ("one", "b"))[::-1][:2] == [first, second]  # by name, wherever it stands
    assert len({tuple(order) for order in orders((None, "a"), (None, "b"))}) == 2
    assert [source_seed(0, "text"), source_seed(1, "text"), source_seed(0, "code")] == [3974522368, 666547621, 2692280671]


def test_a_mistake_says_whose_it_is(root):
    with pytest.raises(ValueError, match=r"^source 'web': no shards at .*nowhere"):
        build_mixture([{"kind": "shards", "name": "web", "path": "nowhere"}], data_root=root)
    with pytest.raises(ValueError, match=r"^no shards at .*nowhere"):
        build_mixture([{"kind": "shards", "path": "nowhere"}], data_root=root)


def test_an_empty_mixture():
    with pytest.raises(ValueError, match="the mixture is empty"):
        build_mixture([])


def test_what_happens_when_a_source_is_used_up(root):
    specs = [{"kind": "stdlib", "bytes": 10_000, "epochs": 2, "used_up": "stop"}, {"kind": "shards", "path": "pages"}]
    mixture = build_mixture(specs, data_root=root)
    assert mixture.used_up == ("stop", "drop") and mixture.size == 2 * 2 * len(mixture.sources[0]) - 1
    with pytest.raises(ValueError, match="used_up of source 'stdlib' is 'halt'"):
        build_mixture([specs[0] | {"used_up": "halt"}], data_root=root)


class Own:
    """A source of one's own, for a configuration to name."""

    def __init__(self, name: str, size: int, seed: int = 0) -> None:
        self.name, self.size, self.seed = name, size, seed

    def __len__(self):
        return self.size

    def get(self, epoch, index):
        return Sample((Text(f"{self.name} {epoch}.{index}"),))


class Unseeded(Own):
    def __init__(self, name):
        super().__init__(name, 3)


def test_a_source_of_ones_own_is_named_by_its_module():
    mixture = build_mixture(
        [{"kind": f"{__name__}:Own", "name": "own", "size": 4}, {"kind": f"{__name__}:Unseeded", "name": "b"}]
    )
    own, unseeded = mixture.sources
    assert (type(own), own.size, own.seed) == (Own, 4, source_seed(0, "own")) and unseeded.seed == 0
    assert own.get(1, 2).segments[0].text == "own 1.2"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"kind": "no_such_module:Own"}, "kind 'no_such_module:Own' cannot be imported: No module named"),
        ({"kind": f"{__name__}:Owned"}, "cannot be imported: module .* has no attribute 'Owned'"),
        ({"kind": ":Own"}, "cannot be imported"),
        ({"kind": ".build:Own"}, "cannot be imported"),
        ({"kind": "os:system", "command": "touch pwned"}, "is no class with `__len__` and `get`"),
        ({"kind": "subprocess:Popen", "args": "touch pwned"}, "is no class with `__len__` and `get`"),
        ({"kind": f"{__name__}:Own", "name": "a"}, "needs the argument 'size'"),
        ({"kind": f"{__name__}:Own", "name": "a", "sise": 3}, "has no argument 'sise'; did you mean 'size'"),
    ],
)
def test_what_is_no_source_of_ones_own_is_said(spec, message):
    with pytest.raises(ValueError, match=message):
        build_source(spec)
