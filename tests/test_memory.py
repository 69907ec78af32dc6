"""The cache: layers × heads × (key + value) × 2 bytes for each token."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import gguf_files as g
import pytest
from gguf_files import Typed

from packer.examine import Examination, examine


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tiny.gguf"


def look(
    path: Path,
    architecture: str = "llama",
    more: Mapping[str, Typed] | None = None,
    **metadata: Typed,
) -> Examination:
    keys = {**(more or {}), **{key.replace("__", "."): value for key, value in metadata.items()}}
    return examine(g.model(architecture, keys).write(path))


def u32(value: int | list[int]) -> Typed:
    return Typed(g.U32, value)


def test_plain(path: Path) -> None:
    found = look(path)
    per_token = 2 * 2 * (16 + 16) * 2
    assert found.cache.per_token == per_token
    compute = 512 * 4 * (1024 + 2 * 64 + 2 * 128)
    assert found.memory_needed(2048) == found.weights + 2048 * per_token + compute
    assert found.memory_needed(2048, flash_attention=False) > found.memory_needed(2048)


def test_heads_of_each_layer(path: Path) -> None:
    found = look(path, llama__attention__head_count_kv=u32([4, 0]))
    assert found.heads_kv == 4
    assert found.cache.per_token == 4 * (16 + 16) * 2


def test_one_head_count(path: Path) -> None:
    found = examine(g.model(without=["llama.attention.head_count_kv"]).write(path))
    assert found.cache.per_token == 2 * 4 * (16 + 16) * 2


def test_lengths(path: Path) -> None:
    lengths = {"llama.attention.key_length": u32(8), "llama.attention.value_length": u32(4)}
    assert look(path, more=lengths).cache.per_token == 2 * 2 * (8 + 4) * 2


def test_one_row_for_both(path: Path) -> None:
    found = look(
        path,
        "deepseek2",
        llama__attention__head_count_kv=u32(1),
        llama__attention__key_length=u32(576),
        llama__attention__value_length=u32(512),
        llama__attention__key_length_mla=u32(192),
    )
    assert found.cache.per_token == 2 * 576 * 2


def test_window_by_architecture(path: Path) -> None:
    found = look(
        path,
        "gemma3",
        llama__block_count=u32(12),
        llama__attention__sliding_window=u32(512),
    )
    assert found.sliding_window == 512
    assert found.cache.per_token == 2 * 2 * 32 * 2
    assert found.cache.per_window_token == 10 * 2 * 32 * 2
    assert found.cache.bytes_for(100) == 12 * 2 * 32 * 2 * 100
    grown = found.cache.bytes_for(101_024) - found.cache.bytes_for(1024)
    assert grown == found.cache.per_token * 100_000


def test_window_of_each_layer(path: Path) -> None:
    found = look(
        path,
        "mimo2",
        llama__attention__sliding_window=u32(128),
        llama__attention__sliding_window_pattern=Typed(g.BOOL, [True, False]),
        llama__attention__key_length_swa=u32(4),
        llama__attention__value_length_swa=u32(2),
    )
    assert found.cache.per_token == 2 * 32 * 2
    assert found.cache.per_window_token == 2 * 6 * 2


def test_window_that_llama_cpp_ignores(path: Path) -> None:
    found = look(path, llama__attention__sliding_window=u32(4096))
    assert found.sliding_window == 0
    assert found.cache.per_window_token == 0


def test_recurrent(path: Path) -> None:
    ssm = {"conv_kernel": 4, "inner_size": 128, "state_size": 16}
    found = look(path, "mamba", {f"llama.ssm.{key}": u32(ssm[key]) for key in ssm})
    assert found.cache.per_token == 0
    assert found.cache.state == 2 * (3 * 128 + 128 * 16) * 4


def test_hybrid(path: Path) -> None:
    found = look(path, "qwen3next", llama__block_count=u32(8), llama__ssm__state_size=u32(2))
    assert found.cache.per_token == 2 * 2 * 32 * 2


def test_shared(path: Path) -> None:
    found = look(path, "gemma4", llama__attention__shared_kv_layers=u32(1))
    assert found.cache.per_token == 2 * 32 * 2


def test_none_without_a_cache(path: Path) -> None:
    assert look(path, "bert").cache.bytes_for(512) == 0
