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
MEANWHILE = 256
"""Tokens that may be copied out between two steps of answers: 5 ms with SmolLM2, which is about a
step. A thousand would be felt as a halt; they wait until nobody writes."""
_WORTH = 64
"""Tokens that are worth the trouble."""


def put_aside(slots: Sequence[Slot], context: Context, spare: Slot, room: int) -> None:
    """Make the context hold nothing of idle slots but of `spare`, as far as LIMIT allows. While
    answers are being written, only MEANWHILE, if there is `room` for so many tokens anyway."""
    if not context.cuttable:
        return
    held = sum(len(slot.tokens) for slot in slots if not slot.aside)
    is_writing = any(slot.next_token is not None for slot in slots)
    is_room = held + room <= context.size.tokens
    most = MEANWHILE if is_writing and is_room else context.size.tokens
    for slot in sorted(slots, key=lambda slot: -slot.last_used):
        if slot.job is not None or slot is spare or slot.aside:
            continue
        if _WORTH <= len(slot.tokens) <= most and _take_out(slot, slots, context):
            most -= len(slot.tokens)


def make_room(slots: Sequence[Slot], context: Context) -> bool:
    """Put aside, or else forget, what an idle slot holds that was used longest ago. False where
    none holds anything."""
    idle = [slot for slot in slots if slot.job is None and slot.tokens and not slot.aside]
    if not idle:
        return False
    oldest = min(idle, key=lambda slot: slot.last_used)
    if not (context.cuttable and _take_out(oldest, slots, context)):
        oldest.empty(context)
    return True


def put_all_aside(slots: Sequence[Slot], context: Context) -> None:
    """Leave the context as it was at its beginning, where nobody is at work. What idle slots hold
    is put aside as far as possible, and else forgotten."""
    for slot in slots:
        if slot.tokens and not (context.cuttable and _take_out(slot, slots, context)):
            slot.forget()
    context.clear()


def line_up(slot: Slot, slots: Sequence[Slot], context: Context) -> None:
    """Have what a slot holds lie before all that will follow it, where nobody else is at work: the
    same prompt then gives the same answer, bit by bit, whatever others have asked before. What
    idle slots hold is put aside for that; where there is no room for all of it, the slot stays
    where it is."""
    if not context.cuttable or not context.has_room_before(slot.sequence):
        return
    for other in slots:
        if other is not slot and other.tokens and not _take_out(other, slots, context):
            return
    count = len(slot.tokens)
    state = context.state(slot.sequence)
    context.clear()
    if context.set_state(slot.sequence, state, count, count) != count:
        slot.forget()


def _take_out(slot: Slot, slots: Sequence[Slot], context: Context) -> bool:
    """Whether the context holds nothing of it now."""
    if slot.aside:
        return True
    held = sum(len(other.aside) for other in slots if other.aside)
    if held + context.state_size(slot.sequence) > LIMIT:
        return False
    slot.aside = context.state(slot.sequence)
    context.keep(slot.sequence, 0)
    return True
