"""A loaded model: weights mapped from where they lie, vocabulary, metadata."""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from runtime_stub.engine.errors import TooLongError
from runtime_stub.engine.heap import give_back_freed
from runtime_stub.engine.kv import DEFAULT as DEFAULT_KV
from runtime_stub.engine.kv import KV_TYPES
from runtime_stub.engine.library import library, native, quietly, recent_problems
from runtime_stub.engine.messages import ModelSource
from runtime_stub.errors import EngineError, PackChangedError

_LOAD_MODE_MMAP = 1
_LONG = 256 << 10
"""Bytes of a text that took much memory to tokenise."""
_USUAL = 8
"""Bytes a token: shorter texts are tokenised without a look at the vocabulary."""
_POOLING_RANK = 4
_SOON = 512 << 20
"""Bytes of a model that is loaded before anybody could wish to be told how far it is."""


class Model:
    """Handle to a llama.cpp model. Reading the vocabulary is safe from any thread."""

    def __init__(self, handle: Any, *, is_copied: bool = False) -> None:
        """`is_copied` is whether weights are beside the mapped ones once more."""
        llama = library()
        self.handle = handle
        self.vocabulary = llama.llama_model_get_vocab(handle)
        self.vocabulary_size = int(llama.llama_vocab_n_tokens(self.vocabulary))
        self.trained_context = int(llama.llama_model_n_ctx_train(handle))
        self.size = int(llama.llama_model_size(handle))
        self.memory = self.size * (2 if is_copied else 1)
        """Bytes that its weights take."""
        self.parameters = int(llama.llama_model_n_params(handle))
        self.window = int(llama.llama_model_n_swa(handle))
        """Tokens that a sliding window keeps; 0 without one."""
        self.cuttable = not (
            llama.llama_model_is_recurrent(handle) or llama.llama_model_is_hybrid(handle)
        )
        """Whether what it has read can be cut anywhere. Recurrent memory stands at its end alone:
        going back takes a state that was saved there."""
        self.forgiving = self.cuttable and self.window == 0
        """Whether tokens can be taken back at any time."""
        self._pieces: dict[int, bytes] = {}
        self._ends: dict[int, bool] = {}
        self.adds_bos = bool(llama.llama_vocab_get_add_bos(self.vocabulary))
        self.bos = self._special_text(llama.llama_vocab_bos(self.vocabulary))
        self.eos = self._special_text(llama.llama_vocab_eos(self.vocabulary))

    def tokenize(
        self, text: str, *, special: bool, add_bos: bool, most: int | None = None
    ) -> list[int]:
        """Tokens of `text`. `special` reads control tokens written out in it.

        Raises TooLongError for a text that `most` tokens can't stand for: tokenising takes a
        hundred bytes of memory for each of the text's.
        """
        raw = text.encode("utf-8", "replace")
        if most is not None and len(raw) > most * _USUAL and len(raw) > most * self.longest_piece:
            raise TooLongError(
                f"the prompt is {len(raw):,} bytes long, more than {most:,} tokens can stand for",
                "Shorten it, or start with a larger --context",
            )
        room = len(raw) + 8
        while True:
            tokens = (ctypes.c_int32 * room)()
            count = library().llama_tokenize(
                self.vocabulary, raw, len(raw), tokens, room, add_bos, special
            )
            if count >= 0:
                found = list(tokens[:count])
                if len(raw) > _LONG:
                    del tokens
                    give_back_freed()
                return found
            if -count <= room:
                raise EngineError("llama.cpp can't tokenise the text")
            room = -count

    @functools.cached_property
    def longest_piece(self) -> int:
        """The bytes that a token stands for at most. Takes a while, the first time."""
        pieces = (self.piece(token, special=True) for token in range(self.vocabulary_size))
        return max(map(len, pieces), default=1)

    def piece(self, token: int, *, special: bool = False) -> bytes:
        """The bytes that `token` stands for; control tokens stand for none, unless `special`
        tokens are to be shown as they are written."""
        if special:
            return self._piece(token, special=True)
        # Asked for each token that is generated: a call into llama.cpp takes ten times as long.
        piece = self._pieces.get(token)
        if piece is None:
            piece = self._pieces[token] = self._piece(token, special=False)
        return piece

    def control_token(self, text: str) -> int | None:
        """The one token that `text` is written for, None if it takes several."""
        tokens = self.tokenize(text, special=True, add_bos=False)
        return tokens[0] if len(tokens) == 1 else None

    def ends_generation(self, token: int) -> bool:
        """Whether the model says with `token` that it has finished."""
        ends = self._ends.get(token)
        if ends is None:
            ends = self._ends[token] = bool(library().llama_vocab_is_eog(self.vocabulary, token))
        return ends

    def __contains__(self, token: int) -> bool:
        """Whether it knows that token."""
        return 0 <= token < self.vocabulary_size

    def metadata(self, key: str) -> str:
        """A metadata value as text, empty when the model has none."""
        room = 4096
        buffer = ctypes.create_string_buffer(room)
        length = library().llama_model_meta_val_str(self.handle, key.encode(), buffer, room)
        if length >= room:
            buffer = ctypes.create_string_buffer(length + 1)
            library().llama_model_meta_val_str(self.handle, key.encode(), buffer, length + 1)
        return buffer.value.decode(errors="replace") if length >= 0 else ""

    def description(self) -> str:
        """Architecture, size class and quantization in a few words."""
        buffer = ctypes.create_string_buffer(256)
        library().llama_model_desc(self.handle, buffer, len(buffer))
        return buffer.value.decode(errors="replace")

    def template(self) -> str | None:
        """The chat template that came with the model."""
        text = library().llama_model_chat_template(self.handle, None)
        return text.decode(errors="replace") if text else None

    def state_bytes_per_token(self, kv: str = DEFAULT_KV) -> int:
        """Bytes of keys and values, kept as `kv`, that one token of context costs, at most."""
        llama = library()
        layers = int(llama.llama_model_n_layer(self.handle))
        key_value_heads = int(llama.llama_model_n_head_kv(self.handle))
        return KV_TYPES[kv].bytes_of(layers * key_value_heads * sum(self.head_lengths()))

    def head_lengths(self) -> tuple[int, int]:
        """Numbers in a head's key and value."""
        llama = library()
        heads = max(1, int(llama.llama_model_n_head(self.handle)))
        usual = int(llama.llama_model_n_embd(self.handle)) // heads
        architecture = self.metadata("general.architecture")
        keys = self.metadata(f"{architecture}.attention.key_length")
        values = self.metadata(f"{architecture}.attention.value_length")
        return int(keys) if keys.isdigit() else usual, int(values) if values.isdigit() else usual

    def stated_pooling(self, of: str = "") -> int:
        """llama.cpp's number for how the model says its states are pooled, or those `of`
        "classifier."; -1 if it does not."""
        text = self.metadata(f"{self.metadata('general.architecture')}.{of}pooling_type")
        return int(text) if text.isdigit() else -1

    def can_rerank(self) -> bool:
        """Whether it scores documents against a query."""
        return self.stated_pooling() == _POOLING_RANK

    def free(self) -> None:
        """Unmap the weights; contexts of the model must be gone."""
        if self.handle:
            library().llama_model_free(self.handle)
            self.handle = None

    def _special_text(self, token: int) -> str:
        return self._piece(token, special=True).decode(errors="replace") if token >= 0 else ""

    def _piece(self, token: int, *, special: bool) -> bytes:
        room = 64
        buffer = ctypes.create_string_buffer(room)
        length = library().llama_token_to_piece(self.vocabulary, token, buffer, room, 0, special)
        if length < 0:
            room = -length
            buffer = ctypes.create_string_buffer(room)
            length = library().llama_token_to_piece(
                self.vocabulary, token, buffer, room, 0, special
            )
        return buffer.raw[: max(0, length)]


