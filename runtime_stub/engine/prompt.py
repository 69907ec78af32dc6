"""From a request to the tokens the model reads."""

from __future__ import annotations

from typing import Any

from runtime_stub.engine.messages import Request
from runtime_stub.engine.model import Model
from runtime_stub.engine.template import FALLBACK, FALLBACK_NAME, ChatTemplate, Variables
from runtime_stub.errors import PromptError


class PromptBuilder:
    """Renders chats with the model's template and tokenises the result."""

    def __init__(self, model: Model, template: str | None) -> None:
        """`template` replaces the model's own; raises PromptError when none compiles."""
        self._model = model
        own = model.template()
        self.origin = "recipe" if template else "model" if own else f"fallback {FALLBACK_NAME}"
        self._template = ChatTemplate(
            template or own or FALLBACK, Variables(bos_token=model.bos, eos_token=model.eos)
        )

    def tokens(self, request: Request) -> list[int]:
        """Tokens of the whole prompt, at least one. Raises PromptError."""
        if request.text is not None:
            text = request.text
        else:
            text = self._template.render(
                [_plain(message) for message in request.messages], **request.template_arguments
            )
        # Most templates write the first token out; the tokeniser adds it as well.
        if self._model.adds_bos and self._model.bos:
            text = text.removeprefix(self._model.bos)
        tokens = self._model.tokenize(text, special=True, add_bos=self._model.adds_bos)
        if not tokens:
            raise PromptError("the prompt is empty")
        return tokens


def _plain(message: dict[str, Any]) -> dict[str, Any]:
    """The message with its content as one text, which is what templates of text models read."""
    content = message.get("content")
    if isinstance(content, list):
        return {**message, "content": "".join(str(part.get("text", "")) for part in content)}
    return message
