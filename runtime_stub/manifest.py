"""The manifest: what a pack or stub holds, as UTF-8 JSON in canonical form.

Readers refuse a manifest that names a feature they do not know, or that says it needs a
newer reader; fields they do not know are otherwise ignored, so that packs outlive versions.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from runtime_stub.errors import FormatError, UnsupportedError

READER_VERSION = 1
"""What this reader understands; a manifest's `oldest_reader` must not be newer."""

FEATURES: dict[str, str] = {
    "zstd-frames": "an entry is stored as independent zstd frames",
    "sidecar": "an entry lies in a second file beside the pack",
}
"""Features this reader knows, with their meaning."""

RAW = "raw"
ZSTD = "zstd"
ZSTD_FRAMES = "zstd-frames"
CODECS: dict[str, str] = {
    RAW: "stored as it is, so that it can be memory-mapped where it lies",
    ZSTD: "one zstd stream",
    ZSTD_FRAMES: "one zstd frame per chunk, extracted to the cache on first use",
}
"""Storage codecs this reader knows. The set is open: an unknown one only matters to whoever
opens that entry."""

KINDS: dict[str, str] = {
    "launcher": "native program at offset 0",
    "runtime": "zstd stream of the frozen runtime's archive",
    "model": "GGUF model",
    "adapter": "LoRA adapter as GGUF; `requires` names its model",
    "draft": "small GGUF model that guesses ahead for another; `requires` names that one",
    "warm": "warm prompt: what a model's memory holds after reading one; `requires` names it",
    "table": "chunk table of another entry",
    "signature": "public key and Ed25519 signature of the manifest without this entry",
}
"""Entry kinds written so far, with their meaning. Readers ignore kinds they do not know."""

GGUF_KINDS = ("model", "adapter", "draft")
"""Those that were GGUF files before they were packed."""


@dataclass(frozen=True)
class Entry:
    """One thing in a bundle. Offsets and lengths are in bytes, hashes hexadecimal SHA-256."""

    name: str
    kind: str
    codec: str
    offset: int
    length: int
    """Bytes as stored."""
    size: int
    """Bytes once decoded."""
    sha256: str
    """Of the decoded bytes."""
    stored_sha256: str
    """Of the stored bytes; equals `sha256` for codec "raw"."""
    file: str | None = None
    """SHA-256 of the sidecar it lies in; None for the pack itself."""
    chunk_size: int = 0
    """Decoded size of each chunk but the last; 0 without a chunk table."""
    table: str | None = None
    """Name of the entry that is this one's chunk table."""
    masked: tuple[tuple[int, int], ...] = ()
    """(offset, length) ranges hashed as zeros, because a code signature rewrites them."""
    requires: tuple[str, ...] = ()
    """SHA-256 of the entries this one belongs to: a draft, adapter or warm prompt's model."""
    metadata: dict[str, Any] = field(default_factory=dict)
    """Facts about the content, for people and programs."""


@dataclass(frozen=True)
class Manifest:
    """What a pack or stub is made of."""

    entries: tuple[Entry, ...]
    stub: dict[str, Any]
    """Where the runtime comes from: platform, satchel version, llama.cpp, what it knows."""
    name: str = ""
    """The pack's name for people; empty in a stub."""
    recipe: dict[str, Any] | None = None
    """The recipe's runtime part; None in a stub."""
    features: tuple[str, ...] = ()
    oldest_reader: int = 1


def serialise(manifest: Manifest) -> bytes:
    """Canonical JSON: sorted keys, no spaces, so that equal manifests are equal bytes."""
    document = {
        "satchel": {
            "manifest": READER_VERSION,
            "oldest_reader": manifest.oldest_reader,
            "features": sorted(manifest.features),
        },
        "name": manifest.name,
        "recipe": manifest.recipe,
        "stub": manifest.stub,
        "entries": [_entry_document(entry) for entry in manifest.entries],
    }
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def _entry_document(entry: Entry) -> dict[str, Any]:
    return {
        "name": entry.name,
        "kind": entry.kind,
        "codec": entry.codec,
        "offset": entry.offset,
        "length": entry.length,
        "size": entry.size,
        "sha256": entry.sha256,
        "stored_sha256": entry.stored_sha256,
        "file": entry.file,
        "chunk_size": entry.chunk_size,
        "table": entry.table,
        "masked": [list(pair) for pair in entry.masked],
        "requires": list(entry.requires),
        "metadata": entry.metadata,
    }


def parse(data: bytes) -> Manifest:
    """Parse manifest JSON. Raises FormatError, or UnsupportedError for a newer pack."""
    try:
        document = json.loads(data)
        head = document["satchel"]
        features = tuple(_texts(head["features"]))
        oldest_reader = _integer(head["oldest_reader"])
        _require_known(features, oldest_reader)
        entries = tuple(_parse_entry(item) for item in document["entries"])
        recipe = document["recipe"]
        if recipe is not None:
            _mapping(recipe)
        manifest = Manifest(
            entries=entries,
            stub=_mapping(document["stub"]),
            name=_text(document["name"]),
            recipe=recipe,
            features=features,
            oldest_reader=oldest_reader,
        )
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise FormatError(f"the manifest is malformed: {type(error).__name__}: {error}") from None
    names = [entry.name for entry in manifest.entries]
    if len(set(names)) != len(names):
        raise FormatError("the manifest names two entries alike")
    return manifest


def _require_known(features: tuple[str, ...], oldest_reader: int) -> None:
    unknown = sorted(set(features) - set(FEATURES))
    if unknown or oldest_reader > READER_VERSION:
        what = f"features {', '.join(unknown)}" if unknown else f"reader version {oldest_reader}"
        raise UnsupportedError(f"the pack needs {what}, unknown here", "Use a newer satchel")


def _parse_entry(item: dict[str, Any]) -> Entry:
    entry = Entry(
        name=_text(item["name"]),
        kind=_text(item["kind"]),
        codec=_text(item["codec"]),
        offset=_integer(item["offset"]),
        length=_integer(item["length"]),
        size=_integer(item["size"]),
        sha256=_sha256(item["sha256"]),
        stored_sha256=_sha256(item["stored_sha256"]),
        file=None if item["file"] is None else _sha256(item["file"]),
        chunk_size=_integer(item["chunk_size"]),
        table=None if item["table"] is None else _text(item["table"]),
        masked=tuple((_integer(start), _integer(length)) for start, length in item["masked"]),
        requires=tuple(_sha256(value) for value in item["requires"]),
        metadata=_mapping(item["metadata"]),
    )
    if entry.codec == RAW and entry.length != entry.size:
        raise ValueError(f"entry {entry.name!r} is raw but its sizes differ")
    return entry


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"expected text, got {value!r}")
    return value


def _texts(value: object) -> list[str]:
    if not isinstance(value, list):
        raise TypeError(f"expected a list, got {value!r}")
    return [_text(item) for item in value]


def _integer(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**63:
        raise TypeError(f"expected a size or offset, got {value!r}")
    return value


def _mapping(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError(f"expected an object, got {value!r}")
    return value


def _sha256(value: object) -> str:
    text = _text(value)
    if len(text) != 64 or not set(text) <= set("0123456789abcdef"):
        raise ValueError(f"expected a SHA-256, got {text!r}")
    return text
