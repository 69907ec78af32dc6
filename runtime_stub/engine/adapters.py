"""LoRA adapters: changes to a model's weights that a request may choose."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

from runtime_stub.engine.library import library, recent_problems
from runtime_stub.engine.messages import AdapterSource, Mix
from runtime_stub.engine.model import Model, opened_stream
from runtime_stub.errors import EngineError, PromptError


class Adapters:
    """The adapters of one model, in memory. Belongs to the thread that owns the context, but for
    `mix`."""

    def __init__(self, model: Model, sources: Sequence[AdapterSource]) -> None:
        """Read them. Raises EngineError with llama.cpp's reason for one that does not fit."""
        self._sources = {source.name: source for source in sources}
        self._handles: dict[str, Any] = {}
        for source in sources:
            recent_problems()
            with opened_stream(source.source) as stream:
                handle = library().llama_adapter_lora_init_from_file_ptr(model.handle, stream)
            if not handle:
                reason = "; ".join(recent_problems()[-2:]) or "llama.cpp gave no reason"
                raise EngineError(f"the adapter {source.name!r} can't be loaded: {reason}")
            self._handles[source.name] = handle

    def mix(self, chosen: Sequence[tuple[str, float | None]] | None) -> Mix:
        """What a request chose, None for nothing said, as it is applied.

        Raises PromptError for an adapter there is not.
        """
        if chosen is None:
            chosen = [(name, None) for name, source in self._sources.items() if source.always]
        scales: dict[str, float] = {}
        for name, scale in chosen:
            if name not in self._sources:
                known = ", ".join(self._sources) or "none"
                raise PromptError(f"there is no adapter {name!r}; known: {known}")
            scales[name] = self._sources[name].scale if scale is None else scale
        return tuple((name, scale) for name, scale in sorted(scales.items()) if scale)

    def apply(self, context: Any, mix: Mix) -> None:
        """Let a native context compute with `mix` from now on. Raises EngineError."""
        room = max(1, len(mix))
        handles = (library().llama_adapter_lora_p_ctypes * room)()
        scales = (ctypes.c_float * room)()
        for index, (name, scale) in enumerate(mix):
            handles[index], scales[index] = self._handles[name], scale
        if library().llama_set_adapters_lora(context, handles, len(mix), scales):
            raise EngineError("llama.cpp can't apply the adapters")
