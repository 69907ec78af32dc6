from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import gguf_files as g
import pytest
from gguf_files import TensorInfo, Typed
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from packer.examine import Examination, examine
from packer.tensor_types import TensorType
from runtime_stub.errors import FormatError, InputError, SatchelError, UnsupportedError

ARCHITECTURES = ("llama", "qwen2", "gemma3", "bert", "mamba")


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


def string(value: str) -> Typed:
    return Typed(g.STRING, value)


class TestFacts:
    def test_model(self, path: Path) -> None:
        found = look(path)
        assert found.paths == (path,)
        assert found.size == path.stat().st_size == found.plan.size
        assert not found.is_split
        assert (found.architecture, found.kind, found.name) == ("llama", "generator", "Tiny")
        assert found.quantization == "Q4_1"
        assert found.parameters == 64 * 96 + 5 + 64 * 64 + 7 + 64 * 64
        assert (found.layers, found.heads, found.heads_kv) == (2, 4, 2)
        assert (found.key_length, found.value_length) == (16, 16)
        assert (found.context_length, found.embedding_length, found.vocabulary) == (2048, 64, 96)
        assert found.feed_forward_length == 128
        assert (found.sliding_window, found.experts, found.experts_used) == (0, 0, 0)
        assert found.has_chat_template
        assert found.chat_template == g.TEMPLATE
        assert found.licence == {"license": "apache-2.0", "organization": "Nobody"}
        assert found.notes == ()

    def test_split(self, tmp_path: Path) -> None:
        paths = g.split(g.model(), tmp_path / "tiny", [2, 3])
        found = examine(paths[0])
        assert found.is_split
        assert found.paths == tuple(paths)
        assert found.parameters == look(tmp_path / "whole.gguf").parameters

    def test_storage_gain(self, path: Path) -> None:
        found = look(path)
        floating = 64 * 96 * 2 + 5 * 4 + 7 * 4
        assert found.weights == floating + 2 * 2560
        assert found.floating == pytest.approx(floating / found.weights)

    def test_names_come_from_the_given_table(self, path: Path) -> None:
        types = {0: TensorType("f32", 1, 4), 1: TensorType("new", 1, 2), 3: TensorType("q", 32, 20)}
        g.model(without=["general.file_type"]).write(path)
        assert examine(path, tensor_types=types).quantization == "NEW"

    @pytest.mark.parametrize(
        ("file_type", "label"),
        [
            *((0, "F32"), (1, "F16"), (15, "Q4_K_M"), (32, "BF16"), (1024 + 7, "Q8_0")),
            *((22, "IQ3_XS"), (31, "IQ1_M"), (36, "TQ1_0"), (41, "Q2_0"), (18, "Q6_K")),
            *((5, "F16"), (999, "F16")),  # meaningless: the type of most bytes
        ],
    )
    def test_quantization(self, path: Path, file_type: int, label: str) -> None:
        assert look(path, general__file_type=u32(file_type)).quantization == label

    def test_name_of_a_nameless_model(self, path: Path) -> None:
        assert examine(g.model(without=["general.name"]).write(path)).name == "tiny"

    def test_experts(self, path: Path) -> None:
        found = look(path, llama__expert_count=u32(8), llama__expert_used_count=u32(2))
        assert (found.experts, found.experts_used) == (8, 2)

    def test_named_templates(self, path: Path) -> None:
        key = "tokenizer.chat_template"
        found = look(path, more={f"{key}s": Typed(g.STRING, ["t"]), f"{key}.t": string("x")})
        assert found.chat_templates == {"t": "x"}

    def test_licence(self, path: Path) -> None:
        base = {"general.base_model.count": u32(1), "general.base_model.0.name": string("Base")}
        found = look(path, more=base, general__license__link=string("https://example.org"))
        assert found.licence["license.link"] == "https://example.org"
        assert found.licence["base_model.0.name"] == "Base"

    @pytest.mark.parametrize(
        ("architecture", "kind"),
        [
            *(("bert", "embedding"), ("t5", "encoder-decoder"), ("llada", "diffusion")),
            *(("eagle3", "draft"), ("wavtokenizer-dec", "audio"), ("qwen2", "generator")),
        ],
    )
    def test_kind(self, path: Path, architecture: str, kind: str) -> None:
        found = look(path, architecture)
        assert found.kind == kind
        assert any("no ordinary text generator" in note for note in found.notes) == (
            kind != "generator"
        )

    def test_generator_that_pools_makes_embeddings(self, path: Path) -> None:
        assert look(path, llama__pooling_type=u32(3)).kind == "embedding"

    def test_values_of_the_wrong_type_are_absent(self, path: Path) -> None:
        found = look(
            path,
            llama__context_length=string("long"),
            llama__embedding_length=Typed(g.I32, -1),
            llama__attention__head_count=Typed(g.F32, [1.0]),
            general__base_model__count=string("2"),
            general__name=u32(1),
        )
        assert (found.context_length, found.embedding_length, found.heads) == (0, 0, 0)
        assert found.name == "tiny"


