"""What the benchmarks share: options, the machine's limits, timing, and the one JSON line.

A figure is the median over windows of several calls each, in wall time between synchronisations, after a warm-up in which
kernels are compiled. The limits, a large matrix product and a device copy, are measured in the same process, since the same
card differs by some per cent from day to day. Memory is the allocator's peak on a GPU; on a CPU it is the process's, which
never falls: ours is therefore measured before the peers'.

The line: `bench`, `unit`, `figure`, `peers` (name → its figure, or its `error`), `ratio` (ours to each peer's; above 1 we are
ahead), `limits` of the machine, `share` of the one that binds, `peak_gb`, `hardware`, `versions`, `commit`, `config`.
"""

from __future__ import annotations

import argparse
import gc
import importlib.metadata
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

SHAPES = ("tiny", "small", "anchor")
PACKAGES = ("torch", "triton", "transformers", "torchtitan", "timm", "open_clip_torch")
Figures = dict[str, Any]


@dataclass(frozen=True)
class Timing:
    """Of one call. `spread`: (slowest - fastest window) / median."""

    seconds: float
    spread: float
    peak_gb: float

    def figures(self, work: float) -> Figures:
        """`work` (tokens, answers, …) a call → what is reported of a rate."""
        return {"figure": rounded(work / self.seconds), "spread": round(self.spread, 3), "peak_gb": round(self.peak_gb, 2)}


def positive(text: str) -> int:
    """A type of options: 1 or more."""
    if not (text.isascii() and text.isdigit()) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number of 1 or more")
    return int(text)


def share(text: str) -> float:
    """A type of options: from 0 to 1."""
    found = float(text)
    if not 0 <= found <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not from 0 to 1")
    return found


def parser(about: str | None, peers: tuple[str, ...] = ()) -> argparse.ArgumentParser:
    """Options that all have; `--peer` takes some of `peers`, and all of them when it names none."""
    options = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options.add_argument("--shape", choices=SHAPES, help="default: anchor on a GPU, small on a CPU")
    options.add_argument("--windows", type=positive, default=5, help="timed apart; the figure is their median (default 5)")
    options.add_argument("--calls", type=positive, help="in each window (default: as many as suit the shape)")
    options.add_argument("--threads", type=positive, help="of a CPU's arithmetic (default: torch's choice)")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--commit", help="default: git's")
    options.add_argument("--compile", action=argparse.BooleanOptionalAction, help="compiled blocks (default: on a GPU)")
    options.add_argument("--activation-memory", type=share, default=1.0, help="as run.activation_memory (default 1)")
    if peers:
        options.add_argument("--peer", nargs="*", choices=peers, help="run beside ours; default none, without a name all")
    options.set_defaults(peers=peers)
    return options


def parse(options: argparse.ArgumentParser, arguments: list[str] | None) -> argparse.Namespace:
    """With defaults that depend on the device, and seed and threads in force."""
    found = options.parse_args(arguments)
    try:
        torch.empty(0, device=found.device)
    except (RuntimeError, AssertionError) as error:  # no such device, or not here
        options.error(f"--device {found.device}: {str(error).splitlines()[0]}")
    cuda = found.device.startswith("cuda")
    found.shape = found.shape or ("anchor" if cuda else "small")
    found.calls = found.calls or {"tiny": 1, "small": 2, "anchor": 4}[found.shape]
    found.compile = cuda if found.compile is None else found.compile
    peers = getattr(found, "peer", None)
    found.peer = () if peers is None else tuple(peers) or found.peers
    if found.threads:
        torch.set_num_threads(found.threads)
    torch.manual_seed(found.seed)
    return found


def dtype_of(device: str) -> torch.dtype:
    """What models are measured in: bfloat16 on a GPU, float32 on a CPU."""
    return torch.bfloat16 if device.startswith("cuda") else torch.float32


