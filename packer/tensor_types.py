"""Tensor element types: their names, and how many bytes so many elements take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from runtime_stub.errors import FormatError


@dataclass(frozen=True, slots=True)
class TensorType:
    """A tensor element type: `size` bytes hold `block` elements."""

    name: str
    block: int
    size: int


def _types(table: str) -> Mapping[int, TensorType]:
    rows = (row.split() for row in table.strip().splitlines())
    return MappingProxyType(
        {int(row[0]): TensorType(row[1], int(row[2]), int(row[3])) for row in rows}
    )


TENSOR_TYPES = _types(
    """
    0 f32 1 4
    1 f16 1 2
    2 q4_0 32 18
    3 q4_1 32 20
    6 q5_0 32 22
    7 q5_1 32 24
    8 q8_0 32 34
    9 q8_1 32 36
    10 q2_K 256 84
    11 q3_K 256 110
    12 q4_K 256 144
    13 q5_K 256 176
    14 q6_K 256 210
    15 q8_K 256 292
    16 iq2_xxs 256 66
    17 iq2_xs 256 74
    18 iq3_xxs 256 98
    19 iq1_s 256 50
    20 iq4_nl 32 18
    21 iq3_s 256 110
    22 iq2_s 256 82
    23 iq4_xs 256 136
    24 i8 1 1
    25 i16 1 2
    26 i32 1 4
    27 i64 1 8
    28 f64 1 8
    29 iq1_m 256 56
    30 bf16 1 2
    34 tq1_0 256 54
    35 tq2_0 256 66
    39 mxfp4 32 17
    40 nvfp4 64 36
    41 q1_0 128 18
    42 q2_0 64 18
    """
)
"""The types of the llama.cpp in llama-cpp-python 0.3.36 (id, name, elements in a block, bytes
of a block), for when no stub says which it knows. Numbers that are missing were withdrawn."""


def parse_tensor_types(document: Mapping[str, Mapping[str, object]]) -> dict[int, TensorType]:
    """The table in a stub's manifest: {"3": {"name": "q4_1", "block": 32, "size": 20}}.

    Raises FormatError if it is malformed.
    """
    try:
        return {int(key): _tensor_type(**row) for key, row in document.items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise FormatError(f"the stub's table of tensor types is malformed: {error}") from None


def _tensor_type(name: object, block: object, size: object) -> TensorType:
    if not (isinstance(name, str) and isinstance(block, int) and isinstance(size, int)):
        raise TypeError(f"type {name!r}")
    if block < 1 or size < 1:
        raise ValueError(f"type {name!r} has empty blocks")
    return TensorType(name, block, size)
