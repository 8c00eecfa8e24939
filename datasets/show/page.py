"""The page: one file, no network, no script. Texts, keys and names are other people's: the template escapes everything."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import jinja2

from datasets.show.recipe import Recipe
from datasets.show.summary import QUANTILES, Summary, clean, clean_note, share
from datasets.show.view import COLOURS, Row
from vlm.files import write_text

TEMPLATE = Path(__file__).with_name("page.html.j2")
PALETTE = ("#d9480f", "#1971c2", "#9c36b5", "#2b8a3e", "#e6a700", "#0c8599", "#c2255c", "#5f3dc4")
assert len(PALETTE) == COLOURS


def write_page(
    path: Path, recipe: Recipe, rows: Sequence[Row], summary: Summary, faults: Sequence[str], notes: Sequence[str]
) -> None:
    """Replace the file at `path` when the page is whole. The same rows give the same bytes."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATE.parent), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    environment.filters |= {"clean": clean, "note": clean_note, "share": share}
    content = {
        "recipe": recipe, "rows": rows, "summary": summary, "faults": faults, "notes": notes, "palette": PALETTE,
        "sources": summary.by_source(recipe.mixture), "levels": QUANTILES,
    }  # fmt: skip
    text = environment.get_template(TEMPLATE.name).render(content)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, text)
