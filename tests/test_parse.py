from __future__ import annotations

import itertools
import json
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime_stub.engine import families
from runtime_stub.engine.families import Family, detect, opens_reasoning, reasons
from runtime_stub.engine.parse import (
    AnswerParser,
    Content,
    Piece,
    Reasoning,
    ToolCallArguments,
    ToolCallStart,
    new_identity,
)

FAMILIES = [value for value in vars(families).values() if isinstance(value, Family)]
NAMED = replace(families.MISTRAL, style="named", listed=False)


def joined(pieces: Iterable[Piece]) -> list[Piece]:
    """Adjacent pieces of one kind made one."""
    parser = AnswerParser(families.GENERIC, tools=False)
    for piece in pieces:
        parser._emit(piece)
    return parser._out


def parse(
    family: Family,
    chunks: str | Iterable[str],
    *,
    tools: bool = True,
    cut: bool = False,
    **options: Any,
) -> list[Piece]:
    numbers = itertools.count()
    parser = AnswerParser(family, tools=tools, identify=lambda: f"id{next(numbers)}", **options)
    chunks = [chunks] if isinstance(chunks, str) else chunks
    pieces = [piece for chunk in chunks for piece in parser.feed(chunk)]
    pieces += parser.finish(cut=cut)
    assert parser.finish(cut=cut) == []
    return joined(pieces)


def answer(family: Family, text: str, **options: Any) -> tuple[str, str, list[tuple[str, Any]]]:
    """Reasoning, content, and calls with their arguments decoded."""
    pieces = parse(family, text, **options)
    assert parse(family, list(text), **options) == pieces, "one character at a time"
    reasoning = "".join(piece.text for piece in pieces if isinstance(piece, Reasoning))
    content = "".join(piece.text for piece in pieces if isinstance(piece, Content))
    calls: list[tuple[str, Any]] = []
    for piece in pieces:
        if isinstance(piece, ToolCallStart):
            assert piece.index == len(calls)
            text = "".join(
                other.text
                for other in pieces
                if isinstance(other, ToolCallArguments) and other.index == piece.index
            )
            calls.append((piece.name, json.loads(text)))
    return reasoning, content, calls


PARIS = [("weather", {"city": "Paris"})]
BOTH = [*PARIS, ("now", {})]
CALL = '{"name": "weather", "arguments": {"city": "Paris"}}'
NOW = '{"name": "now", "arguments": {}}'
LLAMA_CALL = '{"name": "weather", "parameters": {"city": "Paris"}}'
TAGGED = "<function=weather>\n<parameter=city>\nParis\n</parameter>\n</function>"
DEEPSEEK = (
    "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>{0}<｜tool▁call▁end｜>"
    "<｜tool▁call▁begin｜>{1}<｜tool▁call▁end｜><｜tool▁calls▁end｜>"
)

