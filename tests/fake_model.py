"""The engine's threads without native code: what stands in for the model."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from runtime_stub.engine import loaded
from runtime_stub.engine.context import ContextSize
from runtime_stub.engine.engine import Engine
from runtime_stub.engine.messages import (
    EngineSettings,
    Failed,
    ModelSource,
    Request,
    Sources,
)
from runtime_stub.engine.scheduler import Scheduler
from runtime_stub.errors import EngineError


class FakeModel:
    """As much of a model as the engine looks at."""

    parameters = size = memory = trained_context = vocabulary_size = 1000
    bos = eos = ""
    adds_bos = False
    vocabulary = None

    def __init__(self) -> None:
        self.freed = 0

    def metadata(self, _key: str) -> str:
        return ""

    def can_rerank(self) -> bool:
        return False

    def control_token(self, _text: str) -> None:
        return None

    def template(self) -> str:
        return "{{ messages[0].content }}"

    def tokenize(self, text: str, **_: Any) -> list[int]:
        return [ord(char) for char in text]

    def description(self) -> str:
        return "fake"

    def state_bytes_per_token(self, _kv: str) -> int:
        return 1

    def free(self) -> None:
        self.freed += 1


class FakeContext:
    """As much of a context as the engine looks at."""

    forgiving = True

    def __init__(self, _model: Any, size: ContextSize, *_: Any) -> None:
        self.size = size

    def keep(self, *_: Any) -> int:
        return 0

    def free(self) -> None:
        pass


class Fakes:
    """What stands in for the native half, and what it is told to do."""

    def __init__(self) -> None:
        self.model = FakeModel()
        self.loading = threading.Event()
        self.may_load = threading.Event()
        self.may_load.set()
        self.step: Callable[[Scheduler], None] = lambda scheduler: None

    def load_weights(
        self, _source: ModelSource, on_progress: Callable[[float], bool], *_: object
    ) -> FakeModel:
        self.loading.set()
        while not self.may_load.wait(0.005):
            if not on_progress(0.5):
                raise EngineError("the model can't be loaded: broken off")
        return self.model


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> Fakes:
    """Takes the place of the native half of engines that are `started` afterwards."""
    fakes = Fakes()
    monkeypatch.setattr(loaded, "load_weights", fakes.load_weights)
    monkeypatch.setattr(loaded, "Context", FakeContext)
    monkeypatch.setattr(loaded, "cpu_variant", lambda: "fake")

    def step(self: Scheduler) -> None:
        time.sleep(0.001)
        fakes.step(self)

    monkeypatch.setattr(Scheduler, "step", step)
    return fakes


def started(**settings: Any) -> Engine:
    """An engine over the fakes."""
    return Engine(Sources(ModelSource(0, 0, 0)), EngineSettings(context=100, **settings))


def short(text: str = "hi") -> Request:
    """A question."""
    return Request(messages=({"role": "user", "content": text},))


def end_all(scheduler: Scheduler) -> None:
    """A step that fails all requests."""
    scheduler.fail_all(Failed("engine", "scripted"))
