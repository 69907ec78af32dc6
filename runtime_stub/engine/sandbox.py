"""Jinja for templates of strangers: sandboxed, and bounded in what one rendering may do.

Jinja's sandbox keeps a template away from attributes and files, but not from time and
memory. Two bounds are added here:

- time: a trace function looks at the clock at each line and call of Python code, and a
  compiled template is Python; so does whatever costs;
- work: whatever makes text or a list pays for its bytes out of one budget, and so does
  whatever walks through nested data in native code, where the clock is not looked at. What
  could make much out of little pays before it does.
"""

from __future__ import annotations

import json
import math
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, ValuesView
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from types import FrameType
from typing import Any

import jinja2.ext
import jinja2.filters
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox
from jinja2.compiler import CodeGenerator, Frame, operators
from jinja2.runtime import Macro
from jinja2.utils import Namespace, pass_context, pass_environment

from runtime_stub.errors import PromptError

MAX_SECONDS = 2.0
MAX_WORK = 128 << 20
"""Bytes of text and lists that one rendering may make, most of them short-lived."""
MAX_OPERAND = 1_000_000
"""Largest number given to a function, and longest text or list made by repeating."""
_MAX_BITS = 4096
"""Longest product or power of whole numbers."""
_NODE = 64
"""What one item of nested data costs."""

# fmt: off
_PLAIN_FILTERS = frozenset((
    "attr", "count", "d", "default", "first", "items", "last", "length", "list", "map",
    "reject", "rejectattr", "select", "selectattr",
))
"""Filters that neither show nor compare what they are given."""
_READING_FILTERS = frozenset((
    "abs", "capitalize", "dictsort", "e", "escape", "float", "groupby", "indent", "int",
    "join", "lower", "max", "min", "replace", "reverse", "round", "safe", "sort", "string",
    "sum", "title", "tojson", "trim", "truncate", "unique", "upper", "wordcount",
))
"""All other filters that exist here: Jinja's rest is not used by chat templates."""
_READING_TESTS = frozenset((
    "eq", "equalto", "==", "ne", "!=", "lt", "lessthan", "<", "gt", "greaterthan", ">",
    "le", "<=", "ge", ">=", "in", "upper", "lower",
))
# fmt: on
_FORBIDDEN_METHODS = frozenset(
    ["encode", "expandtabs", "format_map", "fromhex", "maketrans", "to_bytes", "translate"]
)
"""Not used by chat templates; each makes much out of little, or bytes that do."""
_TRACED = ("jinja2", "markupsafe", "json")
_WIDE = re.compile(r"\d{4}")


