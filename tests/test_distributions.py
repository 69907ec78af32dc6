"""The same pack on older and newer distributions, bootstrapped for the purpose."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from running_pack import ASK, IS_ROOT, sample_pack

pytestmark = [
    pytest.mark.all,
    pytest.mark.pack,
    pytest.mark.skipif(not IS_ROOT, reason="chroot and mount need root"),
    pytest.mark.skipif(shutil.which("debootstrap") is None, reason="debootstrap is not installed"),
]


@pytest.mark.timeout(900)
@pytest.mark.parametrize("release", ["bullseye", "bookworm", "trixie"])
def test_debian(release: str, tmp_path: Path) -> None:
    root = tmp_path / release
    made = subprocess.run(
        ["debootstrap", "--variant=minbase", release, str(root)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stdout[-2000:]
    shutil.copy2(sample_pack(), root / "pack")
    subprocess.run(["mount", "-t", "proc", "proc", str(root / "proc")], check=True)
    try:
        for environment in ({}, {"HOME": "/root", "PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}):
            result = subprocess.run(
                ["/pack", *ASK],
                capture_output=True,
                text=True,
                env=environment,
                check=False,
                preexec_fn=lambda: os.chroot(root),
                cwd="/",
            )
            assert result.returncode == 0, result.stderr
            assert "Paris" in result.stdout
    finally:
        subprocess.run(["umount", str(root / "proc")], check=True)
