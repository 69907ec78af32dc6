"""Split models: from `X-00001-of-00003.gguf` and its siblings to one stream of bytes.

llama.cpp can't map a split model out of a pack, so the parts are merged while packing, without
a copy on disk. The result is, byte for byte, what llama.cpp's `gguf-split --merge` writes: the
first part's keys with `split.count` moved to the end and set to 0 ("not split"; `split.no` and
`split.tensors.count` stay), the tensors of all parts in order, padded with zeros. (For an
alignment other than 32 gguf-split writes a broken file; here it is kept.)
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

from packer.gguf import (
    MAGIC,
    MAX_TENSORS,
    GgufHeader,
    Tensor,
    Value,
)
from packer.gguf_reader import open_regular, read_header
from packer.tensor_types import TENSOR_TYPES, TensorType
from runtime_stub.errors import FormatError, InputError

SPLIT_COUNT = "split.count"
SPLIT_NUMBER = "split.no"
SPLIT_TENSORS = "split.tensors.count"
_NOT_SPLIT = struct.pack("<Q11sIH", len(SPLIT_COUNT), SPLIT_COUNT.encode(), 2, 0)  # a u16
_PREAMBLE = struct.Struct("<4sIQQ")
_CHUNK = 1 << 20
_SAME = "Download all parts of the model again, from one place"


@dataclass(frozen=True, slots=True)
class Literal:
    """Bytes that lie in no source file."""

    data: bytes

    @property
    def length(self) -> int:
        return len(self.data)


@dataclass(frozen=True, slots=True)
class Range:
    """`length` bytes at `offset` of the file at `path`."""

    path: Path
    offset: int
    length: int


@dataclass(frozen=True)
class MergePlan:
    """One GGUF as a sequence of pieces; one range over the whole file if it was not split."""

    parts: tuple[Path, ...]
    """The files it comes from."""
    pieces: tuple[Literal | Range, ...]
    size: int
    """Bytes of all pieces."""
    header: GgufHeader
    """Of the GGUF that the pieces make."""


def plan(
    path: str | os.PathLike[str], *, tensor_types: Mapping[int, TensorType] = TENSOR_TYPES
) -> MergePlan:
    """How to read the model at `path` as one GGUF, all its parts if it is the first of several.

    Raises InputError if a part is missing or `path` is not the first one, FormatError if parts
    don't belong together, and what `read_header` raises.
    """
    path = Path(path)
    header = read_header(path, tensor_types=tensor_types)
    count = _split_value(header, SPLIT_COUNT, path, 0)
    if count < 2:
        whole = Range(path, 0, header.file_size)
        return MergePlan((path,), (whole,), header.file_size, header)
    paths = _part_paths(path, header, count)
    headers = [header]
    total = len(header.tensors)
    for number, part in enumerate(paths[1:], 1):
        headers.append(_read_part(part, number, count, tensor_types))
        total += len(headers[-1].tensors)
        if total > MAX_TENSORS:
            raise FormatError(f"{path} and its parts have more than {MAX_TENSORS:,} tensors")
    _require_complete(path, header, headers, total)
    return _merge(paths, headers)


def chunks(merge_plan: MergePlan, *, size: int = _CHUNK) -> Iterator[bytes]:
    """The bytes of a plan, at most `size` at a time.

    Raises InputError if a source can't be read, or has become shorter since it was planned.
    """
    for piece in merge_plan.pieces:
        if isinstance(piece, Literal):
            yield piece.data
        else:
            yield from _range_chunks(piece, size)


def _range_chunks(piece: Range, size: int) -> Iterator[bytes]:
    left = piece.length
    with open_regular(piece.path) as file:
        try:
            file.seek(piece.offset)
            while left:
                data = file.read(min(size, left))
                if not data:
                    raise InputError(f"{piece.path} became shorter while it was read", "Try again")
                left -= len(data)
                yield data
        except OSError as error:
            raise InputError(f"{piece.path} can't be read: {error}") from None


def _split_value(header: GgufHeader, key: str, path: Path, default: int) -> int:
    value = header.metadata.get(key, default)
    if type(value) is not int or not 0 <= value <= 2**31:
        raise FormatError(f"{path} is malformed: {key} is {str(value)[:40]!r}", _SAME)
    return value


def _part_paths(path: Path, header: GgufHeader, count: int) -> tuple[Path, ...]:
    """The names of all parts, checked that `path` is the first and is called so."""
    if count > 65_535:
        raise FormatError(f"{path} is malformed: it claims to be one of {count:,} parts", _SAME)
    number = _split_value(header, SPLIT_NUMBER, path, 0)
    ending = _ending(number, count)
    prefix = path.name.removesuffix(ending)
    if prefix in ("", path.name):
        raise InputError(
            f"{path} is part {number + 1} of {count} of a split model, but is not called so",
            f"Give each part back its name; this one's ends in {ending}",
        )
    paths = tuple(path.with_name(prefix + _ending(other, count)) for other in range(count))
    if number:
        raise InputError(
            f"{path} is part {number + 1} of {count} of a split model",
            f"Name the first part, {paths[0]}; the others are found beside it",
        )
    return paths


def _ending(number: int, count: int) -> str:
    return f"-{number + 1:05d}-of-{count:05d}.gguf"


def _read_part(
    path: Path, number: int, count: int, tensor_types: Mapping[int, TensorType]
) -> GgufHeader:
    if _is_missing(path):
        raise InputError(
            f"{path} is missing: part {number + 1} of {count} of a split model",
            "Put all parts into one folder",
        )
    header = read_header(path, tensor_types=tensor_types)
    found = _split_value(header, SPLIT_NUMBER, path, count)  # without one it is no part
    if found != number or _split_value(header, SPLIT_COUNT, path, count) != count:
        raise FormatError(f"{path} is not part {number + 1} of {count}, by what it says", _SAME)
    return header


def _is_missing(path: Path) -> bool:
    try:
        return not path.exists()
    except OSError:
        return False  # opening it says what is wrong


def _require_complete(path: Path, first: GgufHeader, headers: list[GgufHeader], total: int) -> None:
    claimed = _split_value(first, SPLIT_TENSORS, path, total)
    if claimed != total:
        raise FormatError(f"{path} promises {claimed:,} tensors; its parts have {total:,}", _SAME)
    seen: set[str] = set()
    for header in headers:
        for tensor in header.tensors:
            if tensor.name in seen:
                raise FormatError(f"{path}: tensor {tensor.name!r} is in two parts", _SAME)
            seen.add(tensor.name)


def _merge(paths: tuple[Path, ...], headers: list[GgufHeader]) -> MergePlan:
    first = headers[0]
    tensors, sources = _lay_out(paths, headers)
    keys, keys_end = _key_ranges(paths[0], first)
    infos = b"".join(map(_tensor_info, tensors))
    infos_end = keys_end + len(_NOT_SPLIT) + len(infos)
    start = _padded(infos_end, first.alignment)
    preamble = _PREAMBLE.pack(MAGIC, 3, len(tensors), len(first.metadata))
    pieces = (
        Literal(preamble),
        *keys,
        Literal(_NOT_SPLIT + infos + bytes(start - infos_end)),
        *sources,
    )
    size = sum(piece.length for piece in pieces)
    return MergePlan(paths, pieces, size, _merged_header(first, tensors, start, size, keys_end))


def _lay_out(
    paths: tuple[Path, ...], headers: list[GgufHeader]
) -> tuple[tuple[Tensor, ...], list[Literal | Range]]:
    """All tensors with their new offsets, and where their bytes come from."""
    alignment = headers[0].alignment
    tensors: list[Tensor] = []
    pieces: list[Literal | Range] = []
    offset = 0
    for path, header in zip(paths, headers, strict=True):
        for tensor in header.tensors:
            tensors.append(replace(tensor, shape=_trimmed(tensor.shape), offset=offset))
            end = offset + tensor.size
            offset = _padded(end, alignment)
            if tensor.size:
                pieces.append(Range(path, header.header_size + tensor.offset, tensor.size))
            if offset > end:
                pieces.append(Literal(bytes(offset - end)))
    return tuple(tensors), pieces


def _key_ranges(path: Path, header: GgufHeader) -> tuple[list[Range], int]:
    """The keys but `split.count`, as ranges of the first part, and where they end when merged."""
    start, end = header.spans[SPLIT_COUNT]
    keys_end = max(span_end for _, span_end in header.spans.values())
    ranges = [
        Range(path, _PREAMBLE.size, start - _PREAMBLE.size),
        Range(path, end, keys_end - end),
    ]
    return [part for part in ranges if part.length], keys_end - (end - start)


def _trimmed(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Without trailing dimensions of 1, as llama.cpp writes it."""
    while len(shape) > 1 and shape[-1] == 1:
        shape = shape[:-1]
    return shape or (1,)


