"""A model directory that may be changed, and what is expected of a bad one."""

from __future__ import annotations

import hashlib
import json

import pytest

import vlm
from vlm.load import CONFIG, TOKENIZER, WEIGHTS


def edit(directory, **changes):
    """Rewrite the config, its digests those of the files as they now are."""
    config = json.loads((directory / CONFIG).read_text())
    config["sha256"] = {n: hashlib.sha256((directory / n).read_bytes()).hexdigest() for n in (WEIGHTS, TOKENIZER)}
    sign(directory, config | changes)


def sign(directory, config):
    """Write the config as its own writer would: with the digest of what it says."""
    if isinstance(config.get("sha256"), dict):
        others = {name: digest for name, digest in config["sha256"].items() if name != CONFIG}
        whole = json.dumps(config | {"sha256": others}, sort_keys=True)
        config = config | {"sha256": others | {CONFIG: hashlib.sha256(whole.encode()).hexdigest()}}
    (directory / CONFIG).write_text(json.dumps(config))


def refused(path, *words):
    with pytest.raises(ValueError) as error:
        vlm.load(path)
    message = str(error.value)
    assert "\n" not in message and all(w in message for w in words), message
