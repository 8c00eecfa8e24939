"""The question forms. Each takes an `Asker` and gives a `Question`, or `None` where the chart has no unambiguous one."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

from datasets.charts.asker import UNANSWERABLE, Asker, Question
from datasets.charts.content import SHAPES, trend
from datasets.charts.form_parts import any_view, pair_of, sign, view_of
from datasets.charts.kinds import CHART_TYPES, CURVES, SUMS
from datasets.charts.table import POSITIONS, facts, row_fact
from datasets.charts.view import View


def value(q: Asker) -> Question | None:
    view = any_view(q)
    i = q.draw.integer(0, len(view.labels) - 1)
    steps = view.facts((i,))
    if view.row is not None:
        steps.append(f"{view.labels[i]}: {q.spec.table.series[view.row]} {view.number(view.values[i])}")
    return q.ask("value", view.number(view.values[i]), steps, view, a=view.name(view.labels[i]))


def label_value(q: Asker) -> Question | None:
    view = view_of(q, 2)
    if view is None or not (marks := [i for i, v in enumerate(view.values) if view.unique(v)]):
        return None
    i = q.draw.pick(marks)
    steps = [*view.facts(), f"{view.number(view.values[i])} is {view.labels[i]}"]
    return q.ask("label_value", view.labels[i], steps, view, v=q.amount(view, view.values[i]))


def _sides(q: Asker) -> tuple[str, str, str, str] | None:
    """Ends of the row of bars, and the words for after and before."""
    sides = {"vertical_bar": ("left", "right", "right of", "left of"), "horizontal_bar": ("top", "bottom", "below", "above")}
    return sides.get(q.spec.type)


def label_place(q: Asker) -> Question | None:
    if (sides := _sides(q)) is None:
        return None
    view, count = View(q.spec.table, q.printed), len(q.spec.table.categories)
    i, backwards = q.draw.integer(0, count - 1), q.draw.chance(0.5)
    ordinal = POSITIONS[count - 1 - i if backwards else i]
    steps = [*view.facts(), f"{POSITIONS[i]} is {view.labels[i]}"]
    return q.ask("label_place", view.labels[i], steps, view, ord=ordinal, side=sides[backwards])


def label_next(q: Asker) -> Question | None:
    if (sides := _sides(q)) is None:
        return None
    view, count = View(q.spec.table, q.printed), len(q.spec.table.categories)
    if count < 2:
        return None
    i, backwards = q.draw.integer(1, count - 1), q.draw.chance(0.5)
    answer, named = (i - 1, i) if backwards else (i, i - 1)
    steps = [*view.facts(), f"{POSITIONS[named]} is {view.labels[named]}", f"{POSITIONS[answer]} is {view.labels[answer]}"]
    beside = sides[2 + backwards]
    return q.ask("label_next", view.labels[answer], steps, view, a=view.name(view.labels[named]), beside=beside)


def _most(q: Asker, high: bool) -> tuple[View, int] | None:
    view = view_of(q, 2)
    if view is None:
        return None
    most = (max if high else min)(view.values)
    return (view, view.values.index(most)) if view.unique(most) else None


def _most_step(view: View, i: int, high: bool) -> str:
    return f"{view.words.superlative[0 if high else 1]} is {view.labels[i]}"


def extremum(q: Asker) -> Question | None:
    high = q.draw.chance(0.5)
    if (found := _most(q, high)) is None:
        return None
    view, i = found
    return q.ask("extremum", view.labels[i], [*view.facts(), _most_step(view, i, high)], view, high)


def compare(q: Asker) -> Question | None:
    if (pair := pair_of(q, lambda a, b: a != b)) is None:
        return None
    high, view, (first, second) = q.draw.chance(0.5), pair.view, pair.values
    answer = view.labels[pair.i if (first > second) == high else pair.j]
    return q.ask("compare", answer, [*pair.facts(), pair.compared()], view, high, a=pair.a, b=pair.b)


def count(q: Asker) -> Question | None:
    table, words = q.spec.table, View(q.spec.table, q.printed).words
    along = not table.single and table.type != "scatter" and q.draw.chance(0.5)  # coordinates are always two
    number = len(table.categories) if along else len(table.marks)
    if along and table.type in CURVES:
        return q.ask("count_within", str(number), [*facts(table), f"{number} points"], nouns="points", item=words.item)
    if not along and table.type in ("grouped_bar", "stacked_bar"):
        return q.ask(
            "count_within", str(number), [*facts(table), f"{number} {words.item}s"], nouns=f"{words.item}s", item=words.group
        )
    nouns = f"{words.group if along else words.item}s"
    return q.ask("count", str(number), [*facts(table), f"{number} {nouns}"], nouns=nouns)


def count_beyond(q: Asker) -> Question | None:
    """How many exceed a threshold: the count is drawn first, then a threshold that gives it."""
    view = view_of(q, 2)
    if view is None:
        return None
    high, values = q.draw.chance(0.5), view.values
    wanted = q.draw.integer(0, len(values))
    limits = [t for t in _limits(q) if sum(v > t if high else v < t for v in values) == wanted]
    if not limits:
        return None
    limit = q.draw.pick(limits)
    beyond = [name for name, v in zip(view.labels, values, strict=True) if (v > limit if high else v < limit)]
    found = f"{'above' if high else 'below'} {view.number(limit)}: {', '.join(beyond) or 'none'}"
    return q.ask(
        "count_beyond", str(wanted), [*view.facts(), found, f"count {wanted}"], view, high, v=q.amount(view, limit)
    )  # fmt: skip


def _limits(q: Asker) -> range:
    style = q.spec.style
    return range(style.axis_step, style.axis_top, style.axis_step)


def _add(view: View, values) -> str:
    return f"{' + '.join(map(view.number, values))} = {view.number(sum(values))}"


def sum_two(q: Asker) -> Question | None:
    if (pair := pair_of(q, lambda a, b: True)) is None:
        return None
    view = pair.view
    steps = [*pair.facts(), _add(view, pair.values)]
    return q.ask("sum", view.number(sum(pair.values)), steps, view, a=pair.a, b=pair.b)


def total(q: Asker) -> Question | None:
    view = view_of(q, 3)
    if view is None or q.spec.type == "pie":
        return None
    return q.ask("total", view.number(sum(view.values)), [*view.facts(), _add(view, view.values)], view)


def difference(q: Asker) -> Question | None:
    high = q.draw.chance(0.5)
    if (pair := pair_of(q, lambda a, b: a > b if high else a < b)) is None:
        return None
    view, (large, small) = pair.view, sorted(pair.values, reverse=True)
    answer = view.number(large - small)
    steps = [*pair.facts(), f"{view.number(large)} - {view.number(small)} = {answer}"]
    return q.ask("difference", answer, steps, view, high, a=pair.a, b=pair.b)


def ratio(q: Asker) -> Question | None:
    """A whole number where values are whole and small; to one decimal where they are printed."""
    if (pair := pair_of(q, lambda a, b: a > b > 0 and (q.printed or a % b == 0))) is None:
        return None
    view, (first, second) = pair.view, pair.values
    share = Fraction(first, second)
    answer = f"{float(round(share, 1)):.1f}" if q.printed else str(share)
    steps = [*pair.facts(), f"{view.number(first)} / {view.number(second)} = {answer}"]
    return q.ask("ratio", answer, steps, view, a=pair.a, b=pair.b, r=" to one decimal" if q.printed else "")


def _mean_steps(view: View, values) -> list[str]:
    mean = view.number(sum(values) // len(values))
    return [_add(view, values), f"{view.number(sum(values))} / {len(values)} = {mean}"]


def average(q: Asker) -> Question | None:
    if (pair := pair_of(q, lambda a, b: (a + b) % 2 == 0)) is None:
        return None
    view, answer = pair.view, pair.view.number(sum(pair.values) // 2)
    return q.ask("average", answer, [*pair.facts(), *_mean_steps(view, pair.values)], view, a=pair.a, b=pair.b)


def mean(q: Asker) -> Question | None:
    view = view_of(q, 3)
    if view is None or sum(view.values) % len(view.values) or q.spec.type == "pie":
        return None
    answer = view.number(sum(view.values) // len(view.values))
    return q.ask("mean", answer, [*view.facts(), *_mean_steps(view, view.values)], view)


def _line_name(q: Asker, row: int) -> str:
    name = q.spec.table.series[row]
    return name if q.printed else f"the {name} {CHART_TYPES[q.spec.type].item}"


def trend_of(q: Asker) -> Question | None:
    table = q.spec.table
    if table.type not in CURVES:
        return None
    row = q.draw.integer(0, len(table.series) - 1)
    answer = trend(table.values[row])
    return q.ask("trend", answer, [row_fact(table, row), f"{table.series[row]} {answer}"], a=_line_name(q, row))


def _yes(truth: bool) -> str:
    return "yes" if truth else "no"


def yes_more(q: Asker) -> Question | None:
    truth, high = q.truth, q.draw.chance(0.5)
    if (pair := pair_of(q, lambda a, b: a != b and ((a > b) == high) == truth)) is None:
        return None
    return q.ask("yes_more", _yes(truth), [*pair.facts(), pair.compared()], pair.view, high, a=pair.a, b=pair.b)


def yes_beyond(q: Asker) -> Question | None:
    """The threshold is drawn near the middle of the axis before the mark, so that it says nothing about the answer."""
    truth, high = q.truth, q.draw.chance(0.5)
    limits = _limits(q)
    middle = min(2, len(limits) - 2) if q.spec.type in SUMS else (len(limits) - 1) // 2  # few parts take more than half
    limit = limits[middle + q.draw.integer(-1, 1)]
    view = any_view(q)
    marks = [i for i, v in enumerate(view.values) if v != limit and ((v > limit) == high) == truth]
    if not marks:
        return None
    i = q.draw.pick(marks)
    value_ = view.values[i]
    steps = [*view.facts((i,)), f"{view.number(value_)} {sign(value_, limit)} {view.number(limit)}"]
    return q.ask(
        "yes_beyond", _yes(truth), steps, view, high, a=view.name(view.labels[i]), v=q.amount(view, limit)
    )  # fmt: skip


def yes_most(q: Asker) -> Question | None:
    truth, high = q.truth, q.draw.chance(0.5)
    if (found := _most(q, high)) is None:
        return None
    view, most = found
    i = most if truth else q.draw.pick([i for i in range(len(view.labels)) if i != most])
    steps = [*view.facts(), _most_step(view, most, high)]
    return q.ask("yes_most", _yes(truth), steps, view, high, a=view.name(view.labels[i]))


def yes_there(q: Asker) -> Question | None:
    truth, table = q.truth, q.spec.table
    mark = q.draw.pick(table.marks) if truth else _absent(q)
    article = "an" if mark[0] in "aeiou" else "a"
    one = mark if q.printed else f"{article} {mark} {View(table, False).words.item}"
    steps = [*facts(table), f"{mark} is there" if truth else f"no {mark}"]
    return q.ask("yes_there", _yes(truth), steps, one=one)


def yes_trend(q: Asker) -> Question | None:
    table = q.spec.table
    if table.type not in CURVES:
        return None
    asked, truth = q.draw.weighted(SHAPES), q.truth
    rows = [row for row, values in enumerate(table.values) if (trend(values) == asked) == truth]
    if not rows:
        return None
    row = q.draw.pick(rows)
    steps = [row_fact(table, row), f"{table.series[row]} {trend(table.values[row])}"]
    return q.ask("yes_trend", _yes(truth), steps, a=_line_name(q, row), trend=asked)


def _absent(q: Asker) -> str:
    """A name of the same sort as the chart's marks, and not in the chart."""
    table = q.spec.table
    return q.draw.pick([name for name in q.spec.mark_pool if name not in table.marks and name not in table.categories])


