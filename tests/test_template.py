from __future__ import annotations

import datetime
import json
import sys
import threading
import time
import tracemalloc
from typing import Any

import pytest

from runtime_stub.engine import sandbox, template
from runtime_stub.engine.template import FALLBACK, ChatTemplate, Variables
from runtime_stub.errors import PromptError

MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hi <b>&'\" é"},
]


def render(source: str, messages: list[dict[str, Any]] | None = None, **arguments: Any) -> str:
    made = ChatTemplate(source, Variables("<s>", "</s>"))
    return made.render(MESSAGES if messages is None else messages, **arguments)


# What the templates of real models rely on.


def test_fallback() -> None:
    assert render(FALLBACK) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n"
        "<|im_start|>user\nHi <b>&'\" é<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert not render(FALLBACK, add_generation_prompt=False).endswith("assistant\n")


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{{ bos_token }}|{{ eos_token }}", "<s>|</s>"),
        ("{{ messages[-1]['content'] }}", "Hi <b>&'\" é"),
        ("{{ messages[0].role | upper }}", "SYSTEM"),
        ("{{ messages[1:] | length }}", "1"),
        ("{{ {'a': \"<é>'\", 'b': [1, none, true]} | tojson }}", """{"a": "<é>'", "b": [1, null, true]}"""),  # noqa: E501
        ("{{ [1] | tojson(indent=2) }}", "[\n  1\n]"),
        ("{{ {'b': 1, 'a': 2} | tojson(sort_keys=true, separators=(',', ':')) }}", '{"a":2,"b":1}'),
        ("{{ 'é' | tojson(ensure_ascii=true) }}", '"\\u00e9"'),
        ("{% for i in range(9) %}{% if i == 1 %}{% continue %}{% endif %}{% if i > 2 %}{% break %}{% endif %}{{ i }}{% endfor %}", "02"),  # noqa: E501
        ("{% generation %}{{ messages[0].content }}{% endgeneration %}", "Be brief."),
        ("{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}", "2"),  # noqa: E501
        ("{% if x is not defined %}no{% endif %}{{ x | default('d') }}", "nod"),
        ("{% macro m(a, b='c') %}[{{ a }}{{ b }}]{% endmacro %}{{ m('x') ~ m(1, 2) }}", "[xc][12]"),
        ("{% macro m() %}({{ caller() }}){% endmacro %}{% call m() %}in{% endcall %}", "(in)"),
        ("{% set block %}a{{ 1 }}{% endset %}{{ block }}{{ block | length }}", "a12"),
        ("{% filter upper %}abc{% endfilter %}", "ABC"),
        ("{{ 'a' ~ 1 ~ none ~ ['b'] }}", "a1None['b']"),
        ("{{ 'a,b'.split(',') | join('-') }}{{ '+'.join(['x', 'y']) }}", "a-bx+y"),
        ("{{ messages | map(attribute='role') | join(', ') }}", "system, user"),
        ("{{ messages | join('/', attribute='role') }}", "system/user"),
        ("{{ messages | selectattr('role', 'equalto', 'user') | list | length }}", "1"),
        ("{{ messages | rejectattr('role', 'in', ['user']) | map(attribute='content') | first }}", "Be brief."),  # noqa: E501
        ("{% for m in messages if m.role != 'system' %}{{ loop.first }}{{ loop.index0 }}{% endfor %}", "True0"),  # noqa: E501
        ("{{ 'a</think> b'.split('</think>')[-1].strip() }}", "b"),
        ("{{ ' x ' | trim }}{{ 'xAx'.strip('x').lower() }}", "xa"),
        ("{{ 'aXbX'.replace('X', '-') }}{{ 'aaa'.replace('a', 'b', 1) }}{{ 'cc' | replace('c', 'd') }}", "a-b-baadd"),  # noqa: E501
        ("{{ '{}-{:>4}-{k}'.format('a', 7, k='z') }}", "a-   7-z"),
        ("{{ {'a': 1}.items() | list }}{% for k, v in {'x': 2}.items() %}{{ k }}{{ v }}{% endfor %}", "[('a', 1)]x2"),  # noqa: E501
        ("{{ {'a': 1} | dictsort }}{{ {'a': 1}['a'] }}{{ {'a': {'b': 3}}.a.b }}", "[('a', 1)]13"),
        ("{{ 'role' in messages[0] and 'x' not in messages[0] }}", "True"),
        ("{{ 'a\nb' | indent(2) }}{{ 'a\nb' | indent('> ', true) }}", "a\n  b> a\n> b"),
        ("{{ [3, 1, 2] | sort | reverse | list }}{{ [1, 2] | sum }}{{ 2.567 | round(1) }}", "[3, 2, 1]32.6"),  # noqa: E501
        ("{{ messages[0].content is string and messages is iterable and messages[0] is mapping }}", "True"),  # noqa: E501
        ("{{ 5 % 3 }}{{ 2 ** 3 }}{{ 7 // 2 }}{{ 1 < 2 < 3 }}", "283True"),
        ("{{ '-' * 3 }}{{ [0] * 2 }}{{ [1] + [2] }}", "---[0, 0][1, 2]"),
        ("{{ (1, 2)[0] }}{{ (messages[0].role, 2) == ('system', 2) }}", "1True"),
        ("{{ tools[0].function.name }}", "f"),
        ("a  \n  {% if true %}\nb\n  {% endif %}\nc", "a  \nb\nc"),
        # Calls within loops and blocks, where Jinja passes along the variables set there.
        ("{% for m in messages %}{% set ns = namespace(s='') %}{% set ns.s = ns.s + m.role.strip() %}{{ ns.s.upper() }}{% endfor %}", "SYSTEMUSER"),  # noqa: E501
        ("{% for m in messages %}{% set x = m.role %}{{ x.replace('s', 'z') }}{{ x.replace('s', 'z', 1) }}{{ '-'.join([x]) }}{{ '{}'.format(x) }}{% endfor %}", "zyztemzystemsystemsystemuzeruzeruseruser"),  # noqa: E501
        ("{% block b %}{% set ns = namespace(x='ab') %}{{ ns.x.replace('a', 'c') }}{% endblock %}", "cb"),  # noqa: E501
        ("{% macro m(ns) %}{% for i in [1, 2] %}{% set t = ns %}{% set ns.n = ns.n + [i][0] %}{% endfor %}{% endmacro %}{% set ns = namespace(n=0) %}{{ m(ns) }}{{ ns.n }}", "3"),  # noqa: E501
        ("{% set a = namespace(x=1) %}{% set b = namespace(a=a) %}{{ b.a.x }}{{ a == b.a }}{{ a in [b] }}{{ a != none }}", "1TrueFalseTrue"),  # noqa: E501
        ("{{ namespace(x=[1]) }}", "<Namespace {'x': [1]}>"),
        # Lists of the template's own grow and shrink.
        ("{% set q = namespace(ids=[]) %}{% for m in messages %}{% set _ = q.ids.append('f:' + m.role) %}{% endfor %}{% if q.ids %}{{ q.ids.pop(0) }}{% endif %}{{ q.ids }}", "f:system['f:user']"),  # noqa: E501
        ("{% set x = [1] %}{% set _ = x.extend(x) %}{% set _ = x.extend(x | map('string')) %}{% set _ = x.insert(0, 'a') %}{{ x }}{{ x.pop() }}{{ x | tojson }}", """['a', 1, 1, '1', '1']1["a", 1, 1, "1"]"""),  # noqa: E501
        ("{% set x = [] %}{% for i in [3, 1] %}{% set _ = x.append(namespace(n=i)) %}{% endfor %}{{ x | map(attribute='n') | sort | join }}{{ x | length }}", "132"),  # noqa: E501
        # Large numbers that are no sizes.
        ("{% set ns = namespace(n=tools[0].big) %}{{ ns.n }}{{ dict(n=ns.n).n }}{{ x | default(ns.n) }}", "1722441600123" * 3),  # noqa: E501
        ("{{ '{}'.format(tools[0].big) }}{{ tools[0].big is gt(1722441600122) }}{{ tools[0].get('x', 1722441600123) }}", "1722441600123True1722441600123"),  # noqa: E501
    ],
)  # fmt: skip
def test_feature(source: str, expected: str) -> None:
    assert render(source, tools=[{"function": {"name": "f"}, "big": 1722441600123}]) == expected


