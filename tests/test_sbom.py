from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import small_packs as s

from packer.sbom import bill_of_materials
from packer.stub import Stub
from runtime_stub.errors import FormatError

INDEX = [
    {"name": "Satchel", "version": "", "license": "Apache-2.0", "files": []},
    {"name": "click", "version": "8.1", "license": "BSD-3-Clause", "source": "pypi", "files": []},
    {"name": "llama.cpp", "version": "", "license": "MIT", "source": "native", "files": []},
    {"name": "libc6", "version": "2.36-9", "license": "see text", "source": "deb", "files": []},
    {"name": "musl", "version": "1.2.5", "license": "MIT", "source": "native", "files": []},
    {"name": "@a/web", "version": "7", "license": "MIT", "source": "npm", "files": []},
    {"name": "odd", "version": "1", "license": "A licence of its own", "files": []},
    {"name": "GPL-3", "version": "", "license": "full text", "files": []},
]


@pytest.fixture
def document(tmp_path: Path, small_model: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    from packer.stub import read_stub

    monkeypatch.setitem(s.FILES, "licenses/index.json", json.dumps(INDEX).encode())
    stub = read_stub(s.write_stub(tmp_path / "listed.stub"))
    s.pack(small_model, tmp_path / "assistant", stub)
    with s.opened(tmp_path / "assistant") as bundle:
        found: dict[str, Any] = json.loads(bill_of_materials(bundle))
        found["sha256"] = bundle.entry("model").sha256
    return found


def test_everything_is_in_it(document: dict[str, Any]) -> None:
    assert (document["bomFormat"], document["specVersion"]) == ("CycloneDX", "1.6")
    components = {component["name"]: component for component in document["components"]}
    assert {"satchel launcher", "satchel runtime", "click", "llama.cpp", "libc6", "odd"} < set(
        components
    )
    assert "GPL-3" not in components
    assert components["click"]["purl"] == "pkg:pypi/click@8.1"
    assert components["libc6"]["purl"] == "pkg:deb/debian/libc6@2.36-9"
    assert components["llama.cpp"]["version"] == "abc1234"
    assert components["llama.cpp"]["purl"] == "pkg:generic/llama.cpp@abc1234"
    assert components["musl"]["purl"] == "pkg:generic/musl@1.2.5"
    assert components["@a/web"]["purl"] == "pkg:npm/%40a/web@7"
    assert components["click"]["licenses"] == [{"license": {"id": "BSD-3-Clause"}}]
    assert components["odd"]["licenses"] == [{"license": {"name": "A licence of its own"}}]


def test_the_model(document: dict[str, Any]) -> None:
    (model,) = [c for c in document["components"] if c["type"] == "machine-learning-model"]
    assert model["hashes"] == [{"alg": "SHA-256", "content": document["sha256"]}]
    assert model["licenses"]


def test_without_a_list(stub_file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    files = {name: data for name, data in s.FILES.items() if "licenses" not in name}
    monkeypatch.setattr(s, "FILES", files)
    path = s.write_stub(tmp_path / "bare.stub")
    with s.opened(path) as bundle, pytest.raises(FormatError, match="does not list"):
        bill_of_materials(bundle)


def test_the_same_pack_has_the_same_number(small_stub: Stub, stub_file: Path) -> None:
    numbers = set()
    for _ in range(2):
        with s.opened(stub_file) as bundle:
            numbers.add(json.loads(bill_of_materials(bundle))["serialNumber"])
    assert len(numbers) == 1
