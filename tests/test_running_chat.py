"""The terminal chat of a real pack, in a real pseudo-terminal."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import stat
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from running_pack import QUESTION, Place, place, wait_for
from windows import CONTROL_C, CONTROL_D, ENTER, ESCAPE, Window, window

pytestmark = [pytest.mark.pack, pytest.mark.slow]

COLOUR = re.compile(rb"\x1b\[[0-9;]*m")
LONG = "Tell me a long story about a dragon."


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A pack whose runtime is extracted."""
    pack = place(tmp_path_factory.mktemp("chat"))
    pack.run("--version")
    return pack


@contextmanager
def chatting(
    pack: Place,
    *arguments: str,
    columns: int = 80,
    rows: int = 24,
    encoding: str = "utf-8",
    **environment: str,
) -> Iterator[Window]:
    with window(
        [pack.pack, "chat", "--temperature", "0", *arguments],
        pack.environment(**environment),
        columns=columns,
        rows=rows,
        encoding=encoding,
        folder=pack.home,
    ) as opened:
        yield opened


def ask(opened: Window, text: str, answer: str) -> None:
    """Ask, and wait until the answer is over."""
    opened.wait(lambda: at_prompt(opened), "prompt")
    opened.type(text + ENTER)
    opened.wait_for(answer)
    opened.wait(lambda: at_prompt(opened), "prompt after the answer")


def at_prompt(opened: Window) -> bool:
    """Whether the last line waits for a question, in the editor."""
    return opened.text.rpartition("\n")[2].startswith(("> Ask anything", "> Ctrl-D"))


def begin_long_answer(opened: Window, characters: int = 100) -> None:
    """Ask for a story, and wait until some of it is there."""
    opened.wait(lambda: opened.text.rpartition("\n")[2].startswith(">"), "prompt")
    opened.type(LONG + ENTER)
    opened.wait(
        lambda: len(opened.everything.partition(f"> {LONG}")[2].strip()) > characters,
        "some of the answer",
    )


def leave(opened: Window) -> None:
    opened.wait(lambda: at_prompt(opened), "prompt")
    opened.type(CONTROL_D)
    assert opened.end() == 0


def test_question_and_answer(ready: Place) -> None:
    with chatting(ready) as opened:
        ask(opened, QUESTION, "The capital of France is Paris.")
        ask(opened, "/stats", "tokens/s")
        assert "first token" in opened.text
        assert re.search(r"context +\d+ of 8,192 tokens", opened.text)
        leave(opened)
        assert "Traceback" not in opened.everything


def test_typing_before_the_model_is_loaded(ready: Place) -> None:
    """Everything at once, at the very start: it is shown, kept, asked and answered."""
    with chatting(ready, "--context", "8192") as opened:
        opened.wait(lambda: b"> " in opened.raw, "prompt", 20)
        for character in QUESTION:
            opened.type(character)
            opened.pump(0.002)
        opened.wait_for(f"> {QUESTION}")
        opened.type(ENTER)
        opened.wait_for("The capital of France is Paris.")
        assert opened.everything.count(f"> {QUESTION}") == 1
        leave(opened)


def test_typing_before_the_program_has_started(ready: Place) -> None:
    """In the terminal's own hands: it has the kernel's line ends."""
    with chatting(ready) as opened:
        opened.process.send(f"{QUESTION}\n")
        opened.wait_for("The capital of France is Paris.")
        leave(opened)


def test_ctrl_c_stops_the_answer_and_not_the_program(ready: Place) -> None:
    with chatting(ready) as opened:
        begin_long_answer(opened)
        opened.type(CONTROL_C)
        opened.wait_for("[stopped]", 10)
        ask(opened, "/save stopped.json", "Saved 1 question")
        leave(opened)
    saved = json.loads((ready.home / "stopped.json").read_text())
    assert len(saved["messages"][2]["content"]) > 90


def test_what_is_typed_during_an_answer_comes_next(ready: Place) -> None:
    with chatting(ready) as opened:
        begin_long_answer(opened)
        opened.type("/system")
        opened.pump(0.2)
        assert "/system" not in opened.text
        opened.type(CONTROL_C)
        opened.wait_for("> /system", 10)
        opened.type(ENTER)
        opened.wait_for("You are a helpful assistant.")
        opened.type(CONTROL_D)
        assert opened.end() == 0


