"""What Satchel is measured against, built once into build.py's cache folder.

All of it comes from the llama-cpp-python source distribution that packs are built from, by the
same compiler with the same options: what is compared is the programs, not the compilers.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tarfile
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import build

TOOLS = ("llama-server", "llama-cli", "llama-bench")
TOOL_OPTIONS = (
    *(option for option in build.CMAKE_OPTIONS if option.startswith("-DGGML")),
    "-DCMAKE_BUILD_TYPE=Release",
    "-DCMAKE_BUILD_WITH_INSTALL_RPATH=ON",
    "-DCMAKE_INSTALL_RPATH=$ORIGIN",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_APP=OFF",
    "-DLLAMA_USE_PREBUILT_UI=OFF",
    "-DLLAMA_OPENSSL=OFF",
    "-GNinja",
)
PROGRAM = Path(__file__).with_name("llama_program.py")


@dataclass(frozen=True)
class OneFile:
    """A program of one file that PyInstaller made, and how long it took."""

    path: Path
    seconds: float


def llama_tools() -> Path:
    """The folder that holds llama-server, llama-cli and llama-bench, and their libraries."""
    lock = build.REQUIREMENTS / "llama-cpp.lock"
    key = build.digest([lock, *TOOL_OPTIONS, build.compiler_version(), platform.machine()])
    folder = build.cache_folder() / f"llama-tools-{key[:20]}"
    with build.step("llama.cpp's own tools", [key], folder) as needed:
        if needed:
            build.say("   compiling them for every kind of processor: about 10 minutes, once")
            with build.work_folder(folder) as work, tempfile.TemporaryDirectory() as scratch:
                built = _compile_tools(_sources(lock, Path(scratch)), Path(scratch, "out"))
                shutil.copytree(built, work, symlinks=True, dirs_exist_ok=True)
    return folder


def llama_python() -> Path:
    """The interpreter of an environment with llama_cpp.server and PyInstaller."""
    wheel = build.llama_wheel()
    lock = Path(__file__).with_name("rivals.lock")
    key = build.digest([lock, wheel.parent.name, sys.version])
    folder = build.cache_folder() / f"llama-python-{key[:20]}"
    python = folder / "bin" / "python"
    with build.step("llama_cpp.server and PyInstaller", [key], folder) as needed:
        if needed:
            shutil.rmtree(folder, ignore_errors=True)
            build.run([sys.executable, "-m", "venv", folder])
            install: list[str | Path] = [
                python,
                "-m",
                "pip",
                "--disable-pip-version-check",
                "install",
                "--no-deps",
            ]
            build.run([*install, "--require-hashes", "-r", lock])
            build.run([*install, wheel])
    return python


def one_file(model: Path, folder: Path) -> OneFile:
    """A plain program with the model inside, as PyInstaller's manual shows it, in `folder`."""
    python = llama_python()
    started = time.monotonic()
    build.run(
        [
            python,
            "-m",
            "PyInstaller",
            "--onefile",
            "--noconfirm",
            "--log-level=ERROR",
            "--name=one-file",
            "--collect-all=llama_cpp",
            f"--add-data={model}{os.pathsep}model",
            f"--distpath={folder}",
            f"--workpath={folder / 'work'}",
            f"--specpath={folder}",
            PROGRAM,
        ]
    )
    seconds = time.monotonic() - started
    shutil.rmtree(folder / "work")
    return OneFile(folder / "one-file", seconds)


def _sources(lock: Path, scratch: Path) -> Path:
    """vendor/llama.cpp, out of the locked source distribution."""
    build.pip(
        "download",
        "--no-deps",
        "--no-binary=:all:",
        "--no-build-isolation",
        "--require-hashes",
        f"--dest={scratch}",
        "-r",
        lock,
    )
    (archive,) = scratch.glob("*.tar.gz")
    with tarfile.open(archive) as packed:
        packed.extractall(scratch / "sources", filter="data")
    (source,) = scratch.glob("sources/*/vendor/llama.cpp")
    return source


def _compile_tools(source: Path, out: Path) -> Path:
    cmake = build.venv_python().with_name("cmake")
    path = f"{cmake.parent}{os.pathsep}{os.environ.get('PATH', '')}"
    environment = {**os.environ, "PATH": path}
    build.run([cmake, "-S", source, "-B", out, *TOOL_OPTIONS], environment=environment)
    jobs = f"-j{os.cpu_count() or 1}"
    # `ggml` brings the backends: one library for each kind of processor.
    build.run([cmake, "--build", out, jobs, "--target", *TOOLS, "ggml"], environment=environment)
    return out / "bin"
