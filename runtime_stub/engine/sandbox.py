"""Jinja for templates of strangers: sandboxed, and bounded in what one rendering may do.

Jinja's sandbox keeps a template away from attributes and files, but not from time and
memory. Two bounds are added here:

- time: a trace function looks at the clock at each line and call of Python code, and a
  compiled template is Python; so does whatever costs. What counts is the time that the
  thread computes, so that a busy machine makes no template fail; a longer limit holds for
  the time that passes;
- work: whatever makes text or a list pays for its bytes out of one budget, and so does
  whatever walks through nested data in native code, where the clock is not looked at. What
  could make much out of little pays before it does.

A template cannot change what it is given. It can change the lists that it writes itself,
`[...]`, by the few methods that real templates use, which pay as well: Kimi K2 queues the
names of calls in such a list. Jinja's immutable sandbox refuses that, but it protects
nothing: these lists are gone after the rendering. Lists that come from anywhere else, also
from `+`, slices and filters, and all dictionaries stay as they are.
"""

from __future__ import annotations

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
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox
from jinja2.compiler import CodeGenerator, Frame, operators
from jinja2.runtime import Macro
from jinja2.utils import Namespace

from runtime_stub.engine.sandbox_filters import (
    MAX_OPERAND,
    bounded_filters,
    bounded_tests,
    check_numbers,
    text_size,
)
from runtime_stub.errors import PromptError

MAX_SECONDS = 2.0
"""Time that the thread may compute."""
MAX_ELAPSED_SECONDS = 10.0
"""Time that may pass, also while the machine is busy with something else."""
MAX_WORK = 128 << 20
"""Bytes of text and lists that one rendering may make, most of them short-lived."""
_MAX_BITS = 4096
"""Longest product or power of whole numbers."""
_NODE = 64
"""What one item of nested data costs."""

_FORBIDDEN_METHODS = frozenset(
    ["encode", "expandtabs", "format_map", "fromhex", "maketrans", "to_bytes", "translate"]
)
"""Not used by chat templates; each makes much out of little, or bytes that do."""
_CHANGES = frozenset(["append", "extend", "insert", "pop"])
"""What a template may do to its own lists."""
_SCOPES = ("_loop_vars", "_block_vars")
"""What compiled templates add to each call inside of loops and blocks: it is for functions
that take the context, and Jinja removes it before it calls any other."""
_TRACED = ("jinja2", "markupsafe", "json")
_WIDE = re.compile(r"\d{4}")


class OwnList(list[Any]):
    """A list that the template has written itself."""

    __slots__ = ()


