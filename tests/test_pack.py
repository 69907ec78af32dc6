from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gguf_files as g
import pytest
import small_packs as s

from packer.merge import chunks, plan
from packer.pack import MEMORY_CONTEXT, Plan, plan_pack, write_pack
from packer.stub import Stub, read_stub
from runtime_stub.errors import (
    DamagedError,
    FormatError,
    InputError,
    OutputError,
    PromptError,
    SatchelError,
    SpaceError,
    UnsupportedError,
)
from runtime_stub.recipe import Recipe
from runtime_stub.verify import verify

STORAGES = ["mapped", "compressed", "sidecar"]


def make_plan(model: Path, out: Path, stub: Stub, storage: str = "mapped", **recipe: Any) -> Plan:
    return plan_pack(out, s.packing(model, storage, **recipe), stub, force=True)


class TestSound:
    @pytest.mark.parametrize("storage", STORAGES)
    def test_pack(self, small_model: Path, out: Path, small_stub: Stub, storage: str) -> None:
        made = s.pack(small_model, out / "tiny", small_stub, storage, system="Be kind.")
        assert made.path == out / "tiny"
        assert made.size == made.path.stat().st_size
        assert (made.model_size, made.parts[0].storage) == (small_model.stat().st_size, storage)
        with s.opened(made.path) as bundle:
            assert not [region for region in verify(bundle, s.nothing) if region.problem]
            assert bundle.read(bundle.entry("launcher")) == s.LAUNCHER
            assert bundle.footer.runtime_size == sum(map(len, s.FILES.values()))
            assert bundle.manifest.recipe == Recipe("tiny", system="Be kind.").document()
            assert bundle.manifest.stub["platform"] == small_stub.platform
            assert "contents" not in bundle.manifest.stub
            with s.opened(small_stub.path) as stub:
                for name in ("launcher", "runtime"):
                    mine, theirs = bundle.entry(name), stub.entry(name)
                    assert (mine.sha256, mine.codec, mine.size) == (
                        *(theirs.sha256, theirs.codec, theirs.size),
                    )

    @pytest.mark.parametrize("storage", STORAGES)
    def test_the_same_bytes_again(
        self, tmp_path: Path, small_model: Path, small_stub: Stub, storage: str
    ) -> None:
        found = []
        for name in ("a", "b"):
            (tmp_path / name).mkdir()
            s.pack(small_model, tmp_path / name / "tiny", small_stub, storage)
            os.utime(small_model, (1, 1))  # times do not count
            found.append({p.name: p.read_bytes() for p in (tmp_path / name).iterdir()})
        assert found[0] == found[1]

    def test_mapped_data_is_aligned(self, small_model: Path, out: Path, small_stub: Stub) -> None:
        data = s.pack(small_model, out / "tiny", small_stub).path.read_bytes()
        assert data.find(small_model.read_bytes()) % 65536 == 0

    @pytest.mark.parametrize("storage", STORAGES)
    def test_split_model(self, tmp_path: Path, out: Path, small_stub: Stub, storage: str) -> None:
        parts = g.split(g.model(without=s.NO_TEMPLATE), tmp_path / "tiny", [2, 3])
        made = s.pack(parts[0], out / "tiny", small_stub, storage)
        whole = b"".join(chunks(plan(parts[0])))
        assert made.model_size == len(whole)
        with s.opened(made.path) as bundle:
            entry = bundle.entry("model")
            assert entry.size == len(whole)
            assert entry.metadata["parts"] == 2
            assert storage == "compressed" or bundle.read(entry) == whole

    def test_progress(self, small_model: Path, out: Path, small_stub: Stub) -> None:
        made = make_plan(small_model, out / "tiny", small_stub)
        counts: list[int] = []
        write_pack(made, counts.append, force=False)
        assert sum(counts) == made.work == 2 * small_model.stat().st_size

    def test_facts(self, small_model: Path, out: Path, small_stub: Stub) -> None:
        with s.opened(s.pack(small_model, out / "tiny", small_stub).path) as bundle:
            facts = bundle.entry("model").metadata
        assert (facts["name"], facts["architecture"]) == ("Tiny", "llama")
        assert facts["chat_template"] is False
        assert (facts["reasoning"], facts["embedding"]) == (False, False)
        assert facts["memory_context"] == 2048 < MEMORY_CONTEXT
        assert facts["memory_needed"] > small_model.stat().st_size
        assert facts["licence"] == {"license": "apache-2.0", "organization": "Nobody"}

    def test_what_it_is_for(self, tmp_path: Path, out: Path, small_stub: Stub) -> None:
        template = "{% for m in messages %}{{ m.content }}{% endfor %}<think>"
        thinking = {"tokenizer.chat_template": g.Typed(g.STRING, template)}
        pooling = {"llama.pooling_type": g.Typed(g.U32, 3)}
        for name, added in (("thinks", thinking), ("pools", pooling)):
            path = g.model(more=added).write(tmp_path / f"{name}.gguf")
            with s.opened(s.pack(path, out / name, small_stub).path) as bundle:
                facts = bundle.entry("model").metadata
            assert facts["reasoning"] == (name == "thinks")
            assert facts["embedding"] == (name == "pools")

    def test_chosen_context(self, small_model: Path, out: Path, small_stub: Stub) -> None:
        made = make_plan(small_model, out / "tiny", small_stub, context=4096)
        assert any("4,096 tokens" in note for note in made.notes)

    @pytest.mark.skipif(sys.platform != "linux", reason="names of any bytes are Linux's")
    def test_name_that_is_no_text(self, tmp_path: Path, out: Path, small_stub: Stub) -> None:
        without = [*s.NO_TEMPLATE, "general.name"]
        path = g.model(without=without).write(tmp_path / os.fsdecode(b"caf\xe9.gguf"))
        with s.opened(s.pack(path, out / "tiny", small_stub).path) as bundle:
            assert bundle.entry("model").metadata["name"] == "caf\N{REPLACEMENT CHARACTER}"


