"""Keys that packs are signed with: Ed25519, in the PEM files that other programs use, too."""

from __future__ import annotations

import base64
import dataclasses
import functools
import os
import re
from collections.abc import Callable
from pathlib import Path

from nacl.exceptions import BadSignatureError
from nacl.signing import SigningKey, VerifyKey

from packer.output import OutputFile, check_destination
from packer.recipe import PackingRecipe
from runtime_stub.errors import FormatError, InputError, RecipeError
from runtime_stub.signature import key_of, key_text

_PRIVATE = bytes.fromhex("302e020100300506032b657004220420")
"""What PKCS #8 puts before the 32 bytes of a private key."""
_PUBLIC = bytes.fromhex("302a300506032b6570032100")
_PEM = re.compile(
    r"-----BEGIN (PRIVATE|PUBLIC) KEY-----\s+([A-Za-z0-9+/=\s]+?)\s*-----END \1 KEY-----"
)
_LONGEST = 4096


def new_key(path: Path, *, force: bool) -> str:
    """Make a key: the private half at `path`, for its owner's eyes, the public one at
    `path`.pub. Returns the public key as text. Raises OutputError."""
    public_path = path.with_name(f"{path.name}.pub")
    for destination in (path, public_path):
        check_destination(destination, force=force)
    key = SigningKey.generate()
    for destination, kind, data in (
        (public_path, "PUBLIC", _PUBLIC + bytes(key.verify_key)),
        (path, "PRIVATE", _PRIVATE + bytes(key)),
    ):
        with OutputFile(destination) as output:
            if kind == "PRIVATE" and hasattr(os, "fchmod"):
                os.fchmod(output.descriptor, 0o600)
            text = base64.b64encode(data).decode("ascii")
            output.write(f"-----BEGIN {kind} KEY-----\n{text}\n-----END {kind} KEY-----\n".encode())
            output.complete()
    return key_text(bytes(key.verify_key))


def private_key(path: Path) -> SigningKey:
    """The private key in the file at `path`. Raises InputError or FormatError."""
    kind, data = _read(path)
    if kind != "PRIVATE" or not data.startswith(_PRIVATE) or len(data) != len(_PRIVATE) + 32:
        raise FormatError(f"{path} holds no private Ed25519 key", "Make one with `satchel key new`")
    return SigningKey(data[len(_PRIVATE) :])


def public_key(text: str) -> bytes:
    """The public key that `text` is, or that the file of that name holds.

    Of a private key's file it is the public half. Raises InputError, FormatError or RecipeError.
    """
    if re.fullmatch(r"[A-Za-z0-9+/]{43}=", text):
        return key_of(text)
    if "-----BEGIN" in text:
        return _public(*_parsed(text, "the key"), "the key")
    path = Path(text)
    return _public(*_read(path), str(path))


def sign(key: SigningKey, message: bytes) -> bytes:
    """The content of a signature entry: public key and signature."""
    return bytes(key.verify_key) + key.sign(message).signature


def verify_ed25519(key: bytes, message: bytes, signature: bytes) -> bool:
    """Whether `signature` is the one of `message` by the owner of the public key `key`."""
    try:
        VerifyKey(key).verify(message, signature)
    except (BadSignatureError, ValueError):
        return False
    return True


def _public(kind: str, data: bytes, name: str) -> bytes:
    if kind == "PRIVATE" and data.startswith(_PRIVATE) and len(data) == len(_PRIVATE) + 32:
        return bytes(SigningKey(data[len(_PRIVATE) :]).verify_key)
    if kind == "PUBLIC" and data.startswith(_PUBLIC) and len(data) == len(_PUBLIC) + 32:
        return data[len(_PUBLIC) :]
    raise FormatError(f"{name} holds no Ed25519 key", "Make one with `satchel key new`")


def _read(path: Path) -> tuple[str, bytes]:
    try:
        if path.is_dir():
            raise InputError(f"{path} is a folder", "Name a key's file")
        with path.open("rb") as file:
            text = file.read(_LONGEST).decode("ascii", "replace")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"the key {path} can't be read: {reason}") from None
    return _parsed(text, str(path))


def _parsed(text: str, name: str) -> tuple[str, bytes]:
    found = _PEM.search(text)
    if found is None:
        raise FormatError(f"{name} holds no key", "Make one with `satchel key new`")
    try:
        return found[1], base64.b64decode("".join(found[2].split()), validate=True)
    except ValueError:
        raise FormatError(f"{name} holds no key", "Make one with `satchel key new`") from None


def signing(
    packing: PackingRecipe, path: Path | None
) -> tuple[PackingRecipe, Callable[[bytes], bytes] | None]:
    """What signs with the private key at `path`, and the recipe with the key that it demands in
    the form that travels. Raises RecipeError where that is another one."""
    demanded = packing.recipe.signed_by
    own = None if path is None else private_key(path)
    if demanded is not None:
        wanted = public_key(demanded)
        if own is None or bytes(own.verify_key) != wanted:
            raise RecipeError(
                f"the recipe demands a signature by {key_text(wanted)}",
                "Sign with the private key that belongs to it: --sign KEY",
            )
        recipe = dataclasses.replace(packing.recipe, signed_by=key_text(wanted))
        packing = dataclasses.replace(packing, recipe=recipe)
    return packing, None if own is None else functools.partial(sign, own)
