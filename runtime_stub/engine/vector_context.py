"""The second context over a model: reads texts one after the other, for what it makes of each."""

from __future__ import annotations

import ctypes
import operator
from collections.abc import Callable
from typing import Any

from runtime_stub.engine.hardware import read_hardware
from runtime_stub.engine.library import library, recent_problems
from runtime_stub.engine.messages import Mix
from runtime_stub.engine.model import Model
from runtime_stub.errors import EngineError

PIECE = 512
"""Tokens that are read at once, at most, where a text may be read in pieces."""
_POOLING_UNSPECIFIED, _POOLING_NONE, _POOLING_MEAN = -1, 0, 1
_POOLING_LAST, _POOLING_RANK = 3, 4
_LARGEST_INPUT = 8192
_SIZES = (PIECE, 2048, _LARGEST_INPUT)
"""Contexts to choose from, in tokens: what a text does not need is not held ready."""
_MARGIN = 64 << 20
"""Memory left for everything else, in bytes."""


class VectorContext:
    """Owns a native context that gives states instead of logits. Belongs to a single thread.

    A model that says nothing of pooling generates text, and the mean of its states serves. They
    are added up here, as the text is read in pieces: all at once would take memory that grows
    with the square of its length. So are those read of whose states the last one counts. Models
    that look ahead, or pool in another way, need all of a text at once.
    """

    def __init__(
        self, model: Model, threads: int, reserved: int, apply: Callable[[Any, Mix], None]
    ) -> None:
        """The native context is made when the first text comes. So many bytes of what is free
        are `reserved`: others will use them. `apply` lets it compute with other adapters."""
        self._model = model
        self._threads = threads
        self._reserved = reserved
        self._apply = apply
        self.largest = min(model.trained_context or _LARGEST_INPUT, _LARGEST_INPUT)
        """Tokens of the longest text that can be read."""
        pooling = model.stated_pooling()
        self._pools = pooling > _POOLING_NONE
        """Whether the model makes one state of all by itself."""
        self._in_pieces = not self._pools or pooling == _POOLING_LAST
        if pooling == _POOLING_RANK:
            self._in_pieces = model.stated_pooling("classifier.") != _POOLING_MEAN
        self._width = 1 if pooling == _POOLING_RANK else _width(model)
        self._handle: Any = None
        self._size = 0
        """Tokens of the native context; 0 for none."""
        self._applied: Mix = ()
        self._tokens: list[int] = []
        self._position = 0
        """How many of them are read."""
        self._total: list[float] = []

    @property
    def reading(self) -> bool:
        """Whether a text is not read to its end yet."""
        return bool(self._tokens)

    def begin(self, tokens: list[int], mix: Mix) -> None:
        """Turn to the text of these tokens, from 1 to `largest`, with the adapters of `mix`.
        Raises EngineError, above all when memory is short."""
        llama = library()
        self._make_room(len(tokens))
        memory = llama.llama_get_memory(self._handle)
        if memory:
            llama.llama_memory_clear(memory, True)
        if mix != self._applied:
            self._apply(self._handle, mix)
            self._applied = mix
        self._tokens, self._position = tokens, 0
        self._total = [0.0] * self._width

    def read(self, most: int) -> tuple[float, ...] | None:
        """Read on: `most` tokens where the model allows pieces. What came of the text, a score
        alone where the model ranks, when that was the last of it. Raises EngineError."""
        left = len(self._tokens) - self._position
        count = min(left, most, PIECE) if self._in_pieces else left
        try:
            self._run(self._tokens[self._position : self._position + count], self._position)
            if not self._pools:
                self._add_up(count)
        except EngineError:
            self.leave()
            raise
        self._position += count
        if count < left:
            return None
        self.leave()
        if not self._pools:
            return tuple(value / self._position for value in self._total)
        return self._states(library().llama_get_embeddings_seq(self._handle, 0), self._width)

    def leave(self) -> None:
        """Give up what is left of the text."""
        self._tokens = []

    def rest(self) -> None:
        """Release the native context if memory is short, unless it reads."""
        if not self.reading and read_hardware().memory_available < self._reserved + 2 * _MARGIN:
            self.free()

    def free(self) -> None:
        """Release the native context."""
        self.leave()
        if self._handle:
            library().llama_free(self._handle)
            self._handle = None
            self._size = 0

    def _add_up(self, count: int) -> None:
        numbers = count * self._width
        states = self._states(library().llama_get_embeddings(self._handle), numbers)
        for row in range(0, numbers, self._width):
            self._total = list(map(operator.add, self._total, states[row : row + self._width]))

    def _run(self, tokens: list[int], position: int) -> None:
        """Run the model over tokens that begin at `position`."""
        llama = library()
        batch = llama.llama_batch_init(len(tokens), 0, 1)
        try:
            for index, token in enumerate(tokens):
                batch.token[index] = token
                batch.pos[index] = position + index
                batch.n_seq_id[index] = 1
                batch.seq_id[index][0] = 0
                batch.logits[index] = True
            batch.n_tokens = len(tokens)
            run = llama.llama_encode if self._encodes else llama.llama_decode
            code = int(run(self._handle, batch))
        finally:
            llama.llama_batch_free(batch)
        if code != 0:
            raise EngineError(f"llama.cpp failed to embed (code {code})")

    @property
    def _encodes(self) -> bool:
        return bool(library().llama_model_has_encoder(self._model.handle))

    def _states(self, values: Any, count: int) -> tuple[float, ...]:
        if not values:
            raise EngineError("llama.cpp gave no embedding")
        return tuple((ctypes.c_float * count).from_address(ctypes.addressof(values.contents)))

    def _make_room(self, tokens: int) -> None:
        """Have a context that takes so many tokens. Raises EngineError when memory is short."""
        if tokens <= self._size:
            return
        self.free()
        size = min(self.largest, next(size for size in _SIZES if size >= tokens))
        self._make(size, tokens)
        if self._in_pieces and not self._remembers():
            # Only a context tells. One for pieces would read the next without the one before it.
            self._in_pieces = False
            self.free()
            self._make(size, tokens)

    def _make(self, size: int, tokens: int) -> None:
        needed = self._memory_for(size)
        available = max(0, read_hardware().memory_available - self._reserved)
        if needed + _MARGIN > available:
            raise EngineError(
                f"a text of {tokens:,} tokens takes about {needed / 1e6:,.0f} MB of memory to "
                f"embed, and {available / 1e6:,.0f} MB are free",
                "Split it, or start with a smaller --context",
            )
        llama = library()
        parameters = llama.llama_context_default_params()
        parameters.n_ctx = size
        parameters.n_batch = parameters.n_ubatch = self._step(size)
        parameters.n_seq_max = 1
        parameters.n_threads = parameters.n_threads_batch = self._threads
        parameters.embeddings = True
        parameters.no_perf = True
        parameters.pooling_type = _POOLING_UNSPECIFIED if self._pools else _POOLING_NONE
        recent_problems()
        self._handle = llama.llama_init_from_model(self._model.handle, parameters)
        if not self._handle:
            reason = "; ".join(recent_problems()[-2:]) or "llama.cpp gave no reason"
            raise EngineError(f"a context for embeddings can't be made: {reason}")
        self._size = size
        self._applied = ()

    def _remembers(self) -> bool:
        """Whether what is read depends on nothing behind it, and all before it is kept."""
        llama = library()
        ahead = self._encodes or not llama.llama_get_causal_attn(self._handle)
        return not ahead and bool(llama.llama_get_memory(self._handle))

    def _step(self, size: int) -> int:
        """Tokens that are read at once in a context of `size`, at most."""
        return min(size, PIECE) if self._in_pieces else size

    def _memory_for(self, size: int) -> int:
        """Bytes that a context of `size` tokens takes when it works, about: its cache, and for
        the tokens of a step what they see of each other, what follows each, and their states."""
        model = self._model
        heads = int(library().llama_model_n_head(model.handle))
        numbers = size * heads + model.vocabulary_size + 24 * _width(model)
        return size * model.state_bytes_per_token() + self._step(size) * numbers * 4


def _width(model: Model) -> int:
    """Numbers in a state."""
    return int(library().llama_model_n_embd_out(model.handle))
