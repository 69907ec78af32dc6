"""Recipes: what goes into a pack besides the model. One definition for TOML, the command
line and the manifest."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from runtime_stub.errors import RecipeError

MODES = ("chat", "serve")


@dataclass(frozen=True)
class Setting:
    """One key of a recipe: its type, bounds, and what it means."""

    kind: type
    help: str
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()
    pattern: str = ""
    """What a text must match as a whole, or each text of a list."""
    form: str = ""
    """That pattern in words, after "must be"."""


SAMPLING: dict[str, Setting] = {
    "temperature": Setting(float, "0 always takes the most likely token", 0, 10),
    "top_k": Setting(int, "only the K most likely tokens; 0 for all", 0, 1_000_000),
    "top_p": Setting(float, "only the most likely tokens that make up this probability", 0, 1),
    "min_p": Setting(float, "only tokens this likely relative to the best", 0, 1),
    "repeat_penalty": Setting(float, "above 1 discourages repetition", 0.01, 10),
    "frequency_penalty": Setting(float, "discourages frequent tokens", -10, 10),
    "presence_penalty": Setting(float, "discourages tokens that occurred", -10, 10),
    "repeat_last_n": Setting(int, "how many tokens the penalties look back", 0, 1_000_000),
    "seed": Setting(int, "the same seed gives the same answer", 0, 2**32 - 1),
}

SERVER: dict[str, Setting] = {
    "host": Setting(str, "address to listen on"),
    "port": Setting(int, "port to listen on; 0 takes a free one", 0, 65535),
}

FACE: dict[str, Setting] = {
    "greeting": Setting(str, "what a chat shows before the first question"),
    "starters": Setting(
        list,
        "questions to start with, at most 8",
        maximum=8,
        pattern=r"\s*\S[\s\S]{0,499}",
        form="questions of at most 500 characters",
    ),
    "icon": Setting(
        str,
        "one to eight characters, such as an emoji, or a picture",
        pattern=r"\S{1,8}|data:image/(?:png|jpeg|webp|svg\+xml);base64,[A-Za-z0-9+/=]{1,50000}",
        form="one to eight characters, or a picture",
    ),
    "accent": Setting(
        str, "colour such as #2f6f4e", pattern="#[0-9a-fA-F]{6}", form="a colour such as #2f6f4e"
    ),
}
"""How a pack presents itself, in the terminal and in the browser."""

TOP: dict[str, Setting] = {
    "name": Setting(str, "the assistant's name"),
    "mode": Setting(str, "what the pack does when started without a command", choices=MODES),
    "system": Setting(str, "system prompt"),
    "template": Setting(str, "Jinja chat template, instead of the model's own"),
    "context": Setting(int, "context in tokens, instead of what the machine allows", 64, 2**31 - 1),
    "max_tokens": Setting(int, "longest answer in tokens", 1, 2**31 - 1),
}

PACKING: dict[str, Setting] = {
    "model": Setting(str, "the GGUF file, relative to the recipe"),
    "storage": Setting(
        str, "how the model is stored", choices=("auto", "mapped", "compressed", "sidecar")
    ),
    "output": Setting(str, "the pack to write, relative to the recipe"),
}
"""Keys that only matter while packing; they do not travel in the pack."""

TABLES: dict[str, dict[str, Setting]] = {"sampling": SAMPLING, "server": SERVER, "face": FACE}


@dataclass(frozen=True)
class Recipe:
    """The part of a recipe that travels in the pack. None means: not decided here."""

    name: str
    mode: str = "chat"
    system: str | None = None
    template: str | None = None
    context: int | None = None
    max_tokens: int | None = None
    sampling: Mapping[str, float | int] = field(default_factory=dict)
    server: Mapping[str, str | int] = field(default_factory=dict)
    face: Mapping[str, Any] = field(default_factory=dict)
    """Texts by the keys of FACE; "starters" is a list of them."""

    def document(self) -> dict[str, Any]:
        """The recipe as plain data for the manifest, without what is not decided."""
        values = {key: getattr(self, key) for key in (*TOP, *TABLES)}
        return {
            key: dict(value) if isinstance(value, Mapping) else value
            for key, value in values.items()
            if value not in (None, {})
        }


def recipe_from(document: Mapping[str, Any], where: str) -> Recipe:
    """Check plain data from `where` and make a recipe of it. Raises RecipeError."""
    checked = check(document, {**TOP}, where)
    return Recipe(**{"name": "assistant", **checked})


def check(
    document: Mapping[str, Any], settings: Mapping[str, Setting], where: str
) -> dict[str, Any]:
    """The values of `document`, each of the right type and within bounds.

    Raises RecipeError that names the key, and for an unknown one the nearest that exists.
    """
    known = {**settings, **TABLES}
    checked: dict[str, Any] = {}
    for key, value in document.items():
        if key not in known:
            raise _unknown(key, list(known), where)
        if key in TABLES:
            if not isinstance(value, Mapping):
                raise RecipeError(f"{where}: [{key}] must be a table")
            table = TABLES[key]
            for name in value:
                if name not in table:
                    raise _unknown(name, list(table), f"{where}, [{key}]")
            checked[key] = {
                name: check_value(f"{key}.{name}", item, table[name], where)
                for name, item in value.items()
            }
        else:
            checked[key] = check_value(key, value, settings[key], where)
    return checked


def check_value(key: str, value: Any, setting: Setting, where: str) -> Any:
    """`value` if it fits `setting`; raises RecipeError with both if it does not."""
    if setting.kind is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            value = float(value)
        except OverflowError:
            value = math.inf
    if not isinstance(value, setting.kind) or isinstance(value, bool):
        raise RecipeError(f"{where}: {key} must be {_TYPE_NAMES[setting.kind]}, not {value!r}")
    for text in (value,) if isinstance(value, str) else value if isinstance(value, list) else ():
        _check_text(key, text, setting, where)
    if isinstance(value, list) and len(value) > (setting.maximum or math.inf):
        raise RecipeError(f"{where}: {key} holds {len(value)} texts, more than {setting.maximum}")
    if setting.choices and value not in setting.choices:
        raise RecipeError(
            f"{where}: {key} must be one of {', '.join(setting.choices)}, not {value!r}"
        )
    low = -math.inf if setting.minimum is None else setting.minimum
    high = math.inf if setting.maximum is None else setting.maximum
    # Written so that NaN fails, too.
    if isinstance(value, (int, float)) and not low <= value <= high:
        raise RecipeError(
            f"{where}: {key} must be from {setting.minimum} to {setting.maximum}, not {value}"
        )
    return value


def _check_text(key: str, text: Any, setting: Setting, where: str) -> None:
    if not isinstance(text, str):
        raise RecipeError(f"{where}: {key} must be {_TYPE_NAMES[setting.kind]}, not [{text!r}]")
    if not _is_clean(text):
        raise RecipeError(f"{where}: {key} holds characters that are no text: {text[:40]!r}")
    if setting.pattern and not re.fullmatch(setting.pattern, text):
        raise RecipeError(f"{where}: {key} must be {setting.form}, not {text[:40]!r}")


def _is_clean(text: str) -> bool:
    """No zero character, which ends texts in C, and no half of a surrogate pair."""
    return "\0" not in text and not any("\ud800" <= character <= "\udfff" for character in text)


_TYPE_NAMES: dict[type, str] = {
    str: "text",
    int: "a whole number",
    float: "a number",
    list: "a list of texts",
}


def _unknown(key: str, known: list[str], where: str) -> RecipeError:
    tables = [name for name, table in TABLES.items() if name in known and key in table]
    if tables:
        return RecipeError(f"{where}: unknown key {key!r}", f"It belongs under [{tables[0]}]")
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.4)
    hint = f"Did you mean {near[0]!r}?" if near else f"Valid keys: {', '.join(sorted(known))}"
    return RecipeError(f"{where}: unknown key {key!r}", hint)
