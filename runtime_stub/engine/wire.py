"""The engine's messages as frames on a socket, between a server and the process of its engine.

    0        4      5           13
    +--------+------+-----------+----------------------------+
    | length | type | request   | message, as MessagePack    |
    | u32    | u8   | u64       | `length` bytes             |
    +--------+------+-----------+----------------------------+

`type` is the message's place in TYPES: both ends are the same file, so that it needs no name
that lasts. `request` says which request a message belongs to, 0 for none.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import struct
from dataclasses import dataclass
from typing import Any, get_args

import msgspec

from runtime_stub.engine.messages import AnyRequest, EngineSettings, Event, ModelFacts, Status
from runtime_stub.engine.outbox import Outbox
from runtime_stub.errors import EngineError

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
_encoder = msgspec.msgpack.Encoder()
_decoders: dict[int, msgspec.msgpack.Decoder[Any]] = {}


class WireError(EngineError):
    """A message that can't be sent, or bytes that are none."""


@dataclass(frozen=True)
class Frame:
    """A frame as it came; its message is not looked at before it is asked for."""

    kind: type
    request: int
    body: bytes

    def message(self) -> Any:
        """The message, of type `kind`. Raises WireError."""
        code = _CODES[self.kind]
        if code not in _decoders:
            _decoders[code] = msgspec.msgpack.Decoder(self.kind)
        try:
            return _decoders[code].decode(self.body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise WireError(f"a {self.kind.__name__} can't be read: {error}") from None


def encode(message: Any, request: int = 0) -> bytearray:
    """The whole frame of a message. Raises WireError for one that can't travel: too long, too
    deep, an integer beyond 64 bits, half a surrogate pair."""
    frame = bytearray(_HEADER.size)
    try:
        _encoder.encode_into(message, frame, _HEADER.size)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise WireError(f"it can't be handed over: {error}") from None
    length = len(frame) - _HEADER.size
    if length > MAX_MESSAGE:
        raise WireError(f"it is {length >> 20} MiB long, and {MAX_MESSAGE >> 20} MiB is the limit")
    _HEADER.pack_into(frame, 0, length, _CODES[type(message)], request)
    return frame


def take(received: bytearray) -> Frame | None:
    """Remove the first frame from `received`; None while it is not complete.

    Raises WireError when there can't be one.
    """
    if len(received) < _HEADER.size:
        return None
    length, code, request = _HEADER.unpack_from(received)
    if length > MAX_MESSAGE or code >= len(TYPES):
        raise WireError("what came is no frame")
    end = _HEADER.size + length
    if len(received) < end:
        return None
    body = bytes(memoryview(received)[_HEADER.size : end])
    del received[:end]
    return Frame(TYPES[code], request, body)


class Connection:
    """One end of the socket. Sending never waits, and is possible from any thread; one thread
    receives, and in the end calls `close`."""

    def __init__(self, end: socket.socket) -> None:
        """Take over a connected stream socket."""
        self._socket = end
        self._received = bytearray()
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

    def receive(self, timeout: float | None = None) -> Frame:
        """The next frame.

        Raises EOFError when the other end is gone (a frame cut short by that is none),
        TimeoutError when nothing came for `timeout` seconds, WireError for what is no frame.
        """
        while (frame := take(self._received)) is None:
            if timeout is not None and not self._selector.select(timeout):
                raise TimeoutError
            try:
                data = self._socket.recv(_PIECE)
            except OSError:
                data = b""
            if not data:
                raise EOFError
            self._received += data
        return frame

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
