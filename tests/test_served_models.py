from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import small_packs as s

from packer.pack import plan_pack, write_pack
from packer.recipe import make_recipe
from packer.stub import Stub
from runtime_stub.engine.remote import RemoteEngine
from runtime_stub.server.engines import Adapted
from runtime_stub.server.served_models import ServedModels
from runtime_stub.session import Session

OPTIONS: dict[str, Any] = {
    "lazy": False,
    "probe": False,
    "no_sandbox": False,
    "memory": None,
    "idle_unload": 0.0,
    "prompt_cache": None,
    "context": None,
    "drafts": None,
    "system": None,
    "max_tokens": None,
}
Make = Callable[..., ServedModels]


@pytest.fixture
def make(small_model: Path, small_stub: Stub, tmp_path: Path) -> Iterator[Make]:
    """The models of a pack that holds two, the first with adapters, under options."""
    adapter = s.adapter(tmp_path / "lora.gguf")
    recipe = {
        "name": "both",
        "models": [
            {
                "file": str(small_model),
                "name": "clara",
                "context": 512,
                "system": "You are Clara.",
                "max_tokens": 7,
                "adapters": [
                    {"file": str(adapter), "name": "clinic"},
                    {"file": str(adapter), "name": "always", "apply": "always"},
                ],
            },
            {"file": str(small_model), "name": "plain"},
        ],
    }
    packing = make_recipe(recipe, "the test")
    plan = plan_pack(tmp_path / "pack", packing, small_stub, force=False)
    write_pack(plan, s.nothing, force=False)
    with ExitStack() as stack:
        bundle = stack.enter_context(s.opened(tmp_path / "pack"))
        launch = SimpleNamespace(path=tmp_path / "pack")
        session = SimpleNamespace(bundle=bundle, recipe=packing.recipe, launch=launch)
        yield lambda **options: ServedModels(cast("Session", session), {**OPTIONS, **options})


def test_settings_are_the_models_own_under_the_options(make: Make) -> None:
    models = make()
    assert models.first.name == "clara"
    assert models.settings(models.first).context == 512
    models = make(context=256)
    assert models.settings(models.first).context == 256


def test_what_the_faces_are_told(make: Make, tmp_path: Path) -> None:
    engines = [cast("RemoteEngine", object()), cast("RemoteEngine", object())]
    served = {model.name: model for model in make().served(engines)}
    assert list(served) == ["clara", "clara:base", "clara:clinic", "clara:always", "plain"]
    clara = served["clara"]
    assert (clara.engine, served["plain"].engine) == tuple(engines)
    assert (clara.defaults.system, clara.defaults.max_tokens) == ("You are Clara.", 7)
    assert [(one.name, one.always) for one in clara.adapters] == [
        ("clinic", False),
        ("always", True),
    ]
    assert clara.created == int((tmp_path / "pack").stat().st_mtime)
    assert isinstance(served["clara:clinic"].engine, Adapted)
    assert served["clara:clinic"].sha256 == clara.sha256


def test_the_options_win(make: Make) -> None:
    engines = [cast("RemoteEngine", object())] * 2
    for model in make(system="You are Bob.", max_tokens=9).served(engines):
        assert (model.defaults.system, model.defaults.max_tokens) == ("You are Bob.", 9)


@pytest.mark.parametrize("option", ["lazy", "probe"])
def test_none_begins_before_it_is_wanted(
    make: Make, monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    def fork(*_: object) -> None:
        raise AssertionError("a process was started")

    monkeypatch.setattr("runtime_stub.server.engine_process.fork_engine", fork)
    assert make(**{option: True}).begin_first() is None


def test_engines(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """None starts while nobody asks; each would be a start of the pack."""
    started: list[list[str]] = []

    def start_self(_launch: object, words: list[str], *, socket: int) -> None:
        started.append([word if word != str(socket) else "SOCKET" for word in words])
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr("runtime_stub.children.start_self", start_self)
    told: list[tuple[str, str]] = []
    models = make(lazy=True, no_sandbox=True)
    hardware = SimpleNamespace(memory_available=1 << 30)
    engines = models.start_engines(cast("Any", hardware), None, lambda *what: told.append(what))
    try:
        assert [engine.status.state for engine in engines] == ["unloaded"] * 2
        assert started == []
        engines[1].load()
        assert not engines[1].wait_ready(0.2)
    finally:
        for engine in engines:
            engine.close(1)
    assert started[0] == ["engine", "--fd", "SOCKET", "--no-sandbox"]
    assert told[0] == ("plain", "the engine can't be started: Cannot allocate memory")
