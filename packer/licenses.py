"""Collects the licence texts of everything that a runtime ships."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import (
    Distribution,
    PackageNotFoundError,
    distribution,
    packages_distributions,
)
from pathlib import Path

from packer.freeze import LOADER, is_elf, llama_package
from packer.launcher_build import zstd_source
from packer.web_build import LIBRARIES, package_folder
from runtime_stub.errors import StubError

_TEXT_NAMES = re.compile(r"^(LICEN[CS]E|COPYING|COPYRIGHT|NOTICE|AUTHORS)", re.IGNORECASE)
_COMMON = Path("/usr/share/common-licenses")


@dataclass(frozen=True)
class Component:
    """One shipped thing and the files that hold its licence."""

    name: str
    version: str
    license: str
    texts: tuple[Path, ...]
    source: str = "native"
    """Where it comes from: "pypi", "deb", "npm" or "native", which is everything else."""


def collect_licenses(checkout: Path, runtime: Path, target: Path) -> list[Component]:
    """Copy the licence texts of everything in `runtime` to `target`, with an index.json.

    Raises StubError naming what has no licence text, because then it must not be shipped.
    """
    components = [
        Component("Satchel", "", "Apache-2.0", (checkout / "LICENSE",)),
        *_python(),
        *_distributions(runtime),
        *_native(checkout),
        *_web_libraries(checkout),
        *_system_libraries(runtime / "_internal"),
    ]
    missing = [component.name for component in components if not component.texts]
    if missing:
        raise StubError(f"no licence text was found for {', '.join(missing)}")
    target.mkdir()
    common: set[str] = set()
    index = []
    for component in components:
        names = []
        for number, text in enumerate(component.texts):
            stem = re.sub(r"[^A-Za-z0-9.+-]", "_", component.name)
            name = f"{stem}.txt" if number == 0 else f"{stem}.{number}.txt"
            shutil.copyfile(text, target / name)
            names.append(name)
            common |= _common_texts(text)
        index.append(
            {
                "name": component.name,
                "version": component.version,
                "license": component.license,
                "source": component.source,
                "files": names,
            }
        )
    for name in sorted(common):
        shutil.copyfile(_COMMON / name, target / f"common-{name}.txt")
        index.append(
            {"name": name, "version": "", "license": "full text", "files": [f"common-{name}.txt"]}
        )
    (target / "index.json").write_text(json.dumps(index, indent=1), encoding="utf-8")
    return components


def _python() -> Iterator[Component]:
    version = sysconfig.get_python_version()
    places = (
        Path(sysconfig.get_path("stdlib")) / "LICENSE.txt",
        Path(sys.base_prefix) / "LICENSE.txt",
        Path(f"/usr/share/doc/python{version}/copyright"),
    )
    texts = tuple(place for place in places if place.is_file())[:1]
    yield Component("Python", sys.version.split()[0], "PSF-2.0", texts)


def _distributions(runtime: Path) -> Iterator[Component]:
    """The Python distributions whose modules were frozen, and the bootloader's."""
    from PyInstaller.archive.readers import CArchiveReader

    executable = next(path for path in runtime.iterdir() if path.name.startswith("satchel-runtime"))
    modules = CArchiveReader(str(executable)).open_embedded_archive("PYZ.pyz").toc
    tops = {name.split(".")[0] for name in modules}
    tops |= {path.name.split(".")[0] for path in (runtime / "_internal").iterdir()}
    owners = packages_distributions()
    names = {
        owner for top in tops for owner in owners.get(top, ()) if top not in sys.stdlib_module_names
    }
    for name in sorted(names - {"satchel"}, key=str.lower):
        yield _distribution(distribution(name))
    yield _distribution(distribution("pyinstaller"))


def _distribution(found: Distribution) -> Component:
    texts = [
        Path(str(file.locate()))
        for file in found.files or ()
        if ".dist-info" in str(file) and _TEXT_NAMES.match(file.name)
    ]
    stated = _field(found, "License-Expression") or _classifier(found) or _field(found, "License")
    return Component(
        found.metadata["Name"],
        found.version,
        stated.splitlines()[0] if stated else "see text",
        tuple(texts),
        "pypi",
    )


def _field(found: Distribution, name: str) -> str:
    return str((found.metadata.get_all(name) or [""])[0])


def _classifier(found: Distribution) -> str:
    values = found.metadata.get_all("Classifier") or []
    return next((v.rsplit(" :: ", 1)[1] for v in values if v.startswith("License :: ")), "")


