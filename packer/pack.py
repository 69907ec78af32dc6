"""Makes a pack: a stub, a model and a recipe in one file."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from packer.adapter import AdapterExamination, examine_adapter
from packer.compress import compressed_share
from packer.copying import Piece
from packer.draft import examine_draft, forgets
from packer.examine import Examination, examine
from packer.merge import Literal, MergePlan
from packer.output import check_destination, require_other, require_space
from packer.prompt_check import check_length
from packer.recipe import ModelFiles, PackingRecipe
from packer.stub import Stub, open_bundle
from packer.template_check import check_template
from packer.tensor_types import parse_tensor_types
from packer.writer import ZSTD_LEVEL, BundleWriter
from runtime_stub.bundle import sidecar_name
from runtime_stub.engine.drafts import ROOM
from runtime_stub.engine.families import reasons
from runtime_stub.engine.kv import DEFAULT as DEFAULT_KV
from runtime_stub.engine.kv import KV_TYPES
from runtime_stub.errors import DamagedError, InputError, OutputError, RecipeError
from runtime_stub.manifest import Entry
from runtime_stub.recipe import ModelRecipe, Recipe
from runtime_stub.verify import check_entry

WORTH_EXTRACTING = 0.85
"""Storage "auto" compresses a model that a sample says shrinks to less than this share."""
WINDOWS_LIMIT = (4 << 30) - 1
"""Windows starts no executable larger than this."""
DRAFT_CONTEXT = 4 * ROOM
"""The context that a draft's need of memory assumes: that of a server, unless it is told."""
MEMORY_CONTEXT = 8192
"""The context that the stated need of memory assumes, unless the recipe names one."""


@dataclass(frozen=True)
class Part:
    """A model or adapter that becomes an entry of the pack."""

    name: str
    """Of the entry."""
    kind: str
    """One of GGUF_KINDS."""
    source: Examination | AdapterExamination
    storage: str
    """One of "mapped", "compressed" or "sidecar"."""
    metadata: dict[str, Any]
    """Facts for the manifest."""
    model: str = ""
    """Name of the entry that an adapter or draft belongs to."""


@dataclass(frozen=True)
class Plan:
    """Everything that is decided before the first byte is written."""

    parts: tuple[Part, ...]
    """At least one model; each before its adapters and its draft."""
    stub: Stub
    recipe: Recipe
    destination: Path
    notes: tuple[str, ...]
    """Things the maker should know, in plain sentences."""

    @property
    def work(self) -> int:
        """Bytes to go through, for progress: every byte is copied and hashed."""
        return 2 * sum(part.source.size for part in self.parts)


@dataclass(frozen=True)
class Warm:
    """A prompt that a model has read, to be packed."""

    data: bytes
    model: str
    """Name of the model's entry."""
    metadata: dict[str, Any]


@dataclass(frozen=True)
class PackedPart:
    """A model or adapter in a pack that was made."""

    name: str
    kind: str
    size: int
    storage: str
    sidecar: str
    """Name of the file beside the pack that it is; empty when it is inside."""


@dataclass(frozen=True)
class Packed:
    """A pack that was made."""

    path: Path
    size: int
    parts: tuple[PackedPart, ...]

    @property
    def model_size(self) -> int:
        """Bytes of all models and adapters."""
        return sum(part.size for part in self.parts)