class BoundedEnvironment(jinja2.sandbox.ImmutableSandboxedEnvironment):
    """A sandbox whose templates run out of time and budget. One rendering at a time."""

    intercepted_binops = frozenset({"*", "**", "+", "%"})

    def __init__(self) -> None:
        """Set up as chat templates expect it."""
        self._left = MAX_WORK
        self._until = math.inf
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            optimized=False,
            finalize=self.shown,
            extensions=["jinja2.ext.loopcontrols", _GenerationTag],
        )
        self.code_generator_class = _Generator
        self.globals.pop("lipsum")
        filters: dict[str, Any] = {
            **self.filters,
            "indent": _indent,
            "join": _join,
            "replace": _replace,
            "round": _round,
            "sum": _sum,
            "tojson": _to_json,
        }
        self.filters = {
            name: _bounded(filters[name], reads=name in _READING_FILTERS)
            for name in _PLAIN_FILTERS | _READING_FILTERS
        }
        tests: dict[str, Any] = self.tests
        self.tests = {
            **tests,
            **{name: _bounded(tests[name], reads=True) for name in _READING_TESTS},
        }

    @contextmanager
    def bounded(self) -> Iterator[None]:
        """Renew the budget and start the clock; raises PromptError when either runs out."""
        self._left = MAX_WORK
        self._until = time.monotonic() + MAX_SECONDS
        before: Any = sys.gettrace()
        sys.settrace(self._on_event)
        try:
            yield
        finally:
            sys.settrace(before)

    def _on_event(self, frame: FrameType, event: str, _argument: object) -> Any:
        """Trace function: sees calls and lines of this thread only, at no cost to others.

        What it raises must not fall into code that was called from a destructor or by the
        garbage collector: it would be swallowed, and tracing is over once it has raised.
        """
        module = frame.f_globals.get("__name__")  # a compiled template has none
        if module is not None and not module.startswith(_TRACED):
            return None
        if event in ("call", "line"):
            self._check_clock()
        return self._on_event

    def _check_clock(self) -> None:
        if time.monotonic() > self._until:
            raise PromptError(f"the chat template takes longer than {MAX_SECONDS:.0f} seconds")

    def spend(self, amount: int) -> None:
        """Pay for something that is made or walked through."""
        self._left -= amount
        if self._left < 0:
            raise PromptError("the chat template makes text or lists without end")
        self._check_clock()

    def made(self, value: Any) -> Any:
        """Pay for `value`, which has just been made."""
        if isinstance(value, (str, bytes, list, tuple, dict)):
            self.spend(sys.getsizeof(value))
        return value

    def walk(self, value: Any) -> tuple[int, int]:
        """Pay for going through all of `value`; returns how many items, and how deep.

        An item that occurs in several places counts each time, as it does when nested data
        is shown, compared or hashed.
        """
        items = deepest = 0
        stack = [(value, 1)]
        while stack:
            item, depth = stack.pop()
            items += 1
            deepest = max(deepest, depth)
            if isinstance(item, str):
                self.spend(_NODE + len(item))
            elif isinstance(item, (list, tuple, Mapping, AbstractSet, ValuesView)):
                self.spend(_NODE * (1 + len(item)))
                stack += [(inner, depth + 1) for inner in item]
                if isinstance(item, Mapping):
                    stack += [(inner, depth + 1) for inner in item.values()]
            elif isinstance(item, Namespace):
                raise PromptError("the chat template shows or compares a namespace")
            else:
                self.spend(_NODE)
        return items, deepest

    def shown(self, value: Any) -> Any:
        """`value`, which may now be made text of, or compared."""
        if not isinstance(value, (str, int, float)):
            self.walk(value)
        return value

    def searched(self, value: Any) -> Any:
        """`value`, in which something is looked up; a mapping does not compare its values."""
        return value if isinstance(value, Mapping) else self.shown(value)

    def concat(self, parts: Iterable[str]) -> str:
        """The parts as one text; blocks and macros end here."""
        return self.joined("", parts)

    def concatenated(self, values: tuple[Any, ...]) -> str:
        """What `a ~ b` gives."""
        return self.joined("", [str(self.shown(value)) for value in values])

    def joined(self, separator: str, values: Iterable[Any]) -> str:
        """`separator.join(values)`."""
        parts = []
        for value in values:
            part = value if isinstance(value, str) else str(self.shown(value))
            self.spend(16 + _bytes(part) + _bytes(separator))
            parts.append(part)
        return separator.join(parts)

    def replaced(self, text: str, old: str, new: str, count: int = -1) -> str:
        """`text.replace(old, new, count)`."""
        times = text.count(old)
        if count >= 0:
            times = min(times, count)
        self.spend(_bytes(text) + times * _bytes(new))
        return text.replace(old, new, count)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Binary operators, with bounds."""
        if operator == "%" and isinstance(left, str):
            raise PromptError("the chat template formats text in a way that is not allowed")
        if operator == "**" and _bits(left) * max(1, _magnitude(right)) > _MAX_BITS:
            raise PromptError("the chat template raises a number to a huge power")
        if operator == "*":
            if _bits(left) + _bits(right) > _MAX_BITS:
                raise PromptError("the chat template multiplies huge numbers")
            if (_sized(left) or _sized(right)) and _size(left) * _size(right) > MAX_OPERAND:
                raise PromptError("the chat template repeats text without end")
        if operator == "+" and _sized(left) and _sized(right):
            self.spend(sys.getsizeof(left) + sys.getsizeof(right))
        return self.made(super().call_binop(context, operator, left, right))

    def call(self, context: Any, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Calls, with bounds on what they are given and on what they make."""
        if isinstance(function, Macro):
            return super().call(context, function, *args, **kwargs)
        _check_numbers((*args, *kwargs.values()))
        for value in (*args, *kwargs.values()):
            self.shown(value)
        owner = getattr(function, "__self__", None)
        if isinstance(owner, (list, tuple)) and args:
            self.walk(owner)
        elif isinstance(owner, str):
            name = getattr(function, "__name__", "")
            if name == "join" and len(args) == 1:
                return self.joined(owner, args[0])
            if name == "replace":
                return self.replaced(owner, *args, **kwargs)
        return self.made(super().call(context, function, *args, **kwargs))

    def getitem(self, obj: Any, argument: Any) -> Any:
        """Items; hashing a nested tuple counts as walking through it."""
        if isinstance(argument, tuple):
            self.walk(argument)
        return super().getitem(obj, argument)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Jinja's rules, and some methods of text less."""
        return attr not in _FORBIDDEN_METHODS and super().is_safe_attribute(obj, attr, value)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """`str.format` without attributes of its own and without huge widths."""
        if super().wrap_str_format(value) is None:
            return None
        if value.__name__ != "format":
            raise PromptError("the chat template formats text in a way that is not allowed")
        text: str = value.__self__
        formatter = _Formatter(self)
        return lambda *args, **kwargs: formatter.vformat(text, args, kwargs)


