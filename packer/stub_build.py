"""Builds the stub of this platform out of a checkout."""

from __future__ import annotations

import ctypes
import hashlib
import platform
import re
import sys
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import zstandard

from packer.freeze import freeze, llama_package
from packer.launcher_build import build_launcher
from packer.licenses import collect_licenses
from packer.stub import CHECKOUT, Stub, read_stub, stub_name, this_platform
from packer.web_build import build_web
from packer.writer import BundleWriter
from runtime_stub import __version__
from runtime_stub.archive import INDEX_FILE, Member, pack_index
from runtime_stub.describe import LICENSES_FOLDER
from runtime_stub.errors import StubError
from runtime_stub.manifest import ZSTD
from runtime_stub.server.page import WEB_FOLDER

_LEVEL = 19
_WINDOW_LOG = 25
"""32 MB: the builds of llama.cpp for other processors are found again within it."""

Report = Callable[[str], None]


def build_stub(output: Path | None, report: Report) -> Stub:
    """Build launcher and runtime and assemble the stub, in build/stubs unless `output` says
    otherwise. `report` is told of each step. Raises StubError."""
    if not (CHECKOUT / "build.py").is_file():
        raise StubError(
            "stubs are built in a checkout of Satchel", "Run `python build.py stub` there"
        )
    platform_name = this_platform()
    output = output or CHECKOUT / "build" / "stubs" / stub_name(platform_name, __version__)
    output.parent.mkdir(parents=True, exist_ok=True)
    report("compiling the launcher")
    launcher = build_launcher(CHECKOUT, platform_name).read_bytes()
    with tempfile.TemporaryDirectory() as work:
        report("freezing the runtime")
        folder = freeze(CHECKOUT, Path(work))
        build_web(CHECKOUT, folder / WEB_FOLDER)
        report("collecting licences")
        collect_licenses(CHECKOUT, folder, folder / LICENSES_FOLDER)
        files = sorted(
            (path for path in folder.rglob("*") if path.is_file() and path.name != INDEX_FILE),
            key=lambda path: path.relative_to(folder).as_posix().encode(),
        )
        report(f"compressing {len(files)} files")
        archive, size, contents = _archive(folder, files)
    with BundleWriter(output, force=True) as writer:
        writer.add_bytes("launcher", "launcher", launcher)
        compressed = _compress(archive)
        writer.add_bytes(
            "runtime",
            "runtime",
            compressed,
            codec=ZSTD,
            size=len(archive),
            sha256=hashlib.sha256(archive).hexdigest(),
        )
        facts = {
            "platform": platform_name,
            "satchel": __version__,
            "python": platform.python_version(),
            "c_library": "-".join(platform.libc_ver()),
            "llama_cpp": llama_facts(),
            "architectures": architectures(),
            "tensor_types": tensor_types(),
            "contents": contents,
        }
        writer.finish(stub=facts, runtime_size=size)
    return read_stub(output)


def _archive(folder: Path, files: list[Path]) -> tuple[bytes, int, dict[str, int]]:
    """The archive, the bytes its files need on disk, and sizes by component for people."""
    members = [
        Member(
            path.relative_to(folder).as_posix(),
            path.stat().st_size,
            0o755 if path.stat().st_mode & 0o111 or ".so" in path.name else 0o644,
        )
        for path in files
    ]
    contents: dict[str, int] = {}
    for member in members:
        component = _component(member.path)
        contents[component] = contents.get(component, 0) + member.size
    data = pack_index(members) + b"".join(path.read_bytes() for path in files)
    return data, sum(member.size for member in members), contents


def _component(path: str) -> str:
    """Which part of the runtime a file belongs to, for the table of what is in it."""
    name = path.rsplit("/", 1)[-1]
    if name.startswith("libggml-cpu"):
        return "llama.cpp, code for processors"
    if "llama_cpp/" in path:
        return "llama.cpp"
    if name.startswith(("libcrypto", "libssl", "_ssl", "_hashlib")):
        return "OpenSSL"
    if name.startswith(("libc.", "libm.", "ld-linux", "libdl", "libpthread", "librt", "libutil")):
        return "C library"
    if name.startswith(("libstdc++", "libgcc", "libgomp")):
        return "C++ and OpenMP libraries"
    if name == "satchel-runtime":
        return "Python modules"
    if path.startswith(f"{LICENSES_FOLDER}/"):
        return "licence texts"
    if path.startswith(f"{WEB_FOLDER}/"):
        return "web page"
    if name.startswith("libpython") or "lib-dynload" in path or name == "base_library.zip":
        return "Python"
    return "other libraries"


def _compress(archive: bytes) -> bytes:
    parameters = zstandard.ZstdCompressionParameters.from_level(
        _LEVEL, window_log=_WINDOW_LOG, enable_ldm=True, write_content_size=True, threads=0
    )
    return zstandard.ZstdCompressor(compression_params=parameters).compress(archive)


def llama_facts() -> dict[str, str]:
    """Which llama.cpp the stub carries."""
    changes = (llama_package() / "share" / "CHANGELOG.md").read_text(encoding="utf-8")
    python_version = version("llama-cpp-python")
    section = changes.partition(f"## [{python_version}]")[2].partition("\n## [")[0]
    commit = re.search(r"llama\.cpp@([0-9a-f]{7,40})", section)
    return {"python": python_version, "commit": commit[1] if commit else "unknown"}


def architectures() -> list[str]:
    """Names of the model architectures that this llama.cpp knows, from its own source."""
    text = (llama_package() / "share" / "llama-arch.cpp").read_text(encoding="utf-8")
    table = text.partition("LLM_ARCH_NAMES")[2].partition("};")[0]
    names = re.findall(r'\{\s*LLM_ARCH_\w+\s*,\s*"([^"]+)"\s*\}', table)
    if len(names) < 50:
        raise StubError("llama.cpp's list of architectures was not found in its source")
    return sorted(set(names) - {"(unknown)", "clip"})


def tensor_types() -> dict[str, dict[str, Any]]:
    """Every tensor type this llama.cpp knows: number, name, block length, block bytes."""
    suffix = {"win32": "ggml-base.dll", "darwin": "libggml-base.dylib"}.get(
        sys.platform, "libggml-base.so"
    )
    ggml = ctypes.CDLL(str(llama_package() / "lib" / suffix))
    ggml.ggml_type_name.restype = ctypes.c_char_p
    ggml.ggml_blck_size.restype = ctypes.c_int64
    ggml.ggml_type_size.restype = ctypes.c_size_t
    types = {}
    for number in range(_type_count()):
        block, size = ggml.ggml_blck_size(number), ggml.ggml_type_size(number)
        if block > 0 and size > 0:
            name = ggml.ggml_type_name(number).decode()
            types[str(number)] = {"name": name, "block": block, "size": size}
    return types


def _type_count() -> int:
    header = (llama_package() / "include" / "ggml.h").read_text(encoding="utf-8")
    found = re.search(r"GGML_TYPE_COUNT\s*=\s*(\d+)", header)
    if found is None:
        raise StubError("llama.cpp's list of tensor types was not found in its header")
    return int(found[1])


def contents_table(stub: Stub) -> str:
    """What is in the runtime, largest first, as JSON-free text for people."""
    rows = sorted(stub.facts.get("contents", {}).items(), key=lambda row: -row[1])
    return "\n".join(f"  {size / 1e6:6.1f} MB  {name}" for name, size in rows)
