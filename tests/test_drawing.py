from __future__ import annotations

import io
import os
import random

import pyte
import pytest
from test_markdown import CODES, PLAIN

from runtime_stub.chat import drawing
from runtime_stub.chat.answering import Answer
from runtime_stub.chat.drawing import Drawing
from runtime_stub.chat.markdown import Layout, blocks_of
from runtime_stub.engine.messages import PromptRead, Reasoning, Text


class Paper(io.StringIO):
    """A stream whose terminal is simulated: all that was ever on it can be read."""

    def __init__(self, columns: int = 40, rows: int = 8) -> None:
        super().__init__()
        self.screen = pyte.HistoryScreen(columns, rows, history=10_000)
        self._stream = pyte.Stream(self.screen)
        self.written = 0

    def write(self, text: str) -> int:
        self.written += len(text)
        self._stream.feed(text)
        return len(text)

    @property
    def lines(self) -> list[str]:
        # The right half of a wide character is a cell without text.
        found = [
            "".join(line[column].data for column in range(self.screen.columns)).rstrip()
            for line in (
                *self.screen.history.top,
                *(self.screen.buffer[row] for row in range(self.screen.lines)),
            )
        ]
        while found and not found[-1]:
            found.pop()
        return found


@pytest.fixture
def paper(monkeypatch: pytest.MonkeyPatch) -> Paper:
    paper = Paper()
    monkeypatch.setattr(
        drawing,
        "size_of",
        lambda _: os.terminal_size((paper.screen.columns, paper.screen.lines)),
    )
    return paper


def numbered(*numbers: int) -> list[str]:
    return [f"line {number}" for number in numbers]


def test_only_what_changes_is_written(paper: Paper) -> None:
    region = Drawing(paper)
    region.update(numbered(1, 2, 3))
    before = paper.written
    region.update(numbered(1, 2, 3))
    assert paper.written == before
    region.update(numbered(1, 2, 4))
    assert paper.written - before < 25
    assert paper.lines == numbered(1, 2, 4)


def test_growing_beyond_the_screen(paper: Paper) -> None:
    region = Drawing(paper)
    for count in range(1, 30):
        region.update(numbered(*range(count)))
    region.finish(numbered(*range(30)))
    region.update(["below"])
    assert paper.lines == [*numbered(*range(30)), "below"]


def test_shrinking_and_clearing(paper: Paper) -> None:
    paper.write("above\r\n")
    region = Drawing(paper)
    region.update(numbered(1, 2, 3))
    region.update(numbered(1))
    assert paper.lines == ["above", "line 1"]
    region.clear()
    assert paper.lines == ["above"]


def test_table_larger_than_the_screen_is_whole_in_the_end(paper: Paper) -> None:
    region = Drawing(paper)
    for count in range(1, 20):
        region.update([f"{'x' * count} {number}" for number in range(count)], only_end=True)
    table = [f"final {number}" for number in range(20)]
    region.finish(table)
    assert paper.lines == table


def test_wider_window(paper: Paper) -> None:
    region = Drawing(paper)
    region.update(numbered(1, 2, 3))
    paper.screen.resize(8, 60)
    region.update(["all on one line"])
    assert paper.lines == ["all on one line"]


WORDS = ["word ", "**bold** ", "`code` ", "日本 ", "\n\n", "\n- item ", "\n", "x" * 50 + " "]


@pytest.mark.parametrize("seed", range(12))
def test_streamed_answer_looks_as_if_it_had_come_at_once(
    paper: Paper, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However it is cut into pieces: as it is above the screen and on it. A block that is taller
    than the screen may have changed after it left it, so blocks are small here."""
    chance = random.Random(seed)  # noqa: S311
    text = "".join(chance.choice(WORDS) for _ in range(40))
    text += "\n\n| a | b |\n|---|---|\n" + "".join(f"| {n} | {'y' * n} |\n" for n in range(12))
    text += "\n```\n" + "".join(f"code {n}\n" for n in range(12)) + "```\n\nThe end."
    paper.screen.resize(60, 40)
    layout = Layout(PLAIN)
    answer = Answer(Drawing(paper), layout, lambda: "", shows_reasoning=True, dots="...")
    answer.take(PromptRead(1, 0))
    rest = text
    while rest:
        size = chance.randint(1, 12)
        answer._next_frame = 0
        answer.take(Text(rest[:size]))
        rest = rest[size:]
    answer.finish("")
    expected = layout.document(blocks_of(text), 39)
    assert paper.lines == [CODES.sub("", line) for line in expected]


def test_reasoning_comes_first_and_can_be_hidden(paper: Paper) -> None:
    for shows, expected in ((True, ["I think", "", "So it is."]), (False, ["So it is."])):
        paper.screen.reset()
        answer = Answer(Drawing(paper), Layout(PLAIN), lambda: "", shows_reasoning=shows, dots=".")
        answer.take(Reasoning("I think"))
        answer.take(Text("So it is."))
        answer.finish("")
        assert paper.lines == expected


def test_hostile_answer_controls_nothing(paper: Paper) -> None:
    answer = Answer(Drawing(paper), Layout(PLAIN), lambda: "", shows_reasoning=True, dots="...")
    for piece in ("a\x1b", "[2J\x1b]0;title\x07b", "\x9b31mc", "&#27;[2Jd", "&#x9b;31me"):
        answer._next_frame = 0
        answer.take(Text(piece))
    answer.finish("")
    assert paper.lines == ["abc\ufffd[2Jd\ufffd31me"]
    assert paper.screen.title == ""
