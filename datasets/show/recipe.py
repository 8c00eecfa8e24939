"""What is to be shown: shards as they lie there, or a stage of a training configuration as the run will draw it.

Without a tokenizer one is trained on the first documents, as a run does. Of a configuration only what concerns the data is read
(train/ checks the rest); rows, order and vocabulary are then the run's, with `shares: tokens` as far as the lengths that are
measured here anew are those that the run measured when it began.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from tokenizers import Tokenizer

from datasets.build import nearest, source_seed, stage_mixture
from datasets.mean_tokens import mean_tokens
from datasets.mixture import Mixture
from datasets.shards import ShardSource, common_name, find_shards
from datasets.source import Source
from datasets.tokenizer import first_texts, train_tokenizer
from datasets.yaml_file import plain_yaml
from vlm.config import ModelConfig
from vlm.files import read_json, read_tokenizer
from vlm.image import ImageTransform
from vlm.load import TOKENIZER, build_processor, find, load, with_medium
from vlm.processor import Processor

VOCABULARY, DOCUMENTS = 8192, 100  # of a tokenizer trained for shards alone; documents of each source
VALIDATION = "validation"
SETTINGS = "processor.json"  # beside a run's tokenizer.json


@dataclass(frozen=True)
class Recipe:
    """`rows` a step of `length` tokens from `mixture`; `seen` says in words what is shown, `vocabulary` where it came from."""

    seen: str
    vocabulary: str
    mixture: Mixture
    processor: Processor
    rows: int
    length: int
    max_images: int
    window: int = 8


@dataclass(frozen=True)
class _Stage:
    name: str
    mixture: dict[str, float]
    shares: str = "samples"
    rows: int = 16
    length: int = 512
    max_images: int = 64
    window: int = 8


@dataclass(frozen=True)
class _Validation:
    mixture: dict[str, float] = field(default_factory=dict)
    rows: int = 32
    length: int = 512
    max_images: int = 64
    window: int = 8
    shares: str = "samples"


@dataclass(frozen=True)
class _Run:
    seed: int = 0


@dataclass(frozen=True)
class _Tokenizer:
    path: str | None = None
    documents: int = 400


@dataclass(frozen=True)
class _Config:
    """The part of a training configuration that decides what the model sees, with the same defaults."""

    stages: list[_Stage]
    sources: dict[str, dict[str, Any]]
    model: ModelConfig = field(default_factory=ModelConfig)
    run: _Run = field(default_factory=_Run)
    tokenizer: _Tokenizer = field(default_factory=_Tokenizer)
    validation: _Validation = field(default_factory=_Validation)
    init_from: str | None = None
    data_root: str = "."


def of_shards(paths: Sequence[str], tokenizer: str | None, *, seed: int, length: int, image_size: int) -> Recipe:
    """Each set of shards (NAME-000000.tar, …) is a source, seen once. Raises `ValueError` where there are none."""
    sets: dict[str, list[Path]] = {}
    for shard in dict.fromkeys(find_shards(list(paths))):
        sets.setdefault(common_name([shard]), []).append(shard)
    sources = [ShardSource(s, seed=source_seed(seed, name), name=name, allow_special=True) for name, s in sets.items()]
    most = max(map(len, sources))
    mixture = Mixture(sources, [max(len(s), most / 1000) for s in sources], [1] * len(sources))
    processor, vocabulary = _given(tokenizer, ImageTransform(image_size)) if tokenizer else (None, "")
    if processor is None:
        processor = Processor(_trained(sources, DOCUMENTS, VOCABULARY), ImageTransform(image_size))
        vocabulary = f"trained on the first {DOCUMENTS} documents of each source"
    return Recipe(", ".join(sets), vocabulary, mixture, processor, rows=1, length=length, max_images=64)


def of_config(path: str | Path, stage: str | None, tokenizer: str | None, *, seed: int | None, length: int | None) -> Recipe:
    """A stage of a configuration (default: the last), or its `validation`. Raises `ValueError` naming file and key."""
    config = read_config(path)
    stages: dict[str, _Stage | _Validation] = {s.name: s for s in config.stages}
    if config.validation.mixture:
        stages[VALIDATION] = config.validation
    name = config.stages[-1].name if stage is None else stage
    if name not in stages:
        raise ValueError(f"--stage {name!r} is not in {path}{nearest(name, stages)}")
    chosen, seed = stages[name], config.run.seed if seed is None else seed
    mixture = _mixture(config, chosen.mixture, name, seed)
    processor, vocabulary = _processor(config, Path(path), tokenizer, seed)
    if chosen.shares == "tokens":  # of the configured length, whatever is shown
        most = chosen.max_images
        mixture = mixture.by_tokens({s.name: mean_tokens(s, processor, chosen.length, most) for s in mixture.sources})
    length = chosen.length if length is None else length
    return Recipe(f"{path}, {name}", vocabulary, mixture, processor, chosen.rows, length, chosen.max_images, chosen.window)


def read_config(path: str | Path) -> _Config:
    """Raises `ValueError` in one line."""
    try:
        config = TypeAdapter(_Config).validate_json(json.dumps(plain_yaml(path)))
    except (ValidationError, TypeError) as error:
        first = error.errors()[0] if isinstance(error, ValidationError) else {"loc": (), "msg": str(error)}
        raise ValueError(f"{path}: {'.'.join(map(str, first['loc'])) or 'config'}: {first['msg']}") from None
    if not config.stages:
        raise ValueError(f"{path}: there are no stages")
    return config


def _mixture(config: _Config, weights: dict[str, float], name: str, seed: int) -> Mixture:
    """Raises `ValueError` for a source that is not configured."""
    for source in weights:
        if source not in config.sources:
            raise ValueError(f"{name} names source {source!r}, which is not in sources{nearest(source, config.sources)}")
    return stage_mixture(config.sources, weights, name, data_root=config.data_root, seed=seed)


def _processor(config: _Config, path: Path, tokenizer: str | None, seed: int) -> tuple[Processor, str]:
    """With the vocabulary given, else the run's own beside its config.yaml, else the one that a run would begin with."""
    beside, listed = path.parent / TOKENIZER, config.tokenizer.path
    choices = (tokenizer, path.parent if beside.is_file() else None, config.init_from)
    chosen = next((choice for choice in choices if choice is not None), None)
    if chosen is None and listed is not None:
        chosen = Path(config.data_root) / listed
    if chosen is not None:
        try:
            given, said = _given(chosen, ImageTransform(1))
        except ValueError as error:
            raise ValueError(f"{error}; --tokenizer names another vocabulary") from None
        given = with_medium(given)
        return build_processor(config.model, given.tokenizer, given.special, given.chat_template), said
    names = dict.fromkeys(name for stage in config.stages for name in stage.mixture)
    sources = (_mixture(config, {name: 1.0}, "tokenizer", seed).sources[0] for name in names)
    trained = _trained(sources, config.tokenizer.documents, config.model.decoder.vocab_size)
    said = f"trained on the first {config.tokenizer.documents} documents of each source, as a run does"
    return build_processor(config.model, trained), said


def _given(path: str | Path, image: ImageTransform) -> tuple[Processor, str]:
    """The processor of a run or model directory, or of a tokenizer file alone. Raises `ValueError`."""
    path = Path(path)
    if path.is_dir() and (_has_model(path) or not (path / TOKENIZER).is_file()):
        return load(path, device="meta")[1], str(path)
    settings = path / SETTINGS
    special = read_json(settings).get("special_tokens", {}) if settings.is_file() else {}
    return Processor(read_tokenizer(path / TOKENIZER if path.is_dir() else path), image, **special), str(path)


def _has_model(path: Path) -> bool:
    try:
        return bool(find(path))
    except ValueError:
        return False


def _trained(sources: Iterable[Source], documents: int, vocab_size: int) -> Tokenizer:
    def texts() -> Iterator[str]:
        for source in sources:
            yield from first_texts(source, documents)

    return train_tokenizer(texts(), vocab_size)
