"""Arms of an evaluation: how a question is put to a model and an answer taken from what it writes.

none               the answer at once
single             rationale, then answer, in one pass
two_stage          rationale; then, in a second request, its answer
self_consistency   several rationales are drawn, the most frequent answer is taken
least_to_most      smaller questions first
calculator         as single, with an exact calculator in the rationale
"""

from eval.arms.base import Answered, Arm, Steps
from eval.arms.make import ARMS, make

__all__ = ["ARMS", "Answered", "Arm", "Steps", "make"]
