from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterator
from io import RawIOBase
from pathlib import Path
from types import SimpleNamespace

import pytest
import small_packs as s
import zstandard

from packer.stub import Stub
from packer.writer import BundleWriter
from runtime_stub import extract, locks
from runtime_stub.bundle import Bundle, Chunk
from runtime_stub.cache import COMPLETE_TIME
from runtime_stub.errors import CacheError, DamagedError, SpaceError, UnsupportedError
from runtime_stub.extract import Progress, decode_chunk, extract_model
from runtime_stub.manifest import Entry

CHUNK = 16 << 10
ROWS = 4096  # 160 KiB of tensors: eleven chunks, the last one short


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("packer.writer.CHUNK_SIZE", CHUNK)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return s.model(tmp_path / "model.gguf", rows=ROWS)


@pytest.fixture
def pack(model: Path, out: Path, small_stub: Stub) -> Path:
    return s.pack(model, out / "assistant", small_stub, "compressed").path


@pytest.fixture
def bundle(pack: Path) -> Iterator[Bundle]:
    with s.opened(pack) as found:
        yield found


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "cache"


class Meter:
    """What an extraction reported."""

    def __init__(self) -> None:
        self.size: int | None = None
        self.steps: list[int] = []

    def start(self, size: int) -> Progress:
        self.size = size
        return self.steps.append


def run(bundle: Bundle, roots: list[Path], on_start: Callable[[int], Progress]) -> Path:
    return extract_model(
        bundle, bundle.entry("model"), roots, on_start=on_start, on_wait=lambda: None
    )


def never(_size: int) -> Progress:
    raise AssertionError("there was something to extract")


def interrupt_after(count: int) -> Callable[[int], Progress]:
    """Press Ctrl-C after so many chunks."""
    steps: list[int] = []

    def progress(size: int) -> None:
        steps.append(size)
        if len(steps) == count:
            raise KeyboardInterrupt

    return lambda _: progress


