"""Sources and mixtures from plain specifications, as a configuration file writes them.

`{kind: stdlib, bytes: 1000000, weight: 1, epochs: 4}`: `kind` chooses the class, `weight`, `epochs` and `used_up` belong to the
mixture, and everything else goes to the class by name. A misspelt kind or argument is a `ValueError` that names the nearest
valid one. `{kind: "package.module:Class", …}` is a source of one's own (datasets/source.py says what it must do): the module is
imported, so a configuration is trusted as far as the modules that it names.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import os
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Literal, get_args, get_origin, get_type_hints

from datasets.mixture import Mixture
from datasets.remote import is_remote
from datasets.source import Source
from datasets.text import StdlibSource


def _charts() -> Callable[..., Source]:
    from datasets.charts.samples import ChartSource

    return ChartSource


def _tables() -> Callable[..., Source]:
    from datasets.charts.samples import TableSource

    return TableSource


def _shards() -> Callable[..., Source]:
    from datasets.shards import ShardSource

    return ShardSource


ORDER = 2  # raised whenever the same specifications and seed come to give other samples or another order

KINDS: dict[str, Callable[[], Callable[..., Source]]] = {
    "charts": _charts,
    "tables": _tables,
    "stdlib": lambda: StdlibSource,
    "shards": _shards,
}


def build_source(spec: Mapping, *, data_root: str | Path = ".", seed: int = 0) -> Source:
    """One source. A `path` in the specification is looked for under `data_root`; `seed` orders it unless it has its own."""
    options = dict(spec)
    kind = options.pop("kind", None)
    own = isinstance(kind, str) and ":" in kind
    if not own and kind not in KINDS:
        raise ValueError(f"source kind {kind!r} is unknown{nearest(kind, KINDS)}")
    make = _imported(kind) if own else KINDS[kind]()
    known = inspect.signature(make).parameters
    for name in options:
        if name not in known:
            raise ValueError(f"source kind {kind!r} has no argument {name!r}{nearest(name, known)}")
    missing = [p.name for p in known.values() if p.default is p.empty and p.name not in {*options, "seed"}]
    if missing:
        raise ValueError(f"source kind {kind!r} needs the argument {missing[0]!r}")
    if not own:
        _check_types(kind, make, options)
    if "path" in options:
        options["path"] = _under(Path(data_root), options["path"])
    return make(**({"seed": seed} if "seed" in known else {}) | options)


def _imported(kind: str) -> Callable[..., Source]:
    """The class that `package.module:Class` names. Raises `ValueError` where there is none, or it is no source."""
    module, _, name = kind.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError, TypeError) as error:  # the last two: an empty or a relative name
        raise ValueError(f"source kind {kind!r} cannot be imported: {error}") from None
    if not (isinstance(found, type) and all(callable(getattr(found, method, None)) for method in ("__len__", "get"))):
        raise ValueError(f"source kind {kind!r} is no class with `__len__` and `get`")
    return found


def _check_types(kind: str, make: Callable[..., Source], options: Mapping) -> None:
    """Raises `ValueError` for a value of another type than its parameter's; literals are left to the class."""
    hints = get_type_hints(make.__init__)  # type: ignore[misc]  # all of them are classes
    for name, value in options.items():
        parts = get_args(hints[name]) if isinstance(hints[name], UnionType) else (hints[name],)
        types = tuple(get_origin(part) or part for part in parts)
        fits = bool in types if isinstance(value, bool) else Literal in types or isinstance(value, types)
        if not fits:
            wanted = inspect.signature(make).parameters[name].annotation
            raise ValueError(f"argument {name!r} of source kind {kind!r} is {value!r}: want {wanted}")


def _under(root: Path, path: str | Sequence[str]) -> str | Path | list[str | Path]:
    if not isinstance(path, str | Path):
        return [_under_one(root, one) for one in path]
    return _under_one(root, path)


def _under_one(root: Path, path: str | Path) -> str | Path:
    if not isinstance(path, str | Path):
        raise ValueError(f"path {path!r} is no text")
    return path if is_remote(path) else root / os.path.expanduser(path)


def build_mixture(specs: Sequence[Mapping], *, data_root: str | Path = ".", seed: int = 0) -> Mixture:
    """Sources with their `weight` (1), `epochs` (null: endless) and `used_up` ("drop": what happens then).

    Each has an order of its own, by its name (where it has none, by its place): sources of one length do not move in step.
    """
    plain = [{k: v for k, v in spec.items() if k not in ("weight", "epochs", "used_up")} for spec in specs]
    seeds = [source_seed(seed, str(spec.get("name", place))) for place, spec in enumerate(plain)]
    sources = [_named(spec, data_root, own) for spec, own in zip(plain, seeds, strict=True)]
    weights, epochs = [spec.get("weight", 1.0) for spec in specs], [spec.get("epochs") for spec in specs]
    return Mixture(sources, weights, epochs, [spec.get("used_up", "drop") for spec in specs])


def stage_mixture(
    sources: Mapping[str, Mapping], weights: Mapping[str, float], stage: str, *, data_root: str | Path, seed: int
) -> Mixture:
    """The sources that `weights` names. Each stage orders (and, for generated data, draws) them by a seed of its own."""
    specs = [{"name": source} | dict(sources[source]) | {"weight": weight} for source, weight in weights.items()]
    return build_mixture(specs, data_root=data_root, seed=source_seed(seed, stage))


def _named(spec: Mapping, data_root: str | Path, seed: int) -> Source:
    """As `build_source`, and a mistake says whose it is."""
    try:
        return build_source(spec, data_root=data_root, seed=seed)
    except ValueError as error:
        raise ValueError(f"source {spec['name']!r}: {error}" if "name" in spec else str(error)) from None


def source_seed(seed: int, name: str) -> int:
    """The same on every machine, in every process."""
    return zlib.crc32(f"{seed}/{name}".encode())


def nearest(name: object, valid: Iterable[str]) -> str:
    """ "; did you mean …?", or all valid names where none is near."""
    valid = list(valid)
    near = difflib.get_close_matches(str(name), valid, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; valid: {', '.join(valid)}"
