"""What is read to get a vector or a score, as tokens: a text, or a query with a document."""

from __future__ import annotations

import re

from runtime_stub.engine.errors import TooLongError
from runtime_stub.engine.library import library
from runtime_stub.engine.model import Model
from runtime_stub.errors import PromptError

_WORD_PIECES = 3
"""llama.cpp's number for vocabularies like BERT's."""
_TEMPLATE = "tokenizer.chat_template.rerank"
_PLACES = re.compile(r"\{query\}|\{document\}")
_CHARACTERS = 8
"""Of a text for each token that it may have, to look at first when it is to be cut."""


class Inputs:
    """Knows what a model expects around a text. Safe to use from any thread."""

    def __init__(self, model: Model, most: int) -> None:
        """At most so many tokens can be read at a time."""
        llama = library()
        vocabulary = model.vocabulary
        sep = int(llama.llama_vocab_sep(vocabulary))
        self._model = model
        self._most = most
        self._template = model.metadata(_TEMPLATE)
        """How the model wants to be shown a query and a document; empty if it does not say."""
        stated = bool(model.metadata("tokenizer.ggml.add_sep_token"))
        if int(llama.llama_vocab_type(vocabulary)) == _WORD_PIECES:
            # The tokeniser puts each text between these two, whatever the file says, and has no
            # other to end one.
            begins, ends = True, [sep]
            separates = stated and bool(llama.llama_vocab_get_add_sep(vocabulary))
        else:
            begins = model.adds_bos
            eos = int(llama.llama_vocab_eos(vocabulary))
            ends = [eos if eos >= 0 else sep] if llama.llama_vocab_get_add_eos(vocabulary) else []
            # Files from before there was that key expect one wherever there is a token for it.
            separates = bool(llama.llama_vocab_get_add_sep(vocabulary)) if stated else True
        self._begin = _known([int(llama.llama_vocab_bos(vocabulary))] if begins else [])
        self._end = _known(ends)
        self._separator = _known([sep] if separates else [])

    def text(self, text: str, *, truncate: bool) -> list[int]:
        """The tokens of a text, with those that the model has around each. Of a text that is too
        long the beginning, if it is to `truncate`. Raises PromptError for any other, and for one
        without tokens."""
        tokens = self._beginning(text) if truncate else self._tokenise(text, around=True)
        if not tokens:
            raise PromptError("there is nothing to embed in an empty text")
        if len(tokens) > self._most:
            raise PromptError(
                f"the text has {len(tokens):,} tokens and at most {self._most:,} can be embedded",
                "Split it",
            )
        return tokens

    def pair(self, query: str, document: str) -> list[int]:
        """The tokens by which the model is asked how well `document` answers `query`. Raises
        PromptError when they are too many."""
        if self._template:
            found = {"{query}": query, "{document}": document}
            text = _PLACES.sub(lambda place: found[place[0]], self._template)
            tokens = self._tokenise(text, special=True)
        else:
            tokens = [
                *self._begin,
                *self._tokenise(query),
                *self._end,
                *self._separator,
                *self._tokenise(document),
                *self._end,
            ]
        if len(tokens) > self._most:
            raise PromptError(
                f"query and document have {len(tokens):,} tokens together and at most "
                f"{self._most:,} can be read at a time",
                "Split the document",
            )
        return tokens

    def _beginning(self, text: str) -> list[int]:
        """The tokens of a text, with what is too much left out before those that end it."""
        room = self._most * _CHARACTERS
        while True:
            # Not all of it at once: tokenising takes a hundred times the text's memory.
            tokens = self._model.tokenize(text[:room], special=False, add_bos=True)
            if len(tokens) > self._most:
                end = self._end if tokens[-len(self._end) :] == self._end else []
                return tokens[: max(0, self._most - len(end))] + end
            if room >= len(text):
                return tokens
            room *= 2

    def _tokenise(self, text: str, *, special: bool = False, around: bool = False) -> list[int]:
        """Tokens of `text`; those of a model's own words may be `special`."""
        try:
            return self._model.tokenize(text, special=special, add_bos=around, most=self._most)
        except TooLongError:
            raise PromptError(
                f"the text has {len(text):,} characters, more than {self._most:,} tokens can "
                "stand for",
                "Split it",
            ) from None


def _known(tokens: list[int]) -> list[int]:
    """Without those that the vocabulary does not have."""
    return [token for token in tokens if token >= 0]
