"""How families of models write reasoning and tool calls, recognised by their chat template.

Facts only: no text is parsed here (`parse`, `calls`) and none is made (`tools`, `tool_grammar`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

Syntax = Literal[
    "json",  # <tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>
    "tagged",  # <tool_call><function=f><parameter=a>1</parameter></function></tool_call>
    "keyed",  # <tool_call>f<arg_key>a</arg_key><arg_value>1</arg_value></tool_call>
    "llama",  # {"name": "f", "parameters": {"a": 1}}, perhaps after <|python_tag|>
    "mistral",  # [TOOL_CALLS][{"name": "f", "arguments": {"a": 1}}] or [TOOL_CALLS]f[ARGS]{"a": 1}
    "deepseek",  # ...<｜tool▁call▁begin｜>f<｜tool▁sep｜>{"a": 1}<｜tool▁call▁end｜>...
    "kimi",  # ...<|tool_call_begin|>functions.f:0<|tool_call_argument_begin|>{"a": 1}...
    "gemma",  # <|tool_call>call:f{a:1,b:<|"|>text<|"|>}<tool_call|>
    "python",  # <|tool_call_start|>[f(a=1)]<|tool_call_end|>
    "harmony",  # <|channel|>commentary to=functions.f <|constrain|>json<|message|>{"a": 1}<|call|>
]

Tags = tuple[str, str]
THINK: Tags = ("<think>", "</think>")
REASONING: tuple[Tags, ...] = (
    THINK,
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
    ("<seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|channel>thought", "<channel|>"),
)


@dataclass(frozen=True)
class Family:
    """What the text of one kind of model looks like."""

    name: str
    syntax: Syntax
    openers: tuple[str, ...] = ()
    """Any of these begins a call, wherever it stands. The first is what the family prescribes."""
    closer: str = ""
    """Ends what the first opener began; empty where the call's own end is enough."""
    starts: tuple[str, ...] = ()
    """These begin a call only at the start of an answer: elsewhere they are ordinary text."""
    bare: bool = False
    """Whether a JSON object at the start of an answer may be a call."""
    listed: bool = False
    """Whether calls stand in a JSON list."""
    keys: Tags = ("name", "arguments")
    """How a JSON call names the function and its arguments."""
    style: str = ""
    """Which variant of its syntax the template shows, where there are several."""
    quote: str = ""
    """What encloses texts in the "gemma" syntax."""
    reasoning: tuple[Tags, ...] = (THINK,)
    """What encloses reasoning, most usual first."""
    calls_end_reasoning: bool = False
    """Whether models of the family go from reasoning to a call without closing the former."""
    ignored: tuple[str, ...] = ()
    """Marks around plain text that are not part of it."""
    stops: tuple[str, ...] = ()
    """Texts that end an answer, where the vocabulary does not say so itself."""
    further_tags: tuple[str, ...] = ()
    """Tags inside calls."""

    @property
    def preserved(self) -> tuple[str, ...]:
        """Texts that the engine must show even where they are control tokens.

        Tokens are looked up by these texts; those that are no single token need nothing.
        """
        reasoning = [tag.removesuffix("thought") for pair in self.reasoning for tag in pair]
        quoted = (self.closer, self.quote, *reasoning, *self.ignored, *self.further_tags)
        return tuple(dict.fromkeys(tag for tag in (*self.openers, *quoted) if tag))


_FENCE = "```json"

HERMES = Family(
    "hermes",
    "json",
    openers=("<tool_call>",),
    closer="</tool_call>",
    starts=(_FENCE,),
    bare=True,
)
"""Also Qwen 2.5 and 3, Granite 4, SmolLM3 and many fine-tuned models."""

GENERIC = replace(HERMES, name="generic")
"""Templates that show no syntax: tools are described to the model as for Hermes."""

GEMMA = replace(HERMES, name="gemma", starts=(_FENCE, "```tool_code", "```tool_call"))
"""Gemma 1 to 3 have no syntax of their own; Google's guides show fenced calls."""

