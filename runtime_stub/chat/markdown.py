"""Markdown as lines for a terminal: parsed by markdown-it, laid out and coloured by rich."""

from __future__ import annotations

import io
import os
import re
from dataclasses import dataclass
from typing import Any, ClassVar

# rich would look for the widths of an older Unicode, which did not come along.
os.environ.pop("UNICODE_VERSION", None)

from markdown_it import MarkdownIt
from markdown_it.token import Token
from pygments.lexers import get_lexer_by_name
from pygments.util import ClassNotFound
from rich import box, markdown
from rich.color import ColorSystem
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.padding import Padding
from rich.rule import Rule
from rich.segment import Segment
from rich.syntax import ANSI_DARK, ANSISyntaxTheme, Syntax
from rich.table import Table
from rich.text import Text
from rich.theme import Theme

from runtime_stub.chat.terminal import Terminal

_COLOURS = {"standard": ColorSystem.STANDARD, "256": ColorSystem.EIGHT_BIT}
_NARROW = 60
_PARSER = MarkdownIt("commonmark", {"html": False}).enable("strikethrough").enable("table")
# HTML is shown as what it is: text that somebody may have asked for.


@dataclass(frozen=True)
class Block:
    """A paragraph, list, table or other thing at the outermost level of a document."""

    tokens: list[Token]
    kind: str
    """The type of its first token."""
    start: int
    """Its first line in the text."""


def blocks_of(text: str) -> list[Block]:
    """The blocks of a document."""
    blocks: list[Block] = []
    tokens: list[Token] = []
    for token in _PARSER.parse(text):
        tokens.append(token)
        if token.level == 0 and token.nesting <= 0:
            first = tokens[0]
            blocks.append(Block(tokens, first.type, first.map[0] if first.map else 0))
            tokens = []
    return blocks


def closed(text: str) -> str:
    """An unfinished `text` with what is begun in its last line ended, so that a word in the
    making is not shown first with its marks and then without them."""
    last = text.rstrip().rpartition("\n")[2]
    if re.match(r"\s*(```|~~~|\||    )", last) or text.count("```") % 2:
        return text
    text = re.sub(r"[ \n]*(?<!\\)[*_`~]+\Z", "", text) if last.strip("*_-`~ ") else text
    last = text.rpartition("\n")[2]
    if last.count("`") % 2:
        return f"{text}`"
    for mark in ("**", "~~"):
        if last.count(mark) % 2:
            text = f"{text.rstrip()}{mark}"
    return text


class Layout:
    """Lays things out for one terminal; the lines that come out are ready to be written."""

    def __init__(self, terminal: Terminal) -> None:
        self._terminal = terminal
        self._console = Console(
            file=io.StringIO(),
            force_terminal=True,
            color_system="auto" if terminal.colour else None,
            no_color=not terminal.colour,
            legacy_windows=False,
            theme=Theme(_STYLES),
            emoji=False,
            markup=False,
            highlight=False,
        )
        name = self._console.color_system or "standard"
        self._colours = _COLOURS.get(name, ColorSystem.TRUECOLOR) if terminal.colour else None

    def document(self, blocks: list[Block], width: int) -> list[str]:
        """Blocks, one beneath the other."""
        lines: list[str] = []
        for block in blocks:
            if lines:
                lines.append("")
            found = self.lines(_Document(block.tokens), width)
            # rich divides lists and quotes from what it takes to have come before them.
            if found and not found[0] and block.kind not in ("fence", "code_block"):
                del found[0]
            lines += found
        return lines

    def plain(self, text: str, width: int, style: str = "none") -> list[str]:
        """Text as it is, but wrapped."""
        return self.lines(Text(text, style=style), width)

    def lines(self, thing: RenderableType, width: int) -> list[str]:
        """Anything that rich can lay out, without blank lines at its end."""
        options = self._console.options.update(width=max(8, width), height=None)
        if not self._terminal.unicode:
            options.encoding = "ascii"  # for what lines and corners are drawn with
        found = [
            "".join(map(self._coloured, _stripped(line)))
            for line in self._console.render_lines(thing, options, pad=False)
        ]
        while found and not found[-1]:
            found.pop()
        return found

    def _coloured(self, segment: Segment) -> str:
        text, style, _ = segment
        if style is None:
            return text
        if self._colours is None:
            return style.without_color.render(text, color_system=ColorSystem.STANDARD)
        return style.render(text, color_system=self._colours)


