"""Reading and checking a GGUF header, as `gguf` describes it."""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO, NoReturn

from packer.gguf import (
    ALIGNMENT_KEY,
    ARRAY,
    DEFAULT_ALIGNMENT,
    MAGIC,
    MAX_KEY_LENGTH,
    MAX_KEYS,
    MAX_NAME_LENGTH,
    MAX_NUMBERS,
    MAX_TENSORS,
    MAX_TEXT,
    MAX_TEXTS,
    STRING,
    UINT32,
    VERSIONS,
    ArraySummary,
    GgufHeader,
    Scalar,
    Tensor,
    TextSummary,
    Value,
    product,
)
from packer.gguf_cursor import Cursor, read_at
from packer.looks_like import AGAIN, looks_like
from packer.tensor_types import TENSOR_TYPES, TensorType
from runtime_stub.errors import FormatError, InputError, UnsupportedError

_TEXT_BUDGET = 16 << 20  # bytes of all texts kept; the rest becomes summaries
_ELEMENT_BUDGET = 1 << 18  # elements of all arrays kept

_NUMBERS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    UINT32: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}
_U64 = struct.Struct("<Q")


def read_header(
    path: str | os.PathLike[str], *, tensor_types: Mapping[int, TensorType] = TENSOR_TYPES
) -> GgufHeader:
    """Read and check the header of the GGUF file at `path`.

    Raises InputError if it can't be read, FormatError if it is not a sound GGUF, and
    UnsupportedError for other versions, big-endian files and unknown tensor types.
    """
    path = Path(path)
    with open_regular(path) as file:
        return parse_header(file, name=str(path), tensor_types=tensor_types)


def open_regular(path: Path) -> BinaryIO:
    """Open the file at `path`, unbuffered. Raises InputError if that is not possible."""
    try:
        mode = path.stat().st_mode  # first: opening a named pipe would wait for a writer
        if stat.S_ISDIR(mode):
            raise InputError(f"{path} is a folder", "Name the GGUF file in it")
        if not stat.S_ISREG(mode):
            raise InputError(f"{path} is not a regular file", "Name a GGUF file")
        return path.open("rb", buffering=0)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist", "Check the name and the folder") from None
    except PermissionError:
        raise InputError(f"{path} can't be read: permission denied", "Change its mode") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise InputError(f"{path!s} can't be opened: {error}") from None


def parse_header(
    file: BinaryIO,
    *,
    name: str,
    offset: int = 0,
    size: int | None = None,
    tensor_types: Mapping[int, TensorType] = TENSOR_TYPES,
) -> GgufHeader:
    """Read and check the header of the GGUF that is `size` bytes at `offset` in `file`.

    Without `size` it reaches to the file's end. `name` is what errors call it. Raises like
    `read_header`. The file's position is moved.
    """
    try:
        if size is None:
            size = file.seek(0, os.SEEK_END) - offset
        return _Parser(file, name, offset, size).header(tensor_types)
    except OSError as error:
        raise InputError(f"{name} can't be read: {error}") from None


