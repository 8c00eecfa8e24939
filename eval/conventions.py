"""How a question is written down, by name: our own form, and those that other models were trained on or published with.

A convention is either one text that the model goes on with (`Question: … Answer:`), or a conversation (`chat`), whose turns the
model's own template dresses up: texts that are given are the user's, texts that are `learn`ed the model's, and a conversation
that ends with a text of the model's is one that it goes on with in the middle.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from eval.cli import nearest
from vlm import prompt
from vlm.sample import Text


@dataclass(frozen=True, slots=True)
class Convention:
    """`question` is filled with a question and its choices; the cues follow it without a blank. `lettered` and `captions` give
    the fields that are others where a choice or a caption is asked for (`suited`)."""

    name: str
    about: str
    question: str = "Question: {question}"
    answer: str = prompt.ANSWER  # the cue for an answer
    reason: str = prompt.REASON  # the cue for a rationale
    then: str = prompt.ANSWER  # between a rationale and its answer (chat: what the user then says)
    gap: str = " "  # between a cue and what follows it
    choice: str = "{letter}. {text}"
    header: str = ""  # before everything
    separator: str = ""  # after each example
    stop: tuple[str, ...] = ()  # ends an answer, for a model that was not taught to end by itself
    chat: bool = False
    instructed: bool = False  # the task's instruction is part of the prompt
    text_only_examples: int = 0  # with no shots: so many examples without their pictures (Flamingo)
    lettered: Mapping[str, str] = field(default_factory=dict)
    captions: Mapping[str, str] = field(default_factory=dict)

    def suited(self, *, lettered: bool = False, caption: bool = False) -> Convention:
        """As it is written for questions with choices, or for captions."""
        return replace(self, **(self.captions if caption else self.lettered if lettered else {}))

    def ask(self, question: str, context: str = "", *, reason: bool = False) -> str:
        """What is given, up to and with the cue."""
        head = f"{context}\n" if context else ""
        return head + self.question.replace("{question}", question) + (self.reason if reason else self.answer)

    def reply(self, answer: str, rationale: str = "") -> Text:
        """An example's answer, after its rationale where there is one."""
        link = f"\nAnswer: {answer}" if self.chat else f"{self.then}{self.gap}{answer}"
        return Text(f"{self.gap}{rationale}{link}" if rationale else f"{self.gap}{answer}", learn=True)

    def conclude(self, rationale: str) -> tuple[Text, ...]:
        """A finished rationale, and what asks for its answer."""
        if self.chat:
            return Text(rationale, learn=True), Text(self.then, learn=False)
        return (Text(f"{self.gap}{rationale}{self.then}", learn=False),)

    def go_on(self, written: str) -> tuple[Text, ...]:
        """What the model has written so far, to go on from there."""
        return (Text(written, learn=self.chat),) if written else ()

    def split(self, output: str) -> tuple[str, str | None]:
        """Written after the cue for a rationale → (rationale, answer); no answer where it never got there."""
        if not self.chat:
            rationale, cue, answer = output.partition(self.then)
            return rationale.strip(), answer.strip() if cue else None
        found = list(_LAST_LINE.finditer(output))
        return (output[: found[-1].start()].strip(), output[found[-1].end() :].strip(" *")) if found else (output.strip(), None)

    @property
    def rationale_stop(self) -> tuple[str, ...]:
        """Where a rationale that is asked for alone ends."""
        return () if self.chat else (self.then,)


_LAST_LINE = re.compile(r"^[ \t*#]{0,16}(?:final )?answer[ \t*]{0,16}:[ \t*]{0,16}", re.IGNORECASE | re.MULTILINE)
_STEP_BY_STEP = '\nThink step by step. Then write the answer alone on a last line that begins with "Answer:".'
_LETTER = "Answer with the option's letter from the given choices directly."
_OUTPUT = {"question": "Output:", "answer": ""}  # captions: no question is asked
_LETS = " Let's think step by step."

OWN = Convention("own", "this project's training data: <image>Question: …\\nAnswer: …")
_ALL = (
    OWN,
    Convention(
        "flamingo", "Alayrac et al., 2022; with no shots two examples without their pictures",
        answer=" Answer:", reason=_LETS, then=" Answer:", stop=("\n", "Question:", "Output:"), text_only_examples=2,
        captions=_OUTPUT,
    ),
    Convention(
        "openflamingo", "Awadalla et al., 2023: Question:… Short answer:…",
        question="Question:{question}", answer=" Short answer:", reason=_LETS, then=" Short answer:", gap="",
        stop=("\n", "Question:", "Output:"), text_only_examples=2, captions=_OUTPUT,
    ),
    Convention(
        "idefics", "base Idefics: an instruction, then Question: … Answer: … line by line",
        header="Instruction: provide an answer to the question. Use the image to answer.\n",
        answer=" Answer:", reason=_LETS, then=" Answer:", separator="\n", stop=("\n", "Question:"),
    ),
    Convention("blip2", "BLIP-2 (Li et al., 2023): Question: … Short answer:", answer=" Short answer:", reason=_LETS,
               then=" Short answer:", stop=("\n", "Question:")),
    Convention(
        "chat", "the question and the task's instruction as a user's turn",
        question="{question}", answer="", reason=_STEP_BY_STEP, then="Give the answer alone.", gap="", chat=True,
        instructed=True,
    ),
    Convention(
        "llava", "LLaVA-1.5 (Liu et al., 2023): a word or phrase is asked for, of choices the letter",
        question="{question}", answer="\nAnswer the question using a single word or phrase.", reason=_STEP_BY_STEP,
        then="Answer the question using a single word or phrase.", gap="", chat=True,
        lettered={"answer": f"\n{_LETTER}", "then": _LETTER}, captions={"answer": "", "then": "Give the caption alone."},
    ),
)  # fmt: skip
CONVENTIONS = {convention.name: convention for convention in _ALL}


def get(name: str) -> Convention:
    """Convention by name. Raises `ValueError` naming the nearest valid one."""
    if name not in CONVENTIONS:
        raise nearest("convention", name, CONVENTIONS)
    return CONVENTIONS[name]


def default_for(model: str) -> str:
    """A model of ours was trained on `own`; others know conversations."""
    return "chat" if model.startswith(("hf:", "endpoint:")) else "own"
