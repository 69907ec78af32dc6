from __future__ import annotations

import os
from pathlib import Path

import pytest
import small_packs as s

from packer.stub import Stub
from runtime_stub.bundle import Bundle
from runtime_stub.engine.messages import ModelSource
from runtime_stub.errors import FormatError, InputError, UnsupportedError
from runtime_stub.extract import Progress
from runtime_stub.models import first_model, model_source, roots


def never(_size: int) -> Progress:
    raise AssertionError("there was something to extract")


def source_of(bundle: Bundle, *, extracts: bool = False) -> ModelSource:
    entry = first_model(bundle)
    return model_source(
        bundle,
        entry,
        on_start=(lambda _: s.nothing) if extracts else never,
        on_wait=lambda: None,
    )


@pytest.fixture
def content(small_model: Path) -> bytes:
    return small_model.read_bytes()


def test_mapped(small_model: Path, out: Path, small_stub: Stub, content: bytes) -> None:
    with s.opened(s.pack(small_model, out / "pack", small_stub).path) as bundle:
        source = source_of(bundle)
        assert source.descriptor == bundle.descriptor
        assert source.offset % 65536 == 0
        assert os.pread(source.descriptor, source.length, source.offset) == content


def test_sidecar(small_model: Path, out: Path, small_stub: Stub, content: bytes) -> None:
    with s.opened(s.pack(small_model, out / "pack", small_stub, "sidecar").path) as bundle:
        source = source_of(bundle)
        assert source.descriptor != bundle.descriptor
        assert os.pread(source.descriptor, source.length, source.offset) == content


def test_sidecar_that_is_missing(small_model: Path, out: Path, small_stub: Stub) -> None:
    pack = s.pack(small_model, out / "pack", small_stub, "sidecar").path
    next(out.glob("*.satchel")).unlink()
    with s.opened(pack) as bundle, pytest.raises(InputError, match="Copy both files together"):
        source_of(bundle)


def test_compressed(
    home: Path, small_model: Path, out: Path, small_stub: Stub, content: bytes
) -> None:
    with s.opened(s.pack(small_model, out / "pack", small_stub, "compressed").path) as bundle:
        for extracts in (True, False):
            source = source_of(bundle, extracts=extracts)
            assert (source.offset, source.length) == (0, len(content))
            assert os.pread(source.descriptor, source.length, 0) == content
            assert not os.get_inheritable(source.descriptor)
            os.close(source.descriptor)
    assert list((home / "cache" / "satchel" / "models").glob("*.gguf"))


def test_chosen_cache(
    home: Path,
    tmp_path: Path,
    small_model: Path,
    out: Path,
    small_stub: Stub,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SATCHEL_CACHE", str(tmp_path / "chosen"))
    with s.opened(s.pack(small_model, out / "pack", small_stub, "compressed").path) as bundle:
        assert roots(bundle) == [tmp_path / "chosen"]
        os.close(source_of(bundle, extracts=True).descriptor)
    assert list((tmp_path / "chosen" / "models").glob("*.gguf"))
    assert not (home / "cache").exists()


def test_unknown_codec(home: Path, small_model: Path, out: Path, small_stub: Stub) -> None:
    pack = s.pack(small_model, out / "pack", small_stub, "compressed").path
    s.change_entry(pack, "model", codec="rhymes")
    with s.opened(pack) as bundle, pytest.raises(UnsupportedError, match="'rhymes'"):
        source_of(bundle, extracts=True)


def test_stub_has_none(stub_file: Path) -> None:
    with s.opened(stub_file) as bundle, pytest.raises(FormatError, match="is a stub"):
        first_model(bundle)