def test_strftime_now() -> None:
    year = str(datetime.datetime.now().astimezone().year)
    assert render("{{ strftime_now('%Y') }}") == year


def test_raise_exception_is_the_models_refusal() -> None:
    with pytest.raises(PromptError, match="refuses these messages: roles must alternate"):
        render("{{ raise_exception('roles must alternate') }}")


def test_own_lists_do_not_outlive_the_rendering() -> None:
    source = (
        "{% macro m(x=[]) %}{% set _ = x.append(1) %}{{ x }}{% endmacro %}"
        "{% set y = [] %}{% set _ = y.append(2) %}{{ m() }}{{ m() }}{{ y }}"
    )
    made = ChatTemplate(source, Variables())
    assert made.render([]) == made.render([]) == "[1][1][2]"


def test_changing_own_lists_is_paid_for(monkeypatch: pytest.MonkeyPatch) -> None:
    source = (
        "{% set x = [] %}{% for i in range(count) %}{% set _ = x.append(i) %}{% endfor %}"
        "{{ x | length }}"
    )
    monkeypatch.setattr(sandbox, "MAX_WORK", 50_000)
    assert render(source, count=100) == "100"
    with pytest.raises(PromptError, match="without end"):
        render(source, count=1000)


def test_messages_stay_as_they_are() -> None:
    messages = [{"role": "user", "content": "x"}]
    render("{% set messages = [] %}{{ messages | length }}", messages)
    assert messages == [{"role": "user", "content": "x"}]


