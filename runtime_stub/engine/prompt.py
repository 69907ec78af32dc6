"""From a request to the tokens the model reads, and how its answer is to be understood."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from runtime_stub.engine.either import either
from runtime_stub.engine.errors import TooLongError
from runtime_stub.engine.families import detect, opens_reasoning
from runtime_stub.engine.messages import Request, TokenizeRequest
from runtime_stub.engine.model import Model
from runtime_stub.engine.reading import Reading
from runtime_stub.engine.template import FALLBACK, FALLBACK_NAME, ChatTemplate, Variables
from runtime_stub.engine.tools import Abilities, prepare, probe
from runtime_stub.errors import PromptError

_INSTRUCTING = ("system", "developer")
_ALWAYS_COUNTED = 256 << 10
"""Characters of a text whose tokens are told even if the context does not hold them."""


@dataclass(frozen=True)
class Prompt:
    """A request, ready for the scheduler."""

    tokens: list[int]
    reading: Reading
    grammar: str | None


class PromptBuilder:
    """Renders chats with the model's template and tokenises the result."""

    def __init__(
        self,
        model: Model,
        template: str | None,
        most: int,
        examples: Sequence[tuple[str, str]] = (),
    ) -> None:
        """`template` replaces the model's own; `most` tokens are of use. Every chat begins with
        `examples` of what is asked and answered. Raises PromptError when no template compiles."""
        self._examples = [
            {"role": role, "content": text}
            for pair in examples
            for role, text in zip(("user", "assistant"), pair, strict=True)
        ]
        self._model = model
        self._most = most
        own = model.template()
        self.origin = "recipe" if template else "model" if own else f"fallback {FALLBACK_NAME}"
        source = template or own or FALLBACK
        self._template = ChatTemplate(source, Variables(bos_token=model.bos, eos_token=model.eos))
        self._family = detect(source)
        self._abilities: Abilities | None = None
        self._shown = _control_tokens(model, self._family.preserved)
        self._ends = frozenset(_control_tokens(model, self._family.stops))

    def prompt(self, request: Request) -> Prompt:
        """Tokens of the whole prompt, at least one. Raises PromptError."""
        if request.tokens is not None:
            size = self._model.vocabulary_size
            if any(not 0 <= token < size for token in request.tokens):
                raise PromptError(f"tokens must be from 0 to {size - 1}")
            return _not_empty(Prompt(list(request.tokens), Reading(), request.grammar))
        if request.text is not None:
            return _not_empty(Prompt(self._tokenise(request.text), Reading(), request.grammar))
        tools = request.tools if request.tool_choice != "none" else ()
        text = self._render(request.messages, tools, request.template_arguments)
        grammar = request.grammar
        if tools and request.tool_choice != "auto":
            if grammar is not None:
                raise PromptError("a response format and a forced tool call exclude each other")
            grammar = self._call_grammar(request)
        elif tools and grammar is not None:
            grammar = either(grammar, self._call_grammar(request))
        reading = Reading(
            family=self._family,
            plain=not tools and not request.reasoning,
            tools=bool(tools),
            schemas={tool["name"]: tool.get("parameters") or {} for tool in tools},
            single_call=not request.parallel_tool_calls,
            whole_calls=request.whole_calls,
            reasoning_open=opens_reasoning(self._family, text) and grammar is None,
            shown=self._shown if tools or request.reasoning else {},
            ends=self._ends,
        )
        return _not_empty(Prompt(self._tokenise(text), reading, grammar))

    def tokens(self, request: TokenizeRequest) -> list[int]:
        """Tokens of a text, or of a chat as it would be prompted. Raises PromptError."""
        if request.text is None:
            arguments = request.template_arguments
            return self._tokenise(self._render(request.messages, request.tools, arguments))
        add_bos = request.add_special and self._model.adds_bos
        most = self._most if len(request.text) > _ALWAYS_COUNTED else None
        return self._model.tokenize(request.text, special=True, add_bos=add_bos, most=most)

    def text(self, tokens: tuple[int, ...]) -> str:
        """What `tokens` stand for, control tokens as they are written. Raises PromptError."""
        size = self._model.vocabulary_size
        if any(not 0 <= token < size for token in tokens):
            raise PromptError(f"tokens must be from 0 to {size - 1}")
        pieces = [self._model.piece(token, special=True) for token in tokens]
        return b"".join(pieces).decode(errors="replace")

    def _render(
        self,
        messages: tuple[dict[str, Any], ...],
        tools: tuple[dict[str, Any], ...],
        arguments: dict[str, Any],
    ) -> str:
        if len(messages) > self._most:
            raise TooLongError(
                f"there are {len(messages):,} messages and the context holds {self._most:,} tokens",
                "Shorten the conversation, or start with a larger --context",
            )
        plain = self._with_examples([_plain(message) for message in messages])
        wrapped = [{"type": "function", "function": tool} for tool in tools]
        if not tools and all(_is_ordinary(message) for message in plain):
            return self._template.render(plain, **arguments)
        if self._abilities is None:
            self._abilities = probe(self._template)
        made = prepare(plain, wrapped, self._abilities, self._family)
        return self._template.render(made.messages, **{**made.arguments, **arguments})

    def _with_examples(self, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The conversation with the examples where they belong: after what instructs."""
        first = next(
            (n for n, item in enumerate(messages) if item.get("role") not in _INSTRUCTING),
            len(messages),
        )
        return [*messages[:first], *self._examples, *messages[first:]]

    def _call_grammar(self, request: Request) -> str:
        from runtime_stub.engine.tool_grammar import tool_grammar

        name = request.tool_choice.removeprefix("function:")
        chosen = None if request.tool_choice in ("auto", "required") else name
        made = tool_grammar(
            self._family,
            [{"type": "function", "function": tool} for tool in request.tools],
            required=True,
            name=chosen,
            # Whoever names a function wants it called once.
            parallel=request.parallel_tool_calls and chosen is None,
        )
        return made.grammar

    def _tokenise(self, text: str) -> list[int]:
        # Most templates write the first token out; the tokeniser adds it as well.
        if self._model.adds_bos and self._model.bos:
            text = text.removeprefix(self._model.bos)
        adds_bos = self._model.adds_bos
        return self._model.tokenize(text, special=True, add_bos=adds_bos, most=self._most)


def _not_empty(prompt: Prompt) -> Prompt:
    if not prompt.tokens:
        raise PromptError("the prompt is empty")
    return prompt


def _control_tokens(model: Model, texts: Sequence[str]) -> dict[int, bytes]:
    """Those of the texts that stand for control tokens, by the token's number."""
    found = {}
    for text in texts:
        token = model.control_token(text)
        if token is not None and not model.piece(token):
            found[token] = text.encode()
    return found


def _plain(message: dict[str, Any]) -> dict[str, Any]:
    """The message with its content as one text, which is what templates of text models read."""
    content = message.get("content")
    if isinstance(content, list):
        return {**message, "content": "".join(str(part.get("text", "")) for part in content)}
    return message


def _is_ordinary(message: dict[str, Any]) -> bool:
    """Whether every template takes it as it is."""
    known = message.get("role") in ("system", "user", "assistant")
    return known and set(message) <= {"role", "content"}
