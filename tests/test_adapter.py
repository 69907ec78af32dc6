from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import gguf_files as g
import pytest

from packer.adapter import examine_adapter
from packer.examine import Examination, examine
from runtime_stub.errors import FormatError, SatchelError, UnsupportedError

METADATA = {
    "general.architecture": g.Typed(g.STRING, "llama"),
    "general.type": g.Typed(g.STRING, "adapter"),
    "general.name": g.Typed(g.STRING, "Clinic"),
    "general.license": g.Typed(g.STRING, "mit"),
    "adapter.type": g.Typed(g.STRING, "lora"),
}
QUERY = "blk.0.attn_q.weight"
A, B = g.TensorInfo(f"{QUERY}.lora_a", (64, 4)), g.TensorInfo(f"{QUERY}.lora_b", (4, 64))
EMBEDDING = (
    g.TensorInfo("token_embd.weight.lora_a", (8, 96)),
    g.TensorInfo("token_embd.weight.lora_b", (8, 64)),
)


@pytest.fixture
def model(tmp_path: Path) -> Examination:
    return examine(g.model().write(tmp_path / "model.gguf"))


def made(tmp_path: Path, *tensors: g.TensorInfo, **metadata: str) -> Path:
    keys = {
        **METADATA,
        **{key.replace("__", "."): g.Typed(g.STRING, value) for key, value in metadata.items()},
    }
    return g.Gguf(keys, tensors).write(tmp_path / "adapter.gguf")


def test_facts(tmp_path: Path, model: Examination) -> None:
    path = made(tmp_path, A, B, *EMBEDDING, g.TensorInfo("blk.0.attn_norm.weight", (5,)))
    found = examine_adapter(path, model)
    assert (found.name, found.rank, found.floating) == ("Clinic", 8, 1.0)
    assert found.size == path.stat().st_size == found.plan.size
    assert found.licence["license"] == "mit"


@pytest.mark.parametrize(
    ("tensors", "metadata", "error", "match"),
    [
        ((A, B), {"general__type": "model"}, UnsupportedError, "is not a LoRA adapter"),
        ((A, B), {"adapter__type": "ia3"}, UnsupportedError, "'ia3'; only LoRA"),
        ((A, B), {"general__architecture": "qwen2"}, UnsupportedError, "'qwen2', and the model's"),
        ((), {}, FormatError, "no tensors"),
        ((A,), {}, FormatError, "only one half of the pair"),
        ((A, B, g.TensorInfo("x.lora_c")), {}, FormatError, "'x.lora_c', which is not what"),
        (
            (replace(A, name="y.lora_a"), replace(B, name="y.lora_b")),
            {},
            UnsupportedError,
            "'y', which the model does not have",
        ),
        ((replace(A, shape=(32, 4)), B), {}, UnsupportedError, "in a shape"),
        ((A, replace(B, shape=(4, 32))), {}, UnsupportedError, "in a shape"),
        ((A, replace(B, shape=(2, 64))), {}, UnsupportedError, "in a shape"),
        ((EMBEDDING[0], replace(EMBEDDING[1], shape=(8, 96))), {}, UnsupportedError, "in a shape"),
    ],
)
def test_refused(
    tmp_path: Path,
    model: Examination,
    tensors: tuple[g.TensorInfo, ...],
    metadata: dict[str, str],
    error: type[SatchelError],
    match: str,
) -> None:
    path = made(tmp_path, *tensors, **metadata)
    with pytest.raises(error, match=match) as caught:
        examine_adapter(path, model)
    assert str(path) in caught.value.message