def _stripped(line: list[Segment]) -> list[Segment]:
    """A line without blanks at its end, which would be copied along with the text."""
    line = [segment for segment in line if not segment.control and segment.text]
    while line:
        text = line[-1].text.rstrip(" ")
        if text:
            return [*line[:-1], Segment(text, line[-1].style)]
        line.pop()
    return line


class _Heading(markdown.Heading):
    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield self.text


class _Code(markdown.CodeBlock):
    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        code = str(self.text).rstrip("\n")
        indent = 0 if options.max_width < _NARROW else 2
        coloured = console.color_system is not None
        thing = (_highlighted(code, self.lexer_name) if coloured else None) or Text(code)
        yield Padding(thing, (0, 0, 0, indent), expand=False)


class _Quote(markdown.BlockQuote):
    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        inner = options.update(width=options.max_width - 2)
        bar = Segment("| " if options.ascii_only else "│ ", console.get_style("satchel.dim"))
        for line in console.render_lines(self.elements, inner, style=self.style, pad=False):
            yield bar
            yield from line
            yield Segment.line()


class _Rule(markdown.HorizontalRule):
    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Rule(style="satchel.dim", characters="-" if options.ascii_only else "─")


class _Item(markdown.ListItem):
    def render_bullet(self, console: Console, options: ConsoleOptions) -> RenderResult:
        return self._render("* " if options.ascii_only else "• ", console, options)

    def render_number(
        self, console: Console, options: ConsoleOptions, number: int, last_number: int
    ) -> RenderResult:
        width = len(str(last_number - 1))
        return self._render(f"{number:>{width}}. ", console, options)

    def _render(self, mark: str, console: Console, options: ConsoleOptions) -> RenderResult:
        inner = options.update(width=max(8, options.max_width - len(mark)))
        style = console.get_style("satchel.mark")
        lines = console.render_lines(self.elements, inner, style=self.style, pad=False)
        for index, line in enumerate(lines or [[]]):
            yield Segment(mark if index == 0 else " " * len(mark), style)
            yield from line
            yield Segment.line()


class _Table(markdown.TableElement):
    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        table = Table(
            box=box.ASCII2 if options.ascii_only else box.SIMPLE_HEAD,
            pad_edge=False,
            show_edge=False,
            border_style="satchel.dim",
            header_style="bold",
        )
        if self.header is not None and self.header.row is not None:
            for cell in self.header.row.cells:
                table.add_column(cell.content, justify=cell.justify, overflow="fold")
        for row in self.body.rows if self.body is not None else ():
            table.add_row(*(cell.content for cell in row.cells))
        yield table


class _Image(markdown.ImageItem):
    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Text(f"[{self.text or 'image'}] ({self.destination})", end="")


class _Document(markdown.Markdown):
    """Tokens that are parsed already. Addresses of links are shown, not hidden behind words."""

    elements: ClassVar[dict[str, type[markdown.MarkdownElement]]] = {
        **markdown.Markdown.elements,
        "heading_open": _Heading,
        "fence": _Code,
        "code_block": _Code,
        "blockquote_open": _Quote,
        "hr": _Rule,
        "list_item_open": _Item,
        "table_open": _Table,
        "image": _Image,
    }

    def __init__(self, tokens: list[Token]) -> None:
        super().__init__("", hyperlinks=False)
        self.parsed = tokens


def _highlighted(code: str, language: str) -> Text | None:
    """Code in colours; None in a language that is unknown, or not in this runtime."""
    try:
        lexer: Any = get_lexer_by_name(language.lower(), stripnl=False)
        theme = ANSISyntaxTheme(ANSI_DARK)
        found = Syntax("", lexer, theme=theme, word_wrap=True).highlight(code)
    except (ClassNotFound, ImportError):
        return None
    found.rstrip()
    return found


_STYLES = {
    "markdown.h1": "bold underline",
    "markdown.h2": "bold",
    "markdown.h3": "bold",
    "markdown.h4": "bold",
    "markdown.h5": "bold",
    "markdown.h6": "bold",
    "markdown.code": "cyan",
    "markdown.block_quote": "none",
    "markdown.link": "none",
    "markdown.link_url": "bright_black",
    "markdown.item": "none",
    "satchel.dim": "bright_black",
    "satchel.mark": "bright_black",
}
