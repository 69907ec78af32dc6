"""Writes the methods of dataclasses out when the runtime is frozen.

At run time `dataclass` makes the source text of each method and compiles it: half a millisecond a
class, at every start, for a hundred classes. What comes out of here does the same without that:

    @dataclass(frozen=True)            @dataclass(init=False, repr=False, eq=False)
    class Point:                       class Point:
        x: int                             x: int
                                           def __init__(self, x): ...  and the others

Line numbers stay those of the source. A class that is out of the ordinary is left as it is.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass, replace
from types import CodeType

_BASES = frozenset({"ABC", "Protocol"})
"""Bases that are no dataclasses, and add nothing that matters here."""
_METHODS = {"__init__", "__repr__", "__eq__", "__hash__", "__setattr__", "__delattr__"}


@dataclass(frozen=True)
class _Options:
    """What `dataclass` was asked for."""

    init: bool = True
    repr: bool = True
    eq: bool = True
    frozen: bool = False


@dataclass(frozen=True)
class _Field:
    """A field, and what stands behind its name."""

    name: str
    has_default: bool = False
    factory: str = ""
    """The expression that makes its default."""
    compare: bool = True


def compile_plain(source: str, filename: str, *, optimize: int = -1) -> CodeType:
    """The code of a module with its dataclasses' methods written out."""
    tree = write_out(ast.parse(source, filename))
    return compile(tree, filename, "exec", dont_inherit=True, optimize=optimize)


def write_out(tree: ast.Module) -> ast.Module:
    """Change a module's dataclasses, where that is possible."""
    classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    plain = {node.name for node in classes if _options(node) is None} | _BASES
    # `dataclass` compares what a class and its bases were made with.
    parents = {ast.unparse(base) for node in classes if _options(node) for base in node.bases}
    for node in classes:
        options, fields = _options(node), _fields(node)
        if options is None or fields is None or node.keywords or node.name in parents:
            continue
        if all(ast.unparse(base) in plain for base in node.bases):
            _write_out(node, options, fields)
    return ast.fix_missing_locations(tree)


def _options(node: ast.ClassDef) -> _Options | None:
    """How the class is made a dataclass; None if it is none, or in another way."""
    if len(node.decorator_list) != 1:
        return None
    decorator = node.decorator_list[0]
    call = decorator if isinstance(decorator, ast.Call) else None
    name = ast.unparse(call.func if call else decorator)
    if name not in ("dataclass", "dataclasses.dataclass"):
        return None
    options = _Options()
    for word in call.keywords if call else ():
        if word.arg not in ("init", "repr", "eq", "frozen"):
            return None
        options = replace(options, **{word.arg: bool(ast.literal_eval(word.value))})
    return options


def _fields(node: ast.ClassDef) -> list[_Field] | None:
    """The fields in their order; None if one of them is out of the ordinary."""
    found = []
    for item in node.body:
        if not isinstance(item, ast.AnnAssign):
            continue
        kind = ast.unparse(item.annotation)
        if not isinstance(item.target, ast.Name) or "ClassVar" in kind or "InitVar" in kind:
            return None
        value = item.value
        field = _Field(item.target.id, has_default=value is not None)
        if isinstance(value, ast.Call) and ast.unparse(value.func).endswith("field"):
            for word in value.keywords:
                if word.arg == "default_factory":
                    field = replace(field, factory=ast.unparse(word.value))
                elif word.arg == "compare":
                    field = replace(field, compare=bool(ast.literal_eval(word.value)))
                else:
                    return None
            field = replace(field, has_default=bool(field.factory))
        found.append(field)
    return found


def _write_out(node: ast.ClassDef, options: _Options, fields: list[_Field]) -> None:
    own = {item.name for item in node.body if isinstance(item, ast.FunctionDef)}
    unhashable = any(ast.unparse(item) == "__hash__ = None" for item in node.body)
    # What `dataclass` does about methods that the class has already has rules of its own.
    if own & _METHODS - (set() if options.init else {"__init__"}):
        return
    if not ast.get_docstring(node):
        # `dataclass` would make one out of the signature, which takes as long as the rest.
        node.body.insert(0, ast.Expr(ast.Constant(node.name)))
    lines = []
    if options.init:
        lines += _init(fields, frozen=options.frozen, post="__post_init__" in own)
    if options.repr:
        shown = ", ".join(f"{field.name}={{self.{field.name}!r}}" for field in fields)
        lines += [
            "def __repr__(self):",
            f"    return f'{{self.__class__.__qualname__}}({shown})'",
        ]
    if options.eq:
        compared = [field.name for field in fields if field.compare]
        lines += _comparison(compared, hashed=options.frozen and not unhashable)
    if options.frozen:
        changes = {
            "__setattr__(self, name, value)": "assign to",
            "__delattr__(self, name)": "delete",
        }
        for change, doing in changes.items():
            lines += [
                f"def {change}:",
                "    from dataclasses import FrozenInstanceError",
                f"    raise FrozenInstanceError(f'cannot {doing} field {{name!r}}')",
            ]
    made = ast.parse("\n".join(lines)).body
    for made_node in (part for method in made for part in ast.walk(method)):
        if hasattr(made_node, "lineno"):
            made_node.lineno = made_node.end_lineno = node.lineno  # type: ignore[attr-defined]
    node.body += made
    decorator = node.decorator_list[0]
    name = ast.unparse(decorator.func if isinstance(decorator, ast.Call) else decorator)
    wanted = ast.parse(f"{name}(init=False, repr=False, eq=False)", mode="eval").body
    for each in ast.walk(wanted):
        ast.copy_location(each, decorator)
    node.decorator_list[0] = wanted


def _init(fields: list[_Field], *, frozen: bool, post: bool) -> list[str]:
    parameters, body = ["self"], []
    for field in fields:
        name = field.name
        value = name
        if field.factory:
            parameters.append(f"{name}=...")
            value = f"({field.factory})() if {name} is ... else {name}"
        else:
            # In the class's body the name stands for its default.
            parameters.append(f"{name}={name}" if field.has_default else name)
        body.append(
            f"    __set(self, {name!r}, {value})" if frozen else f"    self.{name} = {value}"
        )
    if frozen and body:
        body.insert(0, "    __set = object.__setattr__")
    if post:
        body.append("    self.__post_init__()")
    return [f"def __init__({', '.join(parameters)}):", *(body or ["    pass"])]


def _comparison(names: list[str], *, hashed: bool) -> list[str]:
    def values(of: str) -> str:
        return f"({''.join(f'{of}.{name}, ' for name in names)})"

    lines = [
        "def __eq__(self, other):",
        "    if other.__class__ is not self.__class__:",
        "        return NotImplemented",
        f"    return {values('self')} == {values('other')}",
    ]
    if hashed:
        lines += ["def __hash__(self):", f"    return hash({values('self')})"]
    return lines
