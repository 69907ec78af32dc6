"""The commands that answer in the terminal: ask and chat."""

from __future__ import annotations

import dataclasses
import io
import os
import stat
import sys
from typing import TYPE_CHECKING, Any

import click

from runtime_stub.confinement.cli import enter, make_broker, report, sandbox_options
from runtime_stub.console import echo_json, progress
from runtime_stub.errors import (
    EngineError,
    InputError,
    PackChangedError,
    PromptError,
    SatchelError,
)
from runtime_stub.session import (
    Chosen,
    Session,
    base_request,
    chosen_model,
    engine_settings,
    find_model,
    generation_options,
    memory_warning,
    model_option,
)

if TYPE_CHECKING:
    from runtime_stub.confinement.confine import Confinement
    from runtime_stub.engine.engine import Engine
    from runtime_stub.engine.messages import Failed


@click.command()
@click.argument("prompt", nargs=-1)
@click.option("--json", "as_json", is_flag=True, help="Print answer, reason and counts as JSON.")
@model_option
@generation_options
@sandbox_options
@click.pass_obj
def ask(session: Session, /, prompt: tuple[str, ...], as_json: bool, **options: Any) -> int:
    """Answer one PROMPT and leave. Without one, or for "-", standard input is read.

    \b
    Examples:
      ./assistant ask "What is the name of the capital of France?"
      ./assistant ask "Summarise this:" - < report.txt
      echo "Name three colours." | ./assistant
    """
    from runtime_stub.chat.clean import Cleaner
    from runtime_stub.engine.messages import (
        FIT_REQUEST,
        Failed,
        Finished,
        PromptRead,
        Reasoning,
        Text,
    )

    text = _prompt_text(prompt)
    chosen = chosen_model(session, options["model"])
    request = base_request(chosen.recipe, options, chosen.adapters)
    system = options["system"] or chosen.recipe.system
    messages = [{"role": "system", "content": system}] if system else []
    request = dataclasses.replace(request, messages=(*messages, {"role": "user", "content": text}))
    context = options["context"] or FIT_REQUEST
    engine, confinement = _engine(session, chosen, options, context=context)
    _show_loading(engine)
    if options["probe"]:
        echo_json(report(session, "ask", confinement))
        return 0
    answer: list[str] = []
    reasoning: list[str] = []
    # What goes into a file or a pipe is the answer as it is.
    cleaner = Cleaner() if sys.stdout.isatty() else None
    for event in engine.answer(request):
        if isinstance(event, PromptRead):
            _tell_fallback(engine)
        elif isinstance(event, Text):
            answer.append(event.text)
            if not as_json:
                _write(cleaner.feed(event.text) if cleaner else event.text)
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
            _write(f"{cleaner.finish() if cleaner else ''}\n")
            if event.reason == "length":
                click.echo("(The answer was cut at its length limit: --max-tokens.)", err=True)
    _tell_unread_input(prompt)
    engine.close()
    return 0


