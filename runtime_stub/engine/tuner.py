"""Measures what this machine runs a loaded model fastest with.

An alternative is measured in turn with what holds so far, A B B A, so that whatever else the
machine does hits both; of several, only the one that looks best at first sight is. It is chosen if
it wins clearly: the median of the pairs by more than their noise and by at least ENOUGH, and no
pair (of eight: one) lost.

    threads that generate, threads that read ──> flash attention ──> batch size

The model is the one in memory; a small context of its own is measured with.
"""

from __future__ import annotations

import functools
import math
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

from runtime_stub.engine.context import DEFAULT_BATCH, Context, ContextSize
from runtime_stub.engine.hardware import Hardware, fast_cores, read_use, used_by_others
from runtime_stub.engine.library import library
from runtime_stub.engine.messages import EngineSettings
from runtime_stub.engine.model import Model
from runtime_stub.engine.profile import Measured, Profile, Trial, is_open
from runtime_stub.engine.rival import GENERATE, READ, Rival, RivalError

SECONDS = 4.5
"""What a measurement takes at most."""
ENOUGH = 1.05
_HOPELESS = 1.02
"""What is not better than this by its second pair is not looked at any longer."""
_LEAST, _MOST, _FEW_PAIRS = 6, 8, 3
"""Pairs."""
_NOT_WORSE = 0.97
_GENERATING, _READING = 0.05, 0.1
"""Seconds that one measurement of a task takes, where single tokens are short enough."""
_SHORT = 0.05
"""Seconds that a step may take without asking within it whether to stop."""
_CONTEXT = 1024
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


class _OutOfTime(Exception):  # noqa: N818  (no error: an end)
    pass


@dataclass(frozen=True)
class _Task:
    """What is measured with several values of a setting."""

    setting: str
    name: str
    tokens: int
    """How many one run of it computes."""
    run: Callable[[int], float]
    """With a value; the seconds it takes."""
    also: Callable[[int], float] | None = None
    """What must not become slower."""


@dataclass(frozen=True)
class Progress:
    """How far a measurement is."""

    done: float
    """From 0 to 1."""
    what: str


