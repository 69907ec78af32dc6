from __future__ import annotations

import os
import platform
import shutil
import sys
from pathlib import Path

import pytest
import small_packs as s

from packer import stub as stubs_module
from packer.stub import (
    PLATFORMS,
    Stub,
    add_stub,
    find_stub,
    list_stubs,
    open_bundle,
    read_stub,
    runtime_entry,
    stub_folders,
    stub_name,
    this_platform,
)
from runtime_stub import __version__
from runtime_stub.errors import DamagedError, FormatError, InputError, OutputError, StubError

OTHER = next(name for name in PLATFORMS if name != this_platform())


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """A stub of another platform, as it comes from another machine."""
    folder = tmp_path / "brought"
    folder.mkdir()
    return s.write_stub(folder / "any name", facts={"platform": OTHER})


@pytest.mark.parametrize(
    ("system", "machine", "name"),
    [
        ("linux", "x86_64", "linux-x86_64"),
        ("linux", "aarch64", "linux-aarch64"),
        ("linux", "arm64", "linux-aarch64"),
        ("darwin", "arm64", "macos-arm64"),
        ("win32", "AMD64", "windows-x86_64"),
    ],
)
def test_this_platform(
    monkeypatch: pytest.MonkeyPatch, system: str, machine: str, name: str
) -> None:
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    assert this_platform() == name
    assert name in PLATFORMS


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the folders of Linux")
def test_folders(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stubs_module, "CHECKOUT", tmp_path)
    own = home / "data" / "satchel" / "stubs"
    assert stub_folders() == [own]
    (tmp_path / "build.py").touch()
    assert stub_folders() == [tmp_path / "build" / "stubs", own]


