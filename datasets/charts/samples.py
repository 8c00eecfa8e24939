"""Charts and tables as `Sample`s, and the two sources over them.

One sample is one chart (or its table in words) followed by several questions, as in a conversation: those answered directly,
then those answered through a rationale, and for a share of charts a description in full, the most supervision a picture can
give. A profile may also ask for the table as chart-to-table models write it (`table_share`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import PIL.Image

from datasets.charts.draw import render
from datasets.charts.linear import WRITE_TABLE, linear_table
from datasets.charts.profile import Profile, make_profile
from datasets.charts.questions import Question, make_questions
from datasets.charts.rng import Draw
from datasets.charts.spec import ChartSpec, Split, make_spec
from datasets.charts.table import table_text
from vlm.prompt import turn
from vlm.sample import Drawing, Image, Sample, Segment

DESCRIBE = "Describe the chart."


@dataclass(frozen=True, slots=True)
class ChartDrawing(Drawing):
    """A chart as a picture that is drawn when it is decoded: until then it takes no room, and a resume draws nothing."""

    spec: ChartSpec

    def render(self) -> PIL.Image.Image:
        return render(self.spec)


def chart_sample(
    spec: ChartSpec,
    questions: Sequence[Question],
    *,
    rationale_share: float = 0.5,
    describe: bool = False,
    write_table: bool = False,
    source: str = "",
) -> Sample:
    """The picture, the questions, and last, where asked for, the whole table as a description and in linear form."""
    turns = _turns(spec, questions, rationale_share)
    if describe:
        turns += turn(DESCRIBE, answer=table_text(spec.table))
    if write_table:
        turns += turn(WRITE_TABLE, answer=linear_table(spec))
    return Sample((Image(ChartDrawing(spec)), *turns), key=spec.key, source=source)


def table_sample(spec: ChartSpec, questions: Sequence[Question], *, rationale_share: float = 0.5, source: str = "") -> Sample:
    """The same conversation with the table in words in the picture's place."""
    turns = _turns(spec, questions, rationale_share, context=table_text(spec.table))
    return Sample(turns, key=f"table-{spec.key}", source=source)


def _turns(spec: ChartSpec, questions: Sequence[Question], share: float, context: str = "") -> tuple[Segment, ...]:
    """Direct answers first: what a rationale spells out must not be there to copy when a later question is to be seen."""
    draw = Draw("rationale", spec.seed, spec.index, spec.split)
    chosen = [(question, draw.chance(share)) for question in questions]
    segments: list[Segment] = []
    for question, reasoned in sorted(chosen, key=lambda pair: pair[1]):
        rationale = question.rationale if reasoned else None
        segments += turn(question.text, answer=question.answer, rationale=rationale, context=context)
        context = ""
    return tuple(segments)


class _Generated:
    """What both sources share: which specification belongs to (epoch, index)."""

    def __init__(
        self,
        seed: int,
        split: Split,
        size: int,
        profile: str | Profile | Mapping,
        questions: int,
        rationale_share: float,
        name: str,
    ) -> None:
        if size < 1 or questions < 1:
            raise ValueError(f"a chart source needs a positive size and questions per chart, got {size} and {questions}")
        if not 0 <= rationale_share <= 1:
            raise ValueError(f"rationale_share: want a share from 0 to 1, got {rationale_share}")
        self.seed, self.split, self.size, self.profile = seed, split, size, make_profile(profile)
        self.questions_per_chart, self.rationale_share, self.name = questions, rationale_share, name

    def __len__(self) -> int:
        return self.size

    def _number(self, epoch: int, index: int) -> int:
        return index

    def chart(self, epoch: int, index: int) -> tuple[ChartSpec, list[Question]]:
        """What sample `index` of `epoch` is about."""
        if not 0 <= index < self.size:
            raise IndexError(f"index {index} is outside an epoch of {self.size} samples")
        spec = make_spec(self.seed, self._number(epoch, index), self.split, self.profile)
        return spec, make_questions(spec, self.questions_per_chart, self.profile)


class ChartSource(_Generated):
    """Pictures with questions. Every epoch shows new charts, unless `repeat` is set."""

    def __init__(
        self,
        seed: int = 0,
        split: Split = "train",
        size: int = 100_000,
        profile: str | Profile | Mapping = "sight",
        questions_per_chart: int = 4,
        rationale_share: float = 0.5,
        describe_share: float = 0.25,
        repeat: bool = False,
        name: str = "charts",
    ) -> None:
        super().__init__(seed, split, size, profile, questions_per_chart, rationale_share, name)
        self.describe_share, self.repeat = describe_share, repeat

    def _number(self, epoch: int, index: int) -> int:
        return index if self.repeat else epoch * self.size + index

    def get(self, epoch: int, index: int) -> Sample:
        spec, questions = self.chart(epoch, index)
        describe = Draw("describe", spec.seed, spec.index, spec.split).chance(self.describe_share)
        write = Draw("write", spec.seed, spec.index, spec.split).chance(self.profile.table_share)
        return chart_sample(
            spec, questions, rationale_share=self.rationale_share, describe=describe, write_table=write, source=self.name
        )  # fmt: skip


class TableSource(_Generated):
    """Tables in words with questions. Every epoch is the same, so that "two epochs" of this text means something."""

    def __init__(
        self,
        seed: int = 0,
        split: Split = "train",
        size: int = 100_000,
        profile: str | Profile | Mapping = "sight",
        questions_per_chart: int = 4,
        rationale_share: float = 0.5,
        name: str = "tables",
    ) -> None:
        super().__init__(seed, split, size, profile, questions_per_chart, rationale_share, name)

    def get(self, epoch: int, index: int) -> Sample:
        spec, questions = self.chart(epoch, index)
        return table_sample(spec, questions, rationale_share=self.rationale_share, source=self.name)
