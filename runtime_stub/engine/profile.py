"""Profiles: what a machine runs a model fastest with, as it was measured once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

from runtime_stub.engine.kv import KV_TYPES
from runtime_stub.engine.messages import EngineSettings

QUIET = 0.15
"""The share of a machine that others may use while something is measured. Where two threads
are given half a core each, one alone is faster; a minute later that may be wrong."""
TRIES = 3
"""How often a measurement may end without a result, before none is begun unasked any more."""


@dataclass(frozen=True)
class Profile:
    """What is better here than the default. 0 and None: the default is best."""

    threads: int = 0
    prompt_threads: int = 0
    flash_attention: bool | None = None
    batch: int = 0
    repack: bool = False


@dataclass(frozen=True)
class Trial:
    """One alternative that was measured."""

    setting: str
    """The field of Profile that it is about."""
    value: int
    """Where the field is true or false, 1 or 0."""
    task: str
    """"generate" or "read"."""
    speed: float
    """Tokens a second."""
    gain: float
    """How many times as fast as what it was compared with: the median of pairs."""
    pairs: int
    """How often both were measured in turn."""
    chosen: bool = False
    note: str = ""
    """Why not, where that is not the speed."""


@dataclass(frozen=True)
class Measured:
    """What came of a measurement."""

    profile: Profile
    trials: tuple[Trial, ...] = ()
    generate: float = 0.0
    """Tokens a second with the defaults; 0 where nothing could be measured."""
    read: float = 0.0
    seconds: float = 0.0
    """How long it took."""
    note: str = ""
    """Why nothing was measured, or not everything."""
    others: float = 0.0
    """The share of the machine that other programs took meanwhile."""

    @property
    def is_busy(self) -> bool:
        """Whether that was so much that it would be otherwise on a quiet machine."""
        return self.others > QUIET


class Shelf(Protocol):
    """Where the measurement for one model on this machine is kept."""

    def read(self) -> Measured | None:
        """What was measured; None if nothing is known."""

    def begin(self) -> bool:
        """Note that a measurement begins; False where none shall, for it ended too often
        without a result or its result can't be kept."""

    def give_up(self) -> None:
        """The measurement that began was broken off for a person's sake; it does not count."""

    def keep(self, measured: Measured) -> None:
        """Keep a result, as far as that is possible."""


def is_open(settings: EngineSettings, field: str) -> bool:
    """Whether nobody has decided a field of Profile."""
    if field == "prompt_threads":
        return not settings.prompt_threads and not settings.threads
    if field == "flash_attention":
        return settings.flash_attention is None and not KV_TYPES[settings.kv].quantised
    value = getattr(settings, field)
    return value is None if field == "repack" else not value


def applied(settings: EngineSettings, profile: Profile) -> EngineSettings:
    """`settings` with what is open in them as the profile says."""
    fields = ("threads", "prompt_threads", "flash_attention", "batch", "repack")
    chosen = {name: getattr(profile, name) for name in fields if is_open(settings, name)}
    if not profile.repack:  # the default; False would forbid to interleave weights, too
        chosen.pop("repack", None)
    return replace(settings, **chosen)
