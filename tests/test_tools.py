from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from runtime_stub.engine import families
from runtime_stub.engine.families import Family, detect
from runtime_stub.engine.template import FALLBACK, ChatTemplate, Variables
from runtime_stub.engine.tools import Abilities, prepare, probe
from runtime_stub.errors import PromptError

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "Weather of a place.",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    }
]


def call(identity: str, arguments: Any, name: str = "weather") -> dict[str, Any]:
    return {"id": identity, "type": "function", "function": {"name": name, "arguments": arguments}}


CHAT: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Weather?"},
    {
        "role": "assistant",
        "content": "I look.",
        "tool_calls": [call("call_a", '{"city": "Rom"}'), call("call_b", '{"city": "Oslo"}')],
    },
    {"role": "tool", "tool_call_id": "call_a", "content": "20 °C"},
    {"role": "tool", "tool_call_id": "call_b", "content": "5 °C"},
    {"role": "user", "content": "Thanks."},
]

# In the manner of Qwen: tools in the system message, calls as JSON between tags.
QWEN = """\
{%- if tools %}<|im_start|>system
{% if messages[0].role == 'system' %}{{ messages[0].content }}
{% endif %}{% for tool in tools %}{{ tool | tojson }}
{% endfor %}<|im_end|>
{% elif messages[0].role == 'system' %}<|im_start|>system
{{ messages[0].content }}<|im_end|>
{% endif %}
{%- for message in messages if message.role != 'system' %}
{%- if message.role == 'tool' %}<|im_start|>user
<tool_response>{{ message.content }}</tool_response><|im_end|>
{% else %}<|im_start|>{{ message.role }}
{{ message.content }}
{%- for call in message.tool_calls %}
<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>{% endfor %}<|im_end|>
{% endif %}{% endfor %}"""

# In the manner of Mistral Nemo: ids of nine characters, no system role, calls as a list.
MISTRAL = """\
{%- for message in messages %}
{%- if message.role == 'user' %}
{%- if tools %}[AVAILABLE_TOOLS]{{ tools | tojson }}[/AVAILABLE_TOOLS]{% endif -%}
[INST]{{ message.content }}[/INST]
{%- elif message.tool_calls is defined %}[TOOL_CALLS][
{%- for call in message.tool_calls %}
{%- if call.id | length != 9 %}{{ raise_exception('ids of nine!') }}{% endif -%}
{{ (call.function | tojson)[:-1] }}, "id": "{{ call.id }}"}{{ ', ' if not loop.last }}
{%- endfor %}]</s>
{%- elif message.role == 'tool' -%}
{%- if message.tool_call_id | length != 9 %}{{ raise_exception('ids of nine!') }}{% endif -%}
[TOOL_RESULTS]{{ message.tool_call_id }}: {{ message.content }}[/TOOL_RESULTS]
{%- elif message.role == 'assistant' %}{{ message.content }}</s>
{%- else %}{{ raise_exception('no such role') }}{% endif %}{% endfor %}"""

# In the manner of R1: arguments as text, calls only where the content is null, no tools.
DEEPSEEK = """\
{%- for message in messages %}
{%- if message.role == 'assistant' and message.content is none %}
{%- for call in message.tool_calls -%}
<｜tool▁calls▁begin｜>{{ call.function.name + '\n```json\n' + call.function.arguments + '\n```' }}
{%- endfor %}
{%- else %}<{{ message.role }}>{{ message.content }}{% endif %}{% endfor %}"""

# In the manner of Llama 3.1: one call in a message, arguments as an object.
LLAMA = """\
{%- for message in messages %}<|start_header_id|>
{{- 'ipython' if message.role == 'tool' else message.role }}<|end_header_id|>
{% if 'tool_calls' in message %}
{%- if message.tool_calls | length != 1 %}{{ raise_exception('one at a time') }}{% endif -%}
{{ message.tool_calls[0].function.name }}
{%- for key, value in message.tool_calls[0].function.arguments | items %} {{ key }}={{ value }}
{%- endfor %}{% else %}{{ message.content }}{% endif %}<|eot_id|>
{% endfor %}{{ tools | tojson if tools }}"""

