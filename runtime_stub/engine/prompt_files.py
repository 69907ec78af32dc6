"""Prompts that were read, as files: kept from one start of a server to the next.

    0          8          40          72       76
    +----------+----------+-----------+--------+--------+-------------------------------+
    | magic    | SHA-256  | binding   | length | mix as | tokens and state,             |
    |          | of the   |           | of the | JSON   | as a warm prompt (see warm)   |
    |          | rest     |           | mix    |        |                               |
    +----------+----------+-----------+--------+--------+-------------------------------+

The binding says what the state fits: model, runtime, adapters, settings. A file of another
binding belongs to another pack, and stays. One of ours that is not whole is removed. All files
in the folder together stay within a limit; those that were used longest ago go first.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import stat
import struct
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from runtime_stub.engine.messages import Mix
from runtime_stub.engine.warm import read_tokens, write_warm
from runtime_stub.errors import FormatError

SUFFIX, PART_SUFFIX = ".prompt", ".part"
MAGIC = b"SATCHELP"
_HEAD = struct.Struct("<8s32s32sI")
_HASHED_FROM = 40
_FLAGS = sum(getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_CLOEXEC", "O_BINARY"))
_MAX_MIX = 1 << 16
_PIECE = 1 << 20
_SPARE = 64 << 20
"""Bytes of disk that are left free for everything else."""
_STALE = 3600.0
"""Seconds after which an unfinished file is one that nobody will finish."""
_SHARE = 8
"""A state is worth bringing back where at least one in so many of its tokens is needed."""
_LEAST = 64
"""Tokens that are worth reading a file for."""


class DamagedPromptError(Exception):
    """The file is not what it should be."""


_BAD = (OSError, DamagedPromptError, FormatError, ValueError, TypeError, RecursionError)
"""What comes of reading something else."""


@dataclass(frozen=True)
class StoredPrompt:
    """Tokens that were read, and where the state lies that they left."""

    tokens: tuple[int, ...]
    mix: Mix
    path: Path
    gone: list[bool] = field(default_factory=list, compare=False)
    """Not empty when the file turned out to be of no use."""

    @property
    def least(self) -> int:
        """How many tokens must need no reading for it to be of use."""
        return max(_LEAST, len(self.tokens) // _SHARE)

    @property
    def state(self) -> memoryview:
        """The state, checked; empty where the file is gone or damaged, which removes it."""
        if self.gone:
            return memoryview(b"")
        try:
            mix, tokens, state = _parse(_read_whole(self.path))
            if (mix, tokens) != (self.mix, self.tokens):
                raise DamagedPromptError
            os.utime(self.path)
        except _BAD:
            self.remove()
            return memoryview(b"")
        return state

    def remove(self) -> None:
        """Delete the file. Who has it in memory goes on."""
        self.gone.append(True)
        with contextlib.suppress(OSError):
            self.path.unlink()


class PromptFolder:
    """The files of one binding, in a folder that is ours alone."""

    def __init__(self, path: Path, limit: int, binding: bytes) -> None:
        """`limit` is how many bytes all prompts in the folder may take."""
        self._path = path
        self._limit = limit
        self._binding = binding
        self._ending = f"-{binding.hex()[:32]}{SUFFIX}"

    def prompts(self) -> list[StoredPrompt]:
        """All that are there for this binding, the latest first. What nobody finished writing is
        removed, and what is none."""
        found = []
        for path, facts in self._files():
            if path.name.endswith(self._ending):
                try:
                    tokens, mix = _read_head(path, self._binding)
                except _BAD:
                    _unlink(path)
                    continue
                found.append((facts.st_mtime, StoredPrompt(tokens, mix, path)))
            elif path.name.endswith(PART_SUFFIX) and facts.st_mtime < time.time() - _STALE:
                _unlink(path)
        self._make_room(0)
        found.sort(key=lambda item: -item[0])
        return [prompt for _, prompt in found if prompt.path.exists()]

    def write(
        self, tokens: Sequence[int], mix: Mix, state: bytes | bytearray
    ) -> StoredPrompt | None:
        """Keep a state; None where it finds no room, or the disk refuses it."""
        mixed = json.dumps(mix).encode()
        warm = write_warm(tokens, b"")
        size = _HEAD.size + len(mixed) + len(warm) + len(state)
        name = hashlib.sha256(mixed + warm).hexdigest()[:32]
        final = self._path / f"{name}{self._ending}"
        part = final.with_name(f"{final.name}.{os.getpid()}{PART_SUFFIX}")
        try:
            if size > self._limit or shutil.disk_usage(self._path).free < size + _SPARE:
                return None
            self._make_room(size)
            descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | _FLAGS, 0o600)
            try:
                _write_file(descriptor, self._binding, mixed, warm, state)
            finally:
                os.close(descriptor)
            # Not synced: should the machine fail, the hash tells, and the prompt is read again.
            part.replace(final)
        except OSError:
            _unlink(part)
            return None
        return StoredPrompt(tuple(tokens), mix, final)

    def _files(self) -> Iterator[tuple[Path, os.stat_result]]:
        try:
            paths = list(self._path.iterdir())
        except OSError:
            return
        for path in paths:
            with contextlib.suppress(OSError):
                facts = path.lstat()
                if stat.S_ISREG(facts.st_mode) and path.suffix in (SUFFIX, PART_SUFFIX):
                    yield path, facts

    def _make_room(self, size: int) -> None:
        files = sorted(self._files(), key=lambda item: item[1].st_mtime)
        taken = sum(facts.st_size for _, facts in files)
        for path, facts in files:
            if taken + size <= self._limit:
                break
            if path.suffix == SUFFIX:
                _unlink(path)
                taken -= facts.st_size


def _write_file(
    descriptor: int, binding: bytes, mixed: bytes, warm: bytes, state: bytes | bytearray
) -> None:
    head = _HEAD.pack(MAGIC, bytes(32), binding, len(mixed)) + mixed + warm
    digest = hashlib.sha256(head[_HASHED_FROM:])
    _write_all(descriptor, memoryview(head))
    whole = memoryview(state)
    for start in range(0, len(whole), _PIECE):
        piece = whole[start : start + _PIECE]
        digest.update(piece)
        _write_all(descriptor, piece)
    os.lseek(descriptor, len(MAGIC), os.SEEK_SET)
    _write_all(descriptor, memoryview(digest.digest()))


def _write_all(descriptor: int, data: memoryview) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def _open(path: Path) -> int:
    return os.open(path, os.O_RDONLY | _FLAGS)


def _read_whole(path: Path) -> memoryview:
    with open(_open(path), "rb") as file:
        data = bytearray(os.fstat(file.fileno()).st_size)
        if file.readinto(data) != len(data):
            raise DamagedPromptError
    return memoryview(data)


def _read_head(path: Path, binding: bytes) -> tuple[tuple[int, ...], Mix]:
    """Tokens and mix, not checked yet beyond what they look like."""
    with open(_open(path), "rb") as file:
        head = file.read(_HEAD.size)
        if len(head) < _HEAD.size:
            raise DamagedPromptError
        magic, _, bound, length = _HEAD.unpack(head)
        if magic != MAGIC or bound != binding or length > _MAX_MIX:
            raise DamagedPromptError
        mix = _mix(file.read(length))
        size = os.fstat(file.fileno()).st_size - file.tell()
        tokens, _ = read_tokens(memoryview(file.read(min(size, _PIECE))))
    return tokens, mix


def _parse(data: memoryview) -> tuple[Mix, tuple[int, ...], memoryview]:
    """Mix, tokens and state of a whole file, after a look at its hash."""
    if len(data) < _HEAD.size:
        raise DamagedPromptError
    magic, digest, _, length = _HEAD.unpack_from(data)
    if magic != MAGIC or hashlib.sha256(data[_HASHED_FROM:]).digest() != digest:
        raise DamagedPromptError
    start = _HEAD.size + length
    return (_mix(bytes(data[_HEAD.size : start])), *read_tokens(data[start:]))


def _mix(data: bytes) -> Mix:
    return tuple((str(name), float(scale)) for name, scale in json.loads(data))


def _unlink(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()
