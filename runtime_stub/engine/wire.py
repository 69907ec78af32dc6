"""The engine's messages as frames on a socket, between a server and the process of its engine.

    0        4      5           13
    +--------+------+-----------+----------------------------+
    | length | type | request   | message, as MessagePack    |
    | u32    | u8   | u64       | `length` bytes             |
    +--------+------+-----------+----------------------------+

`type` is the message's place in TYPES: both ends are the same file, so that it needs no name
that lasts. `request` says which request a message belongs to, 0 for none.

Nearly all are Text of the first choice, without probabilities: that has a type of its own, and is
not MessagePack but the text, in UTF-8.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, get_args

from runtime_stub.engine.messages import AnyRequest, EngineSettings, Event, ModelFacts, Status, Text
from runtime_stub.engine.outbox import Outbox
from runtime_stub.errors import EngineError
from runtime_stub.later import without

with without("typing_extensions"):  # that takes longer to load than all of it
    import msgspec

MAX_MESSAGE = 64 << 20
"""Longest message in bytes."""
_HEADER = struct.Struct(">IBQ")
_PIECE = 256 << 10
"""How much is read at once."""


@dataclass(frozen=True)
class Start:
    """The first frame to the engine's process: what it shall load, and how."""

    model: str
    """What the pack's recipe calls it."""
    settings: EngineSettings


@dataclass(frozen=True)
class Cancel:
    """Stop the request that the frame names; it still ends with an event."""


@dataclass(frozen=True)
class Ping:
    """A sign of life. The engine's process answers each with another."""


@dataclass(frozen=True)
class Close:
    """End. What is in flight is given up."""


TYPES: tuple[type, ...] = (
    Start,
    Cancel,
    Ping,
    Close,
    *get_args(AnyRequest),
    *get_args(Event),
    Status,
    ModelFacts,
)
_CODES = {kind: code for code, kind in enumerate(TYPES)}
_TEXT, _ONLY_TEXT = _CODES[Text], len(TYPES)
_KINDS = (*TYPES, Text)
_encoder = msgspec.msgpack.Encoder()
_decoders: dict[int, msgspec.msgpack.Decoder[Any]] = {}


class WireError(EngineError):
    """A message that can't be sent, or bytes that are none."""


class Frame(msgspec.Struct, frozen=True, gc=False):
    """A frame as it came; its message is not looked at before it is asked for."""

    kind: type
    request: int
    body: bytes
    only_text: bool = False

    def message(self) -> Any:
        """The message, of type `kind`. Raises WireError."""
        try:
            if self.only_text:
                return Text(self.body.decode())
            code = _CODES[self.kind]
            if code not in _decoders:
                _decoders[code] = msgspec.msgpack.Decoder(self.kind)
            return _decoders[code].decode(self.body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise WireError(f"a {self.kind.__name__} can't be read: {error}") from None


def encode(message: Any, request: int = 0) -> bytearray:
    """The whole frame of a message. Raises WireError for one that can't travel: too long, too
    deep, an integer beyond 64 bits, half a surrogate pair."""
    frame = bytearray(_HEADER.size)
    code = _CODES[type(message)]
    try:
        if code == _TEXT and not (message.choice or message.logprobs):
            code = _ONLY_TEXT
            frame += message.text.encode()
        else:
            _encoder.encode_into(message, frame, _HEADER.size)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise WireError(f"it can't be handed over: {error}") from None
    length = len(frame) - _HEADER.size
    if length > MAX_MESSAGE:
        raise WireError(f"it is {length >> 20} MiB long, and {MAX_MESSAGE >> 20} MiB is the limit")
    _HEADER.pack_into(frame, 0, length, code, request)
    return frame


class Inbox:
    """Cuts what was received into frames."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def add(self, received: bytes | bytearray) -> Iterator[Frame]:
        """The frames that are complete now. Take them all; the rest waits for more.

        Raises WireError for what can't be one, after those that came before it.
        """
        data = received
        if self._rest:
            self._rest += received
            data = self._rest
        place, size = 0, len(data)
        try:
            while size - place >= _HEADER.size:
                length, code, request = _HEADER.unpack_from(data, place)
                if length > MAX_MESSAGE or code >= len(_KINDS):
                    raise WireError("what came is no frame")
                start, end = place + _HEADER.size, place + _HEADER.size + length
                if end > size:
                    return
                place = end
                only_text = code == _ONLY_TEXT
                yield Frame(_KINDS[code], request, bytes(data[start:end]), only_text)
        finally:
            if data is self._rest:
                del self._rest[:place]
            elif place < size:
                self._rest += data[place:]


class Connection:
    """One end of the socket. Sending never waits, and is possible from any thread; one thread
    receives, and in the end calls `close`."""

    def __init__(self, end: socket.socket) -> None:
        """Take over a connected stream socket."""
        self._socket = end
        self._inbox = Inbox()
        self._frames: Iterator[Frame] = iter(())
        """Those that `receive` has not returned yet."""
        self._selector = selectors.DefaultSelector()
        self._selector.register(end, selectors.EVENT_READ)
        self._outbox = Outbox(end)

    def send(self, message: Any, request: int = 0) -> None:
        """Send a message. Raises WireError as `encode` does; that the other end is gone shows
        when receiving."""
        self._outbox.send(encode(message, request))

    def send_frame(self, frame: bytearray) -> None:
        """Send what `encode` returned."""
        self._outbox.send(frame)

    def gather(self, message: Any, request: int = 0) -> None:
        """Send a message together with the next, or at `flush`. Raises WireError."""
        self._outbox.gather(encode(message, request))

    def flush(self) -> None:
        """Send what was gathered."""
        self._outbox.flush()

    def fileno(self) -> int:
        """The descriptor of the socket, to wait at."""
        return self._socket.fileno()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until `arrived` does not have to; False when nothing came for `timeout` seconds."""
        return bool(self._selector.select(timeout))

    def arrived(self) -> Iterator[Frame]:
        """The frames that are complete now, after reading what there is. Take them all.

        Raises EOFError when the other end is gone (a frame cut short by that is none), and, from
        the iterator, WireError for what is no frame.
        """
        try:
            data = self._socket.recv(_PIECE)
        except OSError:
            data = b""
        if not data:
            raise EOFError
        return self._inbox.add(data)

    def receive(self, timeout: float | None = None) -> Frame:
        """The next frame.

        Raises TimeoutError when nothing came for `timeout` seconds, the rest as `arrived`.
        """
        while True:
            for frame in self._frames:
                return frame
            if timeout is not None and not self.wait(timeout):
                raise TimeoutError
            self._frames = self.arrived()

    def finish(self, timeout: float) -> None:
        """Wait until what was sent is written; nothing can be sent any more."""
        self._outbox.finish(timeout)

    def break_off(self) -> None:
        """Let the other end, and whoever receives at this one, see the end now."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Give the socket up, with what is not written yet."""
        self.break_off()
        self.finish(10)
        self._selector.close()
        self._socket.close()