def plan_pack(destination: Path, packing: PackingRecipe, stub: Stub, *, force: bool) -> Plan:
    """Examine the models and decide everything; writes nothing.

    Raises InputError, FormatError, UnsupportedError, OutputError or PromptError.
    """
    planner = _Planner(stub, destination)
    models = [
        planner.add_model(files, recipe)
        for files, recipe in zip(packing.models, packing.recipe.each_model(), strict=True)
    ]
    require_other(destination, stub.path, "the stub itself")
    check_destination(destination, force=force)
    inside = [part.source.size for part in planner.parts if part.storage != "sidecar"]
    total = stub.size + sum(inside)
    if stub.platform.startswith("windows") and inside and total > WINDOWS_LIMIT:
        raise OutputError(
            f"the pack would be {total / 1e9:.1f} GB, "
            "and Windows starts no program of 4 GiB or more",
            "Use --storage sidecar, which puts the model into a second file beside it",
        )
    recipe = packing.recipe
    if recipe.models:
        written = zip(recipe.models, models, strict=True)
        recipe = replace(
            recipe,
            models=tuple(replace(m, entry=e.entry, adapters=e.adapters) for m, e in written),
        )
    else:
        recipe = replace(recipe, adapters=models[0].adapters)
    return Plan(tuple(planner.parts), stub, recipe, destination, tuple(planner.notes))


class _Planner:
    """Gathers the parts of a pack. What several models share becomes one part."""

    def __init__(self, stub: Stub, destination: Path) -> None:
        self.parts: list[Part] = []
        self.notes: list[str] = []
        self._stub = stub
        self._destination = destination
        self._tensor_types = parse_tensor_types(stub.facts.get("tensor_types", {}))
        self._known: dict[tuple[Path, str, str], Part] = {}

    def add_model(self, files: ModelFiles, recipe: ModelRecipe) -> ModelRecipe:
        """Examine a model and its adapters; returns its recipe with the entries' names."""
        model = examine(
            files.path,
            architectures=self._stub.architectures,
            tensor_types=self._tensor_types,
            context=recipe.context,
            llama_cpp=self._stub.llama_commit,
        )
        self.notes += [note for note in model.notes if note not in self.notes]
        template = recipe.template or model.chat_template
        if template:
            self.notes += check_template(template, recipe.system)
        check_length(recipe.system, recipe.context or model.context_length, model.paths)
        kv = recipe.engine.get("kv", DEFAULT_KV)
        _check_kv(model, kv)
        metadata = model_metadata(model, recipe.context, kv)
        part = self._add("model", model, files.path, files.storage, metadata)
        adapters = []
        for path, adapter in zip(files.adapters, recipe.adapters, strict=True):
            found = examine_adapter(path, model, tensor_types=self._tensor_types)
            metadata = {"name": found.name, "rank": found.rank, "licence": dict(found.licence)}
            entry = self._add("adapter", found, path, "auto", metadata, model=part.name)
            adapters.append(replace(adapter, entry=entry.name))
        if files.draft is not None:
            self._add_draft(files.draft, model, part)
        return replace(recipe, entry=part.name, adapters=tuple(adapters))

    def _add_draft(self, path: Path, model: Examination, part: Part) -> None:
        draft = examine_draft(
            path,
            model,
            architectures=self._stub.architectures,
            tensor_types=self._tensor_types,
            llama_cpp=self._stub.llama_commit,
        )
        if forgets(model):
            self.notes.append(
                f"{model.paths[0]} can't take back what was read, so that nothing can guess for it."
            )
        if draft.size > model.size:
            self.notes.append(
                f"The draft {path} is larger than the model it guesses for: it hardly saves time."
            )
        metadata = model_metadata(draft, DRAFT_CONTEXT, DEFAULT_KV)
        entry = self._add("draft", draft, path, "auto", metadata, model=part.name)
        if any(p.kind == "draft" and p.model == part.name and p is not entry for p in self.parts):
            raise RecipeError(f"{model.paths[0]} has two drafts", "Keep one of them")

    def _add(
        self,
        kind: str,
        source: Examination | AdapterExamination,
        path: Path,
        storage: str,
        metadata: dict[str, Any],
        model: str = "",
    ) -> Part:
        for file in source.plan.parts:
            require_other(self._destination, file, f"the {kind} itself")
        key = (path.resolve(), storage, model)
        if key not in self._known:
            with opened(source.plan) as pieces:
                storage = _storage(storage, source.floating, pieces)
            number = sum(part.kind == kind for part in self.parts) + 1
            name = kind if number == 1 else f"{kind}-{number}"
            self._known[key] = Part(name, kind, source, storage, metadata, model)
            self.parts.append(self._known[key])
        return self._known[key]


