"""The page of metrics names what there is."""

from __future__ import annotations

import re
from pathlib import Path

from eval import metrics


def test_every_metric_and_variant_is_on_the_page():
    page = Path("docs/metrics.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1:3] for line in page.splitlines() if line.startswith("|")][2:]
    found: dict[str, list[str]] = {}
    for name, variants in rows:
        found.setdefault(name.strip(" `") or next(reversed(found)), []).extend(re.findall(r"`(\w+)`", variants))
    assert {name: sorted(variants) for name, variants in found.items()} == {
        name: sorted(variants) for name, variants in metrics.METRICS.items()
    }
    assert all(next(iter(metrics.METRICS[name])) == variants[0] for name, variants in found.items())
