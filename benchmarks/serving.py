"""Measurements on servers that are running: throughput, fairness, reading of prompts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from benchmarks import prompts
from benchmarks.client import Answer, chats
from benchmarks.measures import Measure, Results
from benchmarks.programs import Running

STREAMS = (1, 4, 8)
READING = Measure("prompt", "tok/s", higher_is_better=True)
Say = Callable[[str], None]


def total(streams: int) -> Measure:
    """All generated tokens by the time from the requests to the last answer's end."""
    return Measure(f"generated, {streams} streams, prompts included", "tok/s", True)


def generation(streams: int) -> Measure:
    """Tokens generated while all streams were generating."""
    return Measure(f"generated, {streams} streams", "tok/s", True)


def unfairness(streams: int) -> Measure:
    """By how much the fastest stream is faster than the slowest, in percent."""
    return Measure(f"fastest over slowest of {streams} streams", "% more")


def in_turn(servers: Sequence[Running], rounds: int) -> Iterator[tuple[int, Sequence[Running]]]:
    """The servers in the order of each round: A B, B A, A B ..."""
    for number in range(rounds):
        yield number, servers if number % 2 == 0 else servers[::-1]


def throughput(
    servers: Sequence[Running],
    results: Results,
    *,
    streams: int,
    rounds: int,
    tokens: int,
    forbidden: tuple[int, ...],
    say: Say,
) -> None:
    """Several chats at once: tokens a second, and how evenly they were dealt out."""
    able = [running for running in servers if running.server.streams >= streams]
    for number, order in in_turn(able, rounds):
        first = 1_000_000 + 1000 * streams + 100_000 * number
        bodies = [
            prompts.chat(
                prompts.story(first + stream, 20),
                "Write a long story about that.",
                tokens=tokens,
                forbidden=forbidden,
            )
            for stream in range(streams)
        ]
        for running in order:
            answers = chats(running.port, bodies)
            _note(results, running.server.name, streams, answers)
        say(_line(results, f"{streams} streams, round {number + 1}/{rounds}", generation(streams)))


def reading(
    servers: Sequence[Running],
    results: Results,
    *,
    rounds: int,
    words: int,
    forbidden: tuple[int, ...],
    say: Say,
) -> None:
    """How fast a prompt is read that was never seen before."""
    for number, order in in_turn(servers, rounds):
        body = prompts.chat(
            prompts.story(number, words), "Who was it?", tokens=1, forbidden=forbidden
        )
        for running in order:
            (answer,) = chats(running.port, [body])
            read = answer.prompt_tokens - answer.cached_tokens
            results.add(READING, running.server.name, read / answer.first)
        say(_line(results, f"prompt, round {number + 1}/{rounds}", READING))


def _note(results: Results, name: str, streams: int, answers: Sequence[Answer]) -> None:
    tokens = sum(answer.tokens for answer in answers)
    results.add(total(streams), name, tokens / max(answer.end for answer in answers))
    begin = max(answer.first for answer in answers)
    end = min(answer.pieces[-1] for answer in answers)
    # A piece may be several tokens, or a token's half: pieces are turned into tokens.
    together = sum(
        answer.tokens / len(answer.pieces) * sum(begin < at <= end for at in answer.pieces)
        for answer in answers
    )
    results.add(generation(streams), name, together / (end - begin))
    if streams > 1:
        rates = [answer.rate for answer in answers]
        results.add(unfairness(streams), name, 100 * (max(rates) / min(rates) - 1))


def _line(results: Results, label: str, measure: Measure) -> str:
    values = results.values[measure]
    latest = ", ".join(f"{name} {series[-1]:.1f}" for name, series in values.items())
    return f"   {label}: {latest} {measure.unit}"
