"""A run's configuration: one tree of frozen dataclasses, read strictly from YAML, with dotted overrides.

Every default is here, so `config.yaml` in a run directory is the whole truth of the run. Parsing is OmegaConf's, checking
pydantic's: no key that is not known, no value that is not of its type, and one line naming the place otherwise.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Lt
from omegaconf import OmegaConf
from pydantic import TypeAdapter, ValidationError

from datasets.yaml_file import NOT_YAML, parse, plain_yaml
from encoders.base import Checked
from vlm.config import ModelConfig, RopeScaling
from vlm.model import GROUPS

Positive = Annotated[float, Gt(0), Le(1e30)]
Share = Annotated[float, Ge(0), Le(1)]
Count = Annotated[int, Ge(1)]


@dataclass(frozen=True)
class RunConfig(Checked):
    """Where and how it runs. Nothing here but `seed` and `precision` changes what is computed."""

    dir: str | None = None  # default runs/<config's name>
    seed: int = 0
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    devices: Count | None = None  # processes on this node; default: as launched (torchrun, Slurm), else 1 on CPU, all GPUs
    num_nodes: Count = 1
    threads: Count | None = None  # of the arithmetic, each process; default: torch's own choice
    # bf16-true: weights too, and nothing finer beside them: steps below a 250th of a weight are lost, so rates above 1e-4 only
    precision: Literal["32-true", "bf16-mixed", "bf16-true"] = "32-true"
    deterministic: bool = True  # the same seed gives the same bits; False: a GPU may take faster kernels
    checkpoint_activations: Literal["none", "blocks"] = "none"  # blocks: less memory for a third more arithmetic
    compile: bool | None = None  # the blocks, with torch.compile; default: on GPUs, unless `deterministic`
    activation_memory: Share = 1.0  # of what compiled blocks keep for the backward pass; the rest is computed again
    workers: Annotated[int, Ge(0)] = 0  # data processes for each rank
    checkpoint_every: Count = 200  # steps
    keep: Count = 2  # checkpoints of each stage
    log_every: Count = 10  # steps
    peak_tflops: Positive | None = None  # of one device, what MFU is a share of; default: dense bf16 of a GPU that is known
    profile: Annotated[int, Ge(0)] = 0  # steps of each stage to profile, into the run directory
    max_skipped: Share = 0.5  # of a source's samples; when more cannot be used the run stops


@dataclass(frozen=True)
class TokenizerConfig(Checked):
    """A byte-level BPE tokenizer trained on the first documents of each source, or one read from `path`."""

    path: str | None = None  # tokenizer.json
    documents: Count = 400  # of each source in any stage


@dataclass(frozen=True)
class OptimConfig(Checked):
    """AdamW (Loshchilov and Hutter, 2019), or Muon (Jordan et al., 2024) for matrices and AdamW for the rest, at AdamW's rates.

    Matrices decay; vectors, gates, latents and embeddings do not.
    """

    kind: Literal["adamw", "muon"] = "adamw"
    lr: Positive = 3e-4  # peak
    base_width: Count | None = None  # decoder.dim that `lr` was found at, to carry it over (train/optim/width.py)
    betas: tuple[Share, Share] = (0.9, 0.95)
    eps: Positive = 1e-8
    weight_decay: Annotated[float, Ge(0)] = 0.1
    clip: Positive = 1.0  # largest norm of the whole gradient
    ema: Annotated[float, Gt(0), Lt(1)] | None = None  # decay of an average of the weights, kept beside them; None = no average
    max_bad_steps: Count = 5  # steps in a row with a loss or gradient that is not finite, after which the run stops


@dataclass(frozen=True)
class ScheduleConfig(Checked):
    """The learning rate over a stage, as a share of the peak."""

    kind: Literal["cosine", "wsd", "constant"] = "cosine"  # wsd: warm-up, stable, linear decay (Hu et al., 2024)
    warmup: Share = 0.02  # share of the stage's steps
    decay: Share = 0.2  # share of the stage's steps that a wsd schedule decays over
    final: Share = 0.1  # of the peak, at the end


@dataclass(frozen=True)
class StageConfig(Checked):
    """One part of the training: which groups learn, from what, for how long."""

    name: str
    tokens: Positive  # positions trained on, before `budget_scale`
    train: dict[Literal["encoder", "resampler", "fusion", "decoder"], Positive]  # learning-rate factor; not named = frozen
    mixture: dict[str, Positive]  # weight of each source
    shares: Literal["samples", "tokens"] = "samples"  # what the weights are shares of
    length: Annotated[int, Ge(2)] = 512  # tokens a row
    rows: Count = 16  # rows a step, over all processes
    micro_batches: Count = 1  # parts a process takes its rows in, one after the other
    max_images: Count = 64  # a row
    window: Count = 8  # documents that wait to be packed, for each row
    rope_theta: Annotated[float, Gt(1)] | None = None  # from this stage on, the decoder's; None = as before
    rope_scaling: RopeScaling | None = None  # likewise
    lr: Positive | None = None  # instead of optim.lr
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)

    def __post_init__(self) -> None:
        if not self.train:
            raise ValueError(f"stage {self.name!r} trains nothing: name at least one of {', '.join(GROUPS)}")
        if not self.mixture:
            raise ValueError(f"stage {self.name!r} has an empty mixture: name at least one source")
        if self.rows % self.micro_batches:
            raise ValueError(f"stage {self.name!r}: {self.rows} rows cannot be taken in {self.micro_batches} micro_batches")


@dataclass(frozen=True)
class ValidationConfig(Checked):
    """Held-out loss, with the image and with it blanked, during and after each stage."""

    mixture: dict[str, Positive] = field(default_factory=dict)  # weights over sources; empty = no validation
    rows: Count = 32
    length: Annotated[int, Ge(2)] = 512
    every: Count = 500  # steps


@dataclass(frozen=True)
class EvalConfig(Checked):
    """The evaluation on generated charts that ends a run; zero questions leave it out."""

    charts: Annotated[int, Ge(0)] = 2000  # questions, each with the image and with it blanked
    reasoned: Annotated[int, Ge(0)] = 500  # questions answered again rationale first, their rationales judged
    tables: Annotated[int, Ge(0)] = 500  # questions about tables in words, after each stage
    profile: str | dict[str, Any] = "sight"  # of datasets.charts: a preset, or {name: preset, field: value, …}
    seed: int = 1234


@dataclass(frozen=True)
class Config(Checked):
    """Everything about a run."""

    stages: list[StageConfig]
    sources: dict[str, dict[str, Any]]  # name → kind, its arguments, `epochs` and `used_up`; see datasets/build.py
    model: ModelConfig = field(default_factory=ModelConfig)
    # A run or model directory (of a decoder alone, too) whose weights and vocabulary it begins with; `--init-from` replaces it.
    init_from: str | None = None
    budget_scale: Positive = 1.0  # every stage's tokens times this: one number from a cluster's recipe to a laptop's
    data_root: str = "."  # where relative paths of sources start
    run: RunConfig = field(default_factory=RunConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)

    def __post_init__(self) -> None:
        if not self.stages:
            raise ValueError("there are no stages")
        if self.model.resampler is None and any("resampler" in s.train for s in self.stages):
            raise ValueError("a stage trains the resampler, and model.resampler is null")
        names = [s.name for s in self.stages]
        if len(set(names)) < len(names) or not all(n.isidentifier() for n in names):
            raise ValueError(f"stages must have different plain names, not {names}")
        for where, mixture in [(f"stage {s.name!r}", s.mixture) for s in self.stages] + [
            ("validation", self.validation.mixture)
        ]:
            for name in mixture:
                if name not in self.sources:
                    raise ValueError(f"{where} names source {name!r}, which is not in sources{_nearest(name, self.sources)}")

    def steps(self, stage: StageConfig) -> int:
        """Optimizer steps of a stage: its scaled budget over the positions of a step."""
        return max(1, round(stage.tokens * self.budget_scale / (stage.rows * stage.length)))


def read_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """YAML file + `key.path=value` overrides → `Config`. Raises `ValueError` in one line naming file, key and value."""
    tree = OmegaConf.create(plain_yaml(path))
    for override in overrides:
        _override(tree, override)
    return check_config(OmegaConf.to_container(tree, resolve=False), path)


def check_config(plain: dict[str, Any], path: str | Path) -> Config:
    """A plain tree → `Config`, every default filled in. Raises `ValueError` in one line."""
    try:
        return TypeAdapter(Config).validate_json(json.dumps(plain))
    except ValidationError as error:
        errors = sorted(error.errors(), key=lambda e: e["type"] != "unexpected_keyword_argument")  # a misspelt key misses, too
        raise ValueError(f"{path}: {_explain(errors[0])}") from None
    except TypeError as error:  # bytes: YAML's !!binary
        raise ValueError(f"{path}: {error}") from None


def as_plain(config: Config) -> dict[str, Any]:
    """The tree as YAML would give it back."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def to_yaml(config: Config) -> str:
    """What `read_config` reads back as the same configuration."""
    return OmegaConf.to_yaml(OmegaConf.create(as_plain(config)), resolve=False)


def differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    """Dotted keys whose values differ between two plain trees."""
    found = []
    for key in [*old, *(k for k in new if k not in old)]:
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            found += differences(a, b, f"{prefix}{key}.")
        elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b) and all(isinstance(x, dict) for x in (*a, *b)):
            for i, (x, y) in enumerate(zip(a, b, strict=True)):
                found += differences(x, y, f"{prefix}{key}.{x.get('name', i)}.")
        elif a != b:
            found.append(f"{prefix}{key}")
    return found


def _override(tree: Any, text: str) -> None:
    key, sign, value = text.partition("=")
    if not sign or not key:
        raise ValueError(f"--set takes key.path=value, not {text!r}")
    try:
        parsed = parse(f"value: {value}" if value else "value: ''")["value"]
    except NOT_YAML as error:
        raise ValueError(f"--set {text}: not a YAML value: {' '.join(str(error).split())}") from None
    parts = key.split(".")
    if parts[0] == "stages" and len(parts) > 1 and not parts[1].isdigit():  # stages.align.tokens as well as stages.1.tokens
        names = [s.get("name") for s in tree.get("stages", [])]
        if parts[1] not in names:
            raise ValueError(f"--set {text}: there is no stage {parts[1]!r}{_nearest(parts[1], names)}")
        parts[1] = str(names.index(parts[1]))
    try:
        OmegaConf.update(tree, ".".join(parts), parsed, merge=False, force_add=True)
    except Exception as error:  # OmegaConf raises its own, ValueError, TypeError and IndexError for a path that cannot be
        raise ValueError(f"--set {text}: {str(error).splitlines()[0]}") from None


