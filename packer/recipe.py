"""Recipes from TOML files and the command line."""

from __future__ import annotations

import base64
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime_stub.errors import InputError, RecipeError
from runtime_stub.recipe import ENGINE, SAMPLING, TABLES, WRITTEN, Recipe
from runtime_stub.recipe import make_recipe as travelling
from runtime_stub.settings import check

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MAX_RECIPE = 4 << 20
"""A recipe, or a text it names, larger than this, in bytes, is something else."""
MAX_ICON = 32 << 10
"""Largest picture for an icon, in bytes: it travels in the manifest, which every start reads."""


@dataclass(frozen=True)
class ModelFiles:
    """The files of one model, and how to store it."""

    path: Path
    storage: str = "auto"
    """One of "auto", "mapped", "compressed" or "sidecar"."""
    adapters: tuple[Path, ...] = ()
    """In the order of the model's adapters in the recipe."""
    draft: Path | None = None
    """A model that guesses ahead for it."""


@dataclass(frozen=True)
class PackingRecipe:
    """All that decides how a pack is made."""

    recipe: Recipe
    models: tuple[ModelFiles, ...]
    """In the order of `recipe.each_model`; empty when no model was named."""
    output: Path | None
    warm: bool = False
    """Whether system prompts are read while packing."""


def read_recipe(path: Path) -> dict[str, Any]:
    """The values of the recipe file at `path`, with its paths made relative to it.

    Raises InputError when it can't be read, RecipeError when it is not a recipe.
    """
    data = _read(path, f"the recipe {path}")
    if len(data) > MAX_RECIPE:
        raise RecipeError(f"{path} is too large for a recipe", "Is it the model?")
    try:
        document = tomllib.loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise RecipeError(f"{path} is not TOML: {error}") from None
    face = document.get("face")
    if isinstance(face, dict) and isinstance(face.get("icon"), str):
        face["icon"] = icon_or_file(face["icon"], path.parent)
    return _resolved(check(document, WRITTEN, str(path)), path.parent)


def _resolved(values: dict[str, Any], folder: Path) -> dict[str, Any]:
    """`values` with paths and texts in files taken from `folder`, in lists of tables as well."""
    for key, value in values.items():
        if key in ("model", "file", "draft", "output"):
            values[key] = str(folder / value)
        elif key in ("system", "template", "signed_by"):
            values[key] = text_or_file(value, folder)
        elif key in WRITTEN.lists:
            values[key] = [_resolved(item, folder) for item in value]
    return values


def make_recipe(values: Mapping[str, Any], where: str) -> PackingRecipe:
    """Put checked values together: what travels in the pack, and the files it is made of.

    A model or adapter in a list is named after its file where it has no name. Raises
    RecipeError.
    """
    if "model" in values and values.get("models"):
        raise RecipeError(f"{where}: there is both a model and [[models]]", "Keep one of the two")
    if "draft" in values and "model" not in values:
        raise RecipeError(
            f"{where}: a draft guesses for one model", "Write it below the [[models]] it is for"
        )
    models = [
        {**_named(item), "adapters": [_named(adapter) for adapter in item.get("adapters", ())]}
        for item in values.get("models", ())
    ]
    adapters = [_named(adapter) for adapter in values.get("adapters", ())]
    for item in (*models, *adapters, *(a for model in models for a in model["adapters"])):
        if "file" not in item:
            name = item.get("name", "one of the models or adapters")
            raise RecipeError(f"{where}: {name} has no file", 'Add file = "NAME.gguf"')
    recipe = travelling({**values, "models": models, "adapters": adapters}, where)
    if "model" in values:
        models = [{"file": values["model"], "adapters": adapters, "draft": values.get("draft")}]
    return PackingRecipe(
        recipe=recipe,
        models=tuple(
            ModelFiles(
                Path(model["file"]),
                model.get("storage", values.get("storage", "auto")),
                tuple(Path(adapter["file"]) for adapter in model["adapters"]),
                Path(model["draft"]) if model.get("draft") else None,
            )
            for model in models
        ),
        output=Path(values["output"]) if "output" in values else None,
        warm=values.get("warm", False),
    )


