"""Numbers within bounds, as they are written in JSON."""

from __future__ import annotations

import decimal
import math

from runtime_stub.engine.expressions import EMPTY, Node, Repeat, either, one_of, sequence, text
from runtime_stub.errors import PromptError

LONGEST = 19
"""Digits before the point, where no bound sets them: enough for 64 bits."""
LONGEST_FRACTION = 17
"""Digits after the point, beside those of the bounds."""
_LONGEST_BOUND = 40

Bound = tuple[decimal.Decimal, bool]
"""A number, and whether it is excluded itself."""

_DIGIT = one_of(("0", "9"))
_ANY_FRACTION = sequence(text("."), Repeat(_DIGIT, 1, LONGEST_FRACTION))


def bound(value: object) -> decimal.Decimal:
    """A bound out of a schema. Raises PromptError for one that can't be used."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise PromptError("the bound is not a number")
    if isinstance(value, float) and not math.isfinite(value):
        raise PromptError("the bound is not finite")
    if abs(value) >= 10**_LONGEST_BOUND:
        raise PromptError(f"the bound has more than {_LONGEST_BOUND} digits")
    exact = decimal.Decimal(repr(value))
    exponent = exact.as_tuple().exponent
    if not isinstance(exponent, int) or -exponent > _LONGEST_BOUND:
        raise PromptError(f"the bound has more than {_LONGEST_BOUND} decimals")
    return exact


def integers(low: Bound | None, high: Bound | None) -> Node | None:
    """The integers between the bounds, None if there are none."""
    least = None if low is None else math.floor(low[0]) + 1 if low[1] else math.ceil(low[0])
    most = None if high is None else math.ceil(high[0]) - 1 if high[1] else math.floor(high[0])
    cap = 10 ** max(LONGEST, *(len(str(abs(n))) + 1 for n in (least, most) if n is not None), 0) - 1
    least = -cap if least is None else least
    most = cap if most is None else most
    if least > most:
        return None
    parts = []
    if most >= 0:
        parts.append(_naturals(max(0, least), most))
    if least < 0:
        parts.append(sequence(text("-"), _naturals(max(1, -most), -least)))
    return either(*parts)


def numbers(low: Bound | None, high: Bound | None) -> Node | None:
    """The numbers between the bounds, written without an exponent; None if there are none."""
    zero = decimal.Decimal(0)
    parts = []
    if high is None or high[0] > 0 or high == (zero, False):
        least = low if low is not None and low[0] >= 0 else (zero, False)
        parts.append(_magnitudes(least, high))
    if low is None or low[0] < 0:
        least = (-high[0], high[1]) if high is not None and high[0] < 0 else (zero, True)
        magnitudes = _magnitudes(least, None if low is None else (-low[0], low[1]))
        parts.append(None if magnitudes is None else sequence(text("-"), magnitudes))
    found = [part for part in parts if part is not None]
    return either(*found) if found else None


def _magnitudes(low: Bound, high: Bound | None) -> Node | None:
    if high is not None and (low[0] > high[0] or (low[0] == high[0] and (low[1] or high[1]))):
        return None
    first, first_digits = _split(low[0])
    if high is None:
        last, last_digits = 10 ** max(LONGEST, len(str(first)) + 1), ""
    else:
        last, last_digits = _split(high[0])
    exclusive = high is None or high[1]
    parts: list[Node | None] = []
    if first == last:
        parts.append(_with_fraction(first, _fraction(first_digits, low[1], last_digits, exclusive)))
    else:
        parts.append(_with_fraction(first, _fraction(first_digits, low[1], None, False)))
        if last - first > 1:
            whole = _naturals(first + 1, last - 1)
            parts.append(sequence(whole, either(EMPTY, _ANY_FRACTION)))
        parts.append(_with_fraction(last, _fraction("", False, last_digits, exclusive)))
    found = [part for part in parts if part is not None]
    return either(*found) if found else None


def _split(value: decimal.Decimal) -> tuple[int, str]:
    """The whole part, and the digits after the point without trailing zeros."""
    whole, _, digits = f"{value:f}".partition(".")
    return int(whole), digits.rstrip("0")


def _with_fraction(whole: int, fraction: Node | None) -> Node | None:
    return None if fraction is None else sequence(text(str(whole)), fraction)


def _fraction(low: str, low_open: bool, high: str | None, high_open: bool) -> Node | None:
    """What may follow the whole part: nothing, or a point and digits within the bounds."""
    digits = _digits(low, low_open, high, high_open, start=True)
    parts = [] if digits is None else [sequence(text("."), digits)]
    if not low and not low_open and not (high == "" and high_open):
        parts.append(EMPTY)
    return either(*parts) if parts else None


def _digits(
    low: str,
    low_open: bool,
    high: str | None,
    high_open: bool,
    *,
    start: bool = False,
) -> Node | None:
    """Digit strings d with 0.low <= 0.d <= 0.high, not empty ones at the start.

    Without `high` there is no bound above. Exclusive bounds are marked open.
    """
    if not low and not low_open:
        if high is None:
            return Repeat(_DIGIT, int(start), LONGEST_FRACTION)
        if not high:
            return None if high_open else Repeat(text("0"), int(start), LONGEST_FRACTION)
    elif not low and high is None:  # above zero
        zeros = Repeat(text("0"), 0, LONGEST_FRACTION - 1)
        return sequence(zeros, one_of(("1", "9")), Repeat(_DIGIT, 0, LONGEST_FRACTION - 1))
    elif high == "":
        return None
    first = int(low[:1] or 0)
    last = 9 if high is None else int(high[:1])
    if first > last:
        return None
    parts: list[Node] = []

    def add(digits: tuple[int, int], rest: Node | None) -> None:
        if digits[0] <= digits[1] and rest is not None:
            parts.append(sequence(one_of((str(digits[0]), str(digits[1]))), rest))

    above = None if high is None else high[1:]
    if high is not None and first == last:
        add((first, first), _digits(low[1:], low_open, above, high_open))
    else:
        add((first, first), _digits(low[1:], low_open, None, False))
        if high is None:
            add((first + 1, last), _digits("", False, None, False))
        else:
            add((first + 1, last - 1), _digits("", False, None, False))
            add((last, last), _digits("", False, above, high_open))
    if not start and not low and not low_open and not (high == "" and high_open):
        parts.append(EMPTY)
    return either(*parts) if parts else None


def _naturals(low: int, high: int) -> Node:
    """The integers from `low` to `high`, which are not negative."""
    parts: list[Node] = []
    while low <= high:
        digits = len(str(low))
        top = min(high, 10**digits - 1)
        parts.append(_between(str(low), str(top)))
        low = top + 1
    return either(*parts)


def _between(low: str, high: str) -> Node:
    """Digit strings from `low` to `high`, all of the same length."""
    if not low:
        return EMPTY
    if set(low) == {"0"} and set(high) == {"9"}:
        return Repeat(_DIGIT, len(low), len(low))
    if low[0] == high[0]:
        return sequence(text(low[0]), _between(low[1:], high[1:]))
    rest = len(low) - 1
    parts = [
        sequence(text(low[0]), _between(low[1:], "9" * rest)),
        sequence(text(high[0]), _between("0" * rest, high[1:])),
    ]
    if int(high[0]) - int(low[0]) > 1:
        inner = one_of((str(int(low[0]) + 1), str(int(high[0]) - 1)))
        parts.append(sequence(inner, Repeat(_DIGIT, rest, rest)))
    return either(*parts)
