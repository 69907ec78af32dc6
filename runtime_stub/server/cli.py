"""The command that serves, and the hidden one that runs the engine for it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from runtime_stub.errors import EngineError, InputError
from runtime_stub.session import (
    Session,
    base_request,
    engine_settings,
    find_model,
    generation_options,
)

if TYPE_CHECKING:
    import subprocess

    from runtime_stub.engine.engine import Engine
    from runtime_stub.engine.remote import RemoteEngine
    from runtime_stub.server.state import State

DEFAULT_PORT = 8080
API_KEY_VARIABLE = "SATCHEL_API_KEY"


def _checked_key(
    _context: click.Context, _parameter: click.Parameter, value: str | None
) -> str | None:
    # Headers can carry nothing else, and an empty one would be known to all.
    if value is not None and not (value.isascii() and value.isprintable() and value.split()):
        raise click.BadParameter("a key is made of printable ASCII characters")
    return value.strip() if value is not None else None


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
@click.option("--open", "open_page", is_flag=True, help="Open it in the browser.")
@generation_options
@click.pass_obj
def serve(
    session: Session,
    /,
    host: str | None,
    port: int | None,
    unix_socket: Path | None,
    open_page: bool,
    **options: Any,
) -> int:
    """Serve the model over HTTP, with the interfaces of OpenAI, Anthropic and Ollama."""
    from runtime_stub.server.listener import address_of, is_exposed, listen, listen_unix

    settings = session.recipe.server
    if unix_socket is None:
        host = host or str(settings.get("host", "127.0.0.1"))
        port = int(settings.get("port", DEFAULT_PORT)) if port is None else port
        listener = listen(host, port)
    elif host is not None or port is not None or open_page:
        raise click.UsageError("--unix-socket goes without --host, --port and --open")
    else:
        listener = listen_unix(unix_socket)
    # The address is ours before anything slow happens; the model loads while the rest imports.
    engine = _remote_engine(session, options)

    from runtime_stub.children import open_browser
    from runtime_stub.server import serve as server
    from runtime_stub.server.app import make_app
    from runtime_stub.server.guard import Rules, own_names

    exposed = is_exposed(listener)
    rules = Rules(
        api_key=options["api_key"],
        hosts=(*own_names(host, exposed=exposed), *options["allow_host"]),
        origins=options["allow_origin"],
        check_host=unix_socket is None,
    )
    app = make_app(
        _served(session, engine, options),
        rules=rules,
        access_log=_log_line if options["access_log"] else None,
    )
    address = address_of(listener)

    def on_ready() -> None:
        click.echo(f"{session.recipe.name} is listening on {address} (Ctrl-C stops it)", err=True)
        if exposed and rules.api_key is None:
            click.echo("Other machines can use it, too. --api-key keeps strangers out.", err=True)
        if open_page and not open_browser(session.launch, address):
            click.echo(f"No browser was found; open {address} yourself.", err=True)

    def on_stopping() -> None:
        click.echo("Stopping when running answers have ended; Ctrl-C again stops now.", err=True)

    def is_over() -> bool:
        return engine.status.state == "failed"

    server.run(app, listener, on_ready, on_stopping=on_stopping, is_over=is_over)
    status = engine.status
    engine.close()
    if status.state == "failed":
        raise EngineError(status.message)
    return 0


def _served(session: Session, engine: RemoteEngine, options: dict[str, Any]) -> State:
    """What the faces are told about the pack."""
    from runtime_stub.models import first_model
    from runtime_stub.server.page import WEB_FOLDER, Page
    from runtime_stub.server.state import Defaults, Served, State

    request = base_request(session, options)
    entry = first_model(session.bundle)
    path = session.launch.path
    model = Served(
        name=session.recipe.name,
        engine=engine,
        defaults=Defaults(
            sampling=request.sampling,
            system=options["system"] or session.recipe.system,
            max_tokens=request.max_tokens,
        ),
        created=int(path.stat().st_mtime) if path.exists() else 0,
        size=entry.size,
        sha256=entry.sha256,
        details=entry.metadata,
        template=session.recipe.template,
    )
    page = Page(session.launch.runtime / WEB_FOLDER, session.recipe.name, session.recipe.face)
    return State((model,), options["parallel"], page=page)


def _log_line(line: str) -> None:
    click.echo(line, err=True)


@click.command("engine", hidden=True)
@click.option("--fd", "descriptor", type=click.IntRange(0), required=True)
@click.pass_obj
def engine_process(session: Session, descriptor: int) -> None:
    """Answer the process that started this one, over the socket it left open."""
    from runtime_stub.children import end_with_parent

    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides

    import socket

    from runtime_stub.engine.process import run_engine
    from runtime_stub.engine.wire import Connection, Start

    def load(start: Start, on_progress: Callable[[float], None]) -> Engine:
        from runtime_stub.engine.engine import Engine

        def on_start(size: int) -> Callable[[int], None]:
            done = 0

            def count(more: int) -> None:
                nonlocal done
                done += more
                on_progress(done / size)

            return count

        entry = session.bundle.entry(start.model)
        from runtime_stub.models import model_source

        source = model_source(session.bundle, entry, on_start=on_start, on_wait=lambda: None)
        return Engine(source, start.settings)

    try:
        os.set_inheritable(descriptor, False)
        end = socket.socket(fileno=descriptor)
    except OSError:
        raise InputError(f"descriptor {descriptor} is no socket", "Use `serve`") from None
    # Threads may be at work in native code: nothing is torn down under them.
    os._exit(run_engine(Connection(end), load))


def _remote_engine(session: Session, options: dict[str, Any]) -> RemoteEngine:
    """The same in a process of its own."""
    from runtime_stub.children import start_self
    from runtime_stub.engine.remote import RemoteEngine
    from runtime_stub.manifest import RAW
    from runtime_stub.models import first_model

    model = first_model(session.bundle)
    if model.codec != RAW:
        os.close(find_model(session).descriptor)  # extracted, with a progress bar

    def start(socket: int) -> subprocess.Popen[bytes]:
        return start_self(session.launch, ["engine", "--fd", str(socket)], socket=socket)

    def on_stop(reason: str) -> None:
        click.echo(f"{session.recipe.name}: {reason}; it is starting anew", err=True)

    context = options["context"] or session.recipe.context
    settings = engine_settings(session, options, context)
    return RemoteEngine(start, model.name, settings, on_stop=on_stop)