def _named(item: Mapping[str, Any]) -> dict[str, Any]:
    """`item` with a name: its own, or what its file is called."""
    if "name" in item or "file" not in item:
        return dict(item)
    stem = re.sub(r"[\s:@/\\]+", "-", Path(item["file"]).stem)[:100]
    return {**item, "name": stem}


def merged(recipe: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """`recipe` with what was said on the command line on top, table by table."""
    if "models" in options:
        recipe = {key: value for key, value in recipe.items() if key != "model"}
    if "model" in options:
        recipe = {key: value for key, value in recipe.items() if key != "models"}
    result = {**recipe, **{key: value for key, value in options.items() if key not in TABLES}}
    for table in TABLES:
        both = {**recipe.get(table, {}), **options.get(table, {})}
        if both:
            result[table] = both
    return check(result, WRITTEN, "the command line")


def from_options(
    models: tuple[Path, ...], adapters: tuple[str, ...], options: Mapping[str, Any]
) -> dict[str, Any]:
    """What the command line decided, in the shape of a recipe."""
    said = {key: value for key, value in options.items() if value is not None}
    if len(models) == 1:
        said["model"] = str(models[0])
    elif models:
        said["models"] = [{"file": str(path)} for path in models]
    if "draft" in said:
        said["draft"] = str(said["draft"])
    if adapters:
        said["adapters"] = [
            {"file": file} if not named else {"name": name, "file": file}
            for name, named, file in (_split_name(text) for text in adapters)
        ]
    engine = {key: said.pop(key) for key in ENGINE if key in said}
    if engine:
        said["engine"] = engine
    sampling = {key: said.pop(key) for key in SAMPLING if key in said}
    if sampling:
        said["sampling"] = sampling
    return said


def _split_name(text: str) -> tuple[str, str, str]:
    """NAME, "=" and FILE of "[NAME=]FILE"; a file may have "=" in its name."""
    name, separator, file = text.partition("=")
    if not separator or os.sep in name:
        return "", "", text
    return name, separator, file


def text_or_file(text: str, folder: Path) -> str:
    """`text`, or for "@FILE" the text of that file. Raises InputError."""
    if not text.startswith("@"):
        return text
    path = folder / text[1:]
    data = _read(path, str(path))
    if len(data) > MAX_RECIPE:
        raise InputError(f"{path} is too large for a text", "Is it the right file?")
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise InputError(f"{path} can't be read: it is not UTF-8 text") from None


def icon_or_file(text: str, folder: Path) -> str:
    """`text`, or for "@FILE" that picture as a data URL. Raises InputError."""
    if not text.startswith("@") or len(text) == 1:
        return text
    path = folder / text[1:]
    data = _read(path, f"the icon {path}")
    if len(data) > MAX_ICON:
        raise InputError(
            f"{path} is too large for an icon: at most {MAX_ICON >> 10} KB",
            "Make it smaller: 128 by 128 pixels are enough",
        )
    kind = _picture_kind(data)
    if kind is None:
        raise InputError(f"{path} is not a picture", "Use PNG, JPEG, WebP or SVG")
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _picture_kind(data: bytes) -> str | None:
    """Which kind of picture this is, as media types name it; None for none that is known."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if data.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "webp"
    return "svg+xml" if b"<svg" in data[:4096] else None


def _read(path: Path, what: str) -> bytes:
    """What `path` holds, or a little more than MAX_RECIPE of it. Raises InputError."""
    try:
        if path.is_dir():
            raise InputError(f"{what} is a folder", "Name a file")
        if path.exists() and not path.is_file():
            raise InputError(f"{what} is not a plain file", "Name a file")
        with path.open("rb") as file:
            return file.read(MAX_RECIPE + 1)
    except OSError as error:
        raise InputError(f"{what} can't be read: {error.strerror}") from None
