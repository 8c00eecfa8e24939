"""Are rationales what answers come from? Interventions on a model's own rationales, and steps checked against exact gold.

A model writes a rationale; then it is asked for the answer again and again, each time with something changed: the rationale
cut short, a mistake put in, words without content in its place, another picture, another item's rationale. An answer that
stays whatever becomes of the rationale was not read from it (Lanham et al., 2023). On generated charts the changes are exact: a
value of the chart becomes another, with the answer that follows from it, so that one sees what an answer follows.

case.py          an item with what its tests need: another item, its changed chart
tests.py         the tests, each a generator of requests
arm.py           all of them as one arm of an evaluation
summary.py       from records to figures
page.py          report.html with the curve of early answering
"""

from eval.faithfulness.arm import make
from eval.faithfulness.case import Case, cases
from eval.faithfulness.judged_steps import step_correctness
from eval.faithfulness.tests import TESTS

__all__ = ["TESTS", "Case", "cases", "make", "step_correctness"]