class TestStorage:
    def choose(self, path: Path, out: Path, stub: Stub) -> str:
        return make_plan(path, out / "tiny", stub, "auto").parts[0].storage

    def test_quantized(self, small_model: Path, out: Path, small_stub: Stub) -> None:
        assert self.choose(small_model, out, small_stub) == "mapped"

    def test_floats_that_gain(self, tmp_path: Path, out: Path, small_stub: Stub) -> None:
        path = s.model(tmp_path / "f16.gguf", kind=g.TYPE_F16)
        assert self.choose(path, out, small_stub) == "compressed"

    def test_floats_that_do_not(self, tmp_path: Path, out: Path, small_stub: Stub) -> None:
        noise = s.noise(64 * 4096 * 2)
        tensor = g.TensorInfo("token_embd.weight", (64, 4096), g.TYPE_F16, data=noise)
        path = g.model(without=s.NO_TEMPLATE, tensors=(tensor,)).write(tmp_path / "noise.gguf")
        assert self.choose(path, out, small_stub) == "mapped"

    @pytest.mark.parametrize("wanted", STORAGES)
    def test_as_wanted(self, small_model: Path, out: Path, small_stub: Stub, wanted: str) -> None:
        assert make_plan(small_model, out / "tiny", small_stub, wanted).parts[0].storage == wanted


