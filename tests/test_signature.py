from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import small_packs as s
from nacl.signing import SigningKey

from packer import keys
from packer.pack import plan_pack, write_pack
from packer.stub import Stub
from runtime_stub import manifest as manifest_format
from runtime_stub.bundle import FOOTER_SIZE, Footer
from runtime_stub.describe import describe_bundle, lines
from runtime_stub.errors import DamagedError, RecipeError, SignatureError
from runtime_stub.openssl import verify_ed25519
from runtime_stub.signature import (
    Verify,
    key_of,
    key_text,
    require_signer,
    signed_message,
    signer,
)
from runtime_stub.verify import verify

BOTH = pytest.mark.parametrize("check", [verify_ed25519, keys.verify_ed25519])


@pytest.fixture
def key(tmp_path: Path) -> SigningKey:
    keys.new_key(tmp_path / "key", force=False)
    return keys.private_key(tmp_path / "key")


@pytest.fixture
def pack(tmp_path: Path, small_model: Path, small_stub: Stub, key: SigningKey) -> Path:
    """A signed pack."""
    path = tmp_path / "assistant"
    plan = plan_pack(path, s.packing(small_model), small_stub, force=False)
    write_pack(plan, s.nothing, force=False, sign=lambda message: keys.sign(key, message))
    return path


def signed_by(path: Path) -> bytes | None:
    with s.opened(path) as bundle:
        return signer(bundle, verify_ed25519)


def problems(path: Path, key: bytes) -> str:
    """What `verify --key` finds."""
    with s.opened(path) as bundle:
        bad = [region.name for region in verify(bundle, s.nothing) if region.problem]
        try:
            require_signer(bundle, key, verify_ed25519)
        except SignatureError as error:
            return error.message
        return ", ".join(bad)


class TestVectors:
    """From RFC 8032, section 7.1."""

    KEY = bytes.fromhex("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c")
    SIGNATURE = bytes.fromhex(
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
        "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
    )

    @BOTH
    def test_right(self, check: Verify) -> None:
        assert check(self.KEY, b"\x72", self.SIGNATURE)

    @BOTH
    def test_wrong(self, check: Verify) -> None:
        assert not check(self.KEY, b"\x73", self.SIGNATURE)
        assert not check(self.KEY, b"", self.SIGNATURE)
        assert not check(bytes(32), b"\x72", self.SIGNATURE)
        assert not check(self.KEY, b"\x72", self.SIGNATURE[:-1] + b"\x01")
        assert not check(self.KEY, b"\x72", self.SIGNATURE[:-1])
        assert not check(self.KEY[:-1], b"\x72", self.SIGNATURE)