class TestOpenBundle:
    def test_missing(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="can't be read: No such file"):
            open_bundle(tmp_path / "no")

    def test_folder(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="is a folder"):
            open_bundle(tmp_path)

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
    def test_pipe(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(InputError, match="not a regular file"):
            open_bundle(tmp_path / "pipe")

    def test_long_name(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="can't be read: File name too long"):
            open_bundle(tmp_path / ("x" * 300))

    @pytest.mark.parametrize("data", [b"", b"GGUF", bytes(100_000)])
    def test_something_else(self, tmp_path: Path, data: bytes) -> None:
        (tmp_path / "file").write_bytes(data)
        with pytest.raises(FormatError) as caught:
            open_bundle(tmp_path / "file")
        assert str(caught.value).startswith(f"{tmp_path / 'file'}: it has no Satchel footer")

    @pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc")
    def test_nothing_stays_open(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        before = len(list(Path("/proc/self/fd").iterdir()))
        with pytest.raises(FormatError):
            open_bundle(tmp_path / "file")
        assert len(list(Path("/proc/self/fd").iterdir())) == before


class TestReadStub:
    def test_facts(self, stub_file: Path) -> None:
        stub = read_stub(stub_file)
        assert (stub.path, stub.platform, stub.version) == (stub_file, this_platform(), __version__)
        assert stub.size == stub_file.stat().st_size
        assert stub.architectures == {"gemma3", "llama", "qwen2"}
        assert stub.llama_commit == "abc1234"

    def test_little_is_said(self, tmp_path: Path) -> None:
        stub = Stub(tmp_path, "linux-x86_64", "1", {}, 0)
        assert (stub.architectures, stub.llama_commit) == (frozenset(), "unknown")

    def test_pack(self, small_model: Path, out: Path, small_stub: Stub) -> None:
        pack = s.pack(small_model, out / "pack", small_stub).path
        with pytest.raises(StubError, match="is a pack, with a model in it"):
            read_stub(pack)

    def test_runtime_entry(self, stub_file: Path) -> None:
        with s.opened(stub_file) as bundle:
            assert runtime_entry(bundle).kind == "runtime"


class TestFinding:
    def test_list(self, stubs: Path, other: Path) -> None:
        (stubs / "broken.stub").write_bytes(b"no stub")
        (stubs / "folder.stub").mkdir()
        (stubs / "readme.txt").touch()
        shutil.copy(other, stubs / "z.stub")
        assert [stub.platform for stub in list_stubs()] == [this_platform(), OTHER]

    def test_find(self, stubs: Path) -> None:
        assert find_stub(this_platform()).path.parent == stubs

    def test_none_at_all(self, stubs: Path) -> None:
        for path in stubs.iterdir():
            path.unlink()
        assert list_stubs() == []
        with pytest.raises(StubError, match=f"no stub for {this_platform()}") as caught:
            find_stub(this_platform())
        assert "`python build.py stub`" in caught.value.hint

    def test_none_for_another_platform(self, stubs: Path) -> None:
        with pytest.raises(StubError, match=f"there is {this_platform()}") as caught:
            find_stub(OTHER)
        assert f"Build it on {OTHER}" in caught.value.hint
        assert "satchel stub add FILE" in caught.value.hint

    def test_another_version_does_not_fit(self, stubs: Path) -> None:
        for path in stubs.iterdir():
            s.write_stub(path, facts={"satchel": "0.0.9"})
        with pytest.raises(StubError, match=r"\(0\.0\.9\)"):
            find_stub(this_platform())


class TestAdding:
    def test_added(self, stubs: Path, other: Path) -> None:
        added = add_stub(other, force=False)
        assert added.path == stubs / stub_name(OTHER, __version__)
        assert added.path.read_bytes() == other.read_bytes()
        assert find_stub(OTHER) == added

    def test_with_a_signature(self, stubs: Path, other: Path) -> None:
        s.write_stub(other, facts={"platform": "macos-arm64"})
        with other.open("ab") as file:
            file.write(b"signed")
        assert add_stub(other, force=False).path.read_bytes() == other.read_bytes()

    def test_folder_is_made(self, home: Path, other: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(stubs_module, "stub_folders", lambda: [home / "a" / "b"])
        assert add_stub(other, force=False).path.parent == home / "a" / "b"

    def test_there_already(self, stubs: Path, other: Path) -> None:
        path = add_stub(other, force=False).path
        with pytest.raises(OutputError, match="exists already"):
            add_stub(other, force=False)
        add_stub(other, force=True)
        add_stub(path, force=True)
        assert path.read_bytes() == other.read_bytes()

    @pytest.mark.parametrize("offset", [10, 65536, -2000])
    def test_damaged(self, stubs: Path, other: Path, offset: int) -> None:
        with s.opened(other) as bundle:
            zero = bundle.footer.manifest_offset - 1
        s.flip(other, offset if offset > 0 else zero)
        before = s.files_in(stubs)
        with pytest.raises(DamagedError, match=r"is damaged: (launcher|runtime|padding)"):
            add_stub(other, force=False)
        assert s.files_in(stubs) == before

    @pytest.mark.parametrize(
        "facts", [{"platform": "amiga-68k"}, {"satchel": "../../../evil"}, {"satchel": None}]
    )
    def test_odd_facts(self, stubs: Path, other: Path, facts: dict[str, str | None]) -> None:
        s.write_stub(other, facts={"platform": OTHER, **facts})
        with pytest.raises(StubError, match=r"unknown platform|odd version"):
            add_stub(other, force=False)

    def test_pack(self, stubs: Path, small_model: Path, out: Path, small_stub: Stub) -> None:
        pack = s.pack(small_model, out / "pack", small_stub).path
        with pytest.raises(StubError, match="is a pack"):
            add_stub(pack, force=False)

    def test_full_disk(self, stubs: Path, other: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(*_: object) -> None:
            raise OSError(28, os.strerror(28))

        monkeypatch.setattr(stubs_module, "copy_piece", full)
        before = s.files_in(stubs)
        with pytest.raises(Exception, match="is full"):
            add_stub(other, force=False)
        assert s.files_in(stubs) == before

    def test_folder_that_cannot_be_made(
        self, home: Path, other: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (home / "file").touch()
        monkeypatch.setattr(stubs_module, "stub_folders", lambda: [home / "file" / "stubs"])
        with pytest.raises(OutputError, match="can't be made"):
            add_stub(other, force=False)
