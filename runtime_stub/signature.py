"""Who signed a pack: an Ed25519 signature over its manifest.

The manifest leads to the hash of every other byte, so that whoever signs it signs the pack. The
signature is an entry of its own, of kind "signature": 32 bytes of public key and 64 bytes of
signature. Signed is the manifest without that entry, in canonical form, after a line that says
what it is. Readers that know no signatures see an entry of a kind they ignore.

Two programs check signatures with a library each: `verify` is handed in.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable
from typing import Any

from runtime_stub.bundle import Bundle, read_at
from runtime_stub.errors import DamagedError, RecipeError, SignatureError
from runtime_stub.verify import check_cross_references

KIND = "signature"
KEY_SIZE = 32
SIGNATURE_SIZE = 64
CONTEXT = b"satchel manifest, format 1\n"

Verify = Callable[[bytes, bytes, bytes], bool]
"""Whether, for a public key and a message, a signature is right."""


def signed_message(manifest: bytes) -> bytes:
    """What is signed of the manifest `manifest`. Raises DamagedError if it isn't canonical: it
    could be read in two ways then."""
    document = json.loads(manifest)
    if _canonical(document) != manifest:
        raise DamagedError("the manifest is not in canonical form", "Pack the model again")
    document["entries"] = [entry for entry in document["entries"] if entry["kind"] != KIND]
    return CONTEXT + _canonical(document)


def signer(bundle: Bundle, verify: Verify) -> bytes | None:
    """The public key whose owner has signed the bundle; None if nobody has.

    Raises SignatureError when there is a signature that is not right.
    """
    entries = bundle.of_kind(KIND)
    if not entries:
        return None
    if len(entries) > 1 or entries[0].length != KEY_SIZE + SIGNATURE_SIZE:
        raise SignatureError(f"{bundle.path.name} has a malformed signature", _HINT)
    data = bundle.read(entries[0])
    key, signature = data[:KEY_SIZE], data[KEY_SIZE:]
    footer = bundle.footer
    manifest = read_at(bundle.descriptor, footer.manifest_offset, footer.manifest_length)
    if not verify(key, signed_message(manifest), signature):
        raise SignatureError(f"{bundle.path.name} was changed after it was signed", _HINT)
    return key


def require_signer(bundle: Bundle, key: bytes, verify: Verify) -> None:
    """Raise SignatureError unless the owner of the public key `key` has signed the bundle."""
    found = signer(bundle, verify)
    if found is None:
        raise SignatureError(f"{bundle.path.name} is not signed", _HINT)
    if found != key:
        raise SignatureError(
            f"{bundle.path.name} was signed by {key_text(found)}, not by {key_text(key)}", _HINT
        )
    # The launcher goes by the footer, which is not signed.
    if any(check_cross_references(bundle)):
        raise SignatureError(f"{bundle.path.name} was changed after it was signed", _HINT)


def key_text(key: bytes) -> str:
    """A public key as people copy it."""
    return base64.b64encode(key).decode("ascii")


def key_of(text: str) -> bytes:
    """The public key that `key_text` wrote. Raises RecipeError."""
    try:
        key = base64.b64decode(text.strip(), validate=True)
    except (ValueError, binascii.Error):
        key = b""
    if len(key) != KEY_SIZE:
        raise RecipeError(f"{text[:60]!r} is no public key", "Take it from `satchel key show`")
    return key


_HINT = "Get it again from whoever made it"


def _canonical(document: Any) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
