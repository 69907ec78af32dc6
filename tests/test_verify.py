from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import small_packs as s

from packer.stub import Stub
from runtime_stub.bundle import FOOTER_SIZE, FOOTER_WINDOW
from runtime_stub.console import show_regions
from runtime_stub.errors import DamagedError, InputError, SatchelError
from runtime_stub.verify import Region, verify

CHUNK = 4 << 10
STORAGES = ("mapped", "compressed", "sidecar")


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("packer.writer.CHUNK_SIZE", CHUNK)


@pytest.fixture
def make(tmp_path: Path, out: Path, small_stub: Stub) -> Callable[[str], Path]:
    model = s.model(tmp_path / "model.gguf", rows=1024)

    def build(storage: str) -> Path:
        return s.pack(model, out / "assistant", small_stub, storage).path

    return build


@pytest.fixture
def pack(make: Callable[[str], Path]) -> Path:
    return make("mapped")


def regions(path: Path) -> list[Region]:
    with s.opened(path) as bundle:
        return verify(bundle, s.nothing)


def bad(path: Path) -> dict[str, str]:
    return {region.name: region.problem for region in regions(path) if region.problem}


class TestIntact:
    @pytest.mark.parametrize("storage", STORAGES)
    def test_pack(self, make: Callable[[str], Path], storage: str) -> None:
        path = make(storage)
        found = regions(path)
        assert [region.problem for region in found] == [""] * len(found)
        names = {"launcher", "runtime", "model", "model.chunks", "manifest", "footer"}
        assert {region.name for region in found} == names

    def test_stub(self, stub_file: Path) -> None:
        assert [region.name for region in regions(stub_file)] == [
            *("launcher", "runtime", "manifest", "footer")
        ]

    def test_progress(self, pack: Path) -> None:
        counts: list[int] = []
        with s.opened(pack) as bundle:
            verify(bundle, counts.append)
            assert sum(counts) == sum(entry.length for entry in bundle.manifest.entries)

    def test_code_signature(self, tmp_path: Path) -> None:
        """Windows and macOS have signatures at the end of programs."""
        stub = s.write_stub(tmp_path / "windows", facts={"platform": "windows-x86_64"})
        with stub.open("ab") as file:
            file.write(b"signed" * 100)
        found = regions(stub)[-1]
        assert found.name == "code signature (not checked)"
        assert (found.length, found.problem) == (600, "")
        assert found.length <= FOOTER_WINDOW


