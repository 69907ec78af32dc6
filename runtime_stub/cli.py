"""The command line of a pack."""

from __future__ import annotations

import dataclasses
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from runtime_stub import __version__
from runtime_stub import bundle as bundle_format
from runtime_stub.bundle import Bundle
from runtime_stub.console import (
    bytes_text,
    echo_json,
    printable,
    progress,
    run,
    show_regions,
)
from runtime_stub.environment import Launch
from runtime_stub.errors import (
    EngineError,
    InputError,
    PackChangedError,
    PromptError,
    SatchelError,
)
from runtime_stub.recipe import SAMPLING, Recipe, check_value, recipe_from

if TYPE_CHECKING:
    import subprocess

    from runtime_stub.engine.engine import Engine
    from runtime_stub.engine.messages import (
        EngineSettings,
        Event,
        Failed,
        ModelSource,
        Request,
        Sampling,
    )
    from runtime_stub.engine.remote import RemoteEngine
    from runtime_stub.server.state import State

DEFAULT_PORT = 8080
API_KEY_VARIABLE = "SATCHEL_API_KEY"


@dataclass(frozen=True)
class Session:
    """The pack that was started, and how."""

    launch: Launch
    bundle: Bundle
    recipe: Recipe


def main(launch: Launch) -> int:
    """Run the pack's command line; returns the exit code."""
    program = launch.argv0.rsplit("/", 1)[-1] or "satchel"

    def start(arguments: list[str]) -> int:
        bundle = bundle_format.read_bundle(launch.descriptor, launch.path)
        recipe = recipe_from(bundle.manifest.recipe or {}, "the pack's recipe")
        session = Session(launch, bundle, recipe)
        return run(pack, program, arguments or _default_command(recipe), session)

    opener = click.Command("open", callback=lambda: start(sys.argv[1:]))
    return run(opener, program, [])


def _default_command(recipe: Recipe) -> list[str]:
    """What a pack does without arguments: its recipe's mode, or answer what is piped in."""
    import stat

    if recipe.mode == "chat" and sys.stdin is not None:
        kind = os.fstat(sys.stdin.fileno()).st_mode
        if stat.S_ISFIFO(kind) or stat.S_ISREG(kind) or stat.S_ISSOCK(kind):
            return ["ask"]
    return [recipe.mode]


def _generation_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of every command that generates text, from the recipe's settings."""
    options = [
        click.option("--system", metavar="TEXT", help="System prompt, instead of the pack's."),
        click.option("--max-tokens", type=click.IntRange(1), help="Longest answer, in tokens."),
        click.option("--context", type=click.IntRange(64), help="Context, in tokens."),
        click.option("--threads", type=click.IntRange(1, 512), help="Threads to compute with."),
    ]
    for name, setting in SAMPLING.items():
        options.append(
            click.option(
                f"--{name.replace('_', '-')}",
                name,
                type=setting.kind,
                callback=_checked,
                help=f"{setting.help[0].upper()}{setting.help[1:]}.",
            )
        )
    for option in reversed(options):
        command = option(command)
    return command


def _checked(_context: click.Context, parameter: click.Parameter, value: Any) -> Any:
    if value is not None and parameter.name is not None:
        check_value(parameter.opts[0], value, SAMPLING[parameter.name], "the command line")
    return value


def _checked_key(
    _context: click.Context, _parameter: click.Parameter, value: str | None
) -> str | None:
    # Headers can carry nothing else, and an empty one would be known to all.
    if value is not None and not (value.isascii() and value.isprintable() and value.split()):
        raise click.BadParameter("a key is made of printable ASCII characters")
    return value.strip() if value is not None else None


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Without a command it does what its maker chose: chat, or serve. Piped text is "
    "answered, as by `ask`. SATCHEL_CACHE names the cache folder to use.",
)
@click.version_option(__version__, message="%(prog)s: a pack made with Satchel %(version)s")
@click.option("--verbose", is_flag=True, help="Show the full story of an error.")
def pack(verbose: bool) -> None:
    """A language model in one file. Everything runs on this machine; nothing leaves it."""
    del verbose  # read by the error handler


