from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from runtime_stub.chat import history
from runtime_stub.chat.history import HistoryFile, history_file
from runtime_stub.errors import OutputError


@pytest.fixture
def file(tmp_path: Path) -> HistoryFile:
    return HistoryFile(tmp_path / "data" / "history" / "x.jsonl")


def test_lines_come_back(file: HistoryFile) -> None:
    lines = ["one", "two\nlines", "ünïcødé 日本", '"quoted" \\', "\ud800"]
    assert file.load() == []
    for line in lines:
        file.add(line)
    assert file.load() == [*lines[:-1], "?"]
    assert HistoryFile(file.path).load() == file.load()


def test_only_the_user_can_read_it(file: HistoryFile) -> None:
    before = os.umask(0)
    try:
        file.add("secret")
    finally:
        os.umask(before)
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.path.parent.stat().st_mode) == 0o700
    file.path.chmod(0o644)
    file.add("more")
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600


def test_damaged_lines_are_left_out(file: HistoryFile) -> None:
    file.add("good")
    with file.path.open("ab") as stream:
        stream.write(b'\xff\xfe\n{"a": 1}\n"cut')
    assert file.load() == ["good"]


def test_it_does_not_grow_for_ever(file: HistoryFile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "_LONGEST_FILE", 2000)
    monkeypatch.setattr(history, "KEPT", 10)
    for number in range(300):
        file.add(f"line {number}")
    assert file.path.stat().st_size < 2100
    assert file.load()[-1] == "line 299"
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600
    assert [path.name for path in file.path.parent.iterdir()] == ["x.jsonl"]


def test_link_of_somebody_else_is_not_followed(file: HistoryFile, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("precious")
    file.path.parent.mkdir(parents=True)
    file.path.symlink_to(target)
    with pytest.raises(OutputError, match="--no-history"):
        file.add("x")
    assert target.read_text() == "precious"


def test_trouble_is_said(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("in the way")
    file = HistoryFile(tmp_path / "data" / "history" / "x.jsonl")
    with pytest.raises(OutputError, match="not kept"):
        file.add("x")


@pytest.mark.parametrize("name", ["Clinic", "a/b", "../../etc", "", "日本", "x" * 300])
def test_each_pack_has_its_own(home: Path, name: str) -> None:
    path = history_file(name)
    assert path.parent == home / "data" / "satchel" / "history"
    HistoryFile(path).add("x")
    assert json.loads(path.read_text()) == "x"
