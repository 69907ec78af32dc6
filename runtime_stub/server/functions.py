"""The functions that a request lets the model call, from any face's shape to the engine's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from runtime_stub.server.replies import Problem

Offered = tuple[str, str | None, Mapping[str, Any] | None]
"""Name, description and the JSON schema of the parameters."""


def functions_of(offered: Sequence[Offered], place: str = "") -> tuple[dict[str, Any], ...]:
    """The tools as the engine takes them. `place` is where in each its name is.

    Raises Problem (400) for two of one name, and for a name that calls can't be told by.
    """
    from runtime_stub.engine.calls import NAME

    made: dict[str, dict[str, Any]] = {}
    for number, (name, description, parameters) in enumerate(offered):
        if name in made or not NAME.fullmatch(name):
            param = f"tools[{number}]{place}.name"
            why = (
                "is there twice" if name in made else "must be of 1 to 128 letters, digits, _ and -"
            )
            raise Problem(400, f"{param}: {name[:128]!r} {why}", param)
        made[name] = {
            "name": name,
            "description": description or "",
            "parameters": parameters or {"type": "object", "properties": {}},
        }
    return tuple(made.values())
