"""Warm prompts: the state of a model that has read the beginning of every prompt already.

    0          8        12                     12 + 4 * count
    +----------+--------+----------------------+------------------------------+
    | magic    | count  | tokens               | state, as llama.cpp saves it |
    |          | u32    | i32 each             | for a sequence               |
    +----------+--------+----------------------+------------------------------+

It is made while packing by the llama.cpp that will use it, and fits that version, the model, and
the settings that it was made with; llama.cpp refuses any other, and then the prompt is read.
"""

from __future__ import annotations

import mmap
import struct
import sys
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from runtime_stub.engine.messages import Mix, ModelSource
from runtime_stub.errors import FormatError

MAGIC = b"SATCHELW"
_HEAD = struct.Struct("<8sI")


class Remembered(Protocol):
    """A prompt that need not be read again."""

    @property
    def tokens(self) -> tuple[int, ...]:
        """What was read."""

    @property
    def mix(self) -> Mix:
        """The adapters that it was read with."""

    @property
    def least(self) -> int:
        """How many tokens must need no reading for it to be of use."""

    @property
    def state(self) -> memoryview:
        """What reading left, writable, as ctypes wants it; nothing writes to it. Empty where it
        can't be had any more."""


@dataclass(frozen=True)
class WarmPrompt:
    """Tokens, and the state after reading them."""

    tokens: tuple[int, ...]
    state: memoryview
    mix: Mix = ()
    least: int = 16


def read_warm(source: ModelSource) -> WarmPrompt:
    """Map the warm prompt at `source`. Raises FormatError for something else."""
    end = source.offset + source.length
    # Private: what is mapped can't be changed through it.
    whole = memoryview(mmap.mmap(source.descriptor, end, access=mmap.ACCESS_COPY))
    return WarmPrompt(*read_tokens(whole[source.offset :]))


def read_tokens(data: memoryview) -> tuple[tuple[int, ...], memoryview]:
    """The tokens of a warm prompt, and its state. Raises FormatError for something else."""
    magic, count = _HEAD.unpack_from(data) if len(data) >= _HEAD.size else (b"", 0)
    start = _HEAD.size + 4 * count
    if magic != MAGIC or start >= len(data):
        raise FormatError("this is no warm prompt")
    tokens = array("i", bytes(data[_HEAD.size : start]))
    if sys.byteorder == "big":
        tokens.byteswap()
    return tuple(tokens), data[start:]


def write_warm(tokens: Sequence[int], state: bytes | bytearray) -> bytes:
    """A warm prompt as it is stored."""
    stored = array("i", tokens)
    if sys.byteorder == "big":
        stored.byteswap()
    return _HEAD.pack(MAGIC, len(tokens)) + stored.tobytes() + state
