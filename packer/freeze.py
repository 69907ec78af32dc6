"""Freezes the runtime: PyInstaller's folder, completed so that it runs on any distribution."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from runtime_stub.errors import StubError

LOADER = "ld-linux.so.2"
"""Name of the dynamic loader in the runtime; the launcher starts the runtime through it, and
PyInstaller's bootloader knows by a name of this form that it is not the program itself."""

_ELF = b"\x7fELF"


def freeze(checkout: Path, work: Path) -> Path:
    """The frozen runtime as a folder below `work`. Raises StubError."""
    llama_lib = llama_package() / "lib"
    command = [
        sys.executable, "-m", "PyInstaller", "--noconfirm", "--clean", "--log-level=WARN",
        f"--distpath={work / 'dist'}", f"--workpath={work / 'build'}",
        str(checkout / "templates" / "runtime.spec"),
    ]  # fmt: skip
    environment = {
        **os.environ,
        "SATCHEL_SOURCE": str(checkout),
        "SATCHEL_LLAMA_LIB": str(llama_lib),
        # Same inputs, same bytes.
        "SOURCE_DATE_EPOCH": "946684800",
        "PYTHONHASHSEED": "0",
        # Where in a line an error came from is not worth the time to read it at every start.
        "PYTHONNODEBUGRANGES": "1",
        "PYINSTALLER_CONFIG_DIR": str(work / "config"),
        # The stub compresses all modules together, better than one by one in here.
        "PYINSTALLER_ZLIB_COMPRESSION_LEVEL": "0",
    }
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if result.returncode:
        raise StubError(f"PyInstaller failed:\n{result.stderr[-4000:]}")
    folder = work / "dist" / "satchel-runtime"
    if sys.platform.startswith("linux"):
        _add_system_libraries(folder)
        _strip(folder)
    return folder


def llama_package() -> Path:
    """Folder of the installed llama_cpp package, found without importing it."""
    import importlib.util

    spec = importlib.util.find_spec("llama_cpp")
    if spec is None or not spec.submodule_search_locations:
        raise StubError("llama-cpp-python is not installed", "Run `python build.py`")
    return Path(next(iter(spec.submodule_search_locations)))


def _add_system_libraries(runtime: Path) -> None:
    """Add the C library, the loader, and whatever else of the system is needed.

    PyInstaller leaves these to the host, which ties a program to newer distributions; a pack
    brings its own.
    """
    internal = runtime / "_internal"
    have = {path.name for path in internal.rglob("*") if path.is_file()}
    pending = [path for path in runtime.rglob("*") if is_elf(path)]
    while pending:
        for name, path in _needed(pending.pop(), internal):
            if name in have:
                continue
            have.add(name)
            target = internal / (LOADER if name.startswith("ld-linux") else name)
            shutil.copy(path.resolve(), target)
            pending.append(target)
    if not (internal / LOADER).exists():
        raise StubError("the system's dynamic loader was not found", "Is `ldd` installed?")


def _needed(binary: Path, internal: Path) -> Iterator[tuple[str, Path]]:
    """Name and place of every library that `binary` loads, as `ldd` resolves them."""
    # llama.cpp's backends find its base library because it is loaded before them.
    folders = (internal, internal / "llama_cpp" / "lib")
    environment = {**os.environ, "LD_LIBRARY_PATH": os.pathsep.join(map(str, folders))}
    result = subprocess.run(
        ["ldd", str(binary)], capture_output=True, text=True, check=False, env=environment
    )
    for line in result.stdout.splitlines():
        found = re.match(r"\s*(\S+)(?: => (\S+))? \(0x", line)
        if found is None:
            if "not found" in line:
                raise StubError(f"{binary.name} needs {line.split()[0]}, which is not installed")
            continue
        path = Path(found[2] or found[1])
        if path.is_absolute() and path.exists():
            yield path.name, path


def _strip(folder: Path) -> None:
    """Remove debugging symbols, if the tool is there: they are a third of the size."""
    tool = shutil.which("strip")
    if tool is None:
        return
    for path in sorted(folder.rglob("*")):
        # The bootloader carries its archive behind the program, which strip would drop.
        if is_elf(path) and path.name != "satchel-runtime":
            subprocess.run([tool, "--strip-unneeded", str(path)], check=False, capture_output=True)


def is_elf(path: Path) -> bool:
    """Whether `path` is a regular file in ELF format."""
    if path.is_symlink() or not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(4) == _ELF
