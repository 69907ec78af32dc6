from __future__ import annotations

import json
import os
import shutil
import stat
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from runtime_stub.engine.prompt_files import MAGIC, PromptFolder, StoredPrompt

OURS, OTHERS = bytes(range(32)), bytes(32)
TOKENS = tuple(range(100, 400))
STATE = bytes(range(256)) * 40
MIX = (("clinic", 0.5),)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    folder = tmp_path / "prompts"
    folder.mkdir(0o700)
    return folder


@pytest.fixture
def folder(path: Path) -> PromptFolder:
    return PromptFolder(path, 1 << 20, OURS)


def written(folder: PromptFolder, first: int = 0) -> StoredPrompt:
    made = folder.write((first, *TOKENS), MIX, STATE)
    assert made is not None
    return made


def used(prompt: StoredPrompt, seconds_ago: float) -> None:
    os.utime(prompt.path, (time.time() - seconds_ago,) * 2)


def test_comes_back(folder: PromptFolder) -> None:
    made = written(folder)
    assert bytes(made.state) == STATE
    (found,) = folder.prompts()
    assert (found.tokens, found.mix) == ((0, *TOKENS), MIX)
    assert bytes(found.state) == STATE
    assert not found.state.readonly


def test_only_its_owner_may_read_it(folder: PromptFolder) -> None:
    old = os.umask(0)
    try:
        made = written(folder)
    finally:
        os.umask(old)
    assert stat.S_IMODE(made.path.stat().st_mode) == 0o600


def test_nothing_half_written_is_left(folder: PromptFolder, path: Path) -> None:
    made = written(folder)
    again = written(folder)
    assert again.path == made.path
    assert list(path.iterdir()) == [made.path]


def test_what_fits_something_else_stays(folder: PromptFolder, path: Path) -> None:
    other = PromptFolder(path, 1 << 20, OTHERS)
    made = written(other)
    (path / "README").write_text("mine")
    assert folder.prompts() == []
    assert [found.path for found in other.prompts()] == [made.path]
    assert (path / "README").exists()


def flipped(place: int) -> Callable[[bytes], bytes]:
    return lambda data: data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


@pytest.mark.parametrize(
    "damage",
    [
        *(flipped(place) for place in (0, 9, 41, 73, 80, 105, 300, -1)),
        lambda data: data[:-1],
        lambda data: data[:20],
        lambda data: data + b"\0",
        lambda _: b"",
    ],
)
def test_damage(folder: PromptFolder, path: Path, damage: Callable[[bytes], bytes]) -> None:
    """It is noticed at the start or when it is needed, and the file is gone then."""
    made = written(folder)
    made.path.write_bytes(damage(made.path.read_bytes()))
    for prompt in folder.prompts():
        assert len(prompt.state) == 0
    assert list(path.iterdir()) == []
    assert len(made.state) == 0


def test_another_sound_file_in_its_place(folder: PromptFolder) -> None:
    first, second = written(folder), written(folder, 1)
    shutil.copy(second.path, first.path)
    assert len(first.state) == 0
    assert bytes(second.state) == STATE


@pytest.mark.parametrize("mix", [b"1", b"[" * 60000, b"[1]", b'{"a": 1}', b"null", b"\xff"])
def test_nonsense_in_front(folder: PromptFolder, path: Path, mix: bytes) -> None:
    made = written(folder)
    data = made.path.read_bytes()
    rest = data[76 + len(json.dumps(MIX)) :]
    made.path.write_bytes(data[:72] + len(mix).to_bytes(4, "little") + mix + rest)
    assert folder.prompts() == []
    assert list(path.iterdir()) == []


def test_removed_by_somebody(folder: PromptFolder) -> None:
    made = written(folder)
    made.path.unlink()
    assert len(made.state) == 0
    assert folder.prompts() == []


class TestLimit:
    def test_who_was_used_longest_ago_goes(self, path: Path) -> None:
        folder = PromptFolder(path, 3 * (len(STATE) + 2000), OURS)
        first, second, third = (written(folder, number) for number in range(3))
        used(first, 30)
        used(second, 20)
        used(third, 10)
        assert len(first.state) > 0  # used just now
        fourth = written(folder, 3)
        assert {item.path for item in folder.prompts()} == {first.path, third.path, fourth.path}

    def test_holds_for_all_packs_together(self, path: Path) -> None:
        limit = 2 * (len(STATE) + 2000)
        other = PromptFolder(path, limit, OTHERS)
        for number in range(2):
            used(written(other, number), 10)
        written(PromptFolder(path, limit, OURS))
        assert len(other.prompts()) == 1

    def test_a_smaller_one_the_next_time(self, folder: PromptFolder, path: Path) -> None:
        for number in range(3):
            used(written(folder, number), 10 - number)
        (left,) = PromptFolder(path, len(STATE) + 2000, OURS).prompts()
        assert left.tokens[0] == 2

    def test_larger_than_all_of_it(self, folder: PromptFolder, path: Path) -> None:
        made = written(folder)
        assert folder.write(TOKENS, (), bytes(1 << 20)) is None
        assert list(path.iterdir()) == [made.path]


class TestUnfinished:
    def test_goes_after_a_while(self, folder: PromptFolder, path: Path) -> None:
        part = path / f"{'0' * 32}-{'1' * 32}.prompt.17.part"
        part.write_bytes(MAGIC)
        folder.prompts()
        assert part.exists()  # somebody may be writing
        os.utime(part, (time.time() - 7200,) * 2)
        folder.prompts()
        assert not part.exists()

    def test_the_disk_refuses(
        self, folder: PromptFolder, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(_descriptor: int, _data: memoryview) -> int:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(os, "write", full)
            assert folder.write(TOKENS, MIX, STATE) is None
        assert list(path.iterdir()) == []
        written(folder)

    def test_hardly_any_space_is_left_alone(
        self, folder: PromptFolder, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        usage = shutil.disk_usage(path)._replace(free=1 << 20)
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
        assert folder.write(TOKENS, MIX, STATE) is None
        assert list(path.iterdir()) == []

    def test_no_folder_any_more(self, folder: PromptFolder, path: Path) -> None:
        path.rmdir()
        assert folder.write(TOKENS, MIX, STATE) is None
        assert folder.prompts() == []
