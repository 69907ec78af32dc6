"""Measures what this machine runs a loaded model fastest with.

One setting after the other, each with what holds so far (`comparison`):

    threads that generate, threads that read ──> flash attention ──> batch size

The model is the one in memory; a small context of its own is measured with.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace

from runtime_stub.engine.bench import Bench, OutOfTime
from runtime_stub.engine.comparison import Comparison, Task
from runtime_stub.engine.context import DEFAULT_BATCH
from runtime_stub.engine.hardware import Hardware, fast_cores, read_use, used_by_others
from runtime_stub.engine.messages import EngineSettings
from runtime_stub.engine.model import Model
from runtime_stub.engine.profile import Measured, Profile, Trial, is_open
from runtime_stub.engine.rival import GENERATE, READ, Rival, RivalError

SECONDS = 4.5
"""What a measurement takes at most."""
_GENERATING, _READING = 0.05, 0.1
"""Seconds that one measurement of a task takes, where single tokens are short enough."""
_DEPTH = 256
"""Tokens in the context when generating, at most: attention has something to do."""
_WARM_UP, _SMALLEST = 8, 16
_FEW = 4
"""Tokens of a step that generates for several requests: computed with the threads that read."""
_LARGE = 1024
"""Prompt tokens that batch sizes are measured with."""
_LARGE_SECONDS = 0.3
_BATCHES = (256, 1024)


class WantedError(Exception):
    """Somebody wants an answer."""


@dataclass(frozen=True)
class Progress:
    """How far a measurement is."""

    done: float
    """From 0 to 1."""
    what: str


class Tuner:
    """One measurement."""

    def __init__(
        self,
        model: Model,
        settings: EngineSettings,
        hardware: Hardware,
        *,
        is_wanted: Callable[[], bool] = lambda: False,
        on_progress: Callable[[Progress], None] = lambda _: None,
        seconds: float = SECONDS,
        rival: Rival | None = None,
        takes_repack: bool = False,
    ) -> None:
        """For `settings` without a profile; what is decided there is not measured.
        `is_wanted` says that somebody wants an answer, and is asked all the time. A `rival` has
        repacked weights; they are chosen only if it `takes_repack`, for their memory."""
        self._rival = rival
        self._takes_repack = takes_repack
        self._model = model
        self._settings = replace(settings, parallel=1)
        self._hardware = hardware
        self._is_wanted = is_wanted
        self._on_progress = on_progress
        self._started = time.monotonic()
        self._use = read_use()
        self._others = 0.0
        self._end = self._started + seconds
        self._seconds = seconds
        self._comparison = Comparison(self._started, seconds, self._tell)
        self._profile = Profile()
        self._threads = settings.threads or hardware.physical_cores
        self._prompt_threads = settings.prompt_threads or self._threads
        self._generate = self._read = 0.0
        """Tokens a second with the defaults."""
        self._steps = self._piece = 1
        """Tokens that one measurement generates and reads."""
        self._depth = 0

    def measure(self) -> Measured:
        """Try everything there is time for. Raises WantedError, and EngineError when there
        is no memory for a context."""
        note = ""
        with ExitStack() as stack:
            try:
                bench = self._bench(stack, self._settings)
                self._warm_up(bench)
                self._try_threads(bench)
                self._try_prompt_threads(bench)
                self._try_flash_attention(bench)
                self._try_batches()
                # Without the rival, which is no stranger.
                self._others = used_by_others(self._use, read_use())
                self._try_repack(bench)
            except OutOfTime:
                note = (
                    "there was no time for more"
                    if self._read
                    else "this model is too slow here "
                    f"to be measured within {self._seconds:.0f} seconds"
                )
        self._others = self._others or used_by_others(self._use, read_use())
        measured = Measured(
            self._profile,
            tuple(self._comparison.trials),
            self._generate,
            self._read,
            time.monotonic() - self._started,
            note,
            self._others,
        )
        return _left_alone(measured) if measured.is_busy else measured

    def _check(self) -> None:
        if self._is_wanted():
            raise WantedError
        if time.monotonic() > self._end:
            raise OutOfTime

    def _stop(self) -> bool:
        return self._is_wanted() or time.monotonic() > self._end

    def _bench(self, stack: ExitStack, settings: EngineSettings) -> Bench:
        self._check()
        bench = Bench(self._model, settings, self._threads, self._check, self._stop)
        stack.callback(bench.context.free)
        return bench

    def _warm_up(self, bench: Bench) -> None:
        """Bring weights and threads to life, and see how long things take."""
        self._tell("warming up")
        bench.read(_WARM_UP)
        step = min(bench.generate(1, _WARM_UP) for _ in range(3))
        self._piece, token = _SMALLEST, bench.read(_SMALLEST) / _SMALLEST
        while self._piece < DEFAULT_BATCH and 2 * self._piece * token < _READING:
            self._piece *= 2
        token = bench.read(self._piece) / self._piece
        self._steps = max(1, min(32, round(_GENERATING / step)))
        self._depth = min(_DEPTH, self._piece)
        bench.hurry(max(step, self._piece * token))
        self._generate, self._read = 1 / step, 1 / token

    def _try_threads(self, bench: Bench) -> None:
        if not is_open(self._settings, "threads"):
            return

        def run(threads: int) -> float:
            bench.context.set_threads(threads, self._prompt_threads)
            return bench.generate(self._steps, self._depth)

        task = Task("threads", GENERATE, self._steps, run)
        best = self._comparison.best(task, self._candidates(self._threads), self._threads, 0.4)
        if best != self._threads:
            self._profile = replace(self._profile, threads=best)
            self._threads = best
        bench.context.set_threads(best, self._prompt_threads)

    def _try_prompt_threads(self, bench: Bench) -> None:
        if not is_open(self._settings, "prompt_threads"):
            return

        def run(threads: int) -> float:
            bench.context.set_threads(self._threads, threads)
            return bench.read(self._piece)

        def run_few(threads: int) -> float:
            bench.context.set_threads(self._threads, threads)
            return bench.generate(max(1, self._steps // 2), self._depth, width=_FEW)

        default = self._prompt_threads
        task = Task("prompt_threads", READ, self._piece, run, run_few)
        best = self._comparison.best(task, self._candidates(default), default, 0.8)
        # Else it would follow the number that generates.
        if best != default or self._profile.threads:
            self._profile = replace(self._profile, prompt_threads=best)
        self._prompt_threads = best
        bench.context.set_threads(self._threads, best)

    def _try_flash_attention(self, bench: Bench) -> None:
        if not is_open(self._settings, "flash_attention"):
            return
        with ExitStack() as stack:
            without = self._bench(stack, replace(self._settings, flash_attention=False))
            without.context.set_threads(self._threads, self._prompt_threads)
            without.read(self._piece)
            without.hurry(max(1 / self._generate, self._piece / self._read))
            benches = {1: bench, 0: without}

            def run(on: int) -> float:
                return benches[on].generate(self._steps, self._depth)

            def run_prompt(on: int) -> float:
                return benches[on].read(self._piece)

            task = Task("flash_attention", GENERATE, self._steps, run, run_prompt)
            if self._comparison.best(task, [0], 1, 0.95) == 0:
                self._profile = replace(self._profile, flash_attention=False)
                # What follows is measured with it.
                self._settings = replace(self._settings, flash_attention=False)

    def _try_batches(self) -> None:
        if not is_open(self._settings, "batch") or _LARGE / self._read > _LARGE_SECONDS:
            return
        best = DEFAULT_BATCH
        for size in _BATCHES:
            with ExitStack() as stack:
                one = self._bench(stack, replace(self._settings, batch=max(size, best)))
                one.context.set_threads(self._threads, self._prompt_threads)
                one.hurry(_LARGE / self._read)
                run = functools.partial(one.read, _LARGE)
                best = self._comparison.best(Task("batch", READ, _LARGE, run), [size], best, 1.0)
        if best != DEFAULT_BATCH:
            self._profile = replace(self._profile, batch=best)

    def _try_repack(self, bench: Bench) -> None:
        rival = self._rival
        if rival is None or not is_open(self._settings, "repack"):
            return
        threads = (self._threads, self._prompt_threads)

        def generate(repacked: int) -> float:
            if repacked:
                return rival.generate(self._steps, self._depth, threads)
            return bench.generate(self._steps, self._depth)

        def read(repacked: int) -> float:
            return rival.read(self._piece, threads) if repacked else bench.read(self._piece)

        best, trials = self._comparison.best, self._comparison.trials
        try:
            faster = best(Task("repack", GENERATE, self._steps, generate, read), [1], 0, 1.0)
            faster = faster or best(Task("repack", READ, self._piece, read, generate), [1], 0, 1.0)
        except RivalError as error:
            trials.append(Trial("repack", 1, GENERATE, 0, 0, 0, note=str(error)))
            return
        if faster and self._takes_repack:
            self._profile = replace(self._profile, repack=True)
        elif faster:
            trials[-1] = replace(trials[-1], chosen=False, note="takes the weights' memory again")

    def _candidates(self, default: int) -> list[int]:
        """Numbers of threads that may be better."""
        cores, most = self._hardware.physical_cores, self._hardware.logical_cpus
        found = (fast_cores(), cores - 1, most, cores // 2, cores // 4)
        return [n for n in dict.fromkeys(found) if 0 < n <= most and n != default]

    def _tell(self, what: str) -> None:
        done = (time.monotonic() - self._started) / self._seconds
        self._on_progress(Progress(min(1.0, done), what))


def _left_alone(measured: Measured) -> Measured:
    """What to make of a measurement on a busy machine: nothing."""
    trials = tuple(replace(trial, chosen=False) for trial in measured.trials)
    note = f"other programs took {measured.others:.0%} of the machine: nothing is chosen"
    return replace(measured, profile=Profile(), trials=trials, note=note)