class TestTemplates:
    def test_checked(self, tmp_path: Path, out: Path, small_stub: Stub) -> None:
        broken = g.Typed(g.STRING, "{% for %}")
        path = g.model(tokenizer__chat_template=broken).write(tmp_path / "m.gguf")
        with pytest.raises(PromptError, match="template can't be used"):
            make_plan(path, out / "tiny", small_stub)
        assert s.files_in(out) == set()

    def test_the_recipes_own_counts(
        self, tmp_path: Path, out: Path, small_stub: Stub, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen: list[tuple[str, str | None]] = []

        def note(template: str, system: str | None) -> list[str]:
            seen.append((template, system))
            return ["A note."]

        monkeypatch.setattr("packer.pack.check_template", note)
        path = g.model().write(tmp_path / "m.gguf")
        made = make_plan(path, out / "tiny", small_stub, template="mine", system="Be kind.")
        make_plan(path, out / "tiny", small_stub)
        assert seen == [("mine", "Be kind."), (g.TEMPLATE, None)]
        assert "A note." in made.notes


class TestRefused:
    """What can't be packed leaves no file behind, and an old output as it was."""

    @pytest.fixture(autouse=True)
    def old(self, out: Path) -> Iterator[None]:
        (out / "old").write_bytes(b"old")
        yield
        assert s.files_in(out) == {"old"}
        assert (out / "old").read_bytes() == b"old"

    def refuse(self, model: Path, out: Path, stub: Stub, error: type[SatchelError]) -> str:
        with pytest.raises(error) as caught:
            s.pack(model, out / "new", stub)
        return str(caught.value)

    def test_missing(self, tmp_path: Path, out: Path, small_stub: Stub) -> None:
        assert "does not exist" in self.refuse(tmp_path / "no.gguf", out, small_stub, InputError)

    def test_folder(self, tmp_path: Path, out: Path, small_stub: Stub) -> None:
        assert "is a folder" in self.refuse(tmp_path, out, small_stub, InputError)

    def test_not_a_gguf(self, tmp_path: Path, out: Path, small_stub: Stub) -> None:
        (tmp_path / "m.gguf").write_bytes(b"PK\x03\x04")
        assert "PyTorch" in self.refuse(tmp_path / "m.gguf", out, small_stub, FormatError)

    def test_truncated(self, small_model: Path, out: Path, small_stub: Stub) -> None:
        os.truncate(small_model, small_model.stat().st_size - 200)
        assert "cut short" in self.refuse(small_model, out, small_stub, FormatError)

    def test_architecture(self, tmp_path: Path, out: Path, small_stub: Stub) -> None:
        path = g.model("grok9").write(tmp_path / "m.gguf")
        message = self.refuse(path, out, small_stub, UnsupportedError)
        assert "llama.cpp abc1234 does not know" in message

    def test_tensor_type(self, small_model: Path, tmp_path: Path, out: Path) -> None:
        few = {"0": {"name": "f32", "block": 1, "size": 4}}
        stub = read_stub(s.write_stub(tmp_path / "few.stub", facts={"tensor_types": few}))
        assert "has type 3" in self.refuse(small_model, out, stub, UnsupportedError)

    def test_stub_of_nonsense(self, small_model: Path, tmp_path: Path, out: Path) -> None:
        stub = read_stub(s.write_stub(tmp_path / "odd.stub", facts={"tensor_types": {"x": 1}}))
        assert "table of tensor types" in self.refuse(small_model, out, stub, FormatError)

    def test_existing_output(self, small_model: Path, out: Path, small_stub: Stub) -> None:
        with pytest.raises(OutputError, match="exists already"):
            s.pack(small_model, out / "old", small_stub)

    def test_folder_as_output(self, small_model: Path, out: Path, small_stub: Stub) -> None:
        with pytest.raises(OutputError, match="is a folder"):
            s.pack(small_model, out, small_stub, force=True)

    @pytest.mark.parametrize("force", [False, True])
    def test_output_is_the_input(self, small_model: Path, small_stub: Stub, force: bool) -> None:
        before = small_model.read_bytes()
        with pytest.raises(OutputError, match="is the model itself"):
            s.pack(small_model, small_model, small_stub, force=force)
        assert small_model.read_bytes() == before

    def test_output_is_a_link_to_the_input(
        self, small_model: Path, tmp_path: Path, small_stub: Stub
    ) -> None:
        (tmp_path / "link").symlink_to(small_model)
        with pytest.raises(OutputError, match="is the model itself"):
            s.pack(small_model, tmp_path / "link", small_stub, force=True)

    def test_output_is_a_part(self, tmp_path: Path, small_stub: Stub) -> None:
        parts = g.split(g.model(without=s.NO_TEMPLATE), tmp_path / "tiny", [2, 3])
        with pytest.raises(OutputError, match="is the model itself"):
            s.pack(parts[0], parts[1], small_stub, force=True)

    def test_output_is_the_stub(self, small_model: Path, small_stub: Stub) -> None:
        with pytest.raises(OutputError, match="is the stub itself"):
            s.pack(small_model, small_stub.path, small_stub, force=True)

    def test_windows_limit(
        self, tmp_path: Path, small_model: Path, out: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = s.write_stub(tmp_path / "w.stub", facts={"platform": "windows-x86_64"})
        monkeypatch.setattr("packer.pack.WINDOWS_LIMIT", 10_000)
        stub = read_stub(path)
        assert "--storage sidecar" in self.refuse(small_model, out, stub, OutputError)
        assert make_plan(small_model, out / "new", stub, "sidecar").parts[0].storage == "sidecar"

    @pytest.mark.parametrize("name", ["launcher", "runtime"])
    def test_damaged_stub(self, tmp_path: Path, small_model: Path, out: Path, name: str) -> None:
        """Its bytes would get new, right hashes in the pack."""
        stub = read_stub(s.write_stub(tmp_path / "damaged.stub"))
        with s.opened(stub.path) as bundle:
            s.flip(stub.path, bundle.entry(name).offset + 10)
        assert f"is damaged: {name}" in self.refuse(small_model, out, stub, DamagedError)

    @pytest.mark.parametrize("storage", STORAGES)
    def test_interrupted(
        self, small_model: Path, out: Path, small_stub: Stub, storage: str
    ) -> None:
        def interrupt(_count: int) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            s.pack(small_model, out / "old", small_stub, storage, force=True, progress=interrupt)

    @pytest.mark.parametrize("storage", STORAGES)
    def test_model_changed_meanwhile(
        self, small_model: Path, out: Path, small_stub: Stub, storage: str
    ) -> None:
        def touch(_count: int) -> None:
            os.utime(small_model, (1, 1))

        with pytest.raises(InputError, match="was changed while it was read"):
            s.pack(small_model, out / "new", small_stub, storage, progress=touch)

    @pytest.mark.parametrize("storage", STORAGES)
    def test_model_cut_meanwhile(
        self, small_model: Path, out: Path, small_stub: Stub, storage: str
    ) -> None:
        made = make_plan(small_model, out / "new", small_stub, storage)
        os.truncate(small_model, 1000)
        with pytest.raises(InputError, match="became shorter"):
            write_pack(made, s.nothing, force=True)

    def test_no_space(
        self, small_model: Path, out: Path, small_stub: Stub, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000, total=1))
        assert "disk has 0 MB free" in self.refuse(small_model, out, small_stub, SpaceError)

    @pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs /proc")
    def test_unwritable_folder(self, small_model: Path, small_stub: Stub) -> None:
        with pytest.raises(OutputError, match="takes no new files"):
            s.pack(small_model, Path("/proc/self/pack"), small_stub, "compressed")


def test_force_replaces(small_model: Path, out: Path, small_stub: Stub) -> None:
    (out / "tiny").write_bytes(b"old")
    with (out / "tiny").open("rb") as old:
        s.pack(small_model, out / "tiny", small_stub, force=True)
        assert old.read() == b"old"  # who has it open goes on with the old one
    assert s.files_in(out) == {"tiny"}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 4 MB, where we may make one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("this system lets nobody mount a disk")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("storage", STORAGES)
def test_full_disk(tmp_path: Path, small_disk: Path, small_stub: Stub, storage: str) -> None:
    """6 MB that do not compress, on a disk of 4."""
    tensor = g.TensorInfo("token_embd.weight", (64, 49152), g.TYPE_F16, data=s.noise(6 << 20))
    model = g.model(without=s.NO_TEMPLATE, tensors=(tensor,)).write(tmp_path / "large.gguf")
    (small_disk / "tiny").write_bytes(b"old")
    with pytest.raises(SpaceError):
        s.pack(model, small_disk / "tiny", small_stub, storage, force=True)
    assert s.files_in(small_disk) == {"tiny"}
    assert (small_disk / "tiny").read_bytes() == b"old"


MEMORY_CODE = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import small_packs as s
from packer.stub import read_stub

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))

stub = read_stub(Path(sys.argv[2]))
model, out, storage = Path(sys.argv[3]), Path(sys.argv[4]), sys.argv[5]
s.pack(s.model(out / "tiny.gguf"), out / "tiny", stub, storage)
before = peak()
s.pack(model, out / "pack", stub, storage)
print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts as Linux does")
@pytest.mark.parametrize("storage", ["mapped", "compressed"])
def test_memory_is_bounded(tmp_path: Path, out: Path, small_stub: Stub, storage: str) -> None:
    """A model of 250 MB, most of it a hole in the file, takes no more memory than a few chunks."""
    rows = 250_000_000 // 128
    tensor = g.TensorInfo("token_embd.weight", (64, rows), g.TYPE_F16, data=b"")
    model = g.model(without=s.NO_TEMPLATE, tensors=(tensor,)).write(tmp_path / "large.gguf")
    os.truncate(model, model.stat().st_size + tensor.size)
    here = str(Path(__file__).parent)
    arguments = [here, small_stub.path, model, out, storage]
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(MEMORY_CODE), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert 0 < int(result.stdout) < 64 << 10  # KiB