CALLS: list[tuple[Family, str, list[tuple[str, Any]]]] = [
    (families.HERMES, f"<tool_call>\n{CALL}\n</tool_call>", PARIS),
    (families.HERMES, f"<tool_call>\n{CALL}\n</tool_call>\n<tool_call>{NOW}</tool_call>\n", BOTH),
    (families.HERMES, f"<tool_call>{CALL}", PARIS),
    (families.HERMES, f"<tool_call>{CALL}\n{NOW}</tool_call>", BOTH),
    (families.HERMES, f"<tool_call>[{CALL}, {NOW}]</tool_call>", BOTH),
    (families.HERMES, '<tool_call>{"arguments": {"city": "Paris"}, "name": "weather"}', PARIS),
    (families.HERMES, '<tool_call>{"name": "now"}</tool_call>', [("now", {})]),
    (families.HERMES, '<tool_call>{"name": "now", "arguments": null}', [("now", {})]),
    (
        families.HERMES,
        '<tool_call>{"name": "weather", "arguments": "{\\"city\\": \\"Paris\\"}"}</tool_call>',
        PARIS,
    ),
    (
        families.HERMES,
        (
            '<tool_call>{"name": "f", "arguments": {"a": "x\ny", "b": [1, -2.5e3, {"c": null}], '
            '"d": "\\u00e9\\"</tool_call>"}}</tool_call>'
        ),
        [("f", {"a": "x\ny", "b": [1, -2500.0, {"c": None}], "d": 'é"</tool_call>'})],
    ),
    (families.HERMES, f"```json\n{CALL}\n```", PARIS),
    (families.GENERIC, CALL, PARIS),
    (families.GENERIC, f"\n[{CALL}, {NOW}]", BOTH),
    (families.GEMMA, f"```tool_call\n{CALL}\n```", PARIS),
    (families.GEMMA, '```tool_code\nprint(weather(city="Paris"))\n```', PARIS),
    (families.GEMMA, "```tool_code\ndefault_api.weather(city='Paris')\nnow()\n```", BOTH),
    (families.QWEN_CODER, f"<tool_call>\n{TAGGED}\n</tool_call>", PARIS),
    (families.QWEN_CODER, f"{TAGGED}\n</tool_call>", PARIS),
    (
        families.QWEN_CODER,
        f"<tool_call>\n{TAGGED}\n</tool_call>\n<tool_call>\n<function=now>\n</function></tool_call>",
        BOTH,
    ),
    (
        families.QWEN_CODER,
        (
            "<function=f><parameter=code>\n  if a < b:\n    </p>\n\n</parameter>\n<parameter=n>5"
            "</parameter><parameter=l>[1, true]</parameter></function>"
        ),
        [("f", {"code": "  if a < b:\n    </p>\n", "n": 5, "l": [1, True]})],
    ),
    (families.SEED, f"<seed:tool_call>\n{TAGGED}\n</seed:tool_call>", PARIS),
    (families.FUNCTIONARY, '<function=weather>{"city": "Paris"}</function>', PARIS),
    (
        families.GLM,
        "<tool_call>weather\n<arg_key>city</arg_key>\n<arg_value>Paris</arg_value>\n</tool_call>",
        PARIS,
    ),
    (families.GLM, "<tool_call>now</tool_call>", [("now", {})]),
    (
        families.GLM,
        (
            "<tool_call>f<arg_key>a</arg_key><arg_value>1</arg_value>"
            '<arg_key>b</arg_key><arg_value>{"c": []}</arg_value></tool_call>'
        ),
        [("f", {"a": 1, "b": {"c": []}})],
    ),
    (families.LLAMA, LLAMA_CALL, PARIS),
    (families.LLAMA, f"<|python_tag|>{LLAMA_CALL}", PARIS),
    (families.LLAMA, f'<|python_tag|>{LLAMA_CALL}; {{"name": "now", "parameters": {{}}}}', BOTH),
    (families.LLAMA, '<|python_tag|>weather.call(city="Paris")', PARIS),
    (families.LLAMA, '{"type": "function", "name": "now", "parameters": {}}', [("now", {})]),
    (families.MISTRAL, f'[TOOL_CALLS][{CALL[:-1]}, "id": "123456789"}}, {NOW}]', BOTH),
    (NAMED, '[TOOL_CALLS]weather[ARGS]{"city": "Paris"}[TOOL_CALLS]now[ARGS]{}', BOTH),
    (NAMED, '[TOOL_CALLS]weather[CALL_ID]123456789[ARGS]{"city": "Paris"}', PARIS),
    (NAMED, '[TOOL_CALLS]weather{"city": "Paris"}', PARIS),
    (
        families.DEEPSEEK,
        DEEPSEEK.format(
            'function<｜tool▁sep｜>weather\n```json\n{"city": "Paris"}\n```',
            "function<｜tool▁sep｜>now\n```json\n{}\n```",
        ),
        BOTH,
    ),
    (
        families.DEEPSEEK,
        DEEPSEEK.format('weather<｜tool▁sep｜>{"city": "Paris"}', "now<｜tool▁sep｜>{}"),
        BOTH,
    ),
    (
        families.KIMI,
        (
            "<|tool_calls_section_begin|><|tool_call_begin|>functions.weather:0"
            '<|tool_call_argument_begin|>{"city": "Paris"}<|tool_call_end|><|tool_call_begin|>'
            "functions.now:1<|tool_call_argument_begin|>{}<|tool_call_end|><|tool_calls_section_end|>"
        ),
        BOTH,
    ),
    (
        families.COMMAND_R,
        (
            '<|START_ACTION|>[\n    {"tool_call_id": "0", "tool_name": "weather", "parameters": '
            '{"city": "Paris"}},\n {"tool_call_id": "1", "tool_name": "now", "parameters": {}}\n]'
            "<|END_ACTION|>"
        ),
        BOTH,
    ),
    (families.LFM2, '<|tool_call_start|>[weather(city="Paris"), now()]<|tool_call_end|>', BOTH),
    (
        families.LFM2,
        (
            "<|tool_call_start|>[f(a=-1, b='it\\'s\\n)', c=[True, null, 1.5], d={'e': "
            '"]"}, g=())]<|tool_call_end|>'
        ),
        [("f", {"a": -1, "b": "it's\n)", "c": [True, None, 1.5], "d": {"e": "]"}, "g": []})],
    ),
    (families.LFM2, f"<|tool_call_start|>[{CALL}]<|tool_call_end|>", PARIS),
    (families.GRANITE, f"<|tool_call|>[{CALL}, {NOW}]", BOTH),
    (families.PHI, f"<|tool_call|>[{CALL}]<|/tool_call|>", PARIS),
    (families.APRIEL, f"<tool_calls>[{CALL}, {NOW}]</tool_calls>", BOTH),
    (families.NEMOTRON, f"<TOOLCALL>[{CALL}]</TOOLCALL>", PARIS),
    (
        families.GEMMA_4,
        (
            '<|tool_call>call:weather{city:<|"|>Paris<|"|>}<tool_call|>'
            "<|tool_call>call:now{}<tool_call|>"
        ),
        BOTH,
    ),
    (
        families.GEMMA_4,
        '<|tool_call>call:f{a:[1,{b:true}],<|"|>c<|"|>:<|"|>x,"}<|"|>, d:word}<tool_call|>',
        [("f", {"a": [1, {"b": True}], "c": 'x,"}', "d": "word"})],
    ),
    (
        families.FUNCTION_GEMMA,
        "<start_function_call>call:weather{city:<escape>Paris<escape>}<end_function_call>",
        PARIS,
    ),
    (
        families.HARMONY,
        (
            "<|channel|>commentary to=functions.weather <|constrain|>json<|message|>"
            '{"city": "Paris"}<|call|>'
        ),
        PARIS,
    ),
    (
        families.HARMONY,
        (
            " to=functions.weather<|channel|>commentary json<|message|>"
            '{"city": "Paris"}<|call|><|start|>assistant<|channel|>analysis to=functions.now'
            "<|message|>{}"
        ),
        BOTH,
    ),
]


