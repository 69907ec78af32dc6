"""Settings: what a value may be, and values checked against that."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from runtime_stub.errors import RecipeError


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


@dataclass(frozen=True)
class Group:
    """What one table of a recipe may hold: settings, further tables, and lists of tables."""

    settings: Mapping[str, Setting]
    tables: Mapping[str, Mapping[str, Setting]] = field(default_factory=dict)
    lists: Mapping[str, Group] = field(default_factory=dict)


def check(document: Mapping[str, Any], group: Group, where: str) -> dict[str, Any]:
    """The values of `document`, each of the right type and within bounds.

    Raises RecipeError that names the key, and for an unknown one the nearest that exists.
    """
    checked: dict[str, Any] = {}
    for key, value in document.items():
        if key in group.tables:
            checked[key] = _check_table(key, value, group.tables[key], where)
        elif key in group.lists:
            checked[key] = _check_list(key, value, group.lists[key], where)
        elif key in group.settings:
            checked[key] = check_value(key, value, group.settings[key], where)
        else:
            raise _unknown(key, group, where)
    return checked


def _check_table(key: str, value: Any, table: Mapping[str, Setting], where: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise RecipeError(f"{where}: [{key}] must be a table")
    for name in value:
        if name not in table:
            raise _unknown(name, Group(table), f"{where}, [{key}]")
    return {
        name: check_value(f"{key}.{name}", item, table[name], where) for name, item in value.items()
    }


def _check_list(key: str, value: Any, group: Group, where: str) -> list[dict[str, Any]]:
    if not isinstance(value, (list, tuple)) or not all(isinstance(i, Mapping) for i in value):
        raise RecipeError(f"{where}: [[{key}]] must be a list of tables")
    return [
        check(item, group, f"{where}, [[{key}]] {number}")
        for number, item in enumerate(value, start=1)
    ]


def check_value(key: str, value: Any, setting: Setting, where: str) -> Any:
    """`value` if it fits `setting`; raises RecipeError with both if it does not."""
    if setting.kind is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            value = float(value)
        except OverflowError:
            value = math.inf
    if not isinstance(value, setting.kind) or isinstance(value, bool) != (setting.kind is bool):
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
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    list: "a list of texts",
}


def _unknown(key: str, group: Group, where: str) -> RecipeError:
    known = [*group.settings, *group.tables, *group.lists]
    tables = [name for name, table in group.tables.items() if key in table]
    lists = [name for name, item in group.lists.items() if key in item.settings]
    if tables or lists:
        place = f"[{tables[0]}]" if tables else f"[[{lists[0]}]]"
        return RecipeError(f"{where}: unknown key {key!r}", f"It belongs under {place}")
    import difflib

    near = difflib.get_close_matches(key, known, n=1, cutoff=0.4)
    hint = f"Did you mean {near[0]!r}?" if near else f"Valid keys: {', '.join(sorted(known))}"
    return RecipeError(f"{where}: unknown key {key!r}", hint)
