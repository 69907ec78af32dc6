from __future__ import annotations

from runtime_stub.engine.messages import Mix
from runtime_stub.engine.slots import Slot
from runtime_stub.engine.turns import TURN_STEPS, Turns

NONE: Mix = ()
RED: Mix = (("red", 1.0),)
BLUE: Mix = (("blue", 1.0),)


def slots(*mixes: Mix) -> list[Slot]:
    return [Slot(number, mix=mix) for number, mix in enumerate(mixes)]


def test_one_kind_never_changes() -> None:
    applied: list[Mix] = []
    turns = Turns(applied.append)
    busy = slots(NONE, NONE)
    assert all(turns.next(busy) == busy for _ in range(3 * TURN_STEPS))
    assert applied == []


def test_what_is_wanted_is_applied_once() -> None:
    applied: list[Mix] = []
    turns = Turns(applied.append)
    busy = slots(RED, RED)
    assert all(turns.next(busy) == busy for _ in range(3 * TURN_STEPS))
    assert applied == [RED]


def test_everybody_gets_the_same_share() -> None:
    turns = Turns(lambda _: None)
    busy = slots(RED, NONE, BLUE, RED)
    got = [0, 0, 0, 0]
    for _ in range(6 * TURN_STEPS):
        for slot in turns.next(busy):
            got[slot.sequence] += 1
    assert got == [2 * TURN_STEPS] * 4


def test_no_turn_for_those_that_wait_for_another_choice() -> None:
    turns = Turns(lambda _: None)
    waiting, busy = slots(RED, BLUE)
    waiting.waits = True
    for _ in range(2 * TURN_STEPS):
        assert turns.next([waiting, busy]) == [busy]


def test_nobody() -> None:
    assert Turns(lambda _: None).next([]) == []
