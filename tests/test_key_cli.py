from __future__ import annotations

import os
from pathlib import Path

import pytest
from packer_commands import Cli, cli

__all__ = ["cli"]


def test_new_and_show(cli: Cli, tmp_path: Path) -> None:
    made = cli("key", "new", tmp_path / "own")
    assert made.code == 0
    told, public = made.out.splitlines()
    assert told == f"{tmp_path}/own: the private key; {tmp_path}/own.pub: the public key"
    for half in ("own", "own.pub"):
        shown = cli("key", "show", tmp_path / half)
        assert (shown.code, shown.out) == (0, f"{public}\n")


@pytest.mark.skipif(os.name == "nt", reason="modes of Unix")
def test_the_private_half_is_its_owners(cli: Cli, tmp_path: Path) -> None:
    assert cli("key", "new", tmp_path / "own").code == 0
    assert (tmp_path / "own").stat().st_mode & 0o777 == 0o600


def test_one_that_exists_is_kept(cli: Cli, tmp_path: Path) -> None:
    first = cli("key", "new", tmp_path / "own").out
    before = (tmp_path / "own").read_bytes()
    refused = cli("key", "new", tmp_path / "own")
    assert refused.code == 7
    assert "--force" in refused.err
    assert (tmp_path / "own").read_bytes() == before
    assert cli("key", "new", tmp_path / "own", "--force").out.splitlines()[1] not in first


def test_what_is_none(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("text")
    assert cli("key", "show", tmp_path / "text").code != 0
    folder = cli("key", "new", f"{tmp_path}/")
    assert folder.code == 7
    assert "names a folder" in folder.err
