"""Makes a pack: a stub, a model and a recipe in one file."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packer.compress import compressed_share
from packer.copying import Piece
from packer.examine import Examination, examine
from packer.merge import Literal, MergePlan
from packer.output import check_destination, require_other, require_space
from packer.recipe import PackingRecipe
from packer.stub import Stub, open_bundle
from packer.template_check import check_template
from packer.tensor_types import parse_tensor_types
from packer.writer import ZSTD_LEVEL, BundleWriter
from runtime_stub.bundle import sidecar_name
from runtime_stub.errors import DamagedError, InputError, OutputError
from runtime_stub.recipe import Recipe
from runtime_stub.verify import check_entry

WORTH_EXTRACTING = 0.85
"""Storage "auto" compresses a model that a sample says shrinks to less than this share."""
WINDOWS_LIMIT = (4 << 30) - 1
"""Windows starts no executable larger than this."""
MEMORY_CONTEXT = 8192
"""The context that the stated need of memory assumes, unless the recipe names one."""


@dataclass(frozen=True)
class Plan:
    """Everything that is decided before the first byte is written."""

    model: Examination
    stub: Stub
    recipe: Recipe
    destination: Path
    storage: str
    """One of "mapped", "compressed" or "sidecar"."""
    notes: tuple[str, ...]
    """Things the maker should know, in plain sentences."""

    @property
    def work(self) -> int:
        """Bytes to go through, for progress: every byte is copied and hashed."""
        return 2 * self.model.size


@dataclass(frozen=True)
class Packed:
    """A pack that was made."""

    path: Path
    size: int
    model_size: int
    storage: str
    sidecar: str
    """File name of the model beside it; empty when it is inside."""


def plan_pack(
    model: Path, destination: Path, packing: PackingRecipe, stub: Stub, *, force: bool
) -> Plan:
    """Examine the model and decide everything; writes nothing.

    Raises InputError, FormatError, UnsupportedError, OutputError or PromptError.
    """
    recipe = packing.recipe
    examination = examine(
        model,
        architectures=stub.architectures,
        tensor_types=parse_tensor_types(stub.facts.get("tensor_types", {})),
        context=recipe.context,
        llama_cpp=stub.llama_commit,
    )
    for source in examination.paths:
        require_other(destination, source, "the model itself")
    require_other(destination, stub.path, "the stub itself")
    check_destination(destination, force=force)
    notes = list(examination.notes)
    template = recipe.template or examination.chat_template
    if template:
        notes += check_template(template, recipe.system)
    with opened(examination.plan) as pieces:
        storage = _storage(packing.storage, examination, pieces)
    total = stub.size + examination.size
    if stub.platform.startswith("windows") and storage != "sidecar" and total > WINDOWS_LIMIT:
        raise OutputError(
            f"the pack would be {total / 1e9:.1f} GB, "
            "and Windows starts no program of 4 GiB or more",
            "Use --storage sidecar, which puts the model into a second file beside it",
        )
    return Plan(examination, stub, recipe, destination, storage, tuple(notes))


def write_pack(plan: Plan, progress: Callable[[int], None], *, force: bool) -> Packed:
    """Write the pack beside its destination and rename it. `progress` counts to `plan.work`.

    Memory stays bounded whatever the model's size. Raises OutputError, SpaceError or
    InputError; nothing is left behind then.
    """
    if plan.storage != "compressed":
        require_space(plan.destination, plan.model.size + plan.stub.size + (1 << 20))
    bundle = open_bundle(plan.stub.path)
    try:
        with BundleWriter(plan.destination, force=force) as writer:
            for name in ("launcher", "runtime"):
                entry = bundle.entry(name)
                if check_entry(bundle, entry, lambda _: None).problem:
                    raise DamagedError(
                        f"the stub {plan.stub.path} is damaged: {name}", "Build or add it again"
                    )
                writer.add_bytes(
                    name,
                    entry.kind,
                    bundle.read(entry),
                    codec=entry.codec,
                    size=entry.size,
                    sha256=entry.sha256,
                )
            add = {
                "mapped": writer.add_raw,
                "compressed": writer.add_compressed,
                "sidecar": writer.add_sidecar,
            }[plan.storage]
            with opened(plan.model.plan) as pieces:
                model = add("model", "model", pieces, progress, metadata=model_metadata(plan))
            # Only now, when it is known that the model stayed as it was, is there a pack.
            writer.finish(
                stub={k: v for k, v in plan.stub.facts.items() if k != "contents"},
                name=plan.recipe.name,
                recipe=plan.recipe.document(),
                runtime_size=bundle.footer.runtime_size,
            )
    finally:
        os.close(bundle.descriptor)
    return Packed(
        path=plan.destination,
        size=plan.destination.stat().st_size,
        model_size=plan.model.size,
        storage=plan.storage,
        sidecar="" if model.file is None else sidecar_name(model.file),
    )


def model_metadata(plan: Plan) -> dict[str, Any]:
    """Facts about the model for the manifest."""
    model = plan.model
    context = plan.recipe.context or min(MEMORY_CONTEXT, model.context_length or MEMORY_CONTEXT)
    return {
        "architecture": model.architecture,
        "name": model.name,
        "quantization": model.quantization,
        "parameters": model.parameters,
        "context_length": model.context_length,
        "embedding_length": model.embedding_length,
        "layers": model.layers,
        "vocabulary": model.vocabulary,
        "chat_template": model.has_chat_template,
        "memory_needed": model.memory_needed(context),
        "memory_context": context,
        "parts": len(model.paths),
        "licence": dict(model.licence),
    }


@contextmanager
def opened(merge: MergePlan) -> Iterator[list[Piece]]:
    """The model's pieces, with their files open. Raises InputError when one changed in size
    or time while it was in use."""
    with ExitStack() as stack:
        descriptors: dict[Path, int] = {}
        before: dict[Path, tuple[int, int]] = {}
        pieces = []
        for piece in merge.pieces:
            if isinstance(piece, Literal):
                pieces.append(Piece(piece.length, literal=piece.data))
                continue
            if piece.path not in descriptors:
                descriptors[piece.path] = _open(piece.path, stack)
                before[piece.path] = _state(descriptors[piece.path])
            pieces.append(
                Piece(piece.length, descriptors[piece.path], piece.offset, path=piece.path)
            )
        yield pieces
        for path, descriptor in descriptors.items():
            if _state(descriptor) != before[path]:
                raise InputError(f"{path} was changed while it was read", "Try again")


def _open(path: Path, stack: ExitStack) -> int:
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
    except OSError as error:
        raise InputError(f"{path} can't be read: {error.strerror}") from None
    stack.callback(os.close, descriptor)
    return descriptor


def _state(descriptor: int) -> tuple[int, int]:
    facts = os.fstat(descriptor)
    return facts.st_size, facts.st_mtime_ns


def _storage(wanted: str, model: Examination, pieces: list[Piece]) -> str:
    """As wanted; "auto" maps quantized weights, which gain next to nothing, and samples others."""
    if wanted != "auto":
        return wanted
    if model.storage_gain_kinds < 0.5 or compressed_share(pieces, ZSTD_LEVEL) > WORTH_EXTRACTING:
        return "mapped"
    return "compressed"
