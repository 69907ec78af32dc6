from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import types
from pathlib import Path
from typing import Any

import h11._events
import msgspec
import pytest

from packer.plain_classes import compile_plain, write_out

ROOT = Path(__file__).resolve().parent.parent
MODULES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in sorted((ROOT / "runtime_stub").rglob("*.py"))
    if "@dataclass" in path.read_text(encoding="utf-8")
]


def plain(module: types.ModuleType) -> dict[str, Any]:
    """What the module holds when its dataclasses are written out."""
    file = Path(str(module.__file__))
    names: dict[str, Any] = {"__name__": module.__name__, "__package__": module.__package__}
    exec(compile_plain(file.read_text(encoding="utf-8"), str(file)), names)  # noqa: S102
    return names


def made_of(source: str) -> dict[str, Any]:
    names: dict[str, Any] = {"__name__": __name__}
    source = f"from dataclasses import dataclass, field\n{source}"
    exec(compile_plain(source, "made.py"), names)  # noqa: S102
    return names


def classes(names: dict[str, Any], module: str) -> dict[str, type]:
    return {
        name: value
        for name, value in names.items()
        if isinstance(value, type)
        and dataclasses.is_dataclass(value)
        and value.__module__ == module
    }


def parameters(kind: type) -> list[tuple[str, object]]:
    """Names and defaults, those that are made for each object as one."""
    found = inspect.signature(kind).parameters.values()
    made = {
        f.name for f in dataclasses.fields(kind) if f.default_factory is not dataclasses.MISSING
    }
    return [(p.name, "made" if p.name in made else p.default) for p in found]


def fails(doing: Any) -> type[BaseException] | None:
    try:
        doing()
    except Exception as error:  # noqa: BLE001
        return type(error)
    return None


def failures_of_changes(instance: object, field: str) -> list[type[BaseException] | None]:
    return [
        fails(lambda: setattr(instance, field, 1)),
        fails(lambda: delattr(instance, field)),
    ]


@pytest.mark.parametrize("name", [*MODULES, "h11._events"])
def test_classes_do_the_same(name: str) -> None:
    module = importlib.import_module(name)
    before = classes(vars(module), name)
    after = classes(plain(module), name)
    assert list(after) == list(before)
    for old, new in zip(before.values(), after.values(), strict=True):
        assert [(f.name, f.type, f.compare) for f in dataclasses.fields(new)] == [
            (f.name, f.type, f.compare) for f in dataclasses.fields(old)
        ]
        assert old.__match_args__ == new.__match_args__  # type: ignore[attr-defined]
        assert (old.__hash__ is None) == (new.__hash__ is None)
        assert old.__doc__ == new.__doc__ or old.__doc__.startswith(f"{old.__name__}(")  # type: ignore[union-attr]
        if name.startswith("h11"):
            continue
        assert [name for name, _ in parameters(old)] == [name for name, _ in parameters(new)]
        needed = [p for p in inspect.signature(old).parameters.values() if p.default is p.empty]
        values = [(place, p.name) for place, p in enumerate(needed)]
        wrong = fails(lambda old=old, values=values: old(*values))
        assert fails(lambda new=new, values=values: new(*values)) == wrong
        if wrong is not None:
            continue  # it checks what it is made of
        one, other = old(*values), new(*values)
        assert vars(one).keys() == vars(other).keys()
        assert fails(lambda one=one: hash(one)) == fails(lambda other=other: hash(other))
        assert (one == old(*values)) == (other == new(*values))
        assert one != other
        if dataclasses.fields(old):
            first = dataclasses.fields(old)[0].name
            assert failures_of_changes(one, first) == failures_of_changes(other, first)


def test_methods() -> None:
    names = made_of('''
@dataclass(frozen=True)
class Point:
    """A place."""
    x: int
    y: int = 2
    seen: list = field(default_factory=list, compare=False)
    @property
    def sum(self):
        return self.x + self.y
''')
    point = names["Point"]
    assert repr(point(1)) == "Point(x=1, y=2, seen=[])"
    assert point(1) == point(1, seen=[3])
    assert hash(point(1)) == hash(point(1, seen=[3]))
    assert point(1) != point(1, 3)
    assert point(1).seen is not point(1).seen
    assert point(1).sum == 3
    assert dataclasses.replace(point(1), y=5) == point(1, 5)
    assert dataclasses.asdict(point(1)) == {"x": 1, "y": 2, "seen": []}
    with pytest.raises(dataclasses.FrozenInstanceError, match="'x'"):
        point(1).x = 2
    with pytest.raises(TypeError):
        point()
    with pytest.raises(TypeError):
        point(1, z=2)


def test_messages_travel() -> None:
    kind = made_of('''
@dataclass(frozen=True)
class Told:
    """A message."""
    text: str
    more: tuple[int, ...] = ()
    rest: dict[str, int] = field(default_factory=dict)
''')["Told"]
    data = msgspec.msgpack.encode(kind("a", (1,)))
    assert msgspec.msgpack.decode(data, type=kind) == kind("a", (1,))
    assert msgspec.msgpack.decode(msgspec.msgpack.encode({"text": "b"}), type=kind) == kind("b")


def test_lines_stay() -> None:
    source = (
        '@dataclass(frozen=True)\nclass A:\n    """A."""\n    a: int\n\n\ndef fails():\n    1 / 0\n'
    )
    with pytest.raises(ZeroDivisionError) as caught:
        made_of(source)["fails"]()
    assert caught.traceback[-1].lineno + 1 == 9
    assert made_of(source)["A"].__init__.__code__.co_firstlineno == 3


@pytest.mark.parametrize(
    "source",
    [
        "@dataclass(order=True)\nclass A:\n    a: int",
        "@dataclass\nclass A(Other):\n    a: int",
        "@dataclass\nclass A:\n    a: ClassVar[int] = 1",
        "@dataclass\nclass A:\n    a: int = field(init=False)",
        "@dataclass\nclass A:\n    a: int\n    def __eq__(self, other): return True",
        "@final\n@dataclass\nclass A:\n    a: int",
        "class A:\n    a: int",
    ],
)
def test_what_is_left(source: str) -> None:
    assert ast.unparse(write_out(ast.parse(source))) == ast.unparse(ast.parse(source))


def test_no_class_of_a_start_is_left() -> None:
    left = []
    for module in (*map(importlib.import_module, MODULES), h11._events):
        tree = write_out(ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8")))
        left += [
            node.name
            for node in ast.walk(tree)
            if isinstance(node, ast.ClassDef)
            and any(
                "dataclass" in ast.unparse(decorator) and "repr=False" not in ast.unparse(decorator)
                for decorator in node.decorator_list
            )
        ]
    assert set(left) <= {"Bundle", "_Server", "_ResponseBase", "InformationalResponse", "Response"}