def test_ctrl_c_empties_the_line_and_says_how_to_leave(ready: Place) -> None:
    with chatting(ready) as opened:
        opened.wait(lambda: at_prompt(opened), "prompt")
        opened.type("half a que")
        opened.wait_for("> half a que")
        opened.type(CONTROL_C)
        opened.wait(lambda: "half" not in opened.text, "empty line")
        opened.type(CONTROL_C)
        opened.wait_for("Ctrl-D, or /quit, leaves")
        opened.type("/quit" + ENTER)
        assert opened.end() == 0


def test_window_that_changes_its_size(ready: Place) -> None:
    with chatting(ready, columns=100, rows=30) as opened:
        begin_long_answer(opened, 200)
        opened.resize(44, 20)
        opened.pump(1.0)
        opened.resize(90, 25)
        opened.pump(1.0)
        opened.type(CONTROL_C)
        opened.wait_for("[stopped]")
        ask(opened, QUESTION, "Paris")
        leave(opened)


def test_pasted_text_is_one_question(ready: Place) -> None:
    """Several lines, among them one that is longer than the kernel's editing allows."""
    story = "\n".join(["Repeat the last word:", "x" * 6000, "  indented", "banana"])
    with chatting(ready) as opened:
        opened.wait(lambda: at_prompt(opened), "prompt")
        assert b"\x1b[?2004h" in opened.raw
        opened.type(f"{ESCAPE}[200~{story}{ESCAPE}[201~")
        opened.wait_for("banana")
        opened.type(ENTER)
        opened.wait(lambda: at_prompt(opened), "prompt")
        opened.type("/save pasted.json" + ENTER)
        opened.wait_for("Saved 1 question")
        leave(opened)
    saved = json.loads((ready.home / "pasted.json").read_text())
    assert saved["messages"][1]["content"] == story


def test_paste_that_begins_before_the_editor_is_there(ready: Place) -> None:
    with chatting(ready, "--max-tokens", "5") as opened:
        opened.wait(lambda: b"> " in opened.raw, "prompt", 20)
        opened.type(f"{ESCAPE}[200~one\ntwo")
        opened.wait(lambda: b"Tab shows" in opened.raw or "two" in opened.text, "editor")
        opened.type(f"\nthree{ESCAPE}[201~")
        opened.wait_for("  three")
        opened.type(ENTER)
        opened.wait(lambda: at_prompt(opened), "prompt")
        opened.type("/save early.json" + ENTER)
        opened.wait_for("Saved 1 question")
        leave(opened)
    saved = json.loads((ready.home / "early.json").read_text())
    assert saved["messages"][1]["content"] == "one\ntwo\nthree"


def test_starter_questions(ready: Place) -> None:
    """They come from the sample pack's recipe."""
    with chatting(ready) as opened:
        opened.wait(lambda: at_prompt(opened), "prompt")
        assert "Nothing you write leaves this" in opened.text
        opened.type("\t")
        opened.wait(lambda: opened.text.count(QUESTION) == 2, "list")
        opened.type("\t")
        opened.wait_for(f"> {QUESTION}")
        opened.type(ENTER)  # chooses it
        opened.type(ENTER)
        opened.wait_for("Paris")
        leave(opened)


def test_without_the_sandbox(ready: Place) -> None:
    with chatting(ready, "--no-sandbox") as opened:
        ask(opened, QUESTION, "Paris")
        opened.type("/load ta\t")
        opened.wait_for("/load ta")
        opened.type(CONTROL_C)
        ask(opened, "/save free.json", "Saved 1 question")
        leave(opened)


def test_double_click(ready: Place, tmp_path: Path) -> None:
    """No terminal, but a desktop: the page is served and opened, and the second time opened."""
    browser = tmp_path / "bin" / "xdg-open"
    browser.parent.mkdir()
    browser.write_text(f'#!/bin/sh\necho "$1" >> {tmp_path}/opened\n')
    browser.chmod(0o755)
    environment = ready.environment(DISPLAY=":0", PATH=f"{browser.parent}:{os.environ['PATH']}")
    seen = tmp_path / "opened"

    def click() -> subprocess.Popen[bytes]:
        nothing = subprocess.DEVNULL
        return subprocess.Popen(
            [ready.pack], stdin=nothing, stdout=nothing, stderr=nothing, env=environment
        )

    with click() as first:
        try:
            wait_for(lambda: seen.exists() and seen.read_text().endswith("\n"), "a page", 60)
            address = seen.read_text().strip()
            with urllib.request.urlopen(f"{address}/web/face.json", timeout=30) as reply:
                assert json.load(reply)["name"] == "SmolLM2"
            if address.endswith(":8080"):
                with click() as second:
                    assert second.wait(60) == 0
                wait_for(lambda: seen.read_text().splitlines() == [address] * 2, "it again")
        finally:
            first.terminate()


