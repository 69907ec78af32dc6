"""From a bundle's model entry to something the engine can load."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

from runtime_stub import cache
from runtime_stub.bundle import Bundle
from runtime_stub.engine.messages import ModelSource
from runtime_stub.errors import FormatError
from runtime_stub.extract import Progress, extract_model
from runtime_stub.locks import use
from runtime_stub.manifest import RAW, Entry


def first_model(bundle: Bundle) -> Entry:
    """The pack's model; raises FormatError for a stub, which has none."""
    models = bundle.of_kind("model")
    if not models:
        raise FormatError(
            f"{bundle.path.name} is a stub: a runtime without a model",
            "Make a pack of it with `satchel pack MODEL.gguf -o OUT`",
        )
    return models[0]


def model_source(
    bundle: Bundle,
    entry: Entry,
    *,
    on_start: Callable[[int], Progress],
    on_wait: Callable[[], None],
) -> ModelSource:
    """Where to map the model from: the pack itself, or the cache after extracting it there.

    `on_start` and `on_wait` are as for `extract.extract_model`.
    """
    if entry.codec == RAW:
        descriptor = bundle.descriptor_of(entry)
        return ModelSource(descriptor, entry.offset, entry.length, bundle.path.name)
    while True:
        path = extract_model(bundle, entry, roots(bundle), on_start=on_start, on_wait=on_wait)
        with contextlib.suppress(FileNotFoundError):
            descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
            if use(path, descriptor):
                return ModelSource(descriptor, 0, entry.size, bundle.path.name)
            os.close(descriptor)  # somebody cleared the cache just now


def roots(bundle: Bundle) -> list[Path]:
    """The cache folders that matter for this pack, best first."""
    return cache.candidates(bundle.path)
