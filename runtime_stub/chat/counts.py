"""What a chat has cost so far: tokens, times, context."""

from __future__ import annotations

from dataclasses import dataclass, replace

from runtime_stub.engine.messages import Usage


@dataclass(frozen=True)
class Statistics:
    """Counts of one chat. A new one comes of each answer."""

    answers: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    last: Usage | None = None
    first_token_seconds: float | None = None
    """From sending the last question to the first token of its answer."""

    def after(self, usage: Usage, first_token_seconds: float | None) -> Statistics:
        """The counts with one more answer."""
        return replace(
            self,
            answers=self.answers + 1,
            prompt_tokens=self.prompt_tokens + usage.prompt_tokens,
            completion_tokens=self.completion_tokens + usage.completion_tokens,
            last=usage,
            first_token_seconds=first_token_seconds,
        )

    @property
    def used(self) -> int:
        """Tokens of context that the last question and answer took."""
        return self.last.prompt_tokens + self.last.completion_tokens if self.last else 0


def statistics_lines(statistics: Statistics, context: int, forgotten: int) -> list[str]:
    """The counts in words, for `/stats`. `context` is 0 where it is not known yet."""
    last = statistics.last
    if last is None:
        return ["Nothing was asked yet."]
    fresh = last.prompt_tokens - last.cached_tokens
    written = _speed(last.completion_tokens, last.completion_seconds)
    read = _speed(fresh, last.prompt_seconds)
    lines = [
        f"last answer\t{_tokens(last.completion_tokens)}, {written}",
        f"its question\t{_tokens(last.prompt_tokens)}, {fresh:,} of them new, {read}",
    ]
    if statistics.first_token_seconds is not None:
        lines.append(f"first token\tafter {statistics.first_token_seconds:.2f} s")
    if context:
        share = statistics.used / context
        lines.append(f"context\t{statistics.used:,} of {context:,} tokens ({share:.0%})")
    lines.append(
        f"this chat\t{statistics.answers} answers, {_tokens(statistics.completion_tokens)} written"
    )
    if forgotten:
        lines.append(f"not read\tthe oldest {forgotten} questions and answers")
    return lines


def _tokens(count: int) -> str:
    return f"{count:,} token{'s' if count != 1 else ''}"


def _speed(count: int, seconds: float) -> str:
    return f"{count / seconds:.1f} tokens/s" if seconds > 0 and count else "at once"
