"""Texts to vectors, and documents to scores: a second context over the same model."""

from __future__ import annotations

import ctypes
import math
from typing import Any

from runtime_stub.engine.library import library, recent_problems
from runtime_stub.engine.model import Model
from runtime_stub.errors import EngineError, PromptError

_POOLING_UNSPECIFIED, _POOLING_NONE, _POOLING_MEAN = -1, 0, 1
_LARGEST_INPUT = 8192
"""Tokens; the whole of an input is read in one batch."""


class Embedder:
    """Owns a context for embeddings. Belongs to a single thread."""

    def __init__(self, model: Model, threads: int) -> None:
        """Raises EngineError when the context can't be made."""
        llama = library()
        self._model = model
        self._tokens = min(model.trained_context or _LARGEST_INPUT, _LARGEST_INPUT)
        parameters = llama.llama_context_default_params()
        parameters.n_ctx = parameters.n_batch = parameters.n_ubatch = self._tokens
        parameters.n_seq_max = 1
        parameters.n_threads = parameters.n_threads_batch = threads
        parameters.embeddings = True
        parameters.no_perf = True
        # A model that says nothing of pooling generates text; the mean of its states serves.
        parameters.pooling_type = (
            _POOLING_UNSPECIFIED if model.stated_pooling() > _POOLING_NONE else _POOLING_MEAN
        )
        recent_problems()
        self._handle: Any = llama.llama_init_from_model(model.handle, parameters)
        if not self._handle:
            reason = "; ".join(recent_problems()[-2:]) or "llama.cpp gave no reason"
            raise EngineError(f"a context for embeddings can't be made: {reason}")
        self._memory = llama.llama_get_memory(self._handle)
        self._width = int(llama.llama_model_n_embd_out(model.handle))

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
        tokens = [
            *model.tokenize(query, special=False, add_bos=True),
            *middle,
            *model.tokenize(document, special=False, add_bos=False),
            *last,
        ]
        vector, count = self._run(tokens, 1)
        return vector[0], count

    def free(self) -> None:
        """Release the context; the object must not be used afterwards."""
        if self._handle:
            library().llama_free(self._handle)
            self._handle = None

    def _tokenise(self, text: str) -> list[int]:
        tokens = self._model.tokenize(text, special=False, add_bos=True)
        if not tokens:
            raise PromptError("there is nothing to embed in an empty text")
        return tokens

    def _run(self, tokens: list[int], width: int) -> tuple[tuple[float, ...], int]:
        llama = library()
        if len(tokens) > self._tokens:
            raise PromptError(
                f"the text has {len(tokens):,} tokens and at most {self._tokens:,} can be embedded",
                "Split it",
            )
        if self._memory:
            llama.llama_memory_clear(self._memory, True)
        batch = llama.llama_batch_init(len(tokens), 0, 1)
        try:
            for index, token in enumerate(tokens):
                batch.token[index] = token
                batch.pos[index] = index
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
        values = llama.llama_get_embeddings_seq(self._handle, 0)
        if not values:
            raise EngineError("llama.cpp gave no embedding")
        found = (ctypes.c_float * width).from_address(ctypes.addressof(values.contents))
        return tuple(found), len(tokens)
