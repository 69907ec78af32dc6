from __future__ import annotations

import pytest

from runtime_stub.engine.pace import Pace


def learnt(generating: float = 0.1, per_token: float = 0.01) -> Pace:
    """A pace that has seen steps of `generating` seconds, and prompts read at `per_token`."""
    pace = Pace()
    pace.note(4, 0, generating)
    pace.note(0, 100, 100 * per_token)
    return pace


def test_knows_nothing_at_first() -> None:
    assert Pace().chunk(512, 1, 1) == 4
    assert Pace().chunk(2, 1, 1) == 2


@pytest.mark.parametrize(
    ("answered", "reading", "tokens"),
    [(4, 1, 12), (1, 1, 12), (1, 2, 20), (2, 6, 30), (1, 63, 40)],
)
def test_time_is_shared_by_requests(answered: int, reading: int, tokens: int) -> None:
    assert learnt().chunk(512, answered, reading) == tokens


def test_bounds() -> None:
    assert learnt().chunk(8, 1, 3) == 8
    assert learnt(generating=0.001).chunk(512, 1, 1) == 4


def test_learns_from_mixed_steps() -> None:
    pace = learnt()
    for _ in range(100):
        pace.note(4, 10, 0.1 + 10 * 0.02)
    assert pace.chunk(512, 1, 1) == pytest.approx(6, abs=1)


def test_what_a_guess_costs() -> None:
    pace = learnt()
    assert (pace.generating, pace.per_guess) == (0.1, 0.01)
    for _ in range(100):
        pace.note(1, 0, 0.1 + 5 * 0.03, guessed=5)
    assert pace.per_guess == pytest.approx(0.03)
    assert pace.generating == 0.1
    assert pace.chunk(512, 1, 1) == 12
    pace.note(1, 50, 9.0, guessed=5)  # who knows which of the two took so long
    assert pace.per_guess == pytest.approx(0.03)