def _explain(error: Any) -> str:
    """One pydantic error as `key.path: what is wrong`."""
    where = [p for p in error["loc"] if p != "[key]"]
    place = ".".join(map(str, where)) or "config"
    match error["type"]:
        case "unexpected_keyword_argument":
            return f"{place}: unknown key{_nearest(where[-1], _siblings(where))}"
        case "missing" | "missing_argument":
            return f"{place}: required, and missing"
        case "value_error":
            return f"{place}: {error['ctx']['error']}" if where else str(error["ctx"]["error"])
        case _:
            return f"{place}: {error['msg'][0].lower()}{error['msg'][1:]}, not {error['input']!r}"


def _siblings(where: list[Any]) -> list[str]:
    """The keys that are valid beside the last one of a path."""
    kind: Any = Config
    for part in where[:-1]:
        if isinstance(part, int):
            kind = StageConfig
        elif dataclasses.is_dataclass(kind):
            name = {f.name: f.type for f in dataclasses.fields(kind)}.get(part)
            kind = _TYPES.get(str(name).removesuffix(" | None"), kind)
    return [f.name for f in dataclasses.fields(kind)]


def _types(kind: Any = Config) -> dict[str, Any]:
    """Name → class of every dataclass in the tree."""
    from vlm import config as model

    return {
        n: c
        for scope in (globals(), vars(model))
        for n, c in scope.items()
        if isinstance(c, type) and dataclasses.is_dataclass(c)
    }


_TYPES = _types()


def _nearest(name: Any, valid: Any) -> str:
    near = difflib.get_close_matches(str(name), [str(v) for v in valid], 1)
    return f"; did you mean {near[0]!r}?" if near else f"; valid: {', '.join(map(str, valid))}"
