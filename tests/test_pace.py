from __future__ import annotations

from collections.abc import Callable

import pytest

from runtime_stub.engine.pace import Pace


def settled(
    cost: Callable[[int], float], *, answered: int = 1, reading: int = 1, room: int = 512
) -> tuple[int, float]:
    """The chunk that is read in the end, and by how much of itself that lengthens a step of a
    second; `cost` is what so many tokens take."""
    pace = Pace()
    pace.note(0, 100, cost(100))
    for _ in range(20):
        pace.note(answered, 0, 1.0)
    chunks = []
    for _ in range(100):
        read = pace.chunk(room, answered, reading)
        if read:
            chunks.append(read)
        pace.note(answered, read, 1.0 + (cost(read) if read else 0))
    typical = sorted(chunks[50:])[25]
    return typical, cost(typical)


def test_knows_nothing_at_first() -> None:
    assert Pace().chunk(512, 1, 1) == 1


@pytest.mark.parametrize(
    ("answered", "reading", "stretch"),
    [(4, 1, 0.7), (1, 1, 0.7), (1, 2, 2.0), (2, 6, 3.0), (1, 63, 4.0)],
)
def test_time_is_shared_by_requests(answered: int, reading: int, stretch: float) -> None:
    _, lengthened = settled(lambda read: read * 0.05, answered=answered, reading=reading)
    assert lengthened == pytest.approx(stretch, rel=0.15)


def test_first_tokens_that_cost_most() -> None:
    """Reading one token costs nearly half a step, and a few hardly more: then a few are read."""
    chunk, lengthened = settled(lambda read: 0.4 + 0.04 * read)
    assert chunk > 4
    assert lengthened <= 1.0


def test_bounds() -> None:
    assert settled(lambda read: 0.001 * read, room=8)[0] == 8
    assert settled(lambda read: 10.0 * read)[0] == 1


def test_one_slow_step_is_forgotten() -> None:
    pace = Pace()
    pace.note(0, 100, 5.0)
    pace.note(1, 0, 1.0)

    def step() -> int:
        while (chunk := pace.chunk(512, 1, 1)) == 0:
            pace.note(1, 0, 1.0)
        pace.note(1, chunk, 1.0 + chunk * 0.05)
        return chunk

    before = [step() for _ in range(50)][-1]
    pace.note(1, before, 30.0)
    assert step() < before
    assert [step() for _ in range(12)][-1] == pytest.approx(before, abs=4)


def test_looks_again_at_what_answers_cost() -> None:
    """An answer that has become twice as dear lets twice as much be read beside it."""
    pace = Pace()
    pace.note(0, 100, 5.0)
    pace.note(1, 0, 1.0)

    def run(generating: float) -> int:
        read = 0
        for _ in range(200):
            chunk = pace.chunk(512, 1, 1)
            pace.note(1, chunk, generating + chunk * 0.05)
            read = chunk or read
        return read

    assert run(2.0) == pytest.approx(2 * run(1.0), rel=0.2)


def test_the_last_piece_of_a_prompt_does_not_lengthen_chunks() -> None:
    pace = Pace()
    pace.note(0, 100, 5.0)
    pace.note(1, 0, 1.0)
    before = pace.chunk(512, 1, 1)
    for _ in range(10):
        pace.note(1, 1, 1.05)
    assert pace.chunk(512, 1, 1) == before


def test_what_a_guess_costs() -> None:
    pace = Pace()
    pace.note(0, 100, 1.0)
    pace.note(4, 0, 0.1)
    assert (pace.generating, pace.per_guess) == (0.1, 0.01)
    for _ in range(100):
        pace.note(1, 0, 0.1 + 5 * 0.03, guessed=5)
    assert pace.per_guess == pytest.approx(0.03)
    assert pace.generating == 0.1
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
        dearer = 1 + (2000 - left) / 4000  # by attention
        gaps.append(generating + (step + read * beside * dearer if read else 0))
        pace.note(1, read, gaps[-1])
    assert max(gaps) < 3 * max(generating, (generating + step + beside) / 2)
    assert sum(gaps) < 6 * 2000 * beside + 60 * generating


def test_one_slow_step_is_no_measure() -> None:
    """The machine did something else then: longer pauses would follow for a while."""
    pace = Pace()
    for seconds in (0.01, 0.011, 0.01, 0.05, 0.01):
        pace.note(1, 0, seconds)
    assert pace.generating == 0.01
    for _ in range(3):  # but answers do become slower
        pace.note(1, 0, 0.02)
    assert pace.generating == 0.02


def test_a_request_that_slows_a_few_steps_is_no_measure() -> None:
    """What it takes until its prompt can be read (its connection, its tokens) is done beside the
    last steps before."""
    pace = Pace()
    pace.note(0, 100, 0.01)
    for _ in range(100):
        pace.note(1, 0, 0.0035)
    for _ in range(8):
        pace.note(1, 0, 0.014)
    assert pace.generating == pytest.approx(0.0035 * 1.25)
    for _ in range(20):
        pace.note(1, 0, 0.014)
    assert pace.generating == 0.014


def test_more_answers_at_once_are_measured_by_themselves() -> None:
    pace = Pace()
    for _ in range(100):
        pace.note(1, 0, 0.0035)
    for _ in range(5):
        pace.note(8, 0, 0.014)
    assert pace.generating == 0.014
