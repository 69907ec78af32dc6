"""The contract between launcher and runtime: environment variables, and nothing else.

The launcher sets them and starts the runtime; `take` reads them once and removes them, so
that no child of the runtime inherits them. The launcher's side is in `launcher/launcher.c`.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from dataclasses import dataclass
from pathlib import Path

from runtime_stub.errors import InputError

CACHE_VARIABLE = "SATCHEL_CACHE"
"""Chosen by a person: the one cache folder to use. It stays in the environment."""

HOST_PREFIX = "SATCHEL_HOST_"
"""Prefix under which the launcher keeps the host's variables that would break the runtime
(every LD_*, GLIBC_TUNABLES, GCONV_PATH, LOCPATH); host programs get them back."""

LAUNCHER_VARIABLES: dict[str, str] = {
    "SATCHEL_PACK_FD": "number of the pack's open descriptor",
    "SATCHEL_PACK_PATH": "the pack's absolute path, for messages and sidecars",
    "SATCHEL_RUNTIME": "folder of the extracted runtime",
    "SATCHEL_RUNTIME_FD": "number of that folder's open descriptor, locked against removal",
    "SATCHEL_CACHE_ROOT": "cache folder that it lies in",
    "SATCHEL_ARGV0": "how the pack was called",
}
INTERRUPT_HELD = "SATCHEL_SIGINT_HELD"
"""Set when the launcher holds SIGINT back until the runtime is ready to take it."""

FIRST_START = "SATCHEL_FIRST_START"
"""Set when the launcher has just extracted the runtime."""

BOOTLOADER_VARIABLES = ("LD_LIBRARY_PATH", "_PYI_ARCHIVE_FILE", "_PYI_PARENT_PROCESS_LEVEL")
"""Preset by the launcher so that PyInstaller's bootloader does not execute itself again."""


@dataclass(frozen=True)
class Launch:
    """How this runtime was started."""

    descriptor: int
    path: Path
    runtime: Path
    cache_root: Path
    argv0: str
    host_environment: dict[str, str]
    """The complete environment for host programs: as it was before the launcher."""
    runtime_descriptor: int = -1
    """Kept open: its shared lock says that the runtime is in use."""
    first_start: bool = False
    """Whether the runtime was extracted by this start."""
    interrupt_held: bool = False
    """Whether SIGINT is blocked and waits to be let through."""


def take(environment: MutableMapping[str, str]) -> Launch:
    """Read the launcher's variables and remove them from `environment`.

    The descriptors are made non-inheritable. Raises InputError when the runtime was not
    started by a launcher.
    """
    missing = [name for name in LAUNCHER_VARIABLES if name not in environment]
    if missing:
        raise InputError(
            f"the runtime was started without its launcher ({missing[0]} is not set)",
            "Start the pack itself",
        )
    values = {name: environment.pop(name) for name in LAUNCHER_VARIABLES}
    interrupt_held = environment.pop(INTERRUPT_HELD, "") == "1"
    first_start = environment.pop(FIRST_START, "") == "1"
    for name in list(environment):
        if name in BOOTLOADER_VARIABLES or name.startswith("_PYI_"):
            del environment[name]
    saved = [name for name in environment if name.startswith(HOST_PREFIX)]
    host = {name.removeprefix(HOST_PREFIX): environment.pop(name) for name in saved}
    descriptor, runtime_descriptor = (
        _own_descriptor(name, values[name]) for name in ("SATCHEL_PACK_FD", "SATCHEL_RUNTIME_FD")
    )
    return Launch(
        descriptor=descriptor,
        path=Path(values["SATCHEL_PACK_PATH"]),
        runtime=Path(values["SATCHEL_RUNTIME"]),
        cache_root=Path(values["SATCHEL_CACHE_ROOT"]),
        argv0=values["SATCHEL_ARGV0"],
        host_environment={**environment, **host},
        runtime_descriptor=runtime_descriptor,
        first_start=first_start,
        interrupt_held=interrupt_held,
    )


def _own_descriptor(name: str, value: str) -> int:
    try:
        descriptor = int(value)
        os.set_inheritable(descriptor, False)
    except (OSError, OverflowError, ValueError):
        raise InputError(
            f"{name} is {value!r}, which is no open file",
            "Start the pack itself",
        ) from None
    return descriptor
