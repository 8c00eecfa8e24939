"""The kernels pass the compiler of a GPU that is not here."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton.backends.nvidia", reason="needs Triton's own assembler")


@pytest.mark.parametrize("arch", ["90", pytest.param("80", marks=pytest.mark.slow)])
def test_every_kernel_compiles_and_fits_most_gpus(arch: str, tmp_path: Path) -> None:
    environment = os.environ | {"TRITON_CACHE_DIR": str(tmp_path), "TRITON_INTERPRET": "0"}
    command = [sys.executable, Path(__file__).with_name("compile_kernels.py"), arch]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) <= 99 * 1024  # bytes of shared memory that a program may have from compute capability 8.6 on
