"""Rotary positions as config.json writes them, in all of the forms that published models have, → ours, and back.

The scaling stands under `rope_scaling` (goes first, where both are there) or `rope_parameters`, its kind under `rope_type` or
`type`, and the base beside it or within it. The rules for what is left out are those of transformers 5.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from annotated_types import Ge, Gt, Lt
from pydantic import TypeAdapter, ValidationError

from vlm.config import RopeScaling

KINDS = ("default", "linear", "dynamic", "yarn", "llama3")
DEFAULT_LENGTH = 4096  # tokens, where nobody says
Number = Annotated[float, Gt(0), Lt(math.inf)]
Length = Annotated[int, Ge(1), Lt(1 << 40)]


@dataclass(frozen=True)
class RopeFile:
    """The mapping. A key that is not here is refused."""

    __pydantic_config__: ClassVar[dict[str, object]] = {"extra": "forbid", "strict": True}

    rope_type: str | None = None
    type: str | None = None
    rope_theta: Number | None = None
    factor: Annotated[float, Ge(1), Lt(math.inf)] | None = None
    original_max_position_embeddings: Length | None = None
    attention_factor: Number | None = None
    beta_fast: Number | None = None
    beta_slow: Number | None = None
    mscale: Annotated[float, Ge(0), Lt(math.inf)] | None = None
    mscale_all_dim: Annotated[float, Ge(0), Lt(math.inf)] | None = None
    truncate: bool = True
    low_freq_factor: Number | None = None
    high_freq_factor: Number | None = None
    partial_rotary_factor: Number | None = None
    finetuned: bool = False  # says how the weights came to be


def read_rope(raw: Mapping, max_length: int, default_theta: float) -> tuple[float, RopeScaling | None]:
    """A config.json's values → base and scaling; `max_length` is its max_position_embeddings. Raises `ValueError`."""
    key = "rope_scaling" if raw.get("rope_scaling") else "rope_parameters"
    values = raw.get(key) or {}
    if not isinstance(values, Mapping):
        raise ValueError(f"{key} {values!r} is not a mapping")
    kind = values.get("rope_type") or values.get("type") or "default"
    if kind not in KINDS:
        raise ValueError(f"{key}.rope_type {kind!r} is not supported; there are {', '.join(KINDS)}")
    file = validate(RopeFile, values, f"{key}.")
    if file.partial_rotary_factor not in (None, 1):
        raise ValueError(f"{key}.partial_rotary_factor {file.partial_rotary_factor} is not supported; only 1 is")
    theta = validate(Number, default_theta if raw.get("rope_theta") is None else raw["rope_theta"], "rope_theta")
    try:
        return file.rope_theta or theta, _scaling(file, kind, raw, max_length)
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from None


def _scaling(file: RopeFile, kind: str, raw: Mapping, max_length: int) -> RopeScaling | None:
    if kind == "default":
        return None
    # yarn and llama3: the value beside the mapping goes first; dynamic goes by the longest length alone
    outer = raw.get("original_max_position_embeddings")
    original = validate(Length, outer, "original_max_position_embeddings") if outer is not None else None
    original = max_length if kind == "dynamic" else original or file.original_max_position_embeddings or max_length
    factor = file.factor
    if factor is None and kind == "yarn":
        factor = max_length / original
    match kind:
        case "linear":
            return RopeScaling("linear", _given(factor, "factor"))
        case "dynamic":
            return RopeScaling("dynamic", _given(factor, "factor"), original)
        case "yarn":
            return _yarn(file, validate(Annotated[float, Ge(1)], factor, "factor"), original)
    low, high = _given(file.low_freq_factor, "low_freq_factor"), _given(file.high_freq_factor, "high_freq_factor")
    return RopeScaling("llama3", _given(factor, "factor"), original, low_freq_factor=low, high_freq_factor=high)


def _yarn(file: RopeFile, factor: float, original: int) -> RopeScaling:
    gain = file.attention_factor
    if gain is None and file.mscale and file.mscale_all_dim:  # as DeepSeek-V2
        gain = (0.1 * file.mscale * math.log(factor) + 1) / (0.1 * file.mscale_all_dim * math.log(factor) + 1)
    beta_fast, beta_slow = float(file.beta_fast or 32), float(file.beta_slow or 1)
    return RopeScaling("yarn", factor, original, beta_fast, beta_slow, truncate=file.truncate, attention_factor=gain)


def _given(value: float | None, key: str) -> float:
    if value is None:
        raise ValueError(f"{key} is missing")
    return value


def write_rope(theta: float, scaling: RopeScaling | None) -> dict:
    """`rope_theta` and `rope_scaling`: the form that old and new versions of transformers read."""
    if scaling is None:
        return {"rope_theta": theta, "rope_scaling": None}
    values: dict = {"rope_type": scaling.kind, "factor": float(scaling.factor)}
    if scaling.kind in ("yarn", "llama3"):
        values["original_max_position_embeddings"] = scaling.original_length
    match scaling.kind:
        case "yarn":
            values |= {"beta_fast": scaling.beta_fast, "beta_slow": scaling.beta_slow, "truncate": scaling.truncate}
            if scaling.attention_factor is not None:
                values["attention_factor"] = float(scaling.attention_factor)
        case "llama3":
            values |= {"low_freq_factor": scaling.low_freq_factor, "high_freq_factor": scaling.high_freq_factor}
    return {"rope_theta": theta, "rope_scaling": values}


def stretched_length(scaling: RopeScaling | None, length: int | None) -> int:
    """The max_position_embeddings to write: what the arithmetic of dynamic and yarn hangs on, else `length`, else what the
    scaling was made for."""
    if scaling is not None and scaling.original_length is not None:
        if scaling.kind == "dynamic":
            return scaling.original_length
        stretched = round(scaling.original_length * scaling.factor)
        return stretched if scaling.kind == "yarn" else length or stretched
    return length or DEFAULT_LENGTH


def validate(kind: Any, value: object, key: str) -> Any:
    """`value` as `kind`. Raises `ValueError` in one line with the first key that is wrong, and its value."""
    try:
        return TypeAdapter(kind).validate_json(json.dumps(value))
    except ValidationError as error:
        first = error.errors()[0]
        where = key + ".".join(map(str, first["loc"]))
        raise ValueError(f"{where} {first['input']!r:.60}: {first['msg']}") from None
