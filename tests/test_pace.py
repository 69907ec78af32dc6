from __future__ import annotations

import pytest

from runtime_stub.engine.pace import Pace


def learnt(generating: float = 0.1, per_token: float = 0.01) -> Pace:
    """A pace that has seen steps of `generating` seconds, and prompts read at `per_token`, alone
    and beside others."""
    pace = Pace()
    pace.note(4, 0, generating)
    pace.note(0, 100, 100 * per_token)
    pace.note(4, 10, generating + 10 * per_token)
    return pace


def test_knows_nothing_at_first() -> None:
    assert Pace().chunk(512, 1, 1) == 1


@pytest.mark.parametrize(
    ("answered", "reading", "tokens"),
    [(4, 1, 12), (1, 1, 12), (1, 2, 20), (2, 6, 30), (1, 63, 40)],
)
def test_time_is_shared_by_requests(answered: int, reading: int, tokens: int) -> None:
    assert learnt().chunk(512, answered, reading) == tokens


def test_bounds() -> None:
    assert learnt().chunk(8, 1, 3) == 8
    assert learnt(generating=0.001).chunk(512, 1, 1) == 1


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


@pytest.mark.parametrize(
    ("generating", "alone", "step", "beside"),
    [
        (0.0125, 0.0062, 0.002, 0.0082),  # SmolLM2 on two cores
        (0.2, 0.05, 0.01, 0.06),  # a model of some billion parameters
        (0.03, 0.001, 0.004, 0.0005),  # a processor that reads much faster than it generates
        (0.01, 0.02, 0.0, 0.02),  # one that does not
    ],
)
def test_no_gap_gets_three_times_as_long(
    generating: float, alone: float, step: float, beside: float
) -> None:
    """From the first chunk on, when a prompt of 2,000 tokens comes beside one stream."""
    pace = Pace()
    pace.note(0, 40, 40 * alone)
    for _ in range(50):
        pace.note(1, 0, generating)
    left, gaps = 2000, []
    while left:
        read = pace.chunk(min(512, left), 1, 1)
        left -= read
        # Attention makes later tokens dearer.
        gaps.append(generating + step + read * beside * (1 + (2000 - left) / 4000))
        pace.note(1, read, gaps[-1])
    assert max(gaps) < 3 * max(generating, (generating + step + beside) / 2)
    assert sum(gaps) < 6 * 2000 * beside + 60 * generating