@pack.command()
@click.argument("prompt", nargs=-1)
@click.option("--json", "as_json", is_flag=True, help="Print answer, reason and counts as JSON.")
@_generation_options
@click.pass_obj
def ask(session: Session, /, prompt: tuple[str, ...], as_json: bool, **options: Any) -> int:
    """Answer one PROMPT and leave. Without one, or for "-", standard input is read.

    \b
    Examples:
      ./assistant ask "What is the capital of France?"
      ./assistant ask "Summarise this:" - < report.txt
      echo "Name three colours." | ./assistant
    """
    from runtime_stub.engine.messages import (
        FIT_REQUEST,
        Failed,
        Finished,
        PromptRead,
        Reasoning,
        Text,
    )

    text = _prompt_text(prompt)
    request = _request(session, options)
    system = options["system"] or session.recipe.system
    messages = [{"role": "system", "content": system}] if system else []
    request = dataclasses.replace(request, messages=(*messages, {"role": "user", "content": text}))
    engine = _engine(session, options, context=options["context"] or FIT_REQUEST)
    _show_loading(engine)
    answer: list[str] = []
    reasoning: list[str] = []
    for event in engine.answer(request):
        if isinstance(event, PromptRead):
            _tell_fallback(engine)
        elif isinstance(event, Text):
            answer.append(event.text)
            if not as_json:
                click.echo(event.text, nl=False)
                sys.stdout.flush()
        elif isinstance(event, Reasoning):
            reasoning.append(event.text)
        elif isinstance(event, Failed):
            raise _error_of(event)
        elif isinstance(event, Finished) and as_json:
            usage = dataclasses.asdict(event.usage)
            document = {"answer": "".join(answer), "reason": event.reason, "usage": usage}
            if reasoning:
                document["reasoning"] = "".join(reasoning)
            echo_json(document)
        elif isinstance(event, Finished):
            click.echo()
            if event.reason == "length":
                click.echo("(The answer was cut at its length limit: --max-tokens.)", err=True)
    engine.close()
    return 0


@pack.command()
@_generation_options
@click.pass_obj
def chat(session: Session, /, **options: Any) -> int:
    """Chat in the terminal. Ctrl-C stops an answer, Ctrl-D leaves."""
    from runtime_stub.chat.conversation import Conversation
    from runtime_stub.chat.loop import chat as converse
    from runtime_stub.engine.messages import PromptRead

    engine = _engine(session, options, context=options["context"] or session.recipe.context)
    system = options["system"] or session.recipe.system
    conversation = Conversation(engine, system, _request(session, options))
    if sys.stdin.isatty():
        click.echo(f"{session.recipe.name}. Ctrl-C stops an answer, Ctrl-D leaves.\n", err=True)

    told = False

    def on_event(event: Event) -> None:
        nonlocal told
        if isinstance(event, PromptRead) and not told:
            told = True
            _tell_fallback(engine)

    converse(conversation, _Lines(engine), on_event)
    engine.close()
    return 0


@pack.command()
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
@_generation_options
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

    server.run(app, listener, on_ready)
    engine.close()
    return 0


def _served(session: Session, engine: RemoteEngine, options: dict[str, Any]) -> State:
    """What the faces are told about the pack."""
    from runtime_stub.models import first_model
    from runtime_stub.server.state import Defaults, Served, State

    request = _request(session, options)
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
    return State((model,), options["parallel"])


def _log_line(line: str) -> None:
    click.echo(line, err=True)


