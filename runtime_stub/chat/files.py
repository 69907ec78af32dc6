"""The files and the editor that a person names, reached through the broker."""

from __future__ import annotations

from pathlib import Path

from runtime_stub.confinement.broker import Broker
from runtime_stub.errors import FormatError, InputError, OutputError

_LARGEST = 64 << 20
_NO_WAY = "this chat can't reach files: nobody sits in front of it"
_SANDBOX = "With --no-sandbox it can"


class Files:
    """Reads, writes and edits, with errors that say what to do."""

    def __init__(self, broker: Broker | None, *, edits: bool = False) -> None:
        """`broker` is None where there is no way out of the sandbox."""
        self._broker = broker
        self.edits = edits
        """Whether there is an editor of the person's own."""

    def read(self, path: Path) -> bytes:
        """What is in a file. Raises InputError, or FormatError when it is far too large."""
        if self._broker is None:
            raise InputError(_NO_WAY, _SANDBOX)
        try:
            with self._broker.reading(path) as stream:
                data = stream.read(_LARGEST + 1)
        except OSError as error:
            raise InputError(f"{path} can't be read: {_reason(error)}") from None
        if len(data) > _LARGEST:
            raise FormatError(f"{path} is too large for a conversation")
        return data

    def write(self, path: Path, data: bytes, *, replace: bool) -> None:
        """Write a file, all of it or nothing. Raises OutputError; one that is there already
        stays unless it shall be replaced."""
        if self._broker is None:
            raise OutputError(_NO_WAY, _SANDBOX)
        try:
            with self._broker.writing(path, replace=replace) as stream:
                stream.write(data)
        except FileExistsError:
            hint = f"Choose another name, or add: --force {path}"
            raise OutputError(f"{path} exists already", hint) from None
        except OSError as error:
            raise OutputError(f"{path} can't be written: {_reason(error)}") from None

    def edit(self, text: str) -> str:
        """`text` as the person leaves it in their editor, which has the terminal meanwhile.
        Raises InputError."""
        if self._broker is None:
            raise InputError(_NO_WAY, _SANDBOX)
        try:
            edited = self._broker.edit(text)
        except OSError as error:
            hint = "Set EDITOR to another one, or to nothing to edit in the prompt"
            raise InputError(f"the editor can't be started: {_reason(error)}", hint) from None
        if edited is None:
            raise InputError("the editor failed; the question stays as it was")
        return edited


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