@pytest.mark.parametrize(
    ("family", "text", "expected"), CALLS, ids=lambda v: getattr(v, "name", "")
)
def test_calls(family: Family, text: str, expected: list[tuple[str, Any]]) -> None:
    assert answer(family, text) == ("", "", expected)
    assert answer(family, text, whole_calls=True) == ("", "", expected)
    if family.syntax != "harmony":
        assert answer(family, text, tools=False) == ("", text, [])


@pytest.mark.parametrize(
    ("family", "text", "expected"), CALLS, ids=lambda v: getattr(v, "name", "")
)
def test_calls_after_reasoning(family: Family, text: str, expected: list[tuple[str, Any]]) -> None:
    opener, closer = family.reasoning[0]
    if family.syntax == "harmony":
        text = text if text.startswith("<") else f"<|start|>assistant{text}"
        assert answer(family, f"{opener}I see.{closer}{text}") == ("I see.", "", expected)
        return
    assert answer(family, f"{opener}\nI see.\n{closer}\n\n{text}") == ("I see.", "", expected)
    open_text = f"I see.\n{closer}\n{text}"
    assert answer(family, open_text, reasoning_open=True) == ("I see.", "", expected)


@pytest.mark.parametrize(
    ("family", "text", "expected"), CALLS, ids=lambda v: getattr(v, "name", "")
)
def test_cut_short(family: Family, text: str, expected: list[tuple[str, Any]]) -> None:
    """Wherever an answer ends, whole calls are calls and the rest is not lost."""
    for end in range(len(text)):
        pieces = parse(family, text[:end], whole_calls=True)
        content = "".join(piece.text for piece in pieces if isinstance(piece, Content))
        calls = [piece.name for piece in pieces if isinstance(piece, ToolCallStart)]
        assert calls == [name for name, _ in expected][: len(calls)]
        if not calls:
            assert content == text[:end]
        assert parse(family, list(text[:end])) == parse(family, text[:end])


