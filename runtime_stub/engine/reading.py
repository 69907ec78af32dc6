"""How the text of an answer is to be understood."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from runtime_stub.engine.families import GENERIC, Family


@dataclass(frozen=True)
class Reading:
    """What the prompt says about the answer to come."""

    family: Family = GENERIC
    plain: bool = True
    """All of it is the answer: neither reasoning nor calls are looked for."""
    tools: bool = False
    schemas: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """The tools' parameters, by their names: some families write texts and numbers alike."""
    single_call: bool = False
    """An answer may call one function at most, and ends there."""
    whole_calls: bool = False
    """A call is told when it is complete."""
    reasoning_open: bool = False
    """The prompt ended inside reasoning."""
    shown: Mapping[int, bytes] = field(default_factory=dict)
    """Control tokens that mean something here, with the text they stand for."""
    ends: frozenset[int] = frozenset()
    """Control tokens that end the answer, though the vocabulary does not say so."""