class BoundedEnvironment(jinja2.sandbox.ImmutableSandboxedEnvironment):
    """A sandbox whose templates run out of time and budget. One rendering at a time."""

    intercepted_binops = frozenset({"*", "**", "+", "%"})

    def __init__(self) -> None:
        """Set up as chat templates expect it."""
        self._left = MAX_WORK
        self._cpu_until = self._until = self._look_at = math.inf
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            optimized=False,
            finalize=self.shown,
            extensions=["jinja2.ext.loopcontrols", _GenerationTag],
        )
        self.code_generator_class = _Generator
        self.globals.pop("lipsum")
        self.filters = bounded_filters(self.filters)
        self.tests = bounded_tests(dict(self.tests))

    @contextmanager
    def bounded(self) -> Iterator[None]:
        """Renew the budget and start the clock; raises PromptError when either runs out."""
        self._left = MAX_WORK
        now = time.monotonic()
        self._cpu_until = time.thread_time() + MAX_SECONDS
        self._until = now + MAX_ELAPSED_SECONDS
        self._look_at = now + min(MAX_SECONDS, MAX_ELAPSED_SECONDS)
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
        """Raises PromptError when time is up.

        No thread computes for longer than time passes, so the slower clock, that of the
        thread, is only looked at when its limit may have been reached.
        """
        now = time.monotonic()
        if now < self._look_at:
            return
        cpu_left = self._cpu_until - time.thread_time()
        left = self._until - now
        if cpu_left <= 0 or left <= 0:
            limit = MAX_SECONDS if cpu_left <= 0 else MAX_ELAPSED_SECONDS
            raise PromptError(f"the chat template takes longer than {limit:.0f} seconds")
        self._look_at = now + min(cpu_left, left)

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
        is shown, compared or hashed. What contains itself costs all there is.
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
                self.spend(_NODE)
                stack.append((object.__getattribute__(item, "_Namespace__attrs"), depth + 1))
            else:
                self.spend(_NODE)
        return items, deepest

    def listed(self, values: list[Any]) -> OwnList:
        """`[...]`."""
        return OwnList(self.made(values))

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
            self.spend(16 + text_size(part) + text_size(separator))
            parts.append(part)
        return separator.join(parts)

    def replaced(self, text: str, old: str, new: str, count: int = -1) -> str:
        """`text.replace(old, new, count)`."""
        times = text.count(old)
        if count >= 0:
            times = min(times, count)
        self.spend(text_size(text) + times * text_size(new))
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
        scope = {name: kwargs.pop(name) for name in _SCOPES if name in kwargs}
        given = (*args, *kwargs.values())
        owner = getattr(function, "__self__", None)
        name = getattr(function, "__name__", "")
        if isinstance(owner, OwnList) and name in _CHANGES:
            return self._changed(function, *args)
        if not (function is Namespace or function is dict or isinstance(owner, _KEEPERS)):
            check_numbers(given)
        for value in given:
            self.shown(value)
        if isinstance(owner, (list, tuple)) and args:
            self.walk(owner)
        elif isinstance(owner, str):
            if name == "join" and len(args) == 1:
                return self.joined(owner, args[0])
            if name == "replace":
                return self.replaced(owner, *args, **kwargs)
        return self.made(super().call(context, function, *args, **kwargs, **scope))

    def _changed(self, change: Callable[..., Any], *args: Any) -> Any:
        """Change a list of the template. It is not walked through: what is in it was paid for
        when it was made, and is again whenever it is shown."""
        self.spend(_NODE)
        if change.__name__ == "extend":
            # A copy: the list may be what is given, or be read by it while it grows.
            args = tuple(self.made(list(values)) for values in args)
            self.spend(sum(sys.getsizeof(values) for values in args))
        return change(*args)

    def getitem(self, obj: Any, argument: Any) -> Any:
        """Items; hashing a nested tuple counts as walking through it."""
        if isinstance(argument, tuple):
            self.walk(argument)
        return super().getitem(obj, argument)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Jinja's rules, some methods of text less, and some of the template's lists more."""
        if isinstance(obj, OwnList) and attr in _CHANGES:
            return True
        return attr not in _FORBIDDEN_METHODS and super().is_safe_attribute(obj, attr, value)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """`str.format` without attributes of its own and without huge widths."""
        if super().wrap_str_format(value) is None:
            return None
        if value.__name__ != "format":
            raise PromptError("the chat template formats text in a way that is not allowed")
        return _Formatter(self, value.__self__).filled


class _Formatter(jinja2.sandbox.SandboxedFormatter):
    def __init__(self, environment: BoundedEnvironment, text: str) -> None:
        super().__init__(environment)
        self._environment = environment
        self._text = text

    def filled(self, /, *args: Any, **kwargs: Any) -> str:
        return self.vformat(self._text, args, kwargs)

    def format_field(self, value: Any, format_spec: str) -> Any:
        if _WIDE.search(format_spec):
            raise PromptError("the chat template pads text without end")
        self._environment.shown(value)
        return self._environment.made(super().format_field(value, format_spec))

    def convert_field(self, value: Any, conversion: Any) -> Any:
        self._environment.shown(value)
        return self._environment.made(super().convert_field(value, conversion))


_KEEPERS = (Mapping, _Formatter)
"""What has methods for which a number is no size."""


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
        self._wrapped("listed", lambda: super(_Generator, self).visit_List(node, frame))

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


def _sized(value: Any) -> bool:
    return isinstance(value, (str, list, tuple, bytes))


def _size(value: Any) -> int:
    return len(value) if _sized(value) else _magnitude(value)


def _magnitude(value: Any) -> int:
    return abs(value) if isinstance(value, int) else 1


def _bits(value: Any) -> int:
    return value.bit_length() if isinstance(value, int) else 0