def test_nothing_to_read_and_nobody_there(ready: Place) -> None:
    result = ready.run(check=False)
    assert result.returncode == 3
    assert "nobody to talk to" in result.stderr


def test_window_stays_for_an_error(ready: Place, tmp_path: Path) -> None:
    """One that would close with the program, as after a double click."""
    broken = tmp_path / "broken"
    with ready.pack.open("rb") as stream:
        broken.write_bytes(stream.read(1 << 20))
    broken.chmod(0o755)
    with window([broken], ready.environment(DISPLAY=":0")) as opened:
        opened.wait_for("Press Enter to close this window")
        assert opened.process.isalive()
        opened.type("\n")
        assert opened.end() == 71
    with window([broken], ready.environment()) as opened:
        assert opened.end() == 71
    with window([ready.pack, "--nonsense"], ready.environment(DISPLAY=":0")) as opened:
        assert opened.end() == 2  # with arguments: somebody typed that


def test_several_lines(ready: Place) -> None:
    with chatting(ready, "--max-tokens", "5") as opened:
        opened.wait(lambda: at_prompt(opened), "prompt")
        opened.type("one\\" + ENTER)
        opened.wait_for("> one")
        opened.type(f"two{ESCAPE}{ENTER}three")
        opened.wait_for("  three")
        opened.type(ENTER)
        opened.wait(lambda: at_prompt(opened), "prompt")
        opened.type("/save lines.json" + ENTER)
        opened.wait_for("Saved 1 question")
        leave(opened)
    saved = json.loads((ready.home / "lines.json").read_text())
    assert saved["messages"][1]["content"] == "one\ntwo\nthree"


def test_undo_edit_save_and_load(ready: Place) -> None:
    with chatting(ready, "--max-tokens", "20") as opened:
        ask(opened, QUESTION, "Paris")
        ask(opened, "And of Italy?", "Rome")
        ask(opened, "/save talk.json", "Saved 2 questions")
        ask(opened, "/save talk.json", "Saved 2 questions")
        ask(opened, "/undo", "Taken back: And of Italy?")
        opened.type("/edit" + ENTER)
        opened.wait(lambda: opened.text.endswith(f"> {QUESTION}"), "the question to edit")
        opened.type("\b" * len("France?") + "Spain?" + ENTER)
        opened.wait_for("> What is the name of the capital of Spain?")
        ask(opened, "/export talk.md", "Exported 1 question")
        ask(opened, "/load talk.json", "Loaded 2 questions")
        ask(opened, "/clear", "A new conversation")
        ask(opened, "/undo", "Back to a conversation of 2")
        leave(opened)
    saved = json.loads((ready.home / "talk.json").read_text())
    assert [message["role"] for message in saved["messages"]] == [
        "system",
        *["user", "assistant"] * 2,
    ]
    exported = (ready.home / "talk.md").read_text()
    assert "What is the name of the capital of Spain?" in exported
    assert "France?" not in exported
    with chatting(ready) as opened:
        ask(opened, "/save talk.json", "exists already")
        ask(opened, "/load nothing.json", "can't be read")
        ask(opened, "/load talk.md", "is no JSON")
        ask(opened, "/set temperature 99", "must be from 0 to 10")
        ask(opened, "/set temperature 0.2", "temperature is 0.2 now")
        leave(opened)
    assert json.loads((ready.home / "talk.json").read_text()) == saved


@pytest.mark.skipif(shutil.which("ed") is None, reason="ed is not installed")
def test_edit_in_ed(ready: Place) -> None:
    """A line editor has the terminal, outside of the sandbox, and the chat has it again."""
    with chatting(ready, "--max-tokens", "20", EDITOR="ed") as opened:
        ask(opened, QUESTION, "Paris")
        opened.type("/edit" + ENTER)
        opened.wait_for(f"\n{len(QUESTION) + 1}")  # what ed says it has read
        opened.type("s/France/Italy/p" + ENTER)
        opened.wait_for("\nWhat is the name of the capital of Italy?")
        opened.type(CONTROL_C)  # is the editor's
        opened.wait(lambda: opened.text.endswith("\n?"), "what ed says to that")
        opened.type("w" + ENTER + "q" + ENTER)
        opened.wait_for("> What is the name of the capital of Italy?")
        opened.wait_for("Rome")
        ask(opened, "/export italy.md", "Exported 1 question")
        leave(opened)
    assert "France" not in (ready.home / "italy.md").read_text()
    assert list((ready.home / "tmp").iterdir()) == []


