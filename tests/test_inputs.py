from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny_models
from engine_fixtures import loaded
from gguf_files import BOOL, U32, Typed
from tiny_embedders import BEGIN, BERT_WORDS, FINISH, SEPARATOR, bert, ranking

from runtime_stub.engine.inputs import Inputs
from runtime_stub.engine.model import Model
from runtime_stub.errors import PromptError

CLS, SEP = BERT_WORDS.index("[CLS]"), BERT_WORDS.index("[SEP]")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    """One that puts something around each text."""
    with loaded(ranking(tmp_path_factory.mktemp("inputs") / "model.gguf")) as model:
        yield model


def tokens_of(text: str) -> list[int]:
    return [tiny_models.CHARACTERS.index(character) for character in text]


def letters_of(word: str) -> list[int]:
    """The tokens of a word of BERT's: its beginning has letters of its own."""
    first, *rest = (ord(letter) - ord("a") + len(BERT_WORDS) for letter in word)
    return [first, *(letter + 26 for letter in rest)]


# Texts.


def test_a_text_has_what_the_model_puts_around_it(model: Model) -> None:
    text = Inputs(model, 100).text("word", truncate=False)
    assert text == [BEGIN, *tokens_of("word"), FINISH]


def test_a_text_that_is_too_long(model: Model) -> None:
    inputs = Inputs(model, 10)
    assert len(inputs.text("12345678", truncate=False)) == 10
    with pytest.raises(PromptError, match=r"has 11 tokens and at most 10 can be embedded"):
        inputs.text("123456789", truncate=False)
    with pytest.raises(PromptError, match=r"has 900 characters, more than 10 tokens"):
        inputs.text("123456789" * 100, truncate=False)


@pytest.mark.parametrize("length", [9, 90, 90_000])
def test_what_is_cut_keeps_its_end(model: Model, length: int) -> None:
    text = ("123456789" * length)[:length]
    assert Inputs(model, 10).text(text, truncate=True) == [BEGIN, *tokens_of("12345678"), FINISH]


def test_what_fits_is_not_cut(model: Model) -> None:
    inputs = Inputs(model, 10)
    for text in ("12345678", "1"):
        assert inputs.text(text, truncate=True) == inputs.text(text, truncate=False)


def test_few_tokens_of_many_characters_are_not_cut(model: Model) -> None:
    """That a text is long says nothing of its tokens: characters that no token stands for have
    none."""
    text = " " * 500 + "12"
    assert Inputs(model, 10).text(text, truncate=True)[-3:] == [*tokens_of("12"), FINISH]


def test_cut_by_a_model_that_puts_nothing_around(tmp_path: Path) -> None:
    with loaded(tiny_models.plain(tmp_path / "model.gguf")) as model:
        inputs = Inputs(model, 4)
        assert inputs.text("123456789", truncate=True) == tokens_of("1234")
        for truncate in (False, True):
            with pytest.raises(PromptError, match="nothing to embed"):
                inputs.text("", truncate=truncate)


def test_cut_by_a_bert(tmp_path: Path) -> None:
    with loaded(bert(tmp_path / "model.gguf", ranks=False)) as model:
        inputs = Inputs(model, 5)
        assert inputs.text("abc", truncate=False) == [CLS, *letters_of("abc"), SEP]
        assert inputs.text("abc de", truncate=True) == [CLS, *letters_of("abc"), SEP]


# Pairs.


def test_a_query_and_a_document(model: Model) -> None:
    """What is around each text is there once, and something between the two."""
    assert Inputs(model, 100).pair("who", "somebody") == [
        BEGIN,
        *tokens_of("who"),
        FINISH,
        SEPARATOR,
        *tokens_of("somebody"),
        FINISH,
    ]


def test_a_pair_for_a_bert(tmp_path: Path) -> None:
    with loaded(bert(tmp_path / "model.gguf", ranks=True)) as model:
        pair = Inputs(model, 100).pair("who", "somebody")
    assert pair == [CLS, *letters_of("who"), SEP, *letters_of("somebody"), SEP]


@pytest.mark.parametrize(
    ("said", "between", "after"),
    [
        ({}, [SEPARATOR], []),  # as files from before there was something to say
        ({"eos": True}, [FINISH, SEPARATOR], [FINISH]),
        ({"eos": True, "sep": False}, [FINISH], [FINISH]),
        ({"eos": False, "sep": True}, [SEPARATOR], []),
        ({"bos": True, "sep": False}, [], []),
    ],
)
def test_a_pair_is_as_the_file_says(
    tmp_path: Path, said: dict[str, bool], between: list[int], after: list[int]
) -> None:
    metadata = {
        "tokenizer.ggml.bos_token_id": Typed(U32, BEGIN),
        "tokenizer.ggml.eos_token_id": Typed(U32, FINISH),
        "tokenizer.ggml.seperator_token_id": Typed(U32, SEPARATOR),
    }
    for name, value in said.items():
        metadata[f"tokenizer.ggml.add_{name}_token"] = Typed(BOOL, value)
    with loaded(tiny_models.plain(tmp_path / "model.gguf", metadata=metadata)) as model:
        pair = Inputs(model, 100).pair("a", "b")
    before = [BEGIN] if said.get("bos") else []
    assert pair == [*before, *tokens_of("a"), *between, *tokens_of("b"), *after]


def test_a_pair_as_the_model_wants_it(tmp_path: Path) -> None:
    """With its control tokens, and with nothing else around; what is filled in is left as it is."""
    template = "<Q:{query}|D:{document}>yes?"
    with loaded(ranking(tmp_path / "model.gguf", template)) as model:
        pair = Inputs(model, 100).pair("{document}", "it")
    assert pair == tokens_of("<Q:{document}|D:it>yes?")
    assert pair[0] == BEGIN


def test_a_pair_that_is_too_long(model: Model) -> None:
    inputs = Inputs(model, 10)
    assert len(inputs.pair("123", "456")) == 10
    with pytest.raises(PromptError, match=r"11 tokens together and at most 10"):
        inputs.pair("123", "4567")
    with pytest.raises(PromptError, match=r"900 characters"):
        inputs.pair("123", "456789123" * 100)
