"""How long an answer that is being streamed pauses while somebody else's long prompt is read.

    python benchmarks/gaps.py dist/smollm2 [--tokens 2000] [--repeat 5] [--threads 1] [--json]

For each repetition: the gaps between tokens of a stream that is alone, those of the same stream
from the moment at which the prompt is sent until its answer begins, and those of the stream alone
again. Answers become slower as they grow longer: what is usual for a gap meanwhile lies between the
medians of both times alone, as far from each as the gap itself. Without guesses, so that each token
comes by itself.

Gaps are what a client sees; what the clients themselves take long for is done before. The machine's
own noise shows in the longest gaps of the stream alone; with fewer threads than processors, client
and server are not in the engine's way.
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

ALONE = 400
"""Tokens of the stream before the prompt is sent, and after its answer."""
SETTLE = 15
"""The first of them, which are not measured."""
LONG = 3.0
"""Gaps that are longer are counted."""
CHAT = "/v1/chat/completions"


@dataclass(frozen=True)
class Gaps:
    """Some gaps, in usual ones."""

    median: float
    percentile_95: float
    percentile_99: float
    worst: float
    long: int
    """How many are longer than LONG."""

    @classmethod
    def of(cls, times: Sequence[float]) -> Gaps:
        most, nearly_all = percentile(times, 0.95), percentile(times, 0.99)
        long = sum(time > LONG for time in times)
        return cls(statistics.median(times), most, nearly_all, max(times), long)


@dataclass(frozen=True)
class Repetition:
    """Times in seconds."""

    usual_before: float
    """Median gap before the prompt was sent."""
    usual_after: float
    """And when it had been answered."""
    reading: float
    """From sending the prompt until its answer began."""
    tokens: int
    """Of the stream, meanwhile."""
    alone: Gaps
    meanwhile: Gaps


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pack", type=Path)
    parser.add_argument("--tokens", type=int, default=2000, help="about how long the prompt is")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--threads", type=int, help="of the engine")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    serve = [options.pack.resolve(), "serve", "--port", "0", "--temperature", "1", "--no-drafts"]
    with subprocess.Popen(
        serve if options.threads is None else [*serve, "--threads", str(options.threads)],
        stderr=subprocess.PIPE,
        text=True,
    ) as server:
        try:
            assert server.stderr is not None
            address = server.stderr.readline().split("listening on ")[1].split()[0]
            while httpx.get(f"{address}/health").status_code != 200:
                time.sleep(0.1)
            # Making one takes 20 ms of a processor.
            with httpx.Client(timeout=300) as client:
                found = [
                    measure(client, address, options.tokens, number)
                    for number in range(options.repeat)
                ]
        finally:
            server.terminate()
    if options.json:
        print(json.dumps([asdict(repetition) for repetition in found]))
    else:
        show(found)
    return 0


def measure(client: httpx.Client, address: str, tokens: int, seed: int) -> Repetition:
    """One repetition, with a prompt that nobody has sent before."""
    chance = random.Random(seed)  # noqa: S311
    times: list[float] = []
    over = threading.Event()
    stream = threading.Thread(target=listen, args=(client, address, seed, times, over))
    stream.start()
    while len(times) < ALONE:
        time.sleep(0.01)
    words = ("sea", "hill", "wind", "tree", "bird", "rock", "moon", "rain", "fire", "snow")
    text = " ".join(chance.choice(words) for _ in range(tokens))
    begun = time.monotonic()
    reply = client.post(
        f"{address}{CHAT}",
        json={"messages": [{"role": "user", "content": text}], "max_tokens": 1},
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
    before = gaps_of([(start, end) for start, end in pairs[SETTLE:] if end < begun])
    after = gaps_of([(start, end) for start, end in pairs if start > ended])
    # The gap in which the prompt came, and the one in which it was done, belong to it.
    during = gaps_of([(start, end) for start, end in pairs if end > begun and start < ended])
    first, last = statistics.median(before), statistics.median(after)
    alone = [gap / first for gap in before] + [gap / last for gap in after]
    usual = [first + (last - first) * index / len(during) for index in range(len(during))]
    return Repetition(
        usual_before=first,
        usual_after=last,
        reading=ended - begun,
        tokens=len(during),
        alone=Gaps.of(alone),
        meanwhile=Gaps.of([gap / own for gap, own in zip(during, usual, strict=True)]),
    )


def gaps_of(pairs: Sequence[tuple[float, float]]) -> list[float]:
    return [end - start for start, end in pairs]


def listen(
    client: httpx.Client, address: str, seed: int, times: list[float], over: threading.Event
) -> None:
    """Note when each token of a long answer comes."""
    body = {
        "messages": [{"role": "user", "content": f"Tell me story number {seed}."}],
        "stream": True,
        "seed": seed,
        "max_tokens": 3000,
        # Not to end by itself.
        "logit_bias": {"0": -100, "2": -100},
    }
    with client.stream("POST", f"{address}{CHAT}", json=body) as reply:
        for line in reply.iter_lines():
            if line.startswith("data: {"):
                times.append(time.monotonic())
            if over.is_set():
                return


def percentile(values: Sequence[float], part: float) -> float:
    """The value that `part` of all are at most."""
    return sorted(values)[min(len(values) - 1, int(part * len(values)))]


def show(found: Sequence[Repetition]) -> None:
    print("a usual gap   alone, in usual gaps    read   tokens  meanwhile, in usual gaps")
    print("before after  95 %  99 %  worst  >3   in             median  95 %  99 %  worst  >3")
    for one in found:
        alone, meanwhile = one.alone, one.meanwhile
        print(
            f"{one.usual_before * 1000:4.1f} {one.usual_after * 1000:4.1f} ms"
            f"{alone.percentile_95:7.2f}{alone.percentile_99:6.2f}{alone.worst:7.2f}{alone.long:4}"
            f"{one.reading:7.1f} s{one.tokens:6}"
            f"{meanwhile.median:9.2f}{meanwhile.percentile_95:6.2f}"
            f"{meanwhile.percentile_99:6.2f}{meanwhile.worst:7.2f}{meanwhile.long:4}"
        )


if __name__ == "__main__":
    sys.exit(main())
