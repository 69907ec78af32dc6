"""Recipes from TOML files and the command line."""

from __future__ import annotations

import base64
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime_stub.errors import InputError, RecipeError
from runtime_stub.recipe import PACKING, TABLES, TOP, Recipe, check

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MAX_RECIPE = 4 << 20
"""A recipe, or a text it names, larger than this, in bytes, is something else."""
MAX_ICON = 32 << 10
"""Largest picture for an icon, in bytes: it travels in the manifest, which every start reads."""


@dataclass(frozen=True)
class PackingRecipe:
    """All that decides how a pack is made. None means: not decided."""

    recipe: Recipe
    model: Path | None
    output: Path | None
    storage: str
    """One of "auto", "mapped", "compressed" or "sidecar"."""


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
    values = check(document, {**TOP, **PACKING}, str(path))
    for key in ("model", "output"):
        if key in values:
            values[key] = str(path.parent / values[key])
    for key in ("system", "template"):
        if key in values:
            values[key] = text_or_file(values[key], path.parent)
    return values


def make_recipe(values: Mapping[str, Any], name: str) -> PackingRecipe:
    """Put checked values together; `name` is used where none is given."""
    recipe = {key: value for key, value in values.items() if key in TOP or key in TABLES}
    return PackingRecipe(
        recipe=Recipe(**{"name": name, **recipe}),
        model=Path(values["model"]) if "model" in values else None,
        output=Path(values["output"]) if "output" in values else None,
        storage=values.get("storage", "auto"),
    )


def merged(recipe: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """`recipe` with what was said on the command line on top, table by table."""
    result = {**recipe, **{key: value for key, value in options.items() if key not in TABLES}}
    for table in TABLES:
        both = {**recipe.get(table, {}), **options.get(table, {})}
        if both:
            result[table] = both
    return check(result, {**TOP, **PACKING}, "the command line")


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
