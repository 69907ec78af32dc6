"""Slots: the sequences of a context, who uses them, and what they still hold."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from runtime_stub.engine.answer import Answer
from runtime_stub.engine.context import Context
from runtime_stub.engine.job import Job
from runtime_stub.engine.sampler import Sampler

_WORTH_COPYING = 16
"""Tokens of common prefix that are worth sharing another slot's memory for."""


@dataclass(eq=False)
class Slot:
    """One sequence of the context and the choice that uses it."""

    sequence: int
    tokens: list[int] = field(default_factory=list)
    """What the context holds for this sequence."""
    pending: list[int] = field(default_factory=list)
    """In the batch, and part of the context once it has run."""
    job: Job | None = None
    choice: int = 0
    sampler: Sampler | None = None
    answer: Answer | None = None
    waits: bool = False
    """For the first choice of its job to read the prompt they share."""
    next_token: int | None = None
    """Sampled, but not yet fed."""
    output_index: int | None = None
    """Where in the running batch this slot's logits are."""
    cached: int = 0
    generated: int = 0
    started: float = 0.0
    first_token: float = 0.0
    last_used: float = 0.0

    @property
    def reads(self) -> bool:
        """Whether it still has prompt to read."""
        return self.job is not None and self.next_token is None and not self.waits

    def take(self, job: Job, choice: int, sampler: Sampler, answer: Answer) -> None:
        """Begin to work on a choice."""
        self.job, self.choice, self.sampler, self.answer = job, choice, sampler, answer
        self.waits = choice > 0
        self.next_token = self.output_index = None
        self.cached = self.generated = 0
        self.started = time.monotonic()
        self.first_token = 0.0

    def release(self) -> None:
        """Let go of the choice; the tokens stay for whoever begins alike."""
        self.job = self.answer = None
        self.next_token = None
        self.waits = False
        self.last_used = time.monotonic()
        if self.sampler is not None:
            self.sampler.free()
            self.sampler = None


def place(slots: Sequence[Slot], prompt: list[int], context: Context) -> Slot:
    """The free slot to read `prompt` in, holding as much of its beginning as any slot does.

    A slot whose conversation the prompt goes on with is used where it is. A beginning that
    belongs to somebody else, busy or not, is shared, so that both keep what they have.
    """
    free = [slot for slot in slots if slot.job is None]
    # The last token is always read again: its logits are what the answer starts from.
    most = len(prompt) - 1
    donor = max(slots, key=lambda slot: (common(slot.tokens, prompt), -slot.last_used))
    shared = min(common(donor.tokens, prompt), most)
    goes_on = donor.job is None and len(donor.tokens) - shared <= shared
    if goes_on and shared > 0:
        donor.tokens = prompt[: context.keep(donor.sequence, shared)]
        return donor
    target = min(free, key=lambda slot: (bool(slot.tokens), slot.last_used))
    if target is donor or shared < _WORTH_COPYING:
        kept = min(common(target.tokens, prompt), most)
        target.tokens = prompt[: context.keep(target.sequence, kept)]
    else:
        target.tokens = prompt[: context.share(donor.sequence, target.sequence, shared)]
    return target


def common(first: list[int], second: list[int]) -> int:
    """Length of the longest common prefix."""
    for index, (left, right) in enumerate(zip(first, second, strict=False)):
        if left != right:
            return index
    return min(len(first), len(second))
