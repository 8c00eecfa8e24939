"""A configuration file as plain values: YAML of bounded size, nothing built from it and nothing resolved in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

MAX_BYTES = 1 << 20
NOT_YAML = (yaml.YAMLError, OmegaConfBaseException, RecursionError)


def plain_yaml(path: str | Path) -> dict[str, Any]:
    """A YAML file's mapping. Raises `ValueError` in one line for anything else, aliases (they can be a bomb) included."""
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"config file {path} does not exist")
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"config file {path} has {path.stat().st_size:,} bytes: over {MAX_BYTES:,}")
    try:
        plain = parse(path.read_text(encoding="utf-8"))
    except (*NOT_YAML, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a YAML configuration: {' '.join(str(error).split())}") from None
    if not isinstance(plain, dict) or not plain:
        raise ValueError(f"{path} holds no configuration: a mapping of keys is expected")
    return plain


def parse(text: str) -> Any:
    """What a YAML text says. Raises one of `NOT_YAML`."""
    if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, yaml.SafeLoader)):
        raise yaml.YAMLError("aliases (*name) are not accepted")
    return OmegaConf.to_container(OmegaConf.create(text), resolve=False)
