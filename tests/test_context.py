from __future__ import annotations

import mmap
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest
import tiny_models
from engine_fixtures import loaded, sample_model, sample_source

from runtime_stub.engine.context import Context, ContextSize, choose_context, fitting_context
from runtime_stub.engine.hardware import Hardware
from runtime_stub.engine.kv import KV_TYPES
from runtime_stub.engine.library import library
from runtime_stub.engine.messages import EngineSettings, ModelSource
from runtime_stub.engine.model import Model, load_model
from runtime_stub.errors import EngineError

__all__ = ["sample_model", "sample_source"]

MB = 1_000_000
PER_TOKEN = 10_000


@dataclass
class FakeModel:
    trained_context: int = 32_768
    memory: int = 1000 * MB

    def state_bytes_per_token(self, kv: str) -> int:
        return KV_TYPES[kv].bytes_of(PER_TOKEN // 2)


def chosen(
    memory: int, *, context: int | None = None, trained: int = 32_768, kv: str = "f16"
) -> tuple[int, str]:
    settings = EngineSettings(context, kv=kv)
    size = choose_context(FakeModel(trained), settings, Hardware(1, 1, memory, memory))
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
    assert "--context 1024 or less, or --kv q8_0" in caught.value.hint


def test_smaller_keys_and_values_make_room() -> None:
    memory = 1000 * MB + (256 << 20) + 1100 * PER_TOKEN
    assert chosen(memory, context=2000, kv="q8_0") == (2000, "as asked")
    assert chosen(memory, kv="q8_0") == (2048, "what free memory allows")
    with pytest.raises(EngineError) as caught:
        chosen(memory, context=20_000, kv="q8_0")
    assert caught.value.hint == "Use --context 2048 or less"


@pytest.mark.parametrize("memory", [0, 1000 * MB, 1000 * MB + (256 << 20) + 255 * PER_TOKEN])
def test_too_little_memory(memory: int) -> None:
    with pytest.raises(EngineError, match="needs 1,271 MB of memory"):
        chosen(memory)


@pytest.mark.parametrize(
    ("needed", "tokens"), [(1, 256), (257, 512), (5000, 5120), (10**12, 32_768)]
)
def test_for_one_request(needed: int, tokens: int) -> None:
    assert fitting_context(cast("Model", FakeModel()), needed).tokens == tokens


@contextmanager
def made(path: Path, **settings: Any) -> Iterator[Context]:
    with loaded(path) as model:
        context = Context(model, ContextSize(256, ""), EngineSettings(**settings), threads=1)
        try:
            yield context
        finally:
            context.free()


def state_size(path: Path, kv: str) -> int:
    with made(path, kv=kv) as context:
        for position in range(100):
            context.add(position % 90, position, 0, output=False)
        assert context.decode() == 0
        return context.state_size(0)


def test_keys_and_values_are_kept_as_is_said(tmp_path: Path) -> None:
    path = tiny_models.plain(tmp_path / "model.gguf", head=32)
    sizes = {kv: state_size(path, kv) for kv in KV_TYPES}
    assert sizes["q8_0"] / sizes["f16"] == pytest.approx(17 / 32, abs=0.05)


def test_without_flash_attention_values_are_kept_whole(tmp_path: Path) -> None:
    path = tiny_models.plain(tmp_path / "model.gguf", head=32)
    with (
        pytest.raises(EngineError, match="kept as q8_0 need flash attention") as caught,
        made(path, kv="q8_0", flash_attention=False),
    ):
        pass
    assert "kv f16" in caught.value.hint


def test_heads_that_are_no_multiple_of_a_block(tmp_path: Path) -> None:
    path = tiny_models.plain(tmp_path / "model.gguf", head=16)
    with (
        pytest.raises(EngineError, match=r"can't be kept as q8_0: .* 32 .* its heads have 16"),
        made(path, kv="q8_0"),
    ):
        pass


def test_threads(tmp_path: Path) -> None:
    path = tiny_models.plain(tmp_path / "model.gguf")
    llama = library()
    for settings, expected in (
        ({}, (1, 1)),
        ({"threads": 3}, (3, 3)),
        ({"threads": 3, "prompt_threads": 2}, (3, 2)),
        ({"prompt_threads": 2}, (1, 2)),
    ):
        with made(path, **settings) as context:
            found = (
                llama.llama_n_threads(context.handle),
                llama.llama_n_threads_batch(context.handle),
            )
        assert found == expected


@pytest.mark.skipif(
    sys.platform != "linux", reason="only there memory costs nothing until it is used"
)
def test_an_empty_context_takes_no_memory(sample_source: ModelSource) -> None:
    """And one that is emptied takes none any more; what it computes then is the same."""

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE

    def computed(context: Context) -> list[float]:
        context.clear_batch()
        for position in range(500):
            context.add(100 + position % 50, position, 0, output=position == 499)
        assert context.decode() == 0
        logits: list[float] = library().llama_get_logits_ith(context.handle, 499)[:100]
        return logits

    model = load_model(sample_source, lambda _: True)
    before = resident()
    context = Context(model, ContextSize(8192, ""), EngineSettings(), threads=1)
    cache = 8192 * model.state_bytes_per_token()
    assert cache > 150 * MB
    assert resident() - before < 30 * MB
    first = computed(context)
    used = resident()
    llama = library()
    llama.llama_memory_clear(llama.llama_get_memory(context.handle), True)
    assert used - resident() > 500 * model.state_bytes_per_token() // 2
    assert computed(context) == first
    context.free()
    model.free()
