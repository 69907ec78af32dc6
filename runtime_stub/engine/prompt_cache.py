"""Keeps what a server has read for its next start: which states are worth a file, and when they
are written.

The engine's thread takes the states out of the context while there is nothing else to do; another
thread writes them, so that a request that comes meanwhile does not wait for the disk.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from runtime_stub.engine.context import Context
from runtime_stub.engine.prompt_files import PromptFolder, StoredPrompt
from runtime_stub.engine.slots import Slot, common
from runtime_stub.engine.warm import Remembered

WORTH = 256
"""Tokens that are worth a file: so many that no other file holds."""
_LITTLE = 64
"""Tokens that are not worth a file of their own beside one that begins alike."""
QUIET = 2.0
"""Seconds without a request after which states are written."""


class PromptCache:
    """Belongs to the engine's thread."""

    def __init__(self, folder: PromptFolder, remembered: list[Remembered]) -> None:
        """Adds what is in `folder` to `remembered`, the prompts that need not be read, and later
        what it writes."""
        self._folder = folder
        self._remembered = remembered
        self._stored = folder.prompts()
        self._remembered += self._stored
        self._writer: threading.Thread | None = None
        self._written: list[StoredPrompt | None] = []
        """What became of the state that was handed to the writer."""
        self._refused: set[int] = set()
        """Hashes of the tokens whose state is being written, or found no room."""
        self._changed = False

    def note(self) -> None:
        """Slots may hold something new from now on."""
        self._changed = True

    @property
    def patience(self) -> float | None:
        """Seconds to wait for a request before `keep` is called; None for as long as it takes."""
        return QUIET if self._changed else None

    def keep(self, slots: Sequence[Slot], context: Context) -> None:
        """Begin to write one state that is worth it, if the one before is written."""
        self._settle(context)
        if self._writer is not None:
            return
        slot = self._next(slots, context)
        if slot is None:
            self._changed = False
            return
        tokens, mix = tuple(slot.tokens), slot.mix
        state = slot.aside or context.state(slot.sequence)

        def write() -> None:
            self._written.append(self._folder.write(tokens, mix, state))

        self._refused.add(hash(tokens))
        self._writer = threading.Thread(target=write, name="prompt-writer", daemon=True)
        self._writer.start()

    def keep_all(self, slots: Sequence[Slot], context: Context, seconds: float) -> None:
        """Write all states that are worth it, as far as `seconds` allow."""
        self._changed = True
        until = time.monotonic() + seconds
        while self._changed and (left := until - time.monotonic()) > 0:
            self.keep(slots, context)
            if self._writer is not None:
                self._writer.join(left)

    def _settle(self, context: Context) -> None:
        """Take in what the writer has done, and let go of what that makes needless."""
        if self._writer is None or self._writer.is_alive():
            return
        self._writer = None
        made = self._written.pop() if self._written else None
        if made is None:
            return
        self._refused.discard(hash(made.tokens))
        for old in list(self._stored):
            again = old.path == made.path
            if again or old.gone or _replaces(made, old, context):
                if not again:
                    old.remove()
                self._stored.remove(old)
                self._remembered.remove(old)
        self._stored.append(made)
        self._remembered.append(made)

    def _next(self, slots: Sequence[Slot], context: Context) -> Slot | None:
        """The idle slot that was used last among those whose state is worth a file."""
        worth = [
            slot
            for slot in slots
            if slot.job is None
            and len(slot.tokens) >= WORTH
            and hash(tuple(slot.tokens)) not in self._refused
            and len(slot.tokens) - self._known(slot, context) >= WORTH
        ]
        return max(worth, key=lambda slot: slot.last_used, default=None)

    def _known(self, slot: Slot, context: Context) -> int:
        """How many of its tokens need no reading already, wherever a prompt begins like it."""
        known = 0
        for prompt in self._remembered:
            if prompt.mix != slot.mix or (isinstance(prompt, StoredPrompt) and prompt.gone):
                continue
            alike = common(prompt.tokens, slot.tokens)
            if context.forgiving or alike == len(prompt.tokens):
                known = max(known, alike)
        return known


def _replaces(made: StoredPrompt, old: StoredPrompt, context: Context) -> bool:
    """Whether hardly anything is lost with `old`."""
    lost = len(old.tokens) - common(old.tokens, made.tokens)
    return old.mix == made.mix and lost < (_LITTLE if context.forgiving else 1)