def write_pack(
    plan: Plan,
    progress: Callable[[int], None],
    *,
    force: bool,
    warm: Sequence[Warm] = (),
    sign: Callable[[bytes], bytes] | None = None,
) -> Packed:
    """Write the pack beside its destination and rename it, with the prompts that were read for
    it. `progress` counts to `plan.work`, `sign` signs the manifest (see `BundleWriter.finish`).

    Memory stays bounded whatever the model's size. Raises OutputError, SpaceError or
    InputError; nothing is left behind then.
    """
    whole = [part.source.size for part in plan.parts if part.storage != "compressed"]
    if whole:
        require_space(plan.destination, sum(whole) + plan.stub.size + (1 << 20))
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
            entries: dict[str, Entry] = {}
            for part in plan.parts:
                entries[part.name] = _write_part(writer, part, entries, progress)
            for number, prompt in enumerate(warm, start=1):
                writer.add_bytes(
                    "warm" if number == 1 else f"warm-{number}",
                    "warm",
                    prompt.data,
                    metadata=prompt.metadata,
                    requires=(entries[prompt.model].sha256,),
                )
            # Only now, when it is known that the models stayed as they were, is there a pack.
            writer.finish(
                stub={k: v for k, v in plan.stub.facts.items() if k != "contents"},
                name=plan.recipe.name,
                recipe=plan.recipe.document(),
                runtime_size=bundle.footer.runtime_size,
                sign=sign,
            )
    finally:
        os.close(bundle.descriptor)
    return Packed(
        path=plan.destination,
        size=plan.destination.stat().st_size,
        parts=tuple(_packed(part, entries[part.name]) for part in plan.parts),
    )


def _write_part(
    writer: BundleWriter, part: Part, entries: dict[str, Entry], progress: Callable[[int], None]
) -> Entry:
    add = {
        "mapped": writer.add_raw,
        "compressed": writer.add_compressed,
        "sidecar": writer.add_sidecar,
    }[part.storage]
    requires = (entries[part.model].sha256,) if part.model else ()
    with opened(part.source.plan) as pieces:
        return add(
            part.name, part.kind, pieces, progress, metadata=part.metadata, requires=requires
        )


def _packed(part: Part, entry: Entry) -> PackedPart:
    sidecar = "" if entry.file is None else sidecar_name(entry.file)
    return PackedPart(part.name, part.kind, part.source.size, part.storage, sidecar)


def _check_kv(model: Examination, kv: str) -> None:
    block = KV_TYPES[kv].block
    if model.key_length % block or model.value_length % block:
        raise RecipeError(
            f"{model.paths[0]}: its keys and values can't be kept as {kv}: that takes {block} "
            f"numbers together, and its heads have {model.key_length}",
            "Leave kv out, or take f16",
        )


def model_metadata(model: Examination, context: int | None, kv: str = DEFAULT_KV) -> dict[str, Any]:
    """Facts about the model for the manifest; `context` and `kv` are what the recipe asks for."""
    context = context or min(MEMORY_CONTEXT, model.context_length or MEMORY_CONTEXT)
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
        "reasoning": reasons(model.chat_template),
        "embedding": model.kind == "embedding",
        "memory_needed": model.memory_needed(context, kv=kv),
        "memory_context": context,
        "numbers_per_token": model.layers
        * model.heads_kv
        * (model.key_length + model.value_length),
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


def _storage(wanted: str, floating: float, pieces: list[Piece]) -> str:
    """As wanted; "auto" maps quantized weights, which gain next to nothing, and samples others."""
    if wanted != "auto":
        return wanted
    if floating < 0.5 or compressed_share(pieces, ZSTD_LEVEL) > WORTH_EXTRACTING:
        return "mapped"
    return "compressed"
