"""`multiple_choice:robust`: the choice that an output names, read the way a careful person would, or `None`.

Evidence is looked for from strong to weak: the whole output; a box, tag or JSON field; "final answer …"; "the answer is …",
"I choose …", "… is correct"; a label at the beginning or as the last line; the one bracketed letter; the text of the one
choice named. The first kind found decides. Within it a later statement replaces an earlier one only where the output says so
("wait", "actually", …); otherwise two letters, or a letter with the text of another choice, are no answer. Nothing is guessed.

A capital A (or I) is a letter only where it cannot be a word: "A man is standing" names no choice. Denials ("not B",
"A is wrong"), questions and conditions ("if the answer is C") name none either.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence

from eval.metrics.choices import choices_of

TAIL = 20_000  # characters read: an answer stands at the end of a long output, if anywhere
AMBIGUOUS = "?"  # two letters, or a letter and another choice's text
LETTERS = "ABCDE"  # when a row names no choices

MARKUP = re.compile(r"\*+|`+|~~|(?<!\w)_+|_+(?!\w)|^[ \t]*(?:#+|>)[ \t]*", re.MULTILINE)
LATEX = re.compile(r"\\(?:text|textbf|mathrm|mathbf|rm|bf)\s*\{([^{}]*)\}|\$+|\\[()\[\],;! ]")
BOXED = re.compile(r"\\?\b(?:boxed|fbox)\s*\{([^{}]*)\}|<answer>([^<]*)</answer>|\"answer\"\s*:\s*\"([^\"]*)\"", re.I)
CUE = re.compile(
    r"\b(?P<final>final(?:ly)?,?\s+)?(?:(?:correct|right|best|true|appropriate|my|the)\s+)*"
    r"(?:answer|choice|option|response)(?:\s+(?:here|to\s+(?:this|the)\s+question))?"
    r"(?:\s*(?::|=|->|→|-|['’]s\b)|\s+(?:is|was|are|would\s+be|will\s+be|must\s+be|should\s+be|has\s+to\s+be|therefore\s+is))"
    r"|\b(?P<verb>(?:i|we|i'd|we'd|i'll)\s+(?:would\s+|will\s+|should\s+)?(?:choose|chose|select|pick|go\s+(?:with|for)|opt\s+for|say)"
    r"|(?:choose|select|pick)(?:ing)?)\b",
    re.I,
)
FILLER = re.compile(
    r"(?:[\s:=\"'“”‘’]|->|→|(?:is|clearly|therefore|thus|definitely|probably|most\s+likely|simply|indeed|the|that|option|choice|letter|answer"
    r"|label(?:l?ed)?|number|correct|one)\b[,:]?)*(?:not\s+[(\[]?[A-Za-z][)\]]?,?\s+but\s+(?:rather\s+)?)?",
    re.I,
)
BRACKETED = re.compile(r"[(\[{<]\s*([A-Za-z])\s*[)\]}>]")
LABEL = re.compile(
    r"(?:(?:option|choice|answer)\s+)?(?:[(\[{<]\s*([A-Za-z])\s*[)\]}>]|([A-Za-z])(?=\s*[).:\]]|\s+[-–—]\s|,\s|\s*$|\s*\n))",
    re.I,
)
VERDICT = re.compile(
    r",?\s+(?:is|must\s+be|should\s+be|would\s+be|seems|looks)\s+(?:therefore\s+|thus\s+|clearly\s+)?(?:the\s+)?(?:only\s+)?"
    r"(?:correct|right|best|true|the\s+answer|answer)\b",
    re.I,
)
JUDGED = re.compile(r"(?:[(\[]([A-Za-z])[)\]]|(?<![\w'’])([A-Z]))\s*[:,.]?\s*$")
LEAD = re.compile(
    r"(?:^|[.;:!?\n]\s*|\b(?:so|therefore|thus|hence|definitely|probably|clearly|obviously|i\s+think|i\s+believe|it's|it\s+is|that's|must\s+be)\b,?\s*"
    r"(?:it's\s+|it\s+is\s+|option\s+|choice\s+)?)(?-i:\(?([A-Z])\)?)(?=\s*(?:$|[.,;!?\n]|because\b|since\b|as\b|for\b))",
    re.I,
)
CONNECTIVES = frozenset(
    "because since as and but or not is due for so which where instead rather given according based while".split()  # noqa: SIM905
)
DENIED = re.compile(
    r"(?:\bnot|\bnever|n't|\bneither|\bnor|\bcannot|\bexclude|\beliminate|\brule\s+out|\bthan)\s+(?:be\s+|is\s+|the\s+)?$", re.I
)
DENIAL = re.compile(
    r"\s*[,:]?\s*(?:is|are|was|seems|looks|can|could|does|do|would)\s*(?:n't|not|never|in?correct\b|wrong|false|impossible)",
    re.I,
)
HEDGED = re.compile(r"(?:\bif|\bwhether|\bassum\w+|\bsuppose|\bunless|\beither|\bboth|\bwhy|\bhow)\b[^.;\n]{0,40}$", re.I)
ALSO = re.compile(
    r"\s*(?:,|/|&|\band\b|\bor\b|\bplus\b)+\s*(?:(?:option|choice)\s+)?[(\[]?([A-Za-z])[)\]]?(?![\w'’])(.{0,30})", re.I | re.S
)
RETRACTED = re.compile(
    r"\b(?:wait|actually|correction|sorry|mistake|instead|rather|reconsider\w*|on\s+second\s+thought|no,|hmm|scratch\s+that|however)",
    re.I,
)


def parse(prediction: str, references: Sequence[str] | None, options: Mapping) -> str | None:
    """The letter of the choice, or `None`. Without `choices` the letters are A to E, and there are no texts to match."""
    choices = {letter.upper(): text for letter, text in choices_of(options).items()} or dict.fromkeys(LETTERS, "")
    return _Reader(choices).read(prediction)


def _plain(text: str) -> str:
    """Full-width forms made ordinary, markup and LaTeX wrappers dropped."""
    text = unicodedata.normalize("NFKC", text[-TAIL:])
    return MARKUP.sub("", LATEX.sub(lambda match: match[1] or "", text)).strip()


def _words(text: str) -> str:
    """Lower-case words with single blanks, for comparing choice texts."""
    return " ".join(re.findall(r"[^\W_]+(?:[.'’-][^\W_]+)*|[%$€£°+<>=/-]", unicodedata.normalize("NFKC", text).lower()))


class _Reader:
    """One question's choices, and what an output says of them."""

    def __init__(self, choices: Mapping[str, str]) -> None:
        self.choices = choices
        self.texts: dict[str, list[str]] = {}
        for letter, text in choices.items():
            if words := _words(text):
                self.texts.setdefault(words, []).append(letter)

    def read(self, prediction: str) -> str | None:
        text = _plain(prediction)
        if whole := self.whole(text):
            return whole
        for find in (self.boxed, self.final, self.stated, self.label, self.last_line, self.bracketed, self.leads, self.named):
            found = find(text)
            if found:
                return found[0] if len(found) == 1 and found[0] != AMBIGUOUS else None
        return None

    def whole(self, text: str) -> str | None:
        """The output is a letter, or the text of a choice, and nothing else."""
        bare = text.strip(" \t\n.,:;!?\"'“”‘’()[]{}<>")
        bare = re.sub(r"^(?:option|choice|answer)\s*:?\s*\(?", "", bare, flags=re.I)
        if len(bare) == 1 and bare.upper() in self.choices:
            return bare.upper()
        return self._one(self.texts.get(_words(text), []))

    def boxed(self, text: str) -> list[str]:
        found = [self.whole(part) or self._at(part, 0) for match in BOXED.finditer(text) for part in match.groups() if part]
        return self._settled([(letter, 0) for letter in found if letter], text)

    def final(self, text: str) -> list[str]:
        return self._cued(text, [match for match in CUE.finditer(text) if match["final"]])

    def stated(self, text: str) -> list[str]:
        found = self._cued(text, list(CUE.finditer(text)), settle=False)
        for match in VERDICT.finditer(text):
            letter = self._judged(text[max(0, match.start() - 300) : match.start()])
            if letter and not self._unsaid(text, match):
                found.append((letter, match.start()))
        return self._settled(sorted(found, key=lambda item: item[1]), text)

    def _cued(self, text: str, cues: list[re.Match], settle: bool = True) -> list:
        found = []
        for match in cues:
            if self._unsaid(text, match):
                continue
            start = FILLER.match(text, match.end(), match.end() + 80).end()
            letter = self._at(text, start) or self._text_at(text, start)
            if letter:
                found.append((letter, match.start()))
        return self._settled(found, text) if settle else found

    def _judged(self, before: str) -> str | None:
        """The letter, or letter and choice text, that "… is correct" is said of."""
        for letter, choice in self.choices.items():
            subject = before[: len(before) - len(choice)] if before.lower().endswith(choice.lower()) else before
            found = JUDGED.search(subject)
            if found and (found[1] or found[2]).upper() == letter:
                return None if DENIED.search(subject[: found.start()]) else letter
        return None

    def _unsaid(self, text: str, match: re.Match) -> bool:
        """Denied, a condition, or a question."""
        before = text[max(0, match.start() - 60) : match.start()]
        after = re.match(r"[^.;!\n?]{0,60}(\?)?", text[match.end() :])
        return bool(DENIED.search(before) or HEDGED.search(before) or after[1])

    def _at(self, text: str, start: int) -> str | None:
        """The letter that stands at `start`: `AMBIGUOUS` when others are joined to it, `None` when there is none."""
        match = BRACKETED.match(text, start) or re.compile(r"([A-Za-z])(?![\w'’])").match(text, start)
        if match is None or match[1].upper() not in self.choices or not self._is_letter(text, match):
            return None
        letter, rest = match[1].upper(), text[match.end() :]
        if self._joined(letter, rest):
            return AMBIGUOUS
        if DENIAL.match(rest):
            return None
        return letter if self._agrees(letter, rest) else AMBIGUOUS

    def _joined(self, letter: str, rest: str) -> bool:
        """Whether another letter follows: "A and B", "A, (b)"; not "A, B is wrong"."""
        also = ALSO.match(rest)
        if also is None or also[1].upper() not in set(self.choices) - {letter} or DENIAL.match(also[2]):
            return False
        return also[1].isupper() or "(" in also[0]

    def _is_letter(self, text: str, match: re.Match) -> bool:
        """Not the article "a", the pronoun "I", nor the beginning of a longer name such as "B-52"."""
        rest = text[match.end() :]
        if match[0] != match[1] or not rest.strip():
            return True
        if re.match(r"-\w", rest):
            return False
        word = re.match(r"\s+([\w']+)", rest)
        if word is None:
            return True
        if match[1] not in "AIa" and match[1].isupper():
            return True
        follows = self.choices[match[1].upper()]
        return word[1].lower() in CONNECTIVES or (bool(follows) and _begins(_words(rest), _words(follows)))

    def _agrees(self, letter: str, rest: str) -> bool:
        """Whether what follows a letter is not the text of another choice: "B) Paris" with Paris being A."""
        rest = _words(re.split(r"[\n;]", rest.lstrip(" ).:]}>,-–—"), maxsplit=1)[0])
        mine = _words(self.choices[letter])
        if mine and _begins(rest, mine):
            return True
        return not any(letter not in letters and rest == text for text, letters in self.texts.items())

    def _text_at(self, text: str, start: int) -> str | None:
        """The choice whose text stands at `start`, the longest one."""
        rest = _words(re.split(r"\n", text[start : start + 2000], maxsplit=1)[0])
        rests = (rest, re.sub(r"^(?:the|a|an)\s+", "", rest))
        found = [
            words
            for words in self.texts
            if any(_begins(r, words) for r in rests) or _begins(rest, re.sub(r"^(?:the|a|an)\s+", "", words))
        ]
        return self._one(self.texts[max(found, key=len)]) if found else None

    def label(self, text: str) -> list[str]:
        """ "B) …", "(b) …", "B. …" at the beginning, unless the output goes on to list other choices the same way."""
        match = LABEL.match(text)
        letter = self._labelled(text, match)
        if letter is None:
            return []
        rest = text[match.end() :]
        lines = set(re.findall(r"(?:^|\n)\s*[(\[]?([A-Z])(?:[)\].:]\s|\s*(?=\n|$))", rest))
        named = {other for other in set(re.findall(r"\b([A-Z])[)\]]\s*\w", rest)) if self._lists(rest, other)}
        others = ((lines | named) & set(self.choices)) - {letter}
        return [AMBIGUOUS] if others else [letter]

    def _lists(self, text: str, letter: str) -> bool:
        """Whether the letter is followed by its choice's text somewhere: "(A) Paris (B) London"."""
        words = _words(self.choices.get(letter, ""))
        return bool(words) and any(_begins(_words(part[:200]), words) for part in re.split(rf"\b{letter}[)\].:]", text)[1:])

    def _labelled(self, text: str, match: re.Match | None) -> str | None:
        """The letter of a label, `AMBIGUOUS` where others are joined to it or another choice's text follows."""
        if match is None or (match[1] or match[2]).upper() not in self.choices:
            return None
        given, rest = match[1] or match[2], text[match.end() :]
        loose = match[2] and not re.match(r"\s*(?:[).:\]]|\n|$)", rest)  # "A, …", "a - …"
        if DENIAL.match(rest) or (loose and (given.islower() or given == "I")):
            return None
        if self._joined(given.upper(), rest):
            return AMBIGUOUS
        return given.upper() if self._agrees(given.upper(), rest) else AMBIGUOUS

    def last_line(self, text: str) -> list[str]:
        last = text.rsplit("\n", 1)[-1]
        letter = self.whole(last) if "\n" in text else None
        return [letter] if letter else []

    def bracketed(self, text: str) -> list[str]:
        found = {
            m[1] for m in BRACKETED.finditer(text) if m[1].isupper() and m[1] in self.choices and not self._denied(text, m)
        }
        return sorted(found)

    def _denied(self, text: str, match: re.Match) -> bool:
        return bool(DENIED.search(text[max(0, match.start() - 30) : match.start()]) or DENIAL.match(text, match.end()))

    def leads(self, text: str) -> list[str]:
        """A bare capital that opens a clause: "B because …", "so it's C."."""
        found = {m[1] for m in LEAD.finditer(text) if m[1] in self.choices and not DENIAL.match(text, m.end())}
        return sorted(found)

    def named(self, text: str) -> list[str]:
        """The choices whose texts occur, longer ones first so that "New York" is not also "York"."""
        rest, found = f" {_words(text)} ", set()
        for words in sorted(self.texts, key=len, reverse=True):
            if len(words) > 1 and f" {words} " in rest:
                before = rest.split(f" {words} ", 1)[0][-30:]
                if DENIED.search(f"{before} "):
                    return [AMBIGUOUS]
                found.update(self.texts[words])
                rest = rest.replace(f" {words} ", " | ")
        return sorted(found)

    def _settled(self, found: list[tuple[str, int]], text: str) -> list[str]:
        """One letter where all agree or the last is said to replace the others; else what there is."""
        letters = list(dict.fromkeys(letter for letter, _ in found))
        if len(letters) > 1 and RETRACTED.search(text, found[-2][1], max(found[-1][1], found[-2][1])):
            letters = letters[-1:] if letters[-1] == found[-1][0] else [found[-1][0]]
        return [AMBIGUOUS] if AMBIGUOUS in letters else letters

    @staticmethod
    def _one(letters: list[str]) -> str | None:
        return letters[0] if len(letters) == 1 else None


def _begins(text: str, words: str) -> bool:
    return bool(words) and (text == words or text.startswith(words + " "))
