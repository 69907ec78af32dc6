"""The models of a pack, and from their entries to something the engine can load."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from runtime_stub import cache
from runtime_stub.bundle import Bundle
from runtime_stub.engine.messages import AdapterSource, EngineSettings, ModelSource, Sources
from runtime_stub.errors import FormatError, InputError, SatchelError
from runtime_stub.extract import Progress, extract_model
from runtime_stub.locks import use
from runtime_stub.manifest import RAW, Entry
from runtime_stub.recipe import ModelRecipe, Recipe

if TYPE_CHECKING:
    from runtime_stub.engine.prompt_files import PromptFolder

BASE = "base"
"""What stands for a model without adapters, after its name."""
Adapters = tuple[tuple[str, float | None], ...]
"""Names of adapters to answer with, and how strongly; None as each says itself."""


@dataclass(frozen=True)
class PackedModel:
    """A model of the pack, and what holds for it."""

    recipe: ModelRecipe
    entry: Entry
    draft: Entry | None = None
    """The model that guesses ahead for it."""

    @property
    def name(self) -> str:
        """What requests call it."""
        return self.recipe.name


def packed_models(bundle: Bundle, recipe: Recipe) -> tuple[PackedModel, ...]:
    """All models, the default first. Raises FormatError for a stub, which has none."""
    first_model(bundle)
    drafts = {sha256: draft for draft in bundle.of_kind("draft") for sha256 in draft.requires}
    entries = [(model, bundle.entry(model.entry)) for model in recipe.each_model()]
    return tuple(PackedModel(model, entry, drafts.get(entry.sha256)) for model, entry in entries)


def choose(
    models: tuple[PackedModel, ...], name: str | None
) -> tuple[PackedModel, Adapters | None]:
    """The model that `name` means, and the adapters if it names them; the first for None.

    Raises InputError that lists those there are.
    """
    if name is None:
        return models[0], None
    known = []
    for model in models:
        known.append(model.name)
        if name == model.name:
            return model, None
        for adapted, adapters in adapted_names(model):
            known.append(adapted)
            if name == adapted:
                return model, adapters
    raise InputError(f"there is no model {name!r} here", f"Known: {', '.join(known)}")


def adapted_names(model: PackedModel) -> list[tuple[str, Adapters]]:
    """Further names of a model, with the adapters that each means: one for each adapter, and
    "MODEL:base" for none where some always work."""
    adapters = model.recipe.adapters
    names: list[tuple[str, Adapters]] = []
    if any(adapter.apply == "always" for adapter in adapters):
        names.append((f"{model.name}:{BASE}", ()))
    return names + [(f"{model.name}:{a.name}", ((a.name, None),)) for a in adapters]


def first_model(bundle: Bundle) -> Entry:
    """The pack's first model; raises FormatError for a stub, which has none."""
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
    """Where to read a model or adapter from: the pack itself, or the cache after extracting it
    there.

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


def find_sources(
    bundle: Bundle,
    model: PackedModel,
    *,
    on_start: Callable[[int], Progress],
    on_wait: Callable[[], None],
    drafts: bool = True,
) -> Sources:
    """Where to read a model and all that belongs to it from, as for `model_source`; without
    `drafts` all but its draft."""

    def source(entry: Entry) -> ModelSource:
        return model_source(bundle, entry, on_start=on_start, on_wait=on_wait)

    return Sources(
        source(model.entry),
        tuple(
            AdapterSource(
                adapter.name,
                source(bundle.entry(adapter.entry)),
                adapter.scale,
                adapter.apply == "always",
            )
            for adapter in model.recipe.adapters
        ),
        warm_sources(bundle, model),
        None if model.draft is None or not drafts else source(model.draft),
    )


def as_fractions(on_progress: Callable[[float], None]) -> Callable[[int], Progress]:
    """An `on_start` that tells how far it is, from 0 to 1."""

    def on_start(size: int) -> Progress:
        done = 0

        def count(more: int) -> None:
            nonlocal done
            done += more
            on_progress(done / size)

        return count

    return on_start


def warm_sources(bundle: Bundle, model: PackedModel) -> tuple[ModelSource, ...]:
    """The prompts that the model has read already, where they were made with this runtime."""
    ours = bundle.manifest.stub.get("llama_cpp", {}).get("commit")
    return tuple(
        ModelSource(bundle.descriptor_of(entry), entry.offset, entry.length, bundle.path.name)
        for entry in bundle.of_kind("warm")
        if model.entry.sha256 in entry.requires
        and entry.codec == RAW
        and entry.metadata.get("llama_cpp") == ours
    )


def kept_prompts(
    bundle: Bundle, model: PackedModel, settings: EngineSettings
) -> PromptFolder | None:
    """Where the prompts that `model` reads are kept; None where none are, or can be."""
    if not settings.prompt_cache:
        return None
    from runtime_stub.engine.prompt_files import PromptFolder

    fits = (
        model.entry.sha256,
        bundle.footer.runtime_sha256.hex(),
        # None and True are the same: where the model allows it.
        settings.flash_attention is not False,
        settings.kv,
        [(a.name, bundle.entry(a.entry).sha256) for a in model.recipe.adapters],
    )
    binding = hashlib.sha256(json.dumps(fits).encode()).digest()
    try:
        folder = cache.prompt_folder(roots(bundle))
    except SatchelError:
        return None
    return PromptFolder(folder, settings.prompt_cache, binding)


def roots(bundle: Bundle) -> list[Path]:
    """The cache folders that matter for this pack, best first."""
    return cache.candidates(bundle.path)
