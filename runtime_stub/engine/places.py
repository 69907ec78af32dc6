"""Places of a sequence to come back to, where its memory can't be cut.

Recurrent models keep one state, that of the last token. To go on from an earlier one, a copy of
the state there is needed. Copies are made while a prompt is read, at two places: a little before
its end, since the next turn of a chat rarely differs before that, and where it began to differ
from what another slot holds, since whoever comes next may well begin alike too.
"""

from __future__ import annotations

_TAIL = 8
"""So far before the end of a prompt: where the part starts that asks for an answer, say."""
_WORTH_SAVING = 16
"""Tokens that are worth a copy."""
_MOST = 4
_BYTES = 64 << 20
"""Of copies that one slot may hold; one copy is always allowed."""


class Places:
    """The copies of one sequence's states, by the number of tokens before them."""

    def __init__(self) -> None:
        self._states: dict[int, bytes] = {}
        self._wanted: set[int] = set()

    def last(self, tokens: int) -> int:
        """The furthest place within the first `tokens`; 0 is always one."""
        return max((place for place in self._states if place <= tokens), default=0)

    def state(self, tokens: int) -> bytes | None:
        """The copy that was made after exactly so many tokens."""
        return self._states.get(tokens)

    def up_to(self, tokens: int) -> Places:
        """Those within the first `tokens`."""
        made = Places()
        made._states = {place: state for place, state in self._states.items() if place <= tokens}
        return made

    def clear(self) -> None:
        """Forget them all."""
        self._states.clear()
        self._wanted.clear()

    def want(self, start: int, alike: int, end: int) -> None:
        """A prompt of `end` tokens is going to be read from `start` on; another slot began with
        the same `alike` tokens."""
        places = (alike, end - _TAIL)
        self._wanted = {place for place in places if place - start >= _WORTH_SAVING}

    def next_wanted(self, start: int, end: int) -> int:
        """Where reading from `start` towards `end` has to pause for a copy; `end` if nowhere."""
        return min((place for place in self._wanted if start < place < end), default=end)

    def wants(self, tokens: int) -> bool:
        """Whether a copy is to be made after so many tokens."""
        return tokens in self._wanted

    def add(self, tokens: int, state: bytes) -> None:
        """Keep a copy, in place of older ones where there are too many: of the first, which is
        shared most, and of the last at least one stays."""
        self._wanted.discard(tokens)
        if not state:
            return
        self._states[tokens] = state
        while len(self._states) > 1 and (
            len(self._states) > _MOST or sum(map(len, self._states.values())) > _BYTES
        ):
            del self._states[sorted(self._states)[len(self._states) > 2]]