# In the manner of Gemma: user and model take turns, and nobody else speaks.
GEMMA = """\
{%- for message in messages %}
{%- if (message.role == 'user') != (loop.index0 % 2 == 0) or message.role == 'system' %}
{{- raise_exception('take turns') }}{% endif -%}
<start_of_turn>{{ message.role }}
{{ message.content }}<end_of_turn>
{% endfor %}"""

# In the manner of LFM2: knows tools and results, but not its own calls.
LFM2 = """\
{{- 'List of tools: [' ~ (tools | tojson) ~ ']\n' if tools }}
{%- for message in messages %}<|im_start|>{{ message.role }}
{{ message.content }}<|im_end|>
{% endfor %}"""


def render(source: str, chat: list[dict[str, Any]] = CHAT) -> tuple[Abilities, str]:
    template = ChatTemplate(source, Variables())
    abilities = probe(template)
    before = copy.deepcopy(chat)
    prepared = prepare(chat, TOOLS, abilities, detect(source))
    assert chat == before
    return abilities, template.render(prepared.messages, **prepared.arguments)


def test_template_that_knows_all() -> None:
    abilities, text = render(QWEN)
    assert abilities == Abilities(system=True, tools=True, calls=True, results=True, several=True)
    assert text == (
        "<|im_start|>system\nBe brief.\n" + json.dumps(TOOLS[0]) + "\n<|im_end|>\n"
        "<|im_start|>user\nWeather?<|im_end|>\n"
        "<|im_start|>assistant\nI look."
        '<tool_call>\n{"name": "weather", "arguments": {"city": "Rom"}}\n</tool_call>'
        '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call><|im_end|>\n'
        "<|im_start|>user\n<tool_response>20 °C</tool_response><|im_end|>\n"
        "<|im_start|>user\n<tool_response>5 °C</tool_response><|im_end|>\n"
        "<|im_start|>user\nThanks.<|im_end|>\n"
    )


def test_short_ids_and_no_system_role() -> None:
    abilities, text = render(MISTRAL)
    assert abilities.short_ids
    assert not abilities.system
    assert "[INST]Be brief.\n\nWeather?[/INST]" in text
    assert '"name": "weather", "arguments": {"city": "Rom"}, "id": "' in text
    identity = text.split('"id": "')[1][:9]
    assert f"[TOOL_RESULTS]{identity}: 20 °C" in text
    kept = copy.deepcopy(CHAT)
    kept[2]["tool_calls"][0]["id"] = kept[3]["tool_call_id"] = "abc123xyz"
    assert "[TOOL_RESULTS]abc123xyz: 20 °C" in render(MISTRAL, kept)[1]


def test_text_arguments_and_null_content() -> None:
    abilities, text = render(DEEPSEEK)
    assert abilities.text_arguments
    assert abilities.null_content
    assert not abilities.tools
    assert 'weather\n```json\n{"city": "Rom"}\n```' in text
    assert "<assistant>I look.<｜tool▁calls▁begin｜>" in text
    # Tools are described, with a call in the family's own syntax.
    assert text.startswith("<system>Be brief.\n\n# Tools")
    assert '"name": "weather"' in text
    assert "<｜tool▁sep｜>function_name" in text


def test_one_call_in_a_message() -> None:
    abilities, text = render(LLAMA)
    assert not abilities.several
    places = [text.index(part) for part in ("city=Rom", "20 °C", "city=Oslo", "5 °C", "Thanks.")]
    assert places == sorted(places)
    assert text.count("20 °C") == 1


