"""Works on several requests at once in one context: the loop that feeds the model.

Each step builds one batch out of the next token of every request that is being answered
and as much of the unread prompts as fits beside them, runs it, and samples. A request
holds a slot (a sequence of the context); a slot keeps its tokens afterwards, so that the
next turn of the same chat reads only what is new.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from runtime_stub.engine.context import NO_ROOM, Context
from runtime_stub.engine.messages import Event, Failed, Finished, PromptRead, Request, Text, Usage
from runtime_stub.engine.model import Model
from runtime_stub.engine.sampler import Sampler
from runtime_stub.engine.stream import TextStream

Sink = Callable[[Event], None]


@dataclass(eq=False)
class Job:
    """A request on its way, with its prompt's tokens."""

    request: Request
    sink: Sink
    on_end: Callable[[Job], None] | None = None
    """Called before the last event is sent."""
    tokens: list[int] = field(default_factory=list)
    cancelled: bool = False
    """Set from any thread; seen at the next step."""
    _ended: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def send(self, event: Event) -> None:
        """Pass an event on. Nothing follows Finished or Failed, whichever thread sends it;
        a sink that raises hurts its own request only."""
        ends = isinstance(event, (Finished, Failed))
        with self._lock:
            if self._ended:
                return
            self._ended = ends
        if ends and self.on_end is not None:
            self.on_end(self)
        try:
            self.sink(event)
        except Exception:  # noqa: BLE001  (a face's mistake must not end all others' requests)
            self.cancelled = True


@dataclass
class _Slot:
    """One sequence of the context and whoever uses it."""

    sequence: int
    tokens: list[int] = field(default_factory=list)
    """What the context holds for this sequence."""
    pending: list[int] = field(default_factory=list)
    """In the batch, and part of the context once it has run."""
    job: Job | None = None
    sampler: Sampler | None = None
    text: TextStream = field(default_factory=TextStream)
    next_token: int | None = None
    """Sampled, but not yet fed."""
    output_index: int | None = None
    """Where in the running batch this slot's logits are."""
    cached: int = 0
    generated: int = 0
    started: float = 0.0
    first_token: float = 0.0
    last_used: float = 0.0