def test_arguments_reach_the_template() -> None:
    assert render("{{ enable_thinking }}", enable_thinking=False) == "False"


def test_long_conversation_is_not_refused() -> None:
    messages = [{"role": "user", "content": "many words " * 200}] * 1000
    source = (
        "{% for message in messages %}{% if 'tool_calls' in message %}x{% endif %}"
        "{% if message.role == 'user' and message.content is string %}"
        "{{ bos_token + message.role + ': ' + message.content | trim ~ '\n' }}{% endif %}"
        "{% if loop.last and messages | length == loop.index %}end{% endif %}{% endfor %}"
    )
    assert render(source, messages).endswith("end")


# Templates that fail.


@pytest.mark.parametrize(
    "source",
    [
        "{% if %}",
        "{{ 1",
        "{% endfor %}",
        "{{ x | nonexistent }}",
        "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
        "{{ " + "-" * 5000 + "1 }}",
        "{% if a %}" * 500 + "{% endif %}" * 500,
        "{% for a in b %}" * 30 + "{% endfor %}" * 30,
        "{{ 1" + " + 1" * 20_000 + " }}",
        "x" * (template.MAX_SOURCE + 1),
    ],
    ids=lambda source: source[:14],
)
def test_invalid_source(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "MAX_SECONDS", 0.3)
    with pytest.raises(PromptError):
        render(source)


@pytest.mark.parametrize(
    "source",
    [
        "{{ undefined.attribute.x }}",
        "{{ 1 / 0 }}",
        "{{ 1 + 'a' }}",
        "{{ messages[0] + 1 }}",
        "{{ none() }}",
        "{{ [1].index(2) }}",
        "{{ {1: 2} | tojson | tojson(indent='x') }}",
        "{{ undefined | tojson }}",
        "{% include 'x' %}",
        "{% extends 'x' %}",
        "{% import 'x' as y %}",
        "{{ strftime_now(1) }}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{% for a in [[]] recursive %}{{ loop([[]]) }}{% endfor %}",
        "{{ '{}{}'.format(1) }}",
        "{{ '%d' % 1 }}",
    ],
)
def test_failing_template(source: str) -> None:
    with pytest.raises(PromptError):
        render(source)


def test_reason_is_short() -> None:
    with pytest.raises(PromptError) as caught:
        render("{{ raise_exception('x' * 100000) }}")
    assert len(caught.value.message) < 1000


