from __future__ import annotations

import dataclasses
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest
import small_packs as s

from packer.stub import Stub
from runtime_stub import forecast
from runtime_stub.engine.hardware import Hardware
from runtime_stub.engine.messages import EngineSettings
from runtime_stub.engine.profile import Measured, Profile
from runtime_stub.models import PackedModel, packed_models
from runtime_stub.recipe import recipe_from
from runtime_stub.session import Session, memory_warning

if TYPE_CHECKING:
    from runtime_stub.environment import Launch

GB = 1_000_000_000


def packed(model: Path, out: Path, stub: Stub, **recipe: Any) -> PackedModel:
    """The model of a pack, with what its recipe says."""
    with s.opened(s.pack(model, out / "clara", stub).path) as bundle:
        made = recipe_from({"name": "Clara", **recipe}, "here")
        return packed_models(bundle, made)[0]


def text(found: forecast.Forecast | None) -> str:
    assert found is not None
    return "\n".join(forecast.lines(dataclasses.asdict(found), several=False))


class Shelf:
    """Holds one measurement."""

    def __init__(self, measured: Measured | None = None) -> None:
        self.measured = measured

    def read(self) -> Measured | None:
        return self.measured

    def begin(self) -> bool:
        raise AssertionError

    def give_up(self) -> None:
        raise AssertionError

    def keep(self, measured: Measured) -> None:
        raise AssertionError


def machine(memory: int) -> Hardware:
    return Hardware(2, 2, memory, memory)


def test_plenty(small_model: Path, out: Path, small_stub: Stub) -> None:
    model = packed(small_model, out, small_stub)
    found = forecast.forecast(model, machine(8 * GB), Shelf())
    assert found is not None
    numbers = model.entry.metadata["numbers_per_token"]
    expected = min(8192, model.entry.metadata["context_length"])
    assert (found.context, found.kv) == (expected, "f16")
    assert found.context_bytes == expected * numbers * 2
    assert f"{expected:,} tokens (" in text(found)
    assert "as f16" in text(found)


def test_smaller_keys_and_values(small_model: Path, out: Path, small_stub: Stub) -> None:
    half = packed(small_model, out, small_stub, engine={"kv": "q8_0"}, context=1024)
    found = forecast.forecast(half, machine(8 * GB), Shelf())
    assert found is not None
    numbers = half.entry.metadata["numbers_per_token"]
    assert found.context_bytes == pytest.approx(1024 * numbers * 34 / 32, abs=1024)
    assert "1,024 tokens (as asked)" in text(found)


def test_no_room(small_model: Path, out: Path, small_stub: Stub) -> None:
    found = forecast.forecast(packed(small_model, out, small_stub), machine(1), Shelf())
    assert found is not None
    assert found.context == 0
    assert "none: the model needs" in text(found)


def test_a_pack_that_does_not_say(small_model: Path, out: Path, small_stub: Stub) -> None:
    model = packed(small_model, out, small_stub)
    silent = replace(model, entry=replace(model.entry, metadata={}))
    assert forecast.forecast(silent, machine(GB), Shelf()) is None


def test_what_was_measured(small_model: Path, out: Path, small_stub: Stub) -> None:
    model = packed(small_model, out, small_stub)
    known = Measured(Profile(threads=3, batch=256), note="there was no time for more")
    said = text(forecast.forecast(model, machine(GB), Shelf(known)))
    assert "3 threads generate, 256 prompt tokens per step (there was no time for more)" in said
    assert "the defaults are the fastest here" in text(
        forecast.forecast(model, machine(GB), Shelf(Measured(Profile())))
    )
    assert "not measured yet" in text(forecast.forecast(model, machine(GB), Shelf()))


def test_memory_that_is_short(small_model: Path, out: Path, small_stub: Stub) -> None:
    model = packed(small_model, out, small_stub)
    per_token = model.entry.metadata["numbers_per_token"] * 2
    memory = model.entry.size + (256 << 20) + 300 * per_token
    found = forecast.forecast(model, machine(memory), Shelf())
    assert found is not None
    assert found.context == 256
    assert "so the context holds 256 tokens instead of" in found.warning
    assert "more would swap. Close other programs, or --kv q8_0" in found.warning
    assert found.warning in text(found)
    with_more = EngineSettings(kv="q8_0")
    better = forecast.forecast(model, machine(memory), Shelf(), with_more)
    assert better is not None
    assert better.context == 512
    assert better.warning.endswith("Close other programs")
    enough = forecast.forecast(model, machine(8 * GB), Shelf())
    assert enough is not None
    assert enough.warning == ""


def test_weights_that_llama_cpp_repacks_take_their_memory_again(
    small_model: Path, out: Path, small_stub: Stub
) -> None:
    model = packed(small_model, out, small_stub)
    strange = {**model.entry.metadata, "architecture": "falcon-h1"}
    ours = replace(model, entry=replace(model.entry, size=GB))
    other = replace(model, entry=replace(model.entry, size=GB, metadata=strange))
    known = Shelf(Measured(Profile(repack=True)))
    plenty = machine(2 * GB)
    for packed_model, shelf in ((ours, Shelf()), (ours, known), (other, Shelf())):
        found = forecast.forecast(packed_model, plenty, shelf)
        assert found is not None
        assert found.context > 0
    doubled = forecast.forecast(other, plenty, known)
    assert doubled is not None
    assert "needs 2,2" in doubled.problem


@pytest.mark.parametrize(("free", "warns"), [(300 << 20, True), (8 * GB, False), (0, False)])
def test_what_is_said_at_a_start(
    small_model: Path, out: Path, small_stub: Stub, free: int, *, warns: bool
) -> None:
    """Where it does not start at all, the engine says so."""
    with s.opened(s.pack(small_model, out / "clara", small_stub).path) as bundle:
        recipe = recipe_from({"name": "Clara"}, "here")
        model = packed_models(bundle, recipe)[0]
        # One whose context would not fit into what is free beside it.
        metadata = {**model.entry.metadata, "numbers_per_token": 10_000, "context_length": 8192}
        model = replace(model, entry=replace(model.entry, metadata=metadata))
        session = Session(cast("Launch", None), bundle, recipe)
        said = memory_warning(session, model, EngineSettings(), machine(free))
    assert said.startswith("Clara: memory is short") == warns
    assert bool(said) == warns