def _tensor_info(tensor: Tensor) -> bytes:
    name = tensor.name.encode()
    return struct.pack(
        f"<Q{len(name)}sI{len(tensor.shape)}QIQ",
        len(name),
        name,
        len(tensor.shape),
        *tensor.shape,
        tensor.type_id,
        tensor.offset,
    )


def _merged_header(
    first: GgufHeader, tensors: tuple[Tensor, ...], start: int, size: int, keys_end: int
) -> GgufHeader:
    removed, removed_end = first.spans[SPLIT_COUNT]
    shift = removed_end - removed
    metadata: dict[str, Value] = dict(first.metadata)
    spans = {
        key: (begin, end) if begin < removed else (begin - shift, end - shift)
        for key, (begin, end) in first.spans.items()
        if key != SPLIT_COUNT
    }
    del metadata[SPLIT_COUNT]
    metadata[SPLIT_COUNT] = 0
    spans[SPLIT_COUNT] = (keys_end, keys_end + len(_NOT_SPLIT))
    return replace(
        first,
        version=3,
        metadata=MappingProxyType(metadata),
        spans=MappingProxyType(spans),
        tensors=tensors,
        header_size=start,
        file_size=size,
    )


def _padded(size: int, alignment: int) -> int:
    return -(-size // alignment) * alignment
