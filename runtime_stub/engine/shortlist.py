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


class _Choice(ctypes.Structure):
    """How a token is chosen, as the native code takes it."""

    _fields_ = (
        ("chain", ctypes.c_void_p),
        ("biased", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("biases", ctypes.c_int32),
        ("most", ctypes.c_int32),
    )


class Shortlist:
    """Has a chain of samplers choose among the likeliest tokens. It is not told what it chose."""

    def __init__(self, chain: Any, most: int, biases: Sequence[tuple[int, float]] = ()) -> None:
        """The `most` likeliest, from 1 to MOST, once the logits of some tokens have been given
        their `biases`. Only where `are_there` says so."""
        choose = _native_choose()
        if choose is None:
            raise EngineError("this llama.cpp was built without native/sampling.c")
        self._choose = choose
        count = len(biases)
        # Kept: the structure points to them.
        self._tokens = (ctypes.c_int32 * count)(*(token for token, _ in biases))
        self._biases = (ctypes.c_float * count)(*(bias for _, bias in biases))
        self._choice = _Choice(
            ctypes.cast(chain, ctypes.c_void_p),
            ctypes.addressof(self._tokens),
            ctypes.addressof(self._biases),
            count,
            most,
        )
        self.address = ctypes.addressof(self._choice)
        """Where the native code finds it, for as long as this object is there."""

    def choose(self, context: Any, index: int) -> int | None:
        """What is chosen at batch position `index`. None where no token has a chance."""
        token = self._choose(self.address, context, index)
        return token if token >= 0 else None


def are_there() -> bool:
    """Whether llama.cpp was built with what it takes."""
    return _native_choose() is not None


@functools.cache
def _native_choose() -> Callable[..., int] | None:
    function = native("satchel_choose_token", quick=True)
    if function is None:
        return None
    function.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int32)
    function.restype = ctypes.c_int32
    choose: Callable[..., int] = function
    return choose
