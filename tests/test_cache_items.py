from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import small_packs as s
from test_cache import NAME, put_model

from runtime_stub.cache_items import CacheItem, items, prune, remove
from runtime_stub.errors import OutputError
from runtime_stub.locks import Taken, lock, use

DAY = 24 * 3600
TEXT = f"{'ab' * 16}-{'cd' * 16}"
"""Name of a kept prompt."""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@contextmanager
def used(path: Path) -> Iterator[None]:
    """As a running pack uses it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        assert use(path, descriptor)
        yield
    finally:
        os.close(descriptor)


@pytest.fixture
def full(root: Path) -> Path:
    """A cache with one thing of each kind."""
    model = put_model(root)
    model.with_suffix(".lock").touch()
    os.utime(model.with_suffix(".lock"), (1000, 1000))
    (root / "models" / f"{'cd' * 32}.part").write_bytes(bytes(5))
    runtimes = root / "runtimes"
    (runtimes / NAME / "inner").mkdir(parents=True)
    (runtimes / NAME / "inner" / "file").write_bytes(bytes(7))
    (runtimes / f"{NAME}.lock").touch()
    (runtimes / ".work-abababababababab-1").mkdir()
    (root / "prompts").mkdir()
    prompt = root / "prompts" / f"{TEXT}.prompt"
    prompt.write_bytes(bytes(3))
    os.utime(prompt, (2000, 2000))
    prompt.with_name(f"{prompt.name}.17.part").write_bytes(bytes(2))
    return root


class TestItems:
    def test_all(self, tmp_path: Path, full: Path) -> None:
        found = items([tmp_path / "none", full])
        assert [(item.kind, item.name, item.size) for item in found] == [
            ("partial", ".work-abababababababab-1", 0),
            ("runtime", NAME, 7),
            ("model", NAME, 10),
            ("partial", "cd" * 32, 5),
            ("prompt", TEXT, 3),
            ("partial", f"{TEXT}.prompt.17", 2),
        ]
        assert {item.root for item in found} == {full}
        assert found[2].last_used == 1000
        assert found[4].last_used == 2000

    def test_none(self, tmp_path: Path) -> None:
        assert items([tmp_path]) == []


class TestRemove:
    def test_everything(self, full: Path) -> None:
        for item in items([full]):
            remove(item)
        assert items([full]) == []
        for folder in ("models", "runtimes", "prompts"):
            assert s.files_in(full / folder) == set()

    def test_link_is_removed_not_followed(self, tmp_path: Path, full: Path) -> None:
        (tmp_path / "mine").mkdir()
        link = full / "runtimes" / "link"
        link.symlink_to(tmp_path / "mine")
        remove(CacheItem(full, "runtime", "link", 0, 0, link))
        assert not link.is_symlink()
        assert (tmp_path / "mine").is_dir()

    def test_gone_already(self, full: Path) -> None:
        item = items([full])[1]
        shutil.rmtree(item.path)
        with pytest.raises(OutputError, match="can't be removed"):
            remove(item)

    @pytest.mark.skipif(os.name == "nt", reason="no locks there yet")
    def test_what_is_in_use_stays(self, full: Path) -> None:
        runtime = full / "runtimes" / NAME
        model = full / "models" / f"{NAME}.gguf"
        with used(runtime), used(model):
            outcome = {item.path: remove(item) for item in items([full])}
            assert not outcome[runtime]
            assert not outcome[model]
            assert (runtime / "inner" / "file").read_bytes() == bytes(7)
            assert model.exists()
            assert runtime.with_suffix(".lock").exists()
        assert {runtime, model} == {
            item.path
            for item in items([full])
            if item.kind in ("runtime", "model") and remove(item)
        }

    @pytest.mark.skipif(os.name == "nt", reason="no locks there yet")
    def test_what_is_being_extracted_stays(self, full: Path) -> None:
        part = full / "models" / f"{'cd' * 32}.part"
        work = full / "runtimes" / ".work-abababababababab-1"
        with (
            lock(part.with_suffix(".lock"), lambda: None),
            lock(full / "runtimes" / f"{NAME}.lock", lambda: None),
        ):
            outcome = {item.path: remove(item) for item in items([full])}
            assert (outcome[part], outcome[work]) == (False, False)
            assert part.exists()
            assert work.exists()
            assert part.with_suffix(".lock").exists(), "its holder would be alone with it"


class TestStrangers:
    """What others have put there is neither listed nor removed."""

    def test_other_names(self, full: Path) -> None:
        mine = [
            full / "models" / "llama.gguf",
            full / "models" / "notes.part",
            full / "runtimes" / "work",
            full / "runtimes" / ".work-mine",
            full / "prompts" / "mine.prompt",
            full / "prompts" / f"{TEXT}.part",
        ]
        for path in mine:
            path.touch()
        assert not {item.path for item in items([full])} & set(mine)

    @pytest.mark.skipif(os.name == "nt", reason="no permission bits")
    def test_folders_that_can_not_be_trusted(self, tmp_path: Path, full: Path) -> None:
        link = tmp_path / "link"
        link.symlink_to(full)
        assert items([link]) == []
        (full / "models").chmod(0o777)
        assert {item.path.parent.name for item in items([full])} == {"runtimes", "prompts"}
        full.chmod(0o770)
        assert items([full]) == []


class TestPrune:
    @pytest.fixture
    def runtimes(self, root: Path) -> dict[int, Path]:
        """Runtimes by the days since they were last used."""
        root.mkdir(mode=0o700)
        (root / "runtimes").mkdir(mode=0o700)
        found = {}
        for days in (-90, 0, 29, 31, 400):
            path = root / "runtimes" / hashlib.sha256(b"%d" % days).hexdigest()
            path.mkdir()
            (path / "file").touch()
            stamp = path.with_suffix(".lock")
            stamp.touch()
            os.utime(stamp, (time.time() - days * DAY,) * 2)
            found[days] = path
        return found

    def test_by_age(self, root: Path, runtimes: dict[int, Path]) -> None:
        gone = prune([root], days=30)
        assert {item.path for item in gone} == {runtimes[31], runtimes[400]}
        kept = {runtimes[days] for days in (-90, 0, 29)}
        assert set((root / "runtimes").glob("*")) == {
            *kept,
            *(path.with_suffix(".lock") for path in kept),
        }

    def test_kept_by_name(self, root: Path, runtimes: dict[int, Path]) -> None:
        assert [i.path for i in prune([root], days=30, keep=[runtimes[31].name])] == [runtimes[400]]

    @pytest.mark.skipif(os.name == "nt", reason="no locks there yet")
    def test_in_use(self, root: Path, runtimes: dict[int, Path]) -> None:
        with used(runtimes[400]):
            assert [item.path for item in prune([root], days=30)] == [runtimes[31]]
        assert [item.path for item in prune([root], days=30)] == [runtimes[400]]

    def test_without_locks_nothing_goes(
        self, root: Path, runtimes: dict[int, Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("runtime_stub.locks._try", lambda _: Taken.UNKNOWN)
        assert prune([root], days=30) == []
        assert remove(items([root])[0]), "unless a person asks for it"

    def test_without_a_stamp_the_extraction_counts(self, root: Path) -> None:
        path = put_model(root)  # its own time says 2000
        assert prune([root], days=30) == []
        assert path.exists()

    def test_prompts(self, full: Path) -> None:
        assert [item.name for item in prune([full], days=30) if item.kind == "prompt"] == [TEXT]
