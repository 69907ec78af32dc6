"""How the threads of one process take turns."""

from __future__ import annotations

import sys

_TURN = 0.0005
"""Seconds that a thread which computes in Python may keep the others waiting. By default it is ten
times as much, for each time that another has waited for something: with a long JSON schema to
compile, say, tokens of all answers would come in bursts, a dozen steps late."""


def take_short_turns() -> None:
    """For processes that answer somebody while they prepare something for others."""
    sys.setswitchinterval(_TURN)
