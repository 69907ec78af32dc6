"""Errors a person can do something about, and the exit code of each.

Every expected failure is a `SatchelError`: one line that says what happened and to what,
a hint that says what to do, and an exit code that scripts can rely on. One handler at the
top of each command prints them; anything else is a bug and keeps its traceback.
"""

from __future__ import annotations

from typing import ClassVar


class SatchelError(Exception):
    """Base of all expected errors.

    `message` says what happened to what; `hint`, if any, says what to do about it.
    """

    exit_code: ClassVar[int] = 1
    meaning: ClassVar[str] = "an unexpected failure (please report it)"

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}. {self.hint}" if self.hint else self.message


class InputError(SatchelError):
    exit_code = 3
    meaning = "an input is missing, is a folder, or can't be read"


class FormatError(SatchelError):
    exit_code = 4
    meaning = "a file is not what it should be: not a GGUF, not a pack, or malformed"


class UnsupportedError(SatchelError):
    exit_code = 5
    meaning = "a file is sound but needs something this version does not know"


class DamagedError(SatchelError):
    exit_code = 6
    meaning = "a pack, stub or cache entry does not match its hashes"


class OutputError(SatchelError):
    exit_code = 7
    meaning = "the output exists already, equals the input, or can't be written"


class SpaceError(SatchelError):
    exit_code = 8
    meaning = "not enough disk space"


class AddressError(SatchelError):
    exit_code = 9
    meaning = "the server's address is in use or not allowed"


class EngineError(SatchelError):
    exit_code = 10
    meaning = "the model can't be loaded or the engine failed"


class StubError(SatchelError):
    exit_code = 11
    meaning = "no fitting stub is installed, or building one failed"


class RecipeError(SatchelError):
    exit_code = 12
    meaning = "a recipe or a setting is not valid"


class CacheError(SatchelError):
    exit_code = 13
    meaning = "no cache folder can be used"


class PromptError(SatchelError):
    exit_code = 14
    meaning = "the prompt does not fit the context, or its template fails"


class SignatureError(SatchelError):
    exit_code = 15
    meaning = "a signature is missing, not right, or somebody else's"


class PackChangedError(SatchelError):
    exit_code = 76
    meaning = "the pack was changed while it was running"


EXIT_CODES: dict[int, str] = {
    0: "success",
    1: SatchelError.meaning,
    2: "the command line is not understood",
    **{
        error.exit_code: error.meaning
        for error in (
            InputError,
            FormatError,
            UnsupportedError,
            DamagedError,
            OutputError,
            SpaceError,
            AddressError,
            EngineError,
            StubError,
            RecipeError,
            CacheError,
            PromptError,
            SignatureError,
            PackChangedError,
        )
    },
    70: "launcher: an operating system call failed unexpectedly",
    71: "launcher: the pack is cut short or damaged",
    72: "launcher: no cache folder can be used",
    73: "launcher: not enough disk space for the first start",
    74: "launcher: the runtime could not be extracted",
    75: "launcher: the runtime could not be started",
    130: "interrupted with Ctrl-C",
}
"""Every exit code of `satchel` and of a pack, with its meaning; the README's table is checked
against it. A test checks the launcher's codes against `launcher.c`."""