# Templates that reach out, or never end. Each gives up within seconds, in bounded memory.


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__ }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ ''['__class__'] }}",
        "{{ '' | attr('__class__') }}",
        "{{ raise_exception.__globals__ }}",
        "{{ strftime_now.__globals__['sys'] }}",
        "{{ '{0.__class__}'.format('') }}",
        "{{ '{0[__class__]}'.format('') }}",
        "{{ '{a}'.format_map({'a': 1}) }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update({}) }}",
        "{{ messages[0]['content'].append(1) }}",
        "{{ [messages][0].append(1) }}",
        "{{ messages | attr('append')(1) }}",
        "{{ (messages | map(attribute='tool_calls') | first).append(1) }}",
        "{{ messages[:].append(1) }}",
        "{{ (messages + []).append(1) }}",
        "{{ [1].sort() }}",
        "{{ [1].clear() }}",
        "{{ [1].__iadd__([1]) }}",
        "{{ {}.update({}) }}",
        "{{ namespace(x=1)._Namespace__attrs }}",
        "{{ self.__init__ }}",
        "{{ joiner.__init__.__globals__ }}",
        "{{ ['__class__'] | map(attribute='__class__') | first }}",
    ],
)
def test_no_way_out(source: str) -> None:
    try:
        shown = render(source)
    except PromptError:
        return
    assert shown == ""


REPEAT = (
    "{% set ns = namespace(x=START) %}{% for i in range(60) %}{% set ns.x = STEP %}{% endfor %}"
)


def repeated(start: str, step: str, then: str = "") -> str:
    return REPEAT.replace("START", start).replace("STEP", step) + then