def test_edit_with_a_script(ready: Place, tmp_path: Path) -> None:
    """VISUAL comes first; it is not confined, and the chat that asked for it is."""
    editor = tmp_path / "my editor"
    editor.write_text(
        "#!/bin/sh\n"
        f"grep Seccomp: /proc/self/status > {tmp_path}/own\n"
        f"grep Seccomp: /proc/$(cat {tmp_path}/chat)/status > {tmp_path}/other\n"
        f"cat /etc/passwd > {tmp_path}/outside\n"
        "printf 'Say the word\nbanana.\n' > \"$1\"\n"
    )
    editor.chmod(0o755)
    with chatting(ready, "--max-tokens", "20", VISUAL=f"'{editor}'", EDITOR="false") as opened:
        (tmp_path / "chat").write_text(str(opened.process.pid))
        ask(opened, QUESTION, "Paris")
        opened.type("/edit" + ENTER)
        opened.wait_for("> banana.")
        opened.wait(lambda: at_prompt(opened), "prompt")
        ask(opened, "/edit", "The question is as it was")
        ask(opened, "/save edited.json", "Saved 1 question")
        leave(opened)
    saved = json.loads((ready.home / "edited.json").read_text())
    assert saved["messages"][1]["content"] == "Say the word\nbanana."
    assert (tmp_path / "outside").read_bytes() == Path("/etc/passwd").read_bytes()
    assert (tmp_path / "own").read_text().split()[1] == "0"
    assert (tmp_path / "other").read_text().split()[1] == "2"


def test_edit_when_the_editor_is_missing(ready: Place) -> None:
    with chatting(ready, "--max-tokens", "20", EDITOR="nowhere-to-be-found") as opened:
        ask(opened, QUESTION, "Paris")
        ask(opened, "/edit", "there is no program 'nowhere-to-be-found'")
        leave(opened)


def test_completion(ready: Place) -> None:
    with chatting(ready) as opened:
        opened.wait(lambda: at_prompt(opened), "prompt")
        opened.type("/exp")
        opened.wait_for("write the conversation as Markdown")
        opened.type("\t")
        opened.wait_for("> /export")
        opened.type(CONTROL_C)
        opened.wait(lambda: at_prompt(opened), "empty line")
        opened.type("/set temp")
        opened.wait_for("0 always takes the most likely token")
        opened.type("\t")
        opened.wait_for("> /set temperature")
        opened.type(CONTROL_C)
        leave(opened)


def test_history_is_kept_for_the_next_chat(ready: Place, tmp_path: Path) -> None:
    data = str(tmp_path / "data")
    with chatting(ready, "--max-tokens", "3", XDG_DATA_HOME=data) as opened:
        ask(opened, "first thing", "first thing")
        leave(opened)
    (file,) = (tmp_path / "data").rglob("*.jsonl")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert file.read_text() == '"first thing"\n'
    with chatting(ready, "--max-tokens", "3", XDG_DATA_HOME=data) as opened:
        opened.wait(lambda: at_prompt(opened), "prompt")
        opened.type(f"{ESCAPE}[A")
        opened.wait_for("> first thing")
        opened.type(CONTROL_C)
        leave(opened)
    with chatting(ready, "--no-history", "--max-tokens", "3", XDG_DATA_HOME=data) as opened:
        ask(opened, "second thing", "second thing")
        opened.type(f"{ESCAPE}[A{ESCAPE}[A")
        opened.wait(lambda: opened.text.endswith("> second thing"), "only what was typed here")
        opened.type(CONTROL_C)
        leave(opened)
    assert file.read_text() == '"first thing"\n'


def test_history_that_can_not_be_kept_is_said(ready: Place, tmp_path: Path) -> None:
    (tmp_path / "data").write_text("in the way")
    with chatting(ready, "--max-tokens", "3", XDG_DATA_HOME=str(tmp_path / "data")) as opened:
        ask(opened, "a thing", "what you type is not kept")
        leave(opened)


def test_dumb_terminal(ready: Place) -> None:
    with chatting(ready, TERM="dumb") as opened:
        opened.wait_for("/help lists commands")
        opened.type("What is the name of the capital of Spain?" + "\x7f" * 6 + "France?" + ENTER)
        opened.wait_for("The capital of France is Paris.")
        opened.type("/help" + ENTER)
        opened.wait_for("/export FILE.md")
        opened.type(CONTROL_C)
        opened.wait_for("Ctrl-D, or /quit, leaves")
        opened.type(CONTROL_D)
        assert opened.end() == 0
        assert ESCAPE.encode() not in opened.raw