def _native(checkout: Path) -> Iterator[Component]:
    """What is compiled in: llama.cpp, and in the launcher zstd, its C library and the compiler's
    own functions."""
    yield Component("llama.cpp", "", "MIT", (llama_package() / "share" / "LICENSE",))
    yield Component("zstd", _zstd_version(checkout), "BSD-3-Clause", _zstd_texts(checkout))
    try:
        zig = Path(str(distribution("ziglang").locate_file("ziglang")))
    except PackageNotFoundError:
        return
    if sys.platform.startswith("linux"):
        musl = zig / "lib" / "libc" / "musl"
        text = musl / "COPYRIGHT"
        texts = (text,) if text.is_file() else ()
        yield Component("musl", musl_version(musl), "MIT", texts)
    text = zig / "LICENSE"
    texts = (text,) if text.is_file() else ()
    yield Component("zig compiler-rt", distribution("ziglang").version, "MIT", texts)


def musl_version(sources: Path) -> str:
    """The version of musl whose sources lie in a folder. Raises StubError when none is stated."""
    header = sources / "src" / "internal" / "version.h"
    text = header.read_text(encoding="utf-8", errors="replace") if header.is_file() else ""
    found = re.search(r'#define\s+VERSION\s+"([^"]+)"', text)
    if found is None:
        raise StubError(f"{header} does not say which version of musl it is")
    return found[1]


def _zstd_texts(checkout: Path) -> tuple[Path, ...]:
    zstd_source(checkout)  # its header carries the licence that the launcher is under
    return _distribution(distribution("zstandard")).texts


def _web_libraries(checkout: Path) -> Iterator[Component]:
    """The npm packages of the web page."""
    for library in LIBRARIES:
        folder = package_folder(checkout, library.package)
        facts = json.loads((folder / "package.json").read_bytes())
        texts = tuple(path for path in sorted(folder.iterdir()) if _TEXT_NAMES.match(path.name))
        yield Component(facts["name"], facts["version"], facts["license"], texts, "npm")


def _zstd_version(checkout: Path) -> str:
    header = (zstd_source(checkout) / "zstd.h").read_text(encoding="utf-8")
    numbers = re.findall(r"#define ZSTD_VERSION_(?:MAJOR|MINOR|RELEASE) +(\d+)", header)
    return ".".join(numbers)


def _system_libraries(internal: Path) -> Iterator[Component]:
    """Shared libraries that came from the system, by the package that brought them."""
    packages: dict[str, set[Path]] = {}
    for path in sorted(internal.glob("*")):
        if not is_elf(path) or path.name.startswith("libpython"):
            continue
        origin = _system_place(path.name)
        if origin is None:
            continue
        package = _debian_package(origin)
        packages.setdefault(package or path.name, set()).add(origin)
    for package, origins in sorted(packages.items()):
        yield Component(
            package,
            _debian_version(package),
            "see text",
            _system_texts(package, origins),
            "deb" if _debian_version(package) else "native",
        )


def _system_place(name: str) -> Path | None:
    if name == LOADER:
        name = (
            "ld-linux-x86-64.so.2" if (Path("/lib64") / "ld-linux-x86-64.so.2").exists() else name
        )
    folders = [
        "/lib64",
        "/usr/lib64",
        "/lib",
        "/usr/lib",
        *map(str, Path("/usr/lib").glob("*-linux-gnu")),
    ]
    for folder in folders:
        path = Path(folder) / name
        if path.exists():
            return path.resolve()
    return None


def _debian_package(path: Path) -> str:
    if shutil.which("dpkg-query") is None:
        return ""
    for candidate in (path, Path(str(path).removeprefix("/usr"))):
        result = subprocess.run(
            ["dpkg-query", "--search", str(candidate)], capture_output=True, text=True, check=False
        )
        if result.returncode == 0:
            return result.stdout.split(":", 1)[0]
    return ""


def _debian_version(package: str) -> str:
    if shutil.which("dpkg-query") is None:
        return ""
    result = subprocess.run(
        ["dpkg-query", "--show", "--showformat=${Version}\n", package],
        capture_output=True,
        text=True,
        check=False,
    )
    return result.stdout.split("\n")[0] if result.returncode == 0 else ""


def _system_texts(package: str, origins: set[Path]) -> tuple[Path, ...]:
    debian = Path(f"/usr/share/doc/{package}/copyright")
    if debian.is_file():
        return (debian,)
    for origin in origins:
        stem = re.split(r"[.\-0-9]", origin.name.removeprefix("lib"))[0]
        for folder in sorted(Path("/usr/share/licenses").glob(f"*{stem}*")):
            texts = tuple(path for path in sorted(folder.iterdir()) if path.is_file())
            if texts:
                return texts
    return ()


def _common_texts(text: Path) -> set[str]:
    """Names of the full licences that a Debian copyright file refers to."""
    content = text.read_text(encoding="utf-8", errors="replace")
    names = set(re.findall(r"/usr/share/common-licenses/([A-Za-z0-9.+-]*[A-Za-z0-9+])", content))
    return {name for name in names if (_COMMON / name).is_file()}
