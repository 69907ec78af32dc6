from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import click
import gguf_files as g
import pytest
import small_packs as s
from packer_commands import Cli, Said, cli, pack

from packer.cli import satchel
from packer.stub import PLATFORMS, this_platform
from runtime_stub import __version__
from runtime_stub.errors import RecipeError
from runtime_stub.recipe import SAMPLING

__all__ = ["cli", "pack"]
OTHER = next(name for name in PLATFORMS if name != this_platform())


def commands(group: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield path
    if isinstance(group, click.Group):
        for name, command in group.commands.items():
            yield from commands(command, (*path, name))


class TestHelp:
    @pytest.mark.parametrize("path", list(commands(satchel)), ids=" ".join)
    @pytest.mark.parametrize("option", ["--help", "-h"])
    def test_names_every_option(self, cli: Cli, path: tuple[str, ...], option: str) -> None:
        said = cli(*path, option)
        command: click.Command = satchel
        for name in path:
            assert isinstance(command, click.Group)
            command = command.commands[name]
        assert said.code == 0
        assert said.out.startswith(f"Usage: {' '.join(('satchel', *path))}")
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert parameter.help, parameter.name
                assert all(name in said.out for name in parameter.opts)
        if isinstance(command, click.Group):
            assert all(f"  {name}" in said.out for name in command.commands)
        assert max(map(len, said.out.splitlines())) <= 100

    def test_every_setting_can_be_said(self, cli: Cli) -> None:
        said = cli("pack", "--help").out
        assert all(f"--{name.replace('_', '-')}" in said for name in SAMPLING)

    def test_version(self, cli: Cli) -> None:
        assert cli("--version").out == f"satchel {__version__}\n"

    @pytest.mark.parametrize(
        "arguments", [[], ["nonsense"], ["inspect"], ["pack", "--mode", "x"], ["stub"]]
    )
    def test_misunderstood(self, cli: Cli, arguments: list[str]) -> None:
        said = cli(*arguments)
        assert said.code == 2
        assert "Usage: satchel" in said.err


class TestPack:
    def test_made(self, cli: Cli, small_model: Path, out: Path) -> None:
        said = cli("pack", small_model, "-o", out / "tiny")
        assert said.code == 0
        assert said.out.startswith(f"{out / 'tiny'}: ")
        assert "mapped where it lies" in said.out
        assert "note: It has no chat template" in said.err
        assert s.files_in(out) == {"tiny"}
        assert os.access(out / "tiny", os.X_OK)

    @pytest.mark.parametrize("storage", ["mapped", "compressed", "sidecar"])
    def test_json(self, cli: Cli, small_model: Path, out: Path, storage: str) -> None:
        said = cli("pack", small_model, "-o", out / "tiny", "--storage", storage, "--json")
        assert json.loads(said.out) == {
            "pack": str(out / "tiny"),
            "size": (out / "tiny").stat().st_size,
            "model_size": small_model.stat().st_size,
            "storage": storage,
            "sidecar": next((path.name for path in out.glob("*.satchel")), None),
            "parts": [
                {
                    "name": "model",
                    "kind": "model",
                    "size": small_model.stat().st_size,
                    "storage": storage,
                    "sidecar": next((path.name for path in out.glob("*.satchel")), None),
                }
            ],
        }

    def test_several(self, cli: Cli, small_model: Path, tmp_path: Path, out: Path) -> None:
        code = s.model(tmp_path / "code.gguf", rows=128)
        said = cli("pack", small_model, code, "-o", out / "both")
        assert said.code == 0
        assert "model 2 " in said.out
        with s.opened(out / "both") as bundle:
            assert [entry.name for entry in bundle.of_kind("model")] == ["model", "model-2"]
            assert bundle.manifest.recipe is not None
            assert bundle.manifest.recipe["models"] == [
                {"name": small_model.stem, "entry": "model"},
                {"name": "code", "entry": "model-2"},
            ]

    def test_unpack_any(self, cli: Cli, small_model: Path, tmp_path: Path, out: Path) -> None:
        code = s.model(tmp_path / "code.gguf", rows=128)
        assert cli("pack", small_model, code, "-o", out / "both").code == 0
        assert cli("unpack", out / "both", "-o", out / "a", "--entry", "model-2").code == 0
        assert (out / "a").read_bytes() == code.read_bytes()
        said = cli("unpack", out / "both", "-o", out / "b", "--entry", "runtime")
        assert said.code == 3
        assert "Known: model, model-2" in said.err

    def test_adapters(self, cli: Cli, small_model: Path, tmp_path: Path, out: Path) -> None:
        adapter = s.adapter(tmp_path / "a=b.gguf")
        options = ["--adapter", f"clinic={adapter}", "--adapter", adapter]
        said = cli("pack", small_model, "-o", out / "clinic", *options)
        assert said.code == 0, said.err
        with s.opened(out / "clinic") as bundle:
            assert bundle.manifest.recipe is not None
            assert [item["name"] for item in bundle.manifest.recipe["adapters"]] == [
                "clinic",
                "a=b",
            ]

    def test_draft(self, cli: Cli, small_model: Path, tmp_path: Path, out: Path) -> None:
        small = s.model(tmp_path / "small.gguf", rows=32)
        said = cli("pack", small_model, "--draft", small, "-o", out / "quick")
        assert said.code == 0, said.err
        assert "draft " in said.out
        assert "draft      " in cli("inspect", out / "quick").out
        assert cli("unpack", out / "quick", "-o", out / "a", "--entry", "draft").code == 0
        assert (out / "a").read_bytes() == small.read_bytes()
        said = cli("pack", small_model, small, "--draft", small, "-o", out / "both")
        assert said.code == RecipeError.exit_code
        assert "guesses for one model" in said.err

    def test_options_travel(self, cli: Cli, small_model: Path, out: Path) -> None:
        (out / "prompt.txt").write_text("Answer in rhymes.", encoding="utf-8")
        options = [
            *("--name", "Clara", "--mode", "serve", "--system", f"@{out / 'prompt.txt'}"),
            *("--context", "512", "--max-tokens", "99", "--temperature", "1", "--seed", "7"),
        ]
        assert cli("pack", small_model, "-o", out / "tiny", *options).code == 0
        with s.opened(out / "tiny") as bundle:
            assert bundle.manifest.name == "Clara"
            assert bundle.manifest.recipe == {
                "name": "Clara",
                "mode": "serve",
                "system": "Answer in rhymes.",
                "context": 512,
                "max_tokens": 99,
                "sampling": {"temperature": 1.0, "seed": 7},
            }

    @pytest.mark.parametrize(
        ("output", "name"), [("tiny", "tiny"), ("helper.exe", "helper"), ("a b", "a b")]
    )
    def test_named_after_its_output(
        self, cli: Cli, small_model: Path, out: Path, output: str, name: str
    ) -> None:
        assert cli("pack", small_model, "-o", out / output).code == 0
        with s.opened(out / output) as bundle:
            assert bundle.manifest.name == name

    @pytest.mark.skipif(sys.platform != "linux", reason="names of any bytes are Linux's")
    def test_output_that_is_no_text(self, cli: Cli, small_model: Path, out: Path) -> None:
        path = out / os.fsdecode(b"caf\xe9")
        assert cli("pack", small_model, "-o", path, "--json").code == 0
        with s.opened(path) as bundle:
            assert bundle.manifest.name == "caf\N{REPLACEMENT CHARACTER}"

    def test_system_prompt_that_is_no_text(self, cli: Cli, small_model: Path, out: Path) -> None:
        said = cli("pack", small_model, "-o", out / "tiny", "--system", "caf\udce9")
        assert said.code == 12
        assert s.files_in(out) == set()

    def test_recipe(self, cli: Cli, small_model: Path, out: Path) -> None:
        recipe = small_model.with_name("clinic.toml")
        recipe.write_text(
            f'model = "{small_model.name}"\noutput = "out/clinic"\nname = "Clara"\n'
            "[sampling]\nseed = 7\ntop_k = 5\n",
            encoding="utf-8",
        )
        said = cli("pack", "--recipe", recipe, "--seed", "8")
        assert said.code == 0
        with s.opened(out / "clinic") as bundle:
            assert bundle.manifest.recipe == {
                "name": "Clara",
                "mode": "chat",
                "sampling": {"seed": 8, "top_k": 5},
            }

    def test_split_model(self, cli: Cli, tmp_path: Path, out: Path) -> None:
        parts = g.split(g.model(without=s.NO_TEMPLATE), tmp_path / "big", [2, 3])
        assert cli("pack", parts[0], "-o", out / "big").code == 0
        said = cli("pack", parts[1], "-o", out / "other")
        assert said.code == 3
        assert "Name the first part" in said.err


class TestExitCodes:
    """Every expected failure: its code, one line that names what it is about, and a hint."""

    def refuse(self, said: Said, code: int, *words: str) -> None:
        assert said.code == code
        last = said.err.splitlines()[-1]
        assert last.startswith("satchel: ")
        for word in words:
            assert word in last
        assert said.out == ""

    def test_no_model(self, cli: Cli) -> None:
        self.refuse(cli("pack"), 3, "no model was named", "satchel pack MODEL.gguf -o OUTPUT")

    def test_no_output(self, cli: Cli, small_model: Path) -> None:
        self.refuse(cli("pack", small_model), 3, "no output was named", str(small_model))

    @pytest.mark.parametrize("command", ["inspect", "verify", "unpack", "pack", "add"])
    def test_missing_and_folder(self, cli: Cli, tmp_path: Path, out: Path, command: str) -> None:
        words = ["stub", "add"] if command == "add" else [command]
        options = ["-o", out / "x"] if command in ("unpack", "pack") else []
        self.refuse(cli(*words, tmp_path / "no", *options), 3, "no")
        self.refuse(cli(*words, tmp_path, *options), 3, "is a folder")
        assert s.files_in(out) == set()

    def test_not_a_gguf(self, cli: Cli, tmp_path: Path, out: Path) -> None:
        (tmp_path / "m.gguf").write_bytes(b"<!DOCTYPE html>")
        self.refuse(cli("pack", tmp_path / "m.gguf", "-o", out / "x"), 4, "web page")

    @pytest.mark.parametrize("command", ["inspect", "verify", "unpack"])
    def test_not_a_pack(self, cli: Cli, small_model: Path, out: Path, command: str) -> None:
        options = ["-o", out / "x"] if command == "unpack" else []
        self.refuse(cli(command, small_model, *options), 4, "no Satchel footer", "tiny.gguf")

    def test_truncated_pack(self, cli: Cli, pack: Path) -> None:
        os.truncate(pack, pack.stat().st_size - 10)
        self.refuse(cli("verify", pack), 4, "it was cut short")

    def test_unsupported(self, cli: Cli, tmp_path: Path, out: Path) -> None:
        path = g.model("grok9").write(tmp_path / "m.gguf")
        self.refuse(cli("pack", path, "-o", out / "x"), 5, "does not know", "newer llama.cpp")

    def test_pack_of_the_future(self, cli: Cli, pack: Path) -> None:
        s.rewrite_manifest(pack, lambda doc: doc["satchel"].update(features=["telepathy"]))
        for command in ("inspect", "verify"):
            self.refuse(cli(command, pack), 5, "telepathy", "Use a newer satchel")

    def test_output_exists(self, cli: Cli, small_model: Path, out: Path) -> None:
        (out / "tiny").write_bytes(b"old")
        self.refuse(cli("pack", small_model, "-o", out / "tiny"), 7, "exists already", "--force")
        assert (out / "tiny").read_bytes() == b"old"
        assert cli("pack", small_model, "-o", out / "tiny", "--force").code == 0

    def test_output_is_the_input(self, cli: Cli, small_model: Path) -> None:
        said = cli("pack", small_model, "-o", small_model, "--force")
        self.refuse(said, 7, "is the model itself")

    def test_folder_as_output(self, cli: Cli, small_model: Path, out: Path) -> None:
        self.refuse(cli("pack", small_model, "-o", out), 7, "is a folder")
        self.refuse(cli("pack", small_model, "-o", out / "no" / "x"), 7, "does not exist")
        self.refuse(cli("pack", small_model, "-o", out / ("x" * 300)), 7, "too long")

    def test_no_stub(self, cli: Cli, small_model: Path, out: Path) -> None:
        said = cli("pack", small_model, "-o", out / "x", "--platform", OTHER)
        self.refuse(said, 11, f"no stub for {OTHER}", "satchel stub add FILE")

    @pytest.mark.parametrize(
        ("text", "word"),
        [
            ("[sampling]\ntemprature = 1", "Did you mean 'temperature'?"),
            ("nonsense", "is not TOML"),
            ("[sampling]\nmin_p = nan", "must be from 0 to 1"),
        ],
    )
    def test_recipe(self, cli: Cli, tmp_path: Path, text: str, word: str) -> None:
        (tmp_path / "r.toml").write_text(text, encoding="utf-8")
        self.refuse(cli("pack", "--recipe", tmp_path / "r.toml"), 12, "r.toml", word)

    @pytest.mark.parametrize(
        ("option", "value"),
        [("--temperature", "99"), ("--min-p", "nan"), ("--context", "1"), ("--seed", "-1")],
    )
    def test_option(self, cli: Cli, small_model: Path, out: Path, option: str, value: str) -> None:
        said = cli("pack", small_model, "-o", out / "x", option, value)
        self.refuse(said, 12, "the command line: ", "must be from")

    def test_missing_recipe(self, cli: Cli, tmp_path: Path) -> None:
        self.refuse(cli("pack", "--recipe", tmp_path / "r.toml"), 3, "r.toml", "No such file")

    def test_template(self, cli: Cli, tmp_path: Path, out: Path) -> None:
        broken = g.Typed(g.STRING, "{% for %}")
        path = g.model(tokenizer__chat_template=broken).write(tmp_path / "m.gguf")
        self.refuse(cli("pack", path, "-o", out / "x"), 14, "template")

    def test_interrupted(
        self, cli: Cli, small_model: Path, out: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def interrupt(*_: object, **__: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr("packer.writer.BundleWriter.finish", interrupt)
        said = cli("pack", small_model, "-o", out / "x")
        assert said.code == 130
        assert s.files_in(out) == set()

    def test_verbose(self, cli: Cli, tmp_path: Path) -> None:
        said = cli("--verbose", "inspect", tmp_path / "no")
        assert said.code == 3
        assert "Traceback" in said.err


class TestInspect:
    def test_pack(self, cli: Cli, pack: Path) -> None:
        said = cli("inspect", pack)
        assert said.code == 0
        assert "Tiny, llama, Q4_1" in said.out

    def test_json(self, cli: Cli, pack: Path) -> None:
        document = json.loads(cli("inspect", pack, "--json").out)
        assert (document["kind"], document["name"]) == ("pack", "tiny")

    def test_stub(self, cli: Cli, stub_file: Path) -> None:
        assert json.loads(cli("inspect", stub_file, "--json").out)["kind"] == "stub"

    def test_control_characters(self, cli: Cli, small_model: Path, out: Path) -> None:
        cli("pack", small_model, "-o", out / "x", "--name", "\x1b[31mred")
        assert "\x1b" not in cli("inspect", out / "x").out


class TestVerify:
    def test_intact(self, cli: Cli, pack: Path) -> None:
        said = cli("verify", pack)
        assert said.code == 0
        assert said.out.endswith(f"{pack} is intact.\n")
        assert json.loads(cli("verify", pack, "--json").out)["intact"] is True

    def test_damaged(self, cli: Cli, pack: Path) -> None:
        with s.opened(pack) as bundle:
            s.flip(pack, bundle.entry("runtime").offset)
        said = cli("verify", pack)
        assert said.code == 6
        assert f"satchel: {pack} is damaged: runtime. Copy the file again" in said.err
        said = cli("verify", pack, "--json")
        assert said.code == 6
        bad = [region["name"] for region in json.loads(said.out)["regions"] if region["problem"]]
        assert bad == ["runtime"]


class TestUnpack:
    def test_round_trip(self, cli: Cli, pack: Path, small_model: Path, out: Path) -> None:
        said = cli("unpack", pack, "-o", out / "m.gguf")
        assert said.code == 0
        assert "sha256" in said.out
        assert (out / "m.gguf").read_bytes() == small_model.read_bytes()
        assert cli("unpack", pack, "-o", out / "m.gguf").code == 7
        assert cli("unpack", pack, "-o", out / "m.gguf", "--force").code == 0

    def test_over_itself(self, cli: Cli, pack: Path) -> None:
        said = cli("unpack", pack, "-o", pack, "--force")
        assert said.code == 7
        assert "is the pack itself" in said.err

    def test_stub(self, cli: Cli, stub_file: Path, out: Path) -> None:
        said = cli("unpack", stub_file, "-o", out / "m.gguf")
        assert said.code == 4
        assert "is a stub" in said.err


TERMINATED = """
import os, signal, sys
from pathlib import Path
import packer.stub, packer.writer
from packer import cli
folders = [Path(sys.argv.pop(1))]
packer.stub.stub_folders = lambda: folders
packer.writer.BundleWriter.finish = lambda *_, **__: os.kill(os.getpid(), signal.SIGTERM)
cli.main()
"""


@pytest.mark.skipif(os.name == "nt", reason="signals of Unix")
def test_terminated(stubs: Path, small_model: Path, out: Path) -> None:
    """SIGTERM leaves nothing half-written behind, either."""
    arguments = [str(stubs), "pack", str(small_model), "-o", str(out / "x")]
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(TERMINATED), *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 130
    assert "Traceback" not in result.stderr
    assert s.files_in(out) == set()


def test_installed_command(pack: Path) -> None:
    program = Path(sys.executable).with_name("satchel")
    if not program.exists():
        pytest.skip("satchel is not installed beside this Python")
    result = subprocess.run([program, "verify", pack], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.endswith("is intact.\n")


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("", "the output's name is empty. Name a file to write"),
        ("made/", "made/ names a folder. Name a file to write"),
        ("..", ".. names a folder. Name a file to write"),
        ("/proc/x", "/proc takes no new files. Write to a folder on a disk"),
    ],
)
def test_outputs_that_are_none(cli: Cli, small_model: Path, output: str, message: str) -> None:
    if output.startswith("/proc") and not Path("/proc/self").is_dir():
        pytest.skip("needs /proc")
    said = cli("pack", small_model, "-o", output)
    assert said.code == 7
    assert said.err.splitlines()[-1] == f"satchel: {message}"
