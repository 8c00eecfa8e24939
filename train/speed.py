"""How fast a stage trains: tokens, pictures, model FLOP (vlm/flops.py) with their share of the device's peak, the MFU, and how
long it stands still for data.

A figure is of the steps since the last one, validation and checkpoints left out, over the data of all processes. The peak is
that of dense bf16 products whatever the run's precision, so that runs can be compared. The wait for data is the time in which
the thread that trains has asked for a step and does not have it. A GPU cannot have waited longer: a step ends when the host has
read its numbers, so the host is never more than a step ahead, and what the GPU still has to do then (the optimizer's step)
goes on beside the wait.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from vlm.flops import PARTS

# TFLOP/s of dense bf16 products with float32 sums, by a word of the GPU's name, the first that is found; from the makers'
# datasheets and architecture papers. Where these print the rate with 2:4 sparsity (Hopper, Ada, Blackwell), it is half of that.
PEAKS = {
    "GB300|GB200": 2500.0, "B300|B200": 2250.0,
    "H200 NVL|H100 NVL": 835.5, "H100 PCIe": 756.5, "GH200|H200|H100|H800": 989.4, "H20": 148.0,
    "A100|A800": 312.0, "A40": 149.7, "A30": 165.0, "A10": 125.0, "RTX A6000": 154.8,
    "L40S": 362.1, "L40": 181.1, "L4": 121.0, "RTX 6000 Ada": 364.2,
    "RTX 5090": 209.5, "RTX 4090": 165.2, "RTX 3090": 71.0,
    "MI300X": 1307.4,
}  # fmt: skip
OTHERS = re.compile(r"\b(MIG|Laptop|D|Ti)\b")  # a part of a chip, or another chip under the same number


def peak_tflops(name: str) -> float | None:
    """Of one GPU, by what `torch.cuda.get_device_name` calls it; `None` where the table above lacks it."""
    if OTHERS.search(name):
        return None
    return next((peak for words, peak in PEAKS.items() if re.search(rf"\b({words})\b", name)), None)


class Meter:
    """A clock that runs while the stage trains, read together with the totals of its data."""

    def __init__(self, peak: float | None = None) -> None:
        self.peak = peak  # TFLOP/s of one device

    def start(self, totals: Counter[str], device: torch.device, devices: int) -> None:
        """`totals`: all processes' so far, as at `read`."""
        self.device, self.devices = device, devices
        if self.peak is None and device.type == "cuda":
            self.peak = peak_tflops(torch.cuda.get_device_name(device))
        self._look(totals)

    def read(self, totals: Counter[str], waited: float) -> dict[str, float]:
        """Figures since the last time: `speed/tokens_per_second` of all devices, padding among them, their
        `speed/images_per_second`, of one device `speed/tflops` and, where its peak is known, `speed/mfu` from 0 to 1; and
        `data/wait`, the share of the time, 0 to 1, that the `waited` seconds are."""
        seconds, positions, images, flop = time.perf_counter() - self.since, self.positions, self.images, self.flop
        self._look(totals)
        tflops = (self.flop - flop) / seconds / self.devices / 1e12
        figures = {
            "speed/tokens_per_second": (self.positions - positions) / seconds,
            "speed/images_per_second": (self.images - images) / seconds,
            "speed/tflops": tflops,
            "data/wait": waited / seconds,
        }
        return figures if self.peak is None else {**figures, "speed/mfu": tflops / self.peak}

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What is done within is not training."""
        self._wait()
        before = time.perf_counter()
        yield
        self._wait()
        self.since += time.perf_counter() - before

    def _look(self, totals: Counter[str]) -> None:
        self.since = time.perf_counter()
        self.positions, self.images = totals["data/positions"], totals["data/images"]
        self.flop = sum(totals[f"flop/{part}"] for part in PARTS)

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
