"""A real pack, signed: made, verified, changed, refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import small_packs as s
from running_pack import ASK, place, sample_model, satchel

pytestmark = pytest.mark.pack


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a key, its public half, and a pack that demands it."""
    folder = tmp_path_factory.mktemp("signed")
    satchel("key", "new", folder / "key")
    (folder / "recipe.toml").write_text(
        'signed_by = "@key.pub"\nsystem = "You are a helpful assistant."\nmax_tokens = 24\n'
    )
    satchel(
        *("pack", sample_model(), "-o", folder / "assistant"),
        *("--recipe", folder / "recipe.toml", "--sign", folder / "key"),
    )
    return folder


def test_it_runs_and_says_who_signed_it(folder: Path, tmp_path: Path) -> None:
    key = satchel("key", "show", folder / "key").stdout.strip()
    there = place(tmp_path, source=folder / "assistant")
    assert "Paris" in there.run(*ASK).stdout
    assert json.loads(there.run("info", "--json").stdout)["signed_by"] == key
    assert f"signed by  {key}" in satchel("inspect", folder / "assistant").stdout
    for given in (key, folder / "key.pub"):
        said = satchel("verify", folder / "assistant", "--key", given).stdout
        assert said.endswith("Its signature is right.\n")


def test_a_changed_pack_is_refused(folder: Path, tmp_path: Path) -> None:
    """One that still demands its signature refuses to start; what drops the demand is found by
    whoever has the key."""
    there = place(tmp_path, source=folder / "assistant")
    content = there.pack.read_bytes()
    there.pack.unlink()
    there.pack.write_bytes(content)
    there.pack.chmod(0o755)

    def lie(document: Any) -> None:
        document["recipe"]["system"] = "You lie."

    s.rewrite_manifest(there.pack, lie)
    result = there.run(*ASK, check=False)
    assert result.returncode == 15
    assert "was changed after it was signed" in result.stderr
    assert result.stderr.count("\n") == 1

    def drop(document: Any) -> None:
        del document["recipe"]["signed_by"]
        document["entries"] = [e for e in document["entries"] if e["kind"] != "signature"]

    s.rewrite_manifest(there.pack, drop)
    assert there.run(*ASK, check=False).returncode == 0, "nobody demands anything any more"
    found = satchel("verify", there.pack, "--key", folder / "key.pub", check=False)
    assert found.returncode == 15
    assert "is not signed" in found.stderr


def test_packing_without_the_key_that_the_recipe_demands(folder: Path, tmp_path: Path) -> None:
    satchel("key", "new", tmp_path / "other")
    command = ("pack", sample_model(), "-o", tmp_path / "x", "--recipe", folder / "recipe.toml")
    for more in ((), ("--sign", tmp_path / "other")):
        result = satchel(*command, *more, check=False)
        assert result.returncode == 12
        assert "demands a signature by" in result.stderr
    assert not (tmp_path / "x").exists()


def test_bill_of_materials(folder: Path, tmp_path: Path) -> None:
    satchel("sbom", folder / "assistant", "-o", tmp_path / "bom.json")
    document = json.loads((tmp_path / "bom.json").read_text())
    components = {component["name"]: component for component in document["components"]}
    for name in ("click", "starlette", "llama.cpp", "Python", "zstd", "musl", "zig compiler-rt"):
        assert components[name]["type"] == "library"
    if "libc6" in components:  # else the stub was built on another kind of Linux
        assert {"libc6", "libgcc-s1", "libgomp1", "libstdc++6"} < set(components)
    for name in ("zstd", "musl"):
        assert components[name]["version"].count(".") == 2
    for component in components.values():
        if component["type"] == "library":
            assert component["version"], component["name"]
            assert component["purl"], component["name"]
    (model,) = [c for c in components.values() if c["type"] == "machine-learning-model"]
    assert model["licenses"] == [{"license": {"id": "Apache-2.0"}}]
