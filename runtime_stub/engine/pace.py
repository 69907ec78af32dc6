"""How much of a long prompt to read at once while others are being answered."""

from __future__ import annotations

_WEIGHT, _BESIDE_WEIGHT = 0.2, 0.5
"""Of the newest measurement in the running averages; what a prompt costs beside answers counts
more, for a chunk too long is felt at once."""
_SMALL_COSTS_MORE = 2.0
"""How much more a prompt token may cost in a small batch than in a full one."""
_STRETCH, _LONGEST_STRETCH = 1.2, 4.0
"""By how much of itself a step of generating may be lengthened for a prompt, and for many."""
_LEAST = 1


class Pace:
    """Keeps the gaps between running streams' tokens short.

    A step's time is taken to be what its generated tokens cost plus so much a prompt token;
    both are learnt from the steps themselves.
    """

    def __init__(self) -> None:
        self._generating: float | None = None
        self._per_token: float | None = None
        """Seconds that a prompt token takes in a step which only reads."""
        self._beside: float | None = None
        """Seconds by which one lengthens a step which also generates."""
        self._per_guess: float | None = None

    def chunk(self, room: int, answered: int, reading: int) -> int:
        """Tokens of prompt to read in a step that also generates, at most `room`.

        Where more requests are still being read than answered, they get their share of the
        time: those who wait for a first token are not to pay for those who came just before.
        """
        per_token = self._beside
        if per_token is None and self._per_token is not None:
            per_token = _SMALL_COSTS_MORE * self._per_token
        if self._generating is None or per_token is None:
            return min(room, _LEAST)
        stretch = min(max(_STRETCH, reading / answered), _LONGEST_STRETCH)
        return max(_LEAST, min(room, int(stretch * self._generating / per_token)))

    @property
    def generating(self) -> float | None:
        """Seconds that a step takes which only generates, without guesses; None if unknown."""
        return self._generating

    @property
    def per_guess(self) -> float | None:
        """Seconds by which a guessed token lengthens a step; None if unknown."""
        return self._per_token if self._per_guess is None else self._per_guess

    def note(self, generated: int, read: int, seconds: float, guessed: int = 0) -> None:
        """Learn from a step that fed so many generated, prompt and guessed tokens."""
        if guessed:
            if not read and self._generating is not None:
                longer = max(0.0, seconds - self._generating) / guessed
                self._per_guess = _average(self._per_guess, longer)
        elif generated and not read:
            self._generating = _average(self._generating, seconds)
        elif read and not generated:
            self._per_token = _average(self._per_token, seconds / read)
        elif read and self._generating is not None and seconds > self._generating:
            longer = (seconds - self._generating) / read
            self._beside = _average(self._beside, longer, _BESIDE_WEIGHT)


def _average(old: float | None, new: float, weight: float = _WEIGHT) -> float:
    return new if old is None else old + weight * (new - old)
