from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf_files as g
import pytest
import small_packs as s

from packer.draft import examine_draft
from packer.examine import Examination, examine
from packer.keys import verify_ed25519
from packer.pack import Packed, plan_pack, write_pack
from packer.recipe import ModelFiles, PackingRecipe
from packer.stub import Stub
from packer.unpack import unpack
from runtime_stub.describe import describe_bundle, lines
from runtime_stub.errors import RecipeError, UnsupportedError
from runtime_stub.models import packed_models
from runtime_stub.recipe import ModelRecipe, Recipe, recipe_from
from runtime_stub.server.engines import OVERHEAD, need
from runtime_stub.verify import verify

WORDS = tuple(f"word{number}" for number in range(5000))
"""More than are kept of a header's array."""
TENSORS = (
    g.TensorInfo("token_embd.weight", (64, 40), g.TYPE_Q4_1),
    g.TensorInfo("output_norm.weight", (64,), g.TYPE_F32),
)


def gguf(words: tuple[str, ...] = WORDS, *, name: str = "Main", pooling: int = 0) -> g.Gguf:
    return g.model(
        without=s.NO_TEMPLATE,
        more={
            "tokenizer.ggml.tokens": g.Typed(g.STRING, list(words)),
            "general.name": g.Typed(g.STRING, name),
            "llama.pooling_type": g.Typed(g.U32, pooling),
        },
        tensors=TENSORS,
    )


@pytest.fixture
def main(tmp_path: Path) -> Path:
    return gguf().write(tmp_path / "main.gguf")


@pytest.fixture
def model(main: Path) -> Examination:
    return examine(main)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return gguf(name="Small").write(tmp_path / "small.gguf")


def test_same_tokens(model: Examination, small: Path) -> None:
    assert examine_draft(small, model).name == "Small"


@pytest.mark.parametrize("longer", ["draft", "model"])
def test_one_is_padded(tmp_path: Path, longer: str) -> None:
    padded = (*WORDS, *(f"[PAD{number}]" for number in range(100)))
    words = {"draft": WORDS, "model": WORDS, longer: padded}
    found = examine(gguf(words["model"]).write(tmp_path / "a.gguf"))
    assert examine_draft(gguf(words["draft"]).write(tmp_path / "b.gguf"), found).name


@pytest.mark.parametrize(
    "words",
    [
        (*WORDS[:-1], "other"),
        ("Word0", *WORDS[1:]),
        (WORDS[1], WORDS[0], *WORDS[2:]),
        (*WORDS, *(f"more{number}" for number in range(2000))),
        WORDS[:2000],
    ],
)
def test_other_tokens(tmp_path: Path, model: Examination, words: tuple[str, ...]) -> None:
    path = gguf(words).write(tmp_path / "other.gguf")
    with pytest.raises(UnsupportedError, match="its tokens are others") as caught:
        examine_draft(path, model)
    assert "same family" in caught.value.hint


def test_split_models(tmp_path: Path, small: Path) -> None:
    first, _ = g.split(gguf(), tmp_path / "split", (1, 1))
    assert examine_draft(small, examine(first)).name == "Small"
    assert examine_draft(first, examine(small)).name == "Main"


@pytest.mark.parametrize("architecture", ["mamba", "rwkv7"])
def test_memory_that_can_not_be_cut(tmp_path: Path, model: Examination, architecture: str) -> None:
    path = replace(
        g.model(
            architecture,
            more={
                "tokenizer.ggml.tokens": g.Typed(g.STRING, list(WORDS)),
                f"{architecture}.ssm.inner_size": g.Typed(g.U32, 128),
                f"{architecture}.ssm.state_size": g.Typed(g.U32, 16),
                f"{architecture}.wkv.head_size": g.Typed(g.U32, 16),
            },
            without=s.NO_TEMPLATE,
            tensors=TENSORS,
        )
    ).write(tmp_path / "recurrent.gguf")
    with pytest.raises(UnsupportedError, match="can't take back"):
        examine_draft(path, model)


def test_no_text_generator(tmp_path: Path, model: Examination) -> None:
    path = gguf(pooling=1).write(tmp_path / "embedding.gguf")
    with pytest.raises(UnsupportedError, match="no ordinary text generator"):
        examine_draft(path, model)


