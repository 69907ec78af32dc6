"""Puts off what libraries import at once and mostly never use: each module takes time at every
start. Nothing is lost: a module that was put off is loaded when something of it is wanted."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_WANTED = ("__path__", "__version__")
"""Names with underscores that are worth loading a module for; others are asked of all modules."""


class _Later(types.ModuleType):
    """Stands for a module that is not loaded yet."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name not in _WANTED:
            raise AttributeError(name)
        return getattr(_load(self.__name__), name)


def put_off(*names: str) -> None:
    """Have each module be loaded by its first use, not by its import. A package comes before its
    modules, of which those count alone that are named."""
    for name in names:
        if name in sys.modules:
            continue
        sys.modules[name] = later = _Later(name)
        package, _, own = name.rpartition(".")
        if package:
            setattr(importlib.import_module(package), own, later)


def bare_package(name: str, **homes: str) -> types.ModuleType | None:
    """Have modules of a package be imported without what its `__init__` does; the package, None
    if it is not there. `homes` are the modules of what others take from the package itself."""
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.find_spec(name)
    if spec is None or spec.submodule_search_locations is None:
        return None
    package = types.ModuleType(name)
    package.__path__ = list(spec.submodule_search_locations)
    package.__spec__ = spec

    def find(wanted: str) -> Any:
        if wanted not in homes:
            raise AttributeError(wanted)
        return getattr(importlib.import_module(homes[wanted]), wanted)

    vars(package)["__getattr__"] = find
    sys.modules[name] = package
    return package


@contextmanager
def without(*names: str) -> Iterator[None]:
    """Have modules seem not to be installed, to libraries that can do without them."""
    hidden = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


def _load(name: str) -> types.ModuleType:
    """The module itself, and those of the same package."""
    family = name.partition(".")[0]
    for other, module in list(sys.modules.items()):
        if type(module) is _Later and other.partition(".")[0] == family:
            del sys.modules[other]
    return importlib.import_module(name)