@pack.command("engine", hidden=True)
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
        from runtime_stub.models import model_source

        def on_start(size: int) -> Callable[[int], None]:
            done = 0

            def count(more: int) -> None:
                nonlocal done
                done += more
                on_progress(done / size)

            return count

        entry = session.bundle.entry(start.model)
        source = model_source(session.bundle, entry, on_start=on_start, on_wait=lambda: None)
        return Engine(source, start.settings)

    try:
        os.set_inheritable(descriptor, False)
        end = socket.socket(fileno=descriptor)
    except OSError:
        raise InputError(f"descriptor {descriptor} is no socket", "Use `serve`") from None
    # Threads may be at work in native code: nothing is torn down under them.
    os._exit(run_engine(Connection(end), load))


@pack.command()
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@click.pass_obj
def info(session: Session, as_json: bool) -> None:
    """What this pack is, and how it runs on this machine."""
    from runtime_stub.describe import describe_pack, lines

    document = describe_pack(session.bundle, session.launch)
    if as_json:
        echo_json(document)
    else:
        for line in lines(document):
            click.echo(printable(line))


@pack.command()
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@click.pass_obj
def verify(session: Session, as_json: bool) -> None:
    """Check every byte of this file against the hashes it carries."""
    from runtime_stub.verify import verify as check

    with progress("Verifying", session.bundle.footer.pack_size) as meter:
        regions = check(session.bundle, meter)
    show_regions(regions, as_json=as_json, name=session.launch.path.name)


@pack.group()
def cache() -> None:
    """What packs have extracted on this machine."""


@cache.command("show")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@click.pass_obj
def cache_show(session: Session, as_json: bool) -> None:
    """List extracted runtimes and models, and where they are."""
    from runtime_stub.cache import items
    from runtime_stub.models import roots

    found = items(roots(session.bundle))
    if as_json:
        echo_json(
            [{**dataclasses.asdict(i), "root": str(i.root), "path": str(i.path)} for i in found]
        )
        return
    for item in found:
        own = "  (this pack)" if item.path == session.launch.runtime else ""
        click.echo(printable(f"{item.kind:<8} {bytes_text(item.size):>10}  {item.path}{own}"))
    total = bytes_text(sum(item.size for item in found))
    click.echo(f"{len(found)} in the cache, {total} in all.")


@cache.command("clear")
@click.pass_obj
def cache_clear(session: Session) -> None:
    """Remove everything that packs have extracted; it comes back when it is needed."""
    from runtime_stub.cache import items, remove
    from runtime_stub.models import roots

    freed = 0
    for item in items(roots(session.bundle)):
        # This process runs from its own runtime and still has to read from it.
        if item.path == session.launch.runtime:
            continue
        remove(item)
        freed += item.size
        click.echo(printable(f"removed {item.kind} {item.path}"))
    click.echo(f"{bytes_text(freed)} freed. The runtime in use stays; delete its folder yourself:")
    click.echo(printable(str(session.launch.runtime)))


@pack.command()
@click.option("--list", "names_only", is_flag=True, help="Only say what is in it.")
@click.pass_obj
def licenses(session: Session, names_only: bool) -> None:
    """Licences of everything in this pack, the model's first."""
    from runtime_stub.describe import license_lines

    text = "\n".join(license_lines(session.bundle, session.launch.runtime, names_only=names_only))
    click.echo_via_pager(text) if sys.stdout.isatty() and not names_only else click.echo(text)


def _prompt_text(words: tuple[str, ...]) -> str:
    """The prompt from the command line, with standard input where it says "-"."""
    if not words and sys.stdin.isatty():
        raise InputError("there is no prompt", 'Ask something: ask "Why is the sky blue?"')
    parts = [sys.stdin.read() if word == "-" else word for word in words or ("-",)]
    text = "\n\n".join(parts).strip()
    if not text:
        raise InputError("the prompt is empty", 'Ask something: ask "Why is the sky blue?"')
    return text


def _sampling(session: Session, options: dict[str, Any]) -> Sampling:
    from runtime_stub.engine.messages import Sampling

    chosen = {name: options[name] for name in SAMPLING if options.get(name) is not None}
    values: dict[str, Any] = {**session.recipe.sampling, **chosen}
    return Sampling(**values)


