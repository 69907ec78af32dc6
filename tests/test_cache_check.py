from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import small_packs as s

from packer.stub import Stub
from runtime_stub import archive
from runtime_stub.bundle import Bundle
from runtime_stub.cache_check import cached_size, check_cached
from runtime_stub.extract import extract_model


@pytest.fixture
def bundle(tmp_path: Path, small_stub: Stub) -> Iterator[Bundle]:
    path = tmp_path / "assistant"
    s.pack(s.model(tmp_path / "tiny.gguf", rows=4096), path, small_stub, "compressed")
    with s.opened(path) as found:
        yield found


@pytest.fixture
def runtime(tmp_path: Path) -> Path:
    """The runtime of small packs as the launcher leaves it."""
    folder = tmp_path / "runtime"
    for name, data in s.FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    members = [archive.Member(name, len(data), 0o644) for name, data in sorted(s.FILES.items())]
    (folder / archive.INDEX_FILE).write_bytes(archive.pack_index(members))
    return folder


@pytest.fixture
def model(tmp_path: Path, bundle: Bundle) -> Path:
    return extract(bundle, tmp_path / "cache")


def extract(bundle: Bundle, root: Path) -> Path:
    entry = bundle.entry("model")
    return extract_model(bundle, entry, [root], on_start=lambda _: s.nothing, on_wait=lambda: None)


def problems(bundle: Bundle, runtime: Path, root: Path) -> dict[str, str]:
    found = check_cached(bundle, runtime, [root], s.nothing)
    assert all("by itself" in region.remedy for region in found)
    return {region.name: region.problem for region in found}


def test_sound(bundle: Bundle, runtime: Path, model: Path, tmp_path: Path) -> None:
    counts: list[int] = []
    regions = check_cached(bundle, runtime, [tmp_path / "cache"], counts.append)
    assert [(region.name, region.problem) for region in regions] == [
        ("cached runtime", ""),
        ("cached model", ""),
    ]
    assert sum(counts) == cached_size(bundle)
    assert (runtime / archive.INDEX_FILE).exists()


def test_model_not_extracted(bundle: Bundle, runtime: Path, tmp_path: Path) -> None:
    assert problems(bundle, runtime, tmp_path / "cache") == {"cached runtime": ""}


@pytest.mark.parametrize("damage", ["altered", "shorter", "longer", "missing", "stranger"])
def test_runtime(bundle: Bundle, runtime: Path, tmp_path: Path, damage: str) -> None:
    """Without its index the launcher takes the folder for incomplete, and extracts it again."""
    path = runtime / "_internal" / "base_library.zip"
    if damage == "altered":
        s.flip(path, 1000)
    elif damage == "shorter":
        os.truncate(path, 1000)
    elif damage == "longer":
        path.write_bytes(path.read_bytes() + b"x")
    elif damage == "missing":
        path.unlink()
    else:
        path = path.with_name("stranger.py")
        path.touch()
    what = "does not belong there" if damage == "stranger" else "was changed"
    assert problems(bundle, runtime, tmp_path) == {"cached runtime": f"{path} {what}"}
    assert not (runtime / archive.INDEX_FILE).exists()


def test_model(bundle: Bundle, runtime: Path, model: Path, tmp_path: Path) -> None:
    """Changed behind our back, size and time as they were: it is extracted again."""
    content, facts = model.read_bytes(), model.stat()
    s.flip(model, 70_000)
    os.utime(model, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert problems(bundle, runtime, tmp_path / "cache")["cached model"] == f"{model} was changed"
    assert not model.exists()
    assert extract(bundle, tmp_path / "cache").read_bytes() == content
