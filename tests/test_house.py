"""Where the walls are: what imports what, and never the other way round. Imports within functions
count, those for types alone do not."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FACES = ("runtime_stub.chat", "runtime_stub.server", "runtime_stub.tuning")
ENGINE = "runtime_stub.engine"
BELOW_ENGINE = {"runtime_stub.errors", "runtime_stub.later"}


def modules() -> dict[str, Path]:
    found = {}
    for package in ("packer", "runtime_stub"):
        for path in (ROOT / package).rglob("*.py"):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            found[name.removesuffix(".__init__")] = path
    return found


def imported(node: ast.AST) -> Iterator[str]:
    """Everything that may be the name of an imported module."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            continue
        if isinstance(child, ast.ImportFrom) and child.module:
            yield child.module
            yield from (f"{child.module}.{alias.name}" for alias in child.names)
        elif isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        yield from imported(child)


@pytest.fixture(scope="module")
def arrows() -> dict[str, set[str]]:
    """Of each module those of ours that it imports, and other packages by their names."""
    ours = modules()
    found = {}
    for name, path in ours.items():
        named = set(imported(ast.parse(path.read_text(encoding="utf-8"))))
        others = {word.partition(".")[0] for word in named} - {"packer", "runtime_stub"}
        found[name] = {word for word in named if word in ours} - {name} | others
    return found


def test_the_parts_are_seen(arrows: dict[str, set[str]]) -> None:
    assert "runtime_stub.engine.scheduler" in arrows["runtime_stub.engine.engine_thread"]
    assert "llama_cpp" in arrows["runtime_stub.engine.library"]
    assert len(arrows) > 150


def test_no_circles(arrows: dict[str, set[str]]) -> None:
    left = {name: {other for other in found if other in arrows} for name, found in arrows.items()}
    for packages in left.values():  # a package's own module is empty, and imported with any of it
        packages -= {name for name in packages if any(n.startswith(f"{name}.") for n in arrows)}
    while leaves := {name for name, found in left.items() if not found}:
        left = {name: found - leaves for name, found in left.items() if name not in leaves}
    assert left == {}, "these import each other, or what does"


def test_the_runtime_knows_nothing_of_the_packer(arrows: dict[str, set[str]]) -> None:
    for name, found in arrows.items():
        if name.startswith("runtime_stub"):
            assert not {other for other in found if other.startswith("packer")}, name


def test_the_engine_knows_no_face(arrows: dict[str, set[str]]) -> None:
    for name, found in arrows.items():
        if name.startswith(ENGINE):
            ours = {other for other in found if other.startswith("runtime_stub.")}
            outside = {other for other in ours if not other.startswith(ENGINE)}
            assert outside <= BELOW_ENGINE, name


@pytest.mark.parametrize("face", FACES)
def test_a_face_knows_no_other(arrows: dict[str, set[str]], face: str) -> None:
    others = tuple(other for other in FACES if other != face)
    for name, found in arrows.items():
        if name.startswith(face):
            assert not {other for other in found if other.startswith(others)}, name


def test_native_code_is_reached_through_the_engine_alone(arrows: dict[str, set[str]]) -> None:
    reach = {name for name, found in arrows.items() if "llama_cpp" in found}
    assert {name for name in reach if not name.startswith(ENGINE)} == set()
