"""Small stubs and packs built in code: a launcher and a runtime that are only bytes, and a model
of a few kilobytes. They are sound to every reader, and start nothing."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf_files as g
import zstandard

from packer.pack import Packed, plan_pack, write_pack
from packer.recipe import ModelFiles, PackingRecipe
from packer.stub import Stub, open_bundle, this_platform
from packer.tensor_types import TENSOR_TYPES
from packer.writer import BundleWriter
from runtime_stub import __version__, archive, bundle
from runtime_stub.bundle import Bundle, Footer
from runtime_stub.manifest import ZSTD
from runtime_stub.recipe import Recipe

LAUNCHER = b"\x7fELF and so on\n" * 300
FILES: dict[str, bytes] = {
    "_internal/base_library.zip": bytes(range(256)) * 8,
    "licenses/index.json": b"[]",
    "satchel-runtime": b"\x7fELF" * 500,
}
FACTS: dict[str, Any] = {
    "platform": this_platform(),
    "satchel": __version__,
    "llama_cpp": {"commit": "abc1234", "python": "0.3.36"},
    "architectures": ["gemma3", "llama", "qwen2"],
    "tensor_types": {
        str(number): {"name": kind.name, "block": kind.block, "size": kind.size}
        for number, kind in TENSOR_TYPES.items()
    },
    "contents": {"Python": 1},
}
NO_TEMPLATE = ("tokenizer.chat_template",)
"""Leave this key out of a model to pack it without starting a child to try the template."""


def nothing(_count: int) -> None:
    """A progress function."""


def nothing2(_done: int, _total: int) -> None:
    """A progress function that is told how much there is."""


def write_stub(
    path: Path, *, facts: Mapping[str, Any] | None = None, launcher: bytes = LAUNCHER
) -> Path:
    """A stub at `path`; `facts` replace some of FACTS."""
    members = [archive.Member(name, len(data), 0o644) for name, data in sorted(FILES.items())]
    plain = archive.pack_index(members) + b"".join(data for _, data in sorted(FILES.items()))
    stored = zstandard.ZstdCompressor(level=1).compress(plain)
    with BundleWriter(path, force=True) as writer:
        writer.add_bytes("launcher", "launcher", launcher)
        writer.add_bytes(
            "runtime",
            "runtime",
            stored,
            codec=ZSTD,
            size=len(plain),
            sha256=hashlib.sha256(plain).hexdigest(),
        )
        writer.finish(
            stub={**FACTS, **(facts or {})},
            runtime_size=sum(map(len, FILES.values())),
        )
    return path


def model(path: Path, *, rows: int = 96, kind: int = g.TYPE_Q4_1) -> Path:
    """A model without a chat template, of about `rows` × 64 elements of one type."""
    tensors = (
        g.TensorInfo("token_embd.weight", (64, rows), kind),
        g.TensorInfo("output_norm.weight", (64,), g.TYPE_F32),
    )
    return g.model(without=NO_TEMPLATE, tensors=tensors).write(path)


def adapter(path: Path, *, rows: int = 96, rank: int = 4) -> Path:
    """A LoRA adapter for `model` with as many rows."""
    metadata = {
        "general.architecture": g.Typed(g.STRING, "llama"),
        "general.type": g.Typed(g.STRING, "adapter"),
        "general.name": g.Typed(g.STRING, "Tiny adapter"),
        "adapter.type": g.Typed(g.STRING, "lora"),
        "adapter.lora.alpha": g.Typed(g.F32, 8.0),
    }
    tensors = (
        g.TensorInfo("token_embd.weight.lora_a", (rank, rows)),
        g.TensorInfo("token_embd.weight.lora_b", (rank, 64)),
    )
    return g.Gguf(metadata, tensors).write(path)


def noise(size: int) -> bytes:
    """Bytes that do not compress, the same each time."""
    count = -(-size // 32)
    return b"".join(hashlib.sha256(b"%d" % number).digest() for number in range(count))[:size]


def packing(source: Path, storage: str = "mapped", **recipe: Any) -> PackingRecipe:
    """How to pack one model: only the storage matters to most tests."""
    return PackingRecipe(Recipe(**{"name": "tiny", **recipe}), (ModelFiles(source, storage),), None)


def pack(
    source: Path,
    destination: Path,
    stub: Stub,
    storage: str = "mapped",
    *,
    force: bool = False,
    progress: Callable[[int], None] = nothing,
    **recipe: Any,
) -> Packed:
    """Plan and write a pack."""
    plan = plan_pack(destination, packing(source, storage, **recipe), stub, force=force)
    return write_pack(plan, progress, force=force)


@contextmanager
def opened(path: Path) -> Iterator[Bundle]:
    """The bundle at `path`, its descriptor closed in the end."""
    found = open_bundle(path)
    try:
        yield found
    finally:
        os.close(found.descriptor)


def flip(path: Path, offset: int) -> None:
    """Change one byte."""
    with path.open("r+b") as file:
        file.seek(offset)
        value = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([value ^ 0x40]))


def rewrite_manifest(path: Path, change: Callable[[Any], None]) -> Path:
    """Change the manifest's JSON and seal it again, as another version or an enemy might."""
    data = path.read_bytes()
    footer = Footer.unpack(data[-bundle.FOOTER_SIZE :])
    document = json.loads(data[footer.manifest_offset :][: footer.manifest_length])
    change(document)
    manifest = json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
    end = footer.manifest_offset + len(manifest) + bundle.FOOTER_SIZE
    sealed = replace(
        footer,
        pack_size=end,
        manifest_length=len(manifest),
        manifest_sha256=hashlib.sha256(manifest).digest(),
    )
    path.write_bytes(data[: footer.manifest_offset] + manifest + sealed.pack())
    return path


def change_entry(path: Path, name: str, **fields: Any) -> Path:
    """Give some fields of an entry other values."""

    def change(document: Any) -> None:
        for entry in document["entries"]:
            if entry["name"] == name:
                entry.update(fields)

    return rewrite_manifest(path, change)


def files_in(folder: Path) -> set[str]:
    """Names of everything in a folder, to see that nothing was left behind."""
    return {path.name for path in folder.iterdir()}