class TestExtraction:
    def test_first_and_second_time(self, bundle: Bundle, root: Path, model: Path) -> None:
        meter = Meter()
        path = run(bundle, [root], meter.start)
        assert path.read_bytes() == model.read_bytes()
        assert path == root / "models" / f"{hashlib.sha256(model.read_bytes()).hexdigest()}.gguf"
        assert meter.size == sum(meter.steps) == model.stat().st_size
        assert max(meter.steps) == CHUNK
        assert path.stat().st_mtime == COMPLETE_TIME
        assert path.stat().st_mode & 0o777 == 0o600
        assert s.files_in(path.parent) == {path.name, f"{path.stem}.lock"}
        assert run(bundle, [root], never) == path

    def test_in_a_later_candidate(self, tmp_path: Path, bundle: Bundle, root: Path) -> None:
        path = run(bundle, [root], Meter().start)
        assert run(bundle, [tmp_path / "first", root], never) == path
        assert not (tmp_path / "first").exists()

    @pytest.mark.parametrize("how", ["time", "size"])
    def test_tampering_is_noticed(self, bundle: Bundle, root: Path, model: Path, how: str) -> None:
        path = run(bundle, [root], Meter().start)
        if how == "time":
            s.flip(path, 100)
        else:
            os.truncate(path, 100)
            os.utime(path, (COMPLETE_TIME, COMPLETE_TIME))
        assert run(bundle, [root], Meter().start) == path
        assert path.read_bytes() == model.read_bytes()

    def test_a_folder_that_others_may_write_is_passed_over(
        self, tmp_path: Path, bundle: Bundle, root: Path
    ) -> None:
        path = run(bundle, [root], Meter().start)
        root.chmod(0o770)
        assert run(bundle, [root, tmp_path / "other"], Meter().start).parent.parent.name == "other"
        with pytest.raises(CacheError, match="other users may write"):
            run(bundle, [root], never)
        root.chmod(0o700)
        assert run(bundle, [root], never) == path

    def test_made_by_another_process_while_waiting(
        self, bundle: Bundle, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What the lock's holder has extracted is taken."""
        inner = locks.lock

        def late(path: Path, on_wait: Callable[[], None]) -> object:
            monkeypatch.setattr(extract, "lock", inner)
            run(bundle, [root], Meter().start)
            return inner(path, on_wait)

        monkeypatch.setattr(extract, "lock", late)
        run(bundle, [root], never)


class TestResuming:
    def part(self, root: Path) -> Path:
        return next((root / "models").glob("*.part"))

    def interrupted(self, bundle: Bundle, root: Path, after: int) -> Path:
        with pytest.raises(KeyboardInterrupt):
            run(bundle, [root], interrupt_after(after))
        part = self.part(root)
        assert part.stat().st_size == after * CHUNK
        return part

    def decoded(self, monkeypatch: pytest.MonkeyPatch) -> list[int]:
        """Offsets of the chunks that get decoded from now on."""
        offsets: list[int] = []

        def count(bundle: Bundle, entry: Entry, chunk: Chunk) -> bytes:
            offsets.append(chunk.offset)
            return decode_chunk(bundle, entry, chunk)

        monkeypatch.setattr(extract, "decode_chunk", count)
        return offsets

    @pytest.mark.parametrize("after", [1, 5, 11])
    def test_whole_chunks_stay(
        self, bundle: Bundle, root: Path, model: Path, after: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        chunks = bundle.chunks(bundle.entry("model"))
        assert len(chunks) == 11
        if after < 11:
            self.interrupted(bundle, root, after)
        else:
            with pytest.raises(KeyboardInterrupt):
                run(bundle, [root], interrupt_after(after))
        decoded = self.decoded(monkeypatch)
        meter = Meter()
        path = run(bundle, [root], meter.start)
        assert decoded == [chunk.offset for chunk in chunks[after:]]
        assert path.read_bytes() == model.read_bytes()
        assert sum(meter.steps) == model.stat().st_size
        assert not list(path.parent.glob("*.part"))

    def test_a_cut_chunk(
        self, bundle: Bundle, root: Path, model: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        os.truncate(self.interrupted(bundle, root, 5), 5 * CHUNK - 100)
        decoded = self.decoded(monkeypatch)
        assert run(bundle, [root], Meter().start).read_bytes() == model.read_bytes()
        assert len(decoded) == 11 - 4

    def test_a_corrupted_chunk(
        self, bundle: Bundle, root: Path, model: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        s.flip(self.interrupted(bundle, root, 5), 2 * CHUNK + 7)
        decoded = self.decoded(monkeypatch)
        assert run(bundle, [root], Meter().start).read_bytes() == model.read_bytes()
        assert len(decoded) == 11 - 2

    def test_a_part_that_is_too_long(self, bundle: Bundle, root: Path, model: Path) -> None:
        with self.interrupted(bundle, root, 3).open("ab") as file:
            file.write(b"x" * model.stat().st_size)
        assert run(bundle, [root], Meter().start).read_bytes() == model.read_bytes()

    def test_a_link_is_not_followed(self, tmp_path: Path, bundle: Bundle, root: Path) -> None:
        part = self.interrupted(bundle, root, 3)
        part.rename(tmp_path / "elsewhere")
        part.symlink_to(tmp_path / "elsewhere")
        with pytest.raises(CacheError, match="can't be written"):
            run(bundle, [root], Meter().start)


class TestDisk:
    def test_no_space_at_the_start(
        self, bundle: Bundle, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
        with pytest.raises(SpaceError, match="extracting needs"):
            run(bundle, [root], never)

    @pytest.mark.parametrize(
        ("number", "error", "match"),
        [
            (errno.ENOSPC, SpaceError, "is full"),
            (errno.EDQUOT, SpaceError, "quota"),
            (errno.EROFS, CacheError, "can't be written: Read-only"),
        ],
    )
    def test_errors_on_the_way(
        self,
        bundle: Bundle,
        root: Path,
        monkeypatch: pytest.MonkeyPatch,
        number: int,
        error: type[Exception],
        match: str,
    ) -> None:
        def fail(*_: object) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(extract, "_write", fail)
        with pytest.raises(error, match=match):
            run(bundle, [root], Meter().start)
        assert not list(root.rglob("*.gguf"))

    @pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
    def test_the_next_folder_is_taken(
        self, bundle: Bundle, root: Path, monkeypatch: pytest.MonkeyPatch, number: int
    ) -> None:
        """And what the full one took is given back."""
        other, third = root.with_name("other"), root.with_name("third")
        write, said = extract._write, Meter()

        def fail_in_the_first(file: RawIOBase, data: bytes) -> None:
            write(file, data)
            part = next((root / "models").glob("*.part"))
            if os.path.samestat(os.fstat(file.fileno()), part.stat()):
                raise OSError(number, os.strerror(number))

        monkeypatch.setattr(extract, "_write", fail_in_the_first)
        path = run(bundle, [root, other, third], said.start)
        assert path.parent == other / "models"
        assert hashlib.sha256(path.read_bytes()).hexdigest() == path.stem
        assert [p.suffix for p in (root / "models").iterdir()] == [".lock"]
        assert not third.exists()

    def test_no_folder_takes_it(
        self, bundle: Bundle, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The first is named; what was verified stays there."""

        def fail(*_: object) -> None:
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

        monkeypatch.setattr(extract, "_write", fail)
        with pytest.raises(SpaceError, match=re.escape(f"{root / 'models'} (your quota)")):
            run(bundle, [root, root.with_name("other")], Meter().start)
        assert list(root.rglob("*.part"))

    def test_an_error_of_the_lock(
        self, bundle: Bundle, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (root / "models").mkdir(mode=0o700, parents=True)
        root.chmod(0o700)
        (root / "models" / f"{bundle.entry('model').sha256}.lock").mkdir()
        with pytest.raises(CacheError, match="can't be written: Is a directory"):
            run(bundle, [root], never)

    def test_writes_that_take_less(
        self, bundle: Bundle, root: Path, model: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """An unbuffered file may write less than it was given."""
        write = extract._write

        class Slow:
            def __init__(self, file: object) -> None:
                self.file = file

            def write(self, data: bytes) -> int:
                return self.file.write(bytes(data[:1000]))  # type: ignore[attr-defined, no-any-return]

        monkeypatch.setattr(extract, "_write", lambda file, data: write(Slow(file), data))  # type: ignore[arg-type]
        assert run(bundle, [root], Meter().start).read_bytes() == model.read_bytes()


class TestDamage:
    def test_is_named(self, pack: Path, bundle: Bundle, root: Path) -> None:
        entry = bundle.entry("model")
        third = bundle.chunks(entry)[3]
        s.flip(pack, entry.offset + third.offset + 5)
        with pytest.raises(DamagedError) as caught:
            run(bundle, [root], Meter().start)
        place = f"{entry.offset + third.offset:,}"
        assert f"'model' is damaged near byte {place} of the file" in str(caught.value)
        assert not list(root.rglob("*.gguf"))
        s.flip(pack, entry.offset + third.offset + 5)
        run(bundle, [root], Meter().start)  # and goes on with the same part

    def test_of_the_table(self, pack: Path, bundle: Bundle, root: Path) -> None:
        s.flip(pack, bundle.entry("model.chunks").offset)
        with pytest.raises(DamagedError, match=r"'model\.chunks' is damaged"):
            run(bundle, [root], Meter().start)

    def test_unknown_codec_only_matters_when_opened(self, pack: Path, root: Path) -> None:
        s.change_entry(pack, "model", codec="of the future")
        with s.opened(pack) as bundle:
            assert bundle.read(bundle.entry("launcher")) == s.LAUNCHER
            with pytest.raises(UnsupportedError, match="stored as 'of the future'"):
                run(bundle, [root], Meter().start)


def frame(path: Path, stored: bytes, size: int, sha256: bytes) -> tuple[Path, Chunk]:
    """A pack whose model is one frame, whatever that holds."""
    chunk = Chunk(0, len(stored), size, hashlib.sha256(stored).digest(), sha256)
    with BundleWriter(path, force=False) as writer:
        for name in ("launcher", "runtime"):
            writer.add_bytes(name, name, b"x")
        writer.add_bytes(
            "model",
            "model",
            stored,
            codec="zstd-frames",
            size=size,
            chunk_size=size,
            table="model.chunks",
        )
        writer.add_bytes("model.chunks", "table", chunk.pack())
        writer.finish(stub={}, runtime_size=0)
    return path, chunk


class TestFrames:
    """The hashes of what is stored are right here: whoever made the frame lied."""

    def decode(self, out: Path, stored: bytes, size: int, plain: bytes = b"") -> bytes:
        path, chunk = frame(out / "pack", stored, size, hashlib.sha256(plain).digest())
        with s.opened(path) as bundle:
            return decode_chunk(bundle, bundle.entry("model"), chunk)

    def test_sound(self, out: Path) -> None:
        assert self.decode(out, zstandard.compress(b"abc"), 3, b"abc") == b"abc"

    @pytest.mark.parametrize("claimed", [2, 4, 2**40])
    def test_that_lies_about_its_size(self, out: Path, claimed: int) -> None:
        with pytest.raises(DamagedError, match="wrong size"):
            self.decode(out, zstandard.compress(b"abc"), claimed, b"abc")

    def test_that_claims_to_be_huge(self, out: Path) -> None:
        """The header says 2 TB; nothing of that size is allocated."""
        header = b"\x28\xb5\x2f\xfd\xe0" + (2**41).to_bytes(8, "little") + b"\1\0\0"
        with pytest.raises(DamagedError, match="wrong size"):
            self.decode(out, header, 3)

    def test_that_holds_more_than_it_says(self, out: Path) -> None:
        stored = bytearray(zstandard.compress(bytes(100)))
        assert stored[5] == 100  # the frame's content size
        stored[5] = 50
        with pytest.raises(DamagedError):
            self.decode(out, bytes(stored), 50)

    def test_without_a_size(self, out: Path) -> None:
        stored = zstandard.ZstdCompressor(write_content_size=False).compress(b"abc")
        with pytest.raises(DamagedError):
            self.decode(out, stored, 3, b"abc")

    @pytest.mark.parametrize(
        "stored", [b"", b"garbage, not a frame", zstandard.compress(b"abc")[:-1]]
    )
    def test_that_is_none(self, out: Path, stored: bytes) -> None:
        with pytest.raises(DamagedError):
            self.decode(out, stored, 3)

    def test_with_something_behind_it(self, out: Path) -> None:
        with pytest.raises(DamagedError, match="does not decompress"):
            self.decode(out, zstandard.compress(b"abc") * 2, 3, b"abc")

    def test_of_something_else(self, out: Path) -> None:
        with pytest.raises(DamagedError, match="something else"):
            self.decode(out, zstandard.compress(b"abc"), 3, b"xyz")
