"""Profiles in the cache: what was measured on this machine, one small file for each way to run.

    <root>/profiles/<sha256>.json     of machine, model, runtime and what somebody decided

A file that is not what it should be counts as none, and the next measurement replaces it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any, TypeVar

from runtime_stub.bundle import Bundle
from runtime_stub.cache import PROFILES, writable_folder
from runtime_stub.engine.hardware import Hardware, identity, read_hardware
from runtime_stub.engine.messages import EngineSettings
from runtime_stub.engine.profile import TRIES, Measured, Profile, Trial, is_open
from runtime_stub.errors import SatchelError
from runtime_stub.models import PackedModel, roots, warm_sources
from runtime_stub.recipe import ENGINE
from runtime_stub.settings import check_value
from runtime_stub.trust import check_folder, check_way

_FORMAT = 1
_LARGEST = 64 << 10
_DAY = 24 * 3600


class CachedShelf:
    """Keeps the measurement for one way to run a model in the cache."""

    def __init__(self, folders: list[Path], key: dict[str, Any]) -> None:
        """`folders` are the cache's roots, best first; `key` says what it holds for."""
        self._roots = folders
        self.key = key
        text = json.dumps(key, sort_keys=True)
        self._name = f"{hashlib.sha256(text.encode()).hexdigest()}.json"

    def read(self) -> Measured | None:
        """What was measured; None if nothing is known."""
        path = self.path
        return None if path is None else _measured(_load(path))

    @property
    def path(self) -> Path | None:
        """Where it lies; None if nowhere that can be trusted."""
        for root in self._roots:
            path = root / PROFILES / self._name
            with contextlib.suppress(OSError):
                facts = path.lstat()
                check_way(root)
                check_folder(root, writing=False)
                check_folder(path.parent, writing=False)
                if time.time() - facts.st_mtime > _DAY:
                    os.utime(path)  # what is in use is not pruned
                return path
        return None

    def begin(self) -> bool:
        """Count an attempt; False where none shall be made or its result can't be kept."""
        path = self.path
        document = {} if path is None else _load(path)
        if _measured(document) is not None or _attempts(document) >= TRIES:
            return False
        return self._write({"attempts": _attempts(document) + 1})

    def give_up(self) -> None:
        """The attempt does not count."""
        path = self.path
        attempts = 0 if path is None else _attempts(_load(path))
        if attempts > 1:
            self._write({"attempts": attempts - 1})
        else:
            with contextlib.suppress(OSError):
                self.forget()

    def keep(self, measured: Measured) -> None:
        """Write the result, if there is a place for it."""
        self._write({"attempts": 0, "measured": dataclasses.asdict(measured)})

    def forget(self) -> bool:
        """Remove what is known; whether there was something. Raises OSError."""
        path = self.path
        if path is not None:
            path.unlink()
        return path is not None

    def _write(self, values: dict[str, Any]) -> bool:
        document = {"format": _FORMAT, "for": self.key, **values}
        try:
            folder = writable_folder(self._roots, PROFILES, _LARGEST)
            part = folder / f".{self._name}-{os.getpid()}"
            try:
                part.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
                part.replace(folder / self._name)
            finally:
                part.unlink(missing_ok=True)
        except (OSError, SatchelError):
            return False
        return True


def shelf_for(
    bundle: Bundle, model: PackedModel, settings: EngineSettings, hardware: Hardware | None = None
) -> CachedShelf:
    """Where the measurement lies for running `model` with `settings` on this machine."""
    settings = fixed(bundle, model, settings)
    fields = [field.name for field in dataclasses.fields(Profile)]
    runtime = bundle.of_kind("runtime")
    key = {
        "machine": identity(hardware or read_hardware()),
        "model": model.entry.sha256,
        "runtime": runtime[0].sha256 if runtime else "",
        "kv": settings.kv,
        "decided": {f: getattr(settings, f) for f in fields if not is_open(settings, f)},
    }
    return CachedShelf(roots(bundle), key)


def fixed(bundle: Bundle, model: PackedModel, settings: EngineSettings) -> EngineSettings:
    """`settings`, with what a warm prompt was made with decided."""
    if settings.flash_attention is None and warm_sources(bundle, model):
        return dataclasses.replace(settings, flash_attention=True)
    return settings


def _load(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            document = json.loads(file.read(_LARGEST))
    except (OSError, ValueError, RecursionError):
        return {}
    valid = isinstance(document, dict) and document.get("format") == _FORMAT
    return document if valid else {}


def _attempts(document: dict[str, Any]) -> int:
    value = document.get("attempts")
    return value if type(value) is int and value >= 0 else 0


def _measured(document: dict[str, Any]) -> Measured | None:
    """What a document says; None if that is nothing, or nonsense."""
    try:
        values = dict(document["measured"])
        profile = _typed(Profile, values["profile"])
        for field, setting in ENGINE.items():
            value = getattr(profile, field, None)
            if value:
                check_value(field, value, setting, "the profile")
        trials = tuple(_typed(Trial, trial) for trial in values["trials"])
        return _typed(Measured, {**values, "profile": profile, "trials": trials})
    except (KeyError, TypeError, ValueError, SatchelError):
        return None


_Made = TypeVar("_Made")
_TYPES: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "float": (int, float),
    "bool": (bool,),
    "str": (str,),
    "bool | None": (bool, type(None)),
}


def _typed(kind: type[_Made], values: dict[str, Any]) -> _Made:
    """A dataclass of `kind`. Raises TypeError if something in it is of another type."""
    made = kind(**values)
    for field in dataclasses.fields(made):  # type: ignore[arg-type]
        allowed = _TYPES.get(str(field.type))
        value = getattr(made, field.name)
        if allowed and (type(value) not in allowed):
            raise TypeError(field.name)
    return made