def texts(pieces: list[Piece], kind: type[Content | Reasoning]) -> str:
    return "".join(piece.text for piece in pieces if isinstance(piece, kind))


def flat(pieces: list[Piece]) -> list[str]:
    """What each character and each call of them is."""
    return [
        f"{type(piece).__name__} {part}"
        for piece in pieces
        for part in ([piece.name] if isinstance(piece, ToolCallStart) else piece.text)
    ]


@pytest.mark.parametrize(
    ("family", "text", "expected"), CALLS, ids=lambda v: getattr(v, "name", "")
)
def test_cut_off(family: Family, text: str, expected: list[tuple[str, Any]]) -> None:
    """Nothing of a call that the model could not write to its end is shown as something else."""
    for whole in (True, False):
        complete = flat(parse(family, text, whole_calls=whole))
        for end in range(len(text) + 1):
            pieces = parse(family, text[:end], whole_calls=whole, cut=True)
            assert texts(pieces, Content) == ""
            assert flat(pieces) == complete[: len(flat(pieces))]
        assert flat(pieces) == complete
    assert sum(isinstance(piece, ToolCallStart) for piece in pieces) == len(expected)


@pytest.mark.parametrize(
    ("family", "text", "expected"), CALLS, ids=lambda v: getattr(v, "name", "")
)
def test_cut_off_after_reasoning(
    family: Family, text: str, expected: list[tuple[str, Any]]
) -> None:
    opener, closer = family.reasoning[0]
    if family.syntax == "harmony":
        text = text if text.startswith("<") else f"<|start|>assistant{text}"
    text = f"{opener}I see.{closer}{text}"
    for end in range(len(text) + 1):
        pieces = parse(family, text[:end], cut=True)
        assert texts(pieces, Content) == ""
        assert texts(pieces, Reasoning) == "I see."[: max(0, end - len(opener))]
    assert sum(isinstance(piece, ToolCallStart) for piece in pieces) == len(expected)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Sure. ", "Sure. "),
        ("Sure. <", "Sure."),
        ("Sure.\n\n<tool", "Sure."),
        ("Sure. <b> 1 < 2", "Sure. <b> 1 < 2"),
        ('Sure. <tool_call>\n{"name":', "Sure."),
        ("Use <tool_call> tags", "Use <tool_call> tags"),
        ('<tool_call>{"name": 1}</tool_call> ta', '<tool_call>{"name": 1}</tool_call> ta'),
        ('{"name": "Bob", "age": 3', '{"name": "Bob", "age": 3'),
        ("<thi", ""),
        ("```json\n[1,", "```json\n[1,"),
        (f"<tool_call>{CALL} \n", ""),
        (f"<tool_call>{CALL}\n</", ""),
        (f"<tool_call>{CALL}</tool_call>\n<tool", ""),
        (f"<tool_call>{CALL}</tool_call>\nDone. <tool", "Done."),
        (f"<tool_call>{CALL}, oops", ", oops"),
    ],
)
def test_text_that_is_cut_off(text: str, shown: str) -> None:
    for chunks in (text, list(text)):
        assert texts(parse(families.HERMES, chunks, cut=True), Content) == shown