def test_dumb_terminal_takes_long_lines(ready: Place) -> None:
    """The kernel's own editing would cut them after 4,095 bytes."""
    line = "x" * 9000
    with chatting(ready, "--max-tokens", "3", TERM="dumb") as opened:
        opened.wait(lambda: opened.text.endswith("\n>"), "prompt")
        for start in range(0, len(line), 1000):
            opened.type(line[start : start + 1000])
            opened.pump(0.05)
        opened.type(ENTER)
        opened.wait(lambda: opened.text.endswith("\n>") and "limit of 3" in opened.text, "answer")
        opened.type("/save long.json" + ENTER)
        opened.wait_for("Saved 1 question")
        opened.type(CONTROL_D)
        assert opened.end() == 0
    saved = json.loads((ready.home / "long.json").read_text())
    assert saved["messages"][1]["content"] == line


def test_ctrl_c_on_a_dumb_terminal(ready: Place) -> None:
    with chatting(ready, TERM="dumb") as opened:
        begin_long_answer(opened)
        opened.type(CONTROL_C)
        opened.wait_for("[stopped]", 10)
        opened.type("/quit" + ENTER)
        assert opened.end() == 0


def test_no_color(ready: Place) -> None:
    with chatting(ready, NO_COLOR="1") as opened:
        ask(opened, QUESTION, "Paris")
        ask(opened, "/help", "/export")
        leave(opened)
        codes = {code for codes in COLOUR.findall(opened.raw) for code in codes[2:-1].split(b";")}
        assert codes <= {b"", b"0", b"1", b"2", b"3", b"4", b"7"}


def test_narrow_window(ready: Place) -> None:
    with chatting(ready, columns=40, rows=15) as opened:
        ask(opened, QUESTION, "Paris")
        ask(opened, "/help", "Ctrl-D leaves")
        leave(opened)
        assert "  write the conversation as Markdown" in opened.everything


def test_terminal_without_utf8(ready: Place) -> None:
    with chatting(ready, "--max-tokens", "30", encoding="latin-1", LC_ALL="de_DE.ISO-8859-1") as (
        opened
    ):
        ask(opened, "Répète: Größe", "Répète: Größe")
        ask(opened, "/save latin.json", "Saved 1 question")
        leave(opened)
        opened.raw.decode("latin-1")
    saved = json.loads((ready.home / "latin.json").read_text())
    assert saved["messages"][1]["content"] == "Répète: Größe"


def test_serial_console(ready: Place) -> None:
    """A VT220 that says nothing of its size."""
    with chatting(ready, columns=0, rows=0, TERM="vt220", LANG="C") as opened:
        opened.screen.resize(24, 80)
        ask(opened, QUESTION, "Paris")
        leave(opened)
        assert b"\x1b[6n" not in opened.raw  # it would have to answer


def test_pipe(ready: Place) -> None:
    result = ready.run("chat", "--temperature", "0", given=f"{QUESTION}\n/stats\n/nonsense\n")
    assert result.stdout == "The capital of France is Paris.\n\n"
    assert "tokens/s" in result.stderr
    assert "there is no command /nonsense" in result.stderr


def test_terminal_is_left_as_it_was(ready: Place) -> None:
    import termios

    with chatting(ready) as opened:
        before = termios.tcgetattr(opened.process.child_fd)
        opened.wait(lambda: at_prompt(opened), "prompt")
        assert termios.tcgetattr(opened.process.child_fd) != before
        opened.type(CONTROL_D)
        assert opened.end() == 0
        assert b"\x1b[?2004l" in opened.raw[-200:]
    with chatting(ready) as opened:
        before = termios.tcgetattr(opened.process.child_fd)
        opened.wait(lambda: at_prompt(opened), "prompt")
        os.kill(opened.process.pid, signal.SIGTERM)
        opened.wait(
            lambda: (
                not opened.process.isalive()
                or termios.tcgetattr(opened.process.child_fd)[3] == before[3]
            ),
            "restored terminal",
        )


def test_window_that_is_closed_ends_the_program(ready: Place) -> None:
    with chatting(ready) as opened:
        opened.wait(lambda: at_prompt(opened), "prompt")
        os.kill(opened.process.pid, signal.SIGHUP)
        assert opened.end() == 128 + signal.SIGHUP