class Bench:
    """A small context, and tasks whose time is taken."""

    def __init__(
        self,
        model: Model,
        settings: EngineSettings,
        threads: int,
        check: Callable[[], None],
        stop: Callable[[], bool],
    ) -> None:
        """`check` is called between steps, and may raise; `stop` ends steps that take long.
        Raises EngineError."""
        self._vocabulary = min(256, model.vocabulary_size)
        self.context = Context(model, ContextSize(_CONTEXT, "to measure"), settings, threads)
        self._check = check
        self._stop = stop
        self._held = 0
        self.context.stop_when(stop)

    def read(self, count: int, piece: int = DEFAULT_BATCH) -> float:
        """Seconds to read `count` tokens from the beginning, `piece` at a time."""
        self._held = self.context.keep(0, 0)
        return sum(self._step(min(piece, count - start)) for start in range(0, count, piece))

    def generate(self, count: int, depth: int, *, width: int = 1) -> float:
        """Seconds for `count` steps of `width` tokens, after `depth` others."""
        self._held = self.context.keep(0, min(depth, self._held))
        if self._held < depth:
            self._step(depth - self._held)
        return sum(self._step(width) for _ in range(count))

    def hurry(self, slowest: float) -> None:
        """Steps take at most `slowest` seconds: don't ask within them if that is short."""
        if slowest < _SHORT:
            self.context.stop_when(None)

    def _step(self, count: int) -> float:
        self._check()
        context = self.context
        context.clear_batch()
        for position in range(self._held, self._held + count):
            context.add(
                position % self._vocabulary, position, 0, output=position == self._held + count - 1
            )
        started = time.monotonic()
        code = context.decode()
        library().llama_synchronize(context.handle)
        seconds = time.monotonic() - started
        self._held += count
        if code:
            self._check()
            raise _OutOfTime
        return seconds


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
        self._trials: list[Trial] = []
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
            except _OutOfTime:
                note = (
                    "there was no time for more"
                    if self._read
                    else "this model is too slow here "
                    f"to be measured within {self._seconds:.0f} seconds"
                )
        self._others = self._others or used_by_others(self._use, read_use())
        measured = Measured(
            self._profile,
            tuple(self._trials),
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
            raise _OutOfTime

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

        task = _Task("threads", GENERATE, self._steps, run)
        best = self._best(task, self._candidates(self._threads), self._threads, 0.4)
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
        task = _Task("prompt_threads", READ, self._piece, run, run_few)
        best = self._best(task, self._candidates(default), default, 0.8)
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

            task = _Task("flash_attention", GENERATE, self._steps, run, run_prompt)
            if self._best(task, [0], 1, 0.95) == 0:
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
                best = self._best(_Task("batch", READ, _LARGE, run), [size], best, 1.0)
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

        try:
            faster = self._best(
                _Task("repack", GENERATE, self._steps, generate, read), [1], 0, 1.0
            ) or self._best(_Task("repack", READ, self._piece, read, generate), [1], 0, 1.0)
        except RivalError as error:
            self._trials.append(Trial("repack", 1, GENERATE, 0, 0, 0, note=str(error)))
            return
        if faster and self._takes_repack:
            self._profile = replace(self._profile, repack=True)
        elif faster:
            self._trials[-1] = replace(
                self._trials[-1], chosen=False, note="takes the weights' memory again"
            )

    def _candidates(self, default: int) -> list[int]:
        """Numbers of threads that may be better."""
        cores, most = self._hardware.physical_cores, self._hardware.logical_cpus
        found = (fast_cores(), cores - 1, most, cores // 2, cores // 4)
        return [n for n in dict.fromkeys(found) if 0 < n <= most and n != default]

    def _best(self, task: _Task, values: Sequence[int], base: int, share: float) -> int:
        """The one of `values` that is clearly better than `base`, or `base`. New ones are
        looked at until `share` of the time is over."""
        until = self._started + share * self._seconds
        looks: dict[int, list[float]] = {}
        for value in values:
            self._tell(f"{task.setting.replace('_', ' ')} {value}")
            if time.monotonic() > until:
                break
            task.run(value)  # the first time, threads are made
            looks[value] = self._pair(task.run, base, value, 0)
        # Only the most promising is worth more of the time.
        order = sorted(looks, key=lambda value: -looks[value][0])
        for rank, value in enumerate(order):
            if self._confirm(task, value, base, looks[value], thoroughly=rank == 0):
                return value
        return base

    def _confirm(
        self, task: _Task, value: int, base: int, look: list[float], *, thoroughly: bool
    ) -> bool:
        """Measure pairs until it is clear whether `value` is better; note the trial."""
        ratios, seconds = [look[0]], [look[1]]
        if thoroughly and look[0] > _HOPELESS:
            ratios, seconds = self._pairs(task.run, base, value)
        chosen, note = wins(ratios), ""
        if chosen and task.also is not None:
            others, _ = self._pairs(task.also, base, value, few=True)
            if not others or statistics.median(others) < _NOT_WORSE:
                chosen, note = False, "slower at something else"
        if ratios:
            speed = task.tokens / statistics.median(seconds)
            gain = statistics.median(ratios)
            self._trials.append(
                Trial(task.setting, value, task.name, speed, gain, len(ratios), chosen, note)
            )
        return chosen

    def _pairs(
        self, run: Callable[[int], float], base: int, value: int, *, few: bool = False
    ) -> tuple[list[float], list[float]]:
        """How many times as fast `value` was in each pair, and the seconds it took."""
        ratios: list[float] = []
        seconds: list[float] = []
        longest = 0.0
        for number in range(_FEW_PAIRS if few else _MOST):
            started = time.monotonic()
            if started + longest > self._end:
                break
            ratio, second = self._pair(run, base, value, number)
            ratios.append(ratio)
            seconds.append(second)
            longest = max(longest, time.monotonic() - started)
            hopeless = number > 0 and statistics.median(ratios) < _HOPELESS
            if not few and (hopeless or wins(ratios)):
                break
        return ratios, seconds

    def _pair(self, run: Callable[[int], float], base: int, value: int, number: int) -> list[float]:
        """How many times as fast `value` was, and the seconds it took."""
        if number % 2:
            second, first = run(value), run(base)
        else:
            first, second = run(base), run(value)
        return [first / second, second]

    def _tell(self, what: str) -> None:
        done = (time.monotonic() - self._started) / self._seconds
        self._on_progress(Progress(min(1.0, done), what))


def _left_alone(measured: Measured) -> Measured:
    """What to make of a measurement on a busy machine: nothing."""
    trials = tuple(replace(trial, chosen=False) for trial in measured.trials)
    note = f"other programs took {measured.others:.0%} of the machine: nothing is chosen"
    return replace(measured, profile=Profile(), trials=trials, note=note)


def wins(ratios: list[float]) -> bool:
    """Whether pairs say that one is better than the other, by more than their noise."""
    count = len(ratios)
    if count < _LEAST:
        return False
    median = statistics.median(ratios)
    spread = 1.4826 * statistics.median(abs(ratio - median) for ratio in ratios)
    lost = sum(ratio <= 1 for ratio in ratios)
    allowed = 1 if count >= _MOST else 0
    return median >= ENOUGH and median - 3 * spread / math.sqrt(count) > 1 and lost <= allowed
