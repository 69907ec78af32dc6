from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import small_packs as s

from packer.output import OutputFile, check_destination, require_other, require_space
from runtime_stub.errors import OutputError, SpaceError


class TestOutputFile:
    def test_appears_when_complete(self, out: Path) -> None:
        with OutputFile(out / "file") as output:
            output.write(b"first ")
            output.write(b"second")
            assert not (out / "file").exists()
            output.complete()
        assert s.files_in(out) == {"file"}
        assert (out / "file").read_bytes() == b"first second"

    def test_gaps_are_zero(self, out: Path) -> None:
        with OutputFile(out / "file") as output:
            output.position = 3
            output.write(b"x")
            output.complete()
        assert (out / "file").read_bytes() == b"\0\0\0x"

    @pytest.mark.parametrize("error", [ValueError(), KeyboardInterrupt()])
    def test_nothing_is_left_behind(self, out: Path, error: BaseException) -> None:
        (out / "file").write_bytes(b"old")

        def interrupted() -> None:
            with OutputFile(out / "file") as output:
                output.write(b"new")
                raise error

        with pytest.raises(type(error)):
            interrupted()
        assert s.files_in(out) == {"file"}
        assert (out / "file").read_bytes() == b"old"

    def test_never_completed(self, out: Path) -> None:
        with OutputFile(out / "file") as output:
            output.write(b"x")
        assert s.files_in(out) == set()

    def test_other_name(self, out: Path) -> None:
        with OutputFile(out / "file") as output:
            output.complete(name="other")
        assert s.files_in(out) == {"other"}

    @pytest.mark.skipif(os.name == "nt", reason="no permission bits")
    @pytest.mark.parametrize(
        ("mask", "plain", "executable"),
        [(0o022, 0o644, 0o755), (0o077, 0o600, 0o700), (0o027, 0o640, 0o750)],
    )
    def test_mode(self, out: Path, mask: int, plain: int, executable: int) -> None:
        before = os.umask(mask)
        try:
            for name in ("plain", "executable"):
                with OutputFile(out / name) as output:
                    output.complete(executable=name == "executable")
        finally:
            os.umask(before)
        assert (out / "plain").stat().st_mode & 0o777 == plain
        assert (out / "executable").stat().st_mode & 0o777 == executable

    @pytest.mark.parametrize(
        ("number", "error", "match"),
        [
            (28, SpaceError, "the disk of .*/file is full"),
            (122, SpaceError, "nothing was left behind"),
            (5, OutputError, "file can't be written: Input/output error"),
        ],
    )
    def test_errors(self, out: Path, number: int, error: type[Exception], match: str) -> None:
        with pytest.raises(error, match=match), OutputFile(out / "file"):
            raise OSError(number, os.strerror(number))
        assert s.files_in(out) == set()

    @pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs /proc")
    def test_folder_that_takes_no_files(self) -> None:
        """Even root can't make files in /proc."""
        with pytest.raises(OutputError, match="takes no new files"):
            OutputFile(Path("/proc/self/file"))

    @pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write anywhere")
    def test_unwritable_folder(self, out: Path) -> None:
        out.chmod(0o500)
        try:
            with pytest.raises(OutputError, match="can't be written: Permission denied"):
                OutputFile(out / "file")
        finally:
            out.chmod(0o700)

    def test_short_writes(self, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        write = os.write
        monkeypatch.setattr(os, "write", lambda file, data: write(file, bytes(data[:3])))
        with OutputFile(out / "file") as output:
            output.write(b"0123456789")
            output.complete()
        assert (out / "file").read_bytes() == b"0123456789"

    def test_what_was_left_behind_is_swept(self, out: Path) -> None:
        """After a SIGKILL, by the next one that writes to the same destination."""
        code = (
            "import sys, os, pathlib; from packer.output import OutputFile\n"
            "OutputFile(pathlib.Path(sys.argv[1])).write(b'x'); os._exit(9)"
        )
        for name in ("file", "other"):
            subprocess.run([sys.executable, "-c", code, out / name], check=False)
        (out / ".file.notes.part").touch()
        left = s.files_in(out)
        assert len(left) == 3
        with OutputFile(out / "file"), OutputFile(out / "file"):
            now = s.files_in(out)
            assert len(now) == 4, "one left behind is gone, two are being written"
        (other,) = s.files_in(out) - {".file.notes.part"}
        assert other.startswith(".other.")

    def test_longest_name(self, out: Path) -> None:
        path = out / ("x" * 240)
        check_destination(path, force=False)
        with OutputFile(path) as output:
            output.complete()
        assert path.exists()


class TestCheckDestination:
    def test_new(self, out: Path) -> None:
        check_destination(out / "new", force=False)

    def test_exists(self, out: Path) -> None:
        (out / "old").touch()
        check_destination(out / "old", force=True)
        with pytest.raises(OutputError, match="exists already") as caught:
            check_destination(out / "old", force=False)
        assert caught.value.hint == "Use --force to replace it"

    @pytest.mark.parametrize("force", [False, True])
    def test_folder(self, out: Path, force: bool) -> None:
        with pytest.raises(OutputError, match="is a folder"):
            check_destination(out, force=force)

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
    def test_not_a_plain_file(self, out: Path) -> None:
        os.mkfifo(out / "pipe")
        with pytest.raises(OutputError, match="not a plain file"):
            check_destination(out / "pipe", force=True)

    def test_no_folder(self, out: Path) -> None:
        with pytest.raises(OutputError, match="does not exist"):
            check_destination(out / "no" / "file", force=False)
        (out / "file").touch()
        with pytest.raises(OutputError, match="is not a folder"):
            check_destination(out / "file" / "below", force=False)

    @pytest.mark.parametrize("name", ["x" * 241, "x" * 300, "é" * 121])
    def test_long_name(self, out: Path, name: str) -> None:
        with pytest.raises(OutputError, match="name is too long"):
            check_destination(out / name, force=False)

    def test_long_path(self, out: Path) -> None:
        with pytest.raises(OutputError, match="can't be written: File name too long"):
            check_destination(out.joinpath(*["x" * 200] * 30), force=False)

    def test_folder_that_may_not_be_read(self, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_: object, **__: object) -> None:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(Path, "stat", refuse)
        monkeypatch.setattr(Path, "exists", refuse)
        with pytest.raises(OutputError, match="can't be written: Permission denied"):
            check_destination(out / "file", force=False)


def test_require_other(out: Path) -> None:
    (out / "model").touch()
    (out / "link").symlink_to("model")
    require_other(out / "new", out / "model", "the model itself")
    require_other(out / "new", out / "missing", "the model itself")
    for name in ("model", "link"):
        with pytest.raises(OutputError, match=f"the output .*{name} is the model itself"):
            require_other(out / name, out / "model", "the model itself")


def test_require_space(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=2_000_000, total=1))
    require_space(out / "file", 2_000_000)
    with pytest.raises(SpaceError, match="needs 3 MB, its disk has 2 MB free"):
        require_space(out / "file", 3_000_000)