class _Formatter(jinja2.sandbox.SandboxedFormatter):
    def __init__(self, environment: BoundedEnvironment) -> None:
        super().__init__(environment)
        self._environment = environment

    def format_field(self, value: Any, format_spec: str) -> Any:
        if _WIDE.search(format_spec):
            raise PromptError("the chat template pads text without end")
        self._environment.shown(value)
        return self._environment.made(super().format_field(value, format_spec))

    def convert_field(self, value: Any, conversion: Any) -> Any:
        self._environment.shown(value)
        return self._environment.made(super().convert_field(value, conversion))


class _Generator(CodeGenerator):
    """Sends what the sandbox does not see through the environment, too."""

    def _wrapped(self, method: str, visit: Callable[[], None]) -> None:
        self.write(f"environment.{method}(")
        visit()
        self.write(")")

    def visit_Concat(self, node: jinja2.nodes.Concat, frame: Frame) -> None:  # noqa: N802
        self.write("environment.concatenated((")
        for part in node.nodes:
            self.visit(part, frame)
            self.write(", ")
        self.write("))")

    def visit_Compare(self, node: jinja2.nodes.Compare, frame: Frame) -> None:  # noqa: N802
        self.write("(")
        self._wrapped("shown", lambda: self.visit(node.expr, frame))
        for operand in node.ops:
            self.visit(operand, frame)
        self.write(")")

    def visit_Operand(self, node: jinja2.nodes.Operand, frame: Frame) -> None:  # noqa: N802
        self.write(f" {operators[node.op]} ")
        method = "searched" if node.op in ("in", "notin") else "shown"
        self._wrapped(method, lambda: self.visit(node.expr, frame))

    def visit_Getitem(self, node: jinja2.nodes.Getitem, frame: Frame) -> None:  # noqa: N802
        if isinstance(node.arg, jinja2.nodes.Slice):
            self._wrapped("made", lambda: super(_Generator, self).visit_Getitem(node, frame))
        else:
            super().visit_Getitem(node, frame)

    def visit_List(self, node: jinja2.nodes.List, frame: Frame) -> None:  # noqa: N802
        self._wrapped("made", lambda: super(_Generator, self).visit_List(node, frame))

    def visit_Tuple(self, node: jinja2.nodes.Tuple, frame: Frame) -> None:  # noqa: N802
        if node.ctx == "load":
            self._wrapped("made", lambda: super(_Generator, self).visit_Tuple(node, frame))
        else:
            super().visit_Tuple(node, frame)

    def visit_Dict(self, node: jinja2.nodes.Dict, frame: Frame) -> None:  # noqa: N802
        self.write("environment.made({")
        for pair in node.items:
            self.write("environment.shown(")
            self.visit(pair.key, frame)
            self.write("): ")
            self.visit(pair.value, frame)
            self.write(", ")
        self.write("})")


