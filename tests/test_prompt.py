from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import pytest

from runtime_stub.engine.errors import TooLongError
from runtime_stub.engine.grammar import parse
from runtime_stub.engine.matcher import Matcher
from runtime_stub.engine.messages import Request, TokenizeRequest
from runtime_stub.engine.model import Model
from runtime_stub.engine.prompt import PromptBuilder
from runtime_stub.errors import PromptError

BOS = 1


class FakeModel:
    """A vocabulary of characters; "<s>" is one token where it is read as special."""

    eos = "</s>"
    vocabulary_size = 0x110000

    def __init__(self, template: str | None = None, *, bos: str = "<s>", adds_bos: bool = True):
        self._template = template
        self.bos = bos
        self.adds_bos = adds_bos
        self.seen = ""
        self.most: int | None = None

    def template(self) -> str | None:
        return self._template

    def control_token(self, text: str) -> int | None:
        return {"<tool_call>": 2, "<|observation|>": 1}.get(text)

    def piece(self, token: int, *, special: bool = False) -> bytes:
        return chr(token).encode() if special or token > 2 else b""

    def tokenize(
        self, text: str, *, special: bool, add_bos: bool, most: int | None = None
    ) -> list[int]:
        assert special
        self.seen = text
        self.most = most
        tokens = [BOS] if add_bos else []
        first, *rest = text.split(self.bos) if self.bos else [text]
        tokens += map(ord, first)
        for part in rest:
            tokens += [BOS, *map(ord, part)]
        return tokens


def built(model: FakeModel, template: str | None = None, most: int = 1000) -> PromptBuilder:
    return PromptBuilder(cast("Model", model), template, most)


class TestExamples:
    TEMPLATE = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"

    @pytest.mark.parametrize(
        ("roles", "expected"),
        [
            (("user",), "[user]Q[assistant]A[user]user"),
            (("system", "user"), "[system]system[user]Q[assistant]A[user]user"),
            (("system",), "[system]system[user]Q[assistant]A"),
            (
                ("user", "assistant", "system", "user"),
                "[user]Q[assistant]A[user]user[assistant]assistant[system]system[user]user",
            ),
        ],
    )
    def test_follow_what_instructs(self, roles: tuple[str, ...], expected: str) -> None:
        model = FakeModel()
        builder = PromptBuilder(cast("Model", model), self.TEMPLATE, 1000, [("Q", "A")])
        messages = tuple({"role": role, "content": role} for role in roles)
        builder.prompt(Request(messages=messages))
        assert model.seen == expected
        builder.tokens(TokenizeRequest(messages=messages))
        assert model.seen == expected

    def test_texts_are_left_alone(self) -> None:
        model = FakeModel()
        builder = PromptBuilder(cast("Model", model), self.TEMPLATE, 1000, [("Q", "A")])
        builder.prompt(Request(text="Once"))
        assert model.seen == "Once"


def chat(*contents: Any) -> Request:
    return Request(messages=tuple({"role": "user", "content": content} for content in contents))


@pytest.mark.parametrize("template", ["{{ bos_token }}x", "x"])
@pytest.mark.parametrize("adds_bos", [True, False])
def test_first_token_is_not_doubled(template: str, adds_bos: bool) -> None:
    model = FakeModel(template, adds_bos=adds_bos)
    tokens = built(model).prompt(chat("?")).tokens
    assert tokens.count(BOS) == (1 if adds_bos or "bos" in template else 0)
    assert tokens[-1] == ord("x")


def test_no_first_token_in_vocabulary() -> None:
    assert built(FakeModel("{{ bos_token }}x", bos="", adds_bos=False)).prompt(chat("")).tokens == [
        120
    ]


def test_raw_text_skips_the_template() -> None:
    model = FakeModel("{{ raise_exception('no') }}")
    assert built(model).prompt(Request(text="hi")).tokens == [BOS, ord("h"), ord("i")]


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
    builder.prompt(chat("A"))
    assert model.seen == seen


def test_content_in_parts_is_joined() -> None:
    model = FakeModel("{% for m in messages %}{{ m.content }}|{% endfor %}")
    parts = [{"type": "text", "text": "a"}, {"type": "image"}, {"type": "text", "text": "b"}]
    built(model).prompt(chat(parts, "c"))
    assert model.seen == "ab|c|"
    assert parts[0] == {"type": "text", "text": "a"}


def test_template_arguments() -> None:
    model = FakeModel("{{ enable_thinking }}")
    built(model).prompt(Request(template_arguments={"enable_thinking": True}))
    assert model.seen == "True"


def test_the_answer_may_be_left_to_begin() -> None:
    """By requests whose last message shall be gone on with, say."""
    model = FakeModel("{{ messages[0].content }}{% if add_generation_prompt %}>{% endif %}")
    built(model).prompt(chat("a"))
    assert model.seen == "a>"
    arguments = {"add_generation_prompt": False}
    built(model).prompt(replace(chat("a"), template_arguments=arguments))
    assert model.seen == "a"


def test_template_arguments_count_when_tokenising() -> None:
    request = TokenizeRequest(messages=chat("?").messages, template_arguments={"much": "much"})
    assert len(built(FakeModel("{{ much }}")).tokens(request)) == 1 + len("much")


def test_empty_prompt() -> None:
    with pytest.raises(PromptError, match="empty"):
        built(FakeModel(adds_bos=False)).prompt(Request(text=""))


def test_broken_template() -> None:
    with pytest.raises(PromptError, match="not valid"):
        built(FakeModel("{% broken"))


