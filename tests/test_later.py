from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime_stub.later import bare_package, put_off, without


@pytest.fixture(autouse=True)
def _packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A package that says when it is loaded, and one that names something of a module of its."""
    for name, text in {
        "slow_one/__init__.py": "import sys\nsys.loaded.append(__name__)\nvalue = 1\n",
        "slow_one/part.py": "import sys\nsys.loaded.append(__name__)\nother = 2\n",
        "slow_one/more.py": "third = 3\n",
        "wide/__init__.py": "raise RuntimeError\n",
        "wide/core.py": "class Thing: ...\n",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "loaded", [], raising=False)
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        del sys.modules[name]


def loaded() -> list[str]:
    names: list[str] = sys.loaded  # type: ignore[attr-defined]
    return names


def test_first_use_loads() -> None:
    put_off("slow_one", "slow_one.part")
    import slow_one  # type: ignore[import-not-found]
    import slow_one.part  # type: ignore[import-not-found]

    assert loaded() == []
    assert not hasattr(slow_one, "__wrapped__")
    assert loaded() == []
    assert slow_one.part.other == 2
    assert loaded() == ["slow_one", "slow_one.part"]
    assert slow_one.value == 1
    assert importlib.import_module("slow_one").value == 1
    assert loaded() == ["slow_one", "slow_one.part"]
    with pytest.raises(AttributeError):
        slow_one.nothing  # noqa: B018


def test_modules_that_were_not_named() -> None:
    put_off("slow_one")
    from slow_one.more import third  # type: ignore[import-not-found]

    assert third == 3
    assert loaded() == ["slow_one"]


def test_module_of_a_package_that_is_there() -> None:
    import slow_one

    put_off("slow_one.part")
    import slow_one.part

    assert loaded() == ["slow_one"]
    assert slow_one.part.other == 2
    assert loaded() == ["slow_one", "slow_one.part"]


def test_what_is_there_stays() -> None:
    import slow_one

    put_off("slow_one")
    assert sys.modules["slow_one"] is slow_one
    assert bare_package("slow_one") is slow_one


def test_bare_package() -> None:
    package = bare_package("wide", Thing="wide.core")
    assert package is not None
    from wide import Thing  # type: ignore[import-not-found]
    from wide.core import Thing as Same  # type: ignore[import-not-found]

    assert Thing is Same
    with pytest.raises(ImportError):
        from wide import nothing  # noqa: F401
    assert bare_package("not_there_at_all") is None


def test_without() -> None:
    with without("slow_one", "sys"):
        with pytest.raises(ImportError):
            importlib.import_module("slow_one")
        assert importlib.import_module("sys") is sys
    assert importlib.import_module("slow_one").value == 1
