"""The likeliest tokens alone, for samplers that look at no others (see native/sampling.c)."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Sequence
from typing import Any

from runtime_stub.engine.library import native
from runtime_stub.errors import EngineError

MOST = 128
"""Tokens on a list."""


class Shortlist:
    """Has a chain of samplers choose among the likeliest tokens."""

    def __init__(self, most: int, biases: Sequence[tuple[int, float]] = ()) -> None:
        """The `most` likeliest, from 1 to MOST, once the logits of some tokens have been given
        their `biases`. Only where `are_there` says so."""
        choose = _native_choose()
        if choose is None:
            raise EngineError("this llama.cpp was built without native/sampling.c")
        self._choose = choose
        self._most = most
        self._count = len(biases)
        self._tokens = (ctypes.c_int32 * self._count)(*(token for token, _ in biases))
        self._biases = (ctypes.c_float * self._count)(*(bias for _, bias in biases))

    def choose(self, chain: Any, context: Any, index: int) -> int | None:
        """What `chain` chooses at batch position `index`; it is not told. None where no token has
        a chance."""
        token = self._choose(
            chain, context, index, self._most, self._tokens, self._biases, self._count
        )
        return token if token >= 0 else None


def are_there() -> bool:
    """Whether llama.cpp was built with what it takes."""
    return _native_choose() is not None


@functools.cache
def _native_choose() -> Callable[..., int] | None:
    function = native("satchel_choose", quick=True)
    if function is None:
        return None
    numbers, floats = ctypes.POINTER(ctypes.c_int32), ctypes.POINTER(ctypes.c_float)
    pointer, integer = ctypes.c_void_p, ctypes.c_int32
    function.argtypes = (pointer, pointer, integer, integer, numbers, floats, integer)
    function.restype = integer
    choose: Callable[..., int] = function
    return choose