def packed(out: Path, stub: Stub, *files: ModelFiles, **recipe: Any) -> Packed:
    models = tuple(ModelRecipe(f"m{number}") for number in range(len(files)))
    made = Recipe("quick", models=models if len(files) > 1 else (), **recipe)
    plan = plan_pack(out / "quick", PackingRecipe(made, files, None), stub, force=False)
    return write_pack(plan, s.nothing, force=False)


class TestPacked:
    def test_belongs_to_its_model(
        self, main: Path, small: Path, out: Path, small_stub: Stub
    ) -> None:
        made = packed(out, small_stub, ModelFiles(main, "mapped", draft=small))
        assert [(part.name, part.kind) for part in made.parts] == [
            ("model", "model"),
            ("draft", "draft"),
        ]
        with s.opened(made.path) as bundle:
            draft = bundle.entry("draft")
            assert draft.requires == (bundle.entry("model").sha256,)
            assert draft.sha256 == hashlib.sha256(small.read_bytes()).hexdigest()
            assert draft.metadata["name"] == "Small"
            recipe = recipe_from(bundle.manifest.recipe or {}, "the pack")
            (model,) = packed_models(bundle, recipe)
            assert model.draft == draft
            both, alone = need(model), need(model, drafts=False)
            assert both - alone == draft.metadata["memory_needed"]
            assert alone == OVERHEAD + model.entry.metadata["memory_needed"]
            assert [region.problem for region in verify(bundle, s.nothing) if region.problem] == []
            document = describe_bundle(bundle, verify_ed25519)
        assert json.loads(json.dumps(document)) == document
        text = "\n".join(lines(document))
        assert "draft      Small, llama" in text
        assert "for the draft" in text

    def test_unpacked(self, main: Path, small: Path, out: Path, small_stub: Stub) -> None:
        made = packed(out, small_stub, ModelFiles(main, "mapped", draft=small))
        with s.opened(made.path) as bundle:
            unpack(bundle, bundle.entry("draft"), out / "back.gguf", s.nothing, force=False)
        assert (out / "back.gguf").read_bytes() == small.read_bytes()

    def test_damage_is_found(self, main: Path, small: Path, out: Path, small_stub: Stub) -> None:
        made = packed(out, small_stub, ModelFiles(main, "mapped", draft=small))
        with s.opened(made.path) as bundle:
            place = bundle.entry("draft").offset + 999
        s.flip(made.path, place)
        with s.opened(made.path) as bundle:
            assert [r.name for r in verify(bundle, s.nothing) if r.problem] == ["draft"]

    def test_one_for_each_of_several(
        self, main: Path, small: Path, tmp_path: Path, out: Path, small_stub: Stub
    ) -> None:
        other = gguf(name="Other").write(tmp_path / "other.gguf")
        tiny = gguf(name="Tiny").write(tmp_path / "tiny.gguf")
        files = (ModelFiles(main, draft=small), ModelFiles(other, draft=tiny))
        with s.opened(packed(out, small_stub, *files).path) as bundle:
            recipe = recipe_from(bundle.manifest.recipe or {}, "the pack")
            drafts = [model.draft for model in packed_models(bundle, recipe)]
        assert [draft.metadata["name"] for draft in drafts if draft is not None] == [
            "Small",
            "Tiny",
        ]

    def test_a_model_that_is_there_twice(
        self, main: Path, small: Path, tmp_path: Path, out: Path, small_stub: Stub
    ) -> None:
        files = (ModelFiles(main, draft=small), ModelFiles(main, draft=small))
        made = packed(out, small_stub, *files)
        assert [part.name for part in made.parts] == ["model", "draft"]
        tiny = gguf(name="Tiny").write(tmp_path / "tiny.gguf")
        with pytest.raises(RecipeError, match="has two drafts"):
            packed(
                tmp_path, small_stub, ModelFiles(main, draft=small), ModelFiles(main, draft=tiny)
            )

    def test_notes(self, main: Path, tmp_path: Path, out: Path, small_stub: Stub) -> None:
        large = gguf(name="Large" * 100).write(tmp_path / "large.gguf")
        recipe = PackingRecipe(Recipe("quick"), (ModelFiles(main, draft=large),), None)
        plan = plan_pack(out / "quick", recipe, small_stub, force=False)
        assert any("hardly saves time" in note for note in plan.notes)
