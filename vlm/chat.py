"""Chats: messages of text and pictures → `Sample`, through the tokenizer's own chat template.

The template never sees what anybody wrote, but an unguessable placeholder in its stead, with the blanks around it, which
templates strip. So special tokens are only those that the template itself writes: one typed by a user stays text. A picture's
place is in the content, so that templates for text alone do; one that wants contents as a list of parts gets that. What it
costs: a template cannot act on words inside a content (drop a past turn's `<think>` part, say).

What the assistant wrote is learnt, with the token by which the template closes it; all else is given. The `generation` tag says
where that is; without one it begins where the prompt to the assistant ends. No token reaches across that border: a prompt has
the same ids in training and generation.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
import secrets
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vlm.chat_template import render
from vlm.processor import Processor
from vlm.sample import Image, Sample, Segment, Text, Video

ROLES = ("system", "developer", "user", "assistant", "tool")
Message = Mapping[str, Any]  # role: one of ROLES; content: a string, or a list of parts as `chat_sample` says
Span = tuple[int, int]  # characters of the rendered chat


def chat_sample(
    processor: Processor, messages: Sequence[Message], *, add_generation_prompt: bool = False, key: str = ""
) -> Sample:
    """A conversation as a sample: to train on, or (with `add_generation_prompt`) for the assistant to go on.

    `content` is a string or a list of `{"type": "text", "text": …}`, `{"type": "image", "image": bytes or PIL}` and
    `{"type": "video", "frames": […], "times": […]}` (seconds, optional). Raises `ValueError` in one line for messages that are
    not so, for a processor without a chat template, and for a template that fails or leaves a content out.
    """
    contents = Contents()
    turns = [contents.turn(message, number) for number, message in enumerate(messages)]
    template = Template(processor, contents)
    try:
        text = template(turns, add_generation_prompt)
    except ValueError as error:
        template.as_list = True  # made for contents in parts?
        try:
            text = template(turns, add_generation_prompt)
        except ValueError:
            raise error from None
    segments = _segments(text, template, _learnt(text, template, turns))
    return Sample(tuple(_joined(segments)), key=key, framed=False)


class Part(dict):
    """A part of a content, for a template that looks into it; one that writes it out as it is was made for strings."""

    def __repr__(self) -> str:
        raise TypeError("a content in parts is not a text")


@dataclass(frozen=True)
class Turn:
    """A message as the template gets it: its parts as (type, text with placeholders)."""

    number: int
    role: str
    parts: list[tuple[str, str]]

    def message(self, as_list: bool) -> dict[str, Any]:
        if as_list:
            return {"role": self.role, "content": [Part({"type": kind, kind: text}) for kind, text in self.parts]}
        return {"role": self.role, "content": "".join(text for _, text in self.parts)}


@dataclass
class Contents:
    """The texts, pictures and clips of a chat, each with a placeholder."""

    secret: str = field(default_factory=lambda: secrets.token_hex(16))
    segments: list[Segment] = field(default_factory=list)
    owner: list[int] = field(default_factory=list)  # which message each segment is from

    def turn(self, message: Message, number: int) -> Turn:
        """Raises `ValueError` naming what is wrong with the message."""
        if not isinstance(message, Mapping) or set(message) != {"role", "content"}:
            raise ValueError(f"message {number} is not a mapping of role and content alone: {_brief(message)}")
        role, content = message["role"], message["content"]
        if role not in ROLES:
            raise ValueError(f"message {number} has the role {_brief(role)}; there are {', '.join(ROLES)}")
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        if not isinstance(parts, (list, tuple)):
            raise ValueError(f"message {number} has a content that is neither text nor a list: {_brief(content)}")
        return Turn(number, role, [self._placed(_part(part, number), number) for part in parts])

    def _placed(self, segment: Segment, number: int) -> tuple[str, str]:
        if not isinstance(segment, Text):
            return type(segment).__name__.lower(), self._placeholder(segment, number)
        core = segment.text.strip()
        if not core:
            return "text", segment.text
        before, _, after = segment.text.partition(core)
        return "text", before + self._placeholder(Text(core), number) + after

    def _placeholder(self, segment: Segment, number: int) -> str:
        self.segments.append(segment)
        self.owner.append(number)
        return self.mark(len(self.segments) - 1)

    def mark(self, name: str | int) -> str:
        """Letters and digits alone, so that no template takes it for something of its own."""
        return f"x{self.secret}x{name}x"

    def marks(self, text: str) -> Iterator[re.Match[str]]:
        """All marks in a text; group 1 is the name."""
        return re.finditer(f"x{self.secret}x(start|end|[0-9]+)x", text)


def _part(part: Any, number: int) -> Segment:
    match part:
        case {"type": "text", "text": str(text)} if len(part) == 2:
            return Text(text)
        case {"type": "image", "image": data} if len(part) == 2:
            return Image(data)
        case {"type": "video", "frames": list() | tuple() as frames} if set(part) <= {"type", "frames", "times"}:
            return Video(tuple(frames), tuple(part.get("times", ())))
    raise ValueError(f"message {number} has a part that is no text, image or video: {_brief(part)}")


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}…"


class Template:
    """The processor's chat template, over placeholders."""

    def __init__(self, processor: Processor, contents: Contents) -> None:
        if processor.chat_template is None:
            raise ValueError("the tokenizer has no chat template")
        self.source, self.contents, self.as_list = processor.chat_template, contents, False
        self.medium = processor.special["medium"]
        self.variables: dict[str, Any] = {f"{name}_token": t for name, t in processor.special.items() if t is not None}
        if processor.special["bos"] is None and "template_bos" in processor.special:
            self.variables["bos_token"] = processor.special["template_bos"]
        self.variables |= {"generation": contents.mark("start"), "endgeneration": contents.mark("end")}
        self.variables |= {"tools": None, "documents": None}
        added = [token for token in processor.tokenizer.get_added_tokens_decoder().values() if token.special]
        self.special = {token.content for token in added}
        longest_first = sorted(added, key=lambda token: -len(token.content))
        # With the blanks that a token takes with it.
        alternatives = (r"\s*" * t.lstrip + re.escape(t.content) + r"\s*" * t.rstrip for t in longest_first)
        self.special_pattern = re.compile("|".join(alternatives) or "(?!)")

    def __call__(self, turns: Sequence[Turn], prompt: bool) -> str:
        """Raises `ValueError` unless each of the turns' contents is there, once."""
        messages = [turn.message(self.as_list) for turn in turns]
        text = render(self.source, messages=messages, add_generation_prompt=prompt, **self.variables)
        media = [placeholder for turn in turns for kind, placeholder in turn.parts if kind != "text"]
        if self.as_list and not any(placeholder in text for placeholder in media):
            text = self._with_media(text, media)
        found = Counter(match[1] for match in self.contents.marks(text))
        numbers = {turn.number for turn in turns}
        for index, number in enumerate(self.contents.owner):
            if number in numbers and found[str(index)] != 1:
                raise ValueError(f"the chat template writes message {number} {found[str(index)]} times, not once")
        return text

    def _with_media(self, text: str, media: Sequence[str]) -> str:
        """Placeholders where the template wrote the token of a picture."""
        places = text.split(self.medium) if self.medium else [text]
        if len(places) - 1 != len(media):
            raise ValueError(f"the chat template has {len(places) - 1} places {self.medium} for {len(media)} pictures or clips")
        return places[0] + "".join(placeholder + after for placeholder, after in zip(media, places[1:], strict=True))

    def special_name(self, match: re.Match[str]) -> str:
        return match[0] if match[0] in self.special else match[0].strip()


