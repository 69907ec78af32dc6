"""A real pack that holds its model compressed, and one with the model beside it."""

from __future__ import annotations

import hashlib
import os
import signal
import time
from pathlib import Path

import pytest
from running_pack import ASK, Place, compressed_pack, place, sample_model, satchel, wait_for

pytestmark = pytest.mark.pack

SYSTEM = ("--system", "You are a helpful assistant.")


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compressed_pack(tmp_path_factory.mktemp("packed"))


@pytest.fixture
def here(packed: Path, tmp_path: Path) -> Place:
    return place(tmp_path, source=packed)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def extracted(there: Place) -> list[Path]:
    return list((there.cache / "models").glob("*.gguf"))


def test_model_is_extracted_once_and_is_the_model(here: Place) -> None:
    assert "Paris" in here.run(*ASK).stdout
    (model,) = extracted(here)
    assert sha256(model) == sha256(sample_model()) == model.stem
    before = model.stat()
    assert "Paris" in here.run(*ASK).stdout
    assert model.stat().st_ino == before.st_ino
    assert model.stat().st_mtime_ns == before.st_mtime_ns


def test_unpack_gives_the_model_back(packed: Path, tmp_path: Path) -> None:
    satchel("unpack", packed, "-o", tmp_path / "out.gguf")
    assert sha256(tmp_path / "out.gguf") == sha256(sample_model())


def test_altered_model_is_repaired(here: Place) -> None:
    here.run(*ASK)
    (model,) = extracted(here)
    os.truncate(model, model.stat().st_size // 2)
    assert "Paris" in here.run(*ASK).stdout
    assert sha256(model) == model.stem


def test_killed_extraction_goes_on(here: Place) -> None:
    here.run("--version")
    for _ in range(3):
        process = here.start(*ASK)
        wait_for(lambda: list((here.cache / "models").glob("*.part")), "a part")
        time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert "Paris" in here.run(*ASK).stdout
    assert not list((here.cache / "models").glob("*.part"))
    (model,) = extracted(here)
    assert sha256(model) == model.stem


def test_simultaneous_extractions(here: Place) -> None:
    processes = [here.start(*ASK) for _ in range(3)]
    outcomes = [process.communicate(timeout=120) for process in processes]
    assert all(process.returncode == 0 for process in processes), outcomes
    assert all("Paris" in output for output, _ in outcomes)
    assert len(extracted(here)) == 1


def test_damaged_model_is_not_used(here: Place, packed: Path) -> None:
    here.pack.unlink()
    here.pack.write_bytes(packed.read_bytes())
    here.pack.chmod(0o755)
    descriptor = os.open(here.pack, os.O_RDWR)
    os.pwrite(descriptor, b"damage", here.pack.stat().st_size // 2)
    os.close(descriptor)
    result = here.run(*ASK, check=False)
    assert result.returncode == 6
    assert "'model' is damaged" in result.stderr
    assert not extracted(here)


def test_sidecar(tmp_path: Path) -> None:
    pack = tmp_path / "made" / "assistant"
    pack.parent.mkdir()
    satchel("pack", sample_model(), "-o", pack, "--storage", "sidecar", *SYSTEM)
    (sidecar,) = pack.parent.glob("*.satchel")
    assert sha256(sidecar) == sidecar.stem == sha256(sample_model())
    there = Place(pack, tmp_path / "home")
    (there.home / "tmp").mkdir(parents=True)
    assert "Paris" in there.run(*ASK).stdout
    assert satchel("verify", pack).returncode == 0
    sidecar.unlink()
    result = there.run(*ASK, check=False)
    assert result.returncode == 3
    assert sidecar.name in result.stderr
