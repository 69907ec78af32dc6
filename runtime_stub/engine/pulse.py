"""Whether a process at the other end of a connection is alive, or only looks like it.

A process that was stopped, or whose threads all wait for each other, neither ends nor answers.
Its reader thread answers each Ping, even while native code computes: silence means that none of
its threads gets to run. A machine can be so busy that this takes long, so patience is generous,
and counted in looks that came in time: a pause of this process itself is not held against it.
"""

from __future__ import annotations

PING_AFTER = 5
"""Silent looks before each Ping; a look takes a second."""
PATIENCE = 60
"""Silent looks after which a process is given up."""


class Pulse:
    """Counts how long a process has been silent."""

    def __init__(self) -> None:
        self._silent = 0

    def heard(self) -> None:
        """Something came."""
        self._silent = 0

    def missed(self) -> bool:
        """Nothing came for one more look; whether a Ping is due."""
        self._silent += 1
        return self._silent % PING_AFTER == 0

    @property
    def lost(self) -> bool:
        """Whether it has been silent for too long."""
        return self._silent >= PATIENCE
