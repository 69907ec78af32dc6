from __future__ import annotations

import os
from pathlib import Path

import pytest
from test_commands import direct_broker

from runtime_stub.chat import files
from runtime_stub.chat.files import Files
from runtime_stub.errors import FormatError, InputError, OutputError


@pytest.fixture
def outside(tmp_path: Path) -> Files:
    return Files(direct_broker(tmp_path))


def test_written_and_read(outside: Files, out: Path) -> None:
    outside.write(out / "x", b"data", replace=False)
    assert outside.read(out / "x") == b"data"
    assert [path.name for path in out.iterdir()] == ["x"]


def test_existing_file_is_not_replaced_unasked(outside: Files, out: Path) -> None:
    (out / "x").write_text("precious")
    with pytest.raises(OutputError, match=r"exists already.*--force"):
        outside.write(out / "x", b"data", replace=False)
    assert (out / "x").read_text() == "precious"
    outside.write(out / "x", b"data", replace=True)
    assert (out / "x").read_text() == "data"


@pytest.mark.parametrize("name", ["", "missing/x.json"])
def test_where_nothing_can_be_written(outside: Files, out: Path, name: str) -> None:
    with pytest.raises(OutputError):
        outside.write(out / name, b"x", replace=True)


def test_missing_files_and_folders(outside: Files, out: Path) -> None:
    for path in (out, out / "missing", Path(os.devnull)):
        with pytest.raises(InputError):
            outside.read(path)


def test_far_too_large(outside: Files, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_LARGEST", 3)
    (out / "x").write_text("four")
    with pytest.raises(FormatError, match="too large"):
        outside.read(out / "x")


def test_without_a_way_out(out: Path) -> None:
    closed = Files(None)
    with pytest.raises(InputError, match="--no-sandbox"):
        closed.read(out / "x")
    with pytest.raises(OutputError, match="--no-sandbox"):
        closed.write(out / "x", b"", replace=True)
