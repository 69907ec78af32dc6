from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
import small_packs as s
import zstandard

from packer.copying import Piece
from packer.writer import BundleWriter
from runtime_stub.bundle import ALIGNMENT, FOOTER_SIZE
from runtime_stub.errors import OutputError, SpaceError
from runtime_stub.manifest import RAW, ZSTD_FRAMES, Entry
from runtime_stub.verify import verify

DATA = s.noise(50_000)
CHUNK = 16_384


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("packer.writer.CHUNK_SIZE", CHUNK)


def pieces() -> list[Piece]:
    return [Piece(len(part), literal=part) for part in (DATA[:30_000], DATA[30_000:])]


def begin(writer: BundleWriter) -> None:
    writer.add_bytes("launcher", "launcher", s.LAUNCHER)
    writer.add_bytes("runtime", "runtime", b"runtime")


def add(writer: BundleWriter, how: str) -> tuple[Entry, list[int]]:
    counts: list[int] = []
    method = {
        "raw": writer.add_raw,
        "compressed": writer.add_compressed,
        "sidecar": writer.add_sidecar,
    }[how]
    return method("model", "model", pieces(), counts.append, metadata={"a": 1}), counts


def write(path: Path, how: str) -> Path:
    with BundleWriter(path, force=True) as writer:
        begin(writer)
        add(writer, how)
        writer.finish(stub={"b": 2}, runtime_size=99, name="it", recipe={"mode": "chat"})
    return path


@pytest.mark.parametrize(
    ("how", "codec", "features"),
    [
        ("raw", RAW, ()),
        ("compressed", ZSTD_FRAMES, ("zstd-frames",)),
        ("sidecar", RAW, ("sidecar",)),
    ],
)
def test_bundle(out: Path, how: str, codec: str, features: tuple[str, ...]) -> None:
    path = write(out / "pack", how)
    sha256 = hashlib.sha256(DATA).hexdigest()
    with s.opened(path) as bundle:
        manifest, footer = bundle.manifest, bundle.footer
        assert manifest.features == features
        assert (manifest.name, manifest.recipe, manifest.stub) == ("it", {"mode": "chat"}, {"b": 2})
        model = bundle.entry("model")
        assert (model.codec, model.size, model.sha256) == (codec, len(DATA), sha256)
        assert (model.chunk_size, model.table, model.metadata) == (CHUNK, "model.chunks", {"a": 1})
        assert model.file == (sha256 if how == "sidecar" else None)
        stored = bundle.read(model)
        assert hashlib.sha256(stored).hexdigest() == model.stored_sha256
        chunks = bundle.chunks(model)
        assert [chunk.size for chunk in chunks] == [CHUNK, CHUNK, CHUNK, 50_000 - 3 * CHUNK]
        for number, chunk in enumerate(chunks):
            data = stored[chunk.offset :][: chunk.length]
            assert hashlib.sha256(data).digest() == chunk.stored_sha256
            plain = data if how != "compressed" else zstandard.decompress(data)
            assert plain == DATA[number * CHUNK :][:CHUNK]
            assert hashlib.sha256(plain).digest() == chunk.sha256
        assert [entry.kind for entry in manifest.entries][-1] == "table"
        assert all(entry.offset % ALIGNMENT == 0 for entry in manifest.entries)
        assert footer.manifest_offset % ALIGNMENT == 0
        assert footer.pack_size == path.stat().st_size
        assert (footer.launcher_length, footer.runtime_length) == (len(s.LAUNCHER), 7)
        assert footer.runtime_size == 99
        assert footer.runtime_sha256 == hashlib.sha256(b"runtime").digest()
        assert not [region for region in verify(bundle, s.nothing) if region.problem]
    assert path.stat().st_mode & 0o111


@pytest.mark.parametrize("how", ["raw", "compressed", "sidecar"])
def test_same_bytes(tmp_path: Path, how: str) -> None:
    found = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write(tmp_path / name / "pack", how)
        found.append({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()})
    assert found[0] == found[1]


@pytest.mark.parametrize("how", ["raw", "compressed", "sidecar"])
def test_progress_counts_every_byte_twice(out: Path, how: str) -> None:
    with BundleWriter(out / "pack", force=False) as writer:
        begin(writer)
        _, counts = add(writer, how)
    assert sum(counts) == 2 * len(DATA)


def test_starts_with_the_launcher(out: Path) -> None:
    data = write(out / "pack", "raw").read_bytes()
    assert data.startswith(s.LAUNCHER + bytes(100))
    assert len(data) % ALIGNMENT >= FOOTER_SIZE


@pytest.mark.parametrize("how", ["raw", "compressed", "sidecar"])
def test_interrupted(out: Path, how: str) -> None:
    write(out / "pack", "raw")
    old = (out / "pack").read_bytes()

    def interrupted() -> None:
        with BundleWriter(out / "pack", force=True) as writer:
            begin(writer)
            add(writer, how)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert s.files_in(out) == {"pack"}
    assert (out / "pack").read_bytes() == old


@pytest.mark.parametrize("how", ["raw", "compressed", "sidecar"])
def test_interrupted_in_the_middle_of_an_entry(out: Path, how: str) -> None:
    def interrupt(_count: int) -> None:
        raise KeyboardInterrupt

    def interrupted() -> None:
        with BundleWriter(out / "pack", force=True) as writer:
            begin(writer)
            method = getattr(writer, f"add_{how}")
            method("model", "model", pieces(), interrupt)

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert s.files_in(out) == set()


def test_sidecar_of_a_long_name(out: Path) -> None:
    write(out / ("x" * 240), "sidecar")
    assert len(s.files_in(out)) == 2


def test_sidecar_that_is_there_already(out: Path) -> None:
    write(out / "one", "sidecar")
    write(out / "two", "sidecar")
    assert s.files_in(out) == {"one", "two", f"{hashlib.sha256(DATA).hexdigest()}.satchel"}


def test_existing_output(out: Path) -> None:
    (out / "pack").write_bytes(b"old")
    with pytest.raises(OutputError, match="exists already"):
        BundleWriter(out / "pack", force=False)
    assert (out / "pack").read_bytes() == b"old"
    assert s.files_in(out) == {"pack"}


def test_full_disk(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(28, os.strerror(28))

    def fill() -> None:
        with BundleWriter(out / "pack", force=False) as writer:
            begin(writer)
            monkeypatch.setattr(os, "write", full)
            add(writer, "raw")

    with pytest.raises(SpaceError, match="nothing was left behind"):
        fill()
    assert s.files_in(out) == set()
