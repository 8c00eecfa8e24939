"""Speed of the chart generator on one core: specification, questions, rationales, drawing and PNG encoding of each sample.

`python -m tests.bench.charts [--side 128] [--count 400]`. Prints one line of JSON:
samples a second for each profile and chart type, and the slowest of them; and, for all types together, of the second renderer
(matplotlib), which is there for variety and not for speed. Bar, for our own renderer over all types: 500 at 128 pixels.
"""

from __future__ import annotations

import argparse
import json
import time

import matplotlib
import PIL

from datasets.charts.kinds import CHART_TYPES
from datasets.charts.profile import PROFILES
from datasets.charts.samples import ChartSource
from tests.bench.measure import commit, hardware, positive, versions
from vlm import command


def rate(profile: str, types: tuple[str, ...], side: int, count: int, renderer: str = "own") -> float:
    """Samples (one chart with four questions, a quarter of them also described) a second of processor time."""
    fields = {"name": profile, "side": [side, side], "types": dict.fromkeys(types, 1.0), "renderers": {renderer: 1.0}}
    source = ChartSource(seed=1, size=10 * count, profile=fields)
    for index in range(20):  # fonts and patterns are loaded once
        source.get(1, index)
    start = time.process_time()
    for index in range(count):
        source.get(0, index)
    return count / (time.process_time() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=positive, default=128, help="pixels of the longer side (default 128)")
    parser.add_argument("--count", type=positive, default=400, help="samples of each type (default 400)")
    options = parser.parse_args()
    figures = {}
    for profile in PROFILES:
        figures[profile] = {"all": rate(profile, tuple(CHART_TYPES), options.side, 3 * options.count)}
        figures[profile] |= {type_: rate(profile, (type_,), options.side, options.count) for type_ in CHART_TYPES}
    second = {
        profile: round(rate(profile, tuple(CHART_TYPES), options.side, 60, "matplotlib")) for profile in ("all", "reading")
    }
    rounded = {profile: {name: round(value) for name, value in by_type.items()} for profile, by_type in figures.items()}
    slowest = min(value for by_type in rounded.values() for value in by_type.values())
    print(
        json.dumps(
            {
                "bench": "charts",
                "samples_per_second_one_core": rounded,
                "slowest": slowest,
                "slowest_over_all_types": min(by_type["all"] for by_type in rounded.values()),
                "matplotlib": second,
                "side": options.side,
                "hardware": hardware("cpu"),
                "versions": versions(),
                "commit": commit(),
                "pillow": PIL.__version__,
                "matplotlib_version": matplotlib.__version__,
            }
        )
    )


if __name__ == "__main__":
    command.run(main)
