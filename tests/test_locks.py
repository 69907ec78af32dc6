from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from runtime_stub.locks import Taken, leads_to, lock, try_alone, try_lock, use

pytestmark = pytest.mark.skipif(os.name == "nt", reason="no locks there yet")


class TestLock:
    def test_free(self, tmp_path: Path) -> None:
        waited: list[int] = []
        with lock(tmp_path / "x.lock", lambda: waited.append(1)):
            assert (tmp_path / "x.lock").stat().st_mode & 0o777 == 0o600
        assert not waited

    def test_one_at_a_time(self, tmp_path: Path) -> None:
        """The second one waits, says so once, and goes on as soon as it can."""
        path = tmp_path / "x.lock"
        events: list[str] = []

        def second() -> None:
            with lock(path, lambda: events.append("waiting")):
                events.append("second")

        with lock(path, lambda: None):
            thread = threading.Thread(target=second)
            thread.start()
            deadline = time.monotonic() + 10
            while not events and time.monotonic() < deadline:
                time.sleep(0.01)
            events.append("first is done")
        thread.join(10)
        assert events == ["waiting", "first is done", "second"]

    def test_a_dead_process_holds_nothing(self, tmp_path: Path) -> None:
        path = tmp_path / "x.lock"
        code = (
            "import sys, os, pathlib; from runtime_stub.locks import lock\n"
            "lock(pathlib.Path(sys.argv[1]), print).__enter__(); os._exit(9)"
        )
        assert subprocess.run([sys.executable, "-c", code, str(path)], check=False).returncode == 9
        with lock(path, lambda: pytest.fail("it waited")):
            pass

    def test_not_through_a_link(self, tmp_path: Path) -> None:
        (tmp_path / "x.lock").symlink_to(tmp_path / "elsewhere")
        with (
            pytest.raises(OSError, match="symbolic"),
            lock(tmp_path / "x.lock", lambda: None),
        ):
            pass
        assert not (tmp_path / "elsewhere").exists()

    def test_no_locks_on_this_file_system(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import fcntl

        def refuse(*_: object) -> None:
            raise OSError(95, "Operation not supported")

        monkeypatch.setattr(fcntl, "flock", refuse)
        with lock(tmp_path / "x.lock", lambda: None):
            pass

    def test_a_lock_that_was_removed_while_waiting(self, tmp_path: Path) -> None:
        """Two that wait for it must not end up with two different files."""
        path = tmp_path / "x.lock"
        inside: list[int] = []
        most: list[int] = []

        def enter() -> None:
            with lock(path, lambda: None):
                inside.append(1)
                most.append(len(inside))
                time.sleep(0.05)
                inside.pop()

        with lock(path, lambda: None):
            threads = [threading.Thread(target=enter) for _ in range(4)]
            for thread in threads:
                thread.start()
            time.sleep(0.1)
            path.unlink()
        for thread in threads:
            thread.join(10)
        assert most == [1] * 4


class TestTry:
    def test_lock(self, tmp_path: Path) -> None:
        path = tmp_path / "x.lock"
        with try_lock(path) as first, try_lock(path) as second:
            assert (first, second) == (Taken.YES, Taken.NO)
        with try_lock(path) as third:
            assert third is Taken.YES

    def test_alone(self, tmp_path: Path) -> None:
        """Users share; nobody is alone then."""
        for path in (tmp_path / "folder", tmp_path / "file"):
            path.mkdir() if path.name == "folder" else path.touch()
            users = [os.open(path, os.O_RDONLY) for _ in range(2)]
            assert all(use(path, user) for user in users)
            for user in users:
                with try_alone(path) as taken:
                    assert taken is Taken.NO
                os.close(user)
            with try_alone(path) as taken:
                assert taken is Taken.YES

    def test_what_was_removed_meanwhile_is_not_used(self, tmp_path: Path) -> None:
        path = tmp_path / "file"
        path.touch()
        descriptor = os.open(path, os.O_RDONLY)
        try:
            assert use(path, descriptor)
            path.unlink()
            assert not use(path, descriptor)
            path.touch()
            assert not leads_to(path, descriptor)
        finally:
            os.close(descriptor)

    def test_no_locks_on_this_file_system(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import fcntl

        def refuse(*_: object) -> None:
            raise OSError(95, "Operation not supported")

        monkeypatch.setattr(fcntl, "flock", refuse)
        (tmp_path / "file").touch()
        with try_lock(tmp_path / "x.lock") as taken, try_alone(tmp_path / "file") as alone:
            assert taken is alone is Taken.UNKNOWN
