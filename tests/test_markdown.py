from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.cells import cell_len

from runtime_stub.chat.markdown import Layout, blocks_of, closed
from runtime_stub.chat.terminal import Terminal

COLOURED = Terminal(
    reads=True,
    shows=True,
    moves=True,
    colour=True,
    encoding="utf-8",
    unicode=True,
    name="xterm-256color",
)
PLAIN = Terminal(reads=True, shows=True, moves=True, colour=False, encoding="utf-8", unicode=True)
ASCII = Terminal(reads=True, shows=True, moves=True, colour=False, encoding="ascii", unicode=False)
CODES = re.compile(r"\x1b\[[0-9;]*m")
DOCUMENT = """\
# Title

A *paragraph* with **bold**, `code` and a [link](https://example.org/x).

- one
- two
  1. inner
  2. other

> quoted
> lines

| left | right |
|:-----|------:|
| a    |     1 |

```python
def f(x):  # why
    return "日本"
```

---

The end <b>of</b> it &amp; all.
"""


def shown(text: str, width: int = 60, terminal: Terminal = PLAIN) -> list[str]:
    return [CODES.sub("", line) for line in Layout(terminal).document(blocks_of(text), width)]


def test_document() -> None:
    assert shown(DOCUMENT) == [
        "Title",
        "",
        "A paragraph with bold, code and a link",
        "(https://example.org/x).",
        "",
        "• one",
        "• two",
        "  1. inner",
        "  2. other",
        "",
        "│ quoted lines",
        "",
        "left   right",
        "────────────",
        "a          1",
        "",
        "  def f(x):  # why",
        '      return "日本"',
        "",
        "─" * 60,
        "",
        "The end <b>of</b> it & all.",
    ]


@pytest.mark.parametrize("width", [20, 39, 60, 120])
def test_nothing_is_wider_than_the_window(width: int) -> None:
    text = f"{DOCUMENT}\n\n{'日本語' * 50}\n\n{'x' * 300}\n\n```\n{'y' * 300}\n```\n"
    for terminal in (COLOURED, ASCII):
        assert max(cell_len(line) for line in shown(text, width, terminal)) <= width


def test_text_is_complete_in_a_narrow_window() -> None:
    text = "\n\n".join(["| a | b |\n|---|---|\n| " + "word " * 30 + "| x |", "long " * 40])
    found = " ".join(shown(text, 30))
    assert found.count("word") == 30
    assert found.count("long") == 40


def test_ascii_decorations() -> None:
    found = "\n".join(shown(DOCUMENT, terminal=ASCII))
    assert not [c for c in found if ord(c) > 127 and c not in "日本"]
    assert "* one" in found


def test_combining_characters_take_no_room() -> None:
    (line,) = shown("e\u0301" * 20, 20)
    assert line == "e\u0301" * 20


def test_code_is_highlighted_and_its_text_is_untouched() -> None:
    layout = Layout(COLOURED)
    code = "def f(x):\n\n    return [x]  # [bold]not markup[/bold]\n"
    lines = layout.document(blocks_of(f"```python\n{code}```"), 80)
    assert sum("\x1b[" in line for line in lines) >= 2
    assert [CODES.sub("", line)[2:] for line in lines] == code.splitlines()
    plain = layout.document(blocks_of("```nonsense\nx = 1\n```"), 80)
    assert plain == ["  x = 1"]


def test_no_colour_means_none() -> None:
    found = "\n".join(Layout(PLAIN).document(blocks_of(DOCUMENT), 80))
    codes = {code for match in CODES.findall(found) for code in match[2:-1].split(";")}
    assert codes <= {"", "0", "1", "2", "3", "4", "9"}


def test_blocks_know_where_they_begin() -> None:
    blocks = blocks_of(DOCUMENT)
    lines = DOCUMENT.splitlines()
    assert [lines[block.start].strip() for block in blocks] == [
        "# Title",
        "A *paragraph* with **bold**, `code` and a [link](https://example.org/x).",
        "- one",
        "> quoted",
        "| left | right |",
        "```python",
        "---",
        "The end <b>of</b> it &amp; all.",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("some **bold", "some **bold**"),
        ("some **", "some"),
        ("some **bold**", "some **bold**"),
        ("a `code", "a `code`"),
        ("a `**x", "a `**x`"),
        ("~~gone", "~~gone~~"),
        ("```\n**x", "```\n**x"),
        ("| **a", "| **a"),
        ("2 * 3", "2 * 3"),
        ("---", "---"),
        ("", ""),
    ],
)
def test_unfinished_marks_are_closed(text: str, expected: str) -> None:
    assert closed(text) == expected


@pytest.mark.parametrize(
    "text",
    ["", "\n", "```", "|", "| a |\n|--", "[x](", "![i](y)", "<script>", "1.", "- ", "\\", "&#0;"],
)
def test_whatever_is_left_unfinished_can_be_drawn(text: str) -> None:
    shown(closed(text), 10)


BLOCKED = """
import importlib, os, sys
source, rest = sys.argv[1:]
space = {}
exec(open(source).read().partition("analysis = Analysis(")[0], space)
excluded = space["excluded"]

class Finder:
    def find_spec(self, name, path=None, target=None):
        if any(name == x or name.startswith(x + ".") for x in excluded):
            raise ModuleNotFoundError(f"{name} is left out of the runtime")

sys.meta_path.insert(0, Finder())
for name in list(sys.modules):
    if name.partition(".")[0] in ("rich", "pygments", "prompt_toolkit"):
        del sys.modules[name]
for name in rest.split():
    importlib.import_module(name)
from pygments.lexers import LEXERS, get_lexer_by_name
for name in sorted(space["highlighters"]):
    importlib.import_module(f"pygments.lexers.{name}")
from runtime_stub.chat.markdown import _highlighted
kept = [f"pygments.lexers.{name}" for name in space["highlighters"]]
for module, _, names, *_ in LEXERS.values():
    if module in kept and names:
        _highlighted("x = 1", names[0])
asked = ("python", "c", "bash", "json", "lua", "html", "fortran")
print(*(name for name in asked if _highlighted("x = 1", name)))
"""


def test_what_the_runtime_leaves_out_is_not_missed() -> None:
    """The specification leaves most of pygments out, and more: the chat works without."""
    spec = Path(__file__).parent.parent / "templates" / "runtime.spec"
    chat = Path(__file__).parent.parent / "runtime_stub" / "chat"
    modules = " ".join(f"runtime_stub.chat.{path.stem}" for path in sorted(chat.glob("*.py")))
    found = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", BLOCKED, spec, modules],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "SATCHEL_SOURCE": str(spec.parent.parent)},
    )
    assert found.returncode == 0, found.stderr
    assert found.stdout.split() == ["python", "c", "bash", "json", "lua", "html"]
