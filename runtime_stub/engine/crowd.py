"""How many requests may be waiting.

What generates waits for slots, and the queue bounds how many requests do. What does not (texts to
embed, documents to rank, what is tokenised) takes no slot from them: it has a bound of the same
size for itself, and counts there as if each were answered in one.
"""

from __future__ import annotations

from collections.abc import Sequence

from runtime_stub.engine.messages import AnyRequest, EngineSettings, Failed, Request


def slots_of(request: AnyRequest) -> int:
    """How many slots it is answered in: one for each choice, 0 where nothing is generated."""
    return max(1, request.choices) if isinstance(request, Request) else 0


def too_many(asked: int, owed: Sequence[int], settings: EngineSettings) -> Failed | None:
    """Why a request that is answered in so many slots is refused; None if it is not. `owed` are
    those of all that have no last event yet, in the order in which they came."""
    alike = [max(1, slots) for slots in owed if bool(slots) == bool(asked)]
    free, waiting = settings.parallel, 0
    for slots in (*alike, max(1, asked)):
        free -= slots
        waiting += free < 0  # they begin in this order: all behind one that waits do so, too
    if waiting <= settings.queue:
        return None
    return Failed("busy", f"{waiting - 1} requests are waiting already", "Ask later")