@click.command()
@click.option("--plain", is_flag=True, help="Lines in, text out: no editing, no colours.")
@click.option("--no-history", is_flag=True, help="Do not keep what is typed for the next chat.")
@click.option("--hide-reasoning", is_flag=True, help="Do not show what the model thinks first.")
@model_option
@generation_options
@sandbox_options
@click.pass_obj
def chat(
    session: Session, /, plain: bool, no_history: bool, hide_reasoning: bool, **options: Any
) -> int:
    """Chat in the terminal. Ctrl-C stops an answer, Ctrl-D leaves, /help lists commands."""
    from runtime_stub.chat.history import HistoryFile, history_file
    from runtime_stub.chat.look import Look
    from runtime_stub.chat.pack_models import PackModels, Prepared
    from runtime_stub.chat.start import run_chat
    from runtime_stub.chat.terminal import look
    from runtime_stub.children import named_editor
    from runtime_stub.confinement.broker import DirectBroker, Offer
    from runtime_stub.engine.hardware import read_hardware
    from runtime_stub.models import Adapters, PackedModel, choose, packed_models

    terminal = look(session.launch.host_environment, sys.stdin, sys.stdout)
    if plain:
        terminal = dataclasses.replace(terminal, moves=False, colour=False)
    _set_encoding(terminal.encoding)

    def prepare(model: PackedModel, adapters: Adapters | None) -> Prepared:
        recipe = model.recipe
        return Prepared(
            engine_settings(recipe, options, options["context"] or recipe.context),
            base_request(recipe, options, adapters),
            options["system"] or recipe.system,
        )

    recipe = session.recipe
    history = None
    if terminal.rich and not no_history:
        history = HistoryFile(history_file(recipe.name))
    # What a person may ask for later, before this process gives up what it takes.
    edits = terminal.reads and terminal.shows and bool(named_editor(session.launch))
    offers = Offer.FILES | Offer.EDITOR if edits else Offer.FILES
    files = make_broker(session, options, offers) if terminal.reads else None
    if files is None and options["no_sandbox"]:
        files = DirectBroker(session.launch)
    kept = [history.path.parent] if history is not None and history.make_folder() else []
    confinement = enter(session, options, writable=kept)
    packed = packed_models(session.bundle, recipe)
    hardware = read_hardware()
    models = PackModels(session.bundle, packed, prepare, options["model"])
    first, _ = choose(packed, options["model"])
    if warning := memory_warning(session, first, models.prepared.settings, hardware):
        click.echo(warning, err=True)
    if options["probe"]:
        models.engine.wait_ready()
        echo_json(report(session, "chat", confinement))
        return 0
    run_chat(
        terminal,
        models,
        Look.of(recipe.name, recipe.face),
        files,
        history,
        shows_reasoning=not hide_reasoning,
        edits=edits,
    )
    models.engine.close()
    if files is not None:
        files.close()
    return 0


def _set_encoding(encoding: str) -> None:
    """Read and write the terminal's character set; what it lacks becomes a question mark."""
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding=encoding, errors="replace")


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _prompt_text(words: tuple[str, ...]) -> str:
    """The prompt from the command line, with standard input where it says "-"."""
    if not words and sys.stdin.isatty():
        raise InputError("there is no prompt", 'Ask something: ask "Why is the sky blue?"')
    parts = [sys.stdin.read() if word == "-" else word for word in words or ("-",)]
    text = "\n\n".join(parts).strip()
    if not text:
        raise InputError("the prompt is empty", 'Ask something: ask "Why is the sky blue?"')
    return text


def _tell_unread_input(words: tuple[str, ...]) -> None:
    """Say so when something was piped in beside a prompt that does not ask for it.

    It is not read unasked: a program that starts us may leave a pipe open for ever.
    """
    if not words or "-" in words:
        return
    descriptor = sys.stdin.fileno()
    kind = os.fstat(descriptor).st_mode
    if stat.S_ISREG(kind) or (stat.S_ISFIFO(kind) and _bytes_waiting(descriptor)):
        note = '(Standard input is not read; add "-" where it belongs in the prompt.)'
        click.echo(note, err=True)


def _bytes_waiting(descriptor: int) -> int:
    """How much a pipe holds for us right now; 0 where that can't be asked."""
    try:
        import fcntl
        import termios

        return int.from_bytes(fcntl.ioctl(descriptor, termios.FIONREAD, bytes(4)), sys.byteorder)
    except (ImportError, OSError):
        return 0


def _engine(
    session: Session, chosen: Chosen, options: dict[str, Any], *, context: int | None
) -> tuple[Engine, Confinement]:
    """Start loading the model, extracting it first if the pack holds it compressed.

    From here on this process is confined: the engine's threads are its first others.
    """
    from runtime_stub.engine.engine import Engine
    from runtime_stub.profiles import shelf_for

    settings = engine_settings(chosen.recipe, options, context)
    found = find_model(session, chosen.model, drafts=settings.drafts)
    confinement = enter(session, options)
    shelf = shelf_for(session.bundle, chosen.model, settings)
    return Engine(found, settings, shelf=shelf), confinement


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
