"""Makes warm prompts: reads what every chat with a system prompt begins with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from runtime_stub.engine.context import Context, fitting_context
from runtime_stub.engine.hardware import read_hardware
from runtime_stub.engine.messages import EngineSettings, ModelSource, Request
from runtime_stub.engine.model import Model
from runtime_stub.engine.prompt import PromptBuilder
from runtime_stub.engine.warm import write_warm
from runtime_stub.engine.weights import load_weights
from runtime_stub.errors import EngineError, PromptError

_QUESTIONS = ("What is this?", "Tell me a story about 7 dwarfs")
"""Two that begin differently: what their prompts have in common comes before any question."""


def make_warm(
    source: ModelSource,
    template: str | None,
    system: str | None,
    on_progress: Callable[[int, int], None],
    settings: EngineSettings = EngineSettings(),  # noqa: B008  (immutable)
) -> bytes:
    """Read the part of a chat's prompt that comes before the first question, the examples in
    `settings` with it, and return the warm prompt to be packed. It fits contexts with the same
    flash attention and kv in `settings`.

    `on_progress` gets how many tokens of how many are read. Raises EngineError when the model
    can't be loaded, PromptError when nothing comes before the question.
    """
    model = load_weights(source, lambda _: True, settings, read_hardware().memory_available)
    try:
        tokens = _beginning(model, template, system, settings.examples)
        size = fitting_context(model, len(tokens) + 1)
        context = Context(model, size, settings, read_hardware().physical_cores)
        try:
            _read(context, tokens, on_progress)
            state = context.state(0)
        finally:
            context.free()
    finally:
        model.free()
    return write_warm(tokens, state)


def _beginning(
    model: Model, template: str | None, system: str | None, examples: Sequence[tuple[str, str]]
) -> list[int]:
    """Tokens that every chat with this system prompt and these examples begins with."""
    builder = PromptBuilder(model, template, model.trained_context, examples)
    base = Request(messages=({"role": "system", "content": system},) if system else ())
    first, second = (
        builder.prompt(
            replace(base, messages=(*base.messages, {"role": "user", "content": question}))
        ).tokens
        for question in _QUESTIONS
    )
    count = next(
        (i for i, (left, right) in enumerate(zip(first, second, strict=False)) if left != right),
        0,
    )
    if count == 0:
        raise PromptError("the chat template puts nothing before the first question")
    return first[:count]


def _read(context: Context, tokens: Sequence[int], on_progress: Callable[[int, int], None]) -> None:
    for start in range(0, len(tokens), context.batch_size):
        on_progress(start, len(tokens))
        context.clear_batch()
        for position in range(start, min(start + context.batch_size, len(tokens))):
            context.add(tokens[position], position, 0, output=position == len(tokens) - 1)
        if context.decode():
            raise EngineError("llama.cpp failed to read the prompt")
    on_progress(len(tokens), len(tokens))
