"""The batch that is fed to a context, in memory that Python writes to quickly."""

from __future__ import annotations

import ctypes
from typing import Any

from runtime_stub.engine.library import library


class Batch:
    """A llama_batch with room for `size` tokens, each in one sequence."""

    def __init__(self, size: int) -> None:
        llama = library()
        tokens, positions, sequences, counts = ((ctypes.c_int32 * size)() for _ in range(4))
        outputs = (ctypes.c_int8 * size)()
        # llama.cpp wants a list of sequences for each token: all of one, one behind the other.
        first = ctypes.addressof(sequences)
        lists = (ctypes.c_size_t * size)(*range(first, first + 4 * size, 4))
        counts[:] = [1] * size
        self._arrays = tokens, positions, sequences, counts, outputs, lists
        """Kept for as long as the structure points to them."""
        fields = dict(llama.llama_batch._fields_)
        self.native = llama.llama_batch(
            token=ctypes.cast(tokens, fields["token"]),
            pos=ctypes.cast(positions, fields["pos"]),
            n_seq_id=ctypes.cast(counts, fields["n_seq_id"]),
            seq_id=ctypes.cast(lists, fields["seq_id"]),
            logits=ctypes.cast(outputs, fields["logits"]),
        )
        """As llama.cpp takes it."""
        # These are written to for each token, which takes ctypes several times as long.
        self.tokens = _numbers(tokens)
        self.positions = _numbers(positions)
        self.sequences = _numbers(sequences)
        self.outputs = memoryview(outputs).cast("B")


def _numbers(array: Any) -> memoryview:
    return memoryview(array).cast("B").cast("i")
