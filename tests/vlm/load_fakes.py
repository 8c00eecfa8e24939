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
    (directory / CONFIG).write_text(json.dumps(config | changes))


def refused(path, *words):
    with pytest.raises(ValueError) as error:
        vlm.load(path)
    message = str(error.value)
    assert "\n" not in message and all(w in message for w in words), message