class TestNotes:
    def test_context(self, path: Path) -> None:
        g.model().write(path)
        assert examine(path, context=2048).notes == ()
        assert "trained for 2,048" in examine(path, context=4096).notes[0]

    def test_no_template(self, path: Path) -> None:
        found = examine(g.model(without=["tokenizer.chat_template"]).write(path))
        assert not found.has_chat_template
        assert "no chat template" in found.notes[0]

    def test_huge_template(self, path: Path) -> None:
        found = look(path, tokenizer__chat_template=string("x" * (1 << 20) + "x"))
        assert found.has_chat_template
        assert found.chat_template == ""
        assert "1,048,577 bytes" in found.notes[0]

    def test_no_licence(self, path: Path) -> None:
        found = examine(g.model(without=["general.license"]).write(path))
        assert "licence" in found.notes[0]

    def test_trailing_bytes(self, path: Path) -> None:
        path.write_bytes(g.model().build() + bytes(1000))
        assert "bytes behind the last tensor" in examine(path).notes[0]


class TestRefusals:
    def test_unknown_architecture(self, path: Path) -> None:
        g.model("qwen22").write(path)
        with pytest.raises(UnsupportedError) as caught:
            examine(path, architectures=ARCHITECTURES, llama_cpp="b9999")
        assert "'qwen22', which llama.cpp b9999 does not know; it knows qwen2" in str(caught.value)
        assert caught.value.hint

    def test_architecture_like_no_other(self, path: Path) -> None:
        g.model("zzz").write(path)
        with pytest.raises(UnsupportedError, match=r"the stub's llama\.cpp does not know"):
            examine(path, architectures=ARCHITECTURES)
        assert examine(path).architecture == "zzz"

    @pytest.mark.parametrize(
        ("kind", "what"),
        [("adapter", "LoRA"), ("mmproj", "image or audio"), ("imatrix", "importance")],
    )
    def test_types_that_are_not_models(self, path: Path, kind: str, what: str) -> None:
        with pytest.raises(UnsupportedError, match=what):
            look(path, general__type=string(kind))

    def test_clip(self, path: Path) -> None:
        g.model("clip").write(path)
        with pytest.raises(UnsupportedError, match="image or audio half"):
            examine(path, architectures=ARCHITECTURES)

    def test_no_architecture(self, path: Path) -> None:
        g.model(without=["general.architecture"]).write(path)
        with pytest.raises(FormatError, match="does not say its architecture"):
            examine(path)

    def test_no_tensors(self, path: Path) -> None:
        g.model(tensors=()).write(path)
        with pytest.raises(FormatError, match="holds no tensors"):
            examine(path)

    def test_no_tokenizer(self, path: Path) -> None:
        g.model(without=["tokenizer.ggml.model"]).write(path)
        with pytest.raises(FormatError, match="no tokenizer"):
            examine(path)

    def test_data_that_cannot_be_mapped(self, path: Path) -> None:
        starts = set()
        for length in range(32):  # a small alignment is fine where the data happens to fit
            name = {"general.name": string("x" * length), "general.alignment": u32(8)}
            gguf = replace(g.model(more=name), alignment=8)
            gguf.write(path)
            start = len(g.pad(gguf.header(), 8))
            starts.add(start % 32)
            if start % 32:
                with pytest.raises(UnsupportedError, match="no multiple of 32"):
                    examine(path)
            else:
                examine(path)
        assert starts == {0, 8, 16, 24}

    def test_too_many_layers(self, path: Path) -> None:
        with pytest.raises(UnsupportedError, match="513 layers"):
            look(path, llama__block_count=u32(513))

    def test_missing(self, path: Path) -> None:
        with pytest.raises(InputError):
            examine(path)


KEYS = (
    "block_count attention.head_count attention.head_count_kv attention.key_length "
    "attention.sliding_window attention.sliding_window_pattern attention.recurrent_layers "
    "attention.shared_kv_layers expert_count context_length ssm.state_size ssm.inner_size "
    "full_attention_interval vocab_size pooling_type wkv.head_size"
)
NUMBERS = st.integers(0, 2**32 - 1) | st.integers(0, 9)
VALUES = (
    st.builds(u32, NUMBERS)
    | st.builds(u32, st.lists(NUMBERS, max_size=9))
    | st.builds(lambda items: Typed(g.BOOL, items), st.lists(st.booleans(), max_size=5))
    | st.builds(lambda value: Typed(g.I64, value), st.integers(-(2**63), 2**63 - 1))
    | st.builds(lambda value: Typed(g.F64, value), st.floats())
    | st.builds(lambda value: Typed(g.STRING, value.encode(errors="replace")), st.text(max_size=5))
)


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    st.sampled_from([*ARCHITECTURES, "qwen3next", "gemma3n", "falcon-h1", "cohere2moe"]),
    st.dictionaries(st.sampled_from(KEYS.split()), VALUES, max_size=6),
)
def test_any_values(tmp_path: Path, architecture: str, values: dict[str, Typed]) -> None:
    metadata = {f"llama.{key}": value for key, value in values.items()}
    tensors = (TensorInfo("token_embd.weight", (8,)),)
    path = g.model(architecture, metadata, tensors=tensors).write(tmp_path / "any.gguf")
    found = None
    refused = ""
    try:
        found = examine(path, context=4096)
    except SatchelError as error:
        refused = str(error)
    assert bool(found) != bool(refused)
    assert found is None or found.memory_needed(4096) >= found.weights
