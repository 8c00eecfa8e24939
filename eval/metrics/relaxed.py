"""ChartQA relaxed accuracy: a number may be off by 5 %, anything else must be the same string; the best reference counts.

| variant | reproduces | what is its own |
|---|---|---|
| `pix2struct` | google-research/pix2struct | a target of 0 is compared as a string, '%' divides by 100, nothing is cleaned |
| `lmms_eval` | lmms-eval `chartqa` | the same |
| `qwen_vl` | Qwen-VL, InternVL | prediction stripped and taken for the target: 5 % of *it*, and a 0 is a string |
| `lm_eval` | lm-evaluation-harness | '%' both ways, no ',' and '$' in numbers, quotes removed, a letter meets initials |
| `lm_eval_explicit_prompt` | the same | of what follows the last "answer:" only |
| `vlmevalkit` | VLMEvalKit | `pix2struct` of the stripped prediction |
| `chartqapro` | ChartQAPro, lmms-eval `chartqapro` | see `chartqapro.py` |

None has a rule for years (2011 meets 2010) except `chartqapro`, and there only where a row's `year_flags` say so.
"""

from __future__ import annotations

import re
import string
from collections.abc import Mapping, Sequence

from eval.metrics import chartqapro
from eval.metrics.base import Variant

TOLERANCE = 0.05
END_PUNCTUATION = string.punctuation.replace("%", "")


def pix2struct(prediction: str, references: Sequence[str], options: Mapping) -> float:
    """1.0 when any reference is met, else 0.0."""
    return float(any(_relaxed(reference, prediction) for reference in references))


def qwen_vl(prediction: str, references: Sequence[str], options: Mapping) -> float:
    """As the published evaluation calls it: prediction and annotation have changed places."""
    prediction = prediction.strip()
    return float(any(_relaxed(prediction, reference) for reference in references))


def vlmevalkit(prediction: str, references: Sequence[str], options: Mapping) -> float:
    return pix2struct(prediction.strip(), references, options)


def _relaxed(target: str, prediction: str) -> bool:
    p, t = _number(prediction), _number(target)
    if p is not None and t:
        return abs(p - t) / abs(t) <= TOLERANCE
    return prediction.lower() == target.lower()


def _number(text: str) -> float | None:
    """A number as Python reads it (blanks, `1_000`, `1e3`, any script's digits), a percentage as its share."""
    try:
        return float(text.rstrip("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None


def lm_eval(prediction: str, references: Sequence[str], options: Mapping) -> float:
    prediction = _clean(prediction)
    number = _with_percent(prediction)
    return float(any(_lm_eval_meets(prediction, number, _clean(reference)) for reference in references))


def _lm_eval_meets(prediction: str, number: tuple[float, bool] | None, target: str) -> bool:
    wanted = _with_percent(target)
    if number and wanted:
        return _meets_with_percent(number, wanted)
    if len(target) == 1 and target.isalpha() and prediction:
        return prediction[0].lower() == target.lower()
    return prediction.rstrip(string.punctuation).lower() == target.lower()  # "U.S." does not meet itself


def _clean(text: str) -> str:
    """Text with a digit loses ',' and '$', and blanks and punctuation (but for '%') at its end; any other a pair of quotes."""
    if any(character.isdigit() for character in text):
        end = len(text)
        while end and (text[end - 1].isspace() or text[end - 1] in END_PUNCTUATION):
            end -= 1
        return text[:end].replace(",", "").replace("$", "")
    return text[1:-1] if text.startswith(("'", '"')) and text.endswith(text[0]) else text


def _with_percent(text: str) -> tuple[float, bool] | None:
    """The number before any '%', and whether one stood there."""
    text = text.strip()
    try:
        return float(text.rstrip("%")), text.endswith("%")
    except ValueError:
        return None


def _meets_with_percent(number: tuple[float, bool], wanted: tuple[float, bool]) -> bool:
    """As they stand, or either one read as its share where it has a '%'."""
    (p, p_percent), (t, t_percent) = number, wanted
    if _close(p, t):
        return True
    return (p_percent and _close(p / 100, t)) or (t_percent and _close(p, t / 100))


def _close(p: float, t: float) -> bool:
    return abs(p - t) / max(abs(t), 1e-10) <= TOLERANCE


ANSWER = re.compile(r"([aA]nswer)\**:\**")
MARKDOWN = re.compile(r"[*_\[\]()]")


def lm_eval_explicit_prompt(prediction: str, references: Sequence[str], options: Mapping) -> float:
    """`lm_eval` of the first line with text after the last "answer:", its Markdown removed; 0 when there is none."""
    prediction = ANSWER.sub(r"\1:", prediction)
    start = prediction.lower().rfind("answer:")
    rest = "" if start < 0 else prediction[start + len("answer:") :]
    line = next((line.strip() for line in rest.split("\n") if line.strip()), "")
    answer = MARKDOWN.sub("", line)
    return lm_eval(answer, references, options) if answer else 0.0


VARIANTS = {
    "pix2struct": Variant(pix2struct),
    "lmms_eval": Variant(pix2struct),
    "qwen_vl": Variant(qwen_vl),
    "lm_eval": Variant(lm_eval),
    "vlmevalkit": Variant(vlmevalkit),
    "chartqapro": Variant(chartqapro.score),
    "lm_eval_explicit_prompt": Variant(lm_eval_explicit_prompt),
}
