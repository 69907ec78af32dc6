"""Compiles the launcher: C, with the zstd decoder out of the zstandard source distribution."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import platformdirs

from runtime_stub.errors import StubError

TARGETS = {
    "linux-x86_64": "x86_64-linux-musl",
    "linux-aarch64": "aarch64-linux-musl",
}
"""What `zig cc` calls the platforms it can build a launcher for."""

_COMPILE = ("-std=c11", "-O2", "-ffunction-sections", "-fdata-sections")
_CHECKED = ("-Wall", "-Wextra", "-Werror")
_LINK = ("-static", "-s", "-pthread", "-Wl,--gc-sections")


def build_cache() -> Path:
    """Folder outside the checkout for what is slow to make again."""
    explicit = os.environ.get("SATCHEL_BUILD_CACHE")
    return Path(explicit or platformdirs.user_cache_dir("satchel-build", appauthor=False))


def build_launcher(checkout: Path, platform: str) -> Path:
    """The launcher for `platform`, compiled at most once for the same sources.

    Raises StubError with the compiler's output when that fails.
    """
    target = TARGETS.get(platform)
    if target is None:
        raise StubError(f"the launcher can't be built for {platform} yet")
    zstd = zstd_source(checkout)
    folder = checkout / "runtime_stub" / "launcher"
    sources = sorted(folder.glob("*.c"))
    headers = sorted(folder.glob("*.h"))
    compiler = (sys.executable, "-m", "ziglang", "cc", "-target", target, *_COMPILE)
    version = _zig_version()
    decoder = (
        build_cache() / f"zstd-{_digest([zstd / 'zstd.c'], (target, version, *_COMPILE))[:20]}.o"
    )
    if not decoder.is_file():
        _run([*compiler, "-w", "-c", str(zstd / "zstd.c")], decoder, "zstd does not compile")
    key = _digest([*sources, *headers, decoder], (target, version, *_COMPILE, *_CHECKED, *_LINK))
    launcher = build_cache() / f"launcher-{key[:20]}"
    if not launcher.is_file():
        own = (*_CHECKED, "-isystem", str(zstd), *map(str, sources), str(decoder), *_LINK)
        _run([*compiler, *own], launcher, "the launcher does not compile")
    return launcher


def zstd_source(checkout: Path) -> Path:
    """Folder with zstd.c and zstd.h: the library in one file, from zstandard's sources."""
    lock = checkout / "requirements" / "zstd.lock"
    folder = build_cache() / f"zstd-{_digest([lock], ())[:20]}"
    if (folder / "zstd.c").is_file() and (folder / "zstd.h").is_file():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as work:
        command = [
            sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet",
            "--no-deps", "--no-binary=:all:", "--no-build-isolation", "--require-hashes",
            f"--dest={work}", "-r", str(lock),
        ]  # fmt: skip
        _check(command, "zstd's sources can't be downloaded")
        archive = next(Path(work).glob("zstandard-*.tar.gz"))
        with tarfile.open(archive) as tar:
            for name in ("zstd.h", "zstd_errors.h", "zdict.h", "zstd.c"):
                member = next(
                    (m for m in tar.getmembers() if m.name.endswith(f"/zstd/{name}")), None
                )
                source = tar.extractfile(member) if member is not None else None
                if source is not None:
                    part = folder / f"{name}.part"
                    part.write_bytes(source.read())
                    part.replace(folder / name)
    return folder


def _run(compiler: list[str], output: Path, problem: str) -> None:
    """Compile to `output`, which appears only when it is whole."""
    output.parent.mkdir(parents=True, exist_ok=True)
    part = output.with_name(f".{os.getpid()}-{output.name}")
    _check([*compiler, "-o", str(part)], problem)
    part.replace(output)


def _check(command: list[str], problem: str) -> None:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise StubError(f"{problem}:\n{(result.stderr or result.stdout)[-3000:]}")


def _zig_version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("ziglang")
    except PackageNotFoundError:
        raise StubError(
            "the compiler for the launcher (ziglang) is not installed",
            "Build stubs in a checkout with `python build.py stub`",
        ) from None


def _digest(files: list[Path], texts: tuple[str, ...]) -> str:
    total = hashlib.sha256(repr(texts).encode())
    for path in files:
        total.update(path.name.encode() + hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()
