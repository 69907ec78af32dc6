"""Loads models with their weights in the order that this processor multiplies fastest.

llama.cpp takes one row of mapped weights at a time. `native/weights` interleaves sixteen, the very
same numbers in another order, and multiplies them together: for most types in less than half the
time. They are then in memory of this process's own, which takes the place of the mapped file.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Protocol

from runtime_stub.engine.library import native, native_of_processor
from runtime_stub.engine.messages import EngineSettings, ModelSource
from runtime_stub.engine.model import Model, load_model
from runtime_stub.errors import EngineError

_THREADS = 2
"""More find memory no faster."""
LARGEST = 1 << 30
"""Bytes of a model that is interleaved unasked. That takes a third of a second for each of these,
and its weights no longer come and go with the file's other pages, as memory allows."""
ARCHITECTURES = frozenset(
    ("gemma", "gemma2", "gemma3", "granite", "llama", "olmo2", "phi3", "qwen2", "qwen3", "smollm3")
)
"""Those in which the weights that are interleaved are used in no other way: multiplied with
states, and read by rows."""


class Interleavable(Protocol):
    """What is asked of a model."""

    handle: object
    """llama.cpp's."""

    @property
    def size(self) -> int:
        """Bytes of weights."""

    def metadata(self, key: str) -> str:
        """What the model says about itself; empty where it says nothing."""


def load_weights(
    source: ModelSource,
    on_progress: Callable[[float], bool],
    settings: EngineSettings,
    memory_available: int,
) -> Model:
    """`load_model`, and interleave. Where that can't be done and `settings` ask for repacked
    weights, llama.cpp repacks those that it can, beside the mapped ones: they take their memory
    again. Raises EngineError, as well where there is no memory for what is asked."""
    model = load_model(source, on_progress)
    if settings.repack and model.size > memory_available:
        size = model.size
        model.free()
        raise EngineError(
            f"to repack the weights takes {size / 1e6:,.0f} MB of memory, and "
            f"{memory_available / 1e6:,.0f} MB are free",
            "Leave out --repack (in a recipe: repack): they are used as they lie in the file",
        )
    if interleave(model, settings, memory_available) or not settings.repack:
        return model
    model.free()
    return load_model(source, on_progress, repack=True)


def interleave(model: Interleavable, settings: EngineSettings, memory_available: int) -> int:
    """Interleave what can be of the weights of `model`, which nothing may use meanwhile; returns
    how many bytes of them. 0 where `settings` forbid it, where the processor or the architecture
    does not allow it, for a few weights of many, and unasked for a model that is large, here or
    altogether."""
    if settings.repack is False or model.metadata("general.architecture") not in ARCHITECTURES:
        return 0
    if not settings.repack and model.size > min(LARGEST, memory_available // 2):
        return 0
    begin = native("satchel_interleave_model")
    processor = native_of_processor("satchel_interleaving")
    if begin is None or processor is None:
        return 0
    begin.restype = ctypes.c_size_t
    begin.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int]
    return int(begin(model.handle, processor, _THREADS))
