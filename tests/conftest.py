"""Fixtures that several test files share."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import small_packs

from packer.stub import Stub, read_stub, stub_name, this_platform
from runtime_stub import __version__


def pytest_configure() -> None:
    """A shell has what it starts in the background ignore Ctrl-C, and so would all packs that are
    started from there: tests that press it would fail."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home folder: nothing of the user's is read, and nothing is written there."""
    folder = tmp_path / "home"
    folder.mkdir(mode=0o700)
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    monkeypatch.setenv("XDG_DATA_HOME", str(folder / "data"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder / "config"))
    monkeypatch.delenv("SATCHEL_CACHE", raising=False)
    monkeypatch.delenv("SATCHEL_VERBOSE", raising=False)
    return folder


@pytest.fixture(scope="session")
def stub_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small stub for this platform. Not to be changed: copy it first."""
    name = stub_name(this_platform(), __version__)
    return small_packs.write_stub(tmp_path_factory.mktemp("stub") / name)


@pytest.fixture
def small_stub(stub_file: Path) -> Stub:
    """What that stub says of itself."""
    return read_stub(stub_file)


@pytest.fixture
def stubs(home: Path, stub_file: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder where stubs are looked for, with the small one in it."""
    folder = home / "stubs"
    folder.mkdir()
    (folder / stub_file.name).write_bytes(stub_file.read_bytes())
    monkeypatch.setattr("packer.stub.stub_folders", lambda: [folder])
    return folder


@pytest.fixture
def small_model(tmp_path: Path) -> Path:
    """A quantized model of a few kilobytes, without a chat template."""
    return small_packs.model(tmp_path / "tiny.gguf")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """An empty folder to write to."""
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--fuzz-seconds",
        type=float,
        default=6,
        help="how long each fuzzer of tests/test_fuzz.py runs",
    )


@pytest.fixture(scope="session")
def fuzz_seconds(pytestconfig: pytest.Config) -> float:
    """How long to run each fuzzer."""
    return float(pytestconfig.getoption("--fuzz-seconds"))
