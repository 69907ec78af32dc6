from __future__ import annotations

from runtime_stub.engine.pulse import PATIENCE, PING_AFTER, Pulse


def test_silence() -> None:
    pulse = Pulse()
    due = [look for look in range(1, PATIENCE) if pulse.missed()]
    assert due[0] == PING_AFTER
    assert len(due) > 10  # a busy machine has many chances to answer
    assert not pulse.lost
    pulse.missed()
    assert pulse.lost


def test_any_word_is_a_sign_of_life() -> None:
    pulse = Pulse()
    for _ in range(10 * PATIENCE):
        pulse.missed()
        pulse.heard()
    assert not pulse.lost
