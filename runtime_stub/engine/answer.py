"""One choice of an answer: from sampled tokens to events."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from runtime_stub.engine import parse
from runtime_stub.engine.messages import Event, Reasoning, Text, TokenLogprob, ToolCall
from runtime_stub.engine.reading import Reading
from runtime_stub.engine.stream import TextStream


class Answer:
    """Turns the bytes of one choice's tokens into events."""

    def __init__(self, choice: int, reading: Reading, stop: tuple[str, ...]) -> None:
        self._choice = choice
        self._text = TextStream(stop)
        self._parser = (
            None
            if reading.plain
            else parse.AnswerParser(
                reading.family,
                tools=reading.tools,
                reasoning_open=reading.reasoning_open,
                schemas=reading.schemas,
                whole_calls=reading.whole_calls,
            )
        )
        self._logprobs: list[TokenLogprob] = []
        """Of tokens whose text has not been told yet."""
        self._resumes = self._parser is not None
        """Whether the next text of the answer may follow tokens that are none of it."""
        self._single = reading.single_call
        self._over = False
        self.called = False
        """Whether a function was called."""

    @property
    def over(self) -> bool:
        """Whether it has ended: by a stop string, or where a call too many began."""
        return self._over or self.stopped_by is not None

    @property
    def stopped_by(self) -> str | None:
        """The stop string that has ended it."""
        return self._text.stopped_by

    def feed(self, data: bytes, logprob: TokenLogprob | None) -> Iterable[Event]:
        """What can be told after one more token."""
        text = self._text.feed(data)
        if logprob is not None:
            self._logprobs.append(logprob)
        if self._parser is None:  # nearly always
            return (self._piece(text),) if text else ()
        return self._events(self._parser.feed(text)) if text else ()

    def finish(self, *, cut: bool = False) -> Iterable[Event]:
        """The rest. `cut`: the model would have gone on; half a tag or call is left out then."""
        text = self._text.finish()
        if self._parser is None:
            return (self._piece(text),) if text or self._logprobs else ()
        pieces = self._parser.feed(text) if text else []
        return self._events([*pieces, *self._parser.finish(cut=cut)])

    def _events(self, pieces: Sequence[parse.Piece]) -> Iterator[Event]:
        for piece in pieces:
            if self._single and isinstance(piece, parse.ToolCallStart) and self.called:
                self._over = True
            if not self._over:
                yield self._event(piece)

    def _event(self, piece: parse.Piece) -> Event:
        if isinstance(piece, parse.Content):
            if self._resumes and self._logprobs:
                self._logprobs = _those_of(piece.text, self._logprobs)
            self._resumes = False
            return self._piece(piece.text)
        # How likely these tokens were is told of the answer's text alone.
        self._logprobs.clear()
        self._resumes = True
        if isinstance(piece, parse.Reasoning):
            return Reasoning(piece.text, self._choice)
        self.called = True
        if isinstance(piece, parse.ToolCallStart):
            return ToolCall(piece.index, piece.id, piece.name, choice=self._choice)
        return ToolCall(piece.index, arguments=piece.text, choice=self._choice)

    def _piece(self, text: str) -> Text:
        if not self._logprobs:
            return Text(text, self._choice)
        logprobs, self._logprobs = tuple(self._logprobs), []
        return Text(text, self._choice, logprobs)


def _those_of(text: str, logprobs: list[TokenLogprob]) -> list[TokenLogprob]:
    """The tokens of a text, without those of tags and white space before it."""
    wanted = text.lstrip().encode()
    for first in range(len(logprobs)):
        if not logprobs[first].raw.strip():
            continue
        rest = b"".join(token.raw for token in logprobs[first:]).lstrip()
        if rest.startswith(wanted) or (rest and wanted.startswith(rest)):
            return logprobs[first:]
    return []
