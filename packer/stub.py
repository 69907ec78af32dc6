"""Stubs: launcher and runtime for one platform, the file a pack is assembled from.

A stub is a bundle without a model. Those built in this checkout lie in build/stubs, those
added from elsewhere in the user's data folder; the checkout's come first.
"""

from __future__ import annotations

import os
import platform
import re
import stat
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import platformdirs

from packer.copying import Piece, copy_piece
from packer.output import OutputFile, check_destination
from runtime_stub import __version__
from runtime_stub.bundle import Bundle, read_bundle
from runtime_stub.errors import DamagedError, InputError, OutputError, SatchelError, StubError
from runtime_stub.manifest import Entry

PLATFORMS = ("linux-x86_64", "linux-aarch64", "windows-x86_64", "macos-arm64", "macos-x86_64")
SUFFIX = ".stub"
CHECKOUT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Stub:
    """A stub file that was found to be one."""

    path: Path
    platform: str
    version: str
    """The satchel version it was built by."""
    facts: dict[str, Any]
    """The manifest's stub part: platform, llama.cpp, architectures, tensor types, contents."""
    size: int

    @property
    def architectures(self) -> frozenset[str]:
        """Model architectures that its llama.cpp knows."""
        return frozenset(self.facts.get("architectures", ()))

    @property
    def llama_commit(self) -> str:
        return str(self.facts.get("llama_cpp", {}).get("commit", "unknown"))


def this_platform() -> str:
    """The platform this process runs on, as packs name it."""
    machine = platform.machine().lower()
    machine = {"amd64": "x86_64", "aarch64": "aarch64", "arm64": "arm64"}.get(machine, machine)
    system = {"darwin": "macos", "win32": "windows"}.get(sys.platform, "linux")
    if system == "linux" and machine == "arm64":
        machine = "aarch64"
    return f"{system}-{machine}"


def stub_folders() -> list[Path]:
    """Where stubs are looked for, best first."""
    folders = [Path(platformdirs.user_data_dir("satchel", appauthor=False)) / "stubs"]
    if (CHECKOUT / "build.py").is_file():
        folders.insert(0, CHECKOUT / "build" / "stubs")
    return folders


def open_bundle(path: Path) -> Bundle:
    """Open a pack or stub by path. The descriptor stays open as long as the process.

    Raises InputError when it can't be read, FormatError or DamagedError when it is neither.
    """
    try:
        mode = path.stat().st_mode  # first: opening a named pipe would wait for a writer
        if stat.S_ISDIR(mode):
            raise InputError(f"{path} is a folder", "Name a pack or a stub")
        if not stat.S_ISREG(mode):
            raise InputError(f"{path} is not a regular file", "Name a pack or a stub")
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
    except OSError as error:
        raise InputError(f"{path} can't be read: {error.strerror}") from None
    try:
        return read_bundle(descriptor, path)
    except SatchelError as error:
        os.close(descriptor)
        raise type(error)(f"{path}: {error.message}", error.hint) from None


def read_stub(path: Path) -> Stub:
    """What the stub at `path` says of itself. Raises StubError when it is a pack."""
    bundle = open_bundle(path)
    try:
        return _stub_of(bundle)
    finally:
        os.close(bundle.descriptor)


def _stub_of(bundle: Bundle) -> Stub:
    if bundle.of_kind("model"):
        raise StubError(f"{bundle.path} is a pack, with a model in it", "Name a stub")
    facts = bundle.manifest.stub
    return Stub(
        path=bundle.path,
        platform=str(facts.get("platform")),
        version=str(facts.get("satchel")),
        facts=facts,
        size=bundle.footer.pack_size,
    )


def list_stubs() -> list[Stub]:
    """Every usable stub, best first; files that are not stubs are passed over."""
    stubs = []
    for folder in stub_folders():
        for path in sorted(folder.glob(f"*{SUFFIX}")):
            try:
                stubs.append(read_stub(path))
            except SatchelError:
                continue
    return stubs


def find_stub(wanted: str) -> Stub:
    """The stub for a platform. Raises StubError that says how to get one."""
    stubs = list_stubs()
    for stub in stubs:
        if stub.platform == wanted and stub.version == __version__:
            return stub
    others = sorted({f"{stub.platform} ({stub.version})" for stub in stubs})
    have = f" (there is {', '.join(others)})" if others else ""
    if wanted == this_platform():
        hint = "Build it in a checkout with `python build.py stub`"
    else:
        hint = (
            f"Build it on {wanted} with `python build.py stub`, then `satchel stub add FILE` here"
        )
    raise StubError(f"no stub for {wanted} of satchel {__version__} is installed{have}", hint)


def add_stub(path: Path, *, force: bool) -> Stub:
    """Check every byte of the stub at `path` and copy it to the user's stubs.

    Raises DamagedError when it was changed, OutputError when there is one already.
    """
    from runtime_stub.verify import verify

    bundle = open_bundle(path)
    try:
        stub = _stub_of(bundle)
        bad = [region.name for region in verify(bundle, lambda _: None) if region.problem]
        if bad:
            raise DamagedError(f"{path} is damaged: {', '.join(bad)}", "Copy it again")
        if stub.platform not in PLATFORMS:
            raise StubError(f"{path} is for the unknown platform {stub.platform!r}")
        if not re.fullmatch(r"[0-9][0-9A-Za-z.+-]*", stub.version):
            raise StubError(f"{path} has the odd version {stub.version!r}")
        folder = stub_folders()[-1]
        target = folder / stub_name(stub.platform, stub.version)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{folder} can't be made: {error.strerror}") from None
        check_destination(target, force=force)
        with OutputFile(target) as output:
            size = os.fstat(bundle.descriptor).st_size  # with a code signature, if it has one
            whole = Piece(size, bundle.descriptor, path=path)
            copy_piece(whole, output.descriptor, 0, lambda _: None)
            output.complete(executable=True)
    finally:
        os.close(bundle.descriptor)
    return read_stub(target)


def stub_name(platform_name: str, version: str) -> str:
    """File name of a stub."""
    return f"satchel-{version}-{platform_name}{SUFFIX}"


def runtime_entry(bundle: Bundle) -> Entry:
    """The stub's runtime; raises FormatError when there is none."""
    return bundle.entry("runtime")
