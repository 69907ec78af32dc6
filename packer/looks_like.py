"""Recognizing what a file is that should have been a GGUF and is not."""

from __future__ import annotations

from collections.abc import Callable

AGAIN = "Download or copy it again"
"""What to do about a file that is damaged, cut short, or was never whole."""

_ARCHIVE = "Unpack it first"
_CONVERT = "Convert it with llama.cpp's convert_hf_to_gguf.py, or look for a GGUF of the model"
_DOWNLOAD = "Download the file itself: on Hugging Face, with the link that has /resolve/ in it"
_STARTS: tuple[tuple[tuple[bytes, ...], str, str], ...] = (
    ((b"version https://git-lfs",), "is a Git LFS pointer, not the model", "Run `git lfs pull`"),
    ((b"PK\x03\x04",), "looks like a ZIP archive or a PyTorch model", _CONVERT),
    ((b"\x80\x02", b"\x80\x04"), "looks like a PyTorch model (a pickle)", _CONVERT),
    ((b"lmgg", b"fmgg", b"tjgg", b"algg"), "looks like a GGML file from before GGUF", _CONVERT),
    ((b"\x89HDF",), "looks like an HDF5 file", _CONVERT),
    (
        (b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"\xfd7zXZ", b"7z\xbc\xaf", b"BZh"),
        "is compressed",
        _ARCHIVE,
    ),
    ((b"\x7fELF", b"MZ", b"\xcf\xfa\xed\xfe", b"#!"), "looks like a program", "Name the model"),
)


def looks_like(start: bytes, size: int) -> tuple[str, str]:
    """What a file that starts so seems to be ("it ..."), and what to do about it."""
    if not size:
        return "is empty", AGAIN
    for starts, what, hint in _STARTS:
        if start.startswith(starts):
            return what, hint
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    tests: tuple[tuple[Callable[[], bool], str, str], ...] = (
        (lambda: _is_safetensors(start, size), "looks like a safetensors file", _CONVERT),
        (lambda: text.startswith((b"<!doctype", b"<html", b"<?xml")), "is a web page", _DOWNLOAD),
        (lambda: text.startswith(b"{"), "is JSON text, perhaps a server's error", _DOWNLOAD),
        (lambda: not start.strip(b"\0"), "starts with zeros: it was never written fully", AGAIN),
    )
    for test, what, hint in tests:
        if test():
            return what, hint
    return f"starts with {start[:4]!r}, not b'GGUF'", "Name a file that ends in .gguf"


def _is_safetensors(start: bytes, size: int) -> bool:
    return start[8:9] == b"{" and int.from_bytes(start[:8], "little") < size
