"""How the models of a pack would run on this machine, told without loading them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from runtime_stub.console import bytes_text
from runtime_stub.engine.context import (
    DEFAULT_CONTEXT,
    MEMORY_IS_SHORT,
    choose_context,
    smaller,
)
from runtime_stub.engine.hardware import Hardware
from runtime_stub.engine.kv import DEFAULT as DEFAULT_KV
from runtime_stub.engine.kv import KV_TYPES
from runtime_stub.engine.messages import EngineSettings
from runtime_stub.engine.profile import Measured, Profile, Shelf, applied
from runtime_stub.errors import EngineError
from runtime_stub.manifest import Entry
from runtime_stub.models import PackedModel
from runtime_stub.tuning.show import summary


@dataclass(frozen=True)
class Forecast:
    """What chat and serve would do with a model now, if no option says otherwise."""

    model: str
    kv: str
    context: int
    """Tokens; 0 where it would not start."""
    context_reason: str
    context_bytes: int
    """Memory for its keys and values."""
    problem: str = ""
    """Why it would not start."""
    measured: Measured | None = None
    """What is known of this machine."""
    warning: str = ""
    """What it starts with, but not as it should."""


@dataclass(frozen=True)
class _Stated:
    """A model as the manifest describes it."""

    entry: Entry
    is_copied: bool
    """Whether llama.cpp makes repacked weights of the mapped ones, and keeps both."""

    @property
    def memory(self) -> int:
        return self.entry.size * (2 if self.is_copied else 1)

    @property
    def trained_context(self) -> int:
        return int(self.entry.metadata.get("context_length", 0))

    def state_bytes_per_token(self, kv: str = DEFAULT_KV) -> int:
        return KV_TYPES[kv].bytes_of(int(self.entry.metadata["numbers_per_token"]))


def forecast(
    model: PackedModel, hardware: Hardware, shelf: Shelf, settings: EngineSettings | None = None
) -> Forecast | None:
    """How `model` would run with `settings`, without them as the recipe says; None where the
    pack does not say enough about it."""
    if "numbers_per_token" not in model.entry.metadata:
        return None
    if settings is None:
        settings = EngineSettings(context=model.recipe.context, **dict(model.recipe.engine))
    measured = shelf.read()
    if measured is not None:
        settings = applied(settings, measured.profile)
    stated = _Stated(model.entry, bool(settings.repack) and not _can_interleave(model.entry))
    if model.draft is not None and model.recipe.drafts is not False:
        taken = int(model.draft.metadata.get("memory_needed", model.draft.size))
        hardware = replace(hardware, memory_available=hardware.memory_available - taken)
    try:
        size = choose_context(stated, settings, hardware)
    except EngineError as error:
        return Forecast(model.name, settings.kv, 0, "", 0, str(error), measured)
    needed = size.tokens * stated.state_bytes_per_token(settings.kv)
    warning = ""
    if size.reason == MEMORY_IS_SHORT:
        usual = min(DEFAULT_CONTEXT, stated.trained_context)
        warning = (
            f"memory is short: {bytes_text(max(0, hardware.memory_available))} are free, so the "
            f"context holds {size.tokens:,} tokens instead of {usual:,}; more would swap. "
            f"Close other programs{smaller(settings)}"
        )
    return Forecast(
        model.name, settings.kv, size.tokens, size.reason, needed, "", measured, warning
    )


def lines(document: dict[str, Any], *, several: bool) -> Iterator[str]:
    """A forecast, as plain data, for people."""
    name = f"{document['model']}: " if several else ""
    if document["problem"]:
        yield f"  context    {name}none: {document['problem']}"
        return
    measured = document["measured"]
    known = "not measured yet: `tune` does it"
    if measured is not None:
        known = summary(Profile(**measured["profile"]))
        if measured["note"]:
            known += f" ({measured['note']})"
    yield f"  profile    {name}{known}"
    megabytes = f"{document['context_bytes'] / 1e6:,.0f} MB as {document['kv']}"
    yield (
        f"  context    {name}{document['context']:,} tokens "
        f"({document['context_reason']}), {megabytes}"
    )
    if document["warning"]:
        yield f"  warning    {name}{document['warning']}"


def _can_interleave(entry: Entry) -> bool:
    from runtime_stub.engine.weights import ARCHITECTURES

    return entry.metadata.get("architecture") in ARCHITECTURES
