"""A tokenizer's chat template: Jinja source that comes with a model, so from a stranger, rendered in a sandbox.

What published templates use is there: `raise_exception`, `strftime_now`, `tojson` without HTML escapes, loop controls, and the
`generation` tag round what an assistant wrote. Jinja's sandbox keeps a template from Python's insides; here it is also kept
from running on or filling memory: the length of source and output, loop turns, calls and the text made on the way are limited,
and the operations that make much from little (`**`, padding to a width, formatting) are left out.
"""

from __future__ import annotations

import contextvars
import functools
import json
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from typing import Any

import jinja2
from jinja2 import compiler, nodes, parser, runtime, utils
from jinja2.exceptions import SecurityError, TemplateError
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

MAX_SOURCE = 2**18  # characters; published templates have up to some 20,000
MAX_TEXT = 2**19  # characters or items of one value, the rendered chat included (it has placeholders for contents)
MAX_WORK = 20_000_000  # characters and items made in one rendering
STEP = 500  # what a loop turn or a call counts as
METHODS = (  # noqa: SIM905 (of strings; the rest can make much from little)
    "capitalize count endswith find index isalnum isalpha isdecimal isdigit islower isnumeric isspace isupper join lower "
    "lstrip partition removeprefix removesuffix replace rfind rindex rpartition rsplit rstrip split splitlines startswith "
    "strip title upper"
).split()
FILTERS = (  # noqa: SIM905
    "abs capitalize count d default dictsort e escape first float forceescape int items join last length list lower map "
    "max min reject rejectattr replace reverse round safe select selectattr sort string title trim unique upper"
).split()

_left: contextvars.ContextVar[int] = contextvars.ContextVar("_left")  # of MAX_WORK, in the rendering under way


def spend(size: float) -> None:
    """A value of this size is about to be made. Raises `SecurityError` when it, or all together, is too much."""
    if size > MAX_TEXT:
        raise SecurityError(f"it makes a value of more than {MAX_TEXT:,} characters")
    _left.set(_left.get() - int(size))
    if _left.get() < 0:
        raise SecurityError(f"more loops, calls and text than {MAX_WORK:,} characters' worth")


class Generation(Extension):
    """`{% generation %} … {% endgeneration %}`: the body, between the variables `generation` and `endgeneration`."""

    tags = {"generation"}  # noqa: RUF012 (Jinja's own form)

    def parse(self, parser: parser.Parser) -> list[nodes.Node]:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        start, end = (nodes.Output([nodes.Name(name, "load")]).set_lineno(line) for name in ("generation", "endgeneration"))
        return [start, *body, end]


class _Generator(compiler.CodeGenerator):
    def visit_Concat(self, node: nodes.Concat, frame: compiler.Frame) -> None:  # noqa: N802 (Jinja's name)
        self.write("environment.joined((")
        for part in node.nodes:
            self.visit(part, frame)
            self.write(", ")
        self.write("))")


class ChatEnvironment(ImmutableSandboxedEnvironment):
    """Jinja with all that is made, called or looped over counted by `spend`."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})
    code_generator_class = _Generator

    def __init__(self) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
        self.filters = {name: _charged(self.filters[name]) for name in FILTERS}
        self.filters |= {"tojson": _tojson, "join": self._join, "replace": _replace, "counted": _counted}
        self.globals = {"range": self.globals["range"], "namespace": utils.Namespace, "dict": lambda **items: items}
        self.globals |= {"raise_exception": _raise_exception, "strftime_now": _strftime_now}

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        for loop in tree.find_all(nodes.For):
            if loop.recursive:
                raise jinja2.TemplateSyntaxError("recursive loops are not allowed", loop.lineno)
            loop.iter = nodes.Filter(loop.iter, "counted", [], [], None, None, lineno=loop.lineno)
        return tree

    def wrap_str_format(self, value: Any) -> None:
        """`format` is not among METHODS: nothing to wrap."""

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        known = attr in METHODS if isinstance(obj, str) else not isinstance(obj, (int, float))
        return known and super().is_safe_attribute(obj, attr, value)

    def call(self, context: runtime.Context, function: Any, /, *args: Any, **options: Any) -> Any:
        spend(STEP)
        text = getattr(function, "__self__", None)
        if isinstance(text, str):
            options = {name: value for name, value in options.items() if name not in ("_loop_vars", "_block_vars")}
            spend(len(text))
            if function.__name__ == "replace":
                return _replace(text, *args, **options)
            if function.__name__ == "join":
                return self.joined(args[0], between=text)
        return super().call(context, function, *args, **options)

    def call_binop(self, context: runtime.Context, operator: str, left: Any, right: Any) -> Any:
        sizes = [_size(left), _size(right)]
        if operator == "**" or (operator == "%" and isinstance(left, str)):
            raise SecurityError(f"{operator} is not allowed here")
        if operator == "+":
            spend(sum(sizes))
        elif operator == "*":
            spend((sizes[0] or abs(left)) * (sizes[1] or abs(right)))
        return super().call_binop(context, operator, left, right)

    def joined(self, parts: Iterable[Any], between: str = "") -> str:
        texts = [str(part) for part in parts]
        spend(sum(map(len, texts)) + len(between) * len(texts))
        return between.join(texts)

    def _join(self, parts: Iterable[Any], d: str = "", attribute: str | None = None) -> str:
        return self.joined((part if attribute is None else self.getitem(part, attribute) for part in parts), d)


def _charged(function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that counts as a call, and for as much as it is given."""

    @functools.wraps(function)  # with what Jinja notes on it
    def charged(*args: Any, **options: Any) -> Any:
        spend(STEP + sum(map(_size, args)))
        return function(*args, **options)

    return charged


def _replace(text: str, old: str, new: str, count: int | None = None) -> str:
    text = str(text)
    spend(len(text) + text.count(old) * len(new))
    return text.replace(old, new, -1 if count is None else count)


def _counted(items: Iterable[Any]) -> Iterator[Any]:
    for item in items:
        spend(STEP)
        yield item


def _tojson(
    value: Any, ensure_ascii: bool = False, indent: int | None = None, separators: Any = None, sort_keys: bool = False
) -> str:
    if (indent or 0) > 16 or len("".join(separators or ())) > 16:
        raise SecurityError("tojson with an indent or separators of more than 16 characters")
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _strftime_now(form: str) -> str:
    if len(form) > 100:
        raise SecurityError("strftime_now with a format of more than 100 characters")
    return datetime.now().strftime(form)


def _raise_exception(message: str) -> None:
    raise TemplateError(str(message))


def _size(value: Any) -> int:
    return len(value) if isinstance(value, (str, list, tuple, range)) else 0


@functools.lru_cache(maxsize=8)
def _compiled(source: str) -> jinja2.Template:
    if len(source) > MAX_SOURCE:
        raise TemplateError(f"it has {len(source):,} characters, more than {MAX_SOURCE:,}")
    return ChatEnvironment().from_string(source)


def render(source: str, **variables: Any) -> str:
    """The chat as text. Raises `ValueError` in one line for whatever is wrong with the template."""
    before = _left.set(MAX_WORK)
    parts, size = [], 0
    try:
        for part in _compiled(source).generate(variables):
            parts.append(part)
            size += len(part)
            if size > MAX_TEXT:
                raise SecurityError(f"it writes more than {MAX_TEXT:,} characters")
    except Exception as error:  # a template can raise anything
        line = f", line {error.lineno}" if isinstance(error, jinja2.TemplateSyntaxError) else ""
        what = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"the chat template failed{line}: {what[:300]}") from None
    finally:
        _left.reset(before)
    return "".join(parts)
