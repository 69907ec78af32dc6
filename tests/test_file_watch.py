from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime_stub.engine.file_watch import FileWatch
from runtime_stub.engine.messages import ModelSource
from runtime_stub.errors import PackChangedError


@pytest.fixture
def files(tmp_path: Path) -> Iterator[list[ModelSource]]:
    paths = [tmp_path / "model", tmp_path / "draft"]
    for path in paths:
        path.write_bytes(b"weights")
    descriptors = [os.open(path, os.O_RDONLY) for path in paths]
    yield [ModelSource(descriptor, 0, 7) for descriptor in descriptors]
    for descriptor in descriptors:
        os.close(descriptor)


def test_left_alone(files: list[ModelSource]) -> None:
    watch = FileWatch(files)
    assert not watch.changed
    for _ in range(3):
        watch.look()


@pytest.mark.parametrize("name", ["model", "draft"])
def test_written_to(files: list[ModelSource], tmp_path: Path, name: str) -> None:
    watch = FileWatch(files)
    with (tmp_path / name).open("ab") as stream:
        stream.write(b"!")
    assert watch.changed
    with pytest.raises(PackChangedError, match="was changed while it was running"):
        watch.look()


def test_written_over(files: list[ModelSource], tmp_path: Path) -> None:
    """Of the same size: its time tells."""
    os.utime(tmp_path / "model", ns=(0, 0))
    watch = FileWatch(files)
    (tmp_path / "model").write_bytes(b"nothing")
    assert watch.changed


def test_replaced_is_not_changed(files: list[ModelSource], tmp_path: Path) -> None:
    """What is open goes on being what it was."""
    watch = FileWatch(files)
    (tmp_path / "new").write_bytes(b"other weights")
    (tmp_path / "new").replace(tmp_path / "model")
    assert not watch.changed


def test_a_look_for_each_token_is_not_one_at_the_files(
    files: list[ModelSource], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr("runtime_stub.engine.file_watch.time.monotonic", lambda: now)
    watch = FileWatch(files)
    watch.look()
    (tmp_path / "model").write_bytes(b"other weights")
    watch.look()
    now += 0.2
    with pytest.raises(PackChangedError):
        watch.look()
