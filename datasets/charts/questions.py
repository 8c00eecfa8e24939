"""Questions about a chart, each with its answer and a rationale in checkable steps.

Only unambiguous questions are asked (no ties; whole-number ratios and averages where values are whole). Balance comes first:
the answer to a yes/no question is tossed before the question is found, unknown names come in the same forms as known ones, and
thresholds are drawn so that the question alone does not give the answer away.
"""

from __future__ import annotations

from datasets.charts.asker import Asker, Question
from datasets.charts.calls import with_calls
from datasets.charts.forms import FORMS, plain_forms
from datasets.charts.kinds import CURVES
from datasets.charts.profile import Profile
from datasets.charts.rng import Draw
from datasets.charts.spec import ChartSpec


def make_questions(spec: ChartSpec, count: int, profile: Profile) -> list[Question]:
    """Up to `count` different questions, kinds by the profile's weights; the same for the same specification."""
    kinds = {kind: weight for kind, weight in profile.kinds.items() if weight > 0 and applicable(kind, spec.type)}
    asked: dict[str, Question] = {}
    for k in range(4 * count):
        if len(asked) == count or not kinds:
            break
        draw = Draw("question", spec.seed, spec.index, spec.split, k)
        question = _ask(spec, draw.weighted(kinds), draw)
        if question is not None:
            asked.setdefault(question.text, with_calls(question) if profile.calls else question)
    return list(asked.values())


def make_question(spec: ChartSpec, kind: str, k: int = 0, *, flip: bool = False) -> Question | None:
    """The `k`-th question of one kind; `None` where this chart has no unambiguous one. `flip` turns the toss of yes or no."""
    return _ask(spec, kind, Draw("question", spec.seed, spec.index, spec.split, kind, k), flip)


def applicable(kind: str, type_: str) -> bool:
    return kind != "trend" or type_ in CURVES


def _ask(spec: ChartSpec, kind: str, draw: Draw, flip: bool = False) -> Question | None:
    truth = draw.chance(0.5) != flip
    for _ in range(3):
        for form in plain_forms(kind) if spec.plain else draw.some(FORMS[kind], len(FORMS[kind])):
            question = form(Asker(spec, draw, kind, truth))
            if question is not None:
                return question
    return None
