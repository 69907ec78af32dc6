"""How long an answer that is being streamed pauses while somebody else's long prompt is read.

    python benchmarks/gaps.py dist/smollm2 [--tokens 2000] [--repeat 5] [--json]

For each repetition: the gaps between tokens of a stream that is alone, those of the same stream
from the moment at which the prompt is sent until its answer begins, and those of the stream alone
again. What is usual is the median of both times alone: answers become slower as they grow longer.
Without guesses, so that each token comes by itself. Gaps are what a client sees. The machine's own
noise shows in the worst gap of the stream alone.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx

ALONE = 80
"""Tokens of the stream before the prompt is sent, and after its answer."""
SETTLE = 15
"""The first of them, which are not measured."""
CHAT = "/v1/chat/completions"


@dataclass(frozen=True)
class Gaps:
    """One repetition; times in seconds."""

    usual: float
    """Median gap alone."""
    alone_95: float
    alone_worst: float
    reading: float
    """From sending the prompt until its answer began."""
    tokens: int
    """Of the stream, meanwhile."""
    median: float
    """Gap while the prompt was read, and so are the next two."""
    percentile_95: float
    worst: float

    @property
    def ratio(self) -> float:
        """Of the worst gap to the usual one."""
        return self.worst / self.usual


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pack", type=Path)
    parser.add_argument("--tokens", type=int, default=2000, help="about how long the prompt is")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with subprocess.Popen(
        [options.pack.resolve(), "serve", "--port", "0", "--temperature", "1", "--no-drafts"],
        stderr=subprocess.PIPE,
        text=True,
    ) as server:
        try:
            assert server.stderr is not None
            address = server.stderr.readline().split("listening on ")[1].split()[0]
            while httpx.get(f"{address}/health").status_code != 200:
                time.sleep(0.1)
            found = [measure(address, options.tokens, number) for number in range(options.repeat)]
        finally:
            server.terminate()
    if options.json:
        print(json.dumps([{**asdict(gaps), "ratio": gaps.ratio} for gaps in found]))
    else:
        show(found)
    return 0


def measure(address: str, tokens: int, seed: int) -> Gaps:
    """One repetition, with a prompt that nobody has sent before."""
    chance = random.Random(seed)  # noqa: S311
    times: list[float] = []
    over = threading.Event()
    stream = threading.Thread(target=listen, args=(address, seed, times, over))
    stream.start()
    while len(times) < ALONE:
        time.sleep(0.01)
    words = ("sea", "hill", "wind", "tree", "bird", "rock", "moon", "rain", "fire", "snow")
    text = " ".join(chance.choice(words) for _ in range(tokens))
    begun = time.monotonic()
    reply = httpx.post(
        f"{address}{CHAT}",
        json={"messages": [{"role": "user", "content": text}], "max_tokens": 1},
        timeout=300,
    )
    ended = time.monotonic()
    assert reply.status_code == 200, reply.text
    assert reply.json()["usage"]["prompt_tokens"] >= tokens
    enough = len(times) + ALONE
    while len(times) < enough and stream.is_alive():
        time.sleep(0.01)
    over.set()
    stream.join()
    pairs = list(itertools.pairwise(times))
    alone = [after - before for before, after in pairs[SETTLE:] if after < begun or before > ended]
    # The gap in which the prompt came, and the one in which it was done, belong to it.
    during = [after - before for before, after in pairs if after > begun and before < ended]
    return Gaps(
        usual=statistics.median(alone),
        alone_95=percentile(alone, 0.95),
        alone_worst=max(alone),
        reading=ended - begun,
        tokens=len(during),
        median=statistics.median(during),
        percentile_95=percentile(during, 0.95),
        worst=max(during),
    )


def listen(address: str, seed: int, times: list[float], over: threading.Event) -> None:
    """Note when each token of a long answer comes."""
    body = {
        "messages": [{"role": "user", "content": f"Tell me story number {seed}."}],
        "stream": True,
        "seed": seed,
        "max_tokens": 3000,
        # Not to end by itself.
        "logit_bias": {"0": -100, "2": -100},
    }
    with httpx.stream("POST", f"{address}{CHAT}", json=body, timeout=300) as reply:
        for line in reply.iter_lines():
            if line.startswith("data: {"):
                times.append(time.monotonic())
            if over.is_set():
                return


def percentile(values: Sequence[float], part: float) -> float:
    """The value that `part` of all are at most."""
    return sorted(values)[min(len(values) - 1, int(part * len(values)))]


def show(found: Sequence[Gaps]) -> None:
    """A table in milliseconds."""
    columns = ("usual", "95 %", "worst", "|  read in", "tokens", "median", "95 %", "worst", "ratio")
    print("  ".join(columns))
    for gaps in found:
        alone = (gaps.usual, gaps.alone_95, gaps.alone_worst)
        during = (gaps.median, gaps.percentile_95, gaps.worst)
        cells = [f"{value * 1000:5.0f}" for value in alone]
        cells += [f"|  {gaps.reading:5.1f} s", f"{gaps.tokens:6}"]
        cells += [f"{value * 1000:5.0f}" for value in during]
        print("  ".join(cells), f"  {gaps.ratio:5.2f}")
    middle = statistics.median(gaps.ratio for gaps in found)
    print(f"worst gap / usual gap: median of {len(found)} repetitions {middle:.2f}")


if __name__ == "__main__":
    sys.exit(main())
