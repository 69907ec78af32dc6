from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import small_packs as s
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from packer.stub import Stub
from packer.writer import BundleWriter
from runtime_stub import bundle as b
from runtime_stub.bundle import Bundle, Chunk, Footer, find_footer, read_at, read_bundle
from runtime_stub.errors import (
    DamagedError,
    FormatError,
    InputError,
    SatchelError,
    UnsupportedError,
)
from runtime_stub.manifest import ZSTD_FRAMES, Entry

U64 = st.integers(0, 2**64 - 1)
HASH = st.binary(min_size=32, max_size=32)
FOOTERS = st.builds(Footer, U64, U64, U64, HASH, U64, U64, U64, HASH, U64)
FOOTER = Footer(1000, 11, 2, b"m" * 32, 13, 4, 5, b"r" * 32, 6)


def resealed(footer: bytes) -> bytes:
    return footer[:-32] + hashlib.sha256(footer[:-32]).digest()


@contextmanager
def file_of(folder: Path, data: bytes) -> Iterator[int]:
    path = folder / "file"
    path.write_bytes(data)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


class TestFooter:
    @settings(deadline=None)
    @given(FOOTERS)
    def test_round_trip(self, footer: Footer) -> None:
        data = footer.pack()
        assert len(data) == b.FOOTER_SIZE
        assert Footer.unpack(data) == footer

    def test_any_changed_byte_is_noticed(self) -> None:
        data = FOOTER.pack()
        for position in range(len(data)):
            changed = bytearray(data)
            changed[position] ^= 1
            with pytest.raises((DamagedError, FormatError, UnsupportedError)):
                Footer.unpack(bytes(changed))

    def test_version(self) -> None:
        data = bytearray(FOOTER.pack())
        data[16] = 2
        with pytest.raises(UnsupportedError, match="version 2, 1 is known here"):
            Footer.unpack(resealed(bytes(data)))

    @pytest.mark.parametrize("position", [20, 144, 223])
    def test_fields_of_the_future(self, position: int) -> None:
        data = bytearray(FOOTER.pack())
        data[position] ^= 1
        with pytest.raises(FormatError, match="does not know"):
            Footer.unpack(resealed(bytes(data)))

    @settings(deadline=None)
    @given(st.binary(max_size=300), st.booleans(), st.booleans())
    def test_noise(self, noise: bytes, framed: bool, sealed: bool) -> None:
        data = (b.MAGIC + b"\1\0\0\0" + noise).ljust(256, b"\0")[:256] if framed else noise
        try:
            footer = Footer.unpack(resealed(data) if sealed else data)
        except SatchelError:
            return
        assert footer.pack()

    def test_the_magic_is_not_text(self) -> None:
        assert len(b.MAGIC) == 16
        assert b.MAGIC not in Path(b.__file__).read_bytes()


class TestFindFooter:
    def test_at_the_end(self, tmp_path: Path) -> None:
        data = bytes(744) + FOOTER.pack()
        with file_of(tmp_path, data) as descriptor:
            assert find_footer(descriptor) == (FOOTER, 744)

    @pytest.mark.parametrize("signature", [b"s", b"s" * b.FOOTER_WINDOW, b.MAGIC * 3])
    def test_before_a_signature(self, tmp_path: Path, signature: bytes) -> None:
        with file_of(tmp_path, bytes(744) + FOOTER.pack() + signature) as descriptor:
            assert find_footer(descriptor) == (FOOTER, 744)

    def test_too_far_from_the_end(self, tmp_path: Path) -> None:
        data = bytes(744) + FOOTER.pack() + bytes(b.FOOTER_WINDOW + 1)
        with (
            file_of(tmp_path, data) as descriptor,
            pytest.raises(FormatError, match="no Satchel footer"),
        ):
            find_footer(descriptor)

    def test_of_another_pack_inside(self, tmp_path: Path) -> None:
        """A footer that is a pack's content, and one that a signature repeats, are not ours."""
        inner, outer = replace(FOOTER, pack_size=256), replace(FOOTER, pack_size=512)
        data = inner.pack() + outer.pack()
        with file_of(tmp_path, data + inner.pack()) as descriptor:
            assert find_footer(descriptor) == (outer, 256)

    @pytest.mark.parametrize("data", [b"", b"x", FOOTER.pack()[:-1], bytes(5000)])
    def test_none(self, tmp_path: Path, data: bytes) -> None:
        with file_of(tmp_path, data) as descriptor, pytest.raises(FormatError):
            find_footer(descriptor)

    def test_damaged(self, tmp_path: Path) -> None:
        data = bytearray(bytes(744) + FOOTER.pack())
        data[800] ^= 1
        with (
            file_of(tmp_path, bytes(data)) as descriptor,
            pytest.raises(DamagedError, match="footer is damaged"),
        ):
            find_footer(descriptor)