class TestSigner:
    def test_signed(self, pack: Path, key: SigningKey) -> None:
        assert signed_by(pack) == bytes(key.verify_key)
        assert problems(pack, bytes(key.verify_key)) == ""
        with s.opened(pack) as bundle:
            document = describe_bundle(bundle, keys.verify_ed25519)
        assert document["signed_by"] == key_text(bytes(key.verify_key))
        assert f"  signed by  {document['signed_by']}" in list(lines(document))

    def test_not_signed(self, stub_file: Path) -> None:
        assert signed_by(stub_file) is None
        with s.opened(stub_file) as bundle:
            assert describe_bundle(bundle, verify_ed25519)["signed_by"] is None
        assert "is not signed" in problems(stub_file, bytes(32))

    def test_by_somebody_else(self, pack: Path) -> None:
        assert "was signed by" in problems(pack, bytes(32))

    @pytest.mark.parametrize("field", ["name", "recipe", "stub", "features"])
    def test_changed_manifest(self, pack: Path, field: str) -> None:
        def change(document: dict[str, object]) -> None:
            if field == "features":
                document["satchel"]["features"] = ["sidecar"]  # type: ignore[index]
            else:
                document[field] = "evil" if field == "name" else {"name": "evil"}

        s.rewrite_manifest(pack, change)
        with pytest.raises(SignatureError, match="changed after it was signed"):
            signed_by(pack)

    @pytest.mark.parametrize("entry", ["launcher", "runtime", "model", "model.chunks"])
    def test_changed_bytes(self, pack: Path, key: SigningKey, entry: str) -> None:
        """The signature is right still; the hashes that it covers are not."""
        with s.opened(pack) as bundle:
            offset = bundle.entry(entry).offset
        s.flip(pack, offset)
        assert problems(pack, bytes(key.verify_key)) == entry

    @pytest.mark.parametrize("entry", ["launcher", "runtime", "model"])
    def test_changed_bytes_with_hashes_that_fit(
        self, pack: Path, key: SigningKey, entry: str
    ) -> None:
        with s.opened(pack) as bundle:
            found = bundle.entry(entry)
            s.flip(pack, found.offset)
            digest = hashlib.sha256(bundle.read(found)).hexdigest()
        s.change_entry(pack, entry, sha256=digest, stored_sha256=digest, table=None)
        assert "changed after it was signed" in problems(pack, bytes(key.verify_key))

    @pytest.mark.parametrize("name", ["runtime_offset", "runtime_length", "runtime_sha256"])
    def test_changed_footer(self, pack: Path, key: SigningKey, name: str) -> None:
        """The launcher goes by the footer, which is not signed itself."""
        data = pack.read_bytes()
        footer = Footer.unpack(data[-FOOTER_SIZE:])
        value = bytes(32) if name == "runtime_sha256" else getattr(footer, name) - 1
        fields: dict[str, Any] = {name: value}
        changed = replace(footer, **fields)
        pack.write_bytes(data[:-FOOTER_SIZE] + changed.pack())
        assert "changed after it was signed" in problems(pack, bytes(key.verify_key))

    def test_signature_of_another_pack(
        self, pack: Path, small_model: Path, small_stub: Stub, key: SigningKey
    ) -> None:
        other = pack.with_name("other")
        plan = plan_pack(other, s.packing(small_model, system="Lie."), small_stub, force=False)
        write_pack(plan, s.nothing, force=False, sign=lambda message: keys.sign(key, message))
        with s.opened(pack) as bundle:
            borrowed = bundle.read(bundle.entry("signature"))
            offset = bundle.entry("signature").offset
        with s.opened(other) as bundle:
            own = bundle.entry("signature").offset
        assert own == offset
        data = bytearray(other.read_bytes())
        data[own : own + len(borrowed)] = borrowed
        other.write_bytes(data)
        s.change_entry(
            other,
            "signature",
            **dict.fromkeys(("sha256", "stored_sha256"), hashlib.sha256(borrowed).hexdigest()),
        )
        assert "changed after it was signed" in problems(other, bytes(key.verify_key))

    def test_removed(self, pack: Path, key: SigningKey) -> None:
        def change(document: dict[str, list[dict[str, object]]]) -> None:
            document["entries"] = [e for e in document["entries"] if e["kind"] != "signature"]

        s.rewrite_manifest(pack, change)
        assert "is not signed" in problems(pack, bytes(key.verify_key))

    def test_malformed(self, pack: Path) -> None:
        s.change_entry(pack, "signature", length=95, size=95)
        with pytest.raises(SignatureError, match="malformed"):
            signed_by(pack)

    def test_manifest_in_another_form(self) -> None:
        sound = manifest_format.serialise(manifest_format.Manifest((), {}))
        assert signed_message(sound).endswith(sound)
        for other in (sound + b" ", sound.replace(b":", b": "), sound[:-1] + b',"name":""}'):
            with pytest.raises(DamagedError, match="canonical"):
                signed_message(other)


def test_readers_that_know_no_signatures_ignore_it(
    pack: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is an entry of an open kind, and no feature."""
    known = {kind: text for kind, text in manifest_format.KINDS.items() if kind != "signature"}
    monkeypatch.setattr(manifest_format, "KINDS", known)
    with s.opened(pack) as bundle:
        assert bundle.manifest.features == ()
        assert not [region for region in verify(bundle, s.nothing) if region.problem]


def test_key_text() -> None:
    key = bytes(range(32))
    assert key_of(f" {key_text(key)}\n") == key
    for text in ("", "x", key_text(key)[:-4], "not base64 at all, but long enough for it"):
        with pytest.raises(RecipeError, match="is no public key"):
            key_of(text)