ENDLESS = {
    "repeat": "{{ 'x' * 500000000 }}",
    "repeat from left": "{{ 500000000 * 'x' }}",
    "repeat list": "{{ [0] * 500000000 }}",
    "repeat beyond 64 bits": "{{ 'x' * 100000000000000000000 }}",
    "repeat twice": "{{ 'x' * 1000000 * 1000000 }}",
    "power": "{{ 9 ** (9 ** 9) }}",
    "power of power": repeated("1000", "ns.x ** 64"),
    "square": repeated("10", "ns.x * ns.x"),
    "loops": "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}",
    "loops with output": "{% for a in range(99999) %}{% for b in range(99999) %}{{ 'x' * 9999 }}"
    "{% endfor %}{% endfor %}",
    "range": "{{ range(1000000000) | list }}",
    "range sum": "{% for a in range(99999) %}{% set x = range(99999) | sum %}{% endfor %}",
    "add": repeated("'x'", "ns.x + ns.x"),
    "add lists": repeated("[1]", "ns.x + ns.x"),
    "tilde": repeated("'x'", "ns.x ~ ns.x"),
    "set block": "{% set ns = namespace(x='x') %}{% for i in range(60) %}{% set y %}{{ ns.x }}"
    "{{ ns.x }}{% endset %}{% set ns.x = y %}{% endfor %}",
    "macro": "{% macro m(x) %}{{ x }}{{ x }}{% endmacro %}" + repeated("'x'", "m(ns.x)"),
    "filter block": "{% set ns = namespace(x='x') %}{% for i in range(60) %}{% set y %}"
    "{% filter upper %}{{ ns.x }}{{ ns.x }}{% endfilter %}{% endset %}{% set ns.x = y %}"
    "{% endfor %}",
    "join": "{{ ([('x' * 1000000)] * 100000) | join }}",
    "join method": "{{ ('x' * 1000000).join(['', ''] * 100000) }}",
    "join separator": "{{ ([''] * 100000) | join('x' * 1000000) }}",
    "replace": "{{ ('x' * 1000000) | replace('x', 'y' * 1000000) }}",
    "replace method": "{{ ('x' * 1000000).replace('x', 'y' * 1000000) }}",
    "replace nothing": "{{ ('x' * 1000000).replace('', 'y' * 1000000) }}",
    "constant filters": "{{ 'x'" + " | replace('x', 'xxxxxxxxxx')" * 12 + " }}",
    "constant filters in a condition": "{% if 'x'"
    + " | replace('x', 'xxxxxxxxxx')" * 12
    + " %}{% endif %}",
    "center": "{{ 'x' | center(1000000000) }}",
    "center method": "{{ 'x'.center(1000000000) }}",
    "ljust": "{{ 'x'.ljust(1000000000) }}",
    "rjust": "{{ 'x'.rjust(1000000000) }}",
    "zfill": "{{ 'x'.zfill(1000000000) }}",
    "ljust kept": repeated("[]", "[ns.x, 'x'.ljust(1000000)]") * 20,
    "expandtabs": "{{ ('\t' * 1000000).expandtabs(1000000) }}",
    "translate": "{{ ('x' * 1000000).translate({120: 'y' * 1000000}) }}",
    "indent": "{{ 'x' | indent(1000000000, true) }}",
    "indent lines": "{{ ('\n' * 1000000) | indent(1000000, true, true) }}",
    "indent with text": "{{ ('\n' * 1000000) | indent('x' * 1000000, true, true) }}",
    "wordwrap": "{{ ('x ' * 400000) | wordwrap(1, wrapstring='y' * 1000000) }}",
    "percent": "{{ '%1000000000d' % 1 }}",
    "percent filter": "{{ '%1000000000d' | format(1) }}",
    "format": "{{ '{:1000000000}'.format(1) }}",
    "format nested": "{{ '{:{}}'.format(1, 1000000) }}",
    "format often": "{{ ('{0}' * 100000).format('x' * 1000000) }}",
    "batch": "{{ [1] | batch(1000000000, 0) | list }}",
    "slice": "{{ [1] | slice(1000000000) | list }}",
    "round": "{{ 1.5 | round(1000000, 'ceil') }}",
    "sum of lists": "{{ ([[0] * 1000000] * 100000) | sum(start=[]) }}",
    "tojson indent": "{{ [[1]] | tojson(indent=1000000000) }}",
    "tojson separators": "{{ ([1] * 1000000) | tojson(separators=('x' * 1000000, '')) }}",
    "slices kept": "{% set ns = namespace(x=[]) %}{% set big = 'x' * 1000000 %}"
    "{% for i in range(99999) %}{% set ns.x = [ns.x, big[1:]] %}{% endfor %}",
    "shared list shown": repeated("[1]", "[ns.x, ns.x]", "{{ ns.x }}"),
    "shared list joined": repeated("[1]", "[ns.x, ns.x]", "{{ 'a' ~ ns.x }}"),
    "shared list as text": repeated("[1]", "[ns.x, ns.x]", "{{ ns.x | string }}"),
    "shared list as json": repeated("[1]", "[ns.x, ns.x]", "{{ ns.x | tojson }}"),
    "shared dict shown": repeated("{}", "{'a': ns.x, 'b': ns.x}", "{{ ns.x }}"),
    "shared dict items": repeated("{}", "{'a': ns.x, 'b': ns.x}", "{{ ns.x.values() }}"),
    "shared list in a namespace": repeated("[1]", "[ns.x, ns.x]", "{{ ns }}"),
    "shared list formatted": repeated("[1]", "[ns.x, ns.x]", "{{ '{}'.format(ns.x) }}"),
    "shared list raised": repeated("[1]", "[ns.x, ns.x]", "{{ raise_exception(ns.x) }}"),
    "shared list hashed": repeated("()", "(ns.x, ns.x)", "{{ {}[ns.x] }}"),
    "shared list as key": repeated("()", "(ns.x, ns.x)", "{{ {ns.x: 1} | length }}"),
    "shared lists compared": repeated("[1]", "[ns.x, ns.x]", "{% set a = ns.x %}")
    + repeated("[1]", "[ns.x, ns.x]", "{{ a == ns.x }}"),
    "shared lists compared by a test": repeated("[1]", "[ns.x, ns.x]", "{% set a = ns.x %}")
    + repeated("[1]", "[ns.x, ns.x]", "{{ a is eq(ns.x) }}"),
    "shared lists sorted": repeated("[1]", "[ns.x, ns.x]", "{% set a = ns.x %}")
    + repeated("[1]", "[ns.x, ns.x]", "{{ [[a], [ns.x]] | map('first') | sort | length }}"),
    "lipsum": "{{ lipsum(1000000) }}",
    "list that grows in its loop": "{% set x = [1] %}{% for i in x %}{% set _ = x.append(i) %}"
    "{% endfor %}",
    "list that grows by what is in it": "{% set x = [1] %}{% for i in range(60) %}"
    "{% set _ = x.extend(x) %}{% endfor %}",
    "list that grows by what is read from it": "{% set x = [1] %}{% for i in range(60) %}"
    "{% set _ = x.extend(x | map('string')) %}{% endfor %}",
    "list that grows in front": "{% set x = [0] %}{% for a in range(99999) %}"
    "{% for b in range(99999) %}{% set _ = x.insert(0, a) %}{% endfor %}{% endfor %}",
    "list in itself": "{% set x = [] %}{% for i in range(9) %}{% set _ = x.append(x) %}"
    "{% endfor %}{{ x }}",
    "list in itself as json": "{% set x = [] %}{% set _ = x.append([x, x]) %}{{ x | tojson }}",
    "list in itself compared": "{% set x = [] %}{% set _ = x.append(x) %}"
    "{% set y = [] %}{% set _ = y.append(y) %}{{ x == y }}",
    "namespace in itself": "{% set x = namespace() %}{% set x.y = [x, x] %}{{ x }}",
    "namespaces compared": repeated("[1]", "[ns.x, ns.x]", "{{ [ns] == [ns] }}"),
    "namespace passed": repeated("[1]", "[ns.x, ns.x]", "{{ namespace(x=ns) }}"),
    "passed as a variable of a loop": repeated(
        "[1]", "[ns.x, ns.x]", "{{ '{}'.format(ns.x, **{'_loop_vars': ns.x}) }}"
    ),
    "replace in a loop": "{% for i in range(9) %}{% set x = 'x' * 1000000 %}"
    "{{ x.replace('x', x) }}{% endfor %}",
    "split kept": "{% set x = [] %}{% set big = 'x ' * 400000 %}{% for i in range(99999) %}"
    "{% set _ = x.append(big.split(' ')) %}{% endfor %}",
    "nested ever deeper": "{% set ns = namespace(x=[]) %}{% for a in range(99999) %}"
    "{% for b in range(99999) %}{% set y = [] %}{% set _ = y.append(ns.x) %}{% set ns.x = y %}"
    "{% endfor %}{% endfor %}",
}


