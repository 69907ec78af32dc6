from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from packer.recipe import (
    MAX_ICON,
    MAX_RECIPE,
    ModelFiles,
    PackingRecipe,
    make_recipe,
    merged,
    read_recipe,
    text_or_file,
)
from runtime_stub.errors import InputError, RecipeError, SatchelError
from runtime_stub.recipe import AdapterRecipe, ModelRecipe, Recipe, recipe_from

FULL = """
model = "models/tiny.gguf"
output = "assistant"
storage = "sidecar"
name = "Clara"
mode = "serve"
system = "@prompt.txt"
template = "@template.jinja"
context = 4096
max_tokens = 100

[sampling]
temperature = 1
seed = 7

[server]
port = 0
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "clinic.toml"


def written(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_full(path: Path) -> None:
    (path.parent / "prompt.txt").write_text("Be kind.\n", encoding="utf-8")
    (path.parent / "template.jinja").write_text("{{ messages }}", encoding="utf-8")
    packing = make_recipe(read_recipe(written(path, FULL)), "here")
    assert packing.models == (ModelFiles(path.parent / "models" / "tiny.gguf", "sidecar"),)
    assert packing.output == path.parent / "assistant"
    assert packing.recipe == Recipe(
        name="Clara",
        mode="serve",
        system="Be kind.\n",
        template="{{ messages }}",
        context=4096,
        max_tokens=100,
        sampling={"temperature": 1.0, "seed": 7},
        server={"port": 0},
    )


PNG = b"\x89PNG\r\n\x1a\n"
FACE = """
[face]
greeting = "Ask about doses."
starters = ["Which vaccines?"]
icon = "@logo"
accent = "#0f766e"
"""


@pytest.mark.parametrize(
    ("picture", "start"),
    [
        (PNG + b"rest", "data:image/png;base64,iVBORw0KGgpyZXN0"),
        (PNG + bytes(MAX_ICON - len(PNG)), "data:image/png;base64,iVBORw0KGgo"),
        (b"\xff\xd8\xff\xe0", "data:image/jpeg;base64,"),
        (b"RIFF\0\0\0\0WEBPVP8 ", "data:image/webp;base64,"),
        (b"<?xml version='1.0'?>\n<svg/>", "data:image/svg+xml;base64,"),
    ],
)
def test_face(path: Path, picture: bytes, start: str) -> None:
    (path.parent / "logo").write_bytes(picture)
    face = make_recipe(read_recipe(written(path, FACE)), "nameless").recipe.face
    assert face["icon"].startswith(start)
    assert face["starters"] == ["Which vaccines?"]


def test_icon_of_one_character(path: Path) -> None:
    assert read_recipe(written(path, '[face]\nicon = "@"'))["face"] == {"icon": "@"}


@pytest.mark.parametrize(
    ("picture", "match"),
    [
        (None, "the icon .*logo can't be read: No such file"),
        (b"GIF89a", "logo is not a picture"),
        (PNG + bytes(MAX_ICON), "logo is too large for an icon: at most 32 KB"),
    ],
)
def test_no_icon(path: Path, picture: bytes | None, match: str) -> None:
    if picture is not None:
        (path.parent / "logo").write_bytes(picture)
    with pytest.raises(InputError, match=match):
        read_recipe(written(path, FACE))


def test_empty(path: Path) -> None:
    packing = make_recipe(read_recipe(written(path, "")), "here")
    assert packing == PackingRecipe(Recipe("assistant"), (), None)


SEVERAL = """
system = "Be kind."
storage = "mapped"

[sampling]
temperature = 1

[[models]]
file = "chat model.gguf"

