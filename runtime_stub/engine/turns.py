"""Whose turn it is, among choices that are computed with different adapters."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from runtime_stub.engine.messages import Mix
from runtime_stub.engine.slots import Slot

TURN_STEPS = 4
"""Steps in a row for one set of adapters while others wait: changing it costs about a step."""


class Turns:
    """Hands out batches to the sets of adapters in use, one after the other."""

    def __init__(self, apply: Callable[[Mix], None]) -> None:
        """`apply` lets the context compute with another set; at first it has none."""
        self._apply = apply
        self._applied: Mix = ()
        self._left = TURN_STEPS

    def next(self, slots: Sequence[Slot]) -> Sequence[Slot]:
        """Those of the busy `slots` that the next batch is for; their adapters are applied."""
        for slot in slots:
            if slot.mix != self._applied:
                return self._choose(slots)
        self._left -= 1
        return slots  # nearly always

    def _choose(self, slots: Sequence[Slot]) -> Sequence[Slot]:
        waiting = list(dict.fromkeys(slot.mix for slot in slots if not slot.waits))
        if not waiting:
            return []
        self._left -= 1
        if self._applied not in waiting or (self._left <= 0 and len(waiting) > 1):
            self._left = TURN_STEPS
            # In a fixed order, so that nobody is left out.
            waiting.sort()
            after = [mix for mix in waiting if mix > self._applied]
            self._change((after or waiting)[0])
        return [slot for slot in slots if slot.mix == self._applied]

    def _change(self, mix: Mix) -> None:
        self._apply(mix)
        self._applied = mix
