"""What both command lines share: errors, progress and numbers, as a person reads them.

Only command-line modules use this; core code never prints.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import sys
import time
import traceback
from typing import TYPE_CHECKING, Any, Protocol

import click

from runtime_stub.errors import DamagedError, InputError, OutputError, SatchelError

if TYPE_CHECKING:
    from runtime_stub.verify import Region

INTERRUPTED = 130
_UNWRITABLE = (errno.ENOSPC, errno.EIO, errno.EBADF, errno.EDQUOT, errno.EFBIG)


class Meter(Protocol):
    """Progress of one long step."""

    def __call__(self, count: int, /) -> None:
        """Count so many more bytes as done."""


def report(error: SatchelError, program: str) -> None:
    """One line for an expected error."""
    tell(f"{program}: {printable(str(error))}")


def tell(text: str) -> None:
    """Write a line to standard error; if that can't be written, nothing can be said at all."""
    with contextlib.suppress(OSError):
        click.echo(text, err=True)


def run(command: click.Command, program: str, arguments: list[str], obj: object = None) -> int:
    """Run a command line and return its exit code; the only place that handles errors.

    Expected errors are one line, `--verbose` (or SATCHEL_VERBOSE) adds the traceback.
    """
    verbose = "--verbose" in arguments or bool(os.environ.get("SATCHEL_VERBOSE"))
    stream = sys.stdout
    try:
        result = command.main(arguments, prog_name=program, standalone_mode=False, obj=obj)
    except SatchelError as error:
        report(error, program)
        if verbose:
            traceback.print_exc()
        return error.exit_code
    except click.exceptions.Abort:
        tell("")
        return INTERRUPTED
    except KeyboardInterrupt:
        tell("")
        return INTERRUPTED
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except SystemExit as error:
        # Of click, when the reader has seen enough: it has silenced the stream for that.
        if sys.stdout is not stream:
            return 0
        return error.code if isinstance(error.code, int) else 1
    except OSError as error:
        if error.errno not in _UNWRITABLE:
            return _unexpected(error, program, verbose=verbose)
        report(OutputError(f"the output can't be written: {error.strerror}"), program)
        return OutputError.exit_code
    except Exception as error:  # noqa: BLE001  (the last resort: a bug, said in one line)
        return _unexpected(error, program, verbose=verbose)
    return result if isinstance(result, int) else 0


def _unexpected(error: Exception, program: str, *, verbose: bool) -> int:
    tell(f"{program}: unexpected failure: {printable(repr(error))}")
    if verbose:
        traceback.print_exc()
    else:
        tell("Run it again with SATCHEL_VERBOSE=1 for the full story.")
    return 1


def printable(text: str) -> str:
    """`text` without control characters, which a file name may smuggle into a terminal."""
    return "".join(character if character.isprintable() else "?" for character in text)


def bytes_text(count: float) -> str:
    """A size as people write it, in powers of 1,000."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:,.0f} {unit}" if unit == "bytes" else f"{count:,.1f} {unit}"
        count /= 1000
    raise AssertionError


def echo_json(document: Any) -> None:
    """A document on standard output, for scripts."""
    text = json.dumps(document, indent=2, ensure_ascii=False)
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        text = json.dumps(document, indent=2)  # a file name that is no text, escaped
    click.echo(text)


def show_regions(regions: list[Region], *, as_json: bool, name: str) -> None:
    """Print the outcome of a verification; raises DamagedError when something is wrong."""
    bad = [region for region in regions if region.problem]
    if as_json:
        echo_json(
            {
                "intact": not bad,
                "regions": [
                    {"name": r.name, "offset": r.offset, "length": r.length, "problem": r.problem}
                    for r in regions
                ],
            }
        )
    else:
        for region in regions:
            verdict = region.problem or "ok"
            line = f"{region.name:<24} {bytes_text(region.length):>12}  {verdict}"
            click.echo(printable(line))
    if bad:
        names = ", ".join(region.name for region in bad)
        remedies = ". ".join(dict.fromkeys(region.remedy for region in bad))
        if all(region.missing for region in bad):
            raise InputError(f"{name} is incomplete: {bad[0].problem}", remedies)
        raise DamagedError(f"{name} is damaged: {names}", remedies)
    if not as_json:
        click.echo(printable(f"{name} is intact."))


class progress:  # noqa: N801  (used like a function)
    """A progress bar on standard error, shown once a step has taken a second.

    Nothing is shown when standard error is no terminal. Use as a context manager; the value
    is a Meter.
    """

    def __init__(self, label: str, total: int) -> None:
        self._label = label
        self._total = max(1, total)
        self._done = 0
        self._started = time.monotonic()
        self._shown = 0.0
        self._terminal = sys.stderr is not None and sys.stderr.isatty()

    def __enter__(self) -> Meter:
        return self._count

    def __exit__(self, *_: object) -> None:
        if self._shown:
            sys.stderr.write("\r\033[K")
            sys.stderr.flush()

    def _count(self, count: int, /) -> None:
        self._done += count
        now = time.monotonic()
        if not self._terminal or now - self._started < 1 or now - self._shown < 0.1:
            return
        self._shown = now
        share = min(1.0, self._done / self._total)
        rate = self._done / (now - self._started)
        left = (self._total - self._done) / rate if rate else 0
        bar = ("#" * int(share * 24)).ljust(24, ".")
        sys.stderr.write(f"\r\033[K{self._label} [{bar}] {share:4.0%}  {left:,.0f} s left")
        sys.stderr.flush()
