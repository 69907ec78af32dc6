"""How a context keeps the keys and values of its tokens: the types there are, and their size."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class KvType:
    """One way to store the numbers of keys and values."""

    number: int
    """ggml's for it."""
    block: int
    """Numbers that are stored together: a head's must be a multiple."""
    block_bytes: int

    def bytes_of(self, numbers: int) -> int:
        """Bytes that so many numbers take."""
        return -(-numbers * self.block_bytes // self.block)

    @property
    def quantised(self) -> bool:
        """Whether it keeps less than what was computed. That takes flash attention."""
        return self.block > 1


DEFAULT = "f16"
KV_TYPES = {DEFAULT: KvType(1, 1, 2), "q8_0": KvType(8, 32, 34)}
"""By llama.cpp's names. Those below eight bits change answers, and are left out."""
NEEDS_FLASH_ATTENTION = (
    "keys and values that are kept as {kv} need flash attention, which is turned off",
    "Turn it on, or take kv f16",
)
