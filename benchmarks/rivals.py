"""Builds the programs that Satchel is measured against, once, into the build cache.

    .venv/bin/python benchmarks/rivals.py

llama-server, llama-cli and llama-bench come out of the llama.cpp inside the same
llama-cpp-python source distribution, with the same options as the runtime's, so that a ratio
compares programs and not compilers.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import build  # noqa: E402  (the maintainer's entry knows the options and the cache)

TARGETS = ("llama-server", "llama-cli", "llama-bench")


def rivals_folder() -> Path:
    """Folder with the rivals' programs and libraries; builds them if they are not there."""
    lock = build.REQUIREMENTS / "llama-cpp.lock"
    key = build.digest([lock, *build.CMAKE_OPTIONS, *TARGETS, build.compiler_version()])
    folder = build.cache_folder() / f"rivals-{key[:20]}"
    if not folder.is_dir():
        with build.work_folder(folder) as work:
            _build(lock, work)
    return folder


def _build(lock: Path, output: Path) -> None:
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        build.pip(
            "download",
            "--no-deps",
            "--no-build-isolation",
            "--no-binary=:all:",
            "--require-hashes",
            f"--dest={work}",
            "-r",
            lock,
        )
        with tarfile.open(next(work.glob("*.tar.gz"))) as archive:
            archive.extractall(work, filter="data")
        source = next(work.glob("llama_cpp_python-*")) / "vendor" / "llama.cpp"
        if source.is_file():
            raise SystemExit("the source distribution has an unexpected layout")
        environment = {
            **os.environ,
            "PATH": f"{build.venv_python().parent}{os.pathsep}{os.environ.get('PATH', '')}",
        }
        options = [
            *(option for option in build.CMAKE_OPTIONS if "LLAVA" not in option),
            "-DCMAKE_BUILD_TYPE=Release",
            "-DLLAMA_BUILD_TESTS=OFF",
            "-DLLAMA_BUILD_EXAMPLES=OFF",
            "-DLLAMA_BUILD_APP=OFF",
            "-DLLAMA_USE_PREBUILT_UI=OFF",
            "-DLLAMA_OPENSSL=OFF",
            "-GNinja",
        ]
        made = work / "made"
        cmake = ["cmake", "-S", str(source), "-B", str(made), *options]
        subprocess.run(cmake, env=environment, check=True, stdout=subprocess.DEVNULL)
        variants = ["ggml"]
        target = ["cmake", "--build", str(made), "--target", *TARGETS, *variants]
        subprocess.run(target, env=environment, check=True)
        for path in (made / "bin").iterdir():
            if path.is_file() or path.is_symlink():
                shutil.copy2(path, output / path.name, follow_symlinks=False)


if __name__ == "__main__":
    print(rivals_folder())
