"""Slots: the sequences of a context, who uses them, and what they still hold."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from runtime_stub.engine.answer import Answer
from runtime_stub.engine.context import Context
from runtime_stub.engine.drafts import Chance, Drafts
from runtime_stub.engine.job import Job
from runtime_stub.engine.messages import Mix
from runtime_stub.engine.places import Places
from runtime_stub.engine.sampler import Sampler
from runtime_stub.engine.warm import Remembered

_WORTH_COPYING = 4
"""Tokens of common prefix that are worth sharing another slot's memory for: that is done in
microseconds, and reading one takes milliseconds."""
_AS_LONG = 32
"""Tokens that are brought back and put aside again in less time than it takes to read one."""


@dataclass(eq=False)
class Slot:
    """One sequence of the context and the choice that uses it."""

    sequence: int
    tokens: list[int] = field(default_factory=list)
    """What the context holds for this sequence."""
    aside: bytearray | None = None
    """The state that `tokens` left, where it was taken out of the context."""
    mix: Mix = ()
    """The adapters that what it holds was computed with."""
    places: Places = field(default_factory=Places)
    """Where in them a context that can't be cut can go back to."""
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
    drafts: Drafts | None = None
    """Where its text may go on from; None if that is of no use."""
    model_chance: Chance | None = None
    """How well a model guesses it; None without such a model."""
    guess: Sequence[int] = ()
    """What the running batch holds of it behind the next token, to be verified."""
    guessed_by: Chance | None = None
    """What learns from how that turns out."""
    cached: int = 0
    generated: int = 0
    most: int = 0
    """Tokens that it may generate."""
    started: float = 0.0
    first_token: float = 0.0
    last_used: float = 0.0

    @property
    def cost(self) -> int:
        """Tokens that must be brought back into the context before any of them can be used."""
        return len(self.tokens) if self.aside else 0

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
        self.job = self.answer = self.drafts = self.model_chance = self.guessed_by = None
        self.guess = ()
        self.pending.clear()
        self.next_token = None
        self.waits = False
        self.last_used = time.monotonic()
        if self.sampler is not None:
            self.sampler.free()
            self.sampler = None

    def forget(self) -> None:
        """The context holds nothing of this sequence any more."""
        self.tokens = []
        self.aside = None
        self.places.clear()

    def empty(self, context: Context) -> None:
        """Take all that the context holds of it away."""
        context.keep(self.sequence, 0)
        self.forget()

    def bring_back(self, context: Context) -> None:
        """Give the context again what was put aside. Where it does not take it, it is lost."""
        if self.aside:
            count = len(self.tokens)
            state, self.aside = self.aside, None
            if context.set_state(self.sequence, state, count, count) != count:
                self.forget()

    def reusable(self, alike: int, context: Context) -> int:
        """How many of the `alike` tokens that a prompt begins with need not be read again."""
        if alike == len(self.tokens):
            return alike
        # What lies aside is taken as it was: whether it will do is seen when it is back.
        if context.cuttable and (self.aside or context.remembers(self.sequence, alike)):
            return alike
        return self.places.last(alike)


def place(
    slots: Sequence[Slot],
    prompt: Sequence[int],
    context: Context,
    mix: Mix = (),
    warm: Sequence[Remembered] = (),
    make_way: Callable[[Slot], None] = lambda _: None,
) -> Slot:
    """The free slot to read `prompt` in, holding as much of its beginning as any slot does that
    was computed with the adapters of `mix`, or as one of the `warm` prompts. What others hold may
    `make_way` before something of a slot is brought back.

    A slot whose conversation the prompt goes on with is used where it is. A beginning that
    belongs to somebody else, busy or not, is shared, so that both keep what they have.
    """
    # The last token is always read again: its logits are what the answer starts from.
    alike = {
        slot: min(common(slot.tokens, prompt), len(prompt) - 1) if slot.mix == mix else 0
        for slot in slots
    }
    reusable = {slot: slot.reusable(alike[slot], context) for slot in slots}
    gain = {slot: reusable[slot] - slot.cost // _AS_LONG for slot in slots}
    donor = max(slots, key=lambda slot: (gain[slot], -slot.last_used))
    shared = reusable[donor] if gain[donor] > 0 else 0
    if warmed := _warmed(slots, prompt, context, mix, warm, shared):
        return warmed
    target = donor
    if donor.job is not None or shared == 0 or len(donor.tokens) - shared > shared:
        free = [slot for slot in slots if slot.job is None]
        target = min(free, key=lambda slot: (bool(slot.tokens), slot.last_used))
    if gain[donor] < _WORTH_COPYING:
        donor = target
    kept = 0
    if gain[donor] > 0:
        if donor.aside:
            make_way(donor)
        donor.bring_back(context)
        kept = min(reusable[donor], len(donor.tokens))
    saved = donor.places.state(kept) if kept < len(donor.tokens) else None
    if target is donor:
        kept = context.keep(target.sequence, kept, saved)
    else:
        kept = context.share(donor.sequence, target.sequence, kept, saved)
    target.tokens = list(prompt[:kept])
    target.aside = None
    target.mix = mix
    target.places = donor.places.up_to(kept)
    if not context.cuttable:
        target.places.want(kept, max(alike.values()), len(prompt))
    return target


def _warmed(
    slots: Sequence[Slot],
    prompt: Sequence[int],
    context: Context,
    mix: Mix,
    warm: Sequence[Remembered],
    shared: int,
) -> Slot | None:
    """A free slot with the state of a warm prompt that saves reading enough tokens, where `shared`
    of them need no reading anyway."""
    fitting = []
    for candidate in warm:
        if candidate.mix != mix or len(candidate.tokens) > context.size.tokens:
            continue
        alike = min(common(candidate.tokens, prompt), len(prompt) - 1)
        fits = alike == len(candidate.tokens) or context.cuttable
        if fits and alike >= shared + candidate.least:
            fitting.append((alike, candidate))
    if not fitting:
        return None
    free = [slot for slot in slots if slot.job is None]
    target = min(free, key=lambda slot: (bool(slot.tokens), slot.last_used))
    # One that was made with other settings is refused, or its file is gone.
    for alike, candidate in sorted(fitting, key=lambda item: -item[0]):
        state = candidate.state
        if not state:
            continue
        target.forget()
        target.mix = mix
        kept = context.set_state(target.sequence, state, len(candidate.tokens), alike)
        target.tokens = list(prompt[:kept])
        if kept:
            if not context.cuttable:
                target.places.want(kept, kept, len(prompt))
            return target
    return None


def common(first: Sequence[int], second: Sequence[int]) -> int:
    """Length of the longest common prefix."""
    for index, (left, right) in enumerate(zip(first, second, strict=False)):
        if left != right:
            return index
    return min(len(first), len(second))