QWEN_CODER = Family(
    "qwen-coder",
    "tagged",
    openers=("<tool_call>", "<function="),
    closer="</tool_call>",
    calls_end_reasoning=True,
)
SEED = replace(
    QWEN_CODER, name="seed", openers=("<seed:tool_call>", "<function="), closer="</seed:tool_call>"
)
FUNCTIONARY = Family("functionary", "tagged", openers=("<function=",), style="json")
GLM = Family(
    "glm",
    "keyed",
    openers=("<tool_call>",),
    closer="</tool_call>",
    further_tags=("<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"),
    stops=("<|observation|>",),
)
LLAMA = Family(
    "llama", "llama", openers=("<|python_tag|>",), bare=True, keys=("name", "parameters")
)
MISTRAL = Family(
    "mistral",
    "mistral",
    openers=("[TOOL_CALLS]",),
    listed=True,
    style="list",
    further_tags=("[ARGS]", "[CALL_ID]"),
)
DEEPSEEK = Family(
    "deepseek",
    "deepseek",
    openers=(
        "<｜tool▁calls▁begin｜>",
        "<｜tool▁call▁begin｜>",
        "<｜tool_calls_begin｜>",
        "<｜tool▁calls｜>",
    ),
    closer="<｜tool▁calls▁end｜>",
    style="fenced",
    further_tags=("<｜tool▁sep｜>", "<｜tool▁call▁end｜>"),
)
KIMI = Family(
    "kimi",
    "kimi",
    openers=("<|tool_calls_section_begin|>",),
    closer="<|tool_calls_section_end|>",
    calls_end_reasoning=True,
    further_tags=("<|tool_call_begin|>", "<|tool_call_argument_begin|>", "<|tool_call_end|>"),
)
COMMAND_R = Family(
    "command-r",
    "json",
    openers=("<|START_ACTION|>",),
    closer="<|END_ACTION|>",
    listed=True,
    keys=("tool_name", "parameters"),
    ignored=("<|START_RESPONSE|>", "<|END_RESPONSE|>", "<|START_TEXT|>", "<|END_TEXT|>"),
)
LFM2 = Family(
    "lfm2",
    "python",
    openers=("<|tool_call_start|>",),
    closer="<|tool_call_end|>",
)
GRANITE = Family("granite", "json", openers=("<|tool_call|>",), listed=True, bare=True)
PHI = replace(GRANITE, name="phi", closer="<|/tool_call|>")
NEMOTRON = Family("nemotron", "json", openers=("<TOOLCALL>",), closer="</TOOLCALL>", listed=True)
APRIEL = Family("apriel", "json", openers=("<tool_calls>",), closer="</tool_calls>", listed=True)
GEMMA_4 = Family(
    "gemma-4", "gemma", openers=("<|tool_call>",), closer="<tool_call|>", quote='<|"|>'
)
FUNCTION_GEMMA = Family(
    "function-gemma",
    "gemma",
    openers=("<start_function_call>",),
    closer="<end_function_call>",
    quote="<escape>",
    stops=("<start_function_response>",),
)
HARMONY = Family(
    "harmony",
    "harmony",
    reasoning=(("<|channel|>analysis<|message|>", "<|end|>"),),
    further_tags=(
        "<|start|>",
        "<|channel|>",
        "<|constrain|>",
        "<|message|>",
        "<|end|>",
        "<|call|>",
        "<|return|>",
    ),
)


def detect(template: str) -> Family:
    """The family of a model with this chat template; `GENERIC` where nothing tells."""
    family = _by_tools(template)
    if family.syntax == "harmony":
        return family
    shown = _shown(template)
    ignored = family.ignored
    if "<response>" in template and "</response>" in template:
        ignored = (*ignored, "<response>", "</response>")
    return replace(family, reasoning=shown or (THINK,), ignored=ignored)


def reasons(template: str) -> bool:
    """Whether a model with this chat template may think before it answers."""
    return bool(_shown(template)) or _by_tools(template).syntax == "harmony"


def _shown(template: str) -> tuple[Tags, ...]:
    """What encloses reasoning there, as far as the template shows it."""
    return tuple(tags for tags in REASONING if tags[0] in template or tags[1] in template)


def _by_tools(template: str) -> Family:
    for marks, family in _MARKS:
        if all(mark in template for mark in marks):
            return family
    return GENERIC


# From the most telling marks to the least: later ones also occur in templates of earlier
# families, in examples and explanations.
_MARKS: tuple[tuple[tuple[str, ...], Family], ...] = (
    (("<|channel|>", "<|message|>"), HARMONY),
    (("<|tool_calls_section_begin|>",), KIMI),
    (("tool▁calls▁begin", "```json"), DEEPSEEK),
    (("tool▁calls▁begin",), replace(DEEPSEEK, style="plain")),
    (("[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"), replace(MISTRAL, style="identified", listed=False)),
    (("[TOOL_CALLS]", "[ARGS]"), replace(MISTRAL, style="named", listed=False)),
    (("[TOOL_CALLS]",), MISTRAL),
    (("<|START_ACTION|>",), COMMAND_R),
    (("<start_function_call>",), FUNCTION_GEMMA),
    (("<|tool_call>",), GEMMA_4),
    (("<|tool_list_start|>",), LFM2),
    (("List of tools: [",), LFM2),
    (("<TOOLCALL>",), NEMOTRON),
    (("<tool_calls>[",), APRIEL),
    (("<seed:tool_call>",), SEED),
    (("<function=", "<parameter="), QWEN_CODER),
    (("<function=",), FUNCTIONARY),
    (("<invoke name=",), GENERIC),  # MiniMax: a syntax that is not read here
    (("<tool_call>", "<arg_key>"), GLM),
    (("<tool_call>",), HERMES),
    (("<|tool|>", "<|/tool|>"), PHI),
    (("<|tool_call|>",), GRANITE),
    (("<|start_header_id|>", "ipython"), LLAMA),
    (("<start_of_turn>",), GEMMA),
)


def opens_reasoning(family: Family, prompt: str) -> bool:
    """Whether the prompt ends inside reasoning, so that the answer begins there."""
    end = prompt[-200:].rstrip()
    return any(end.endswith(opener) for opener, _ in family.reasoning)