@pytest.mark.parametrize("source", ENDLESS.values(), ids=ENDLESS)
def test_endless(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "MAX_SECONDS", 0.05)
    start = time.monotonic()
    with pytest.raises(PromptError):
        render(source)
    assert time.monotonic() - start < 3


@pytest.mark.slow
def test_endless_in_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "MAX_SECONDS", 0.5)
    for name, source in ENDLESS.items():
        tracemalloc.start()
        with pytest.raises(PromptError):
            render(source)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 4 * sandbox.MAX_WORK, name


def test_endless_output_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template, "MAX_CHARACTERS", 100_000)
    with pytest.raises(PromptError, match="writes without end"):
        render("{% for i in range(99999) %}{{ 'some text' }}{% endfor %}")


def test_deadline_holds_in_other_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "MAX_SECONDS", 0.2)
    caught: list[Exception] = []

    def work() -> None:
        try:
            render(ENDLESS["loops"])
        except PromptError as error:
            caught.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(5)
    assert not thread.is_alive()
    assert "takes longer" in str(caught[0])


def test_waiting_is_not_computing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "MAX_SECONDS", 0.2)
    source = "{% for i in range(3) %}{{ wait(0.1) or i }}{% endfor %}"
    assert render(source, wait=time.sleep) == "012"
    monkeypatch.setattr(sandbox, "MAX_ELAPSED_SECONDS", 0.2)
    with pytest.raises(PromptError, match="takes longer"):
        render(source, wait=time.sleep)


def test_elapsed_time_is_bounded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "MAX_SECONDS", 0.05)
    monkeypatch.setattr(sandbox, "MAX_ELAPSED_SECONDS", 0.3)
    monkeypatch.setattr(time, "thread_time", lambda: 0.0)  # as if others had the processor
    start = time.monotonic()
    with pytest.raises(PromptError, match="takes longer"):
        render(ENDLESS["loops"])
    assert time.monotonic() - start >= 0.3


def test_trace_function_of_others_is_put_back() -> None:
    def trace(*_arguments: Any) -> None:
        return None

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        render("x")
        with pytest.raises(PromptError):
            render("{{ 1 / 0 }}")
        assert sys.gettrace() is trace
    finally:
        sys.settrace(before)


def test_budget_is_renewed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "MAX_WORK", 50_000)
    made = ChatTemplate("{{ messages[0].content ~ 'x' }}", Variables())
    for _ in range(20):
        made.render([{"role": "user", "content": "y" * 10_000}])
    with pytest.raises(PromptError, match="without end"):
        made.render([{"role": "user", "content": "y" * 50_000}])


def test_json_is_what_json_says() -> None:
    value: dict[str, Any] = {"name": "é\u2028", "n": [1.5, -2, None, {"deep": []}]}
    assert render("{{ tools | tojson }}", tools=value) == json.dumps(value, ensure_ascii=False)
