"""The web page: its files out of the runtime, and how this pack presents itself.

The files lie in the runtime compressed with gzip, as `packer.web_build` made them, beside an
index. Nothing of it is read before somebody opens the page.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from runtime_stub.server.face import Face, Operation
from runtime_stub.server.openai_errors import ErrorReply, error_reply
from runtime_stub.server.replies import Problem
from runtime_stub.server.replies import json as json_reply

WEB_FOLDER = "web"
"""Folder of the runtime that holds the page."""
INDEX = "index.json"
"""File there that names the others: {"app.js": {"type": "text/javascript", "tag": "..."}}."""
START = "index.html"
PREFIX = "/web/"
"""Below this are files of the page, which say nothing of the model: no key is asked for."""
DEFAULT_ACCENT = "#2f6f4e"

# Only our own files run, and nothing reaches another address. Markup comes to life in no other
# way than through the sanitiser's policy.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types dompurify"
)
_HEADERS = {
    # Asked for anew each time, and answered with 304: a new pack on the same port shows at once.
    "Cache-Control": "no-cache",
    "Content-Security-Policy": _POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    # Links in answers: not even their names are looked up before somebody follows them.
    "X-DNS-Prefetch-Control": "off",
}
_ICON = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 64 64">'
    '<rect width="64" height="64" rx="16" fill="{accent}"/>'
    '<text x="32" y="33" fill="{ink}" font-family="system-ui, sans-serif" font-size="{size}" '
    'font-weight="600" text-anchor="middle" dominant-baseline="central">{text}</text></svg>'
)


class PackFace(msgspec.Struct):
    """How the pack presents itself. Everybody may see it."""

    name: str
    accent: str
    greeting: str
    starters: list[str]


@dataclass(frozen=True)
class Page:
    """The page of one pack."""

    folder: Path
    """Where its files lie."""
    name: str
    face: Mapping[str, Any]
    """The recipe's table of this name."""

    @cached_property
    def files(self) -> Mapping[str, Mapping[str, str]]:
        """The index; empty where the runtime has no page."""
        try:
            return dict(json.loads((self.folder / INDEX).read_bytes()))
        except FileNotFoundError:
            return {}

    def reply(self, name: str, http: HttpRequest) -> Response:
        """The file called `name`, or that the browser has it already. Raises Problem (404)."""
        facts = self.files.get(name)
        if facts is None:
            raise Problem(404, f"there is nothing at {http.url.path}")
        headers = {**_HEADERS, "ETag": f'"{facts["tag"]}"', "Vary": "Accept, Accept-Encoding"}
        if facts["tag"] in http.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        try:
            content = (self.folder / f"{name}.gz").read_bytes()
        except OSError:
            raise Problem(
                503, "the page's files were removed from the cache: start the pack again"
            ) from None
        if "gzip" in http.headers.get("accept-encoding", ""):
            headers["Content-Encoding"] = "gzip"
        else:
            import gzip

            content = gzip.decompress(content)
        return Response(content, headers=headers, media_type=facts["type"])

    def icon(self) -> tuple[bytes, str]:
        """The recipe's picture, or one of its characters or the name's first; and its type."""
        icon = str(self.face.get("icon") or self.name[:1].upper() or "?")
        if icon.startswith("data:"):
            import base64

            kind, _, data = icon.removeprefix("data:").partition(";base64,")
            return base64.b64decode(data), kind
        import html

        accent = self.accent
        # As bright as the eye sees it.
        red, green, blue = bytes.fromhex(accent[1:])
        dark = 0.299 * red + 0.587 * green + 0.114 * blue < 150
        picture = _ICON.format(
            accent=accent,
            ink="#fff" if dark else "#000",
            size=max(14, 40 - 6 * (len(icon) - 1)),
            text=html.escape(icon),
        )
        return picture.encode(), "image/svg+xml"

    @property
    def accent(self) -> str:
        """The pack's colour."""
        return str(self.face.get("accent", DEFAULT_ACCENT))


def face(page: Page) -> Face:
    """What the page is made of. The page itself is what a browser finds at "/"."""
    handlers = _Handlers(page)
    return Face(
        name="Web page",
        operations=(
            Operation(
                "GET", f"{PREFIX}face.json", handlers.face, "Name and greeting", None, PackFace
            ),
            Operation("GET", f"{PREFIX}icon", handlers.icon, "The pack's picture", media="image/*"),
            Operation(
                "GET", PREFIX + "{file:path}", handlers.file, "A file of the web page", media="*/*"
            ),
        ),
        shape=error_reply,
        error=ErrorReply,
    )


class _Handlers:
    def __init__(self, page: Page) -> None:
        self._page = page

    async def face(self, _http: HttpRequest) -> Response:
        page = self._page
        made = PackFace(
            page.name, page.accent, page.face.get("greeting", ""), page.face.get("starters", [])
        )
        return json_reply(made, headers={"Cache-Control": "no-cache"})

    async def icon(self, _http: HttpRequest) -> Response:
        content, kind = self._page.icon()
        # A picture may be a document, too: it shows, and does nothing.
        policy = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"}
        return Response(content, headers={**_HEADERS, **policy}, media_type=kind)

    async def file(self, http: HttpRequest) -> Response:
        return self._page.reply(http.path_params["file"], http)
