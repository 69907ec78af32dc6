"""Who guesses how texts go on, and how far: the texts themselves, where they repeat what they
hold (`drafts`), else a small model beside the one that answers (`draft_model`).

Whatever is guessed is verified: each token is the answering model's own choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from runtime_stub.engine.drafts import MOST, PRIOR, Chance, Drafts, worthwhile
from runtime_stub.engine.pace import Pace
from runtime_stub.engine.slots import Slot

if TYPE_CHECKING:
    from runtime_stub.engine.draft_model import DraftModel

_TRIAL = 4
"""Tokens that a model guesses as long as nobody knows how long that takes."""


@dataclass(frozen=True)
class Wish:
    """A text that a guess may help."""

    slot: Slot
    most: int
    """Tokens that there is room for."""


class Guessing:
    """Makes guesses for all texts of a step together. Belongs to the engine's thread."""

    def __init__(self, pace: Pace, model: DraftModel | None = None) -> None:
        """`model` guesses where a text does not repeat itself."""
        self._pace = pace
        self._model = model

    def note(self, slot: Slot, token: int) -> None:
        """The text of `slot` goes on with `token`."""
        if slot.drafts is not None:
            slot.drafts.add(token)
        elif slot.job is not None and not slot.job.generation.fresh:
            slot.drafts = Drafts([*slot.job.tokens, token])
            slot.model_chance = self._model.new_chance() if self._model is not None else None

    def can_help(self, slots: Sequence[Slot]) -> bool:
        """Whether there is anything to guess for texts that are answered in the same step. If
        not, as for most tokens, the step passes without a guess."""
        if self._model is not None and self._model.useful:
            return True
        for slot in slots:
            if slot.drafts is not None and slot.drafts.repeats:
                return True
        for slot in slots:
            if slot.drafts is not None and slot.drafts.chance.value < PRIOR:
                chance = slot.drafts.chance
                if self._count(chance, len(slots) - 1, 0.0, MOST) == 0:
                    chance.rest()
        return False

    def guess(self, wishes: Sequence[Wish], others: int) -> None:
        """Give each slot a guess as long as it pays, beside `others` texts in the same step."""
        rest = []
        for wish in wishes:
            slot, drafts = wish.slot, wish.slot.drafts
            if drafts is None:
                continue
            count = self._count(drafts.chance, others, 0.0, wish.most)
            if count == 0:
                drafts.chance.rest()
            slot.guess = drafts.guess(count)
            slot.guessed_by = drafts.chance
            if not slot.guess:
                rest.append(wish)
        if self._model is not None and self._model.useful and rest:
            self._ask_model(self._model, rest, others)

    def _ask_model(self, model: DraftModel, wishes: Sequence[Wish], others: int) -> None:
        cost = None if model.cost is None else model.cost / len(wishes)
        wanted = {}
        for wish in wishes:
            chance, drafts = wish.slot.model_chance, wish.slot.drafts
            if chance is None or drafts is None:
                continue
            count = min(_TRIAL, wish.most)
            if cost is not None:
                count = self._count(chance, others, cost, wish.most)
            if count > 0:
                wanted[wish.slot.sequence] = (drafts.text, count)
            else:
                chance.rest()
        if not wanted:
            if model.rest():
                self._pace.forget_guesses()
                for wish in wishes:
                    wish.slot.model_chance = model.new_chance()
            return
        found = model.guess(wanted, self._pace.generating or 0.0)
        for wish in wishes:
            wish.slot.guess = found.get(wish.slot.sequence, [])
            if wish.slot.guess and wish.slot.model_chance is not None:
                wish.slot.guessed_by = wish.slot.model_chance

    def _count(self, chance: Chance, others: int, cost: float, most: int) -> int:
        per_guess = self._pace.per_guess
        return worthwhile(
            chance.value,
            others,
            self._pace.generating,
            None if per_guess is None else per_guess + cost,
            min(MOST, most),
        )

    def learn(self, slot: Slot, guessed: int, right: int) -> None:
        """Of what was guessed for `slot`, the first `right` tokens were."""
        if slot.guessed_by is None:
            return
        slot.guessed_by.learn(guessed, right)
        if self._model is not None and slot.guessed_by is slot.model_chance:
            self._model.learn(slot.guessed_by)