def _request(session: Session, options: dict[str, Any]) -> Request:
    from runtime_stub.engine.messages import Request

    return Request(
        sampling=_sampling(session, options),
        max_tokens=options["max_tokens"] or session.recipe.max_tokens,
    )


def _engine(session: Session, options: dict[str, Any], *, context: int | None) -> Engine:
    """Start loading the model, extracting it first if the pack holds it compressed."""
    from runtime_stub.engine.engine import Engine

    return Engine(_source(session), _settings(session, options, context))


def _remote_engine(session: Session, options: dict[str, Any]) -> RemoteEngine:
    """The same in a process of its own."""
    from runtime_stub.children import start_self
    from runtime_stub.engine.remote import RemoteEngine
    from runtime_stub.manifest import RAW
    from runtime_stub.models import first_model

    model = first_model(session.bundle)
    if model.codec != RAW:
        os.close(_source(session).descriptor)  # extracted, with a progress bar

    def start(socket: int) -> subprocess.Popen[bytes]:
        return start_self(session.launch, ["engine", "--fd", str(socket)], socket=socket)

    def on_stop(reason: str) -> None:
        click.echo(f"{session.recipe.name}: {reason}; it is starting anew", err=True)

    context = options["context"] or session.recipe.context
    settings = _settings(session, options, context)
    return RemoteEngine(start, model.name, settings, on_stop=on_stop)


def _settings(session: Session, options: dict[str, Any], context: int | None) -> EngineSettings:
    from runtime_stub.engine.messages import EngineSettings

    return EngineSettings(
        context=context,
        threads=options["threads"] or 0,
        template=session.recipe.template,
        **{name: options[name] for name in ("parallel", "queue", "timeout") if name in options},
    )


def _source(session: Session) -> ModelSource:
    """Where the model lies, once it is extracted if the pack holds it compressed."""
    from runtime_stub.models import first_model, model_source

    bars: list[progress] = []

    def on_start(size: int) -> Callable[[int], None]:
        bars.append(progress("First start: extracting the model", size))
        return bars[0].__enter__()

    def on_wait() -> None:
        click.echo("Waiting for another start to finish extracting the model.", err=True)

    try:
        return model_source(
            session.bundle, first_model(session.bundle), on_start=on_start, on_wait=on_wait
        )
    finally:
        for bar in bars:
            bar.__exit__()


def _show_loading(engine: Engine) -> None:
    """Wait until the model is loaded, with a progress bar if that takes long."""
    with progress("Loading the model", 1000) as meter:
        done = 0
        while not engine.wait_ready(0.1):
            now = int(engine.status.progress * 1000)
            meter(now - done)
            done = now


def _tell_fallback(engine: Engine) -> None:
    facts = engine.facts
    if facts is not None and facts.template.startswith("fallback"):
        name = facts.template.partition(" ")[2]
        click.echo(f"(The model came without a chat template; {name} is used.)", err=True)


def _error_of(event: Failed) -> SatchelError:
    kinds = {"prompt": PromptError, "too-long": PromptError, "changed": PackChangedError}
    return kinds.get(event.kind, EngineError)(event.message, event.hint)


class _Lines:
    """A plain terminal: standard input and output, line by line."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def read_line(self) -> str | None:
        if sys.stdin.isatty():
            click.echo("> ", nl=False)
            sys.stdout.flush()
        line = sys.stdin.readline()
        if line:
            return line.rstrip("\r\n")
        if sys.stdin.isatty():
            click.echo()
        return None

    def write(self, text: str) -> None:
        click.echo(text, nl=False)
        sys.stdout.flush()

    def reason(self, text: str) -> None:
        if sys.stderr.isatty():
            click.secho(text, dim=True, nl=False, err=True)

    def notice(self, text: str) -> None:
        click.echo(f"({text})", err=True)