def test_harmony_that_is_cut_off() -> None:
    text = (
        "<|channel|>analysis<|message|>Think. <|end|><|start|>assistant<|channel|>commentary"
        "<|message|>I will look.<|end|><|start|>assistant<|channel|>final<|message|>"
        "Hi <b>!<|return|>"
    )
    for end in range(len(text) + 1):
        pieces = parse(families.HARMONY, text[:end], cut=True)
        assert "Think. ".startswith(texts(pieces, Reasoning))
        assert "I will look.Hi <b>!".startswith(texts(pieces, Content))
    assert texts(pieces, Content) == "I will look.Hi <b>!"


def test_arguments_come_as_they_are_written() -> None:
    parser = AnswerParser(families.HERMES, tools=True, identify=lambda: "x")
    assert parser.feed('Sure.\n<tool_call>\n{"name": "f", "arg') == [Content("Sure.")]
    assert parser.feed('uments": {"a"') == [
        ToolCallStart(0, "x", "f"),
        ToolCallArguments(0, '{"a"'),
    ]
    assert parser.feed(': "so lo') == [ToolCallArguments(0, ': "so lo')]
    assert parser.feed('ng"}}</tool') == [ToolCallArguments(0, 'ng"}')]
    assert parser.feed("_call>") == []
    assert parser.finish() == []


def test_plain_text_flows() -> None:
    parser = AnswerParser(families.HERMES, tools=True)
    assert parser.feed("Hel") == [Content("Hel")]
    assert parser.feed("lo <") == [Content("lo")]
    assert parser.feed("b> <tool") == [Content(" <b>")]
    assert parser.feed("ing") == [Content(" <tooling")]
    assert parser.feed(" ") == []
    assert parser.finish() == [Content(" ")]


@pytest.mark.parametrize(
    ("template", "thinks"),
    [
        ("", False),
        ("{{ messages }}<tool_call>", False),
        ("{{ message.content.split('</think>')[-1] }}", True),
        ("{{ '<think>\\n' }}", True),
        ("[THINK]", True),
        ("<|start|>assistant<|channel|>final<|message|>", True),
    ],
)
def test_templates_of_models_that_think(template: str, thinks: bool) -> None:
    assert reasons(template) is thinks


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_reasoning(family: Family) -> None:
    for opener, closer in families.REASONING if family.syntax != "harmony" else ():
        family = replace(family, reasoning=((opener, closer),))
        assert answer(family, f"{opener}\nHm.\n\nYes.\n{closer}\n\nHello.\n") == (
            "Hm.\n\nYes.",
            "Hello.\n",
            [],
        )
        assert answer(family, f"Hm.{closer}Hello.", reasoning_open=True) == ("Hm.", "Hello.", [])
        assert answer(family, f"{opener}Hm.{closer}Hello.", reasoning_open=True) == (
            "Hm.",
            "Hello.",
            [],
        )
        assert answer(family, f"{opener}\n\n{closer}\n\nHello.") == ("", "Hello.", [])
        assert answer(family, f"{opener}Hm. ") == ("Hm. ", "", [])
        text = f"As {opener} says {closer} here."
        assert answer(family, text) == ("", text, [])


def test_call_ends_reasoning() -> None:
    text = f"I should <tool_call> something.\n<tool_call>\n{TAGGED}\n</tool_call>"
    expected = ("I should <tool_call> something.", "", PARIS)
    assert answer(families.QWEN_CODER, text, reasoning_open=True) == expected
    assert answer(families.HERMES, text, reasoning_open=True) == (text, "", [])


