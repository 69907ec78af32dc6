"""Warm prompts: what is restored must say what reading says."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import tiny_models

from runtime_stub.engine.engine import Engine
from runtime_stub.engine.messages import (
    EngineSettings,
    Event,
    Finished,
    ModelSource,
    Request,
    Sampling,
    Sources,
    Text,
)
from runtime_stub.engine.warm import MAGIC, read_warm, write_warm
from runtime_stub.engine.warming import make_warm
from runtime_stub.errors import FormatError

ALWAYS_GOES_ON = Sampling(
    temperature=0,
    logit_bias=tuple((token, float("-inf")) for token in (tiny_models.END, tiny_models.END + 1)),
)
SYSTEM = "YouAreVeryHelpful,AndYouSayItInMoreWordsThanThereAreReasonsFor."
TEMPLATE = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}[assistant]"
BEGINNING = len(f"[system]{SYSTEM}[user]")
KINDS: dict[str, Callable[[Path], Path]] = {
    "plain": tiny_models.plain,
    "sliding": tiny_models.sliding,
    "recurrent": tiny_models.recurrent,
    "hybrid": tiny_models.hybrid,
}


@dataclass(frozen=True)
class Made:
    """A model and its warm prompt, in files."""

    model: Path
    warm: Path


def nothing(_done: int, _total: int) -> None:
    """A progress function."""


def source(stack: ExitStack, path: Path, offset: int = 0) -> ModelSource:
    descriptor = os.open(path, os.O_RDONLY)
    stack.callback(os.close, descriptor)
    return ModelSource(descriptor, offset, path.stat().st_size - offset)


@pytest.fixture(scope="module", params=KINDS)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("warm")
    model = KINDS[str(request.param)](folder / "model.gguf")
    with ExitStack() as stack:
        data = make_warm(source(stack, model), TEMPLATE, SYSTEM, nothing)
    warm = folder / "warm"
    warm.write_bytes(bytes(4096) + data)  # somewhere inside a file
    return Made(model, warm)


@contextmanager
def running(
    model: Path,
    *warm: Path,
    offset: int = 4096,
    context: int = 1024,
    flash_attention: bool = True,
    kv: str = "f16",
) -> Iterator[Engine]:
    settings = EngineSettings(
        context, parallel=2, threads=1, flash_attention=flash_attention, template=TEMPLATE, kv=kv
    )
    with ExitStack() as stack:
        engine = Engine(
            Sources(
                source(stack, model),
                warm=tuple(source(stack, path, offset) for path in warm),
            ),
            settings,
        )
        stack.callback(engine.close)
        engine.wait_ready(60)
        yield engine


def request(question: str = "Why?", system: str = SYSTEM) -> Request:
    messages = ({"role": "system", "content": system}, {"role": "user", "content": question})
    return Request(messages=messages, max_tokens=24, sampling=ALWAYS_GOES_ON)


def answered(events: Sequence[Event]) -> tuple[str, int]:
    """The text, and how many tokens of the prompt were not read."""
    last = events[-1]
    assert isinstance(last, Finished), last
    text = "".join(event.text for event in events if isinstance(event, Text))
    return text, last.usage.cached_tokens


def asked(engine: Engine, wanted: Request) -> tuple[str, int]:
    return answered(list(engine.answer(wanted)))


@pytest.fixture(scope="module")
def expected(made: Made) -> str:
    with running(made.model) as engine:
        text, cached = asked(engine, request())
    assert cached == 0
    return text


EXAMPLES = (("HowMuch?", "Four."), ("HowOften?", "Twice."))


@pytest.mark.parametrize("system", [SYSTEM, None])
def test_examples_are_read_already(system: str | None, tmp_path: Path) -> None:
    model = tiny_models.plain(tmp_path / "model.gguf")
    settings = EngineSettings(1024, 2, threads=1, template=TEMPLATE, examples=EXAMPLES)
    question = {"role": "user", "content": "Why?"}
    instruction = [{"role": "system", "content": system}] if system else []
    wanted = Request(messages=(*instruction, question), max_tokens=24, sampling=ALWAYS_GOES_ON)
    before = "".join(f"[user]{asks}[assistant]{answer}" for asks, answer in EXAMPLES) + "[user]"
    before = f"[system]{system}{before}" if system else before
    with ExitStack() as stack:
        data = make_warm(source(stack, model), TEMPLATE, system, nothing, settings)
        (tmp_path / "warm").write_bytes(data)
        found = []
        for warm in ((), (source(stack, tmp_path / "warm"),)):
            engine = Engine(Sources(source(stack, model), warm=warm), settings)
            stack.callback(engine.close)
            engine.wait_ready(60)
            found.append(asked(engine, wanted))
    assert found == [(found[0][0], 0), (found[0][0], len(before))]


def test_what_it_holds(made: Made) -> None:
    with ExitStack() as stack:
        warm = read_warm(source(stack, made.warm, 4096))
    text = "".join(tiny_models.CHARACTERS[token] for token in warm.tokens)
    assert text == f"[system]{SYSTEM}[user]"
    assert len(warm.state) > 100


def test_first_question(made: Made, expected: str) -> None:
    with running(made.model, made.warm) as engine:
        assert asked(engine, request()) == (expected, BEGINNING)


def test_again_and_again(made: Made, expected: str) -> None:
    with running(made.model, made.warm) as engine:
        for question in ("Where?", "When?", "What?", "Who?"):
            _, cached = asked(engine, request(question))
            assert cached >= BEGINNING
        # Something else has taken all slots since.
        for word in ("abc", "def", "ghi"):
            asked(engine, Request(text=word * 20, max_tokens=2, sampling=ALWAYS_GOES_ON))
        text, cached = asked(engine, request())
        assert text == expected
        assert cached >= BEGINNING


def test_several_at_once(made: Made, expected: str) -> None:
    with running(made.model, made.warm) as engine:
        answers = [engine.answer(request()) for _ in range(4)]
        firsts = [next(answer) for answer in answers]
        found = [answered([f, *rest]) for f, rest in zip(firsts, answers, strict=True)]
    assert [text for text, _ in found] == [expected] * 4
    assert all(cached >= BEGINNING for _, cached in found)


def test_other_prompts_are_read(made: Made) -> None:
    other = request(system="No.")
    with running(made.model) as engine:
        fresh = asked(engine, other)
    with running(made.model, made.warm) as engine:
        assert asked(engine, other) == fresh


def test_a_prompt_that_is_the_warm_one_itself(made: Made) -> None:
    with ExitStack() as stack:
        tokens = read_warm(source(stack, made.warm, 4096)).tokens
    whole = Request(tokens=tokens, max_tokens=8, sampling=ALWAYS_GOES_ON)
    with running(made.model) as engine:
        text, _ = asked(engine, whole)
    with running(made.model, made.warm) as engine:
        assert asked(engine, whole)[0] == text


def test_context_too_small_for_it(made: Made) -> None:
    with running(made.model, made.warm, context=64) as engine:
        text, cached = asked(engine, Request(text="abc", max_tokens=4, sampling=ALWAYS_GOES_ON))
        assert len(text) == 4
        assert cached == 0


def test_state_of_another_model_is_refused_silently(made: Made, expected: str) -> None:
    with ExitStack() as stack:
        own = read_warm(source(stack, made.warm, 4096))
        spoilt = made.warm.with_name("spoilt")
        state = bytes(own.state)
        spoilt.write_bytes(write_warm(own.tokens, state[: len(state) // 2]))
    with running(made.model, spoilt, offset=0) as engine:
        assert asked(engine, request()) == (expected, 0)
        # And the engine is none the worse.
        assert asked(engine, request())[0] == expected


def test_other_settings_are_refused_silently(made: Made) -> None:
    with running(made.model, flash_attention=False) as engine:
        text, _ = asked(engine, request())
    with running(made.model, made.warm, flash_attention=False) as engine:
        found, cached = asked(engine, request())
    assert found == text
    assert cached in (0, BEGINNING)  # a recurrent state is the same with both


def test_keys_and_values_kept_in_another_way(tmp_path: Path) -> None:
    model = tiny_models.plain(tmp_path / "model.gguf", head=32)
    paths = {kv: tmp_path / kv for kv in ("f16", "q8_0")}
    for kv, path in paths.items():
        with ExitStack() as stack:
            settings = EngineSettings(kv=kv)
            path.write_bytes(make_warm(source(stack, model), TEMPLATE, SYSTEM, nothing, settings))
    assert paths["q8_0"].stat().st_size < 0.6 * paths["f16"].stat().st_size
    for kv, other in (("f16", "q8_0"), ("q8_0", "f16")):
        with running(model, kv=kv) as engine:
            expected, _ = asked(engine, request())
        with running(model, paths[other], offset=0, kv=kv) as engine:
            assert asked(engine, request()) == (expected, 0)
            assert asked(engine, request())[0] == expected
        # With both, the one that fits is found, whichever comes first.
        with running(model, paths[other], paths[kv], offset=0, kv=kv) as engine:
            assert asked(engine, request()) == (expected, BEGINNING)


@pytest.mark.parametrize(
    "data", [b"", b"x" * 100, MAGIC, MAGIC + b"\xff" * 4, write_warm([1, 2], b"")]
)
def test_what_is_none(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "none"
    path.write_bytes(bytes(4096) + data + b"\0" * (not data))
    with ExitStack() as stack, pytest.raises(FormatError, match="no warm prompt"):
        read_warm(source(stack, path, 4096))
