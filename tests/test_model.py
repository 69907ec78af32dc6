from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from engine_fixtures import GREEDY, ask, sample_model, sample_source, text_of

from runtime_stub.engine.engine import Engine
from runtime_stub.engine.errors import TooLongError
from runtime_stub.engine.library import native
from runtime_stub.engine.messages import EngineSettings, ModelSource, Sources
from runtime_stub.engine.model import Model, load_model
from runtime_stub.errors import EngineError

__all__ = ["sample_model", "sample_source"]

GRAIN = 64 << 10


@pytest.fixture(scope="module")
def model(sample_source: ModelSource) -> Iterator[Model]:
    loaded = load_model(sample_source, lambda _: True)
    yield loaded
    loaded.free()


@pytest.fixture(scope="module")
def inside(sample_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The model in the middle of a larger file, aligned, with as much again after it."""
    path = tmp_path_factory.mktemp("inside") / "file"
    data = sample_model.read_bytes()
    with path.open("wb") as stream:
        stream.write(os.urandom(GRAIN) * 3)
        stream.write(data)
        stream.write(bytes(-stream.tell() % GRAIN))
        stream.write(data)
        os.fsync(stream.fileno())
    yield path
    path.unlink()


def test_facts(model: Model) -> None:
    assert model.parameters == 134_515_008
    assert model.trained_context == 8192
    assert model.vocabulary_size == 49_152
    assert "llama" in model.description()
    assert model.metadata("general.architecture") == "llama"
    assert model.metadata("no.such.key") == ""
    template = model.template()
    assert template is not None
    assert model.metadata("tokenizer.chat_template") == template
    # 30 layers, 3 heads of 64 for keys and values, two bytes each.
    assert model.state_bytes_per_token() == 30 * 3 * 128 * 2
    assert model.state_bytes_per_token("q8_0") == 30 * 3 * 128 * 34 // 32
    assert model.head_lengths() == (64, 64)


def test_tokens_and_back(model: Model) -> None:
    text = "Grüße, 世界! 😀\n\t  end" * 20
    tokens = model.tokenize(text, special=False, add_bos=False)
    assert b"".join(map(model.piece, tokens)).decode() == text


def test_control_tokens(model: Model) -> None:
    as_token = model.tokenize("<|im_end|>", special=True, add_bos=False)
    as_text = model.tokenize("<|im_end|>", special=False, add_bos=False)
    assert len(as_token) == 1 < len(as_text)
    assert model.ends_generation(as_token[0])
    assert model.piece(as_token[0]) == b""
    assert not model.ends_generation(as_text[0])


def test_what_can_not_fit_is_not_tokenised(model: Model) -> None:
    """Of the same text as many tokens as can be, and one byte more."""
    longest = model.longest_piece
    assert 16 < longest < 1024
    piece = next(p for p in map(model.piece, range(model.vocabulary_size)) if len(p) == longest)
    text = piece.decode() * 100
    assert len(model.tokenize(text, special=False, add_bos=False, most=100)) >= 100
    with pytest.raises(TooLongError, match="more than 100 tokens can stand for"):
        model.tokenize(f"{text}.", special=False, add_bos=False, most=100)


@pytest.mark.parametrize("text", ["", "\x00", "a\x00b", "\ud800", "x" * 100_000])
def test_odd_text(model: Model, text: str) -> None:
    model.tokenize(text, special=True, add_bos=False)


def answer(path: Path, offset: int, length: int) -> str:
    with path.open("rb") as stream:
        engine = Engine(
            Sources(ModelSource(stream.fileno(), offset, length)),
            EngineSettings(context=256, threads=1),
        )
        events = list(
            engine.answer(ask("What is the name of the capital of France?", sampling=GREEDY))
        )
        assert stream.tell() == 0, "the position belongs to the caller"
        engine.close()
        return text_of(events)


def test_inside_a_larger_file(sample_model: Path, inside: Path) -> None:
    length = sample_model.stat().st_size
    assert answer(inside, 3 * GRAIN, length) == answer(sample_model, 0, length)


RESIDENT = """
import ctypes, os, sys
from runtime_stub.engine.messages import ModelSource
from runtime_stub.engine.model import load_model

def resident(descriptor, offset, length):
    libc = ctypes.CDLL(None)
    libc.mmap.restype = ctypes.c_void_p
    size, number = ctypes.c_size_t, ctypes.c_int
    libc.mmap.argtypes = [ctypes.c_void_p, size, number, number, number, size]
    libc.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p]
    place = libc.mmap(None, length, 1, 1, descriptor, offset)
    pages = ctypes.create_string_buffer(length // 4096)
    assert libc.mincore(place, length, pages) == 0
    return sum(page & 1 for page in pages.raw[:-1])

offset, length = int(sys.argv[2]), int(sys.argv[3])
descriptor = os.open(sys.argv[1], os.O_RDONLY)
os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
rest = (offset + length + 65535) // 65536 * 65536
size = os.fstat(descriptor).st_size // 4096 * 4096 - rest
before = resident(descriptor, rest, size)
model = load_model(ModelSource(descriptor, offset, length), lambda _: True)
print(before, resident(descriptor, rest, size), size // 4096)
"""


def test_only_its_own_bytes_are_read(sample_model: Path, inside: Path) -> None:
    """Of two models in a file, the other one stays on the disk."""
    if native("satchel_map_window") is None:
        pytest.skip("this llama.cpp was built without the window")
    length = sample_model.stat().st_size
    done = subprocess.run(
        [sys.executable, "-c", RESIDENT, inside, str(3 * GRAIN), str(length)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    before, after, pages = map(int, done.stdout.split())
    if before > pages // 10:
        pytest.skip("this file system does not give up its cache")
    # The system reads ahead past the end, some 10 MB; without the window it is everything.
    assert after - before < pages // 2


@pytest.mark.parametrize("kept", [0, 3, 24, 10_000, 2_000_000, 60_000_000])
def test_cut_short(sample_model: Path, tmp_path: Path, kept: int) -> None:
    path = tmp_path / "short"
    with sample_model.open("rb") as stream:
        path.write_bytes(stream.read(kept))
    check_fails(path)


@pytest.mark.parametrize("data", [b"GGUF", b"\xff" * 100_000, b"GGUF" + b"\xff" * 100_000])
def test_garbage(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "garbage"
    path.write_bytes(data)
    check_fails(path)


def check_fails(path: Path) -> None:
    with path.open("rb") as stream:
        source = ModelSource(stream.fileno(), 0, path.stat().st_size)
        with pytest.raises(EngineError, match="the model can't be loaded: ") as caught:
            load_model(source, lambda _: True)
    assert "no reason" not in caught.value.message


def test_misaligned(sample_model: Path, tmp_path: Path) -> None:
    path = tmp_path / "misaligned"
    path.write_bytes(b"x" * 7 + sample_model.read_bytes()[:1_000_000])
    with path.open("rb") as stream, pytest.raises(EngineError):
        load_model(ModelSource(stream.fileno(), 7, 1_000_000), lambda _: True)


@pytest.fixture
def _tells(monkeypatch: pytest.MonkeyPatch) -> None:
    """Progress is told of small models, too."""
    monkeypatch.setattr("runtime_stub.engine.model._SOON", 0)


@pytest.mark.usefixtures("_tells")
def test_loading_broken_off(sample_source: ModelSource) -> None:
    with pytest.raises(EngineError):
        load_model(sample_source, lambda _: False)


def test_nobody_asks_how_far_a_small_model_is(sample_source: ModelSource) -> None:
    load_model(sample_source, lambda _: False).free()


@pytest.mark.usefixtures("_tells")
def test_progress(sample_source: ModelSource) -> None:
    seen: list[float] = []

    def on_progress(fraction: float) -> bool:
        seen.append(fraction)
        return True

    model = load_model(sample_source, on_progress)
    model.free()
    model.free()
    assert seen == sorted(seen)
    assert seen[-1] == 1.0


def test_closed_descriptor() -> None:
    descriptor = os.open(os.devnull, os.O_RDONLY)
    os.close(descriptor)
    with pytest.raises((EngineError, OSError)):
        load_model(ModelSource(descriptor, 0, 100), lambda _: True)
