from __future__ import annotations

from typing import Any, cast

import pytest

from runtime_stub.engine.messages import Request
from runtime_stub.engine.model import Model
from runtime_stub.engine.prompt import PromptBuilder
from runtime_stub.errors import PromptError

BOS = 1


class FakeModel:
    """A vocabulary of characters; "<s>" is one token where it is read as special."""

    eos = "</s>"

    def __init__(self, template: str | None = None, *, bos: str = "<s>", adds_bos: bool = True):
        self._template = template
        self.bos = bos
        self.adds_bos = adds_bos
        self.seen = ""

    def template(self) -> str | None:
        return self._template

    def tokenize(self, text: str, *, special: bool, add_bos: bool) -> list[int]:
        assert special
        self.seen = text
        tokens = [BOS] if add_bos else []
        first, *rest = text.split(self.bos) if self.bos else [text]
        tokens += map(ord, first)
        for part in rest:
            tokens += [BOS, *map(ord, part)]
        return tokens


def built(model: FakeModel, template: str | None = None) -> PromptBuilder:
    return PromptBuilder(cast("Model", model), template)


def chat(*contents: Any) -> Request:
    return Request(messages=tuple({"role": "user", "content": content} for content in contents))


@pytest.mark.parametrize("template", ["{{ bos_token }}x", "x"])
@pytest.mark.parametrize("adds_bos", [True, False])
def test_first_token_is_not_doubled(template: str, adds_bos: bool) -> None:
    model = FakeModel(template, adds_bos=adds_bos)
    tokens = built(model).tokens(chat("?"))
    assert tokens.count(BOS) == (1 if adds_bos or "bos" in template else 0)
    assert tokens[-1] == ord("x")


def test_no_first_token_in_vocabulary() -> None:
    assert built(FakeModel("{{ bos_token }}x", bos="", adds_bos=False)).tokens(chat("")) == [120]


def test_raw_text_skips_the_template() -> None:
    model = FakeModel("{{ raise_exception('no') }}")
    assert built(model).tokens(Request(text="hi")) == [BOS, ord("h"), ord("i")]


@pytest.mark.parametrize(
    ("own", "given", "origin", "seen"),
    [
        (None, None, "fallback ChatML", "<|im_start|>user\nA<|im_end|>\n<|im_start|>assistant\n"),
        ("own {{ messages[0].content }}", None, "model", "own A"),
        ("own {{ messages[0].content }}", "recipe", "recipe", "recipe"),
        ("{% broken", "recipe", "recipe", "recipe"),
    ],
)
def test_origin(own: str | None, given: str | None, origin: str, seen: str) -> None:
    model = FakeModel(own)
    builder = built(model, given)
    assert builder.origin == origin
    builder.tokens(chat("A"))
    assert model.seen == seen


def test_content_in_parts_is_joined() -> None:
    model = FakeModel("{% for m in messages %}{{ m.content }}|{% endfor %}")
    parts = [{"type": "text", "text": "a"}, {"type": "image"}, {"type": "text", "text": "b"}]
    built(model).tokens(chat(parts, "c"))
    assert model.seen == "ab|c|"
    assert parts[0] == {"type": "text", "text": "a"}


def test_template_arguments() -> None:
    model = FakeModel("{{ enable_thinking }}")
    built(model).tokens(Request(template_arguments={"enable_thinking": True}))
    assert model.seen == "True"


def test_empty_prompt() -> None:
    with pytest.raises(PromptError, match="empty"):
        built(FakeModel(adds_bos=False)).tokens(Request(text=""))


def test_broken_template() -> None:
    with pytest.raises(PromptError, match="not valid"):
        built(FakeModel("{% broken"))
