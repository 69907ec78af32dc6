"""The command that measures, and the hidden one that tries what may end a process."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from typing import TYPE_CHECKING, Any

import click

from runtime_stub.confinement.cli import enter, sandbox_options
from runtime_stub.console import echo_json, printable, progress, tell
from runtime_stub.errors import InputError, OutputError
from runtime_stub.session import Session, chosen_model, engine_settings, find_model, model_option

if TYPE_CHECKING:
    import subprocess

    from runtime_stub.engine.messages import EngineSettings, ModelSource
    from runtime_stub.engine.profile import Measured
    from runtime_stub.engine.rival import Rival
    from runtime_stub.models import PackedModel
    from runtime_stub.profiles import CachedShelf

_ROOM = 512 << 20
"""Bytes of memory to leave beside a second copy of the weights."""


@click.command()
@click.option("--json", "as_json", is_flag=True, help="What was measured, as JSON.")
@click.option("--reset", is_flag=True, help="Forget what was measured, and measure nothing.")
@click.option(
    "--repack",
    "takes_repack",
    is_flag=True,
    help="Choose repacked weights if they are faster. Each start takes longer with them.",
)
@model_option
@sandbox_options
@click.pass_obj
def tune(
    session: Session, /, as_json: bool, reset: bool, takes_repack: bool, **options: Any
) -> None:
    """Measure what this machine runs the model fastest with. It takes a few seconds.

    Threads, flash attention, batch size and repacked weights are tried in turn with the default,
    which is left only for what is clearly faster. Later starts use the result; `chat` and `serve`
    measure by themselves when nobody asked anything yet, `info` shows what is known. What an
    option or the recipe says always wins.

    \b
    Examples:
      ./assistant tune              measure now, best when the machine does nothing else
      ./assistant tune --reset      go back to the defaults
    """
    wanted = _wanted(session, options["model"])
    if reset:
        _reset(wanted, as_json=as_json)
        return
    sources = [find_model(session, item.model, drafts=False).model for item in wanted]
    enter(session, options, serving=True)
    documents = []
    for item, source in zip(wanted, sources, strict=True):
        with contextlib.suppress(OSError):
            item.shelf.forget()
        can_keep = item.shelf.begin()
        measured = _measure(session, item, source, options, takes_repack=takes_repack)
        if measured.is_busy:
            item.shelf.give_up()
        else:
            item.shelf.keep(measured)
        path = str(item.shelf.path) if can_keep and not measured.is_busy else None
        name = item.model.name
        if as_json:
            documents.append({"model": name, "file": path, **dataclasses.asdict(measured)})
        else:
            _show(name, measured, path)
    if as_json:
        echo_json(documents)


@dataclasses.dataclass(frozen=True)
class _Wanted:
    """A model to be measured, as `chat` and `serve` run it."""

    model: PackedModel
    settings: EngineSettings
    shelf: CachedShelf


def _wanted(session: Session, name: str | None) -> list[_Wanted]:
    """The model called `name`, or every one that is not just another prompt for the same."""
    from runtime_stub.models import packed_models
    from runtime_stub.profiles import fixed, shelf_for

    models: dict[tuple[object, ...], PackedModel] = {}
    for model in packed_models(session.bundle, session.recipe):
        models.setdefault((model.entry.sha256, *sorted(model.recipe.engine.items())), model)
    chosen = list(models.values()) if name is None else [chosen_model(session, name).model]
    found = []
    for model in chosen:
        settings = engine_settings(model.recipe, {"drafts": None}, None)
        shelf = shelf_for(session.bundle, model, settings)
        found.append(_Wanted(model, fixed(session.bundle, model, settings), shelf))
    return found


def _reset(wanted: list[_Wanted], *, as_json: bool) -> None:
    forgotten = {item.model.name: _forget(item.shelf) for item in wanted}
    if as_json:
        echo_json([{"model": name, "forgotten": known} for name, known in forgotten.items()])
        return
    for name, known in forgotten.items():
        what = "forgot what was measured" if known else "nothing was known"
        click.echo(printable(f"{name}: {what}"))


def _forget(shelf: CachedShelf) -> bool:
    try:
        return shelf.forget()
    except OSError as error:
        raise OutputError(f"{shelf.path} can't be removed: {error.strerror}") from None


def _measure(
    session: Session,
    item: _Wanted,
    source: ModelSource,
    options: dict[str, Any],
    *,
    takes_repack: bool,
) -> Measured:
    from runtime_stub.engine.hardware import read_hardware
    from runtime_stub.engine.model import load_model
    from runtime_stub.engine.profile import Trial
    from runtime_stub.engine.rival import RivalError
    from runtime_stub.engine.tuner import Progress, Tuner
    from runtime_stub.engine.weights import interleave

    hardware, settings = read_hardware(), item.settings
    problem, rival = "", None
    with contextlib.ExitStack() as stack:
        with progress("Loading the model", 1000) as meter:
            done = 0

            def on_load(fraction: float) -> bool:
                nonlocal done
                meter(int(fraction * 1000) - done)
                done = int(fraction * 1000)
                return True

            loaded = load_model(source, on_load)
            stack.callback(loaded.free)
            is_repacked = interleave(loaded, settings, hardware.memory_available) > 0
            is_open = settings.repack is None and not is_repacked
            if is_open and hardware.memory_available < 2 * loaded.size + _ROOM:
                problem = "there is no memory for a second copy of the weights"
            elif is_open:
                try:
                    rival = _start_rival(session, item.model, options)
                    stack.callback(rival.close)
                except RivalError as error:
                    problem = str(error)
        with progress(f"Measuring {item.model.name}", 1000) as meter:
            shown = 0

            def on_progress(now: Progress) -> None:
                nonlocal shown
                meter(int(now.done * 1000) - shown)
                shown = int(now.done * 1000)

            measured = Tuner(
                loaded,
                settings,
                hardware,
                on_progress=on_progress,
                rival=rival,
                takes_repack=takes_repack,
            ).measure()
    if problem:
        failed = Trial("repack", 1, "generate", 0.0, 0.0, 0, note=problem)
        measured = dataclasses.replace(measured, trials=(*measured.trials, failed))
    return measured


def _start_rival(session: Session, model: PackedModel, options: dict[str, Any]) -> Rival:
    from runtime_stub.children import start_self
    from runtime_stub.engine.rival import Rival

    free = ["--no-sandbox"] if options["no_sandbox"] else []

    def start(socket: int) -> subprocess.Popen[bytes]:
        arguments = ["rival", "--fd", str(socket), "--model", model.name, *free]
        return start_self(session.launch, arguments, socket=socket)

    return Rival(start)


def _show(name: str, measured: Measured, path: str | None) -> None:
    from runtime_stub.tuning.show import summary, table

    click.echo(printable(f"{name}, measured in {measured.seconds:.1f} seconds:"))
    for line in table(measured):
        click.echo(printable(line))
    if measured.note:
        click.echo(f"  ({measured.note})")
    if measured.is_busy:
        click.echo("The defaults stay. Try again when the machine is quiet.")
        return
    click.echo(f"Chosen: {summary(measured.profile)}.")
    if path is None:
        tell("It is not kept: no cache folder can be written. SATCHEL_CACHE names another.")
    else:
        click.echo(printable(f"Kept in {path}"))


@click.command("rival", hidden=True)
@click.option("--fd", "descriptor", type=click.IntRange(0), required=True)
@model_option
@sandbox_options
@click.pass_obj
def rival_process(session: Session, /, descriptor: int, **options: Any) -> None:
    """Measure with repacked weights, for the `tune` that started this process."""
    import socket

    from runtime_stub.children import end_with_parent
    from runtime_stub.engine.rival import run_rival
    from runtime_stub.profiles import fixed

    end_with_parent()
    model = chosen_model(session, options["model"]).model
    source = find_model(session, model, drafts=False).model
    settings = engine_settings(model.recipe, {"drafts": None}, None)
    enter(session, options)
    try:
        os.set_inheritable(descriptor, False)
        end = socket.socket(fileno=descriptor)
    except OSError:
        raise InputError(f"descriptor {descriptor} is no socket", "Use `tune`") from None
    run_rival(end, source, fixed(session.bundle, model, settings))
