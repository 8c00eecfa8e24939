"""Imports go one way: encoders <- vlm <- datasets <- eval <- train; using a model needs no training dependency."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ORDER = ("encoders", "vlm", "datasets", "eval", "train")


def imported(path):
    """(line, top-level package) of every import in a file, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name.split(".")[0]) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.lineno, node.module.split(".")[0]


@pytest.mark.parametrize("package", ORDER)
def test_nothing_imports_to_its_right(package):
    right = ORDER[ORDER.index(package) + 1 :]
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    assert [f"{f.relative_to(ROOT)}:{line} imports {name}" for f in files for line, name in imported(f) if name in right] == []


@pytest.mark.parametrize("package", ORDER[:2])
def test_the_network_imports_no_training_library(package):
    training = {"lightning", "webdataset", "matplotlib", "tensorboard", "omegaconf"}
    files = sorted((ROOT / package).rglob("*.py"))
    assert [f"{f.relative_to(ROOT)}:{line}" for f in files for line, name in imported(f) if name in training] == []


def test_vlm_is_imported_and_used_where_training_libraries_are_missing():
    script = """
import sys
for name in ("lightning", "pytorch_lightning", "webdataset", "matplotlib", "tensorboard", "omegaconf"):
    sys.modules[name] = None
import vlm
vlm.VLM(vlm.ModelConfig(
    vlm.EncoderConfig(image_size=16, patch_size=8, width=16, depth=1, num_heads=2),
    vlm.ResamplerConfig(dim=16, num_heads=2, depth=1, ffn_dim=8), vlm.FusionConfig(num_heads=2, head_dim=8, ffn_dim=8),
    vlm.DecoderConfig(vocab_size=9, dim=16, num_layers=1, num_heads=2, num_kv_heads=1, expert_dim=8)))
assert not any(name in sys.modules for name in ("datasets", "eval", "train"))
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
