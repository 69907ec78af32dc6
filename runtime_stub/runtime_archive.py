"""Reading the runtime's archive out of a pack, forward and in bounded memory."""

from __future__ import annotations

from runtime_stub.archive import Member, index_length, unpack_index
from runtime_stub.bundle import Bundle
from runtime_stub.errors import FormatError
from runtime_stub.manifest import Entry

_INDEX_HEAD = 16
_MAX_WINDOW = 1 << 27


class RuntimeArchive:
    """The archive as the pack holds it: its members, then their bytes in the same order."""

    def __init__(self, bundle: Bundle) -> None:
        """Raises FormatError when it is not one."""
        import zstandard

        decoder = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW)
        stored = _Stored(bundle, bundle.entry("runtime"))
        self._stream = decoder.stream_reader(stored)  # type: ignore[arg-type]
        self._error = zstandard.ZstdError
        head = self.take(_INDEX_HEAD)
        index = head + self.take(index_length(head) - len(head))
        self.members: tuple[Member, ...] = unpack_index(index)

    def take(self, count: int) -> bytes:
        """The next `count` bytes. Raises FormatError or DamagedError."""
        parts = []
        while count:
            try:
                part = self._stream.read(count)
            except self._error as error:
                raise FormatError(f"the runtime does not decompress: {error}") from None
            if not part:
                raise FormatError("the runtime's archive is cut short")
            parts.append(part)
            count -= len(part)
        return b"".join(parts)


class _Stored:
    """An entry's stored bytes as a file."""

    def __init__(self, bundle: Bundle, entry: Entry) -> None:
        self._bundle = bundle
        self._entry = entry
        self._position = 0

    def read(self, count: int) -> bytes:
        left = self._entry.length - self._position
        data = self._bundle.read(self._entry, self._position, min(count, left))
        self._position += len(data)
        return data
