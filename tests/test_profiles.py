from __future__ import annotations

import json
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import small_packs as s

from packer.pack import Warm
from packer.stub import Stub
from runtime_stub.cache import PROFILES
from runtime_stub.cache_items import items, prune, remove
from runtime_stub.engine import hardware
from runtime_stub.engine.hardware import Hardware
from runtime_stub.engine.messages import EngineSettings
from runtime_stub.engine.profile import TRIES, Measured, Profile, Trial
from runtime_stub.models import packed_models
from runtime_stub.profiles import CachedShelf, shelf_for
from runtime_stub.recipe import recipe_from

MEASURED = Measured(
    Profile(threads=3, prompt_threads=2, flash_attention=False, batch=256, repack=True),
    (Trial("threads", 3, "generate", 12.5, 1.2, 8, chosen=True),),
    10.0,
    100.0,
    3.5,
    "a note",
)
KEY = {"machine": "a"}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "cache"
    folder.mkdir(mode=0o700)
    return folder


@pytest.fixture
def shelf(root: Path) -> CachedShelf:
    return CachedShelf([root], KEY)


def file_of(shelf: CachedShelf) -> Path:
    path = shelf.path
    assert path is not None
    return path


def test_there_and_back(shelf: CachedShelf, root: Path) -> None:
    assert shelf.read() is None
    assert shelf.path is None
    assert shelf.begin()
    assert shelf.read() is None
    shelf.keep(MEASURED)
    assert shelf.read() == MEASURED
    assert CachedShelf([root / "none", root], KEY).read() == MEASURED
    assert CachedShelf([root], {"machine": "b"}).read() is None
    assert [path.name for path in (root / PROFILES).iterdir()] == [file_of(shelf).name]
    assert (
        file_of(shelf).stat().st_mode & 0o077 == 0 or (root / PROFILES).stat().st_mode & 0o077 == 0
    )


def test_what_is_known_is_not_measured_again(shelf: CachedShelf) -> None:
    shelf.keep(MEASURED)
    assert not shelf.begin()
    assert shelf.forget()
    assert not shelf.forget()
    assert shelf.begin()


def test_attempts_that_end_nowhere_end(shelf: CachedShelf) -> None:
    assert [shelf.begin() for _ in range(TRIES + 1)] == [True] * TRIES + [False]


def test_attempts_that_were_given_up_do_not_count(shelf: CachedShelf) -> None:
    for _ in range(2 * TRIES):
        assert shelf.begin()
        shelf.give_up()
        assert shelf.path is None
    assert shelf.begin()
    assert shelf.begin()
    shelf.give_up()
    assert [shelf.begin() for _ in range(TRIES)] == [True] * (TRIES - 1) + [False]


def test_no_place(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    shelf = CachedShelf([file], KEY)
    assert not shelf.begin()
    shelf.keep(MEASURED)
    assert shelf.read() is None


def test_folder_that_others_may_write_to(shelf: CachedShelf, root: Path) -> None:
    shelf.keep(MEASURED)
    (root / PROFILES).chmod(0o777)
    assert shelf.read() is None


def damaged(**changes: Any) -> str:
    """A file in which something is changed."""
    measured: dict[str, Any] = {
        "profile": {"threads": 1},
        "trials": [],
        "generate": 1.0,
        "read": 1.0,
        "seconds": 1.0,
        "note": "",
    }
    return json.dumps({"format": 1, "attempts": 0, "measured": {**measured, **changes}})


def test_a_sound_file(shelf: CachedShelf) -> None:
    shelf.keep(MEASURED)
    file_of(shelf).write_text(damaged())
    assert shelf.read() == Measured(Profile(threads=1), (), 1.0, 1.0, 1.0)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "[" * 100_000,
        "\xff\xfe",
        '{"format": 2, "measured": {}}',
        '{"format": 1, "attempts": "many"}',
        '{"format": 1, "attempts": 0, "measured": []}',
        damaged(profile={"threads": 513}),
        damaged(profile={"threads": -1}),
        damaged(profile={"threads": "2"}),
        damaged(profile={"threads": True}),
        damaged(profile={"batch": 1}),
        damaged(profile={"flash_attention": 1}),
        damaged(profile={"colour": "red"}),
        damaged(profile=[]),
        damaged(trials=[{}]),
        damaged(trials=[1]),
        damaged(trials=None),
        damaged(generate="fast"),
        damaged(unknown=1),
    ],
)
def test_a_damaged_file_counts_as_none(shelf: CachedShelf, text: str) -> None:
    shelf.keep(MEASURED)
    file_of(shelf).write_text(text, encoding="latin-1")
    assert shelf.read() is None
    assert shelf.begin()
    shelf.keep(MEASURED)
    assert shelf.read() == MEASURED


