"""The filters and tests of chat templates, which pay out of the budget of a rendering."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import jinja2.filters
from jinja2.utils import pass_context, pass_environment

from runtime_stub.errors import PromptError

if TYPE_CHECKING:
    from runtime_stub.engine.sandbox import BoundedEnvironment

MAX_OPERAND = 1_000_000
"""Largest number given to a function, and longest text or list made by repeating."""

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


def bounded_filters(known: dict[str, Any]) -> dict[str, Any]:
    """Those of Jinja's filters that templates may use, with bounds."""
    filters = {
        **known,
        "indent": _indent,
        "join": _join,
        "replace": _replace,
        "round": _round,
        "sum": _sum,
        "tojson": _to_json,
    }
    return {
        **{name: _bounded(filters[name]) for name in _PLAIN_FILTERS},
        **{name: _bounded(filters[name], reads=True, sizes=True) for name in _READING_FILTERS},
    }


def bounded_tests(known: dict[str, Any]) -> dict[str, Any]:
    """Jinja's tests, with bounds."""
    return {**known, **{name: _bounded(known[name], reads=True) for name in _READING_TESTS}}


def check_numbers(values: Iterable[Any]) -> None:
    """Refuse what could be the size of something huge."""
    for value in values:
        if isinstance(value, int) and abs(value) > MAX_OPERAND:
            raise PromptError("the chat template calls something with a huge number")


def text_size(text: str) -> int:
    """The most memory that `text` takes, in bytes."""
    return len(text) if text.isascii() else 4 * len(text)


def _bounded(
    function: Callable[..., Any], *, reads: bool = False, sizes: bool = False
) -> Callable[..., Any]:
    """A filter or test that pays: also for what it `reads`, and with bounds on numbers where
    these could be `sizes`. It takes the context, which also keeps Jinja from evaluating it
    while compiling."""
    passed = getattr(getattr(function, "jinja_pass_arg", None), "name", "")

    @pass_context
    def bounded(context: Any, value: Any = None, *args: Any, **kwargs: Any) -> Any:
        environment: BoundedEnvironment = context.environment
        if sizes:
            check_numbers((*args, *kwargs.values()))
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
    environment.spend((len(text.splitlines()) + 1) * text_size(indentation))
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