class _GenerationTag(jinja2.ext.Extension):
    """`{% generation %}` marks answers for training; rendering just shows what is inside."""

    tags = {"generation"}  # noqa: RUF012  (how jinja2 declares it)

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node | list[jinja2.nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _bounded(function: Callable[..., Any], *, reads: bool) -> Callable[..., Any]:
    """A filter or test that pays. It takes the context, which also keeps Jinja from
    evaluating it while compiling."""
    passed = getattr(getattr(function, "jinja_pass_arg", None), "name", "")

    @pass_context
    def bounded(context: Any, value: Any = None, *args: Any, **kwargs: Any) -> Any:
        environment: BoundedEnvironment = context.environment
        _check_numbers((*args, *kwargs.values()))
        if reads:
            if isinstance(value, Iterator):
                value = environment.made(list(value))
            for given in (value, *args, *kwargs.values()):
                environment.shown(given)
        first = {
            "context": (context,),
            "eval_context": (context.eval_ctx,),
            "environment": (environment,),
        }.get(passed, ())
        return environment.made(function(*first, value, *args, **kwargs))

    return bounded


@pass_environment
def _join(environment: BoundedEnvironment, value: Any, d: Any = "", attribute: Any = None) -> str:
    if attribute is not None:
        value = map(jinja2.filters.make_attrgetter(environment, attribute), value)
    return environment.joined(str(d), value)


@pass_environment
def _replace(
    environment: BoundedEnvironment, value: Any, old: Any, new: Any, count: int | None = None
) -> str:
    return environment.replaced(str(value), str(old), str(new), -1 if count is None else count)


@pass_environment
def _indent(
    environment: BoundedEnvironment,
    value: Any,
    width: int | str = 4,
    first: bool = False,
    blank: bool = False,
) -> str:
    text = str(value)
    indentation = width if isinstance(width, str) else " " * min(max(width, 0), MAX_OPERAND)
    environment.spend((len(text.splitlines()) + 1) * _bytes(indentation))
    return jinja2.filters.do_indent(text, indentation, first, blank)


def _round(value: float, precision: int = 0, method: Any = "common") -> float:
    if abs(precision) > 30:
        raise PromptError("the chat template rounds to too many places")
    return jinja2.filters.do_round(value, precision, method)


@pass_environment
def _sum(
    environment: BoundedEnvironment, value: Any, attribute: Any = None, start: float = 0
) -> Any:
    if not isinstance(start, (int, float)):
        raise PromptError("the chat template sums up something other than numbers")
    return jinja2.filters.do_sum(environment, value, attribute, start)


@pass_environment
def _to_json(
    environment: BoundedEnvironment,
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Plain JSON, as the templates of the models expect it, not escaped for HTML."""
    width = None if indent is None else min(int(indent), 16)
    items, depth = environment.walk(value)
    environment.spend(items * (depth * (width or 0) + len("".join(separators or ()))))
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=width,
        separators=separators,
        sort_keys=sort_keys,
    )


def _check_numbers(values: Iterable[Any]) -> None:
    for value in values:
        if isinstance(value, int) and abs(value) > MAX_OPERAND:
            raise PromptError("the chat template calls something with a huge number")


def _sized(value: Any) -> bool:
    return isinstance(value, (str, list, tuple, bytes))


def _size(value: Any) -> int:
    return len(value) if _sized(value) else _magnitude(value)


def _magnitude(value: Any) -> int:
    return abs(value) if isinstance(value, int) else 1


def _bits(value: Any) -> int:
    return value.bit_length() if isinstance(value, int) else 0


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else 4 * len(text)
