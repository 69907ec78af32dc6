"""The JavaScript clients: installed as tests/javascript locks them, and run with node."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest
from running_pack import ROOT

SOURCES = Path(__file__).with_name("javascript")
INSTALLED = ROOT / "build" / "javascript"
_LOCKED = ("package.json", "package-lock.json", ".npmrc")


def clients() -> Path:
    """The folder with the clients and the scripts that use them, installing what is missing.

    Without node and npm the test is skipped, except in CI.
    """
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            reason = f"{program} is not installed (Debian: apt install nodejs npm)"
            if os.environ.get("CI") == "true":
                pytest.fail(reason)
            pytest.skip(reason)
    key = hashlib.sha256(b"".join((SOURCES / name).read_bytes() for name in _LOCKED)).hexdigest()
    folder = INSTALLED / key[:20]
    if not folder.is_dir():
        INSTALLED.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=INSTALLED) as name:
            work = Path(name) / "work"
            work.mkdir()
            for locked in _LOCKED:
                shutil.copy2(SOURCES / locked, work)
            result = subprocess.run(
                ["npm", "ci", "--ignore-scripts"],
                cwd=work,
                capture_output=True,
                text=True,
                timeout=300,
                check=False,
            )
            if result.returncode:
                pytest.fail(f"npm ci failed:\n{result.stderr[-3000:]}")
            work.rename(folder)
    for script in SOURCES.glob("*.mjs"):
        shutil.copy2(script, folder)
    return folder


def run(folder: Path, client: str, scenario: str, address: str, key: str) -> Any:
    """What a scenario (see run.mjs) says."""
    result = subprocess.run(
        ["node", "run.mjs", client, scenario],
        cwd=folder,
        env={**os.environ, "SATCHEL_ADDRESS": address, "SATCHEL_KEY": key},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return json.loads(result.stdout)
