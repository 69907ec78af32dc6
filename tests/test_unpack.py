from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import gguf_files as g
import pytest
import small_packs as s

from packer.merge import chunks, plan
from packer.stub import Stub
from packer.unpack import unpack
from runtime_stub.errors import DamagedError, OutputError, SpaceError, UnsupportedError

STORAGES = ["mapped", "compressed", "sidecar"]


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("packer.writer.CHUNK_SIZE", 4096)


def take_out(
    pack: Path,
    destination: Path,
    *,
    force: bool = False,
    progress: Callable[[int], None] = s.nothing,
) -> bytes:
    with s.opened(pack) as bundle:
        unpack(bundle, bundle.entry("model"), destination, progress, force=force)
    return destination.read_bytes()


@pytest.fixture
def pack(small_model: Path, tmp_path: Path, small_stub: Stub) -> Path:
    (tmp_path / "packs").mkdir()
    return s.pack(small_model, tmp_path / "packs" / "tiny", small_stub, "compressed").path


@pytest.mark.parametrize("storage", STORAGES)
def test_the_same_bytes(
    tmp_path: Path, small_model: Path, out: Path, small_stub: Stub, storage: str
) -> None:
    pack = s.pack(small_model, tmp_path / "tiny", small_stub, storage).path
    counts: list[int] = []
    data = take_out(pack, out / "m.gguf", progress=counts.append)
    assert data == small_model.read_bytes()
    assert sum(counts) == len(data)
    assert s.files_in(out) == {"m.gguf"}


@pytest.mark.parametrize("storage", STORAGES)
def test_split(tmp_path: Path, out: Path, small_stub: Stub, storage: str) -> None:
    """The one file that llama.cpp's gguf-split would have merged the parts to."""
    parts = g.split(g.model(without=s.NO_TEMPLATE), tmp_path / "tiny", [1, 2, 2])
    pack = s.pack(parts[0], tmp_path / "pack", small_stub, storage).path
    data = take_out(pack, out / "m.gguf")
    assert data == b"".join(chunks(plan(parts[0])))
    again = s.pack(out / "m.gguf", tmp_path / "again", small_stub, storage).path
    assert take_out(again, out / "again.gguf") == data


class TestRefused:
    def test_existing(self, pack: Path, out: Path, small_model: Path) -> None:
        (out / "m.gguf").write_bytes(b"old")
        with pytest.raises(OutputError, match="exists already"):
            take_out(pack, out / "m.gguf")
        assert (out / "m.gguf").read_bytes() == b"old"
        assert take_out(pack, out / "m.gguf", force=True) == small_model.read_bytes()

    @pytest.mark.parametrize("force", [False, True])
    def test_over_the_pack(self, pack: Path, force: bool) -> None:
        before = pack.read_bytes()
        with pytest.raises(OutputError, match="is the pack itself"):
            take_out(pack, pack, force=force)
        assert pack.read_bytes() == before

    def test_over_the_sidecar(self, small_model: Path, out: Path, small_stub: Stub) -> None:
        pack = s.pack(small_model, out / "tiny", small_stub, "sidecar").path
        with pytest.raises(OutputError, match="is a part of the pack"):
            take_out(pack, next(out.glob("*.satchel")), force=True)

    def test_damaged(self, pack: Path, out: Path) -> None:
        with s.opened(pack) as bundle:
            entry = bundle.entry("model")
        s.flip(pack, entry.offset + entry.length - 1)
        with pytest.raises(DamagedError, match="'model' is damaged near byte"):
            take_out(pack, out / "m.gguf")
        assert s.files_in(out) == set()

    def test_other_hash(self, pack: Path, out: Path) -> None:
        s.change_entry(pack, "model", sha256="ab" * 32)
        with pytest.raises(DamagedError, match="'model' is damaged"):
            take_out(pack, out / "m.gguf")
        assert s.files_in(out) == set()

    def test_unknown_codec(self, pack: Path, out: Path) -> None:
        s.change_entry(pack, "model", codec="of the future")
        with pytest.raises(UnsupportedError):
            take_out(pack, out / "m.gguf")

    def test_interrupted(self, pack: Path, out: Path) -> None:
        (out / "m.gguf").write_bytes(b"old")

        def interrupt(_count: int) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            take_out(pack, out / "m.gguf", force=True, progress=interrupt)
        assert s.files_in(out) == {"m.gguf"}
        assert (out / "m.gguf").read_bytes() == b"old"

    def test_no_space(self, pack: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10, total=1))
        with pytest.raises(SpaceError):
            take_out(pack, out / "m.gguf")

    def test_full_disk(self, pack: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(*_: object) -> None:
            raise OSError(28, os.strerror(28))

        monkeypatch.setattr("packer.output.OutputFile.write", full)
        with pytest.raises(SpaceError, match="is full"):
            take_out(pack, out / "m.gguf")
        assert s.files_in(out) == set()
