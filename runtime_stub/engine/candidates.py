"""All tokens with their logits, as llama.cpp's samplers take them."""

from __future__ import annotations

import ctypes
import math
from typing import Any

from runtime_stub.engine.library import library

_FLOATS_EACH = 3
"""llama_token_data is an id, a logit and a probability, four bytes each."""


class Candidates:
    """A reusable array over the whole vocabulary. Belongs to one thread."""

    def __init__(self, vocabulary_size: int) -> None:
        self._size = vocabulary_size
        self._data: Any = None
        self._numbers: Any = None
        self._ids: Any = None
        self._array: Any = None

    def _allocate(self) -> None:
        """Most requests never need the array; a large vocabulary takes a while to fill in."""
        size = self._size
        self._data = (library().llama_token_data * size)()
        self._numbers = memoryview(self._data).cast("B").cast("f")
        # Samplers reorder the array, so ids are put back with the logits, from this copy.
        ids = (ctypes.c_int32 * size)(*range(size))
        self._ids = memoryview(ids).cast("B").cast("f")

    def fill(self, context: Any, index: int) -> Any:
        """Pointer to the candidates with the logits of batch position `index`."""
        llama = library()
        if self._data is None:
            self._allocate()
        logits = llama.llama_get_logits_ith(context, index)
        values = (ctypes.c_float * self._size).from_address(ctypes.addressof(logits.contents))
        self._numbers[1::_FLOATS_EACH] = memoryview(values).cast("B").cast("f")
        self._numbers[0::_FLOATS_EACH] = self._ids
        self._array = llama.llama_token_data_array(
            data=ctypes.cast(self._data, llama.llama_token_data_p),
            size=self._size,
            selected=-1,
            sorted=False,
        )
        return ctypes.byref(self._array)

    @property
    def chosen(self) -> int:
        """The token that a sampler selected."""
        return int(self._array.data[self._array.selected].id)

    @property
    def any_allowed(self) -> bool:
        """Whether a grammar has left anything; before any other sampler."""
        return bool(max(self._numbers[1::_FLOATS_EACH]) > -math.inf)

    def probabilities(self, token: int, count: int, softmax: Any) -> tuple[float, Any]:
        """Logarithmic probability of `token` and (token, logprob) of the `count` best.

        Call right after `fill`; `softmax` is a sampler that computes probabilities in place.
        """
        llama = library()
        llama.llama_sampler_apply(softmax, ctypes.byref(self._array))
        own = _log(self._data[token].p)
        if count == 0:
            return own, ()
        best = llama.llama_sampler_init_top_k(count)
        llama.llama_sampler_apply(best, ctypes.byref(self._array))
        llama.llama_sampler_free(best)
        rows = self._array.data[: min(count, int(self._array.size))]
        top = sorted(((int(row.id), _log(row.p)) for row in rows), key=lambda row: -row[1])
        return own, tuple(top)


def is_allowed(grammar: Any, token: int) -> bool:
    """Whether a grammar sampler would accept `token` next."""
    llama = library()
    data = (llama.llama_token_data * 1)(llama.llama_token_data(id=token, logit=1.0, p=0.0))
    array = llama.llama_token_data_array(
        data=ctypes.cast(data, llama.llama_token_data_p), size=1, selected=-1, sorted=False
    )
    llama.llama_sampler_apply(grammar, ctypes.byref(array))
    return bool(data[0].logit > -math.inf)


def _log(probability: float) -> float:
    return math.log(probability) if probability > 0 else -9999.0
