"""How choices and requests end: what is told then, and the counts of what they took."""

from __future__ import annotations

import time
from collections.abc import Sequence

from runtime_stub.engine.job import Job
from runtime_stub.engine.messages import ChoiceEnd, Failed, Finished, Usage
from runtime_stub.engine.slots import Slot


class Endings:
    """Ends the choices in `slots`, and a request with the last of its choices."""

    def __init__(self, slots: Sequence[Slot]) -> None:
        self._slots = slots
        self._ended: dict[Job, list[tuple[ChoiceEnd, Usage]]] = {}
        """Ends and counts of the choices that are complete, of jobs that are not."""

    def slots_of(self, job: Job) -> list[Slot]:
        """Where its choices are worked on."""
        return [slot for slot in self._slots if slot.job is job]

    def fail(self, job: Job, event: Failed) -> None:
        """The whole request ends with `event`."""
        job.send(event)
        self._ended.pop(job, None)
        for slot in self.slots_of(job):
            slot.release()

    def end(self, slot: Slot, reason: str) -> None:
        """The choice in `slot` is complete; nothing happens where there is none."""
        job, answer = slot.job, slot.answer
        if job is None or answer is None:
            return
        # A stop string and a call too many end an answer that the model had not finished.
        cut = reason != "stop" or answer.over
        for event in answer.finish(cut=cut):
            job.send(event)
        if reason == "stop" and answer.called:
            reason = "tool_calls"
        end = ChoiceEnd(reason, slot.choice, answer.stopped_by if reason == "stop" else None)
        job.send(end)
        usage = _usage(job, slot)
        was_first = slot.choice == 0
        slot.release()
        for other in self.slots_of(job) if was_first else ():
            if other.waits:  # for a prompt that nobody reads any more
                self.end(other, reason)
        ended = self._ended.setdefault(job, [])
        ended.insert(0 if was_first else len(ended), (end, usage))
        if not self.slots_of(job):
            first_end = ended[0][0]
            usage = _total([usage for _, usage in ended])
            job.send(Finished(first_end.reason, usage, first_end.stop))
            del self._ended[job]

    def forget(self) -> None:
        """Whatever has ended so far, its requests have been told otherwise."""
        self._ended.clear()


def _usage(job: Job, slot: Slot) -> Usage:
    now = time.monotonic()
    first = slot.first_token or now
    return Usage(
        prompt_tokens=len(job.tokens),
        cached_tokens=slot.cached,
        completion_tokens=slot.generated,
        prompt_seconds=first - slot.started,
        completion_seconds=now - first,
    )


def _total(usages: list[Usage]) -> Usage:
    """Counts over all choices; they have read one prompt together."""
    return Usage(
        prompt_tokens=usages[0].prompt_tokens,
        cached_tokens=usages[0].cached_tokens,
        completion_tokens=sum(usage.completion_tokens for usage in usages),
        prompt_seconds=max(usage.prompt_seconds for usage in usages),
        completion_seconds=max(usage.completion_seconds for usage in usages),
    )
