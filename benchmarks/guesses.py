"""What guessing ahead gains where a text repeats itself, and costs where it does not.

    python benchmarks/guesses.py MODEL.gguf [--draft SMALL.gguf] [--repeat 7]

Two engines in one process, with and without guesses, answer in turn: code that is written out
again with a name changed, and free prose. Prints tokens per second and their ratios. With --draft,
that model guesses as well.
"""

from __future__ import annotations

import argparse
import statistics
from contextlib import ExitStack
from pathlib import Path

from runtime_stub.engine.engine import Engine
from runtime_stub.engine.messages import (
    EngineSettings,
    Finished,
    ModelSource,
    Request,
    Sampling,
    Sources,
)

CODE = """def total(items):
    result = 0
    for item in items:
        if item.price is not None:
            result += item.price * item.count
    return result


def average(items):
    if not items:
        return 0
    return total(items) / len(items)


def largest(items):
    best = None
    for item in items:
        if best is None or item.price > best.price:
            best = item
    return best
"""
RENAMED = CODE.replace("items", "products").replace("item", "product")
REQUESTS = {
    "code with a name changed": Request(
        text=f"Here is a Python file:\n\n{CODE}\n\nHere is the same file, with `items` renamed to "
        f"`products`:\n\n{RENAMED[:60]}",
        max_tokens=160,
        sampling=Sampling(temperature=0),
    ),
    "free prose": Request(
        messages=({"role": "user", "content": "Tell me a story about a lighthouse keeper."},),
        max_tokens=160,
        sampling=Sampling(temperature=0.8, seed=1),
    ),
}


def speed(engine: Engine, request: Request) -> float:
    """Tokens generated per second."""
    *_, last = engine.answer(request)
    assert isinstance(last, Finished), last
    return last.usage.completion_tokens / last.usage.completion_seconds


def model_source(stack: ExitStack, path: Path) -> ModelSource:
    """The model at `path`, open as long as `stack`."""
    return ModelSource(stack.enter_context(path.open("rb")).fileno(), 0, path.stat().st_size)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--draft", type=Path)
    parser.add_argument("--repeat", type=int, default=7)
    options = parser.parse_args()
    with ExitStack() as stack:
        draft = model_source(stack, options.draft) if options.draft else None
        sources = Sources(model_source(stack, options.model), draft=draft)
        with_guesses, without = (
            Engine(sources, EngineSettings(context=2048, drafts=drafts)) for drafts in (True, False)
        )
        for name, request in REQUESTS.items():
            pairs = [
                (speed(with_guesses, request), speed(without, request))
                for _ in range(options.repeat)
            ]
            on, off = (statistics.median(side) for side in zip(*pairs, strict=True))
            ratio = statistics.median(one / other for one, other in pairs)
            print(f"{name}: {on:.1f} tok/s with guesses, {off:.1f} without, x {ratio:.2f}")
        with_guesses.close()
        without.close()


if __name__ == "__main__":
    main()