def test_a_file_that_is_too_large(shelf: CachedShelf) -> None:
    shelf.keep(MEASURED)
    file_of(shelf).write_text(damaged(note="x" * 100_000))
    assert shelf.read() is None


def test_what_is_used_stays(shelf: CachedShelf, root: Path) -> None:
    shelf.keep(MEASURED)
    path = file_of(shelf)
    old = time.time() - 40 * 24 * 3600
    os.utime(path, (old, old))
    found = items([root])
    assert [(item.kind, item.name) for item in found] == [("profile", path.stem)]
    assert shelf.read() == MEASURED
    assert prune([root], days=30) == []
    os.utime(path, (old, old))
    assert [item.kind for item in prune([root], days=30)] == ["profile"]
    assert list((root / PROFILES).iterdir()) == []


def test_clearing(shelf: CachedShelf, root: Path) -> None:
    shelf.keep(MEASURED)
    (root / PROFILES / f".{'a' * 64}.json-77").write_text("{")
    (root / PROFILES / "mine.txt").write_text("not ours")
    found = items([root])
    assert sorted(item.kind for item in found) == ["partial", "profile"]
    assert all(remove(item) for item in found)
    assert [path.name for path in (root / PROFILES).iterdir()] == ["mine.txt"]


class TestKey:
    @pytest.fixture
    def pack(self, small_model: Path, out: Path, small_stub: Stub) -> Path:
        return s.pack(small_model, out / "clara", small_stub).path

    def key(self, pack: Path, cores: int = 4, **settings: Any) -> dict[str, Any]:
        with s.opened(pack) as bundle:
            model = packed_models(bundle, recipe_from({}, "here"))[0]
            machine = Hardware(cores, cores, 1, 1)
            return shelf_for(bundle, model, EngineSettings(**settings), machine).key

    def test_what_it_depends_on(
        self, pack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        plain = self.key(pack)
        assert self.key(pack, context=99, parallel=3) == plain
        assert plain["decided"] == {}
        others = [
            self.key(pack, cores=8),
            self.key(pack, kv="q8_0"),
            self.key(pack, threads=2),
            self.key(pack, batch=64),
            self.key(pack, flash_attention=True),
        ]
        monkeypatch.setattr(hardware, "_cpu_quota", lambda: 1.5)
        others.append(self.key(pack))
        (tmp_path / "cpuinfo").write_text("processor : 0\nmodel name : Another\n")
        monkeypatch.setattr(hardware, "_PROCESSOR", tmp_path / "cpuinfo")
        others.append(self.key(pack))
        assert others[-1]["machine"]["processor"] == "Another"
        assert all(other != plain for other in others)
        assert len({json.dumps(other) for other in others}) == len(others)

    def test_a_warm_prompt_decides_flash_attention(
        self, small_model: Path, out: Path, small_stub: Stub
    ) -> None:
        from packer.pack import plan_pack, write_pack

        plan = plan_pack(out / "warm", s.packing(small_model), small_stub, force=False)
        warm = Warm(b"state", "model", {"tokens": 3, "llama_cpp": "abc1234"})
        path = write_pack(plan, s.nothing, force=False, warm=(warm,)).path
        assert self.key(path)["decided"] == {"flash_attention": True}
        other = replace(warm, metadata={"tokens": 3, "llama_cpp": "another"})
        path = write_pack(plan, s.nothing, force=True, warm=(other,)).path
        assert self.key(path)["decided"] == {}


def test_the_processors_own_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "_PROCESSOR", tmp_path / "cpuinfo")
    found = {}
    for name, text in {
        "none": None,
        "x86": "processor\t: 0\nvendor_id\t: Mine\nmodel name\t: Fast One\n\n",
        "arm": "processor : 0\nFeatures : a b\nCPU implementer : 0x41\nCPU part : 0xd0c\n",
        "nonsense": "\xff" * 5000,
    }.items():
        if text is not None:
            (tmp_path / "cpuinfo").write_text(text, encoding="latin-1")
        found[name] = hardware.identity(Hardware(1, 1, 1, 1))["processor"]
    assert found == {"none": "", "x86": "Fast One", "arm": "0x41 0xd0c", "nonsense": ""}


def test_nothing_is_left_half_written(
    shelf: CachedShelf, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Path, *_: Any) -> None:
        raise OSError(28, "No space left on device")

    shelf.keep(MEASURED)
    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", fail)
        shelf.keep(replace(MEASURED, note="new"))
    assert shelf.read() == MEASURED
    assert len(list((root / PROFILES).iterdir())) == 1
