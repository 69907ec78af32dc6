from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime_stub.errors import RecipeError
from runtime_stub.recipe import (
    EXAMPLE,
    PACKING,
    SAMPLING,
    SERVER,
    TABLES,
    TOP,
    Example,
    Recipe,
    recipe_from,
)
from runtime_stub.settings import Group, Setting, check, check_value

FULL: dict[str, Any] = {
    "name": "Clara",
    "mode": "serve",
    "system": "Be kind.",
    "template": "{{ messages }}",
    "context": 4096,
    "max_tokens": 100,
    "sampling": {"temperature": 0.5, "top_k": 40, "seed": 2**32 - 1},
    "engine": {"kv": "q8_0", "flash_attention": True, "threads": 4, "batch": 256},
    "server": {"host": "0.0.0.0", "port": 0},
    "face": {
        "greeting": "Ask about doses.",
        "starters": ["Which vaccines?", "سؤال"],
        "icon": "🩺",
        "accent": "#0F766e",
    },
}
TABLED = [(table, key, setting) for table in TABLES for key, setting in TABLES[table].items()]
ALL = [*((key, key, TOP[key]) for key in TOP), *((f"{t}.{k}", k, v) for t, k, v in TABLED)]


def document(path: str, value: object) -> dict[str, Any]:
    table, _, key = path.rpartition(".")
    return {table: {key: value}} if table else {key: value}


def test_round_trip() -> None:
    recipe = recipe_from(FULL, "here")
    assert recipe.document() == FULL
    assert recipe_from(recipe.document(), "here") == recipe


def test_defaults() -> None:
    recipe = recipe_from({}, "here")
    assert recipe == Recipe(name="assistant")
    assert recipe.document() == {"name": "assistant", "mode": "chat"}


def test_empty_text_is_a_decision() -> None:
    assert recipe_from({"system": ""}, "here").document()["system"] == ""


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("sytem", "Did you mean 'system'?"),
        ("max-tokens", "Did you mean 'max_tokens'?"),
        ("Name", "Did you mean 'name'?"),
        ("samplings", "Did you mean 'sampling'?"),
        ("temperature", "It belongs under [sampling]"),
        ("port", "It belongs under [server]"),
        (
            "zzzz",
            "Valid keys: " + ", ".join(sorted([*TOP, *TABLES, "adapters", "examples", "models"])),
        ),
        ("model", None),  # a key of packing does not travel
    ],
)
def test_unknown_key(key: str, hint: str | None) -> None:
    with pytest.raises(RecipeError, match=f"here: unknown key '{key}'") as caught:
        recipe_from({key: 1}, "here")
    assert hint is None or caught.value.hint == hint


def test_unknown_key_in_a_table() -> None:
    with pytest.raises(
        RecipeError, match=r"here, \[sampling\]: unknown key 'temprature'"
    ) as caught:
        recipe_from({"sampling": {"temprature": 1}}, "here")
    assert caught.value.hint == "Did you mean 'temperature'?"


@pytest.mark.parametrize("value", [1, "x", [], None])
def test_table_must_be_one(value: object) -> None:
    with pytest.raises(RecipeError, match=r"\[server\] must be a table"):
        recipe_from({"server": value}, "here")


@pytest.mark.parametrize(("path", "key", "setting"), ALL, ids=[path for path, _, _ in ALL])
class TestEverySetting:
    def test_wrong_types(self, path: str, key: str, setting: Setting) -> None:
        wrong: list[object] = [True, False, None, [], {}]
        wrong += [1, 1.5] if setting.kind in (str, list) else ["1", b"1"]
        if setting.kind is list:
            wrong = [*(item for item in wrong if item != []), "text", [1], [None], ["a", []]]
        wrong += [1.0] if setting.kind is int else []
        if setting.kind is bool:
            wrong = [item for item in wrong if not isinstance(item, bool)] + [0, 1]
        for value in wrong:
            with pytest.raises(RecipeError, match=f"{path} must be "):
                recipe_from(document(path, value), "here")

    def test_bounds(self, path: str, key: str, setting: Setting) -> None:
        if setting.kind in (str, list, bool):
            return
        assert setting.minimum is not None
        assert setting.maximum is not None
        for value in (setting.minimum, setting.maximum):
            recipe_from(document(path, setting.kind(value)), "here")
        beyond: list[float] = [setting.minimum - 1, setting.maximum + 1, 10**400, -(10**400)]
        beyond += [math.nan, math.inf, -math.inf] if setting.kind is float else []
        for value in beyond:
            with pytest.raises(RecipeError, match=f"{path} must be from"):
                recipe_from(document(path, value), "here")

    def test_help(self, path: str, key: str, setting: Setting) -> None:
        assert setting.help
        assert not setting.help.endswith(".")


