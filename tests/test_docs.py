"""The documents' tables say what the code does."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import pytest

from runtime_stub import archive, bundle, manifest
from runtime_stub.chat.cli import chat
from runtime_stub.chat.commands import COMMANDS
from runtime_stub.chat.conversation import NEARLY_FULL
from runtime_stub.errors import EXIT_CODES
from runtime_stub.recipe import ADAPTER, EXAMPLE, FILE, MODEL, PACKING, TABLES, TOP
from runtime_stub.server.bridge import BEGIN_SECONDS
from runtime_stub.server.serve import SHUTDOWN_SECONDS
from runtime_stub.server.streaming import KEEP_ALIVE_SECONDS
from runtime_stub.settings import Setting

ROOT = Path(__file__).resolve().parent.parent
TYPES = {"I": "u32", "Q": "u64"}


def rows(name: str) -> list[tuple[str, ...]]:
    """Cells of every table row of a document."""
    text = (ROOT / name).read_text(encoding="utf-8")
    found = re.findall(r"^\|(.+)\|$", text, re.MULTILINE)
    return [tuple(cell.strip() for cell in row.split("|")) for row in found]


@pytest.fixture(scope="module")
def format_rows() -> list[tuple[str, ...]]:
    return rows("docs/format.md")


@pytest.mark.parametrize("layout", [bundle.FOOTER_LAYOUT, bundle.CHUNK_LAYOUT])
def test_layouts(
    format_rows: list[tuple[str, ...]], layout: tuple[tuple[str, str, str], ...]
) -> None:
    offset = 0
    expected = []
    for name, code, meaning in layout:
        kind = TYPES.get(code) or f"{struct.calcsize(code)} bytes"
        expected.append((str(offset), f"`{name}`", kind, meaning))
        offset += struct.calcsize(f"<{code}")
    start = format_rows.index(expected[0])
    assert format_rows[start : start + len(expected)] == expected


@pytest.mark.parametrize("table", [manifest.FEATURES, manifest.KINDS, manifest.CODECS])
def test_words(format_rows: list[tuple[str, ...]], table: dict[str, str]) -> None:
    expected = [(f"`{word}`", meaning) for word, meaning in table.items()]
    start = format_rows.index(expected[0])
    assert format_rows[start : start + len(expected)] == expected


def test_fields_of_an_entry(format_rows: list[tuple[str, ...]]) -> None:
    named = {word for row in format_rows for word in re.findall(r"`(\w+)`", row[0])}
    assert set(manifest.Entry.__dataclass_fields__) <= named


def test_numbers() -> None:
    text = (ROOT / "docs/format.md").read_text(encoding="utf-8")
    assert f"footer                {bundle.FOOTER_SIZE} bytes" in text
    assert f"at most {bundle.FOOTER_WINDOW >> 20} MiB" in text
    assert f"Rows of {bundle.CHUNK_ROW_SIZE} bytes" in text
    assert f"chunk of {bundle.CHUNK_SIZE >> 20} MiB" in text
    assert f"at most {bundle.MAX_CHUNK_SIZE >> 20} MiB" in text
    assert f'magic "{archive.MAGIC.decode()}"' in text
    assert f"at most {archive.MAX_FILES:,}" in text
    assert f"at most {archive.MAX_PATH:,} bytes" in text
    assert f"`{archive.INDEX_FILE}`" in text


def test_how_long_a_server_waits() -> None:
    text = (ROOT / "docs/server.md").read_text(encoding="utf-8")
    assert f"have {SHUTDOWN_SECONDS} seconds to end" in text
    assert f"{BEGIN_SECONDS:.0f} seconds at the latest" in text
    assert f"something every {KEEP_ALIVE_SECONDS:.0f}" in text


def test_exit_codes() -> None:
    found = rows("README.md")
    missing = [
        f"| {code} | {meaning} |"
        for code, meaning in EXIT_CODES.items()
        if (str(code), meaning) not in found
    ]
    assert missing == []


@pytest.mark.parametrize(
    "table", [PACKING, TOP, *TABLES.values(), {**FILE, **MODEL}, {**FILE, **ADAPTER}, EXAMPLE]
)
def test_settings(table: dict[str, Setting]) -> None:
    kinds = {str: "text", int: "whole number", float: "number", list: "list of texts"}
    kinds[bool] = "`true` or `false`"
    expected = [
        (
            f"`{key}`",
            " or ".join(f"`{choice}`" for choice in setting.choices) or kinds[setting.kind],
            setting.help,
        )
        for key, setting in table.items()
    ]
    found = rows("docs/recipe.md")
    starts = [start for start, row in enumerate(found) if row == expected[0]]
    assert expected in [found[start : start + len(expected)] for start in starts]


def test_promises_name_tests_that_exist() -> None:
    """A test without a file in front of it is in the file named last."""
    text = (ROOT / "docs/promises.md").read_text(encoding="utf-8")
    named = 0
    file = ""
    for word in re.findall(r"`(test_[\w.:]+)`", text):
        module, _, test = word.partition("::")
        if module.endswith(".py"):
            file = (ROOT / "tests" / module).read_text(encoding="utf-8")
        name = test if module.endswith(".py") else module
        assert not name or re.search(rf"^(def|class) {name}\b", file, re.MULTILINE), word
        named += 1
    assert named > 30


def test_commands_of_the_chat() -> None:
    expected = [
        (f"`/{name} {command.arguments}".replace("|", " or ").rstrip() + "`", command.help)
        for name, command in COMMANDS.items()
    ]
    found = rows("docs/chat.md")
    start = found.index(expected[0])
    assert found[start : start + len(expected)] == expected


def test_options_of_the_chat() -> None:
    text = (ROOT / "docs/chat.md").read_text(encoding="utf-8")
    own = {option for parameter in chat.params for option in parameter.opts}
    named = set(re.findall(r"`(--[a-z-]+)`", text)) - {"--force", "--no-sandbox"}
    assert named == {"--plain", "--no-history", "--hide-reasoning"}
    assert named <= own
    assert f"{NEARLY_FULL:.0%}".replace("%", " %") in text
