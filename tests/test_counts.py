from __future__ import annotations

from runtime_stub.chat.counts import Statistics, statistics_lines
from runtime_stub.engine.messages import Usage


def test_counts_add_up() -> None:
    statistics = Statistics().after(Usage(10, 0, 5, 1.0, 0.5), 1.1)
    statistics = statistics.after(Usage(30, 10, 20, 2.0, 2.0), 2.25)
    assert (statistics.answers, statistics.completion_tokens, statistics.used) == (2, 25, 50)
    lines = statistics_lines(statistics, 100, 1)
    assert lines == [
        "last answer\t20 tokens, 10.0 tokens/s",
        "its question\t30 tokens, 20 of them new, 10.0 tokens/s",
        "first token\tafter 2.25 s",
        "context\t50 of 100 tokens (50%)",
        "this chat\t2 answers, 25 tokens written",
        "not read\tthe oldest 1 questions and answers",
    ]


def test_before_the_first_answer() -> None:
    assert statistics_lines(Statistics(), 0, 0) == ["Nothing was asked yet."]


def test_nothing_new_to_read_has_no_speed() -> None:
    lines = statistics_lines(Statistics().after(Usage(10, 10, 1, 0.0, 0.0), None), 0, 0)
    assert lines[0] == "last answer\t1 token, at once"
    assert not [line for line in lines if line.startswith(("context", "first"))]
