"""What was typed in earlier chats, one JSON text a line, in the user's data folder."""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
from pathlib import Path

from runtime_stub.errors import OutputError

KEPT = 1000
"""How many lines a file is cut back to when it has grown too long."""
_LONGEST_FILE = 1 << 20


def history_file(pack: str) -> Path:
    """Where the lines typed to the pack of this name are kept."""
    import platformdirs

    name = re.sub(r"[^\w.-]+", "_", pack).strip("._")[:64] or "assistant"
    folder = Path(platformdirs.user_data_dir("satchel", appauthor=False))
    return folder / "history" / f"{name}.jsonl"


class HistoryFile:
    """Lines typed earlier. Only this user can read them."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def make_folder(self) -> bool:
        """Make the folder it lies in, unless it is there; whether it is there now."""
        with contextlib.suppress(OSError):
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return self.path.parent.is_dir()

    def load(self) -> list[str]:
        """The lines, oldest first; none when there is no file. Raises OutputError."""
        try:
            with self._open(os.O_RDONLY) as stream:
                stream.seek(max(0, os.fstat(stream.fileno()).st_size - _LONGEST_FILE))
                lines = [_text(line) for line in stream.read().splitlines()]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise self._error(error) from None
        return [line for line in lines if line]

    def add(self, text: str) -> None:
        """Remember a line. Raises OutputError."""
        line = json.dumps(text, ensure_ascii=False).encode("utf-8", "replace") + b"\n"
        try:
            self.make_folder()
            with self._open(os.O_RDWR | os.O_APPEND | os.O_CREAT) as stream:
                size = os.fstat(stream.fileno()).st_size
                # One write, so that two chats at once don't mix their lines.
                os.write(stream.fileno(), line)
            if size > _LONGEST_FILE:
                self._shorten()
        except OSError as error:
            raise self._error(error) from None

    def _shorten(self) -> None:
        lines = self.load()[-KEPT:]
        new = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        try:
            with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
                for line in lines:
                    stream.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
            new.replace(self.path)
        finally:
            with contextlib.suppress(OSError):
                new.unlink()

    def _open(self, flags: int):  # type: ignore[no-untyped-def]
        descriptor = os.open(self.path, flags | getattr(os, "O_NOFOLLOW", 0) | os.O_CLOEXEC, 0o600)
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode):
            os.close(descriptor)
            raise OSError(0, "it is no regular file")
        if hasattr(os, "fchmod") and stat.S_IMODE(facts.st_mode) != 0o600:
            with contextlib.suppress(OSError):
                os.fchmod(descriptor, 0o600)
        return open(descriptor, "rb" if flags == os.O_RDONLY else "ab")

    def _error(self, error: OSError) -> OutputError:
        return OutputError(
            f"what you type is not kept in {self.path}: {error.strerror}",
            "--no-history keeps nothing, and says nothing",
        )


def _text(line: bytes) -> str:
    """The text a line stands for; empty when it is damaged."""
    try:
        text = json.loads(line)
    except ValueError:
        return ""
    return text if isinstance(text, str) else ""
