"""A client that costs little: streams of several chats at once, with the time of each piece.

Client and server share the machine's cores, so whatever the client computes is taken from
what is measured. It parses nothing while an answer comes; the pieces are looked at afterwards.
"""

from __future__ import annotations

import json
import selectors
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

_RETRY_SECONDS = 0.004
"""Between attempts while a server is starting."""
_MARK = b"data: {"


class ClientError(Exception):
    """A server did not answer as it should."""


@dataclass
class Answer:
    """One answer as it came. Times are seconds since the request was sent."""

    text: str
    prompt_tokens: int
    cached_tokens: int
    tokens: int
    """As the server counted them; the pieces, and no prompt tokens, where it does not tell."""
    pieces: list[float]
    """When each piece of text came."""
    end: float

    @property
    def first(self) -> float:
        """When the first piece of text came."""
        return self.pieces[0]

    @property
    def rate(self) -> float:
        """Tokens a second once the first was there."""
        return (self.tokens - 1) / (self.pieces[-1] - self.pieces[0])


@dataclass
class _Exchange:
    connection: socket.socket
    received: list[tuple[float, bytes]] = field(default_factory=list)


def chats(port: int, bodies: Sequence[Mapping[str, Any]], timeout: float = 300) -> list[Answer]:
    """Ask all `bodies` (of POST /v1/chat/completions, streamed) at once."""
    with selectors.DefaultSelector() as selector:
        exchanges = [_Exchange(_connect(port)) for _ in bodies]
        try:
            started = time.perf_counter()
            for exchange, body in zip(exchanges, bodies, strict=True):
                exchange.connection.sendall(_head_and(body))
                selector.register(exchange.connection, selectors.EVENT_READ, exchange)
            while selector.get_map():
                ready = selector.select(timeout)
                if not ready:
                    raise ClientError(f"no answer within {timeout:.0f} s")
                for key, _ in ready:
                    data = key.data.connection.recv(1 << 16)
                    if data:
                        key.data.received.append((time.perf_counter() - started, data))
                    else:
                        selector.unregister(key.data.connection)
        finally:
            for exchange in exchanges:
                exchange.connection.close()
    return [_answer_of(exchange.received) for exchange in exchanges]


def first_text(
    port: int,
    body: Mapping[str, Any],
    started: float,
    timeout: float,
    is_alive: Callable[[], bool] = lambda: True,
) -> float:
    """Seconds from `started` (time.perf_counter) to an answer's first piece of text, from a
    server that may not even listen yet. The rest of the answer is not waited for."""
    while time.perf_counter() - started < timeout and is_alive():
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=timeout) as connection:
                connection.sendall(_head_and(body))
                found = _wait_for_text(connection)
        except OSError:
            found = False
        if found:
            return time.perf_counter() - started
        time.sleep(_RETRY_SECONDS)
    raise ClientError(f"no first token within {timeout:.0f} s of the start, or it ended")


def _wait_for_text(connection: socket.socket) -> bool:
    """Whether text came; False for another end, such as an error while loading."""
    received = b""
    while data := connection.recv(1 << 16):
        received += data
        if received.startswith(b"HTTP/1.1 503"):
            return False
        for line in received.split(b"\n")[:-1]:
            if line.startswith(_MARK) and _text_of(json.loads(line[6:])):
                return True
    return False


def _connect(port: int) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), timeout=30)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def _head_and(body: Mapping[str, Any]) -> bytes:
    data = json.dumps(body).encode()
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    )
    return head.encode() + data


def _answer_of(received: Sequence[tuple[float, bytes]]) -> Answer:
    whole = b"".join(data for _, data in received)
    if not whole.startswith(b"HTTP/1.1 200"):
        raise ClientError(f"the server said: {whole[:500].decode(errors='replace')}")
    ends, total = [], 0
    for at, data in received:
        total += len(data)
        ends.append((total, at))
    text, pieces, usage, place, block = [], [], None, 0, 0
    while (place := whole.find(_MARK, place)) >= 0:
        stop = whole.index(b"\n", place)
        document = json.loads(whole[place + 6 : stop])
        while ends[block][0] < stop:
            block += 1
        if piece := _text_of(document):
            text.append(piece)
            pieces.append(ends[block][1])
        usage = document.get("usage") or usage
        place = stop
    if not pieces or b"data: [DONE]" not in whole:
        raise ClientError(f"the answer is incomplete: {whole[-500:].decode(errors='replace')}")
    usage = usage or {"prompt_tokens": 0, "completion_tokens": len(pieces)}
    details = usage.get("prompt_tokens_details") or {}
    return Answer(
        text="".join(text),
        prompt_tokens=usage["prompt_tokens"],
        cached_tokens=details.get("cached_tokens") or 0,
        tokens=usage["completion_tokens"],
        pieces=pieces,
        end=ends[-1][1],
    )


def _text_of(document: Mapping[str, Any]) -> str:
    choices = document.get("choices") or [{}]
    return str((choices[0].get("delta") or {}).get("content") or "")
