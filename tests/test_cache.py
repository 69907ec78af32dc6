from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import small_packs as s

from runtime_stub import cache
from runtime_stub.cache import COMPLETE_TIME
from runtime_stub.errors import CacheError, SpaceError

NAME = "ab" * 32
LINUX = sys.platform.startswith("linux")


def put_model(root: Path, size: int = 10, name: str = NAME) -> Path:
    """A complete model in the cache `root`."""
    root.mkdir(mode=0o700, exist_ok=True)
    (root / "models").mkdir(mode=0o700, exist_ok=True)
    path = root / "models" / f"{name}.gguf"
    path.write_bytes(bytes(size))
    os.utime(path, (COMPLETE_TIME, COMPLETE_TIME))
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "cache"


class TestCandidates:
    @pytest.mark.skipif(not LINUX, reason="the folders of Linux")
    def test_order(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TMPDIR", "/var/temporary")
        assert cache.candidates(Path("/packs/assistant")) == [
            home / "cache" / "satchel",
            Path("/packs/.satchel-cache"),
            Path(f"/var/temporary/satchel-{os.getuid()}"),
        ]

    def test_explicit_is_the_only_one(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SATCHEL_CACHE", "some/where")
        assert cache.candidates(Path("/p")) == [Path.cwd() / "some" / "where"]

    def test_no_home(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_: object, **__: object) -> str:
            raise RuntimeError("could not determine the home directory")

        monkeypatch.setattr("platformdirs.user_cache_dir", refuse)
        assert len(cache.candidates(Path("/p"))) == 2

    def test_empty_is_no_choice(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SATCHEL_CACHE", "")
        assert len(cache.candidates(Path("/p"))) == 3


class TestFindModel:
    def test_found(self, root: Path) -> None:
        path = put_model(root)
        assert cache.find_model([root], NAME, 10) == path

    def test_in_a_later_candidate(self, tmp_path: Path, root: Path) -> None:
        path = put_model(root)
        assert cache.find_model([tmp_path / "no", root], NAME, 10) == path

    def test_first_one_wins(self, tmp_path: Path, root: Path) -> None:
        put_model(tmp_path / "second")
        assert cache.find_model([root, tmp_path / "second"], NAME, 10) is not None
        path = put_model(root)
        assert cache.find_model([root, tmp_path / "second"], NAME, 10) == path

    def test_missing(self, root: Path) -> None:
        put_model(root)
        assert cache.find_model([root], "cd" * 32, 10) is None
        assert cache.find_model([], NAME, 10) is None

    def test_other_size(self, root: Path) -> None:
        put_model(root, 11)
        assert cache.find_model([root], NAME, 10) is None

    def test_written_to(self, root: Path) -> None:
        path = put_model(root)
        path.write_bytes(b"x" * 10)
        assert cache.find_model([root], NAME, 10) is None

    def test_link(self, tmp_path: Path, root: Path) -> None:
        path = put_model(root)
        path.rename(tmp_path / "elsewhere")
        path.symlink_to(tmp_path / "elsewhere")
        assert cache.find_model([root], NAME, 10) is None

    def test_folder(self, root: Path) -> None:
        put_model(root).unlink()
        (root / "models" / f"{NAME}.gguf").mkdir()
        assert cache.find_model([root], NAME, 10) is None

    @pytest.mark.parametrize("mode", [0o770, 0o702])
    @pytest.mark.parametrize("which", ["", "models"])
    def test_others_may_write(self, root: Path, mode: int, which: str) -> None:
        put_model(root)
        (root / which).chmod(mode)
        assert cache.find_model([root], NAME, 10) is None

    def test_linked_root(self, tmp_path: Path, root: Path) -> None:
        put_model(root)
        (tmp_path / "link").symlink_to(root)
        assert cache.find_model([tmp_path / "link"], NAME, 10) is None

    def test_read_only_is_enough(self, root: Path) -> None:
        path = put_model(root)
        (root / "models").chmod(0o500)
        root.chmod(0o500)
        try:
            assert cache.find_model([root], NAME, 10) == path
        finally:
            root.chmod(0o700)
            (root / "models").chmod(0o700)


@pytest.fixture
def owners(monkeypatch: pytest.MonkeyPatch) -> dict[Path, int]:
    """Owners that paths seem to have."""
    told: dict[Path, int] = {}
    lstat = Path.lstat

    def lie(path: Path) -> os.stat_result:
        facts = lstat(path)
        if path not in told:
            return facts
        values = list(facts)
        values[4] = told[path]
        more = {name: getattr(facts, name) for name in ("st_mtime_ns", "st_mtime", "st_blocks")}
        return os.stat_result(values, more)

    monkeypatch.setattr(Path, "lstat", lie)
    return told


@pytest.mark.skipif(os.name == "nt", reason="owners are not looked at there")
class TestOwners:
    @pytest.mark.parametrize("which", ["", "models", f"models/{NAME}.gguf"])
    def test_of_another_user(self, root: Path, owners: dict[Path, int], which: str) -> None:
        put_model(root)
        owners[root / which] = os.geteuid() + 1
        assert cache.find_model([root], NAME, 10) is None

    def test_of_root_can_be_read(
        self, root: Path, owners: dict[Path, int], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = put_model(root)
        owners.update({root: 0, root / "models": 0, path: 0})
        assert cache.find_model([root], NAME, 10) == path

    def test_of_root_is_not_written(
        self, root: Path, owners: dict[Path, int], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        root.mkdir(mode=0o700)
        monkeypatch.setattr(os, "geteuid", lambda: 4321)
        owners.update(dict.fromkeys((*root.parents, root), 0))
        with pytest.raises(CacheError, match="belongs to another user"):
            cache.writable_folder([root], "models", 10)

    def test_another_user_on_the_way(self, root: Path, owners: dict[Path, int]) -> None:
        put_model(root)
        owners[root.parent] = os.geteuid() + 1
        assert cache.find_model([root], NAME, 10) is None
        with pytest.raises(CacheError, match="belongs to another user"):
            cache.writable_folder([root], "models", 10)

    def test_unmapped_root_on_the_way(
        self, root: Path, owners: dict[Path, int], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = put_model(root)
        owners[root.parent] = 65534
        assert cache.find_model([root], NAME, 10) is None
        text = Path.read_text
        inside = "0 1000 1\n"
        monkeypatch.setattr(
            Path,
            "read_text",
            lambda path, **more: inside if path.name == "uid_map" else text(path, **more),
        )
        assert cache.find_model([root], NAME, 10) == path

    def test_open_folder_on_the_way(self, tmp_path: Path) -> None:
        shared = tmp_path / "shared"
        shared.mkdir()
        path = put_model(shared / "cache")
        shared.chmod(0o777)
        assert cache.find_model([shared / "cache"], NAME, 10) is None
        shared.chmod(0o1777)
        assert cache.find_model([shared / "cache"], NAME, 10) == path

    def test_links_on_the_way(self, tmp_path: Path, owners: dict[Path, int]) -> None:
        (tmp_path / "real").mkdir()
        put_model(tmp_path / "real" / "cache")
        link = tmp_path / "link"
        link.symlink_to("real")
        (tmp_path / "absolute").symlink_to(link)
        for way in (link, tmp_path / "absolute"):
            assert cache.find_model([way / "cache"], NAME, 10) is not None
        owners[link] = os.geteuid() + 1
        for way in (link, tmp_path / "absolute"):
            assert cache.find_model([way / "cache"], NAME, 10) is None

    def test_link_that_leads_nowhere(self, tmp_path: Path) -> None:
        (tmp_path / "a").symlink_to("b")
        (tmp_path / "b").symlink_to("a")
        assert cache.find_model([tmp_path / "a" / "cache"], NAME, 10) is None


class TestWritableFolder:
    @pytest.mark.parametrize("mask", [0o000, 0o002, 0o022, 0o077])
    def test_made_for_us_alone(self, tmp_path: Path, mask: int) -> None:
        before = os.umask(mask)
        try:
            folder = cache.writable_folder([tmp_path / "x" / "root"], "models", 10)
        finally:
            os.umask(before)
        assert folder == tmp_path / "x" / "root" / "models"
        made = (folder, folder.parent, folder.parent.parent)
        assert [path.stat().st_mode & 0o777 for path in made] == [0o700] * 3

    def test_nothing_is_made_below_what_is_refused(self, tmp_path: Path) -> None:
        shared = tmp_path / "shared"
        shared.mkdir()
        shared.chmod(0o777)
        with pytest.raises(CacheError, match="changed by every user"):
            cache.writable_folder([shared / "a" / "b" / "root"], "models", 10)
        assert list(shared.iterdir()) == []

    def test_first_that_works(self, tmp_path: Path, root: Path) -> None:
        (tmp_path / "file").touch()
        (tmp_path / "open").mkdir(mode=0o777)
        (tmp_path / "open").chmod(0o777)
        (tmp_path / "link").symlink_to(tmp_path)
        unfit = [tmp_path / name for name in ("file", "open", "link", "file/below")]
        assert cache.writable_folder([*unfit, root], "models", 10) == root / "models"

    def test_reasons(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        (tmp_path / "open").mkdir()
        (tmp_path / "open").chmod(0o770)
        with pytest.raises(CacheError) as caught:
            cache.writable_folder([tmp_path / "file", tmp_path / "open"], "models", 10)
        message = str(caught.value)
        assert f"{tmp_path / 'file'}: File exists" in message
        assert "other users may write to it" in message
        assert "Set SATCHEL_CACHE" in message

    def test_not_writable(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(os, "access", lambda *_, **__: False)
        with pytest.raises(CacheError, match="not writable"):
            cache.writable_folder([root], "models", 10)

    def space(self, monkeypatch: pytest.MonkeyPatch, free: Callable[[Path], int]) -> None:
        monkeypatch.setattr(
            shutil, "disk_usage", lambda path: SimpleNamespace(free=free(Path(path)))
        )

    def test_space(self, tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.space(monkeypatch, lambda path: 2**40 if path.is_relative_to(root) else 17 << 20)
        assert cache.writable_folder([tmp_path / "full", root], "models", 2 << 20).parent == root
        with pytest.raises(SpaceError, match=r"needs 2 MB, .* has 18 MB free") as caught:
            cache.writable_folder([tmp_path / "full"], "models", 2 << 20)
        assert "SATCHEL_CACHE" in caught.value.hint

    def test_what_is_there_counts(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        folder = cache.writable_folder([root], "models", 0)
        (folder / "x.part").write_bytes(s.noise(4 << 20))
        self.space(monkeypatch, lambda _: 17 << 20)
        assert cache.writable_folder([root], "models", 4 << 20, part="x.part") == folder
        with pytest.raises(SpaceError):
            cache.writable_folder([root], "models", 4 << 20, part="y.part")

    def test_space_is_said_rather_than_folders(
        self, tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "file").touch()
        self.space(monkeypatch, lambda _: 0)
        with pytest.raises(SpaceError):
            cache.writable_folder([tmp_path / "file", root], "models", 1)


def test_finish_file(root: Path) -> None:
    folder = cache.writable_folder([root], "models", 0)
    part, final = folder / f"{NAME}.part", folder / f"{NAME}.gguf"
    part.write_bytes(b"0123456789")
    descriptor = os.open(part, os.O_RDWR)
    try:
        cache.finish_file(descriptor, part, final)
    finally:
        os.close(descriptor)
    assert not part.exists()
    assert cache.find_model([root], NAME, 10) == final


def test_mark_used(root: Path) -> None:
    path = put_model(root)
    cache.mark_used(path)  # nothing to mark
    stamp = path.with_suffix(".lock")
    stamp.touch()
    os.utime(stamp, (1000, 1000))
    cache.mark_used(path)
    assert time.time() - stamp.stat().st_mtime < 60
    ahead = time.time() + 90 * 24 * 3600  # before somebody put the clock right
    os.utime(stamp, (ahead, ahead))
    cache.mark_used(path)
    assert abs(time.time() - stamp.stat().st_mtime) < 60
    recent = time.time() - 3600
    os.utime(stamp, (recent, recent))
    cache.mark_used(path)
    assert stamp.stat().st_mtime == pytest.approx(recent)
