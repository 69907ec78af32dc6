"""Reading a GGUF header: what a model file says about itself and where its tensors lie.

    magic "GGUF" · u32 version · u64 tensors · u64 keys      little-endian throughout
    keys × (text name · u32 type · value)                    text: u64 length and UTF-8 bytes
    tensors × (text name · u32 dimensions · u64 each · u32 type · u64 offset)
    zeros up to the alignment
    tensor data: contiguous, in order, each padded to the alignment

A header is somebody else's data. Each length and count is compared with the bytes there are
before anything is allocated for it, and the limits below bound time and memory for any file.
The checks are llama.cpp's own (it loads nothing with gaps or out of order), made here so that
a bad model is refused when packing, with a line that says what is wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

MAGIC = b"GGUF"
VERSIONS = (2, 3)
"""Their layouts are the same; version 3 added big-endian files, which are refused."""
ALIGNMENT_KEY = "general.alignment"
DEFAULT_ALIGNMENT = 32

MAX_HEADER = 128 << 20
"""Bytes. The largest headers known (262,144 tokens, 500,000 merges) take about 20 MiB."""
MAX_KEYS = 8_192
MAX_TENSORS = 65_536
MAX_KEY_LENGTH = 65_535
MAX_NAME_LENGTH = 63
"""Bytes in a tensor's name, as llama.cpp has it."""
MAX_TEXT = 1 << 20
"""Bytes of a text value; a longer one is kept as a `TextSummary`."""
MAX_NUMBERS = 512
"""Elements of a number array that is kept: one for each layer of the deepest model."""
MAX_TEXTS = 64
"""Elements of a text array that is kept."""

UINT32, STRING, ARRAY = 4, 8, 9


@dataclass(frozen=True, slots=True)
class ArraySummary:
    """An array too long to keep: the GGUF type of its elements, and how many there are."""

    type: int
    count: int


@dataclass(frozen=True, slots=True)
class TextSummary:
    """A text too long to keep: its size in bytes."""

    size: int


Scalar = int | float | bool | str
Value = Scalar | tuple[Scalar, ...] | ArraySummary | TextSummary


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor. `shape` has the innermost dimension first, as in the file."""

    name: str
    shape: tuple[int, ...]
    type_id: int
    offset: int
    """Bytes from the start of the data section."""
    size: int
    """Bytes, without the padding that follows."""

    @property
    def elements(self) -> int:
        return product(self.shape)


@dataclass(frozen=True)
class GgufHeader:
    """What a GGUF file says of itself. All sizes and offsets are in bytes."""

    version: int
    alignment: int
    metadata: Mapping[str, Value]
    """In the file's order; long arrays and texts are summaries."""
    spans: Mapping[str, tuple[int, int]]
    """Where each key with its value starts and ends in the file."""
    tensors: tuple[Tensor, ...]
    header_size: int
    """Where the data section starts."""
    file_size: int

    @property
    def data_end(self) -> int:
        """Where the last tensor ends; bytes behind it belong to nothing."""
        last = self.tensors[-1] if self.tensors else None
        return self.header_size + (last.offset + last.size if last else 0)


def product(shape: tuple[int, ...]) -> int:
    """How many elements a shape has."""
    product = 1
    for length in shape:
        product *= length
    return product