def test_harmony() -> None:
    text = (
        "<|channel|>analysis<|message|>Think. <|end|><|start|>assistant<|channel|>commentary"
        "<|message|>I will look.<|end|><|start|>assistant<|channel|>final<|message|>Hi <b>!"
    )
    assert answer(families.HARMONY, text) == ("Think.", "I will look.Hi <b>!", [])
    assert answer(families.HARMONY, "Just text.") == ("", "Just text.", [])
    assert answer(families.HARMONY, "Think.<|end|>So.", reasoning_open=True) == (
        "Think.",
        "So.",
        [],
    )
    broken = "<|channel|>commentary to=functions.f<|message|>print(1)<|call|>"
    assert answer(families.HARMONY, broken) == ("", broken.removesuffix("<|call|>"), [])
    assert answer(families.HARMONY, "<|channel|>final") == ("", "<|channel|>final", [])


def test_command_r_response() -> None:
    text = "<|START_THINKING|>Hm.<|END_THINKING|><|START_RESPONSE|>Hi there.<|END_RESPONSE|>"
    family = detect("<|START_THINKING|><|START_ACTION|>")
    assert answer(family, text) == ("Hm.", "Hi there.", [])


@pytest.mark.parametrize(
    ("family", "text"),
    [
        (families.HERMES, "Use <tool_call> tags, </tool_call>."),
        (families.HERMES, '<tool_call>{"name": 1}</tool_call> tail'),
        (families.HERMES, '<tool_call>{"name": "f", "arguments": [1]}</tool_call>'),
        (families.HERMES, '<tool_call>{"name": "f", "arguments": "no"}</tool_call>'),
        (families.HERMES, '<tool_call>{"name": "\\ud800", "arguments": {}}</tool_call>'),
        (families.HERMES, "<tool_call>[]</tool_call>"),
        (families.HERMES, "<tool_call></tool_call>"),
        (families.HERMES, '{"name": "Bob", "age": 3}'),
        (families.HERMES, '{"name": "Bob"}'),
        (families.HERMES, "[link](there)"),
        (families.HERMES, '```json\n{"a": 1}\n```'),
        (families.QWEN_CODER, "<function=f><parameter=a>1</function>"),
        (families.QWEN_CODER, "<function=a b c></function>"),
        (families.GLM, "<tool_call>what is this</tool_call>"),
        (families.LLAMA, "<|python_tag|>import os\nprint(1)"),
        (families.MISTRAL, "[TOOL_CALLS] are a thing."),
        (families.DEEPSEEK, "<｜tool▁calls▁begin｜>none<｜tool▁calls▁end｜>"),
        (families.KIMI, "<|tool_calls_section_begin|><|tool_calls_section_end|>"),
        (families.GEMMA_4, "<|tool_call>call:f{a:}<tool_call|>"),
        (families.GEMMA, "```tool_code\nimport os\n```"),
        (families.LFM2, "<|tool_call_start|>[f(1)]<|tool_call_end|>"),
        (families.LFM2, "<|tool_call_start|>[f(a=b'x')]<|tool_call_end|>"),
    ],
)
def test_no_call_is_content(family: Family, text: str) -> None:
    assert answer(family, text) == ("", text, [])
    assert answer(family, f"Hi. \n{text} \n") == ("", f"Hi. \n{text} \n", [])
    assert answer(family, text, whole_calls=True) == ("", text, [])


def test_call_after_a_broken_one() -> None:
    text = f"<tool_call>oops</tool_call>\n<tool_call>{CALL}</tool_call>"
    assert answer(families.HERMES, text) == ("", "<tool_call>oops</tool_call>", PARIS)