class _Parser(Cursor):
    """Reads forward through one header."""

    def __init__(self, file: BinaryIO, name: str, base: int, size: int) -> None:
        super().__init__(file, name, base, size)
        self._text_left = _TEXT_BUDGET
        self._elements_left = _ELEMENT_BUDGET

    def header(self, tensor_types: Mapping[int, TensorType]) -> GgufHeader:
        version = self._preamble()
        n_tensors = self._count("tensors", MAX_TENSORS, smallest=24)
        n_keys = self._count("metadata keys", MAX_KEYS, smallest=13)
        metadata, spans = self._metadata(n_keys)
        alignment = self._alignment(metadata, spans)
        tensors = self._tensors(n_tensors, alignment, tensor_types)
        start = _padded(self._position, alignment) if tensors else self._position
        header = GgufHeader(
            version=version,
            alignment=alignment,
            metadata=MappingProxyType(metadata),
            spans=MappingProxyType(spans),
            tensors=tensors,
            header_size=start,
            file_size=self._size,
        )
        if header.data_end > self._size:
            raise FormatError(
                f"{self._name} is cut short: needs {header.data_end:,} bytes, has {self._size:,}",
                AGAIN,
            )
        return header

    # Its parts

    def _preamble(self) -> int:
        start = read_at(self._file, self._base, min(self._size, 512))
        if not start.startswith(MAGIC):
            what, hint = looks_like(start, self._size)
            raise FormatError(f"{self._name} is not a GGUF file: it {what}", hint)
        self._skip(4)
        version = self._u32()
        if version & 0xFFFF == 0 and version:
            raise UnsupportedError(
                f"{self._name} is a big-endian GGUF", "Use the model's little-endian file"
            )
        if version == 0:
            self._malformed("it says it has GGUF version 0")
        if version not in VERSIONS:
            hint = "Convert the model again" if version == 1 else "Use a newer satchel"
            raise UnsupportedError(f"{self._name} has GGUF version {version}, not 2 or 3", hint)
        return version

    def _count(self, what: str, limit: int, *, smallest: int) -> int:
        count = self._u64()
        if count > limit:
            self._malformed(f"it claims {count:,} {what}; at most {limit:,} are possible here")
        self._require(count * smallest)
        return count

    def _metadata(self, count: int) -> tuple[dict[str, Value], dict[str, tuple[int, int]]]:
        metadata: dict[str, Value] = {}
        spans: dict[str, tuple[int, int]] = {}
        for _ in range(count):
            start = self._position
            key = self._key()
            if key in metadata:
                self._malformed(f"key {_shown(key)} occurs twice")
            metadata[key] = self._value(key, self._u32())
            spans[key] = (start, self._position)
        return metadata, spans

    def _key(self) -> str:
        length = self._u64()
        if not 0 < length <= MAX_KEY_LENGTH:
            self._malformed(f"a key at byte {self._position - 8:,} is {length:,} bytes long")
        self._text_left -= length
        if self._text_left < 0:
            self._malformed("its keys take too much space")
        return self._utf8(self._take(length), "a key")

    def _utf8(self, data: bytes, what: str) -> str:
        if b"\0" in data:
            self._malformed(f"{what} at byte {self._position - len(data):,} has a zero byte in it")
        try:
            return data.decode()
        except UnicodeDecodeError:
            self._malformed(f"{what} at byte {self._position - len(data):,} is not UTF-8")

    def _value(self, key: str, kind: int) -> Value:
        if kind == STRING:
            return self._text()
        if kind == ARRAY:
            return self._array(key, self._u32(), self._u64())
        layout = _NUMBERS.get(kind)
        if layout is None:
            self._malformed(f"key {_shown(key)} has the unknown type {kind}")
        number: Scalar = struct.unpack(f"<{layout}", self._take(struct.calcsize(f"<{layout}")))[0]
        return number

    def _text(self) -> str | TextSummary:
        length = self._u64()
        if length > min(MAX_TEXT, self._text_left):
            self._skip(length)
            return TextSummary(length)
        data = self._take(length)
        self._text_left -= length
        return data.decode(errors="replace")

    def _array(self, key: str, kind: int, count: int) -> Value:
        if kind == STRING:
            return self._texts(count)
        layout = _NUMBERS.get(kind)
        if layout is None:
            problem = "an array of arrays" if kind == ARRAY else f"an array of unknown type {kind}"
            self._malformed(f"key {_shown(key)} is {problem}")
        size = struct.calcsize(f"<{layout}") * count
        if not self._keeps(count, MAX_NUMBERS):
            self._skip(size)
            return ArraySummary(kind, count)
        numbers: tuple[Scalar, ...] = struct.unpack(f"<{count}{layout}", self._take(size))
        return numbers

    def _texts(self, count: int) -> Value:
        self._require(count * 8)
        if not self._keeps(count, MAX_TEXTS):
            self._skip_texts(count)
            return ArraySummary(STRING, count)
        texts = [self._text() for _ in range(count)]
        kept = tuple(text for text in texts if isinstance(text, str))
        return kept if len(kept) == count else ArraySummary(STRING, count)

    def _keeps(self, count: int, limit: int) -> bool:
        if count > min(limit, self._elements_left):
            return False
        self._elements_left -= count
        return True

    def _skip_texts(self, count: int) -> None:
        """Step over `count` texts. A vocabulary has 262,144 of them: hence the plain loop."""
        unpack = _U64.unpack_from
        while count:
            at = self._load(8)
            window, start, last = self._window, self._window_start, len(self._window) - 8
            while count and at <= last:
                at += 8 + unpack(window, at)[0]
                count -= 1
            if start + at > self._size:
                self._cut_short(start + at - self._position)
            self._position = start + at
        self._require(0)

    def _alignment(self, metadata: dict[str, Value], spans: dict[str, tuple[int, int]]) -> int:
        value = metadata.get(ALIGNMENT_KEY, DEFAULT_ALIGNMENT)
        start, end = spans.get(ALIGNMENT_KEY, (0, 0))
        as_u32 = end - start in (0, 8 + len(ALIGNMENT_KEY) + 4 + 4)
        if not as_u32 or type(value) is not int or value < 1 or value & (value - 1):
            self._malformed(f"its alignment is {_shown(value)}, not a power of two of 32 bits")
        return value

    def _tensors(
        self, count: int, alignment: int, types: Mapping[int, TensorType]
    ) -> tuple[Tensor, ...]:
        tensors: list[Tensor] = []
        seen: set[str] = set()
        expected = 0
        for _ in range(count):
            tensor = self._tensor(types)
            if tensor.name in seen:
                self._malformed(f"tensor {tensor.name!r} occurs twice")
            if tensor.offset != expected:
                self._misplaced(tensor, expected, alignment)
            seen.add(tensor.name)
            tensors.append(tensor)
            expected = _padded(tensor.offset + tensor.size, alignment)
        return tuple(tensors)

    def _tensor(self, types: Mapping[int, TensorType]) -> Tensor:
        length = self._u64()
        if length > MAX_NAME_LENGTH:
            self._malformed(
                f"a tensor's name at byte {self._position - 8:,} is {length:,} bytes long; "
                f"at most {MAX_NAME_LENGTH} are allowed"
            )
        name = self._utf8(self._take(length), "a tensor's name")
        dimensions = self._u32()
        if dimensions > 4:
            self._malformed(f"tensor {name!r} has {dimensions:,} dimensions; at most 4 are allowed")
        shape = tuple(self._u64() for _ in range(dimensions))
        type_id = self._u32()
        size = self._tensor_size(name, shape, type_id, types)
        return Tensor(name, shape, type_id, self._u64(), size)

    def _tensor_size(
        self, name: str, shape: tuple[int, ...], type_id: int, types: Mapping[int, TensorType]
    ) -> int:
        kind = types.get(type_id)
        if kind is None:
            raise UnsupportedError(
                f"{self._name}: tensor {name!r} has type {type_id}, which this llama.cpp lacks",
                "Use another quantization of the model, or a newer stub",
            )
        row = shape[0] if shape else 1
        if row % kind.block:
            self._malformed(
                f"tensor {name!r} has rows of {row:,} elements, "
                f"not a multiple of {kind.name}'s block of {kind.block}"
            )
        elements = product(shape)
        size = elements // kind.block * kind.size
        if max((elements, size, *shape)) >= 2**63:
            self._malformed(f"tensor {name!r} is impossibly large: {' × '.join(map(str, shape))}")
        return size

    def _misplaced(self, tensor: Tensor, expected: int, alignment: int) -> NoReturn:
        where = f"tensor {tensor.name!r} lies at offset {tensor.offset:,}, expected {expected:,}"
        if tensor.offset % alignment:
            self._malformed(f"{where}: it is not aligned to {alignment} bytes")
        problem = "it overlaps the one before" if tensor.offset < expected else "it leaves a gap"
        self._malformed(f"{where}: {problem}")


def _padded(size: int, alignment: int) -> int:
    return -(-size // alignment) * alignment


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:76]}..."
