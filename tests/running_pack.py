"""A real pack of the sample model for tests, each in surroundings of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
QUESTION = "What is the name of the capital of France?"
"""The first token of the sample model's answer is five times as likely as the next best, and all
others are clearer. ("What is the capital of France?" begins with "The" or "La" by a tenth of that,
and which of them depends on what was computed in the same batch.)"""
ASK = ("ask", QUESTION, "--temperature", "0")
IS_ROOT = hasattr(os, "geteuid") and os.geteuid() == 0


@dataclass(frozen=True)
class Place:
    """A pack in a folder of its own, with a home and a cache of its own."""

    pack: Path
    home: Path

    @property
    def cache(self) -> Path:
        return self.home / ".cache" / "satchel"

    @property
    def runtime(self) -> Path:
        """The extracted runtime."""
        return next(path for path in (self.cache / "runtimes").iterdir() if path.is_dir())

    def environment(self, **more: str) -> dict[str, str]:
        kept = {key: os.environ[key] for key in ("PATH", "LANG") if key in os.environ}
        return {**kept, "HOME": str(self.home), "TMPDIR": str(self.home / "tmp"), **more}

    def run(
        self, *arguments: str, given: str | None = None, check: bool = True, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run the pack to its end; with `check`, it must succeed."""
        result = subprocess.run(
            [self.pack, *arguments],
            input=given,
            stdin=None if given is not None else subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="surrogateescape",
            env=self.environment(**environment),
            timeout=120,
            check=False,
        )
        if check:
            assert result.returncode == 0, result.stderr
        return result

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        """Start the pack and go on."""
        return subprocess.Popen(
            [self.pack, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self.environment(**environment),
        )


def sample_pack() -> Path:
    """The pack that build.py makes; skips the test when it is not there."""
    path = Path(os.environ.get("SATCHEL_SAMPLE_PACK", ROOT / "dist" / "smollm2"))
    if not path.is_file():
        pytest.skip("the sample pack is not built: python build.py")
    return path


def sample_model() -> Path:
    """The sample model as a GGUF file; skips the test when it is not there."""
    path = os.environ.get("SATCHEL_SAMPLE_MODEL")
    if not path:
        pytest.skip("the sample model is not at hand: run the tests with python build.py test")
    return Path(path)


def place(folder: Path, *, source: Path | None = None) -> Place:
    """Copy a pack (the sample, or `source`) into `folder`."""
    home = folder / "home"
    (home / "tmp").mkdir(parents=True)
    pack = folder / "assistant"
    # A hard link is quick; tests that change the pack copy it themselves.
    try:
        os.link(source or sample_pack(), pack)
    except OSError:
        shutil.copy2(source or sample_pack(), pack)
    return Place(pack, home)


def satchel(*arguments: object, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run the `satchel` command of this environment."""
    command = Path(sys.executable).with_name("satchel")
    result = subprocess.run(
        [command, *map(str, arguments)], capture_output=True, text=True, timeout=300, check=False
    )
    if check:
        assert result.returncode == 0, result.stderr
    return result


def compressed_pack(folder: Path) -> Path:
    """The sample model in a pack that extracts it, too."""
    path = folder / "assistant"
    system = "You are a helpful assistant."
    satchel("pack", sample_model(), "-o", path, "--storage", "compressed", "--system", system)
    return path


def wait_for(condition: Callable[[], object], what: str, seconds: float = 30.0) -> None:
    """Wait until `condition` is true; fails after `seconds`."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, f"{what} did not happen in {seconds:.0f} s"
        time.sleep(0.02)


def snapshot(folder: Path) -> dict[Path, tuple[int, int, int]]:
    """Inode, size and time of everything in `folder`."""
    return {
        path: (facts.st_ino, facts.st_size, facts.st_mtime_ns)
        for path, facts in ((path, path.lstat()) for path in folder.rglob("*"))
    }


def address_of(server: subprocess.Popen[str]) -> str:
    """The address that a started `serve` prints once it listens."""
    assert server.stderr is not None
    line = server.stderr.readline()
    assert "listening on http://" in line, line
    return line.split("listening on ")[1].split()[0]
