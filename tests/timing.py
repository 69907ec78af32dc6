"""Does the time that a check of a key takes tell anything about the key?

Keys of several kinds (right at the beginning, to the half, but for the last character; shorter,
longer) are tried in random order, a different key each time. Two kinds that differ in nothing but
name are the control. Kinds are compared by ranks: how often does one of the first kind take longer
than one of the second? Half of the times, where there is nothing to learn. Ranks do not care how
far off the slow ones are, and in random order a busy machine disturbs all kinds alike.
"""

from __future__ import annotations

import math
import random
import string
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from starlette.datastructures import Headers

from runtime_stub.server.guard import Guard, Rules
from runtime_stub.server.replies import Problem

Make = Callable[[random.Random], str]
Attempt = Callable[[str], float]
"""Tries a key; the seconds that took."""
CONTROL, TWIN = "wrong at once", "wrong at once, as well"
_LETTERS = string.ascii_letters + string.digits


@dataclass(frozen=True)
class Kind:
    """What is tried, and on what."""

    make: Make
    attempt: Attempt


def shares(key: str, attempt: Attempt) -> dict[str, Kind]:
    """Wrong keys, each kind with more in common with the right one."""
    size = len(key)

    def sharing(count: int) -> Kind:
        def make(choose: random.Random) -> str:
            other = choose.choice(_LETTERS.replace(key[count], ""))
            return key[:count] + other + "".join(choose.choices(_LETTERS, k=size - count - 1))

        return Kind(make, attempt)

    return {
        CONTROL: sharing(0),
        TWIN: sharing(0),
        "half of it right": sharing(size // 2),
        "all but the last right": sharing(size - 1),
    }


def lengths(size: int) -> dict[str, Kind]:
    """Wrong keys, all as long; the right ones they are compared with are not.

    (How long the wrong one is shows, but who sends it knows that.)
    """
    # All by one guard, with a fresh copy of the right key: guards of their own differ by tens of
    # nanoseconds, depending on where in memory they happen to lie.
    guard = _guard("")
    attempt = _attempts(guard)

    def of(length: int) -> Kind:
        digest = _guard("k" * length)._key
        assert digest is not None

        def attempt_on_it(tried: str) -> float:
            guard._key = bytes(bytearray(digest))
            return attempt(tried)

        make: Make = lambda choose: "!" + "".join(choose.choices(_LETTERS, k=size - 1))  # noqa: E731
        return Kind(make, attempt_on_it)

    return {
        CONTROL: of(size),
        TWIN: of(size),
        "right one half as long": of(size // 2),
        "right one longer by one": of(size + 1),
    }


@dataclass(frozen=True)
class Difference:
    """A kind beside the control."""

    superiority: float
    """How often a try of the kind takes longer than one of the control, from 0 to 1."""
    deviations: float
    """How far that is from one half, in standard deviations of chance."""
    nanoseconds: float
    """Between the medians."""


def measure(tried: Mapping[str, Kind], rounds: int, seed: int = 0) -> dict[str, Difference]:
    """Try `rounds` keys of each kind."""
    choose = random.Random(seed)  # noqa: S311
    # All made beforehand: what making one leaves in the processor's caches would show.
    keys = [
        (name, kind.attempt, kind.make(choose))
        for name, kind in tried.items()
        for _ in range(rounds)
    ]
    choose.shuffle(keys)
    times: dict[str, list[float]] = {name: [] for name in tried}
    for name, attempt, key in keys:
        times[name].append(attempt(key))
    return {name: compare(times[name], times[CONTROL]) for name in tried if name != CONTROL}


def compare(some: Sequence[float], others: Sequence[float]) -> Difference:
    """By ranks (Mann and Whitney's statistic); ties count half."""
    every = sorted([(value, 0) for value in some] + [(value, 1) for value in others])
    rank_sum, position = 0.0, 0
    while position < len(every):
        end = position
        while end < len(every) and every[end][0] == every[position][0]:
            end += 1
        mean_rank = (position + 1 + end) / 2
        rank_sum += mean_rank * sum(which == 0 for _, which in every[position:end])
        position = end
    first, second = len(some), len(others)
    superiority = (rank_sum - first * (first + 1) / 2) / (first * second)
    spread = math.sqrt((first + second + 1) / (12 * first * second))
    apart = (median(some) - median(others)) * 1e9
    return Difference(superiority, abs(superiority - 0.5) / spread, apart)


def guarding(key: str, guard: type[Guard] = Guard) -> Attempt:
    """The server's check of one key, without all that comes before it."""
    return _attempts(_guard(key, guard))


def _guard(key: str, guard: type[Guard] = Guard) -> Guard:
    async def app(*_: object) -> None:
        raise AssertionError

    return guard(app, Rules(api_key=key), lambda _: repr)


def _attempts(guard: Guard) -> Attempt:
    check = guard._see_key

    def attempt(tried: str) -> float:
        headers = Headers(raw=[(b"authorization", b"Bearer " + tried.encode())])
        start = time.perf_counter()
        try:
            check("/v1/models", headers)
        except Problem:
            return time.perf_counter() - start
        raise AssertionError("a wrong key was let in")

    return attempt


def report(found: Mapping[str, Difference]) -> str:
    return "\n".join(
        f"{name:<26} {each.superiority:.4f} longer, {each.deviations:5.1f} deviations, "
        f"{each.nanoseconds:+8.0f} ns"
        for name, each in found.items()
    )


def main() -> int:
    """Print what `rounds` (the first argument) of each kind show."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
    choose = random.Random(1)  # noqa: S311
    for size in (32, 4096):
        key = "".join(choose.choices(_LETTERS, k=size))
        for tried in (shares(key, guarding(key)), lengths(size)):
            print(f"key of {size} characters, {rounds:,} tries of each kind")  # noqa: T201
            print(report(measure(tried, rounds)))  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
