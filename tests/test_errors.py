from __future__ import annotations

import inspect

from runtime_stub import errors
from runtime_stub.errors import EXIT_CODES, InputError, SatchelError

KINDS = [
    kind
    for _, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, SatchelError)
]


def test_every_error_has_a_code_of_its_own() -> None:
    codes = [kind.exit_code for kind in KINDS]
    assert len(set(codes)) == len(codes) > 10
    assert all(EXIT_CODES[kind.exit_code] == kind.meaning for kind in KINDS)


def test_codes_leave_room_for_shells() -> None:
    """2 is click's, and shells use 126 and up."""
    codes = {kind.exit_code for kind in KINDS}
    assert not codes & {0, 2, *range(126, 256)}
    assert {0, 1, 2, 130} <= set(EXIT_CODES)


def test_meanings_differ() -> None:
    assert len(set(EXIT_CODES.values())) == len(EXIT_CODES)


def test_text() -> None:
    assert str(InputError("it is gone", "Look again")) == "it is gone. Look again"
    assert str(InputError("it is gone")) == "it is gone"
    error = InputError("it is gone", "Look again")
    assert (error.message, error.hint) == ("it is gone", "Look again")