def end_on_bus_error(line: str) -> None:
    """Print `line` and end the process when a mapped file turns out to have been cut short.

    The kernel says so with a signal in the middle of native code: there is no way back.
    """
    install = native("satchel_on_bus_error")
    if install is not None:
        install(line.encode(errors="replace"), ctypes.c_int(PackChangedError.exit_code))


def load_model(
    source: ModelSource,
    on_progress: Callable[[float], bool],
    *,
    vocabulary_only: bool = False,
    repack: bool = False,
) -> Model:
    """Map the model at `source`, or only read its vocabulary. With `repack`, weights are copied
    into an order of the processor's: beside the mapped ones, which takes their memory again.

    `on_progress` gets the fraction that is loaded and returns whether to go on; it is not asked
    for a small model. Raises EngineError with llama.cpp's own reason when the model can't be
    loaded.
    """
    llama = library()
    parameters = llama.llama_model_default_params()
    parameters.n_gpu_layers = 0
    parameters.vocab_only = vocabulary_only
    parameters.load_mode = _LOAD_MODE_MMAP
    parameters.use_extra_bufts = repack
    # Called for each tensor, and each time it waits for its turn among Python's threads.
    callback = llama.llama_progress_callback(lambda fraction, _: on_progress(fraction))
    if source.length > _SOON:
        parameters.progress_callback = callback
    map_window = native("satchel_map_window")

    def load() -> Any:
        with opened_stream(source) as stream:
            try:
                if map_window is not None:
                    map_window(ctypes.c_uint64(source.offset), ctypes.c_uint64(source.length))
                return llama.llama_model_load_from_file_ptr(stream, parameters)
            finally:
                if map_window is not None:
                    map_window(ctypes.c_uint64(0), ctypes.c_uint64(0))

    handle = quietly(load)
    if not handle:
        reason = "; ".join(recent_problems()[-2:]) or "llama.cpp gave no reason"
        raise EngineError(
            f"the model can't be loaded: {reason}", "If `verify` finds damage, copy the file again"
        )
    return Model(handle, is_copied=repack)


@contextmanager
def opened_stream(source: ModelSource) -> Iterator[ctypes.c_void_p]:
    """A C stream positioned at the GGUF. Raises EngineError."""
    libc = ctypes.CDLL(None)
    libc.fdopen.restype = ctypes.c_void_p
    libc.fdopen.argtypes = [ctypes.c_int, ctypes.c_char_p]
    libc.fseeko.argtypes = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_int]
    libc.fclose.argtypes = [ctypes.c_void_p]
    descriptor = _own_description(source.descriptor)
    stream = libc.fdopen(descriptor, b"rb")
    if not stream:
        os.close(descriptor)
        raise EngineError("the model can't be read from the pack")
    try:
        if libc.fseeko(stream, source.offset, os.SEEK_SET):
            raise EngineError("the model can't be read from the pack")
        yield ctypes.c_void_p(stream)
    finally:
        libc.fclose(stream)


def _own_description(descriptor: int) -> int:
    """The same file opened again: a duplicate would share its position with others."""
    try:
        return os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return os.dup(descriptor)