def test_break_in_the_middle() -> None:
    text = '<tool_call>{"name": "f", "arguments": {"a": 1, oops}}</tool_call>'
    assert parse(families.HERMES, text) == [
        ToolCallStart(0, "id0", "f"),
        ToolCallArguments(0, '{"a": 1, '),
        Content("oops}}</tool_call>"),
    ]
    assert parse(families.HERMES, text, whole_calls=True) == [Content(text)]
    text = f"<tool_call>{CALL[:-1]}, oops"
    assert parse(families.HERMES, text)[-1] == Content("}, oops"[1:])


@pytest.mark.parametrize(
    "text",
    [
        '<tool_call>{"name": "f", "arguments": {"a": ' + "[" * 5000 + "</tool_call>",
        "<tool_call>" * 3000,
        '<tool_call>{"name": "' * 2000,
        "<tool_call>" + '{"name":' * 3000,
        '<tool_call>{"name": "f", "arguments": {"a": ' + "1" * 5000 + "}}",
    ],
)
def test_hostile_text_is_harmless(text: str) -> None:
    assert answer(families.HERMES, text, whole_calls=True) == ("", text, [])


def test_hostile_python() -> None:
    text = "<|tool_call_start|>[f(a=" + "[" * 5000
    assert answer(families.LFM2, text) == ("", text, [])
    text = "<|tool_call>call:f{a:" + "[" * 5000
    assert answer(families.GEMMA_4, text) == ("", text, [])


SCHEMAS = {
    "f": {
        "properties": {
            "text": {"type": "string"},
            "kind": {"enum": ["1", "2"]},
            "maybe": {"type": ["string", "null"]},
            "flag": {"type": "boolean"},
            "either": {"anyOf": [{"type": "string"}, {"type": "integer"}]},
        }
    }
}


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("text", "5", "5"),
        ("text", "{}", "{}"),
        ("text", '"quoted"', '"quoted"'),
        ("kind", "1", "1"),
        ("maybe", "null", None),
        ("maybe", '"x"', '"x"'),
        ("flag", "True", True),
        ("flag", "maybe", "maybe"),
        ("either", "5", 5),
        ("unknown", "5", 5),
        ("unknown", "True", "True"),
        ("unknown", "NaN", "NaN"),
        ("unknown", "9" * 5000, "9" * 5000),
    ],
)
def test_types_of_tagged_values(key: str, value: str, expected: object) -> None:
    text = f"<function=f><parameter={key}>{value}</parameter></function>"
    assert answer(families.QWEN_CODER, text, schemas=SCHEMAS)[2] == [("f", {key: expected})]
    assert answer(families.QWEN_CODER, text, schemas={"f": {"properties": [1]}})[2]


def test_identities() -> None:
    assert len({new_identity() for _ in range(100)}) == 100
    assert all(len(new_identity()) == 9 and new_identity().isalnum() for _ in range(100))
    pieces = parse(families.KIMI, next(t for f, t, _ in CALLS if f is families.KIMI))
    assert pieces[0] == ToolCallStart(0, "functions.weather:0", "weather")
    pieces = parse(NAMED, "[TOOL_CALLS]f[CALL_ID]abcdefghi[ARGS]{}")
    assert pieces[0] == ToolCallStart(0, "abcdefghi", "f")


FRAGMENTS = [
    *(tag for family in FAMILIES for tag in family.preserved),
    *(tag for family in FAMILIES for tag in family.starts),
    CALL, LLAMA_CALL, TAGGED, "[", "{", "}", '"name"', ":", ",", "f", "(", ")", "=", " ", "\n",
    "call:f{", " to=functions.f", "analysis", "final", "</function>", "<parameter=a>", "\\u00", "'",
    "</parameter>", "text", "é😀", "```", "1.5e", "print(", ".call(",
]  # fmt: skip