def test_template_that_knows_nothing() -> None:
    abilities, text = render(GEMMA)
    assert abilities == Abilities(system=False)
    assert text.startswith("<start_of_turn>user\nBe brief.\n\n# Tools")
    assert text.endswith(
        '<start_of_turn>assistant\nI look.\n<tool_call>\n{"name": "weather", "arguments": '
        '{"city": "Rom"}}\n</tool_call>\n<tool_call>\n{"name": "weather", "arguments": '
        '{"city": "Oslo"}}\n</tool_call><end_of_turn>\n'
        "<start_of_turn>user\n<tool_response>\n20 °C\n</tool_response>\n<tool_response>\n5 °C\n"
        "</tool_response>\nThanks.<end_of_turn>\n"
    )


def test_template_that_does_not_know_its_own_calls() -> None:
    abilities, text = render(LFM2)
    assert abilities.tools
    assert not abilities.calls
    assert (
        'I look.\n<|tool_call_start|>[weather(city="Rom"), weather(city="Oslo")]<|tool_call_end|>'
        in text
    )
    assert "<|im_start|>tool\n20 °C" in text


def test_without_tools_nothing_is_said_of_them() -> None:
    prepared = prepare(CHAT[:2], [], Abilities(), families.HERMES)
    assert prepared.messages == CHAT[:2]
    assert prepared.arguments == {}
    template = ChatTemplate(FALLBACK, Variables())
    assert "Tools" in template.render(
        prepare(CHAT[1:2], TOOLS, probe(template), families.GENERIC).messages
    )


ABLE = Abilities(tools=True, calls=True, results=True, several=True)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ('{"a": 1}', {"a": 1}),
        ({"a": 1}, {"a": 1}),
        ("", {}),
        (None, {}),
        ("[1]", {"value": [1]}),
        ('{"a": ', {"unreadable": '{"a": '}),
        ("[" * 100_000, {"unreadable": "[" * 100_000}),
    ],
)
def test_arguments(arguments: Any, expected: Any) -> None:
    entry = call("x", arguments)
    chat: list[dict[str, Any]] = [{"role": "assistant", "content": None, "tool_calls": [entry]}]
    (message,) = prepare(chat, [], ABLE, families.HERMES).messages
    assert message["content"] == ""
    assert message["tool_calls"][0]["function"]["arguments"] == expected
    text = Abilities(calls=True, results=True, several=True, text_arguments=True)
    (message,) = prepare(chat, [], text, families.HERMES).messages
    assert json.loads(message["tool_calls"][0]["function"]["arguments"]) == expected


def test_results_are_named() -> None:
    made = prepare(CHAT, [], ABLE, families.HERMES).messages
    assert [message.get("name") for message in made if message["role"] == "tool"] == ["weather"] * 2


@pytest.mark.parametrize("family", [families.HERMES, families.HARMONY], ids=lambda f: f.name)
def test_roles_and_reasoning(family: Family) -> None:
    chat: list[dict[str, Any]] = [
        {"role": "developer", "content": "Be brief."},
        {"role": "assistant", "content": "Hi.", "reasoning_content": "Hm.", "tool_calls": []},
        {**CHAT[2], "reasoning_content": "Hm."},
    ]
    made = prepare(chat, [], ABLE, family).messages
    harmony = family.syntax == "harmony"
    assert made[0]["role"] == ("developer" if harmony else "system")
    assert made[1] == {
        "role": "assistant", "content": "Hi.", "reasoning_content": "Hm.", "thinking": "Hm."
    }  # fmt: skip
    assert made[2]["content"] == ("" if harmony else "I look.")


def test_nameless_calls_are_refused() -> None:
    entries: list[dict[str, Any]] = [{}, {"function": {}}, {"function": {"name": ""}}]
    for entry in entries:
        chat = [{"role": "assistant", "tool_calls": [entry]}]
        with pytest.raises(PromptError):
            prepare(chat, [], ABLE, families.HERMES)


def test_content_in_parts() -> None:
    chat: list[dict[str, Any]] = [
        {"role": "system", "content": [{"type": "text", "text": "Be brief."}]},
        {"role": "user", "content": [{"type": "text", "text": "Hi."}]},
    ]
    made = prepare(chat, [], Abilities(system=False), families.GEMMA).messages
    assert made == [{"role": "user", "content": "Be brief.\n\nHi."}]
