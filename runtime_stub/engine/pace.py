"""How much of a long prompt to read at once while others are being answered."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection

_WEIGHT = 0.2
"""Of the newest measurement in the running averages."""
_LAST = 5
"""Steps that only generate, of which the middle one is the measure: now and then the machine does
something else, and one step takes twice as long."""
_MANY, _DEARER = 21, 1.25
"""The measure is at most so much more than the middle one of so many, where as many answers were
written at once: when a request arrives, all that it takes until it is read slows several steps
in a row, just before they are to be the measure."""
_SMALL_COSTS_MORE = 2.0
"""How much more a prompt token may cost in a small batch than in a full one."""
_STRETCH, _LONGEST_STRETCH = 0.7, 4.0
"""By how much of itself a step of generating may be lengthened for a prompt, and for many."""
_LIMIT = 1.0
"""What _STRETCH must not become by way of rounding."""
_LOOK_AGAIN = 12
"""Steps that read beside answers, after which one only answers: answers become dearer as they grow,
and what they cost is what all this is measured by."""
_SHRINK, _GROW = 0.4, 1.25
"""By which factor a chunk may change from one step to the next: what is too long is felt at
once, what is too short costs little."""


class Pace:
    """Keeps the gaps between running streams' tokens short.

    What a prompt token costs beside a running answer depends on how many there are: the second
    token of a batch may cost as much as ten further ones. So nothing is computed from a cost; the
    chunk follows the time that steps take.
    """

    def __init__(self) -> None:
        self._alone: deque[float] = deque(maxlen=_MANY)
        """Seconds of the last steps that only generated; of as many answers as the last of them,
        or at most _LAST."""
        self._answered = 0
        """How many that step was for."""
        self._per_token: float | None = None
        """Seconds that a prompt token takes in a step which only reads."""
        self._chunk: float | None = None
        """Tokens of prompt that lengthen a step by _STRETCH; None while unknown."""
        self._stretch = _STRETCH
        """By how much the running step may be lengthened."""
        self._since_look = 0
        self._per_guess: float | None = None

    def chunk(self, room: int, answered: int, reading: int) -> int:
        """Tokens of prompt to read in a step that also generates, at most `room`; sometimes none.

        Where more requests are still being read than answered, they get their share of the
        time: those who wait for a first token are not to pay for those who came just before.
        """
        if self._chunk is None:
            self._chunk = 1.0
            generating = self.generating
            if generating is not None and self._per_token is not None:
                likely = generating / (_SMALL_COSTS_MORE * self._per_token)
                self._chunk = max(1.0, _STRETCH * likely)
        self._since_look += 1
        if self._since_look > _LOOK_AGAIN:
            self._since_look = 0
            return 0
        crowded = reading / answered if reading > answered else _STRETCH
        self._stretch = min(crowded, _LONGEST_STRETCH)
        return max(1, min(room, int(self._chunk * self._stretch / _STRETCH)))

    @property
    def generating(self) -> float | None:
        """Seconds that a step takes which only generates, without guesses; None if unknown."""
        # Found when it is asked for, which is seldom: steps are noted for every token.
        if not self._alone:
            return None
        last = _middle(list(self._alone)[-_LAST:])
        return min(last, _DEARER * _middle(self._alone)) if len(self._alone) == _MANY else last

    @property
    def per_guess(self) -> float | None:
        """Seconds by which a guessed token lengthens a step; None if unknown."""
        return self._per_token if self._per_guess is None else self._per_guess

    def forget_guesses(self) -> None:
        """What guessed tokens cost is to be measured anew."""
        self._per_guess = None

    def note(self, generated: int, read: int, seconds: float, guessed: int = 0) -> None:
        """Learn from a step that fed so many generated, prompt and guessed tokens."""
        if guessed:
            generating = self.generating
            if not read and generating is not None:
                longer = max(0.0, seconds - generating) / guessed
                self._per_guess = _average(self._per_guess, longer)
        elif generated and not read:
            if generated != self._answered:
                self._answered = generated
                while len(self._alone) > _LAST:
                    self._alone.popleft()
            self._alone.append(seconds)
        elif read and not generated:
            self._per_token = _average(self._per_token, seconds / read)
        elif read:
            self._adjust(read, seconds)

    def _adjust(self, read: int, seconds: float) -> None:
        """Make the next chunk as much longer or shorter as this step was too short or long."""
        generating = self.generating
        if generating is None or self._chunk is None:
            return
        wanted = (1 + self._stretch) * generating
        factor = max(_SHRINK, min(wanted / seconds, _GROW))
        used = read * _STRETCH / self._stretch
        if factor < 1:
            self._chunk = max(1.0, min(self._chunk, used) * factor)
        elif used + 1 > self._chunk:  # a prompt's last piece says nothing of longer ones
            grown = self._chunk * factor
            # Between one token and two there is nothing, and two may cost twice as much.
            most = (seconds - generating) * int(grown) / int(self._chunk)
            if most <= _LIMIT / _STRETCH * self._stretch * generating:
                self._chunk = grown


def _middle(values: Collection[float]) -> float:
    return sorted(values)[len(values) // 2]


def _average(old: float | None, new: float) -> float:
    return new if old is None else old + _WEIGHT * (new - old)
