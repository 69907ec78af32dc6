"""Comparing what was extracted with what was packed, byte by byte, and getting rid of what differs.

A start looks at sizes and times alone. This reads everything: for `verify`, and after any doubt.
What differs is taken out of use, so that the next start extracts it again.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from runtime_stub import cache
from runtime_stub.archive import INDEX_FILE
from runtime_stub.bundle import Bundle
from runtime_stub.errors import SatchelError
from runtime_stub.manifest import ZSTD_FRAMES, Entry
from runtime_stub.runtime_archive import RuntimeArchive
from runtime_stub.verify import Region

Progress = Callable[[int], None]

REMEDY = "It will be extracted again by itself"
_BLOCK = 1 << 20


def check_cached(
    bundle: Bundle, runtime: Path, roots: list[Path], progress: Progress
) -> list[Region]:
    """Compare the extracted runtime and models of this pack with the pack.

    `progress` counts bytes, about `cached_size` of them.
    """
    regions = [_check_runtime(bundle, runtime, progress)]
    for entry in _extracted(bundle):
        path = cache.find_model(roots, entry.sha256, entry.size)
        if path is not None:
            regions.append(_check_model(entry, path, progress))
    return regions


def cached_size(bundle: Bundle) -> int:
    """Bytes that `check_cached` goes through at most."""
    return bundle.footer.runtime_size + sum(entry.size for entry in _extracted(bundle))


def _extracted(bundle: Bundle) -> list[Entry]:
    """Models and adapters that are extracted to the cache."""
    return [entry for entry in bundle.manifest.entries if entry.codec == ZSTD_FRAMES]


def _check_model(entry: Entry, path: Path, progress: Progress) -> Region:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while data := file.read(_BLOCK):
            digest.update(data)
            progress(len(data))
    problem = ""
    if digest.hexdigest() != entry.sha256:
        problem = f"{path} was changed"
        with contextlib.suppress(OSError):
            # Its sound chunks are used again.
            path.replace(path.with_suffix(".part"))
    return Region(f"cached {entry.name}", 0, entry.size, problem, remedy=REMEDY)


def _check_runtime(bundle: Bundle, runtime: Path, progress: Progress) -> Region:
    try:
        problem = _runtime_problem(bundle, runtime, progress)
    except SatchelError as error:
        problem = f"it can't be compared: {error.message}"
    if problem:
        with contextlib.suppress(OSError):
            # Without its index a folder is not complete.
            (runtime / INDEX_FILE).unlink()
    return Region("cached runtime", 0, bundle.footer.runtime_size, problem, remedy=REMEDY)


def _runtime_problem(bundle: Bundle, runtime: Path, progress: Progress) -> str:
    archive = RuntimeArchive(bundle)
    wanted = {member.path for member in archive.members} | {INDEX_FILE}
    for path in _files(runtime):
        if path not in wanted:
            return f"{runtime / path} does not belong there"
    for member in archive.members:
        if not _is_as_packed(runtime / member.path, member.size, archive, progress):
            return f"{runtime / member.path} was changed"
    return ""


def _is_as_packed(path: Path, size: int, archive: RuntimeArchive, progress: Progress) -> bool:
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size != size:
                return False
            for start in range(0, size, _BLOCK):
                count = min(size - start, _BLOCK)
                if file.read(count) != archive.take(count):
                    return False
                progress(count)
    except OSError:
        return False
    return True


def _files(folder: Path) -> Iterator[str]:
    for top, _, names in os.walk(folder):
        for name in names:
            yield (Path(top) / name).relative_to(folder).as_posix()
