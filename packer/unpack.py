"""Takes the model back out of a pack, byte for byte."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from packer.output import OutputFile, check_destination, require_other, require_space
from runtime_stub.bundle import Bundle, sidecar_name
from runtime_stub.errors import DamagedError
from runtime_stub.extract import decode_chunk
from runtime_stub.manifest import Entry


def unpack(
    bundle: Bundle, entry: Entry, destination: Path, progress: Callable[[int], None], *, force: bool
) -> None:
    """Write the decoded `entry` to `destination`, beside it first, checking every hash.

    `progress` counts decoded bytes. Raises OutputError, SpaceError or DamagedError; a
    destination that was there stays as it was then.
    """
    require_other(destination, bundle.path, "the pack itself")
    if entry.file is not None:
        sidecar = bundle.path.with_name(sidecar_name(entry.file))
        require_other(destination, sidecar, "a part of the pack")
    check_destination(destination, force=force)
    require_space(destination, entry.size)
    whole = hashlib.sha256()
    with OutputFile(destination) as output:
        for chunk in bundle.chunks(entry):
            data = decode_chunk(bundle, entry, chunk)
            whole.update(data)
            output.write(data)
            progress(len(data))
        if whole.hexdigest() != entry.sha256:
            raise DamagedError(f"{entry.name!r} is damaged", "Copy the pack again")
        output.complete()
