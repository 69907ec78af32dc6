"""The command that serves, and the hidden one that runs the engine for it."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from runtime_stub.confinement.cli import (
    enter,
    make_broker,
    probe_engine,
    report,
    sandbox_options,
)
from runtime_stub.console import echo_json
from runtime_stub.errors import EngineError, InputError
from runtime_stub.session import Session, find_model, generation_options, memory_warning

if TYPE_CHECKING:
    import socket

    from runtime_stub.confinement.broker import Broker
    from runtime_stub.engine.hardware import Hardware
    from runtime_stub.engine.remote import RemoteEngine
    from runtime_stub.engine.worker import Begun
    from runtime_stub.models import PackedModel
    from runtime_stub.server.served_models import ServedModels

DEFAULT_PORT = 8080
DEFAULT_PROMPT_CACHE = "1GB"
API_KEY_VARIABLE = "SATCHEL_API_KEY"


def _checked_key(
    _context: click.Context, _parameter: click.Parameter, value: str | None
) -> str | None:
    # Headers can carry nothing else, and an empty one would be known to all.
    if value is not None and not (value.isascii() and value.isprintable() and value.split()):
        raise click.BadParameter("a key is made of printable ASCII characters")
    return value.strip() if value is not None else None


def _checked_size(
    _context: click.Context, _parameter: click.Parameter, value: str | None
) -> int | None:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)i?B?", (value or "1").strip(), re.IGNORECASE)
    if found is None:
        raise click.BadParameter("a size is a number with MB or GB, such as 8GB")
    factor = 1000 ** " KMGT".index(found.group(2).upper() or " ")
    return None if value is None else int(float(found.group(1)) * factor)


@click.command()
@click.option("--host", help="Address to listen on.  [default: 127.0.0.1]")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    help=f"Port to listen on; 0 takes a free one.  [default: {DEFAULT_PORT}]",
)
@click.option("--unix-socket", type=click.Path(path_type=Path), help="Listen there instead.")
@click.option(
    "--api-key",
    envvar=API_KEY_VARIABLE,
    callback=_checked_key,
    metavar="KEY",
    help=f"Only answer who knows this. Better given as {API_KEY_VARIABLE}.",
)
@click.option(
    "--allow-host", multiple=True, metavar="NAME", help="Also answer to this name; * for any."
)
@click.option(
    "--allow-origin",
    multiple=True,
    metavar="ORIGIN",
    help="Let pages of this origin use it; * for any.",
)
@click.option("--access-log", is_flag=True, help="Write a line of JSON for each request to stderr.")
@click.option(
    "--parallel",
    type=click.IntRange(1, 64),
    default=4,
    show_default=True,
    help="Requests to answer at once.",
)
@click.option(
    "--queue",
    type=click.IntRange(0, 100_000),
    default=64,
    show_default=True,
    help="Requests that may wait; further ones are told to come back.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(0),
    default=600.0,
    show_default=True,
    help="Seconds until a request is given up; 0 for never.",
)
@click.option("--lazy", is_flag=True, help="Load the model only when somebody asks.")
@click.option(
    "--idle-unload",
    type=click.FloatRange(0),
    default=0.0,
    metavar="SECONDS",
    help="Unload a model that nobody asked for so long; the next request brings it back. "
    "0 for never.  [default: 0]",
)
@click.option(
    "--memory",
    callback=_checked_size,
    metavar="SIZE",
    help="Memory for models, such as 8GB: those that do not fit together take turns.  "
    "[default: what is free]",
)
@click.option(
    "--prompt-cache",
    is_flag=False,
    flag_value=DEFAULT_PROMPT_CACHE,
    callback=_checked_size,
    metavar="[SIZE]",
    help="Keep long prompts that were read on disk, for the next start: they hold what people "
    f"typed. SIZE is what they may take together.  [default: none; alone: {DEFAULT_PROMPT_CACHE}]",
)
@click.option("--open", "open_page", is_flag=True, help="Open it in the browser.")
@generation_options
@sandbox_options
@click.pass_obj
def serve(
    session: Session,
    /,
    host: str | None,
    port: int | None,
    unix_socket: Path | None,
    **options: Any,
) -> int:
    """Serve the model over HTTP, with the interfaces of OpenAI, Anthropic and Ollama."""
    from runtime_stub.engine.hardware import read_hardware
    from runtime_stub.server.listener import address_of, is_exposed, listen, listen_unix
    from runtime_stub.server.served_models import ServedModels

    settings = session.recipe.server
    if unix_socket is None:
        host = host or str(settings.get("host", "127.0.0.1"))
        port = int(settings.get("port", DEFAULT_PORT)) if port is None else port
        listener = listen(host, port)
    elif host is not None or port is not None or options["open_page"]:
        raise click.UsageError("--unix-socket goes without --host, --port and --open")
    else:
        listener = listen_unix(unix_socket)
    # The address is ours before anything slow happens; the model loads while the rest imports.
    models = ServedModels(session, options)
    broker = _broker(session, options, listener)
    _prepare_cache(session, models.first, options)
    confinement = enter(session, options, serving=True)
    hardware = read_hardware()
    begun = models.begin_first()
    engines = _engines(models, hardware, begun)

    from runtime_stub.server import serve as server
    from runtime_stub.server.admission import room_for_bodies
    from runtime_stub.server.app import make_app
    from runtime_stub.server.bridge import listen_here
    from runtime_stub.server.guard import Rules, own_names
    from runtime_stub.server.page import WEB_FOLDER, Page
    from runtime_stub.server.state import State

    exposed = is_exposed(listener)
    rules = Rules(
        api_key=options["api_key"],
        hosts=(*own_names(host, exposed=exposed), *options["allow_host"]),
        origins=options["allow_origin"],
        check_host=unix_socket is None,
    )
    app = make_app(
        State(
            tuple(models.served(engines)),
            options["parallel"],
            options["timeout"],
            page=Page(
                session.launch.runtime / WEB_FOLDER, session.recipe.name, session.recipe.face
            ),
        ),
        rules=rules,
        access_log=_log_line if options["access_log"] else None,
        room=room_for_bodies(hardware.memory_available),
    )
    address = address_of(listener)

    def on_ready() -> None:
        listen_here(engines)
        if options["probe"]:
            found = report(session, "serve", confinement)
            found["engine"] = probe_engine(session, confined=not options["no_sandbox"])
            echo_json(found)
            return
        _tell_ready(session, address, secret=not exposed or rules.api_key is not None)
        _tell_memory(session, models, hardware)
        if options["open_page"] and broker is not None and not broker.browse(address):
            click.echo(f"No browser was found; open {address} yourself.", err=True)

    def on_stopping() -> None:
        click.echo("Stopping when running answers have ended; Ctrl-C again stops now.", err=True)

    def has_failed() -> bool:
        return all(engine.status.state == "failed" for engine in engines)

    def is_over() -> bool:
        return options["probe"] or has_failed()

    server.run(app, listener, on_ready, on_stopping=on_stopping, is_over=is_over)
    failed = engines[0].status.message if has_failed() else None
    _close(engines, broker)
    if failed is not None:
        raise EngineError(failed)
    return 0


def _prepare_cache(session: Session, model: PackedModel, options: dict[str, Any]) -> None:
    """Extract the first model, with a progress bar; others are extracted when they are asked for.
    Make what is written to later: a confined process may write only where something is."""
    from runtime_stub.cache import prompt_folder
    from runtime_stub.manifest import RAW
    from runtime_stub.models import roots

    if options["prompt_cache"]:
        prompt_folder(roots(session.bundle))

    if model.entry.codec != RAW and not options["lazy"]:
        os.close(find_model(session, model).model.descriptor)


def _engines(models: ServedModels, hardware: Hardware, begun: Begun | None) -> list[RemoteEngine]:
    """Started, and the libraries that speak HTTP reduced to what that takes."""
    from runtime_stub.later import bare_package, put_off

    put_off("anyio", "anyio.abc", "anyio.to_thread", "html", "http.client", "logging.config")
    bare_package("uvicorn", Config="uvicorn.config")
    return models.start_engines(hardware, begun, _tell_stop)


def _broker(session: Session, options: dict[str, Any], listener: socket.socket) -> Broker | None:
    """Who opens the browser and removes the socket's file in the end; None where neither is
    to be done."""
    from runtime_stub.server.listener import UnixListener

    is_file = isinstance(listener, UnixListener)
    if not is_file and not options["open_page"]:
        return None
    from runtime_stub.confinement.broker import Offer

    broker = make_broker(session, options, Offer.SOCKET if is_file else Offer.BROWSER)
    if isinstance(listener, UnixListener):
        listener.remove = broker.remove_socket
    return broker


def _close(engines: Sequence[RemoteEngine], broker: Broker | None) -> None:
    for engine in dict.fromkeys(engines):
        engine.close()
    if broker is not None:
        broker.close()


def _log_line(line: str) -> None:
    click.echo(line, err=True)


@click.command("engine", hidden=True)
@click.option("--fd", "descriptor", type=click.IntRange(0))
@sandbox_options
@click.pass_obj
def engine_process(session: Session, /, descriptor: int | None, **options: Any) -> None:
    """Answer the process that started this one, over the socket it left open."""
    from runtime_stub.children import end_with_parent

    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    confinement = enter(session, options)
    if options["probe"]:
        echo_json(report(session, "engine", confinement))
        return
    if descriptor is None:
        raise InputError("the engine is started by `serve` alone", "Use `serve`")

    import socket

    from runtime_stub.server.engine_process import answer_parent

    try:
        os.set_inheritable(descriptor, False)
        end = socket.socket(fileno=descriptor)
    except OSError:
        raise InputError(f"descriptor {descriptor} is no socket", "Use `serve`") from None
    os._exit(answer_parent(session, end))


def _tell_stop(name: str, reason: str) -> None:
    click.echo(f"{name}: {reason}; it is starting anew", err=True)


def _tell_ready(session: Session, address: str, *, secret: bool) -> None:
    click.echo(f"{session.recipe.name} is listening on {address} (Ctrl-C stops it)", err=True)
    if not secret:
        click.echo("Other machines can use it, too. --api-key keeps strangers out.", err=True)


def _tell_memory(session: Session, models: ServedModels, hardware: Hardware) -> None:
    settings = models.settings(models.first)
    if warning := memory_warning(session, models.first, settings, hardware):
        click.echo(warning, err=True)
