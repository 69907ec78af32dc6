from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import pytest

from runtime_stub.engine.context import choose_context, fitting_context
from runtime_stub.engine.hardware import Hardware
from runtime_stub.engine.messages import EngineSettings
from runtime_stub.engine.model import Model
from runtime_stub.errors import EngineError

MB = 1_000_000
PER_TOKEN = 10_000


@dataclass
class FakeModel:
    trained_context: int = 32_768
    size: int = 1000 * MB

    def state_bytes_per_token(self) -> int:
        return PER_TOKEN


def chosen(memory: int, *, context: int | None = None, trained: int = 32_768) -> tuple[int, str]:
    size = choose_context(
        cast("Model", FakeModel(trained)), EngineSettings(context), Hardware(1, 1, memory, memory)
    )
    return size.tokens, size.reason


def test_plenty() -> None:
    assert chosen(64_000 * MB) == (8192, "the default")


def test_small_model() -> None:
    assert chosen(64_000 * MB, trained=2048) == (2048, "the model's")


def test_asked() -> None:
    assert chosen(64_000 * MB, context=20_000) == (20_000, "as asked")


def test_little_memory() -> None:
    tokens, reason = chosen(1000 * MB + (256 << 20) + 1000 * PER_TOKEN)
    assert (tokens, reason) == (768, "what free memory allows")


def test_asked_for_more_than_fits() -> None:
    with pytest.raises(EngineError, match=r"context of 20,000 tokens needs 200 MB") as caught:
        chosen(1000 * MB + (256 << 20) + 1100 * PER_TOKEN, context=20_000)
    assert "--context 1024" in caught.value.hint


@pytest.mark.parametrize("memory", [0, 1000 * MB, 1000 * MB + (256 << 20) + 255 * PER_TOKEN])
def test_too_little_memory(memory: int) -> None:
    with pytest.raises(EngineError, match="needs 1,271 MB of memory"):
        chosen(memory)


@pytest.mark.parametrize(
    ("needed", "tokens"), [(1, 256), (257, 512), (5000, 5120), (10**12, 32_768)]
)
def test_for_one_request(needed: int, tokens: int) -> None:
    assert fitting_context(cast("Model", FakeModel()), needed).tokens == tokens
