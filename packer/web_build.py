"""Puts the web page together for a stub: our own files and the libraries, compressed."""

from __future__ import annotations

import gzip
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from runtime_stub.errors import StubError
from runtime_stub.server.page import INDEX


@dataclass(frozen=True)
class Library:
    """An npm package of which one file is part of the page."""

    package: str
    file: str
    target: str
    """What it is called in the page."""
    ending: str = ""
    """What makes a module of a script that is none."""


LIBRARIES = (
    Library("marked", "lib/marked.esm.js", "vendor/marked.js"),
    Library(
        "dompurify",
        "dist/purify.min.js",
        "vendor/purify.js",
        "\nexport default globalThis.DOMPurify;\n",
    ),
    Library("@highlightjs/cdn-assets", "es/highlight.min.js", "vendor/highlight.js"),
    Library("temml", "dist/temml.min.js", "vendor/temml.js", "\nexport default temml;\n"),
)
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


def package_folder(checkout: Path, package: str) -> Path:
    """Where build.py put an npm package. Raises StubError when it did not."""
    folder = checkout / "build" / "web" / "node_modules" / package
    if not (folder / "package.json").is_file():
        raise StubError(f"the npm package {package} is not there", "Run `python build.py stub`")
    return folder


def build_web(checkout: Path, target: Path) -> None:
    """Write the page to `target`, a new folder, as `runtime_stub.server.page` reads it.

    Raises StubError when a library is missing. The same inputs give the same bytes.
    """
    own = checkout / "templates" / "web"
    contents = {
        path.relative_to(own).as_posix(): path.read_bytes()
        for path in own.rglob("*")
        if path.suffix in TYPES
    }
    for library in LIBRARIES:
        script = (package_folder(checkout, library.package) / library.file).read_bytes()
        # Nobody has the source map that its last line may name.
        script = script.partition(b"\n//# sourceMappingURL=")[0]
        contents[library.target] = script + library.ending.encode()
    index = {}
    for name, content in sorted(contents.items()):
        file = target / f"{name}.gz"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(gzip.compress(content, 9, mtime=0))
        index[name] = {
            "type": TYPES[Path(name).suffix],
            "tag": hashlib.sha256(content).hexdigest()[:20],
        }
    (target / INDEX).write_text(json.dumps(index), encoding="ascii")
