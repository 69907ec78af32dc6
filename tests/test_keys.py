from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import small_packs as s

from packer import keys
from packer.recipe import PackingRecipe
from runtime_stub.errors import RecipeError, SatchelError
from runtime_stub.signature import key_text


def test_files(tmp_path: Path) -> None:
    text = keys.new_key(tmp_path / "key", force=False)
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
    for given in (str(tmp_path / "key"), str(tmp_path / "key.pub"), text):
        assert key_text(keys.public_key(given)) == text
    pem = (tmp_path / "key.pub").read_text()
    assert key_text(keys.public_key(pem)) == text


def test_others_read_and_write_them(tmp_path: Path) -> None:
    """OpenSSL's own program makes and signs with the same files."""
    program = shutil.which("openssl")
    if program is None:
        pytest.skip("openssl is not installed")
    made = tmp_path / "made"
    subprocess.run([program, "genpkey", "-algorithm", "ed25519", "-out", made], check=True)
    text = key_text(keys.public_key(str(made)))
    keys.new_key(tmp_path / "key", force=False)
    for name in (made, tmp_path / "key"):
        shown = subprocess.run(
            [program, "pkey", "-in", name, "-pubout"],
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        assert keys.public_key(shown) == keys.public_key(str(name))
    assert key_text(bytes(keys.private_key(made).verify_key)) == text


def test_exists(tmp_path: Path) -> None:
    (tmp_path / "key.pub").touch()
    with pytest.raises(SatchelError, match=r"key.pub exists already"):
        keys.new_key(tmp_path / "key", force=False)
    assert not (tmp_path / "key").exists()


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "holds no key"),
        (b"-----BEGIN PRIVATE KEY-----\n????\n-----END PRIVATE KEY-----", "holds no key"),
        (b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----", "no private Ed25519"),
        (b"\xff" * 9000, "holds no key"),
        (None, "can't be read"),
    ],
)
def test_not_a_key(tmp_path: Path, content: bytes | None, match: str) -> None:
    if content is not None:
        (tmp_path / "key").write_bytes(content)
    with pytest.raises(SatchelError, match=match):
        keys.private_key(tmp_path / "key")


def test_public_is_not_private(tmp_path: Path) -> None:
    keys.new_key(tmp_path / "key", force=False)
    with pytest.raises(SatchelError, match="no private Ed25519 key"):
        keys.private_key(tmp_path / "key.pub")


class TestSigning:
    @pytest.fixture
    def own(self, tmp_path: Path) -> Path:
        keys.new_key(tmp_path / "own", force=False)
        return tmp_path / "own"

    def demanding(self, model: Path, key: str | None) -> PackingRecipe:
        packing = s.packing(model)
        return replace(packing, recipe=replace(packing.recipe, signed_by=key))

    def test_nobody_asks_for_it(self, small_model: Path) -> None:
        packing = self.demanding(small_model, None)
        assert keys.signing(packing, None) == (packing, None)

    def test_signs(self, small_model: Path, own: Path) -> None:
        _, sign = keys.signing(self.demanding(small_model, None), own)
        assert sign is not None
        signed = sign(b"message")
        key, signature = signed[:32], signed[32:]
        assert key == keys.public_key(str(own))
        assert keys.verify_ed25519(key, b"message", signature)

    def test_the_demanded_key_travels_as_text(self, small_model: Path, own: Path) -> None:
        demanded = own.with_name("own.pub").read_text()
        packing, sign = keys.signing(self.demanding(small_model, demanded), own)
        assert sign is not None
        assert packing.recipe.signed_by == key_text(keys.public_key(demanded))

    @pytest.mark.parametrize("other", [True, False])
    def test_another_key_is_demanded(
        self, small_model: Path, own: Path, tmp_path: Path, *, other: bool
    ) -> None:
        demanded = keys.new_key(tmp_path / "demanded", force=False)
        with pytest.raises(RecipeError, match="demands a signature by"):
            keys.signing(self.demanding(small_model, demanded), own if other else None)