[[models]]
name = "code"
file = "code.gguf"
storage = "sidecar"
system = "@prompt.txt"
[models.sampling]
temperature = 0
[[models.adapters]]
file = "sql.gguf"
[[models.adapters]]
name = "shell"
file = "shell.gguf"
scale = 0.5
apply = "always"
"""


def test_several_models(path: Path) -> None:
    (path.parent / "prompt.txt").write_text("Write code.", encoding="utf-8")
    packing = make_recipe(read_recipe(written(path, SEVERAL)), "here")
    folder = path.parent
    assert packing.models == (
        ModelFiles(folder / "chat model.gguf", "mapped"),
        ModelFiles(folder / "code.gguf", "sidecar", (folder / "sql.gguf", folder / "shell.gguf")),
    )
    first, second = packing.recipe.each_model()
    assert first == ModelRecipe("chat-model", "Be kind.", sampling={"temperature": 1.0})
    assert second == ModelRecipe(
        "code",
        "Write code.",
        sampling={"temperature": 0.0},
        adapters=(AdapterRecipe("sql"), AdapterRecipe("shell", 0.5, "always")),
    )


def test_guessing_is_decided_for_all_models_or_for_one(path: Path) -> None:
    text = 'drafts = false\n[[models]]\nfile = "a.gguf"\n[[models]]\nfile = "b.gguf"\n'
    packing = make_recipe(read_recipe(written(path, f"{text}drafts = true")), "here")
    assert [model.drafts for model in packing.recipe.each_model()] == [False, True]
    travelled = recipe_from(packing.recipe.document(), "the pack")
    assert [model.drafts for model in travelled.each_model()] == [False, True]


def test_adapters_of_the_only_model(path: Path) -> None:
    text = 'model = "m.gguf"\n[[adapters]]\nfile = "sql.gguf"'
    packing = make_recipe(read_recipe(written(path, text)), "here")
    folder = path.parent
    assert packing.models == (ModelFiles(folder / "m.gguf", "auto", (folder / "sql.gguf",)),)
    assert packing.recipe.adapters == (AdapterRecipe("sql"),)


def test_drafts_of_one_model_and_of_several(path: Path) -> None:
    folder = path.parent
    packing = make_recipe(read_recipe(written(path, 'model = "m.gguf"\ndraft = "s.gguf"')), "here")
    assert packing.models == (ModelFiles(folder / "m.gguf", draft=folder / "s.gguf"),)
    text = '[[models]]\nfile = "a.gguf"\ndraft = "s.gguf"\n[[models]]\nfile = "b.gguf"'
    packing = make_recipe(read_recipe(written(path, text)), "here")
    assert [model.draft for model in packing.models] == [folder / "s.gguf", None]
    assert "draft" not in packing.recipe.document()


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ('draft = "s"\n[[models]]\nfile = "a"', "guesses for one model"),
        ('model = "a"\n[[models]]\nfile = "b"', "both a model and"),
        ('[[models]]\nname = "a"', "a has no file"),
        ("[[models]]\n[models.sampling]\nseed = 1", "has no file"),
        ('[[models]]\nfile = "a"\n[[models]]\nfile = "b/a.gguf"', "2: the name 'a' is taken"),
        ('[[models]]\nfile = "default.gguf"', "'default' is taken"),
        ('[[models]]\nfile = "a"\n[[adapters]]\nfile = "b"', "belong to one of the models"),
        ('model = "a"\n[[adapters]]\nname = "b"', "b has no file"),
        (
            'model = "a"\n[[adapters]]\nfile = "b"\n[[adapters]]\nfile = "b"',
            r"\[\[adapters\]\] 2: the name 'b' is taken",
        ),
    ],
)
def test_refused_lists(path: Path, text: str, match: str) -> None:
    with pytest.raises(RecipeError, match=match):
        make_recipe(read_recipe(written(path, text)), "here")


def test_absolute_paths_stay(path: Path) -> None:
    values = read_recipe(written(path, 'model = "/models/m.gguf"'))
    assert values["model"] == "/models/m.gguf"


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("model = ", "is not TOML"),
        ("just words", "is not TOML"),
        ("a = 1\na = 2", "is not TOML"),
        (b"\xff\xfe", "is not TOML"),
        ("x = " + "[" * 100_000, "is not TOML"),
        ("context = " + "9" * 5000, "is not TOML"),
        ("temprature = 1", "unknown key 'temprature'"),
        ("[sampling]\ntemprature = 1", r"\[sampling\]: unknown key 'temprature'"),
        ("storage = 'zip'", "storage must be one of auto, mapped, compressed, sidecar"),
        ("context = 1", "context must be from 64 to"),
        ("context = true", "context must be a whole number"),
        ("[sampling]\ntemperature = nan", "temperature must be from 0 to 10, not nan"),
        ("[sampling]\ntemperature = inf", "temperature must be from 0 to 10"),
        ("[sampling]\ntemperature = " + "9" * 400, "temperature must be from 0 to 10"),
        ("[server]\nport = 70000", "port must be from 0 to 65535"),
        ("sampling = 1", r"\[sampling\] must be a table"),
        ("name = 2024-01-01", "name must be text"),
        ('model = "a\\u0000b"', "no text"),
    ],
)
def test_refused(path: Path, text: str | bytes, match: str) -> None:
    with pytest.raises(RecipeError, match=match) as caught:
        read_recipe(written(path, text))
    assert str(path) in caught.value.message


def test_nearest_key(path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        read_recipe(written(path, "storrage = 'mapped'"))
    assert caught.value.hint == "Did you mean 'storage'?"


class TestFiles:
    def test_missing(self, path: Path) -> None:
        with pytest.raises(InputError, match="can't be read: No such file"):
            read_recipe(path)

    def test_folder(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="is a folder"):
            read_recipe(tmp_path)

    def test_long_name(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="can't be read"):
            read_recipe(tmp_path / ("x" * 300))

    def test_the_model_is_not_read_whole(self, path: Path) -> None:
        path.touch()
        os.truncate(path, 1 << 40)  # sparse
        with pytest.raises(RecipeError, match="too large for a recipe"):
            read_recipe(path)

    def test_largest(self, path: Path) -> None:
        written(path, "#" * MAX_RECIPE)
        assert read_recipe(path) == {}


class TestText:
    def test_plain(self, tmp_path: Path) -> None:
        assert text_or_file("Be kind @ all times.", tmp_path) == "Be kind @ all times."

    @pytest.mark.parametrize(
        ("content", "match"),
        [
            (None, "No such file"),
            (b"\xff\xfe", "not UTF-8 text"),
            (b"x" * (MAX_RECIPE + 1), "too large for a text"),
        ],
    )
    def test_bad_files(self, tmp_path: Path, content: bytes | None, match: str) -> None:
        if content is not None:
            (tmp_path / "prompt").write_bytes(content)
        with pytest.raises(InputError, match=match):
            text_or_file("@prompt", tmp_path)

    def test_folder(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="is a folder"):
            text_or_file("@", tmp_path)


class TestMerged:
    def test_command_line_wins(self) -> None:
        recipe = {"name": "a", "context": 100, "sampling": {"top_k": 1, "seed": 2}}
        options = {"name": "b", "sampling": {"seed": 3}}
        assert merged(recipe, options) == {
            "name": "b",
            "context": 100,
            "sampling": {"top_k": 1, "seed": 3},
        }
        assert recipe["sampling"] == {"top_k": 1, "seed": 2}

    def test_models_on_the_command_line_replace_the_recipes(self) -> None:
        several = {"models": [{"file": "a"}, {"file": "b"}]}
        assert merged({"model": "c"}, several) == several
        assert merged(several, {"model": "c"}) == {"model": "c"}

    def test_nothing(self) -> None:
        assert merged({}, {}) == {}

    def test_checked(self) -> None:
        with pytest.raises(RecipeError, match=r"the command line: sampling\.top_p must be from"):
            merged({}, {"sampling": {"top_p": 2.0}})


@settings(
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    st.binary(max_size=60) | st.text(max_size=60).map(lambda text: text.encode("utf-8", "replace"))
)
def test_noise(path: Path, data: bytes) -> None:
    refused = False
    try:
        read_recipe(written(path, data))
    except SatchelError:
        refused = True
    assert refused in (False, True)
