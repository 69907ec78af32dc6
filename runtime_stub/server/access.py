"""The access log: one line of JSON for each request, without a word of what was asked."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import datetime, timezone

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from runtime_stub.server.metered import ROUTE
from runtime_stub.server.streaming import WRITE

Write = Callable[[str], None]
_LONGEST_PATH = 500


class AccessLog:
    """Tells `write` of each request of `app`, once its reply has ended."""

    def __init__(self, app: ASGIApp, write: Write) -> None:
        self._app = app
        self._write = write

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        status, size = 0, 0
        start = time.monotonic()
        scope.pop(WRITE, None)  # every byte is counted here

        async def note(message: Message) -> None:
            nonlocal status, size
            if message["type"] == "http.response.start":
                status = message["status"]
            size += len(message.get("body", b""))
            await send(message)

        try:
            await self._app(scope, receive, note)
        finally:
            client = scope.get("client")
            document = {
                "time": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
                "client": client[0] if client else None,
                "method": scope["method"],
                "path": scope["path"][:_LONGEST_PATH],
                "route": scope.get(ROUTE),
                "status": status,
                "bytes": size,
                "seconds": round(time.monotonic() - start, 4),
            }
            # Plain ASCII: what a client puts into a path must not reach a terminal as it is.
            self._write(json.dumps(document).replace("\x7f", "\\u007f"))
