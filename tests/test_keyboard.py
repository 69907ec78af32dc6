from __future__ import annotations

import os
import pty
import signal
import termios
import threading
import time
from collections.abc import Iterator
from typing import TextIO

import pytest

from runtime_stub.chat.keyboard import CONTROL_D, Keyboard, TypedLine, width_of

HANDLED = (signal.SIGTERM, signal.SIGHUP, signal.SIGCONT)


def typed(text: str) -> tuple[TypedLine, str]:
    line = TypedLine()
    return line, "".join(map(line.take, text))


def test_typing_and_erasing() -> None:
    line, shown = typed("abx\x7fc")
    assert line.text == "abc"
    assert shown == "abx\b \bc"
    line, shown = typed("日\b")
    assert (line.text, shown) == ("", "日\b\b  \b\b")
    assert typed("e\u0301\b")[0].text == ""
    assert typed("\b\b")[1] == ""
    assert typed("abc\x15d")[0].text == "d"


def test_ends() -> None:
    assert typed("a\r")[0].done
    assert typed("a\n")[0].done
    assert typed(CONTROL_D)[0].over
    assert not typed(f"a{CONTROL_D}")[0].over
    line, _ = typed("a\\\rb\r")
    assert (line.text, line.done) == ("a\nb", True)
    assert typed("a\x1b\x07b")[0].text == "ab"


@pytest.mark.parametrize(("character", "width"), [("a", 1), ("日", 2), ("\u0301", 0), ("é", 1)])
def test_widths(character: str, width: int) -> None:
    assert width_of(character) == width


@pytest.fixture
def streams() -> Iterator[tuple[int, TextIO, TextIO]]:
    """The keyboard's end of a terminal, and the program's two."""
    leader, follower = pty.openpty()
    with os.fdopen(follower, "r") as stdin, os.fdopen(os.dup(follower), "w") as stdout:
        yield leader, stdin, stdout
    os.close(leader)


def test_lines(streams: tuple[int, TextIO, TextIO]) -> None:
    leader, stdin, stdout = streams
    os.write(leader, "früh\n".encode())  # before we took over
    with Keyboard(stdin, stdout, marks_paste=False, encoding="utf-8") as keyboard:
        assert keyboard.read_line() == "früh"
        os.write(leader, b"one\r\ntwo\nthr")
        assert keyboard.read_line() == "one"
        assert keyboard.read_line() == "two"
        os.write(leader, b"ee\r\x04")
        assert keyboard.read_line() == "three"
        assert keyboard.read_line() is None


def test_ctrl_c_breaks_off_a_line(streams: tuple[int, TextIO, TextIO]) -> None:
    leader, stdin, stdout = streams
    with Keyboard(stdin, stdout, marks_paste=False, encoding="utf-8") as keyboard:
        os.write(leader, b"half\x03whole\r")
        with pytest.raises(KeyboardInterrupt):
            keyboard.read_line()
        assert keyboard.read_line() == "whole"


def test_half_a_line_typed_before(streams: tuple[int, TextIO, TextIO]) -> None:
    leader, stdin, stdout = streams
    os.write(leader, b"ha")
    with Keyboard(stdin, stdout, marks_paste=False, encoding="utf-8") as keyboard:
        os.write(leader, b"lf\r")
        assert keyboard.read_line() == "half"


def test_line_longer_than_the_kernel_takes(streams: tuple[int, TextIO, TextIO]) -> None:
    leader, stdin, stdout = streams
    text = "x" * 50_000

    def drain() -> None:
        with os.fdopen(os.dup(leader), "rb", buffering=0) as stream:
            left = len(text)
            while left > 0:
                left -= len(stream.read(65536) or b"x" * left)

    with Keyboard(stdin, stdout, marks_paste=False, encoding="utf-8") as keyboard:
        thread = threading.Thread(
            target=lambda: (
                [os.write(leader, b"x" * 1000) for _ in range(50)] + [os.write(leader, b"\r")]
            )
        )
        reader = threading.Thread(target=drain, daemon=True)
        reader.start()
        thread.start()
        assert keyboard.read_line() == text
        thread.join()


def test_settings_come_and_go(streams: tuple[int, TextIO, TextIO]) -> None:
    leader, stdin, stdout = streams
    before = termios.tcgetattr(leader)
    handlers = [signal.getsignal(number) for number in HANDLED]
    with Keyboard(stdin, stdout, marks_paste=True, encoding="utf-8") as keyboard:
        assert keyboard.echoes
        during = termios.tcgetattr(leader)
        assert not during[3] & (termios.ICANON | termios.ECHO)
        assert not during[3] & termios.ISIG
        keyboard.signals(True)
        assert termios.tcgetattr(leader)[3] == during[3] | termios.ISIG
        keyboard.signals(False)
        # A shell that takes over meanwhile sets its own; coming back we set ours.
        termios.tcsetattr(leader, termios.TCSANOW, before)
        os.kill(os.getpid(), signal.SIGCONT)
        time.sleep(0.05)
        assert termios.tcgetattr(leader)[3] == during[3]
    assert termios.tcgetattr(leader) == before
    assert [
        signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGHUP, signal.SIGCONT)
    ] == handlers
    stdout.write(".")
    stdout.flush()
    written = b""
    while not written.endswith(b"."):
        written += os.read(leader, 100)
    assert written == b"\x1b[?2004h\x1b[?2004l\x1b[?25h."


def test_lending_the_terminal(streams: tuple[int, TextIO, TextIO]) -> None:
    """Another program finds it as it was, also after a pause; then we have it back."""
    leader, stdin, stdout = streams
    before = termios.tcgetattr(leader)
    with Keyboard(stdin, stdout, marks_paste=True, encoding="utf-8") as keyboard:
        during = termios.tcgetattr(leader)
        with keyboard.lent():
            assert termios.tcgetattr(leader) == before
            os.kill(os.getpid(), signal.SIGCONT)
            time.sleep(0.05)
            assert termios.tcgetattr(leader) == before
            stdout.write("lent")
            stdout.flush()
        assert termios.tcgetattr(leader) == during
        stdout.write(".")
        stdout.flush()
        written = b""
        while not written.endswith(b"."):
            written += os.read(leader, 100)
        assert written == b"\x1b[?2004h\x1b[?2004l\x1b[?25hlent\x1b[?2004h."


def test_whoever_runs_us_echoes(streams: tuple[int, TextIO, TextIO]) -> None:
    leader, stdin, stdout = streams
    mode = termios.tcgetattr(leader)
    mode[3] &= ~termios.ECHO
    termios.tcsetattr(leader, termios.TCSANOW, mode)
    with Keyboard(stdin, stdout, marks_paste=False, encoding="utf-8") as keyboard:
        os.write(leader, b"x\r")
        assert keyboard.read_line() == "x"
    stdout.write("end")
    stdout.flush()
    assert os.read(leader, 100) == b"end"
