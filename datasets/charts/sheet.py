"""A contact sheet: charts side by side, each over one of its questions with the answer, to be looked at by a person."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import PIL.Image
import PIL.ImageDraw

from datasets.charts.draw import render
from datasets.charts.questions import Question
from datasets.charts.spec import ChartSpec
from datasets.charts.text import font

CELL, LINES, LETTERS, SIZE = 256, 5, 44, 11  # pixels a side, lines of text under a chart, letters a line, font size


def contact_sheet(charts: Sequence[tuple[ChartSpec, Question]], columns: int = 6) -> PIL.Image.Image:
    """Small pictures are enlarged by whole factors, without smoothing: as the model gets them."""
    rows, height = -(-len(charts) // columns), CELL + LINES * (SIZE + 3)
    sheet = PIL.Image.new("RGB", (columns * (CELL + 8), rows * (height + 8)), (205, 205, 210))
    canvas = PIL.ImageDraw.Draw(sheet)
    for number, (spec, question) in enumerate(charts):
        x, y = (number % columns) * (CELL + 8) + 4, (number // columns) * (height + 8) + 4
        picture = render(spec)
        factor = max(1, CELL // max(picture.size))
        sheet.paste(picture.resize((picture.width * factor, picture.height * factor), PIL.Image.Resampling.NEAREST), (x, y))
        lines = textwrap.wrap(f"{question.text} {question.answer} ({question.rationale})", LETTERS)[:LINES]
        canvas.multiline_text((x, y + CELL + 2), "\n".join(lines), fill=(20, 20, 20), font=font(SIZE), spacing=2)
    return sheet
