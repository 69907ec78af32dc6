"""Guesses how a text goes on from how it went on before, so that several tokens are verified in
one step. Each token is still the model's own choice: a wrong guess costs time, never quality.
"""

from __future__ import annotations

from collections.abc import Sequence

GRAM = 3
"""So many tokens must have occurred before for a guess."""
MOST = 16
"""Longest guess, in tokens."""
ROOM = 1024
"""Tokens of context that a model which guesses has for each text."""
PRIOR = 0.7
"""How often a guessed token is taken to be right, as long as nothing is known."""
_WEIGHT = 0.12
"""Of the newest outcome."""
_MARGIN = 1.03
"""By how much a guess has to pay, for what is not measured."""
_RECOVERY = 0.01
"""What is gained back with each step without a guess: a text may become repetitive later."""


class Chance:
    """How likely the next guessed token is right, from what became of those before."""

    def __init__(self, prior: float = PRIOR, recovery: float = _RECOVERY) -> None:
        """`recovery` is what is gained back with each step without a guess, up to PRIOR."""
        self.value = prior
        self._recovery = recovery

    def learn(self, guessed: int, right: int) -> None:
        """So many tokens were guessed, and the first `right` of them were."""
        for trial in range(min(right + 1, guessed)):
            self.value += _WEIGHT * ((trial < right) - self.value)

    def rest(self) -> None:
        """A step has passed without a guess."""
        if self.value < PRIOR:
            self.value = min(PRIOR, self.value + self._recovery)


class Drafts:
    """What is known of one text: its prompt, and its answer as far as it has come."""

    def __init__(self, tokens: Sequence[int]) -> None:
        self._tokens = list(tokens)
        self._followed: dict[tuple[int, ...], int] = {}
        """Where the text went on after these tokens, the last time they occurred."""
        for end in range(GRAM, len(self._tokens)):
            self._followed[tuple(self._tokens[end - GRAM : end])] = end
        self._last = tuple(self._tokens[-GRAM:])
        self._place = self._followed.get(self._last)
        """Where it may go on like."""
        self.chance = Chance()

    @property
    def text(self) -> Sequence[int]:
        """The whole of it."""
        return self._tokens

    def add(self, token: int) -> None:
        """The text goes on with `token`."""
        if len(self._last) == GRAM:
            self._followed[self._last] = len(self._tokens)
        self._tokens.append(token)
        self._last = (*self._last[1 - GRAM :], token)
        self._place = self._followed.get(self._last)

    @property
    def repeats(self) -> bool:
        """Whether it was at such a place before."""
        return self._place is not None

    def guess(self, most: int) -> list[int]:
        """At most `most` tokens that may follow; none if the text never was at such a place."""
        start = self._place
        if start is None:
            return []
        length = len(self._tokens)
        guess: list[int] = []
        for place in range(start, start + most):
            # Beyond its end the text is what was guessed: it may go round in circles.
            guess.append(self._tokens[place] if place < length else guess[place - length])
        return guess


def worthwhile(
    chance: float, others: int, step: float | None, per_token: float | None, most: int
) -> int:
    """How many tokens to guess: those that make a step give most tokens a second.

    `others` is how many more texts the step is for, `step` how long it takes without a guess in
    seconds, and `per_token` by how much a guessed token lengthens it; None while unknown.
    """
    if step is None or per_token is None or step <= 0:
        return 0
    best, best_rate = 0, (1 + others) / step
    least = _MARGIN * best_rate
    expected, likely = 1.0, 1.0
    for count in range(1, most + 1):
        likely *= chance
        expected += likely
        rate = (expected + others) / (step + count * per_token)
        if rate <= best_rate:  # each further token adds less, and costs the same
            break
        best, best_rate = count, rate
    return best if best_rate > least else 0
