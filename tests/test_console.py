from __future__ import annotations

import io
import json
import subprocess
import sys
import time
from collections.abc import Callable

import click
import pytest

from runtime_stub import console
from runtime_stub.console import INTERRUPTED, bytes_text, echo_json, printable, run, show_regions
from runtime_stub.errors import CacheError, DamagedError, InputError
from runtime_stub.verify import Region


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SATCHEL_VERBOSE", raising=False)


def command(action: Callable[[], object]) -> click.Command:
    @click.command()
    @click.option("--verbose", is_flag=True)
    @click.option("--count", type=int)
    def act(verbose: bool, count: int | None) -> object:
        return action()

    return act


def raising(error: BaseException) -> click.Command:
    def action() -> None:
        raise error

    return command(action)


class TestRun:
    @pytest.mark.parametrize(("result", "code"), [(None, 0), (0, 0), (7, 7), ("text", 0)])
    def test_result(self, result: object, code: int) -> None:
        assert run(command(lambda: result), "satchel", []) == code

    def test_expected_error(self, capsys: pytest.CaptureFixture[str]) -> None:
        error = InputError("m.gguf does not exist", "Check the name")
        assert run(raising(error), "satchel", []) == 3
        found = capsys.readouterr()
        assert found.err == "satchel: m.gguf does not exist. Check the name\n"
        assert found.out == ""

    @pytest.mark.parametrize("way", ["option", "variable"])
    def test_verbose(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, way: str
    ) -> None:
        if way == "variable":
            monkeypatch.setenv("SATCHEL_VERBOSE", "1")
        arguments = ["--verbose"] if way == "option" else []
        assert run(raising(CacheError("no folder")), "satchel", arguments) == 13
        shown = capsys.readouterr().err
        assert "satchel: no folder\n" in shown
        assert "Traceback" in shown

    def test_bug(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert run(raising(ZeroDivisionError("oh\nno")), "satchel", []) == 1
        shown = capsys.readouterr().err
        assert "satchel: unexpected failure: ZeroDivisionError('oh\\nno')" in shown
        assert "SATCHEL_VERBOSE=1" in shown
        assert "Traceback" not in shown

    def test_verbose_bug(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert run(raising(ZeroDivisionError()), "satchel", ["--verbose"]) == 1
        assert "Traceback" in capsys.readouterr().err

    @pytest.mark.parametrize("error", [KeyboardInterrupt(), click.exceptions.Abort()])
    def test_interrupted(self, capsys: pytest.CaptureFixture[str], error: BaseException) -> None:
        assert run(raising(error), "satchel", []) == INTERRUPTED == 130
        assert "Traceback" not in capsys.readouterr().err

    @pytest.mark.parametrize("arguments", [["--nonsense"], ["word"], ["--count", "many"]])
    def test_command_line(self, capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
        assert run(command(lambda: None), "satchel", arguments) == 2
        assert "Usage: satchel" in capsys.readouterr().err

    @pytest.mark.parametrize(("error", "code"), [(SystemExit(5), 5), (SystemExit("x"), 1)])
    def test_exit(self, error: BaseException, code: int) -> None:
        assert run(raising(error), "satchel", []) == code

    def test_help(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert run(command(lambda: None), "satchel", ["--help"]) == 0
        assert "--count" in capsys.readouterr().out

    def test_object(self) -> None:
        seen: list[object] = []

        @click.command()
        @click.pass_obj
        def look(given: object) -> None:
            seen.append(given)

        assert run(look, "satchel", [], obj="session") == 0
        assert seen == ["session"]

    def test_error_with_control_characters(self, capsys: pytest.CaptureFixture[str]) -> None:
        run(raising(InputError("\x1b[31mred.gguf\n is missing")), "satchel", [])
        assert capsys.readouterr().err == "satchel: ?[31mred.gguf? is missing\n"


def test_reader_that_has_seen_enough() -> None:
    """Like `satchel inspect pack | head -1`: no error, and nothing about it from Python."""
    code = (
        "import sys, click; from runtime_stub.console import run\n"
        "@click.command()\n"
        "def much():\n"
        "    for _ in range(100_000): click.echo('line')\n"
        "sys.exit(run(much, 'much', []))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline().strip() == b"line"
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 0


@pytest.mark.parametrize(
    ("text", "shown"),
    [("plain é 漢", "plain é 漢"), ("\x1b[2J\r\n\t", "?[2J???"), ("\x9b1m\ud800", "?1m?")],
)
def test_printable(text: str, shown: str) -> None:
    assert printable(text) == shown


@pytest.mark.parametrize(
    ("count", "text"),
    [
        *((0, "0 bytes"), (999, "999 bytes"), (1000, "1.0 kB"), (98_765_432, "98.8 MB")),
        *((2.5e9, "2.5 GB"), (1.5e13, "15,000.0 GB")),
    ],
)
def test_bytes_text(count: float, text: str) -> None:
    assert bytes_text(count) == text


def test_echo_json(capsys: pytest.CaptureFixture[str]) -> None:
    document = {"name": "Zoë", "path": "caf\udce9", "list": [1, None]}
    echo_json(document)
    assert json.loads(capsys.readouterr().out) == document
    echo_json({"name": "Zoë"})
    assert "Zoë" in capsys.readouterr().out


class TestShowRegions:
    GOOD = Region("model", 0, 5000)
    BAD = Region("\x1b[31mruntime", 5000, 10, "its bytes were changed")

    def test_intact(self, capsys: pytest.CaptureFixture[str]) -> None:
        show_regions([self.GOOD], as_json=False, name="pack")
        shown = capsys.readouterr().out
        assert "5.0 kB  ok" in shown
        assert shown.endswith("pack is intact.\n")

    def test_damaged(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(DamagedError, match=r"pack is damaged: .*runtime"):
            show_regions([self.GOOD, self.BAD], as_json=False, name="pack")
        shown = capsys.readouterr().out
        assert "its bytes were changed" in shown
        assert "\x1b" not in shown
        assert "intact" not in shown

    def test_json(self, capsys: pytest.CaptureFixture[str]) -> None:
        show_regions([self.GOOD], as_json=True, name="pack")
        document = json.loads(capsys.readouterr().out)
        region = {"name": "model", "offset": 0, "length": 5000, "problem": ""}
        assert document == {"intact": True, "regions": [region]}
        with pytest.raises(DamagedError):
            show_regions([self.BAD], as_json=True, name="pack")
        assert json.loads(capsys.readouterr().out)["intact"] is False


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class TestProgress:
    @pytest.fixture
    def clock(self, monkeypatch: pytest.MonkeyPatch) -> list[float]:
        now = [100.0]
        monkeypatch.setattr(time, "monotonic", lambda: now[0])
        return now

    def show(self, monkeypatch: pytest.MonkeyPatch, stream: io.StringIO) -> io.StringIO:
        monkeypatch.setattr(sys, "stderr", stream)
        return stream

    def test_bar(self, clock: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
        stream = self.show(monkeypatch, Terminal())
        with console.progress("Packing", 1000) as meter:
            meter(100)
            assert stream.getvalue() == ""  # quick steps show nothing
            clock[0] += 2
            meter(400)
            assert "Packing [############............]  50%  2 s left" in stream.getvalue()
            shown = stream.getvalue()
            clock[0] += 0.05
            meter(1)
            assert stream.getvalue() == shown  # not too often
            clock[0] += 1
            meter(9999)
            assert "100%" in stream.getvalue()
        assert stream.getvalue().endswith("\r\033[K")

    def test_no_terminal(self, clock: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
        stream = self.show(monkeypatch, io.StringIO())
        with console.progress("Packing", 0) as meter:
            clock[0] += 5
            meter(100)
        assert stream.getvalue() == ""

    def test_no_stream(self, clock: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "stderr", None)
        with console.progress("Packing", 10) as meter:
            clock[0] += 5
            meter(10)
