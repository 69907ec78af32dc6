"""What the Python readers must withstand, one function a reader.

Each takes any bytes. Expected errors are fine; anything else, too much memory or too much time
is a finding. `fuzz/run.py` runs them under atheris.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from packer.examine import examine
from packer.gguf_reader import parse_header
from runtime_stub import archive, bundle, manifest
from runtime_stub.bundle import FOOTER_SIZE, Footer
from runtime_stub.engine.template import MAX_CHARACTERS, ChatTemplate, Variables
from runtime_stub.errors import SatchelError
from runtime_stub.extract import decode_chunk
from runtime_stub.manifest import Entry
from runtime_stub.recipe import recipe_from
from runtime_stub.verify import verify

_TEMPLATE_SECONDS = 30
_LONGEST_READ = 1 << 20


def footer(data: bytes) -> None:
    """As the end of a file, once as it is and once with a hash that fits."""
    for tail in (data, data[:224] + hashlib.sha256(data[:224]).digest()):
        with _file(tail) as descriptor:
            try:
                found, offset = bundle.find_footer(descriptor)
            except SatchelError:
                continue
            assert found.pack_size == offset + FOOTER_SIZE <= len(tail)
            with contextlib.suppress(SatchelError):
                bundle.read_bundle(descriptor, Path("pack"))


def pack(data: bytes) -> None:
    """As the manifest of a pack that is sealed well: open it, verify it, read all entries."""
    body = bytes(64) + data
    sealed = Footer(
        pack_size=len(body) + FOOTER_SIZE,
        manifest_offset=64,
        manifest_length=len(data),
        manifest_sha256=hashlib.sha256(data).digest(),
        runtime_offset=0,
        runtime_length=1,
        runtime_size=1,
        runtime_sha256=bytes(32),
        launcher_length=0,
    )
    with _file(body + sealed.pack()) as descriptor:
        try:
            opened = bundle.read_bundle(descriptor, Path(tempfile.gettempdir()) / "none" / "pack")
        except SatchelError:
            return
        assert manifest.parse(manifest.serialise(opened.manifest)) == opened.manifest
        _use(opened)


def _use(opened: bundle.Bundle) -> None:
    verify(opened, lambda _: None)
    for entry in opened.manifest.entries:
        with contextlib.suppress(SatchelError):
            for chunk in opened.chunks(entry):
                decode_chunk(opened, entry, chunk)
    with contextlib.suppress(SatchelError):
        recipe_from(opened.manifest.recipe or {}, "the pack's recipe")


def index(data: bytes) -> None:
    """As the index of a runtime."""
    try:
        members = archive.unpack_index(data)
    except SatchelError:
        return
    assert archive.pack_index(members) == data
    for member in members:
        inside = os.path.normpath(Path("/work") / member.path)
        assert inside == f"/work/{member.path}"


def chunks(data: bytes) -> None:
    """As the chunk table of an entry."""
    size = int.from_bytes(data[:4], "little")
    entry = Entry("model", "model", "raw", 0, size, size, "0" * 64, "0" * 64, chunk_size=1 << 22)
    try:
        found = bundle.unpack_chunks(data[4:], entry)
    except SatchelError:
        return
    assert sum(chunk.size for chunk in found) == size


def gguf(data: bytes) -> None:
    """As a model."""
    try:
        header = parse_header(io.BytesIO(data), name="model")
    except SatchelError:
        return
    assert header.data_end <= len(data)
    with _file(data) as descriptor:
        try:
            found = examine(f"/proc/self/fd/{descriptor}")
        except SatchelError:
            return
        json.dumps([found.name, found.licence, found.quantization, list(found.notes)])
        assert found.memory_needed(8192) >= found.weights


def template(data: bytes) -> None:
    """As the chat template of a model."""
    started = time.monotonic()
    try:
        made = ChatTemplate(data.decode(errors="replace"), Variables("<s>", "</s>"))
        text = made.render([{"role": "user", "content": "Hello"}])
    except SatchelError:
        text = ""
    assert len(text) <= MAX_CHARACTERS
    assert time.monotonic() - started < _TEMPLATE_SECONDS


class _file:  # noqa: N801  (used like a function)
    """A file in memory; the value is its descriptor."""

    def __init__(self, data: bytes) -> None:
        self._descriptor = os.memfd_create("fuzz")
        view = memoryview(data)
        while view:
            view = view[os.write(self._descriptor, view) :]

    def __enter__(self) -> int:
        return self._descriptor

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)


TARGETS: dict[str, Callable[[bytes], None]] = {
    "footer": footer,
    "pack": pack,
    "index": index,
    "chunks": chunks,
    "gguf": gguf,
    "template": template,
}
