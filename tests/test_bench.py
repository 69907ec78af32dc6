from __future__ import annotations

from pathlib import Path

import pytest
import tiny_models
from engine_fixtures import loaded

from runtime_stub.engine.bench import Bench, OutOfTime
from runtime_stub.engine.messages import EngineSettings


def test_a_step_is_given_up_at_once(tmp_path: Path) -> None:
    """Even within native code."""
    asked = 0

    def stop() -> bool:
        nonlocal asked
        asked += 1
        return asked > 3

    with loaded(tiny_models.plain(tmp_path / "model.gguf")) as model:
        bench = Bench(model, EngineSettings(), 1, lambda: None, stop)
        try:
            with pytest.raises(OutOfTime):
                bench.read(256)
            assert asked == 4
            bench.hurry(0)
            assert bench.read(256) > 0
            assert asked == 4
        finally:
            bench.context.free()
