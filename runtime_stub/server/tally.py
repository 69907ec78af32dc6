"""What the server has done, counted. Plain numbers: `metrics` says them in Prometheus' words."""

from __future__ import annotations

import bisect
import itertools
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

FIRST_TOKEN_SECONDS = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
TOKENS_PER_SECOND = (1.0, 2.0, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0)
REQUEST_SECONDS = (0.01, 0.05, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)


class Histogram:
    """How values are distributed over buckets with given upper bounds."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.total = 0.0
        self._counts = [0] * (len(bounds) + 1)

    def add(self, value: float) -> None:
        """Count one value."""
        self._counts[bisect.bisect_left(self.bounds, value)] += 1
        self.total += value

    def cumulative(self) -> list[int]:
        """How many values are at most each bound; the last is the count of all."""
        return list(itertools.accumulate(self._counts))


@dataclass
class Tally:
    """Everything that is counted. Change and read it while holding `lock`."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    requests: Counter[tuple[str, str, int]] = field(default_factory=Counter)
    """HTTP requests by method, route and status."""
    request_seconds: Histogram = field(default_factory=lambda: Histogram(REQUEST_SECONDS))
    waiting: int = 0
    """Requests the engine has, whose prompt is not read yet."""
    running: int = 0
    """Requests that are being answered."""
    slots: set[tuple[str, int]] = field(default_factory=set)
    """Slots that are in use, each with the model it belongs to."""
    failures: Counter[str] = field(default_factory=Counter)
    """Requests the engine could not answer, by kind."""
    reasons: Counter[str] = field(default_factory=Counter)
    """Answers by why they ended."""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    prompt_seconds: float = 0.0
    completion_seconds: float = 0.0
    first_token: Histogram = field(default_factory=lambda: Histogram(FIRST_TOKEN_SECONDS))
    """Seconds from a request's arrival to the first piece of its answer."""
    speed: Histogram = field(default_factory=lambda: Histogram(TOKENS_PER_SECOND))
    """Tokens per second of each answer, without its prompt."""