class TestReadAt:
    def test_ranges(self, tmp_path: Path) -> None:
        with file_of(tmp_path, b"0123456789") as descriptor:
            assert read_at(descriptor, 2, 3) == b"234"
            assert read_at(descriptor, 8, 5) == b"89"
            assert read_at(descriptor, 20, 5) == b""
            assert read_at(descriptor, 0, 0) == b""

    def test_in_parts(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        whole = os.pread
        monkeypatch.setattr(os, "pread", lambda file, count, at: whole(file, min(count, 3), at))
        with file_of(tmp_path, b"0123456789") as descriptor:
            assert read_at(descriptor, 1, 8) == b"12345678"

    def test_without_pread(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delattr(os, "pread")
        with file_of(tmp_path, b"0123456789") as descriptor:
            assert read_at(descriptor, 4, 3) == b"456"


def entry(**fields: object) -> Entry:
    values: dict[str, object] = {
        "name": "model",
        "kind": "model",
        "codec": ZSTD_FRAMES,
        "offset": 0,
        "length": 30,
        "size": 250,
        "sha256": "",
        "stored_sha256": "",
        "chunk_size": 100,
        **fields,
    }
    return Entry(**values)  # type: ignore[arg-type]


def chunk(offset: int, length: int, size: int) -> Chunk:
    return Chunk(offset, length, size, b"s" * 32, b"d" * 32)


CHUNKS = (chunk(0, 10, 100), chunk(10, 5, 100), chunk(15, 15, 50))


def table(*chunks: Chunk) -> bytes:
    return b"".join(item.pack() for item in chunks)


class TestChunks:
    def test_round_trip(self) -> None:
        assert b.unpack_chunks(table(*CHUNKS), entry()) == CHUNKS
        assert b.unpack_chunks(b"", entry(length=0, size=0)) == ()
        assert len(CHUNKS[0].pack()) == b.CHUNK_ROW_SIZE

    @pytest.mark.parametrize(
        ("data", "match"),
        [
            (table(*CHUNKS)[:-1], "cut short"),
            (table(*CHUNKS[:2]), "does not cover"),
            (b"", "does not cover"),
            (table(CHUNKS[0], CHUNKS[2]), "gap or an overlap"),
            (table(CHUNKS[0], CHUNKS[0]), "gap or an overlap"),
            (table(chunk(0, 30, 101)), "gap or an overlap"),
            (table(chunk(0, 30, 0)), "gap or an overlap"),
        ],
    )
    def test_refused(self, data: bytes, match: str) -> None:
        with pytest.raises(FormatError, match=match):
            b.unpack_chunks(data, entry())

    @pytest.mark.parametrize(
        ("length", "size"), [(b.MAX_CHUNK_SIZE + 1, 1), (1, b.MAX_CHUNK_SIZE + 1)]
    )
    def test_memory_is_bounded(self, length: int, size: int) -> None:
        huge = entry(length=length, size=size, chunk_size=2**62)
        with pytest.raises(FormatError, match="too large"):
            b.unpack_chunks(table(chunk(0, length, size)), huge)

    @settings(deadline=None)
    @given(st.binary(max_size=270))
    def test_noise(self, noise: bytes) -> None:
        try:
            found = b.unpack_chunks(noise, entry())
        except FormatError:
            return
        assert not found


@pytest.fixture
def stub_copy(tmp_path: Path, stub_file: Path) -> Path:
    path = tmp_path / "copy.stub"
    path.write_bytes(stub_file.read_bytes())
    return path


class TestBundle:
    def test_reading(self, stub_file: Path) -> None:
        with s.opened(stub_file) as bundle:
            launcher = bundle.entry("launcher")
            assert bundle.read(launcher) == s.LAUNCHER
            assert bundle.read(launcher, 5, 3) == s.LAUNCHER[5:8]
            assert bundle.read(launcher, len(s.LAUNCHER) - 2, 100) == s.LAUNCHER[-2:]
            assert [item.name for item in bundle.of_kind("runtime")] == ["runtime"]
            assert bundle.of_kind("model") == ()
            assert all(item.offset % b.ALIGNMENT == 0 for item in bundle.manifest.entries)

    def test_missing_entry(self, stub_file: Path) -> None:
        with (
            s.opened(stub_file) as bundle,
            pytest.raises(FormatError, match="holds no entry 'model'"),
        ):
            bundle.entry("model")

    def test_no_table(self, stub_file: Path) -> None:
        with s.opened(stub_file) as bundle, pytest.raises(FormatError, match="no chunk table"):
            bundle.chunks(bundle.entry("runtime"))

    def test_damaged_manifest(self, stub_copy: Path) -> None:
        with s.opened(stub_copy) as bundle:
            offset = bundle.footer.manifest_offset
        s.flip(stub_copy, offset + 5)
        with pytest.raises(DamagedError, match="manifest is damaged"), s.opened(stub_copy):
            pass

    @pytest.mark.parametrize("field", ["offset", "length"])
    def test_entry_outside(self, stub_copy: Path, field: str) -> None:
        s.change_entry(stub_copy, "runtime", **{field: 2**40})
        with pytest.raises(FormatError, match="outside the file"), s.opened(stub_copy):
            pass

    @pytest.mark.parametrize(
        "change", [{"manifest_length": 2**40}, {"manifest_offset": 2**63}, {"manifest_length": 999}]
    )
    def test_manifest_outside(self, stub_copy: Path, change: dict[str, int]) -> None:
        data = stub_copy.read_bytes()
        footer = Footer.unpack(data[-b.FOOTER_SIZE :])
        changed = replace(footer, **change)  # type: ignore[arg-type]
        stub_copy.write_bytes(data[: -b.FOOTER_SIZE] + changed.pack())
        with pytest.raises((FormatError, DamagedError)), s.opened(stub_copy):
            pass

    def test_truncated_anywhere(self, stub_copy: Path) -> None:
        data = stub_copy.read_bytes()
        for length in [0, 1, 100, 70_000, *range(len(data) - 600, len(data), 7)]:
            stub_copy.write_bytes(data[:length])
            with pytest.raises(FormatError, match="no Satchel footer"), s.opened(stub_copy):
                pass

    def test_read_errors(self, stub_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def broken(*_: object) -> bytes:
            raise OSError(5, "Input/output error")

        with s.opened(stub_file) as bundle:
            monkeypatch.setattr(b, "read_at", broken)
            with pytest.raises(InputError, match="can't be read: Input/output error"):
                bundle.read(bundle.entry("launcher"))

    def test_overwritten_while_open(self, stub_copy: Path) -> None:
        with s.opened(stub_copy) as bundle:
            os.truncate(stub_copy, 65_600)
            with pytest.raises(DamagedError, match="cut short inside 'runtime'"):
                bundle.read(bundle.entry("runtime"))

    @settings(
        deadline=None,
        max_examples=60,
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )
    @given(st.binary(max_size=400), st.integers(0, 300))
    def test_noise(self, tmp_path: Path, noise: bytes, at: int) -> None:
        data = noise[:at] + FOOTER.pack() + noise[at:]
        with file_of(tmp_path, data) as descriptor, pytest.raises(SatchelError):
            read_bundle(descriptor, tmp_path / "file")


class TestSidecar:
    @pytest.fixture
    def pack(self, small_model: Path, small_stub: Stub, out: Path) -> Path:
        return s.pack(small_model, out / "tiny", small_stub, "sidecar").path

    def sidecar(self, pack: Path) -> Path:
        return next(pack.parent.glob("*.satchel"))

    def test_reading(self, pack: Path, small_model: Path) -> None:
        with s.opened(pack) as bundle:
            found = bundle.entry("model")
            assert found.file == found.sha256
            assert bundle.read(found) == small_model.read_bytes()
            assert bundle.descriptor_of(found) == bundle.descriptor_of(found)

    def test_missing(self, pack: Path) -> None:
        name = self.sidecar(pack).name
        self.sidecar(pack).unlink()
        with s.opened(pack) as bundle, pytest.raises(InputError) as caught:
            bundle.read(bundle.entry("model"))
        assert name in str(caught.value)
        assert "Copy both files together" in str(caught.value)

    def test_cut_short(self, pack: Path) -> None:
        os.truncate(self.sidecar(pack), 100)
        with s.opened(pack) as bundle, pytest.raises(DamagedError, match="cut short"):
            bundle.descriptor_of(bundle.entry("model"))


def test_align() -> None:
    assert [b.align(offset) for offset in (0, 1, 65536, 65537)] == [0, 65536, 65536, 131072]


def test_empty_entry(tmp_path: Path) -> None:
    with BundleWriter(tmp_path / "empty", force=False) as writer:
        for name in ("launcher", "runtime"):
            writer.add_bytes(name, name, b"x")
        writer.add_compressed("model", "model", [], s.nothing)
        writer.finish(stub={}, runtime_size=0)
    with s.opened(tmp_path / "empty") as bundle:
        assert isinstance(bundle, Bundle)
        assert bundle.chunks(bundle.entry("model")) == ()
