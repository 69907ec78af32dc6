"""Runs the commands of `satchel` in the tests' own process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from packer.cli import satchel
from runtime_stub.console import run


class Said:
    """What a command printed."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code = code
        self.out = out
        self.err = err


Cli = Callable[..., Said]


@pytest.fixture
def cli(stubs: Path, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Run `satchel` in this process. No error may ever show a traceback by itself."""

    def start(*arguments: str | Path) -> Said:
        capsys.readouterr()
        code = run(satchel, "satchel", [str(argument) for argument in arguments])
        found = capsys.readouterr()
        if "--verbose" not in arguments:
            assert "Traceback" not in found.err
            assert "unexpected failure" not in found.err
        return Said(code, found.out, found.err)

    return start


@pytest.fixture
def pack(cli: Cli, small_model: Path, out: Path) -> Path:
    assert cli("pack", small_model, "-o", out / "tiny").code == 0
    return out / "tiny"