def unanswerable(q: Asker) -> Question | None:
    """A name that the chart does not have, in the forms in which the others are asked for."""
    table = q.spec.table
    form = q.draw.weighted({"value": 4.0, "compare": 2.0, "sum": 1.0, "difference": 1.0, "yes_more": 1.0})
    column = None if table.single else q.draw.integer(0, len(table.categories) - 1)
    view, missing = View(table, q.printed, column=column), _absent(q)
    names = q.draw.some([missing, q.draw.pick(view.labels)], 2) if form != "value" else [missing, missing]
    a, b = map(view.name, names)
    return q.ask(form, UNANSWERABLE, [*facts(table), f"no {missing}"], view, q.draw.chance(0.5), a=a, b=b)


FORMS = {
    "value": (value,),
    "label": (label_value, label_place, label_next),
    "extremum": (extremum,),
    "compare": (compare,),
    "count": (count, count_beyond),
    "sum": (sum_two, total),
    "difference": (difference,),
    "ratio": (ratio,),
    "average": (average, mean),
    "trend": (trend_of,),
    "yes_no": (yes_more, yes_beyond, yes_most, yes_there, yes_trend),
    "unanswerable": (unanswerable,),
}


def plain_forms(kind: str) -> tuple[Callable[[Asker], Question | None], ...]:
    """The forms of a profile that asks plainly, in the order they are tried."""
    chosen = {"label": (label_place, label_value), "yes_no": (yes_there,)}
    return chosen.get(kind, FORMS[kind][:1])
