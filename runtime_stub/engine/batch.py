"""The batch that is fed to a context, in memory that Python writes to quickly."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from typing import Any

from runtime_stub.engine.library import library, native


class Batch:
    """Room for `size` tokens, each in one sequence."""

    def __init__(self, size: int) -> None:
        tokens, positions, sequences, counts = ((ctypes.c_int32 * size)() for _ in range(4))
        outputs = (ctypes.c_int8 * size)()
        choices, chosen = (ctypes.c_size_t * size)(), (ctypes.c_int32 * size)()
        # llama.cpp wants a list of sequences for each token: all of one, one behind the other.
        first = ctypes.addressof(sequences)
        lists = (ctypes.c_size_t * size)(*range(first, first + 4 * size, 4))
        counts[:] = [1] * size
        self._arrays = tokens, positions, sequences, counts, outputs, choices, chosen, lists
        """Kept for as long as anything points to them."""
        fields = dict(library().llama_batch._fields_)
        self._native = library().llama_batch(
            token=ctypes.cast(tokens, fields["token"]),
            pos=ctypes.cast(positions, fields["pos"]),
            n_seq_id=ctypes.cast(counts, fields["n_seq_id"]),
            seq_id=ctypes.cast(lists, fields["seq_id"]),
            logits=ctypes.cast(outputs, fields["logits"]),
        )
        self._decode = _native_decode()
        self._addresses = tuple(map(ctypes.addressof, (self._native, choices, chosen)))
        # These are written to for each token, which takes ctypes several times as long.
        self.tokens, self.positions = _view(tokens, "i"), _view(positions, "i")
        self.sequences = _view(sequences, "i")
        self.outputs = _view(outputs, "b")
        """Whether logits are wanted."""
        self.choices = _view(choices, "N")
        """Addresses of shortlists that choose what follows a token; 0 for none."""
        self.chosen = _view(chosen, "i")
        """What they have chosen; -1 where no token had a chance."""

    def decode(self, context: Any, count: int) -> int:
        """Have `context` compute the first `count` tokens; the code that llama.cpp returns. Where
        that is 0, `chosen` tells what was chosen."""
        self._native.n_tokens = count
        return self._decode(context, *self._addresses)


def _view(array: Any, code: str) -> memoryview:
    return memoryview(array).cast("B").cast(code)  # type: ignore[call-overload,no-any-return]


@functools.cache
def _native_decode() -> Callable[..., int]:
    function = native("satchel_decode")
    if function is None:  # built without native/sampling.c: then there are no shortlists, either
        plain = library().llama_decode
        kind = ctypes.POINTER(library().llama_batch)
        return lambda context, batch, *_: plain(context, ctypes.cast(batch, kind).contents)
    function.argtypes = (ctypes.c_void_p,) * 4
    function.restype = ctypes.c_int32
    decode: Callable[..., int] = function
    return decode
