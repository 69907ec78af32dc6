"""What Satchel is measured against, built once into build.py's cache folder.

All of it comes from the llama-cpp-python source distribution that packs are built from, by the
same compiler with the same options: what is compared is the programs, not the compilers.
"""

from __future__ import annotations

import os
import platform
import shutil
import tarfile
import tempfile
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


if __name__ == "__main__":
    llama_tools()
