"""Reads system prompts while packing, with the stub's own llama.cpp."""

from __future__ import annotations

import contextlib
import json
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from packer.merge import Range
from packer.pack import Part, Plan, Warm
from packer.stub import Stub, this_platform
from runtime_stub.errors import InputError, StubError, UnsupportedError

COMMAND = "read-prompt"
"""The stub's own command for this."""

_FIXED = ("kv", "flash_attention")
"""Settings that the state of a model depends on."""

Progress = Callable[[int, int], None]
"""Told how many tokens of how many have been read."""


def read_prompts(plan: Plan, progress: Progress) -> tuple[Warm, ...]:
    """A warm prompt for every model with a system prompt or examples; the same is read once.

    Raises InputError if there is none, UnsupportedError where a model can't be read, StubError
    when the stub does not run here or fails.
    """
    if plan.stub.platform != this_platform():
        raise StubError(
            f"a prompt can't be read for {plan.stub.platform} on {this_platform()}",
            "Pack there, or without --warm",
        )
    parts = {part.name: part for part in plan.parts}
    wanted: list[tuple[str, dict[str, Any]]] = []
    for model in plan.recipe.each_model():
        entry = model.entry if plan.recipe.models else "model"
        engine = {key: model.engine[key] for key in _FIXED if key in model.engine}
        examples = [[example.user, example.assistant] for example in model.examples]
        job = {
            "template": model.template,
            "system": model.system,
            "examples": examples,
            "engine": engine,
        }
        if (model.system or examples) and (entry, job) not in wanted:
            wanted.append((entry, job))
    if not wanted:
        raise InputError(
            "there is no system prompt to read", "Give one with --system, or examples in a recipe"
        )
    return tuple(_read(plan.stub, parts[entry], job, progress) for entry, job in wanted)


def _read(stub: Stub, part: Part, job: dict[str, Any], progress: Progress) -> Warm:
    with _source(part).open("rb") as model, tempfile.TemporaryFile() as result:
        process = subprocess.Popen(
            [stub.path, COMMAND, "--fd", str(model.fileno()), "--output-fd", str(result.fileno())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            pass_fds=(model.fileno(), result.fileno()),
        )
        with process:
            if process.stdin is None or process.stdout is None or process.stderr is None:
                raise StubError("the stub can't be talked to")
            with contextlib.suppress(BrokenPipeError):  # what went wrong is told below
                json.dump(job, process.stdin)
                process.stdin.close()
            total = 0
            for line in process.stdout:
                done, total = map(int, line.split())
                progress(done, total)
            problem = process.stderr.read().strip()
        if process.returncode:
            last = problem.splitlines()[-1] if problem else f"exit code {process.returncode}"
            raise StubError(f"the stub could not read the prompt: {last}", "Pack without --warm")
        result.seek(0)
        data = result.read()
    metadata = {"tokens": total, "llama_cpp": stub.llama_commit, **job["engine"]}
    return Warm(data, part.name, metadata)


def _source(part: Part) -> Path:
    pieces = part.source.plan.pieces
    if len(pieces) != 1 or not isinstance(pieces[0], Range):
        raise UnsupportedError(
            "the prompt of a split model can't be read while packing",
            "Pack it without --warm, take it out with `satchel unpack`, and pack that",
        )
    return pieces[0].path
