"""What fuzzers start from: sound inputs of every kind, and near misses."""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path

import gguf_files as g
import zstandard
from launcher_packs import BAD_INDEXES, PLAIN_FILES, PROGRAM, pack_of

from runtime_stub import archive, manifest
from runtime_stub.bundle import FOOTER_SIZE, Chunk, Footer
from runtime_stub.manifest import Entry, Manifest

_SHA = "ab" * 32
TEMPLATES = (
    "{% for message in messages %}{{ message['role'] }}: {{ message.content }}\n{% endfor %}",
    "{% macro a(x) %}{{ x|trim }}{% endmacro %}{{ a(messages[0].content) }}{{ bos_token }}",
    "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}",
    "{{ 'x' * 500000000 }}",
    "{% for i in range(10**9) %}{% for j in range(10**9) %}x{% endfor %}{% endfor %}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}{{ messages|attr('__class__') }}",
    "{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}",
    "{% set x = [1] %}{% for i in range(99) %}{% set _ = x.append(x) %}{% endfor %}{{ x }}",
    "{{ messages | tojson }}{% if tools is defined %}{{ raise_exception('no') }}{% endif %}",
)


def entry(name: str, kind: str, **fields: object) -> Entry:
    values: dict[str, object] = {"offset": 0, "length": 10, "size": 10, "codec": "raw", **fields}
    return Entry(name=name, kind=kind, sha256=_SHA, stored_sha256=_SHA, **values)  # type: ignore[arg-type]


def _manifests() -> list[bytes]:
    model = entry("model", "model", chunk_size=1 << 22, table="model.chunks", masked=((1, 2),))
    table = entry("model.chunks", "table", length=88, size=88)
    elsewhere = entry("far", "model", file=_SHA, requires=(_SHA,), metadata={"a": [1, None]})
    frames = entry("frames", "model", codec="zstd-frames", table="model.chunks")
    stub = {"platform": "linux-x86_64", "satchel": "0.1.0"}
    recipe = {"name": "tiny", "mode": "chat", "sampling": {"temperature": 0.5}}
    return [
        manifest.serialise(Manifest(entries, stub, "tiny", recipe, features))
        for entries, features in (
            ((), ()),
            ((model, table), ()),
            ((elsewhere, frames, table), ("sidecar", "zstd-frames")),
        )
    ]


def _footers() -> list[bytes]:
    def after(start: int) -> bytes:
        empty = hashlib.sha256(b"").digest()
        return Footer(start + FOOTER_SIZE, 0, 0, empty, 0, start, 1, bytes(32), 0).pack()

    return [
        b"x" + after(1),
        bytes(1000) + after(1000),
        bytes(9) + after(9) + bytes(100),
        bytes(9) + after(9) + after(9 + FOOTER_SIZE),
    ]


def _indexes() -> list[bytes]:
    ordered = sorted(PLAIN_FILES.items())
    members = [archive.Member(path, len(data), mode) for path, (data, mode) in ordered]
    return [archive.pack_index(members), archive.pack_index([]), *BAD_INDEXES.values()]


def _chunk_tables() -> list[bytes]:
    rows = [
        Chunk(0, 100, 100, bytes(32), bytes(32)),
        Chunk(100, 50, 50, bytes(32), bytes(32)),
    ]
    return [struct.pack("<I", 150) + b"".join(row.pack() for row in rows), bytes(4)]


def _models() -> list[bytes]:
    sound = g.model()
    return [
        sound.build(),
        g.model(without=("tokenizer.chat_template",)).build(),
        g.model(tensors=(g.TensorInfo("a", (64, 96)), g.TensorInfo("b", (32,)))).build(),
    ]


def _runtimes() -> list[bytes]:
    """For unpack.c: its first byte says whether the rest is stored already."""
    plain = zstandard.decompress(pack_of(b"", PLAIN_FILES).stored)
    archives = [plain, *(bad + PROGRAM for bad in BAD_INDEXES.values())]
    return [
        *(b"\1" + data for data in archives),
        *(b"\0" + zstandard.compress(data) for data in archives[:3]),
        b"\0" + zstandard.compress(bytes(1 << 22)),
    ]


def write_seeds(folder: Path) -> None:
    """Write a folder of seeds for each target."""
    seeds = {
        "footer": _footers(),
        "pack": _manifests(),
        "index": _indexes(),
        "chunks": _chunk_tables(),
        "gguf": _models(),
        "template": [text.encode() for text in TEMPLATES],
        "unpack": _runtimes(),
    }
    for name, inputs in seeds.items():
        (folder / name).mkdir(parents=True)
        for number, data in enumerate(inputs):
            (folder / name / f"seed-{number:02}").write_bytes(data)