class TestDamage:
    @pytest.mark.parametrize("storage", ["mapped", "compressed"])
    @pytest.mark.parametrize("name", ["launcher", "runtime", "model", "model.chunks"])
    @pytest.mark.parametrize("where", ["first", "middle", "last"])
    def test_one_byte(
        self, make: Callable[[str], Path], storage: str, name: str, where: str
    ) -> None:
        path = make(storage)
        with s.opened(path) as bundle:
            entry = bundle.entry(name)
        at = {"first": 0, "middle": entry.length // 2, "last": entry.length - 1}[where]
        s.flip(path, entry.offset + at)
        found = bad(path)
        assert name in found
        assert set(found) <= {name, "model"}  # a table speaks for its entry

    def test_place_in_an_entry_of_chunks(self, pack: Path) -> None:
        with s.opened(pack) as bundle:
            entry = bundle.entry("model")
        for chunk in (3, 5):
            s.flip(pack, entry.offset + chunk * CHUNK + 9)
        near = f"near byte {entry.offset + 3 * CHUNK:,} (2 of 11 chunks)"
        assert bad(pack) == {"model": f"its bytes were changed {near}"}

    def test_every_byte_between_counts(self, pack: Path) -> None:
        """Flip a byte here and there in all of the file: something is always said."""
        size = pack.stat().st_size
        for offset in [*range(0, size, 9973), *range(size - FOOTER_SIZE, size, 37)]:
            s.flip(pack, offset)
            try:
                assert bad(pack), offset
            except SatchelError:
                assert offset >= size - 4096  # the manifest or the footer: it does not open
            s.flip(pack, offset)
        assert bad(pack) == {}

    def test_padding(self, pack: Path) -> None:
        with s.opened(pack) as bundle:
            ends = [entry.offset + entry.length for entry in bundle.manifest.entries]
        for end in ends:
            s.flip(pack, end)
            assert bad(pack) == {"padding": "it is not zero"}
            s.flip(pack, end)

    def test_appended(self, pack: Path) -> None:
        with pack.open("ab") as file:
            file.write(b"something else")
        assert bad(pack) == {"appended": "it does not belong to the file"}

    def test_manifest(self, pack: Path) -> None:
        with s.opened(pack) as bundle:
            offset = bundle.footer.manifest_offset
        s.flip(pack, offset + 20)
        with pytest.raises(DamagedError, match="manifest is damaged"):
            regions(pack)

    def test_footer(self, pack: Path) -> None:
        s.flip(pack, pack.stat().st_size - 100)
        with pytest.raises(DamagedError, match="footer is damaged"):
            regions(pack)


class TestSidecar:
    @pytest.fixture
    def pack(self, make: Callable[[str], Path]) -> Path:
        return make("sidecar")

    @pytest.fixture
    def sidecar(self, pack: Path) -> Path:
        return next(pack.parent.glob("*.satchel"))

    def test_changed(self, pack: Path, sidecar: Path) -> None:
        s.flip(sidecar, 5)
        assert bad(pack) == {"model": "its bytes were changed near byte 0 (1 of 11 chunks)"}

    def test_missing(self, pack: Path, sidecar: Path) -> None:
        sidecar.unlink()
        (found,) = [region for region in regions(pack) if region.problem]
        assert found.problem.endswith(f"needs {sidecar.name} beside it: No such file or directory")
        assert found.missing
        with pytest.raises(InputError, match="is incomplete") as caught:
            show_regions([found], as_json=False, name="assistant")
        assert caught.value.hint == "Copy both files together"

    def test_cut_short(self, pack: Path, sidecar: Path) -> None:
        os.truncate(sidecar, 50)
        assert bad(pack) == {"model": f"{sidecar.name} is cut short"}

    def test_longer(self, pack: Path, sidecar: Path) -> None:
        with sidecar.open("ab") as file:
            file.write(b"hidden")
        assert bad(pack) == {sidecar.name: "it is longer than it was"}


class TestLies:
    """Manifests that are sealed well and say something wrong."""

    def test_footer_and_manifest_disagree(self, pack: Path) -> None:
        with s.opened(pack) as bundle:
            sha256 = bundle.entry("model").sha256
        s.change_entry(pack, "runtime", stored_sha256=sha256)
        assert "footer and manifest disagree" in [region.problem for region in regions(pack)]

    def test_launcher_elsewhere(self, pack: Path) -> None:
        s.change_entry(pack, "launcher", offset=65536)
        assert "footer and manifest disagree" in [region.problem for region in regions(pack)]

    def test_overlap(self, pack: Path) -> None:
        with s.opened(pack) as bundle:
            runtime = bundle.entry("runtime")
        s.change_entry(pack, "model.chunks", offset=runtime.offset)
        assert bad(pack)["layout"] == "two parts overlap"

    def test_hidden_entry(self, pack: Path) -> None:
        """What no entry claims is padding, and must be zero."""

        def hide(document: dict[str, list[dict[str, str]]]) -> None:
            entries = document["entries"]
            entries[:] = [entry for entry in entries if entry["name"] != "runtime"]

        s.rewrite_manifest(pack, hide)
        assert bad(pack) == {"padding": "it is not zero"}


def test_masked_bytes_may_change(stub_file: Path, tmp_path: Path) -> None:
    """A code signature rewrites fields of the launcher; these are hashed as zeros."""
    path = tmp_path / "signed.stub"
    s.write_stub(path, launcher=s.LAUNCHER[:10] + bytes(4) + s.LAUNCHER[14:])
    s.change_entry(path, "launcher", masked=[[10, 4], [2**40, 5]])
    assert bad(path) == {}
    s.flip(path, 12)
    assert bad(path) == {}
    s.flip(path, 14)
    assert bad(path) == {"launcher": "its bytes were changed"}
