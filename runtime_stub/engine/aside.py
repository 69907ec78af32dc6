"""Takes what idle slots hold out of the context, and puts it back for who goes on with it.

All sequences lie in one cache. Whoever attends to its own cells walks past everybody's: with
SmolLM2, 4,000 tokens of conversations that nobody goes on with make a prompt a fifth slower
to read. Copying them out takes milliseconds.
"""

from __future__ import annotations

from collections.abc import Sequence

from runtime_stub.engine.context import Context
from runtime_stub.engine.slots import Slot

LIMIT = 256 << 20
"""Bytes that may lie aside. Large models soon reach it, and what is beyond stays in the context:
there the cells cost little beside the weights."""
_WORTH = 64
"""Tokens that are worth the trouble."""


def put_aside(slots: Sequence[Slot], context: Context) -> None:
    """Make the context hold nothing of idle slots, as far as LIMIT allows."""
    if not context.cuttable:
        return
    held = sum(len(slot.aside) for slot in slots if slot.aside)
    for slot in sorted(slots, key=lambda slot: -slot.last_used):
        if slot.job is not None or slot.aside or len(slot.tokens) < _WORTH:
            continue
        size = context.state_size(slot.sequence)
        if held + size > LIMIT:
            continue
        slot.aside = context.state(slot.sequence)
        context.keep(slot.sequence, 0)
        held += size
