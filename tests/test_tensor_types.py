from __future__ import annotations

import pytest

from packer.tensor_types import TENSOR_TYPES, parse_tensor_types
from runtime_stub.errors import FormatError


def test_from_a_manifest() -> None:
    document = {"3": {"name": "q4_1", "block": 32, "size": 20}}
    assert parse_tensor_types(document) == {3: TENSOR_TYPES[3]}


@pytest.mark.parametrize(
    "row",
    [{}, {"name": "x", "block": 0, "size": 1}, {"name": 1, "block": 1, "size": 1}, {"a": 1}],
)
def test_malformed(row: dict[str, object]) -> None:
    with pytest.raises(FormatError, match="table of tensor types"):
        parse_tensor_types({"3": row})