def synchronise(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def clean(device: str) -> None:
    """Give back what a model that is gone held, compiled code included, and count memory's peak anew."""
    torch._dynamo.reset()
    torch._functorch.config.activation_memory_budget = 1.0
    gc.collect()
    if device.startswith("cuda"):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak_gb(device: str) -> float:
    """10⁹ bytes."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated() / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9


def timing(call: Callable[[], object], device: str, *, windows: int, calls: int, warm: int = 3) -> Timing:
    for _ in range(warm):
        call()
    seconds = []
    for _ in range(windows):
        synchronise(device)
        start = time.perf_counter()
        for _ in range(calls):
            call()
        synchronise(device)
        seconds.append((time.perf_counter() - start) / calls)
    median = statistics.median(seconds)
    return Timing(median, (max(seconds) - min(seconds)) / median, peak_gb(device))


def limits(device: str) -> dict[str, float]:
    """`flops`: of a square matrix product, 8192³ in bfloat16 on a GPU, 1024³ in float32 on a CPU, multiplications and additions
    a second; `bytes`: read and written a second by a copy of 1 GiB (64 MiB on a CPU)."""
    cuda, dtype = device.startswith("cuda"), dtype_of(device)
    side, size, calls = (8192, 2**30, 10) if cuda else (1024, 2**26, 2)
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    product = timing(lambda: a @ b, device, windows=5, calls=calls)
    source = torch.ones(size // 4, device=device)
    target = torch.empty_like(source)
    copy = timing(lambda: target.copy_(source), device, windows=5, calls=calls)
    return {"flops": rounded(2 * side**3 / product.seconds), "bytes": rounded(2 * size / copy.seconds)}


def attempt(work: Callable[[], Figures]) -> Figures:
    """What is reached; the error in a line where it is not installed or does not fit, and the rest is reported all the same."""
    try:
        return work()
    except Exception as error:  # whatever goes wrong in a peer's code is a result here
        return {"error": f"{type(error).__name__}: {error}"[:300]}


def beside(works: Mapping[str, Callable[[], Figures]], device: str) -> dict[str, Figures]:
    """What each peer reaches, one after the other, each with the machine to itself."""
    found = {}
    for name, work in works.items():
        clean(device)
        found[name] = attempt(work)
    clean(device)
    return found


def against(ours: Figures, peers: Mapping[str, Figures], cost: float, limit: float) -> Figures:
    """How many times faster we are than each peer that ran, and what share of a limit a second each makes use of, at this cost
    for a unit of the figure."""
    ran = {name: found["figure"] for name, found in {"ours": ours, **peers}.items() if "figure" in found}
    share = {name: rounded(figure * cost / limit) for name, figure in ran.items()}
    ratio = {name: rounded(ran["ours"] / figure) for name, figure in ran.items() if "ours" in ran and name != "ours"}
    return {"ratio": ratio, "share": share.pop("ours", None), "peer_share": share}


def rounded(number: float) -> float:
    """To four significant digits."""
    return float(f"{number:.4g}")


def hardware(device: str) -> str:
    if device.startswith("cuda"):
        return torch.cuda.get_device_name()
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    name = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.processor())
    return f"{name or platform.machine()}, {torch.get_num_threads()} of {os.cpu_count()} threads"


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def commit() -> str | None:
    """Git's short name of this tree, with `+` when it has changes."""
    try:
        name = subprocess.run(["git", "describe", "--always", "--dirty=+"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):  # no git, or an exported tree
        return None
    return name.strip()


def emit(bench: str, options: argparse.Namespace, line: Figures, config: Figures | None = None) -> Figures:
    """Print the line, with what is the same for all added to it."""
    config = {name: getattr(options, name) for name in ("shape", "compile", "activation_memory", "seed")} | (config or {})
    common = {"hardware": hardware(options.device), "versions": versions(), "commit": options.commit or commit()}
    line = {"bench": bench, **line, **common, "config": config}
    print(json.dumps(line), flush=True)
    return line
