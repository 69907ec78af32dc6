"""The sandbox on the command line: its options, and what commands do to enter it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from runtime_stub.console import echo_json
from runtime_stub.errors import EngineError, SatchelError
from runtime_stub.session import Session

if TYPE_CHECKING:
    from runtime_stub.confinement.broker import Broker, Offer
    from runtime_stub.confinement.confine import Confinement
    from runtime_stub.confinement.policy import Surroundings

OFF_VARIABLE = "SATCHEL_NO_SANDBOX"
COMMANDS = ("ask", "chat", "serve")
"""Those that confine themselves."""
_PROBE_SECONDS = 120


def sandbox_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of every command that confines itself."""
    command = click.option(
        "--no-sandbox",
        is_flag=True,
        envvar=OFF_VARIABLE,
        help=f"Don't let the kernel keep this process in. Also {OFF_VARIABLE}=1.",
    )(command)
    return click.option("--probe", is_flag=True, hidden=True)(command)


def enter(
    session: Session,
    options: dict[str, Any],
    *,
    serving: bool = False,
    writable: Iterable[Path] = (),
) -> Confinement:
    """Confine this process, unless the options say not to. Before there is any other thread."""
    from runtime_stub.confinement.confine import confine, turned_off
    from runtime_stub.confinement.policy import closed
    from runtime_stub.confinement.policy import serving as serving_policy

    if options["no_sandbox"]:
        return turned_off()
    files = _surroundings(session)
    return confine(serving_policy(files) if serving else closed(files, writable))


def _surroundings(session: Session) -> Surroundings:
    from runtime_stub.cache import writable_folder
    from runtime_stub.confinement.policy import Surroundings
    from runtime_stub.manifest import RAW
    from runtime_stub.models import roots

    bundle, launch = session.bundle, session.launch
    if any(entry.codec != RAW for entry in bundle.manifest.entries if entry.kind != "runtime"):
        # Only what exists can be granted, and a model may have to be extracted later.
        with contextlib.suppress(SatchelError):
            writable_folder(roots(bundle), "models", 0)
    beside = {bundle.descriptor_of(entry) for entry in bundle.manifest.entries}
    folders = dict.fromkeys((launch.cache_root, *roots(bundle)))
    return Surroundings((launch.descriptor, *sorted(beside)), launch.runtime, tuple(folders))


def make_broker(session: Session, options: dict[str, Any], offers: Offer) -> Broker:
    """The way out for what a person asks for. Before `enter`."""
    from runtime_stub.confinement.broker import DirectBroker, fork_broker

    if options["no_sandbox"] or not sys.platform.startswith("linux"):
        return DirectBroker(session.launch)
    return fork_broker(session.launch, offers)


def report(session: Session, command: str, confinement: Confinement) -> dict[str, Any]:
    """Try everything that should be refused, and tell how it ended."""
    from runtime_stub.confinement.probe import Places, probe

    launch = session.launch
    home = Path(os.environ.get("HOME") or "/")
    attempts = probe(Places(home, launch.path))
    return {
        "command": command,
        "parts": [dataclasses.asdict(part) for part in confinement.parts],
        "attempts": [dataclasses.asdict(attempt) for attempt in attempts],
    }


def probe_commands(session: Session) -> list[dict[str, Any]]:
    """The reports of all commands, each from a process of its own that was started for it.

    Raises EngineError when one can't be had.
    """
    reports = [_probe(session, [name, "--probe", *_ARGUMENTS.get(name, ())]) for name in COMMANDS]
    return [part for found in reports for part in (found, found.pop("engine", None)) if part]


_ARGUMENTS = {"ask": ("probe",), "serve": ("--host", "127.0.0.1", "--port", "0")}


def probe_engine(session: Session, *, confined: bool) -> dict[str, Any]:
    """The report of the engine that `serve` starts. Raises EngineError."""
    return _probe(session, ["engine", "--probe", *([] if confined else ["--no-sandbox"])])


def _probe(session: Session, arguments: list[str]) -> dict[str, Any]:
    from runtime_stub.children import start_self

    try:
        process = start_self(session.launch, arguments, output=subprocess.PIPE)
        output, _ = process.communicate(timeout=_PROBE_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EngineError(f"`{arguments[0]} --probe` failed: {error}") from None
    if process.returncode:
        raise EngineError(f"`{arguments[0]} --probe` ended with {process.returncode}")
    document: dict[str, Any] = json.loads(output)
    return document


def show_reports(reports: list[dict[str, Any]], *, as_json: bool) -> None:
    """Print what `probe_commands` found."""
    if as_json:
        echo_json(reports)
        return
    names = [report["command"] for report in reports]
    answers = [{a["name"]: a["answer"] for a in report["attempts"]} for report in reports]
    click.echo("".join(word.ljust(width) for word, width in _columns("what was tried", names)))
    for name in dict.fromkeys(name for found in answers for name in found):
        cells = [found.get(name, "") for found in answers]
        click.echo("".join(word.ljust(width) for word, width in _columns(name, cells)).rstrip())


def _columns(first: str, others: list[str]) -> list[tuple[str, int]]:
    return [(first, 26), *((word, 10) for word in others)]
