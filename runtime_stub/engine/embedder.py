"""Texts to vectors, and documents to scores: a second context over the same model."""

from __future__ import annotations

import ctypes
import math
import operator
from typing import Any

from runtime_stub.engine.hardware import read_hardware
from runtime_stub.engine.job import Job
from runtime_stub.engine.library import library, recent_problems
from runtime_stub.engine.messages import Embeddings, EmbedRequest, Failed, RerankRequest, Scores
from runtime_stub.engine.model import Model
from runtime_stub.errors import EngineError, PromptError

_POOLING_UNSPECIFIED, _POOLING_NONE = -1, 0
_LARGEST_INPUT = 8192
_STEP = 512
"""Tokens that are read at once where a text may be read in pieces."""
_SIZES = (512, 2048, _LARGEST_INPUT)
"""Contexts to choose from, in tokens: what a text does not need is not held ready."""
_MARGIN = 64 << 20
"""Memory left for everything else, in bytes."""


class Embedder:
    """Owns a context for embeddings. Belongs to a single thread.

    A model that says nothing of pooling generates text, and the mean of its states serves. They
    are added up here, as the text is read in pieces: all at once would take memory that grows
    with the square of its length. Models that pool by themselves need all of a text at once.
    """

    def __init__(self, model: Model, threads: int, reserved: int = 0) -> None:
        """The context is made when the first text comes. So many bytes of what is free are
        `reserved`: others will use them."""
        self._model = model
        self._reserved = reserved
        self._threads = threads
        self._largest = min(model.trained_context or _LARGEST_INPUT, _LARGEST_INPUT)
        self._pools = model.stated_pooling() > _POOLING_NONE
        self._width = int(library().llama_model_n_embd_out(model.handle))
        self._handle: Any = None
        self._size = 0
        """Tokens of the context; 0 for none."""

    def answer(self, job: Job) -> None:
        """Send what an EmbedRequest or a RerankRequest asks for, or why that can't be had."""
        request = job.request
        try:
            if isinstance(request, EmbedRequest):
                vectors = [
                    self.embed(text, normalise=request.normalise)
                    for text in request.texts
                    if not job.cancelled
                ]
                job.send(Embeddings(tuple(v for v, _ in vectors), sum(n for _, n in vectors)))
            elif isinstance(request, RerankRequest):
                scores = [
                    self.score(request.query, document)
                    for document in request.documents
                    if not job.cancelled
                ]
                job.send(Scores(tuple(s for s, _ in scores), sum(n for _, n in scores)))
            self.rest()
        except PromptError as error:
            job.send(Failed("prompt", error.message, error.hint))
        except EngineError as error:
            job.send(Failed("unsupported", error.message, error.hint))

    def embed(self, text: str, *, normalise: bool) -> tuple[tuple[float, ...], int]:
        """The vector of `text` and how many tokens were read. Raises PromptError."""
        vector, count = self._run(self._tokenise(text), self._width)
        if normalise:
            length = math.sqrt(math.fsum(value * value for value in vector)) or 1.0
            vector = tuple(value / length for value in vector)
        return vector, count

    def score(self, query: str, document: str) -> tuple[float, int]:
        """How well `document` answers `query`, and how many tokens were read."""
        model, llama = self._model, library()
        ends = [int(llama.llama_vocab_eos(model.vocabulary))]
        separators = [int(llama.llama_vocab_sep(model.vocabulary))]
        middle = [token for token in (*ends, *separators) if token >= 0]
        last = [token for token in ends if token >= 0]
        most = self._largest
        tokens = [
            *model.tokenize(query, special=False, add_bos=True, most=most),
            *middle,
            *model.tokenize(document, special=False, add_bos=False, most=most),
            *last,
        ]
        vector, count = self._run(tokens, 1)
        return vector[0], count

    def rest(self) -> None:
        """Release the context if memory is short."""
        if read_hardware().memory_available < self._reserved + 2 * _MARGIN:
            self.free()

    def free(self) -> None:
        """Release the context."""
        if self._handle:
            library().llama_free(self._handle)
            self._handle = None
            self._size = 0

    def _tokenise(self, text: str) -> list[int]:
        tokens = self._model.tokenize(text, special=False, add_bos=True, most=self._largest)
        if not tokens:
            raise PromptError("there is nothing to embed in an empty text")
        return tokens

    def _run(self, tokens: list[int], width: int) -> tuple[tuple[float, ...], int]:
        """The pooled state of the tokens, `width` numbers, and how many tokens they are."""
        llama = library()
        if len(tokens) > self._largest:
            raise PromptError(
                f"the text has {len(tokens):,} tokens and at most {self._largest:,} can be "
                "embedded",
                "Split it",
            )
        self._make_room(len(tokens))
        memory = llama.llama_get_memory(self._handle)
        if memory:
            llama.llama_memory_clear(memory, True)
        if self._pools:
            self._read(tokens, 0)
            return self._states(llama.llama_get_embeddings_seq(self._handle, 0), width), len(tokens)
        total = [0.0] * width
        for start in range(0, len(tokens), _STEP):
            piece = tokens[start : start + _STEP]
            self._read(piece, start)
            states = self._states(llama.llama_get_embeddings(self._handle), len(piece) * width)
            for row in range(0, len(states), width):
                total = list(map(operator.add, total, states[row : row + width]))
        return tuple(value / len(tokens) for value in total), len(tokens)

    def _read(self, tokens: list[int], position: int) -> None:
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
            encodes = bool(llama.llama_model_has_encoder(self._model.handle))
            run = llama.llama_encode if encodes else llama.llama_decode
            code = int(run(self._handle, batch))
        finally:
            llama.llama_batch_free(batch)
        if code != 0:
            raise EngineError(f"llama.cpp failed to embed (code {code})")

    def _states(self, values: Any, count: int) -> tuple[float, ...]:
        if not values:
            raise EngineError("llama.cpp gave no embedding")
        return tuple((ctypes.c_float * count).from_address(ctypes.addressof(values.contents)))

    def _make_room(self, tokens: int) -> None:
        """Have a context that takes so many tokens. Raises EngineError when memory is short."""
        if tokens <= self._size:
            return
        self.free()
        size = min(self._largest, next(size for size in _SIZES if size >= tokens))
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
        parameters.n_batch = parameters.n_ubatch = size if self._pools else min(size, _STEP)
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

    def _memory_for(self, size: int) -> int:
        """Bytes that a context of `size` tokens takes when it works, about: its cache, and for
        the tokens of a step what they see of each other, what follows each, and their states."""
        llama, model = library(), self._model
        step = size if self._pools else min(size, _STEP)
        heads = int(llama.llama_model_n_head(model.handle))
        numbers = size * heads + model.vocabulary_size + 24 * self._width
        return size * model.state_bytes_per_token() + step * numbers * 4
