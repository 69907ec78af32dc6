"""ggml's builds for kinds of processor: single operations, as each of them computes them."""

from __future__ import annotations

import ctypes
import functools
from array import array
from typing import Any, Protocol

import pytest

from runtime_stub.engine import library

F32, F16, I32, Q8_0 = 0, 1, 26, 8
"""Types of tensors."""
TOO_OLD = ("x64", "sse42", "sandybridge", "ivybridge", "piledriver")
"""Kinds of processor without AVX2."""
_FOR_TENSORS = 1 << 18


class _Parameters(ctypes.Structure):
    _fields_ = (
        ("size", ctypes.c_size_t),
        ("buffer", ctypes.c_void_p),
        ("no_alloc", ctypes.c_bool),
    )


class Bytes(Protocol):
    """What numbers come in."""

    def tobytes(self) -> bytes: ...


def backend_library(variant: str) -> Any:
    return ctypes.CDLL(str(library.libraries_folder() / f"libggml-cpu-{variant}.so"))


@functools.cache
def variants() -> tuple[str, ...]:
    """The CPU backends that this processor runs."""
    library.library()
    names = [
        path.stem.removeprefix("libggml-cpu-")
        for path in library.libraries_folder().glob("libggml-cpu-*.so")
    ]
    return tuple(sorted(name for name in names if backend_library(name).ggml_backend_score() > 0))


def able() -> list[str]:
    """Those of them that compute by our code."""
    return [variant for variant in variants() if variant not in TOO_OLD]


needs_avx2 = pytest.mark.skipif(not able(), reason="no AVX2")


def base(name: str, *arguments: object) -> int:
    """Call one of ggml's functions. Pointers go and come as plain numbers."""
    function = getattr(ctypes.CDLL(str(library.libraries_folder() / "libggml-base.so")), name)
    function.restype = ctypes.c_size_t
    return int(function(*(ctypes.c_size_t(a) if isinstance(a, int) else a for a in arguments)) or 0)


def apart(one: array[float], other: array[float]) -> float:
    """How far, as a share of all of it."""
    difference = sum((a - b) ** 2 for a, b in zip(one, other, strict=True))
    return float((difference / sum(b * b for b in other)) ** 0.5)


class Graph:
    """Operations, as one CPU backend computes them. Tensors are the numbers that `base` takes."""

    def __init__(self, variant: str, threads: int) -> None:
        self.library = backend_library(variant)
        self.library.ggml_backend_init.restype = ctypes.c_size_t
        device = base("ggml_backend_reg_dev_get", self.library.ggml_backend_init(), 0)
        self._backend = base("ggml_backend_dev_init", device, 0)
        self.library.ggml_backend_cpu_set_n_threads(ctypes.c_size_t(self._backend), threads)
        self.context = base("ggml_init", _Parameters(_FOR_TENSORS, None, no_alloc=True))
        self._graph = base("ggml_new_graph", self.context)
        self._buffer = 0

    def tensor(self, kind: int, *sizes: int) -> int:
        """A new one; the first of the `sizes` is that of its rows."""
        return base(f"ggml_new_tensor_{len(sizes)}d", self.context, kind, *sizes)

    def add(self, *operations: int) -> None:
        """What is to be computed. No tensors can be made after it."""
        for operation in operations:
            base("ggml_build_forward_expand", self._graph, operation)
        self._buffer = base("ggml_backend_alloc_ctx_tensors", self.context, self._backend)

    def compute(self) -> None:
        assert base("ggml_backend_graph_compute", self._backend, self._graph) == 0

    def set(self, tensor: int, data: bytes | Bytes) -> None:
        raw = data if isinstance(data, bytes) else data.tobytes()
        assert len(raw) == base("ggml_nbytes", tensor)
        base("ggml_backend_tensor_set", tensor, raw, 0, len(raw))

    def get(self, tensor: int) -> array[float]:
        """The numbers of a tensor of 32 bits each."""
        room = ctypes.create_string_buffer(base("ggml_nbytes", tensor))
        base("ggml_backend_tensor_get", tensor, room, 0, len(room))
        return array("f", room.raw)

    def close(self) -> None:
        base("ggml_backend_buffer_free", self._buffer)
        base("ggml_free", self.context)
        base("ggml_backend_free", self._backend)
