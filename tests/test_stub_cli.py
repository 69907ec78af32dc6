from __future__ import annotations

import json
from pathlib import Path

import pytest
import small_packs as s
from packer_commands import Cli, cli, pack

from packer.stub import PLATFORMS, this_platform
from runtime_stub import __version__

__all__ = ["cli", "pack"]

OTHER = next(name for name in PLATFORMS if name != this_platform())


def test_list(cli: Cli, stubs: Path) -> None:
    said = cli("stub", "list")
    assert said.code == 0
    assert this_platform() in said.out
    assert str(stubs) in said.out
    found = json.loads(cli("stub", "list", "--json").out)
    assert [(stub["platform"], stub["version"]) for stub in found] == [
        (this_platform(), __version__)
    ]


def test_none(cli: Cli, stubs: Path) -> None:
    for path in stubs.iterdir():
        path.unlink()
    said = cli("stub", "list")
    assert (said.code, said.out) == (0, "")
    assert "python build.py stub" in said.err
    assert json.loads(cli("stub", "list", "--json").out) == []


def test_add_and_use(cli: Cli, tmp_path: Path, small_model: Path, out: Path) -> None:
    brought = s.write_stub(tmp_path / "brought", facts={"platform": OTHER})
    assert cli("stub", "add", brought).out.startswith(f"{OTHER} {__version__}: ")
    assert cli("pack", small_model, "-o", out / "x", "--platform", OTHER).code == 0
    assert cli("stub", "add", brought).code == 7
    assert cli("stub", "add", brought, "--force").code == 0


def test_add_pack(cli: Cli, pack: Path) -> None:
    said = cli("stub", "add", pack)
    assert said.code == 11
    assert "is a pack" in said.err


def test_build_needs_a_checkout(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("packer.stub_build.CHECKOUT", tmp_path)
    said = cli("stub", "build")
    assert said.code == 11
    assert "in a checkout" in said.err