class Scheduler:
    """Owns context and slots. All methods belong to the thread that owns the context."""

    def __init__(self, model: Model, context: Context, parallel: int) -> None:
        self._model = model
        self._context = context
        self._slots = [_Slot(sequence) for sequence in range(parallel)]
        self._waiting: deque[Job] = deque()

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do."""
        return not self._waiting and all(slot.job is None for slot in self._slots)

    def add(self, job: Job) -> None:
        """Take a request in; it starts as soon as a slot is free."""
        limit = self._context.size.tokens
        if len(job.tokens) >= limit:
            job.send(
                Failed(
                    "too-long",
                    f"the prompt has {len(job.tokens):,} tokens and the context holds {limit:,}",
                    "Shorten it, or start with a larger --context",
                )
            )
            return
        self._waiting.append(job)

    def step(self) -> None:
        """Advance every running request by one batch."""
        self._drop_cancelled()
        self._admit()
        self._fill_batch()
        if self._context.room == self._context.batch_size:
            return
        result = self._context.decode()
        if result == NO_ROOM:
            self._make_room()
        elif result != 0:
            self.fail_all(Failed("engine", f"llama.cpp failed to decode (code {result})"))
        else:
            self._sample()

    def fail_all(self, event: Failed) -> None:
        """End everything that runs or waits with `event`, and forget all cached tokens."""
        for job in self._waiting:
            job.send(event)
        self._waiting.clear()
        for slot in self._slots:
            if slot.job is not None:
                slot.job.send(event)
                self._release(slot)
            self._empty(slot)

    def close(self) -> None:
        """Release the samplers, without a word to anyone."""
        for slot in self._slots:
            self._release(slot)

    def _drop_cancelled(self) -> None:
        for slot in self._slots:
            if slot.job is not None and slot.job.cancelled:
                self._finish(slot, "cancelled")
        for job in [job for job in self._waiting if job.cancelled]:
            self._waiting.remove(job)
            job.send(Finished("cancelled", Usage(len(job.tokens), 0, 0, 0.0, 0.0)))

    def _admit(self) -> None:
        while self._waiting:
            free = [slot for slot in self._slots if slot.job is None]
            if not free:
                return
            if self._context.size.tokens < self._held() + len(self._waiting[0].tokens) + 1:
                return  # it would only push out one of those that run
            job = self._waiting.popleft()
            best = max(free, key=lambda slot: (_common(slot.tokens, job.tokens), -slot.last_used))
            self._start(best, job)

    def _held(self) -> int:
        """Tokens of context that running requests hold or are about to."""
        return sum(
            max(len(slot.tokens), len(slot.job.tokens)) + 1
            for slot in self._slots
            if slot.job is not None
        )

    def _start(self, slot: _Slot, job: Job) -> None:
        # The last token is always read again: its logits are what the answer starts from.
        common = min(_common(slot.tokens, job.tokens), len(job.tokens) - 1)
        kept = self._context.keep(slot.sequence, common)
        slot.tokens = job.tokens[:kept]
        slot.job = job
        slot.sampler = Sampler(job.request.sampling, self._model.vocabulary_size)
        if job.request.sampling.repeat_last_n:
            for token in job.tokens[-job.request.sampling.repeat_last_n :]:
                slot.sampler.accept(token)
        slot.text = TextStream(job.request.stop)
        slot.next_token = None
        slot.cached = kept
        slot.generated = 0
        slot.started = time.monotonic()

    def _fill_batch(self) -> None:
        self._context.clear_batch()
        for slot in self._slots:
            slot.output_index = None
            slot.pending = []
            if slot.job is not None and slot.next_token is not None:
                slot.output_index = self._feed(slot, slot.next_token, output=True)
        for slot in sorted(self._slots, key=lambda slot: slot.started):
            if slot.job is None or slot.next_token is not None:
                continue
            prompt = slot.job.tokens
            for position in range(len(slot.tokens), len(prompt)):
                if self._context.room == 0:
                    break
                last = position == len(prompt) - 1
                index = self._feed(slot, prompt[position], output=last)
                if last:
                    slot.output_index = index

    def _feed(self, slot: _Slot, token: int, *, output: bool) -> int:
        position = len(slot.tokens) + len(slot.pending)
        slot.pending.append(token)
        return self._context.add(token, position, slot.sequence, output=output)

    def _sample(self) -> None:
        for slot in self._slots:
            slot.tokens += slot.pending
            if slot.job is None or slot.output_index is None or slot.sampler is None:
                continue
            if slot.next_token is None:
                slot.first_token = time.monotonic()
                slot.job.send(PromptRead(len(slot.job.tokens), slot.cached))
            token = slot.sampler.sample(self._context.handle, slot.output_index)
            slot.next_token = token
            self._take(slot, slot.job, token)

    def _take(self, slot: _Slot, job: Job, token: int) -> None:
        """Pass a sampled token on, and see whether it was the last."""
        if self._model.ends_generation(token):
            self._finish(slot, "stop")
            return
        slot.generated += 1
        text = slot.text.feed(self._model.piece(token))
        if text:
            job.send(Text(text))
        limit = job.request.max_tokens
        if slot.text.stopped:
            self._finish(slot, "stop")
        elif (limit is not None and slot.generated >= limit) or (
            len(slot.tokens) + 1 >= self._context.size.tokens
        ):
            self._finish(slot, "length")

    def _finish(self, slot: _Slot, reason: str) -> None:
        job = slot.job
        if job is None:
            return
        rest = slot.text.finish()
        if rest:
            job.send(Text(rest))
        now = time.monotonic()
        first = slot.first_token if slot.first_token >= slot.started else now
        job.send(
            Finished(
                reason,
                Usage(
                    prompt_tokens=len(job.tokens),
                    cached_tokens=slot.cached,
                    completion_tokens=slot.generated,
                    prompt_seconds=first - slot.started,
                    completion_seconds=now - first,
                ),
            )
        )
        self._release(slot)

    def _release(self, slot: _Slot) -> None:
        slot.job = None
        slot.next_token = None
        slot.last_used = time.monotonic()
        if slot.sampler is not None:
            slot.sampler.free()
            slot.sampler = None

    def _make_room(self) -> None:
        """The cache is full: forget an idle slot, or else end the longest request."""
        idle = [slot for slot in self._slots if slot.job is None and slot.tokens]
        if idle:
            self._empty(min(idle, key=lambda slot: slot.last_used))
            return
        busy = [slot for slot in self._slots if slot.job is not None]
        self._finish(max(busy, key=lambda slot: len(slot.tokens)), "length")

    def _empty(self, slot: _Slot) -> None:
        self._context.keep(slot.sequence, 0)
        slot.tokens = []


def _common(first: list[int], second: list[int]) -> int:
    """Length of the longest common prefix."""
    for index, (left, right) in enumerate(zip(first, second, strict=False)):
        if left != right:
            return index
    return min(len(first), len(second))