def _learnt(text: str, template: Template, turns: Sequence[Turn]) -> list[Span]:
    """What is to be learnt, in order."""
    marks = list(template.contents.marks(text))
    starts, ends = ([m.end() for m in marks if m[1] == name] for name in ("start", "end"))
    if starts or ends:
        return list(zip(starts, ends, strict=False))
    return [_answer(text, template, turns, i) for i, turn in enumerate(turns) if turn.role == "assistant"]


def _answer(text: str, template: Template, turns: Sequence[Turn], index: int) -> Span:
    """From the end of the prompt to the assistant up to the special token that closes the turn, if one does.

    A template may refuse a chat that ends there, or write the turns before it otherwise when it does: then from the content's
    beginning, up to a special token directly behind.
    """
    prefix, whole = _rendered(template, turns[:index], True), _rendered(template, turns[: index + 1], False)
    own = [m.span() for m in template.contents.marks(text) if template.contents.owner[int(m[1])] == turns[index].number]
    if prefix is not None and text.startswith(prefix):
        start = len(prefix)
    elif own:
        start = own[0][0]
    else:
        return 0, 0
    end = own[-1][1] if own else start
    if whole is not None and whole.startswith(text[:end]):
        close = template.special_pattern.search(whole, end)
        return start, close.end() if close and text.startswith(whole[: close.end()]) else end
    close = template.special_pattern.match(text, end)
    return start, close.end() if close else end


def _rendered(template: Template, turns: Sequence[Turn], prompt: bool) -> str | None:
    try:
        return template(turns, prompt)
    except ValueError:
        return None


def _segments(text: str, template: Template, learnt: Sequence[Span]) -> Iterator[Segment]:
    """The rendered chat in pieces: contents for placeholders, special tokens by name, the template's other text."""
    start = 0
    for mark in template.contents.marks(text):
        yield from _written(text, start, mark.start(), template, learnt)
        start = mark.end()
        if mark[1].isdigit():
            segment = template.contents.segments[int(mark[1])]
            learn = _within(mark.start(), learnt)
            yield dataclasses.replace(segment, learn=learn) if isinstance(segment, Text) else segment
    yield from _written(text, start, len(text), template, learnt)


def _written(text: str, start: int, end: int, template: Template, learnt: Sequence[Span]) -> Iterator[Text]:
    """What the template itself wrote between two characters."""
    matches = list(template.special_pattern.finditer(text, start, end))
    names = {match.start(): template.special_name(match) for match in matches}
    borders = {start, end, *(place for match in matches for place in match.span())}
    borders |= {place for span in learnt for place in span if start < place < end}
    for a, b in itertools.pairwise(sorted(borders)):
        yield Text(names.get(a, text[a:b]), learn=_within(a, learnt), special=a in names)


def _within(place: int, spans: Sequence[Span]) -> bool:
    return any(start <= place < end for start, end in spans)


def _joined(segments: Iterable[Segment]) -> list[Segment]:
    """Neighbouring plain texts as one, as a tokenizer would see them."""
    out: list[Segment] = []
    for segment in segments:
        match out[-1:], segment:
            case [Text(before, learn, special=False)], Text(text, special=False) if segment.learn == learn:
                out[-1] = Text(before + text, learn)
            case _:
                out.append(segment)
    return out
