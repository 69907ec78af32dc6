from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf_files as g
import pytest
import small_packs as s

from packer.keys import verify_ed25519
from packer.stub import Stub
from runtime_stub.describe import describe_bundle, license_lines, lines
from runtime_stub.recipe import Example


def describe(path: Path) -> dict[str, Any]:
    with s.opened(path) as bundle:
        return describe_bundle(bundle, verify_ed25519)


@pytest.fixture
def pack(small_model: Path, out: Path, small_stub: Stub) -> Path:
    recipe: dict[str, Any] = {"name": "Clara", "mode": "serve", "context": 512}
    return s.pack(small_model, out / "clara", small_stub, system="Be kind.", **recipe).path


class TestDescribe:
    def test_pack(self, pack: Path, small_model: Path) -> None:
        document = describe(pack)
        assert json.loads(json.dumps(document)) == document
        assert (document["kind"], document["name"]) == ("pack", "Clara")
        assert document["file"] == str(pack)
        assert document["size"] == pack.stat().st_size
        assert document["recipe"]["system"] == "Be kind."
        assert document["stub"]["llama_cpp"]["commit"] == "abc1234"
        assert not {"architectures", "tensor_types", "contents"} & set(document["stub"])
        model = next(entry for entry in document["entries"] if entry["kind"] == "model")
        assert (model["codec"], model["size"]) == ("raw", small_model.stat().st_size)
        assert model["metadata"]["licence"]["license"] == "apache-2.0"
        assert model["metadata"]["memory_context"] == 512

    def test_stub(self, stub_file: Path) -> None:
        document = describe(stub_file)
        assert (document["kind"], document["name"], document["recipe"]) == ("stub", "", None)

    def test_features(self, small_model: Path, out: Path, small_stub: Stub) -> None:
        pack = s.pack(small_model, out / "clara", small_stub, "compressed").path
        assert describe(pack)["features"] == ["zstd-frames"]


class TestLines:
    def test_several_models(self) -> None:
        document: dict[str, Any] = {
            "name": "both",
            "kind": "pack",
            "size": 1000,
            "file": "both",
            "stub": {},
            "entries": [],
            "recipe": {
                "models": [
                    {"name": "chat"},
                    {
                        "name": "code",
                        "entry": "model-2",
                        "adapters": [{"name": "sql"}, {"name": "sh", "apply": "always"}],
                    },
                ]
            },
        }
        found = list(lines(document))
        assert found[-5:-1] == [
            "  serves     chat (entry model)",
            "  serves     code (entry model-2)",
            "  adapter    sql, when asked for",
            "  adapter    sh, unless a request says no",
        ]

    @pytest.mark.parametrize("choice", [None, True, False])
    def test_drafts(
        self, choice: bool | None, small_model: Path, out: Path, small_stub: Stub
    ) -> None:
        recipe: dict[str, Any] = {} if choice is None else {"drafts": choice}
        text = "\n".join(lines(describe(s.pack(small_model, out / "c", small_stub, **recipe).path)))
        assert ("  drafts     off" in text) is (choice is False)

    def test_examples(self, small_model: Path, out: Path, small_stub: Stub) -> None:
        examples = (Example("Hot?", "No."), Example("Cold?", "Yes."))
        made = s.pack(small_model, out / "c", small_stub, examples=examples)
        assert "  examples   2, at the beginning of every conversation" in lines(
            describe(made.path)
        )

    def test_pack(self, pack: Path) -> None:
        text = "\n".join(lines(describe(pack)))
        for part in (
            *("Clara  (", "platform", "llama.cpp abc1234, llama-cpp-python 0.3.36"),
            *("Tiny, llama, Q4_1", "trained on 2,048 tokens", "with 512 tokens of context"),
            *("licence    apache-2.0", "none in the model: a fallback", "mapped from the pack"),
            *("starts as  serve", "system     Be kind.", "context    512"),
            *("launcher", "runtime                ", "(zstd)", "model.chunks"),
        ):
            assert part in text

    def test_stub(self, stub_file: Path) -> None:
        found = list(lines(describe(stub_file)))
        assert found[0].startswith("stub  (")
        assert not any(line.startswith("  model") for line in found)

    def test_compressed(self, small_model: Path, out: Path, small_stub: Stub) -> None:
        pack = s.pack(small_model, out / "clara", small_stub, "compressed").path
        assert "extracted to the cache once" in "\n".join(lines(describe(pack)))

    def test_model_without_facts(self, tmp_path: Path, out: Path, small_stub: Stub) -> None:
        without = [*s.NO_TEMPLATE, "general.license", "llama.context_length"]
        path = g.model(without=without).write(tmp_path / "bare.gguf")
        text = "\n".join(lines(describe(s.pack(path, out / "bare", small_stub).path)))
        assert "not stated in the model file" in text
        assert "trained on" not in text

    def test_on_this_machine(self, pack: Path) -> None:
        document = describe(pack)
        document["runtime"] = {"folder": "/cache/runtimes/abc", "cache": "/cache"}
        document["machine"] = {
            "physical_cores": 2,
            "memory_total": 8e9,
            "memory_available": 3e9,
            "cpu_variant": "",
        }
        text = "\n".join(lines(document))
        assert "2 cores, 3.0 GB of 8.0 GB memory free" in text
        assert "code for unknown" in text
        assert "/cache/runtimes/abc" in text
        assert "nodes" not in text
        document["machine"]["memory_nodes"] = [0]
        assert "nodes" not in "\n".join(lines(document))
        document["machine"]["memory_nodes"] = [1, 3]
        text = "\n".join(lines(document))
        assert "on 2 nodes" in text
        assert "numactl --cpunodebind=1 --membind=1" in text


class TestLicences:
    @pytest.fixture
    def runtime(self, tmp_path: Path) -> Path:
        folder = tmp_path / "runtime" / "licenses"
        folder.mkdir(parents=True)
        (folder / "python.txt").write_text("  You may use it.\n", encoding="utf-8")
        index = [
            {"name": "Python", "version": "3.11", "license": "PSF-2.0", "files": ["python.txt"]},
            {"name": "click", "version": "8", "license": "BSD-3-Clause", "files": []},
        ]
        (folder / "index.json").write_text(json.dumps(index), encoding="utf-8")
        return folder.parent

    def test_full(self, pack: Path, runtime: Path) -> None:
        with s.opened(pack) as bundle:
            found = list(license_lines(bundle, runtime, names_only=False))
        assert found[0] == "== model Tiny"
        assert "license: apache-2.0" in found
        assert "== Python 3.11: PSF-2.0" in found
        assert "You may use it." in found

    def test_names(self, pack: Path, runtime: Path) -> None:
        with s.opened(pack) as bundle:
            found = list(license_lines(bundle, runtime, names_only=True))
        assert "== click 8: BSD-3-Clause" in found
        assert "You may use it." not in found

    def test_model_that_states_none(
        self, tmp_path: Path, out: Path, small_stub: Stub, runtime: Path
    ) -> None:
        without = [*s.NO_TEMPLATE, "general.license", "general.organization"]
        path = g.model(without=without).write(tmp_path / "bare.gguf")
        pack = s.pack(path, out / "bare", small_stub).path
        with s.opened(pack) as bundle:
            text = "\n".join(license_lines(bundle, runtime, names_only=True))
        assert "states no licence" in text
