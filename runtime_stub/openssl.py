"""Ed25519 through OpenSSL, which the runtime brings anyway: Python hashes with it.

A second library for this alone would make every pack a megabyte larger.
"""

from __future__ import annotations

import ctypes
import hashlib
import sys
from typing import Any

from runtime_stub.errors import SignatureError

_ED25519 = 1087
_NAMES = {
    "win32": ("libcrypto-3.dll", "libcrypto-3-x64.dll"),
    "darwin": ("libcrypto.3.dylib",),
}
_Pointer = ctypes.c_void_p


def verify_ed25519(key: bytes, message: bytes, signature: bytes) -> bool:
    """Whether `signature` is the one of `message` by the owner of the public key `key`.

    Raises SignatureError where there is no OpenSSL 3.
    """
    crypto = _library()
    public = crypto.EVP_PKEY_new_raw_public_key(_ED25519, None, key, len(key))
    context = crypto.EVP_MD_CTX_new()
    try:
        return bool(
            public
            and context
            and crypto.EVP_DigestVerifyInit(context, None, None, None, public) == 1
            and crypto.EVP_DigestVerify(context, signature, len(signature), message, len(message))
            == 1
        )
    finally:
        crypto.EVP_MD_CTX_free(context)
        crypto.EVP_PKEY_free(public)


def _library() -> Any:
    hashlib.sha256()  # loads it, as Python links it
    for name in _NAMES.get(sys.platform, ("libcrypto.so.3",)):
        try:
            crypto = ctypes.CDLL(name)
        except OSError:
            continue
        for function, result, arguments in (
            (
                crypto.EVP_PKEY_new_raw_public_key,
                _Pointer,
                (ctypes.c_int, _Pointer, ctypes.c_char_p, ctypes.c_size_t),
            ),
            (crypto.EVP_MD_CTX_new, _Pointer, ()),
            (crypto.EVP_DigestVerifyInit, ctypes.c_int, (_Pointer,) * 5),
            (
                crypto.EVP_DigestVerify,
                ctypes.c_int,
                (_Pointer, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_size_t),
            ),
            (crypto.EVP_MD_CTX_free, None, (_Pointer,)),
            (crypto.EVP_PKEY_free, None, (_Pointer,)),
        ):
            function.restype = result
            function.argtypes = arguments
        return crypto
    raise SignatureError("signatures can't be checked: there is no OpenSSL 3 here")