TOOL = {"name": "weather", "parameters": {"type": "object", "properties": {}}}
HERMES = (
    "{% if tools %}{{ tools | tojson }}<tool_call>{% endif %}"
    "{% for m in messages %}{{ m.role }}:{{ m.content }}|{% endfor %}"
)


def asked(**fields: Any) -> Request:
    return Request(messages=({"role": "user", "content": "?"},), tools=(TOOL,), **fields)


def test_tools_reach_the_template() -> None:
    model = FakeModel(HERMES)
    prompt = built(model).prompt(asked())
    assert "weather" in model.seen
    assert prompt.reading.tools
    assert prompt.reading.schemas == {"weather": TOOL["parameters"]}
    assert prompt.grammar is None
    assert prompt.reading.shown == {2: b"<tool_call>"}


def test_what_ends_an_answer_of_the_family() -> None:
    """GLM's vocabularies do not always say that an answer ends where a tool's would begin."""
    glm = "{% for m in messages %}{{ m.content }}<arg_key>{% endfor %}<|observation|><tool_call>"
    assert built(FakeModel(glm)).prompt(asked()).reading.ends == {1}
    assert not built(FakeModel(HERMES)).prompt(asked()).reading.ends


def test_no_tools_when_none_may_be_called() -> None:
    model = FakeModel(HERMES)
    prompt = built(model).prompt(asked(tool_choice="none"))
    assert "weather" not in model.seen
    assert not prompt.reading.tools


@pytest.mark.parametrize("choice", ["required", "function:weather"])
def test_forced_calls_have_a_grammar(choice: str) -> None:
    prompt = built(FakeModel(HERMES)).prompt(asked(tool_choice=choice))
    assert prompt.grammar is not None
    assert "weather" in prompt.grammar


def test_forced_call_and_response_format_exclude_each_other() -> None:
    with pytest.raises(PromptError, match="exclude"):
        built(FakeModel(HERMES)).prompt(asked(tool_choice="required", grammar='root ::= "a"'))


def test_an_answer_of_a_demanded_form_may_be_a_call_instead() -> None:
    grammar = 'root ::= "yes" no\nno ::= "!"'
    prompt = built(FakeModel(HERMES)).prompt(asked(grammar=grammar))
    assert prompt.grammar is not None
    for text, fits in (
        ("yes!", True),
        ('<tool_call>\n{"name": "weather", "arguments": {}}\n</tool_call>', True),
        ("no", False),
    ):
        matcher = Matcher(parse(prompt.grammar, 1 << 20))
        assert (matcher.accept(text) and matcher.complete) == fits, text


@pytest.mark.parametrize("parallel", [True, False])
def test_whether_one_call_ends_the_answer(parallel: bool) -> None:
    prompt = built(FakeModel(HERMES)).prompt(asked(parallel_tool_calls=parallel))
    assert prompt.reading.single_call == (not parallel)


@pytest.mark.parametrize("whole", [True, False])
def test_whether_calls_are_told_as_a_whole(whole: bool) -> None:
    prompt = built(FakeModel(HERMES)).prompt(asked(whole_calls=whole))
    assert prompt.reading.whole_calls == whole


def test_unknown_function_cannot_be_forced() -> None:
    with pytest.raises(PromptError):
        built(FakeModel(HERMES)).prompt(asked(tool_choice="function:other"))


def test_tools_are_described_where_the_template_knows_none() -> None:
    model = FakeModel("{% for m in messages %}{{ m.role }}:{{ m.content }}|{% endfor %}")
    built(model).prompt(asked())
    assert model.seen.startswith("system:")
    assert "weather" in model.seen


def test_tokens_are_taken_as_they_are() -> None:
    prompt = built(FakeModel("x")).prompt(Request(tokens=(1, 5, 9)))
    assert prompt.tokens == [1, 5, 9]
    with pytest.raises(PromptError, match="from 0 to"):
        built(FakeModel("x")).prompt(Request(tokens=(-1,)))


def test_reasoning_that_the_prompt_opens() -> None:
    model = FakeModel("{{ messages[0].content }}<think>\n")
    assert built(model).prompt(chat("a")).reading.reasoning_open


def test_tokenise_and_back() -> None:
    builder = built(FakeModel("{{ messages[0].content }}!"))
    assert builder.tokens(TokenizeRequest(text="hi")) == [ord("h"), ord("i")]
    assert builder.tokens(TokenizeRequest(text="hi", add_special=True))[0] == BOS
    chat_tokens = builder.tokens(TokenizeRequest(messages=({"role": "user", "content": "a"},)))
    assert chat_tokens[-1] == ord("!")
    assert builder.text((ord("h"), ord("i"))) == "hi"
    with pytest.raises(PromptError):
        builder.text((1 << 30,))


def test_only_what_may_fit_is_tokenised() -> None:
    model = FakeModel("{% for m in messages %}{{ m.content }}{% endfor %}")
    builder = built(model, most=3)
    builder.prompt(chat("a", "b", "c"))
    assert model.most == 3
    builder.prompt(Request(text="a long text"))
    assert model.most == 3
    with pytest.raises(TooLongError, match="4 messages and the context holds 3 tokens"):
        builder.prompt(chat("a", "b", "c", "d"))


def test_a_text_is_counted_though_it_does_not_fit() -> None:
    model = FakeModel()
    builder = built(model, most=3)
    builder.tokens(TokenizeRequest(text="a" * 100_000))
    assert model.most is None
    builder.tokens(TokenizeRequest(text="a" * 300_000))
    assert model.most == 3
