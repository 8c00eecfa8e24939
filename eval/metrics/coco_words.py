"""From a caption to the COCO objects it mentions, in CHAIR's two dialects.

Tokens as NLTK splits them → singular → pairs that are one word ("hot dog", "baby elephant" → elephant) → the 80 categories
of `coco_objects.txt`. The dialects differ in how a word is made singular, and that alone moves published figures:

- `original_singular`: pattern.en's suffix rules, as far as they touch the vocabulary: "bus" → "bu" (no object), "buses" →
  bus, "glass" → "glas" (known as "wine glas"), "canoes" → "cano", "ties" → "ty", "people" → person.
- `opera_singular`: WordNet's noun rules after a part-of-speech tagger, as far as rules can say it without the two: "men"
  stays (a WordNet entry), "vases" → "vas" (another), "-ing" and "-ed" forms are taken for verbs ("skiing" → ski) except
  those that are mostly nouns. The tagger's decision in a given sentence is not reproduced.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from importlib import resources

DOUBLE = """
    motor bike, motor cycle, air plane, traffic light, street light, traffic signal, stop light, fire hydrant, stop sign,
    parking meter, suit case, sports ball, baseball bat, baseball glove, tennis racket, wine glass, hot dog, cell phone,
    mobile phone, teddy bear, hair drier, potted plant, laptop computer, home plate
"""
ANIMALS = ("bird", "cat", "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe", "animal", "cub")
PAIRS = {
    **{pair: pair for pair in DOUBLE.replace("\n    ", " ").strip().split(", ")},
    **{f"{age} {animal}": animal for animal in ANIMALS for age in ("baby", "adult")},
    "passenger jet": "jet",
    "passenger train": "train",
    "bow tie": "tie",
    "toilet seat": "toilet",
    "wine glas": "wine glass",
}
OPERA_PAIRS = {**PAIRS, "train track": "train track"}
PARTS = frozenset(part for pair in OPERA_PAIRS for part in pair.split())  # words that matter as one of a pair

APART = re.compile(r"([\"“”‘’«»„;@#$%&*?!()\[\]{}<>]|--|\.{2,}|''|``|[:,](?!\d))")
FULL_STOP = re.compile(r"(?<=[^\s.])\.(?=\s|$)")
CLITIC = re.compile(r"(?<=[^\s'])('s|'m|'d|'ll|'re|'ve|n't|')(?=\s|$)")

ENDINGS = {
    "children": "child",
    "men": "man",
    "people": "person",
    "oxen": "ox",
    "kine": "cow",
    "geese": "goose",
    "leaves": "leaf",
}
SUFFIXES = (
    (r"(shoe)s$", r"\1"),
    (r"(o)es$", r"\1"),
    (r"(bus)es$", r"\1"),
    (r"([ml])ice$", r"\1ouse"),
    (r"(x|ch|ss|sh)es$", r"\1"),
    (r"([^aeiouy]|qu)ies$", r"\1y"),
    (r"([aeo]l|[^d]ea|[lr])ves$", r"\1f"),
    (r"([nlw]i)ves$", r"\1fe"),
    (r"([aeo])ves$", r"\1ve"),
    (r"(sive|tive|hive)s$", r"\1"),
    (r"([^f])ves$", r"\1fe"),
    (r"s$", ""),
)
RULES = tuple((re.compile(pattern), new) for pattern, new in SUFFIXES)
UNCHANGED = frozenset({"scissors"})
KEEP_IE = ("collies", "doggies")  # of the list of words in -ie; the original means to cut the s, and returns them whole

NOUN_RULES = (
    ("s", ""),
    ("ses", "s"),
    ("ves", "f"),
    ("xes", "x"),
    ("zes", "z"),
    ("ches", "ch"),
    ("shes", "sh"),
    ("men", "man"),
    ("ies", "y"),
)
IRREGULAR_NOUNS = {
    "women": "woman", "children": "child", "grandchildren": "grandchild", "oxen": "ox", "geese": "goose", "mice": "mouse",
    "knives": "knife", "pocketknives": "pocketknife", "calves": "calf", "thieves": "thief", "vases": "vas", "men": "men",
}  # fmt: skip
VERB_RULES = (("ing", ""), ("ing", "e"), ("ed", "e"), ("ed", ""))
VERBS = """
    ski skateboard snowboard surfboard bike bicycle motorcycle seat book sink train bus cup fork spoon bottle kite cake table
    chair phone telephone bowl ball jet ship boat canoe kayak yacht ferry barge truck clock sandwich duck crow horse hound
    monitor couch bed purse bear man baby father mother doctor soldier groom ram kid cab taxi raven parrot quail knife cow bull
    dog lamb foal microwave bow tie pup kitten
"""
VERB_FORMS = frozenset(VERBS.split())
GERUND_NOUNS = frozenset({"bedding", "bearing", "booking", "seating", "shipping", "training", "trucking"})


@cache
def categories() -> dict[str, str]:
    """Word → category, both in lower case; a category is a word of itself."""
    text = resources.files("eval.metrics").joinpath("coco_objects.txt").read_text(encoding="utf-8")
    lines = (line.partition(":") for line in text.splitlines() if not line.startswith("#"))
    return {word: name for name, _, words in lines for word in (name, *words.strip().split(", ")) if word}


def tokens(caption: str, lower: bool = True) -> list[str]:
    """Tokens: punctuation apart (but "1,000" and "hot-dog" whole), clitics apart, a full stop off the last letter."""
    text = FULL_STOP.sub(" .", APART.sub(r" \1 ", caption.lower() if lower else caption))
    return CLITIC.sub(r" \1", text).split()


@cache
def original_singular(word: str) -> str:
    """pattern.en's `singularize` for words that lead into or out of the vocabulary."""
    if word in UNCHANGED or word.endswith(KEEP_IE):
        return word
    for ending, singular in ENDINGS.items():
        if word.endswith(ending):
            return word.removesuffix(ending) + singular
    return next((rule.sub(new, word) for rule, new in RULES if rule.search(word)), word)


@cache
def opera_singular(word: str) -> str:
    """The WordNet lemma, where the vocabulary holds it; else the word."""
    known = categories()
    if word in IRREGULAR_NOUNS or word in GERUND_NOUNS:
        return IRREGULAR_NOUNS.get(word, word)
    lemmas = [word] + [word.removesuffix(end) + new for end, new in NOUN_RULES if word.endswith(end)]
    for end, new in VERB_RULES:
        stem = word.removesuffix(end)
        if stem != word:
            undoubled = stem[:-1] if stem[-1:] == stem[-2:-1] else stem
            lemmas += [form for form in (stem + new, undoubled) if form in VERB_FORMS]
    found = [lemma for lemma in lemmas if lemma in known or lemma in PARTS]
    return min(found, key=len, default=word)


def objects(caption: str, singular: Callable[[str], str], pairs: dict[str, str] = PAIRS) -> tuple[list[str], int]:
    """(categories mentioned, in order and with repeats; number of words once pairs are joined)."""
    words = _joined([singular(token) for token in tokens(caption)], pairs)
    kept = [word for word in words if word != "seat"] if "toilet" in words else words
    known = categories()
    return [known[word] for word in kept if word in known], len(words)


def _joined(words: list[str], pairs: dict[str, str]) -> list[str]:
    joined, i = [], 0
    while i < len(words):
        pair = pairs.get(" ".join(words[i : i + 2]))
        joined.append(pair or words[i])
        i += 2 if pair else 1
    return joined
