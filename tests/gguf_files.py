"""GGUF files built in code, byte by byte, so that tests depend on no model.

`Gguf` describes a file; its fields can be set to nonsense to get broken ones. `model` makes
one that `examine` accepts, `split` writes a file in parts as llama.cpp's gguf-split does.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
LAYOUTS = {
    U8: "B",
    I8: "b",
    U16: "H",
    I16: "h",
    U32: "I",
    I32: "i",
    F32: "f",
    BOOL: "?",
    U64: "Q",
    I64: "q",
    F64: "d",
}
TYPE_F32, TYPE_F16, TYPE_Q4_1, TYPE_Q8_0 = 0, 1, 3, 8
BLOCKS = {TYPE_F32: (1, 4), TYPE_F16: (1, 2), TYPE_Q4_1: (32, 20), TYPE_Q8_0: (32, 34)}

Item = int | float | bool | str | bytes


@dataclass(frozen=True)
class Typed:
    """A value with its GGUF type; a list becomes an array."""

    kind: int
    value: Item | Sequence[Item]


@dataclass(frozen=True)
class TensorInfo:
    """A tensor to write. Without `offset` it lies where it should."""

    name: str
    shape: tuple[int, ...] = (32,)
    kind: int = TYPE_F32
    offset: int | None = None
    data: bytes | None = None
    """Made up from the name when None."""

    @property
    def size(self) -> int:
        block, size = BLOCKS.get(self.kind, (1, 1))
        elements = 1
        for length in self.shape:
            elements *= length
        return elements // block * size

    @property
    def content(self) -> bytes:
        if self.data is not None:
            return self.data
        return (self.name.encode() * (self.size // max(len(self.name), 1) + 1))[: self.size]


@dataclass(frozen=True)
class Gguf:
    """A GGUF file; `build` gives its bytes."""

    metadata: Mapping[str, Typed] = field(default_factory=dict)
    tensors: tuple[TensorInfo, ...] = ()
    magic: bytes = b"GGUF"
    version: int = 3
    alignment: int = 32
    """What the file is laid out by; to say so in it, add the key."""
    n_tensors: int | None = None
    n_keys: int | None = None
    extra_keys: bytes = b""
    """Raw bytes behind the metadata, for keys that occur twice or make no sense."""

    def header(self) -> bytes:
        """Everything before the data section, without padding."""
        n_tensors = len(self.tensors) if self.n_tensors is None else self.n_tensors
        n_keys = len(self.metadata) if self.n_keys is None else self.n_keys
        parts = [self.magic, struct.pack("<IQQ", self.version, n_tensors, n_keys)]
        parts += [pair(key, typed) for key, typed in self.metadata.items()]
        parts.append(self.extra_keys)
        offset = 0
        for tensor in self.tensors:
            parts.append(tensor_info(tensor, offset if tensor.offset is None else tensor.offset))
            offset = padded(offset + tensor.size, self.alignment)
        return b"".join(parts)

    def build(self, *, pad_last: bool = True) -> bytes:
        data = bytearray(self.header())
        for tensor in self.tensors:
            data += bytes(-len(data) % self.alignment) + tensor.content
        if pad_last:
            data += bytes(-len(data) % self.alignment)
        return bytes(data)

    def write(self, path: Path) -> Path:
        path.write_bytes(self.build())
        return path


def text(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(data)) + data


def pair(key: str | bytes, typed: Typed) -> bytes:
    """A key and its value, as in the file."""
    value = typed.value
    if isinstance(value, (str, bytes, int, float)):
        return text(key) + struct.pack("<I", typed.kind) + scalar(typed.kind, value)
    start = text(key) + struct.pack("<IIQ", ARRAY, typed.kind, len(value))
    return start + b"".join(scalar(typed.kind, item) for item in value)


def scalar(kind: int, value: Item) -> bytes:
    if isinstance(value, (str, bytes)):
        return text(value)
    return struct.pack("<" + LAYOUTS[kind], value)


def tensor_info(tensor: TensorInfo, offset: int) -> bytes:
    layout = f"<I{len(tensor.shape)}QIQ"
    return text(tensor.name) + struct.pack(
        layout, len(tensor.shape), *tensor.shape, tensor.kind, offset
    )


def padded(size: int, alignment: int) -> int:
    return -(-size // alignment) * alignment


def pad(data: bytes, alignment: int) -> bytes:
    return data + bytes(padded(len(data), alignment) - len(data))


TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
METADATA: dict[str, Typed] = {
    "general.architecture": Typed(STRING, "llama"),
    "general.type": Typed(STRING, "model"),
    "general.name": Typed(STRING, "Tiny"),
    "general.license": Typed(STRING, "apache-2.0"),
    "general.organization": Typed(STRING, "Nobody"),
    "general.file_type": Typed(U32, 3),
    "llama.block_count": Typed(U32, 2),
    "llama.context_length": Typed(U32, 2048),
    "llama.embedding_length": Typed(U32, 64),
    "llama.feed_forward_length": Typed(U32, 128),
    "llama.attention.head_count": Typed(U32, 4),
    "llama.attention.head_count_kv": Typed(U32, 2),
    "llama.rope.freq_base": Typed(F32, 10000.0),
    "tokenizer.ggml.model": Typed(STRING, "gpt2"),
    "tokenizer.ggml.tokens": Typed(STRING, [f"t{number}" for number in range(96)]),
    "tokenizer.ggml.add_bos_token": Typed(BOOL, value=True),
    "tokenizer.chat_template": Typed(STRING, TEMPLATE),
}
TENSORS = (
    TensorInfo("token_embd.weight", (64, 96), TYPE_F16),
    TensorInfo("blk.0.attn_norm.weight", (5,), TYPE_F32),
    TensorInfo("blk.0.attn_q.weight", (64, 64), TYPE_Q4_1),
    TensorInfo("blk.1.attn_norm.weight", (7, 1), TYPE_F32),
    TensorInfo("blk.1.attn_q.weight", (64, 64), TYPE_Q4_1),
)


def model(
    architecture: str = "llama",
    more: Mapping[str, Typed] | None = None,
    *,
    without: Sequence[str] = (),
    tensors: tuple[TensorInfo, ...] = TENSORS,
    **metadata: Typed,
) -> Gguf:
    """A small sound model. `more` and `metadata` add or replace keys, in the latter with "__" for
    "."; keys that start with "llama." follow the architecture."""
    keys = {**METADATA, **(more or {})}
    keys |= {key.replace("__", "."): value for key, value in metadata.items()}
    keys["general.architecture"] = Typed(STRING, architecture)
    named = {
        f"{architecture}.{key.removeprefix('llama.')}" if key.startswith("llama.") else key: value
        for key, value in keys.items()
        if key not in without
    }
    return Gguf(named, tensors)


def split(gguf: Gguf, path: Path, counts: Sequence[int]) -> list[Path]:
    """Write `gguf` in parts of `counts` tensors each, as gguf-split does; returns their paths.

    `path` is the common start of their names. All metadata goes into the first part.
    """
    paths = []
    start = 0
    for number, count in enumerate(counts):
        keys = {
            **(gguf.metadata if number == 0 else {}),
            "split.no": Typed(U16, number),
            "split.tensors.count": Typed(I32, len(gguf.tensors)),
            "split.count": Typed(U16, len(counts)),
        }
        tensors = gguf.tensors[start : start + count]
        alignment = gguf.alignment if number == 0 else 32  # the key is in the first part only
        part = replace(gguf, metadata=keys, tensors=tensors, alignment=alignment)
        paths.append(part.write(split_path(path, number, len(counts))))
        start += count
    return paths


def split_path(path: Path, number: int, count: int) -> Path:
    """The name of part `number`, from 0."""
    return path.with_name(f"{path.name}-{number + 1:05d}-of-{count:05d}.gguf")