@settings(max_examples=120, deadline=None)
@given(
    st.sampled_from([*FAMILIES, NAMED]),
    st.lists(st.sampled_from(FRAGMENTS) | st.text(max_size=5), max_size=15),
    st.lists(st.integers(1, 9), min_size=1, max_size=5),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
def test_cuts_do_not_matter(
    family: Family,
    parts: list[str],
    lengths: list[int],
    tools: bool,
    whole: bool,
    reasoning_open: bool,
    cut: bool,
) -> None:
    text = "".join(parts)
    chunks, start = [], 0
    for length in itertools.cycle(lengths):
        if start >= len(text):
            break
        chunks.append(text[start : start + length])
        start += length
    options: dict[str, Any] = {
        "tools": tools,
        "whole_calls": whole,
        "reasoning_open": reasoning_open,
        "cut": cut,
    }
    pieces = parse(family, text, **options)
    assert parse(family, chunks, **options) == pieces
    for piece in pieces:
        if whole and isinstance(piece, ToolCallArguments):
            assert isinstance(json.loads(piece.text), dict)


@settings(max_examples=120, deadline=None)
@given(
    st.sampled_from([*FAMILIES, NAMED]),
    st.lists(st.sampled_from(FRAGMENTS) | st.text(max_size=5), max_size=15),
    st.integers(0, 200),
    st.booleans(),
    st.booleans(),
)
def test_what_is_cut_off_is_the_beginning(
    family: Family, parts: list[str], end: int, whole: bool, reasoning_open: bool
) -> None:
    """Of what is told when the text goes on, but for white space that then belongs to a tag."""
    text = "".join(parts)
    options: dict[str, Any] = {"whole_calls": whole, "reasoning_open": reasoning_open}
    told = flat(parse(family, text[:end], cut=True, **options))
    complete = flat(parse(family, text, **options))
    while told != complete[: len(told)]:
        assert told.pop()[-1].isspace()


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([f for f in FAMILIES if f.syntax != "harmony"]), st.text())
def test_plain_text_is_untouched(family: Family, text: str) -> None:
    assert parse(family, list(text)) in ([Content(text)], [] if not text else [Content(text)])


def test_detection() -> None:
    for template, name, style in [
        ("<tool_call>", "hermes", ""),
        ("<tool_call> <function=x> <parameter=", "qwen-coder", ""),
        ("<|start_header_id|> ipython", "llama", ""),
        ("<|start_header_id|>", "generic", ""),
        ("[TOOL_CALLS] [", "mistral", "list"),
        ("[TOOL_CALLS] [ARGS]", "mistral", "named"),
        ("[TOOL_CALLS] [CALL_ID] [ARGS]", "mistral", "identified"),
        ("<｜tool▁calls▁begin｜> ```json", "deepseek", "fenced"),
        ("<｜tool▁calls▁begin｜>", "deepseek", "plain"),
        ("<start_of_turn>", "gemma", ""),
        ("<start_of_turn> <start_function_call>", "function-gemma", ""),
        ("'<|tool_call>call:'", "gemma-4", ""),
        ("<|channel|> <|message|>", "harmony", ""),
        ("List of tools: [", "lfm2", ""),
        ("", "generic", ""),
    ]:
        family = detect(template)
        assert (family.name, family.style) == (name, style)
    assert detect("[THINK]").reasoning == (("[THINK]", "[/THINK]"),)
    assert detect("x.split('</think>')").reasoning == (families.THINK,)
    assert detect("").reasoning == (families.THINK,)


def test_prompt_that_opens_reasoning() -> None:
    assert opens_reasoning(families.HERMES, "<|im_start|>assistant\n<think>\n")
    assert not opens_reasoning(families.HERMES, "<|im_start|>assistant\n<think>\n\n</think>\n\n")
    assert not opens_reasoning(families.HARMONY, "<|start|>assistant")


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_tags_do_not_hide_each_other(family: Family) -> None:
    """Which tag is found would otherwise depend on where the text was cut."""
    tags = (*family.openers, *family.ignored)
    for one, other in itertools.permutations(tags, 2):
        assert one not in other
    assert set(family.openers) <= set(family.preserved)
    assert "" not in family.preserved
