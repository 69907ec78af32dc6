"""What a server has read is there at its next start, and says what reading says."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import tiny_models
from engine_fixtures import eventually
from test_warm import ALWAYS_GOES_ON, KINDS, TEMPLATE, asked, source

from runtime_stub.engine import prompt_cache
from runtime_stub.engine.engine import Engine
from runtime_stub.engine.messages import AdapterSource, EngineSettings, PromptRead, Request, Sources
from runtime_stub.engine.prompt_files import PromptFolder

LONG = "".join(tiny_models.CHARACTERS[(7 * n + n // 13) % 90] for n in range(600))
BINDING = bytes(range(32))
LIMIT = 64 << 20


@pytest.fixture(scope="module", params=KINDS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    kind = str(request.param)
    return KINDS[kind](tmp_path_factory.mktemp("prompts") / f"{kind}.gguf")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.plain(tmp_path_factory.mktemp("prompts") / "model.gguf")


@contextmanager
def running(
    model: Path, folder: Path | None, *adapters: Path, limit: int = LIMIT, parallel: int = 2
) -> Iterator[Engine]:
    with ExitStack() as stack:
        prompts = None
        if folder is not None:
            folder.mkdir(mode=0o700, exist_ok=True)
            prompts = PromptFolder(folder, limit, BINDING)
        engine = Engine(
            Sources(
                source(stack, model),
                tuple(AdapterSource(path.stem, source(stack, path)) for path in adapters),
            ),
            EngineSettings(2048, parallel=parallel, threads=1, template=TEMPLATE),
            prompts,
        )
        stack.callback(engine.close)
        engine.wait_ready(60)
        yield engine


def request(text: str = LONG, max_tokens: int = 24) -> Request:
    return Request(text=text, max_tokens=max_tokens, sampling=ALWAYS_GOES_ON)


def files(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.suffix == ".prompt"]


def test_the_next_start_goes_on_with_it(model: Path, tmp_path: Path) -> None:
    with running(model, tmp_path) as engine:
        text, cached = asked(engine, request())
    assert cached == 0
    assert len(files(tmp_path)) == 1
    longer = LONG + text + "And?"
    with running(model, None) as engine:
        assert asked(engine, request()) == (text, 0)
        # As where it was never stopped, to the last bit.
        expected = asked(engine, request(longer))
    with running(model, tmp_path) as engine:
        assert asked(engine, request(longer)) == expected
    assert expected[1] == len(LONG + text) - 1  # the last token of an answer is never read


def test_whoever_begins_alike(model: Path, tmp_path: Path) -> None:
    """Where memory can be cut a beginning is enough; elsewhere it is read, and comes out right."""
    with running(model, tmp_path) as engine:
        asked(engine, request(f"{LONG}First?"))
    other = request(f"{LONG}Second!")
    with running(model, None) as engine:
        expected, _ = asked(engine, other)
    with running(model, tmp_path) as engine:
        found, cached = asked(engine, other)
    assert found == expected
    assert cached == (len(LONG) if model.name == "plain.gguf" else 0)


def test_written_while_nobody_asks(
    plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prompt_cache, "QUIET", 0.05)
    with running(plain, tmp_path) as engine:
        asked(engine, request())
        assert eventually(lambda: len(files(tmp_path)) == 1)
        asked(engine, request("z" + LONG))
        assert eventually(lambda: len(files(tmp_path)) == 2)
        # It goes on with what it holds, and a conversation that goes on takes one file.
        text, cached = asked(engine, request(f"z{LONG}{LONG}"))
        assert cached > len(LONG)
        assert eventually(lambda: len(files(tmp_path)) == 2 and _longest(tmp_path) > 2 * len(LONG))
    with running(plain, tmp_path) as engine:
        assert asked(engine, request(f"z{LONG}{LONG}")) == (text, 2 * len(LONG))


def _longest(folder: Path) -> int:
    return max(len(prompt.tokens) for prompt in PromptFolder(folder, LIMIT, BINDING).prompts())


def test_short_prompts_and_little_news_are_not_worth_it(plain: Path, tmp_path: Path) -> None:
    with running(plain, tmp_path) as engine:
        asked(engine, request(LONG[:100]))
    assert files(tmp_path) == []
    with running(plain, tmp_path) as engine:
        asked(engine, request())
        asked(engine, request(f"{LONG}Another?"))
    (path,) = files(tmp_path)
    before = path.read_bytes()
    with running(plain, tmp_path) as engine:
        asked(engine, request(f"{LONG}Yet another?"))
    assert files(tmp_path) == [path]
    assert path.read_bytes() == before


def test_a_file_that_turns_out_damaged(plain: Path, tmp_path: Path) -> None:
    with running(plain, tmp_path) as engine:
        expected, _ = asked(engine, request())
    (path,) = files(tmp_path)
    with running(plain, tmp_path) as engine:
        # Somebody needs the headers before the damage: the folder is read with the first request.
        asked(engine, request("abc", 2))
        data = bytearray(path.read_bytes())
        data[-100] ^= 255
        path.write_bytes(data)
        assert asked(engine, request()) == (expected, 0)
        assert not path.exists()
        assert asked(engine, request())[0] == expected
    assert len(files(tmp_path)) == 1  # it was read anew, and is kept again


def test_a_state_that_llama_cpp_refuses(plain: Path, tmp_path: Path) -> None:
    with running(plain, None) as engine:
        expected, _ = asked(engine, request())
    tokens = [tiny_models.CHARACTERS.index(character) for character in LONG]
    tmp_path.chmod(0o700)
    assert PromptFolder(tmp_path, LIMIT, BINDING).write(tokens, (), bytes(5000)) is not None
    with running(plain, tmp_path) as engine:
        assert asked(engine, request()) == (expected, 0)


def test_cleared_while_it_runs(plain: Path, tmp_path: Path) -> None:
    with running(plain, tmp_path) as engine:
        expected, _ = asked(engine, request())
    with running(plain, tmp_path) as engine:
        asked(engine, request("abc", 2))
        for path in files(tmp_path):
            path.unlink()
        assert asked(engine, request()) == (expected, 0)


def test_no_room(plain: Path, tmp_path: Path) -> None:
    with running(plain, tmp_path, limit=10_000) as engine:
        asked(engine, request())
    assert list(tmp_path.iterdir()) == []


def test_adapters_do_not_mix(plain: Path, tmp_path: Path) -> None:
    adapter = tiny_models.adapter(tmp_path / "lora.gguf", "kept")
    folder = tmp_path / "prompts"
    with_it = Request(text=LONG, max_tokens=24, sampling=ALWAYS_GOES_ON, adapters=(("lora", None),))
    with running(plain, folder, adapter) as engine:
        adapted, _ = asked(engine, with_it)
    with running(plain, folder, adapter) as engine:
        without, cached = asked(engine, request())
        assert (without != adapted, cached) == (True, 0)
        assert asked(engine, with_it) == (adapted, len(LONG) - 1)
    assert len(files(folder)) == 2


def test_a_request_does_not_wait_for_the_disk(
    plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prompt_cache, "QUIET", 0.01)
    write: Callable[..., object] = PromptFolder.write
    began: list[float] = []

    def slow(*arguments: object) -> object:
        began.append(time.monotonic())
        time.sleep(1.0)
        return write(*arguments)

    monkeypatch.setattr(PromptFolder, "write", slow)
    with running(plain, tmp_path) as engine:
        asked(engine, request())
        assert eventually(lambda: bool(began))
        events = list(engine.answer(request("abc", 2)))
        assert time.monotonic() - began[0] < 1.0
        assert isinstance(events[0], PromptRead) or len(events) > 1
    assert len(files(tmp_path)) == 1  # closing has waited for it


def test_nothing_is_kept_unless_somebody_says_so(plain: Path, tmp_path: Path) -> None:
    with running(plain, None) as engine:
        asked(engine, request())
    assert list(tmp_path.iterdir()) == []
