"""Finds out what this machine runs a loaded model fastest with, while nobody asks anything."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from runtime_stub.engine.file_watch import FileWatch
from runtime_stub.engine.hardware import read_hardware, read_use, used_by_others
from runtime_stub.engine.messages import EngineSettings
from runtime_stub.engine.model import Model
from runtime_stub.engine.profile import QUIET, Measured, Profile, Shelf, applied

REST = 2.0
"""Seconds without a request before something is measured."""
_LONGEST_REST = 600.0


class Measuring:
    """Measures once, when that disturbs nobody. Belongs to the engine's thread."""

    def __init__(
        self,
        shelf: Shelf,
        settings: EngineSettings,
        files: FileWatch,
        is_wanted: Callable[[], bool],
        *,
        has_warm: bool,
    ) -> None:
        """What `settings` leave open is to be measured and kept on the `shelf`. It is given up as
        soon as the engine `is_wanted` for something else. `has_warm` says that there are prompts
        it has read already."""
        self._shelf = shelf
        self._settings = settings
        self._files = files
        self._is_wanted = is_wanted
        self._has_warm = has_warm
        self._rest = REST
        self.is_over = False
        """Whether nothing will be measured any more."""

    def begin_rest(self) -> float:
        """Nobody asks anything from now on. Returns how many seconds of that make it time to
        `measure`."""
        self._before = read_use()
        return self._rest

    def measure(self, model: Model) -> EngineSettings | None:
        """Find out what runs best here, and return the settings with that; None if it did not
        come to anything. Not while other programs are at work; then, and if somebody asks, it is
        to be tried again later."""
        from runtime_stub.engine.tuner import Tuner, WantedError

        if self._is_wanted():
            return None
        self._rest = min(2 * self._rest, _LONGEST_REST)
        if used_by_others(self._before, read_use()) > QUIET:
            return None
        if self._files.changed or not self._shelf.begin():
            self.is_over = True
            return None
        settings = self._settings
        if self._has_warm and settings.flash_attention is None:
            settings = replace(settings, flash_attention=True)  # as the warm prompts have it
        tuner = Tuner(model, settings, read_hardware(), is_wanted=self._is_wanted)
        try:
            measured = tuner.measure()
        except WantedError:
            self._shelf.give_up()
            return None
        except Exception as error:  # noqa: BLE001  (nobody asked for it: nobody is to suffer)
            measured = Measured(Profile(), note=f"it can't be measured: {error}")
        if measured.is_busy:
            self._shelf.give_up()
            return None
        self.is_over = True
        self._shelf.keep(measured)
        return applied(self._settings, measured.profile)
