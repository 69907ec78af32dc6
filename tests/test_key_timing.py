"""The time that checking a key takes tells nothing about the key; `tests/timing.py` says how that
is looked for, and looks longer when it is run by itself."""

from __future__ import annotations

import http.client
import random
import time
from collections.abc import Callable, Mapping

import pytest
from running_pack import address_of, place
from starlette.datastructures import Headers
from timing import TWIN, Difference, Kind, guarding, lengths, measure, report, shares

from runtime_stub.server.guard import Guard
from runtime_stub.server.replies import Problem

ROUNDS = 1500
CHANCE = 6.0
"""Standard deviations that chance does not reach."""
KEY = "".join(random.Random(3).choices("abcdefghijklmnopqrstuvwxyz0123456789", k=2048))  # noqa: S311


class LeakyGuard(Guard):
    """Compares as one would without thinking: ends at the first difference."""

    compares_characters = True

    def _see_key(self, path: str, headers: Headers) -> None:
        offered = headers["authorization"].removeprefix("Bearer ")
        if not self._same(offered):
            raise Problem(401, "the API key is wrong")

    def _same(self, offered: str) -> bool:
        # Within one C call, for the same number of characters, then as a loop.
        if not self.compares_characters:
            return offered == KEY
        return all(one == other for one, other in zip(offered, KEY, strict=True))


class LessLeakyGuard(LeakyGuard):
    compares_characters = False


def quiet(tried: Mapping[str, Kind], rounds: int = ROUNDS) -> dict[str, Difference]:
    """The measurement; one that something else has disturbed is made again, twice at most. What
    the keys themselves do to it would be there each time."""
    found: dict[str, Difference] = {}
    for seed in range(3):
        found = measure(tried, rounds, seed)
        if max(each.deviations for each in found.values()) < CHANCE:
            break
    return found


def telling(
    tried: Mapping[str, Kind], rounds: int, tells: Callable[[Mapping[str, Difference]], bool]
) -> dict[str, Difference]:
    """A measurement that `tells`, of three at most: something else may drown what there is to see
    in one. Chance alone tells in none."""
    found: dict[str, Difference] = {}
    for seed in range(3):
        found = measure(tried, rounds, seed)
        if tells(found):
            break
    return found


def test_what_is_right_does_not_show() -> None:
    found = quiet(shares(KEY, guarding(KEY)))
    assert all(each.deviations < CHANCE for each in found.values()), report(found)


def test_how_long_the_right_one_is_does_not_show() -> None:
    found = quiet(lengths(64))
    assert all(each.deviations < CHANCE for each in found.values()), report(found)


@pytest.mark.parametrize("guard", [LeakyGuard, LessLeakyGuard])
def test_a_check_that_leaks_is_found_out(guard: type[Guard]) -> None:
    """The method sees what it is there for: even `==`, tens of nanoseconds on 2,000 characters."""

    def tells(found: Mapping[str, Difference]) -> bool:
        nearly_right = found["all but the last right"]
        return (
            nearly_right.deviations > CHANCE
            and nearly_right.superiority > 0.55
            and found[TWIN].superiority == pytest.approx(0.5, abs=0.05)
        )

    found = telling(shares(KEY, guarding(KEY, guard)), 2 * ROUNDS, tells)
    assert tells(found), report(found)


@pytest.mark.pack
@pytest.mark.slow
def test_over_the_network(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A running pack, as somebody who guesses meets it; a key that is merely long is noticed."""
    there = place(tmp_path_factory.mktemp("timing"))
    server = there.start("serve", "--port", "0", "--api-key", KEY, "--lazy")
    try:
        connection = http.client.HTTPConnection(address_of(server).removeprefix("http://"))

        def attempt(key: str) -> float:
            start = time.perf_counter()
            connection.request("GET", "/v1/models", headers={"Authorization": f"Bearer {key}"})
            answer = connection.getresponse()
            answer.read()
            taken = time.perf_counter() - start
            assert answer.status == 401
            return taken

        found = quiet(shares(KEY, attempt), 600)
        assert all(each.deviations < CHANCE for each in found.values()), report(found)
        long = Kind(lambda _: "!" * 30_000, attempt)

        def tells(found: Mapping[str, Difference]) -> bool:
            return found["long"].deviations > CHANCE

        seen = telling({**shares(KEY, attempt), "long": long}, 300, tells)
        assert tells(seen), report(seen)
        connection.close()
    finally:
        server.kill()
        server.communicate()