def test_whole_numbers_are_numbers() -> None:
    assert recipe_from({"sampling": {"temperature": 1}}, "here").sampling == {"temperature": 1.0}


@pytest.mark.parametrize(("key", "settings"), [("mode", TOP), ("storage", PACKING)])
def test_choices(key: str, settings: dict[str, Setting]) -> None:
    for choice in settings[key].choices:
        assert check({key: choice}, Group(settings), "here") == {key: choice}
    with pytest.raises(RecipeError, match=f"{key} must be one of .*, not 'fast'"):
        check({key: "fast"}, Group(settings), "here")


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("starters", ["x"] * 9, "holds 9 texts, more than 8"),
        ("starters", ["good", " "], "must be questions of at most 500 characters, not ' '"),
        ("starters", ["x" * 501], "at most 500"),
        ("starters", ["a\0b"], "characters that are no text"),
        ("icon", "nine char", "one to eight characters, or a picture"),
        ("icon", "", "one to eight characters"),
        ("icon", "data:text/html;base64,AAAA", "or a picture"),
        ("icon", 'data:image/png;base64,A"A', "or a picture"),
        ("accent", "red", "a colour such as #2f6f4e, not 'red'"),
        ("accent", "#2f6f4e;", "a colour"),
    ],
)
def test_face(key: str, value: object, words: str) -> None:
    with pytest.raises(RecipeError, match=f"face.{key} ") as caught:
        recipe_from({"face": {key: value}}, "here")
    assert words in caught.value.message


@pytest.mark.parametrize("text", ["a\0b", "\ud800", "x\udcff"])
def test_text_must_be_text(text: str) -> None:
    with pytest.raises(RecipeError, match="characters that are no text"):
        check_value("system", text, TOP["system"], "here")


VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary()
KEYS = st.sampled_from([*TOP, *TABLES]) | st.text(max_size=4)
INNER = st.sampled_from([*SAMPLING, *SERVER]) | st.text(max_size=4)


@settings(deadline=None)
@given(st.dictionaries(KEYS, VALUES | st.dictionaries(INNER, VALUES, max_size=3), max_size=3))
def test_anything(values: dict[str, Any]) -> None:
    try:
        recipe = recipe_from(values, "here")
    except RecipeError:
        return
    assert recipe_from(recipe.document(), "here") == recipe


def test_quantised_values_need_flash_attention() -> None:
    engine = {"kv": "q8_0", "flash_attention": False}
    with pytest.raises(RecipeError, match=r"here: .* q8_0 need flash attention") as caught:
        recipe_from({"engine": engine}, "here")
    assert "kv f16" in caught.value.hint
    models = [{"name": "a", "engine": {"kv": "q8_0"}}, {"name": "b"}]
    with pytest.raises(RecipeError, match="need flash attention"):
        recipe_from({"engine": {"flash_attention": False}, "models": models}, "here")


def test_each_model_may_compute_in_its_own_way() -> None:
    models = [{"name": "a", "engine": {"kv": "q8_0", "threads": 2}}, {"name": "b"}]
    recipe = recipe_from({"engine": {"threads": 4, "batch": 128}, "models": models}, "here")
    first, second = recipe.each_model()
    assert first.engine == {"kv": "q8_0", "threads": 2, "batch": 128}
    assert second.engine == {"threads": 4, "batch": 128}
    assert recipe_from(recipe.document(), "here") == recipe


class TestExamples:
    FIRST, SECOND = {"user": "1?", "assistant": "1."}, {"user": "2?", "assistant": "2."}

    def test_of_all_models_or_of_one(self) -> None:
        values = {
            "examples": [self.FIRST],
            "models": [{"name": "a"}, {"name": "b", "examples": [self.SECOND]}],
        }
        made = recipe_from(values, "here")
        assert [model.examples for model in made.each_model()] == [
            (Example("1?", "1."),),
            (Example("2?", "2."),),
        ]
        assert recipe_from(made.document(), "the pack") == made

    @pytest.mark.parametrize("key", EXAMPLE)
    def test_both_halves_are_needed(self, key: str) -> None:
        other = {name: text for name, text in self.FIRST.items() if name != key}
        with pytest.raises(RecipeError, match=rf"\[\[examples\]\] 2: it has no {key}"):
            recipe_from({"examples": [self.FIRST, other]}, "here")
