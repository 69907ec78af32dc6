from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import gguf_files as g
import pytest
import small_packs as s
from running_pack import place, sample_model, satchel

from packer.pack import Plan, plan_pack, write_pack
from packer.stub import Stub
from packer.warm import read_prompts
from runtime_stub.errors import InputError, StubError, UnsupportedError
from runtime_stub.recipe import Example

# What the packer runs of a stub: tells what it was given, and that as the warm prompt.
HONEST = f"""#!{sys.executable}
import os, sys
model, output = int(sys.argv[3]), int(sys.argv[5])
print("0 30\\n30 30")
os.write(output, sys.stdin.buffer.read() + os.read(model, 4))
"""
FAILING = "#!/bin/sh\necho 'Traceback' >&2\necho 'Error: no memory' >&2\nexit 10\n"


def planned(model: Path, out: Path, stub: Stub, script: str = HONEST, **recipe: str) -> Plan:
    """A plan whose stub is a script."""
    plan = plan_pack(out / "tiny", s.packing(model, **recipe), stub, force=False)
    path = out.parent / "script"
    path.write_text(script, encoding="utf-8")
    path.chmod(0o755)
    return replace(plan, stub=replace(stub, path=path))


def test_the_stub_is_told_what_to_read(small_model: Path, out: Path, small_stub: Stub) -> None:
    seen: list[tuple[int, int]] = []
    plan = planned(small_model, out, small_stub, system="Be kind.", template="{{ messages }}")
    (warm,) = read_prompts(plan, lambda done, total: seen.append((done, total)))
    assert warm.data.endswith(b"GGUF")
    assert json.loads(warm.data.removesuffix(b"GGUF")) == {
        "system": "Be kind.",
        "template": "{{ messages }}",
        "examples": [],
        "engine": {},
    }
    assert seen == [(0, 30), (30, 30)]
    assert (warm.model, warm.metadata) == ("model", {"tokens": 30, "llama_cpp": "abc1234"})
    made = write_pack(replace(plan, stub=small_stub), s.nothing, force=False, warm=(warm,))
    with s.opened(made.path) as bundle:
        entry = bundle.entry("warm")
        assert bundle.read(entry) == warm.data
        assert (entry.kind, entry.requires) == ("warm", (bundle.entry("model").sha256,))


def test_it_is_read_as_it_will_be_kept(small_model: Path, out: Path, small_stub: Stub) -> None:
    plan = planned(small_model, out, small_stub, system="Be kind.")
    engine = {"kv": "q8_0", "threads": 3}
    plan = replace(plan, recipe=replace(plan.recipe, engine=engine))
    (warm,) = read_prompts(plan, s.nothing2)
    assert json.loads(warm.data.removesuffix(b"GGUF"))["engine"] == {"kv": "q8_0"}
    assert warm.metadata["kv"] == "q8_0"


def test_examples_are_read_with_a_system_prompt_or_without(
    small_model: Path, out: Path, small_stub: Stub
) -> None:
    plan = planned(small_model, out, small_stub)
    plan = replace(plan, recipe=replace(plan.recipe, examples=(Example("Hot?", "No."),)))
    (warm,) = read_prompts(plan, s.nothing2)
    told = json.loads(warm.data.removesuffix(b"GGUF"))
    assert (told["system"], told["examples"]) == (None, [["Hot?", "No."]])


def test_nothing_to_read(small_model: Path, out: Path, small_stub: Stub) -> None:
    with pytest.raises(InputError, match="no system prompt to read"):
        read_prompts(planned(small_model, out, small_stub), s.nothing2)


def test_stub_that_fails(small_model: Path, out: Path, small_stub: Stub) -> None:
    plan = planned(small_model, out, small_stub, FAILING, system="Be kind.")
    with pytest.raises(StubError, match="could not read the prompt: Error: no memory"):
        read_prompts(plan, s.nothing2)


def test_other_platform(small_model: Path, out: Path, small_stub: Stub) -> None:
    plan = planned(small_model, out, small_stub, system="Be kind.")
    plan = replace(plan, stub=replace(plan.stub, platform="windows-x86_64"))
    with pytest.raises(StubError, match="for windows-x86_64 on"):
        read_prompts(plan, s.nothing2)


def test_split_model(tmp_path: Path, out: Path, small_stub: Stub) -> None:
    model = g.model(without=s.NO_TEMPLATE)
    first, *_ = g.split(model, tmp_path / "model", (2, 3))
    plan = planned(first, out, small_stub, system="Be kind.")
    with pytest.raises(UnsupportedError, match="split model"):
        read_prompts(plan, s.nothing2)


SYSTEM = "You are a helpful assistant. " + " ".join(
    f"Rule {number}: be brief about matter {number}." for number in range(1, 20)
)


@pytest.mark.pack
def test_real_pack(tmp_path: Path) -> None:
    model = sample_model()
    answers = {}
    for name, options in (("warm", ["--warm"]), ("cold", [])):
        pack = tmp_path / name
        said = satchel("pack", model, "-o", pack, "--system", SYSTEM, "--name", "x", *options)
        assert ("tokens are read; that adds" in said.stderr) == (name == "warm")
        (tmp_path / f"home-{name}").mkdir()
        found = place(tmp_path / f"home-{name}", source=pack)
        question = ("What is the name of the capital of France?", "--temperature", "0", "--json")
        answers[name] = json.loads(found.run("ask", *question).stdout)
        if name == "warm":
            assert "tokens of prompt are read already" in found.run("info").stdout
            assert found.run("verify").returncode == 0
    warm, cold = answers["warm"], answers["cold"]
    assert "Paris" in warm["answer"]
    assert warm["answer"] == cold["answer"]
    assert cold["usage"]["cached_tokens"] == 0
    assert 0 < warm["usage"]["prompt_tokens"] - warm["usage"]["cached_tokens"] < 20


@pytest.mark.pack
def test_examples_in_a_real_pack(tmp_path: Path) -> None:
    words = " ".join(f"violet {number}" for number in range(200))
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        f'name = "x"\nmodel = "{sample_model()}"\noutput = "made"\nwarm = true\n'
        f'[[examples]]\nuser = "Count colours."\nassistant = "{words}"\n',
        encoding="utf-8",
    )
    satchel("pack", "--recipe", recipe)
    found = place(tmp_path / "home", source=tmp_path / "made")
    assert "examples   1" in found.run("info").stdout
    question = ("What is the name of the capital of France?", "--temperature", "0", "--json")
    usage = json.loads(found.run("ask", *question, "--max-tokens", "4").stdout)["usage"]
    assert usage["prompt_tokens"] > 400, "the examples are part of it"
    assert 0 < usage["prompt_tokens"] - usage["cached_tokens"] < 20, "read while packing"
