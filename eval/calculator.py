"""An exact calculator that a rationale may call: `12.5 - 8.2 = <<12.5-8.2>>4.3`.

Numbers are read as charts print them (`$1,234.5`, `4.3%`, `12M`) and calculated as fractions; the result is written the same
way: with the unit of the operands, and as many places as the operand that has most. A quotient that does not end there gets
one place more than these (and two digits that say something), or as many as `round(…, n)` asks for. Of two numbers with a unit
neither product nor quotient has one. A comma with three digits right behind it is a thousands' comma: arguments are parted by
a comma and a blank.

Expressions come from a model, so nothing is evaluated but by the grammar below. What is too long, too deep or too large is no
expression: `None`, in bounded time.

    sum = product (("+" | "-") product)*      product = signed (("*" | "/") signed)*      signed = "-"* power
    power = atom ("^" signed)?      atom = number | "(" sum ")" | name "(" sum ("," sum)* ")"
    name = round min max sum mean abs
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

MAX_LENGTH, MAX_DEPTH, MAX_BITS, MAX_POWER, MAX_PLACES = 200, 20, 512, 64, 12
OPEN, CLOSE = "<<", ">>"
_NAMES = ("round", "min", "max", "sum", "mean", "abs")
_TOKEN = re.compile(
    r"\s*(?:(?P<prefix>[$€£])?(?P<digits>[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])(?:\.[0-9]+)?|[0-9]+(?:\.[0-9]+)?|\.[0-9]+)"
    r"(?P<suffix>[%KMB](?![A-Za-z]))?"
    rf"|(?P<name>{'|'.join(_NAMES)})\b|(?P<sign>\*\*|[-+*/^(),×÷−·:]))"
)
_SAME = {"×": "*", "·": "*", "÷": "/", ":": "/", "−": "-", "**": "^"}


@dataclass(frozen=True, slots=True)
class Number:
    """A value with its unit; `places` after the point are written where these suffice for it."""

    value: Fraction
    places: int = 0
    prefix: str = ""
    suffix: str = ""
    thousands: bool = False
    fixed: bool = False  # `places` are what was asked for

    @property
    def unit(self) -> tuple[str, str]:
        return self.prefix, self.suffix

    def text(self) -> str:
        places = self._places()
        scaled = round(self.value * 10**places)  # half to even, as the charts' own steps
        whole, part = divmod(abs(scaled), 10**places)
        digits = f"{whole:,}" if self.thousands else str(whole)
        tail = f".{part:0{places}d}" if places else ""
        return f"{'-' if scaled < 0 else ''}{self.prefix}{digits}{tail}{self.suffix}"

    def _places(self) -> int:
        if self.fixed or self._ends_at(self.places):
            return self.places
        places = self.places + 1
        while places < MAX_PLACES and not self._ends_at(places) and abs(self.value) * 10**places < 10:
            places += 1
        return min(places, MAX_PLACES)

    def _ends_at(self, places: int) -> bool:
        return (self.value * 10**places).denominator == 1


def calculate(expression: str) -> str | None:
    """The result as text; `None` for what is no expression, mixes units, divides by 0 or is out of bounds. Never raises."""
    try:
        parser = _Parser(_tokens(expression))
        result = parser.sum(0)
        parser.expect("")
        return result.text()
    except _NoNumberError:
        return None


def open_call(text: str) -> str | None:
    """The expression of a call that `text` ends within: after its last `<<`, if no `>>` follows."""
    _, opened, expression = text.rpartition(OPEN)
    return expression if opened and CLOSE not in expression else None


class _NoNumberError(Exception):
    pass


def _tokens(text: str) -> list[Number | str]:
    if len(text) > MAX_LENGTH:
        raise _NoNumberError
    tokens: list[Number | str] = []
    at, end = 0, len(text.rstrip())
    while at < end:
        if (match := _TOKEN.match(text, at)) is None:
            raise _NoNumberError
        at = match.end()
        tokens.append(_number(match) if match["digits"] else match["name"] or _SAME.get(match["sign"], match["sign"]))
    return [*tokens, ""]


def _number(match: re.Match[str]) -> Number:
    digits = match["digits"]
    places = len(digits.partition(".")[2])
    value = Fraction(digits.replace(",", ""))
    return _bounded(Number(value, min(places, MAX_PLACES), match["prefix"] or "", match["suffix"] or "", "," in digits))


def _bounded(number: Number) -> Number:
    if max(number.value.numerator.bit_length(), number.value.denominator.bit_length()) > MAX_BITS:
        raise _NoNumberError
    return number


class _Parser:
    def __init__(self, tokens: list[Number | str]) -> None:
        self.tokens, self.at = tokens, 0

    def take(self, *wanted: str) -> str | None:
        """The next token if it is one of `wanted`."""
        token = self.tokens[self.at]
        if token not in wanted:
            return None
        self.at += 1
        return str(token)

    def expect(self, token: str) -> None:
        if self.take(token) is None:
            raise _NoNumberError

    def sum(self, depth: int) -> Number:
        if depth > MAX_DEPTH:
            raise _NoNumberError
        left = self.product(depth)
        while sign := self.take("+", "-"):
            left = _add(left, self.product(depth), -1 if sign == "-" else 1)
        return left

    def product(self, depth: int) -> Number:
        left = self.signed(depth)
        while sign := self.take("*", "/"):
            left = (_multiply if sign == "*" else _divide)(left, self.signed(depth))
        return left

    def power(self, depth: int) -> Number:
        base = self.atom(depth)
        if self.take("^") is None:
            return base
        exponent = self.signed(depth).value
        if exponent.denominator != 1 or abs(exponent) > MAX_POWER or (exponent < 0 and not base.value) or any(base.unit):
            raise _NoNumberError
        if max(base.value.numerator.bit_length(), base.value.denominator.bit_length()) * abs(exponent) > MAX_BITS:
            raise _NoNumberError
        return Number(Fraction(base.value ** int(exponent)), min(base.places * abs(int(exponent)), MAX_PLACES))

    def signed(self, depth: int) -> Number:
        negative = False
        while self.take("-"):
            negative = not negative
        number = self.power(depth)
        return replace(number, value=-number.value) if negative else number

    def atom(self, depth: int) -> Number:
        token = self.tokens[self.at]
        self.at += 1 if token else 0
        if isinstance(token, Number):
            return token
        if token == "(":
            inside = self.sum(depth + 1)
            self.expect(")")
            return inside
        if token in _NAMES:
            self.expect("(")
            return _FUNCTIONS[token](self.arguments(depth + 1))
        raise _NoNumberError

    def arguments(self, depth: int) -> list[Number]:
        found = [self.sum(depth)]
        while self.take(","):
            found.append(self.sum(depth))
        self.expect(")")
        return found


def _add(left: Number, right: Number, sign: int) -> Number:
    value = left.value + sign * right.value
    return _bounded(
        Number(value, max(left.places, right.places), *_common_unit((left, right)), left.thousands or right.thousands)
    )


def _common_unit(numbers: Sequence[Number]) -> tuple[str, str]:
    """A number without a unit goes with any. Raises `_NoNumberError` for two."""
    units = {number.unit for number in numbers if any(number.unit)}
    if len(units) > 1:
        raise _NoNumberError
    return units.pop() if units else ("", "")


def _multiply(left: Number, right: Number) -> Number:
    unit = ("", "") if any(left.unit) and any(right.unit) else _common_unit((left, right))
    places = min(left.places + right.places, MAX_PLACES)
    return _bounded(Number(left.value * right.value, places, *unit, left.thousands or right.thousands))


def _divide(left: Number, right: Number) -> Number:
    if not right.value or (any(right.unit) and right.unit != left.unit):
        raise _NoNumberError
    unit = ("", "") if any(right.unit) else left.unit
    return _bounded(Number(left.value / right.value, max(left.places, right.places), *unit, left.thousands))


def _round(numbers: Sequence[Number]) -> Number:
    number, *rest = numbers
    places = rest[0].value if rest else Fraction(0)
    if len(rest) > 1 or places.denominator != 1 or not 0 <= places <= MAX_PLACES:
        raise _NoNumberError
    return replace(number, value=Fraction(round(number.value, int(places))), places=int(places), fixed=True)


def _total(numbers: Sequence[Number]) -> Number:
    total = numbers[0]
    for number in numbers[1:]:
        total = _add(total, number, 1)
    return total


def _mean(numbers: Sequence[Number]) -> Number:
    return _divide(_total(numbers), Number(Fraction(len(numbers))))


def _abs(numbers: Sequence[Number]) -> Number:
    if len(numbers) != 1:
        raise _NoNumberError
    return replace(numbers[0], value=abs(numbers[0].value))


def _chosen(choose: Callable) -> Callable[[Sequence[Number]], Number]:
    def chosen(numbers: Sequence[Number]) -> Number:
        _common_unit(numbers)
        return choose(numbers, key=lambda number: number.value)

    return chosen


_FUNCTIONS: dict[str, Callable[[Sequence[Number]], Number]] = {
    "round": _round, "min": _chosen(min), "max": _chosen(max), "sum": _total, "mean": _mean, "abs": _abs,
}  # fmt: skip
