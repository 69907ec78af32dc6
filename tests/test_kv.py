from __future__ import annotations

import pytest

from runtime_stub.engine.kv import DEFAULT, KV_TYPES
from runtime_stub.engine.library import library


def test_the_default_keeps_everything() -> None:
    assert not KV_TYPES[DEFAULT].quantised


@pytest.mark.parametrize(("name", "numbers", "expected"), [("f16", 64, 128), ("q8_0", 64, 68)])
def test_bytes(name: str, numbers: int, expected: int) -> None:
    assert KV_TYPES[name].bytes_of(numbers) == expected


@pytest.mark.parametrize("name", KV_TYPES)
def test_as_ggml_has_them(name: str) -> None:
    kind = KV_TYPES[name]
    assert kind.number == getattr(library(), f"GGML_TYPE_{name.upper()}")
