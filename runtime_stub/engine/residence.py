"""Which models are in memory together, where a pack holds more than fit.

A model that is wanted enters when there is room. If there is none, those that were used longest
ago are asked to leave; each does when what it works on is done. Who waits longest enters first.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Protocol


class Tenant(Protocol):
    """A model that comes and goes. Called from any thread; must return quickly."""

    @property
    def need(self) -> int:
        """Bytes of memory it takes."""

    @property
    def last_used(self) -> float:
        """When it last had something to do, on the monotonic clock; infinite while it does."""

    def unload(self) -> None:
        """Leave as soon as nothing is in flight."""


class Residence:
    """Admits models into `capacity` bytes of memory. One that needs more is admitted alone."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._changed = threading.Condition()
        """Guards what follows; notified when a model has left."""
        self._residents: list[Tenant] = []
        self._waiting: list[Tenant] = []

    def enter(self, tenant: Tenant, timeout: float) -> bool:
        """Admit `tenant`, waiting for `timeout` seconds at most; False if there is no room yet.

        It keeps its turn then, until it asks again or calls `leave`.
        """
        with self._changed:
            if tenant in self._residents:
                return True
            if tenant not in self._waiting:
                self._waiting.append(tenant)
            victims = self._victims()
        # Not under the lock: they may be about to call `leave`.
        for victim in victims:
            victim.unload()
        with self._changed:
            return self._changed.wait_for(lambda: self._admit(tenant), timeout)

    def leave(self, tenant: Tenant) -> None:
        """`tenant` has given its memory back, or does not want to enter any more."""
        with self._changed:
            for tenants in (self._residents, self._waiting):
                if tenant in tenants:
                    tenants.remove(tenant)
            self._changed.notify_all()

    def _admit(self, tenant: Tenant) -> bool:
        if self._waiting[0] is not tenant or self._excess() > 0:
            return False
        self._residents.append(self._waiting.pop(0))
        self._changed.notify_all()  # the next one may fit as well
        return True

    def _excess(self) -> int:
        """Bytes that must become free before the first that waits can enter."""
        if not self._residents:
            return 0
        taken = sum(tenant.need for tenant in self._residents)
        return taken + self._waiting[0].need - self.capacity

    def _victims(self) -> list[Tenant]:
        """Who has to leave for the first that waits: least recently used first."""
        excess = self._excess()
        victims: list[Tenant] = []
        for tenant in sorted(self._residents, key=lambda tenant: tenant.last_used):
            if excess <= 0:
                break
            victims.append(tenant)
            excess -= tenant.need
        return victims


@dataclass(frozen=True)
class Stay:
    """When a model is in memory."""

    residence: Residence | None = None
    """Whom it asks before it loads; None if there is room for it anyway."""
    need: int = 0
    """Bytes of memory it takes."""
    lazy: bool = False
    """Whether it waits for its first request before it loads."""
    idle: float | None = None
    """Seconds without a request after which it is unloaded; None for never."""
