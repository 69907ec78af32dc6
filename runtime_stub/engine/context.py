"""A llama.cpp context: the memory of all sequences, and the batch that is fed to it."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from runtime_stub.engine.batch import Batch
from runtime_stub.engine.hardware import Hardware
from runtime_stub.engine.kv import KV_TYPES, NEEDS_FLASH_ATTENTION
from runtime_stub.engine.library import library, native, quietly, recent_problems
from runtime_stub.engine.messages import EngineSettings
from runtime_stub.engine.model import Model
from runtime_stub.errors import EngineError

DEFAULT_CONTEXT = 8192
DEFAULT_BATCH = 512
SMALLEST_CONTEXT = 256
MEMORY_IS_SHORT = "what free memory allows"
"""Why a context is smaller than it would be otherwise."""
_MARGIN = 256 << 20
"""Memory left for everything else, in bytes."""
_GRAIN = 256

_PARTIAL = 1
"""Of a sequence's state only what can't be cut."""
NO_ROOM = 1
"""What `decode` returns when the cache has no place for the batch."""


@dataclass(frozen=True)
class ContextSize:
    """Tokens of context, and why as many."""

    tokens: int
    reason: str


class Sized(Protocol):
    """What the choice of a context needs to know of a model."""

    @property
    def memory(self) -> int:
        """Bytes that its weights take."""

    @property
    def trained_context(self) -> int:
        """Tokens."""

    def state_bytes_per_token(self, kv: str) -> int:
        """Bytes that a token of context costs."""


def choose_context(model: Sized, settings: EngineSettings, hardware: Hardware) -> ContextSize:
    """The context for chat and serve: as asked, or what the model and this machine allow.

    Raises EngineError when even the smallest does not fit into memory.
    """
    per_token = max(1, model.state_bytes_per_token(settings.kv))
    weights = model.memory
    free = hardware.memory_available - weights - _MARGIN
    fitting = free // per_token // _GRAIN * _GRAIN
    if settings.context:
        if settings.context > fitting:
            raise EngineError(
                f"a context of {settings.context:,} tokens needs "
                f"{_megabytes(settings.context * per_token)} beside the model's "
                f"{_megabytes(weights)}, and {_megabytes(hardware.memory_available)} are free",
                f"Use --context {max(SMALLEST_CONTEXT, fitting)} or less{smaller(settings)}",
            )
        return ContextSize(settings.context, "as asked")
    wanted = min(DEFAULT_CONTEXT, model.trained_context)
    if wanted <= fitting:
        limit = "the model's" if wanted < DEFAULT_CONTEXT else "the default"
        return ContextSize(wanted, limit)
    if fitting < SMALLEST_CONTEXT:
        raise EngineError(
            f"the model needs {_megabytes(weights + SMALLEST_CONTEXT * per_token + _MARGIN)} "
            f"of memory and {_megabytes(hardware.memory_available)} are free",
            f"Close other programs, or use a smaller model{smaller(settings)}",
        )
    return ContextSize(fitting, MEMORY_IS_SHORT)


def smaller(settings: EngineSettings) -> str:
    """What else would help where memory is short."""
    if KV_TYPES[settings.kv].quantised or settings.flash_attention is False:
        return ""
    return ", or --kv q8_0, which takes about half the memory for each token"


def fitting_context(model: Model, needed: int) -> ContextSize:
    """The context for one request that needs `needed` tokens for prompt and answer."""
    rounded = -(-needed // _GRAIN) * _GRAIN
    return ContextSize(min(max(rounded, SMALLEST_CONTEXT), model.trained_context), "as needed")


def _check_kv(model: Model, settings: EngineSettings) -> None:
    """Raise EngineError where the model's keys and values can't be kept as is asked."""
    kv = KV_TYPES[settings.kv]
    if kv.quantised and settings.flash_attention is False:
        problem, hint = NEEDS_FLASH_ATTENTION
        raise EngineError(problem.format(kv=settings.kv), hint)
    if kv.quantised:
        for length in model.head_lengths():
            if length % kv.block:
                raise EngineError(
                    f"this model's keys and values can't be kept as {settings.kv}: that takes "
                    f"{kv.block} numbers together, and its heads have {length}",
                    "Use --kv f16",
                )


class Context:
    """Owns a native context and one batch. Belongs to a single thread."""

    def __init__(self, model: Model, size: ContextSize, settings: EngineSettings, threads: int):
        """`threads` are used where the settings name none. Raises EngineError."""
        llama = library()
        self.size = size
        kv = KV_TYPES[settings.kv]
        _check_kv(model, settings)
        parameters = llama.llama_context_default_params()
        parameters.n_ctx = size.tokens
        batch = settings.batch or DEFAULT_BATCH
        parameters.n_batch = parameters.n_ubatch = min(batch, size.tokens)
        parameters.n_seq_max = settings.parallel
        parameters.n_threads, parameters.n_threads_batch = self.threads_for(settings, threads)
        parameters.flash_attn_type = 0 if settings.flash_attention is False else -1
        parameters.type_k = parameters.type_v = kv.number
        parameters.kv_unified = True
        parameters.no_perf = True
        self.handle: Any = quietly(lambda: llama.llama_init_from_model(model.handle, parameters))
        if not self.handle:
            reason = "; ".join(recent_problems()[-2:]) or "llama.cpp gave no reason"
            raise EngineError(f"a context of {size.tokens:,} tokens can't be made: {reason}")
        self._memory = llama.llama_get_memory(self.handle)
        self._window = model.window
        self.cuttable, self.forgiving = model.cuttable, model.forgiving
        self.batch_size = int(parameters.n_batch)
        self._batch = Batch(self.batch_size)
        self._used = 0
        """Tokens in the batch."""

    @staticmethod
    def threads_for(settings: EngineSettings, threads: int) -> tuple[int, int]:
        """Threads that generate and that read, `threads` where the settings name none."""
        generating = settings.threads or threads
        return generating, settings.prompt_threads or generating

    def set_threads(self, threads: int, prompt_threads: int) -> None:
        """Compute with so many from now on."""
        library().llama_set_n_threads(self.handle, threads, prompt_threads)

    def stop_when(self, stop: Callable[[], bool] | None) -> None:
        """Have `decode` fail as soon as `stop` says so. It is asked very often, which costs
        time; None for never."""
        llama = library()
        # Kept: C calls it. An empty one is a null pointer.
        self._stop = (
            llama.ggml_abort_callback(lambda _: stop()) if stop else (llama.ggml_abort_callback())
        )
        llama.llama_set_abort_callback(self.handle, self._stop, None)

    def clear_batch(self) -> None:
        """Start a new batch."""
        self._used = 0

    @property
    def room(self) -> int:
        """How many more tokens the batch takes."""
        return self.batch_size - self._used

    def add(
        self, token: int, position: int, sequence: int, *, output: bool, choice: int = 0
    ) -> int:
        """Append a token to the batch; returns its index there. `output` asks for its logits, and
        `choice` is the address of a shortlist that shall choose what follows it."""
        index = self._used
        batch = self._batch
        batch.tokens[index] = token
        batch.positions[index] = position
        batch.sequences[index] = sequence
        batch.outputs[index] = output
        batch.choices[index] = choice
        self._used = index + 1
        return index

    def decode(self) -> int:
        """Run the batch: 0 is success, NO_ROOM a full cache, anything else a failure."""
        return self._batch.decode(self.handle, self._used)

    def chosen(self, index: int) -> int | None:
        """What was chosen after place `index` when the batch was run; None where nothing should
        have been, or no token had a chance."""
        token = self._batch.chosen[index] if self._batch.choices[index] else -1
        return token if token >= 0 else None

    def keep(self, sequence: int, tokens: int, saved: bytes | None = None) -> int:
        """Cut a sequence to its first `tokens`; returns how many are really usable.

        Recurrent memory goes back to where `save` was called only, and a sliding window may
        have forgotten what lies before the cut: then nothing is usable and the sequence is
        emptied.
        """
        llama = library()
        if (
            tokens > 0
            and (saved is None or self._restore(sequence, saved))
            and llama.llama_memory_seq_rm(self._memory, sequence, tokens, -1)
            and int(llama.llama_memory_seq_pos_max(self._memory, sequence)) == tokens - 1
            and (not self.cuttable or self.remembers(sequence, tokens))
        ):
            return tokens
        llama.llama_memory_seq_rm(self._memory, sequence, -1, -1)
        return 0

    def remembers(self, sequence: int, tokens: int) -> bool:
        """Whether it holds all that is looked at after the first `tokens` of a sequence: a
        sliding window forgets what is behind it."""
        first = int(library().llama_memory_seq_pos_min(self._memory, sequence))
        return 0 <= first <= (max(0, tokens - self._window) if self._window > 0 else 0)

    def has_room_before(self, sequence: int) -> bool:
        """Whether a token of a sequence could come to lie before those that it follows. Attention
        adds up what lies in memory in that order. Only known where all sequences share one memory
        of attention; False otherwise."""
        return _native_room()(self.handle, sequence) != 0

    def clear(self) -> None:
        """Forget all sequences."""
        library().llama_memory_clear(self._memory, False)

    def share(self, source: int, target: int, tokens: int, saved: bytes | None = None) -> int:
        """Give `target` the first `tokens` of `source` instead of its own; returns how many
        are really usable there, as for `keep`. Attention's memory is shared, not copied."""
        llama = library()
        llama.llama_memory_seq_rm(self._memory, target, -1, -1)
        llama.llama_memory_seq_cp(self._memory, source, target, 0, tokens)
        return self.keep(target, tokens, saved)

    def save(self, sequence: int) -> bytes:
        """What it takes to come back to this place of a sequence that can't be cut; empty when
        it can't be had."""
        llama = library()
        size = int(llama.llama_state_seq_get_size_ext(self.handle, sequence, _PARTIAL))
        state = (ctypes.c_uint8 * size)()
        written = llama.llama_state_seq_get_data_ext(self.handle, state, size, sequence, _PARTIAL)
        return bytes(memoryview(state)[: int(written)])

    def state_size(self, sequence: int) -> int:
        """Bytes of its state."""
        return int(library().llama_state_seq_get_size(self.handle, sequence))

    def state(self, sequence: int) -> bytearray:
        """All that the context holds of a sequence."""
        state = bytearray(self.state_size(sequence))
        room = (ctypes.c_uint8 * len(state)).from_buffer(state)
        written = library().llama_state_seq_get_data(self.handle, room, len(state), sequence)
        del room  # as long as it is there, the length can't be changed
        del state[int(written) :]
        return state

    def set_state(
        self, sequence: int, state: bytearray | memoryview, tokens: int, keep: int
    ) -> int:
        """Give a sequence the `state` that `tokens` left, cut to the first `keep` of them; returns
        how many are really usable, 0 where llama.cpp refuses it. `state` must be writable."""
        llama = library()
        llama.llama_memory_seq_rm(self._memory, sequence, -1, -1)
        data = (ctypes.c_uint8 * len(state)).from_buffer(state)
        if not llama.llama_state_seq_set_data(self.handle, data, len(state), sequence):
            llama.llama_memory_seq_rm(self._memory, sequence, -1, -1)
            return 0
        if keep == tokens:
            return tokens
        return self.keep(sequence, keep) if self.cuttable else self.keep(sequence, 0)

    def _restore(self, sequence: int, saved: bytes) -> bool:
        state = (ctypes.c_uint8 * len(saved)).from_buffer_copy(saved)
        return bool(
            library().llama_state_seq_set_data_ext(
                self.handle, state, len(saved), sequence, _PARTIAL
            )
        )

    def free(self) -> None:
        """Release the context; the object must not be used afterwards."""
        if self.handle:
            library().llama_free(self.handle)
            self.handle = None


@functools.cache
def _native_room() -> Callable[[Any, int], int]:
    function = native("satchel_has_room_before")
    if function is None:  # built without native/room.cpp
        return lambda *_: 0
    function.argtypes = (ctypes.c_void_p, ctypes.c_int32)
    function.restype = ctypes.c_int32
    look: Callable[[Any, int], int] = function
    return look


def _megabytes(count: int) -> str:
    return f"{max(0, count) / 1e6:,.0f} MB"
