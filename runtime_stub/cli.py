"""The command line of a pack."""

from __future__ import annotations

import dataclasses
import os
import sys
import time
from typing import TYPE_CHECKING

import click

from runtime_stub import __version__
from runtime_stub import bundle as bundle_format
from runtime_stub.bundle import Bundle
from runtime_stub.chat.cli import ask, chat
from runtime_stub.confinement.cli import probe_commands, show_reports
from runtime_stub.console import (
    INTERRUPTED,
    bytes_text,
    echo_json,
    printable,
    progress,
    run,
    show_regions,
    tell,
)
from runtime_stub.environment import Launch
from runtime_stub.errors import EngineError, InputError
from runtime_stub.recipe import recipe_from
from runtime_stub.server.cli import DEFAULT_PORT, engine_process, serve
from runtime_stub.session import Session
from runtime_stub.tuning.cli import rival_process, tune

if TYPE_CHECKING:
    from runtime_stub.cache_items import CacheItem

UNUSED_DAYS = 30.0
"""What was not used for so long goes when a newer version starts."""


def main(launch: Launch) -> int:
    """Run the pack's command line; returns the exit code."""
    program = printable(launch.argv0.rsplit("/", 1)[-1]) or "satchel"

    def start(arguments: list[str]) -> int:
        bundle = bundle_format.read_bundle(launch.descriptor, launch.path)
        recipe = recipe_from(bundle.manifest.recipe or {}, "the pack's recipe")
        session = Session(launch, bundle, recipe)
        if recipe.signed_by:
            _require_signature(bundle, recipe.signed_by)
        if launch.first_start:
            _prune(session, UNUSED_DAYS)
        code = run(pack, program, arguments or _default_command(session), session)
        if code == EngineError.exit_code:
            _look_for_damage(session)
        return code

    opener = click.Command("open", callback=lambda: start(sys.argv[1:]))
    code = run(opener, program, [])
    if code not in (0, INTERRUPTED) and len(sys.argv) == 1:
        from runtime_stub.desktop import wait_for_key, window_closes

        if window_closes(launch.host_environment):
            wait_for_key()
    return code


def _require_signature(bundle: Bundle, key: str) -> None:
    from runtime_stub.openssl import verify_ed25519
    from runtime_stub.signature import key_of, require_signer

    require_signer(bundle, key_of(key), verify_ed25519)


def _look_for_damage(session: Session) -> None:
    """After a failure of the engine: is it that something extracted was changed?"""
    from runtime_stub.cache_check import cached_size, check_cached
    from runtime_stub.models import roots

    bundle = session.bundle
    with progress("Checking the cache", cached_size(bundle)) as meter:
        for region in check_cached(bundle, session.launch.runtime, roots(bundle), meter):
            if region.problem:
                tell(printable(f"{region.name}: {region.problem}. {region.remedy}: start anew."))


def _default_command(session: Session) -> list[str]:
    """What a pack does without arguments: its recipe's mode, or answer what is piped in.

    Without a terminal, as by a double click, it opens the web page.
    """
    from runtime_stub import desktop

    recipe = session.recipe
    if desktop.has_terminal() and (recipe.mode != "chat" or sys.stdin.isatty()):
        return [recipe.mode]
    if recipe.mode == "chat" and desktop.is_piped_to():
        return ["ask"]
    if desktop.double_clicked(session.launch.host_environment):
        return _page_command(session)
    if recipe.mode == "chat":
        raise InputError(
            "there is nobody to talk to, and standard input is empty",
            "Start it in a terminal, pipe a question into it, or use serve for the web page",
        )
    return [recipe.mode]


def _page_command(session: Session) -> list[str]:
    """Serve, and open the page; only open it where this pack is served already.

    Always at the same port while it is free: browsers keep conversations by address.
    """
    from runtime_stub.children import open_browser
    from runtime_stub.desktop import serves_already

    port = int(session.recipe.server.get("port", DEFAULT_PORT))
    address = f"http://127.0.0.1:{port}"
    served = serves_already(address, session.recipe.name)
    if served and open_browser(session.launch, address):
        raise click.exceptions.Exit(0)
    return ["serve", "--open", *(["--port", "0"] if served is False else [])]


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Without a command it does what its maker chose: chat, or serve. Piped text is "
    "answered, as by `ask`. The first argument may be `--satchel-cache DIR`, the cache folder to "
    "use; SATCHEL_CACHE names it, too.",
)
@click.version_option(__version__, message="%(prog)s: a pack made with Satchel %(version)s")
@click.option("--verbose", is_flag=True, help="Show the full story of an error.")
def pack(verbose: bool) -> None:
    """A language model in one file. Everything runs on this machine; nothing leaves it."""
    del verbose  # read by the error handler


for command in (ask, chat, serve, tune, engine_process, rival_process):
    pack.add_command(command)


@pack.command("read-prompt", hidden=True)
@click.option("--fd", "descriptor", type=click.IntRange(0), required=True)
@click.option("--output-fd", "output", type=click.IntRange(0), required=True)
def read_prompt(descriptor: int, output: int) -> None:
    """For the packer: read the system prompt on standard input with the model that is open as
    one descriptor, and write what it leaves in memory to the other."""
    import json

    from runtime_stub.engine.messages import EngineSettings, ModelSource
    from runtime_stub.engine.warming import make_warm

    wanted = json.load(sys.stdin)
    source = ModelSource(descriptor, 0, os.fstat(descriptor).st_size)

    def on_progress(done: int, total: int) -> None:
        click.echo(f"{done} {total}")
        sys.stdout.flush()

    examples = tuple((user, answer) for user, answer in wanted["examples"])
    settings = EngineSettings(**wanted["engine"], examples=examples)
    data = make_warm(source, wanted["template"], wanted["system"], on_progress, settings)
    with open(output, "wb", closefd=False) as file:
        file.write(data)


@pack.command()
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@click.option("--probe", is_flag=True, help="Start each command, and try what it must not do.")
@click.pass_obj
def info(session: Session, as_json: bool, probe: bool) -> None:
    """What this pack is, and how it runs on this machine."""
    from runtime_stub.describe import describe_pack, lines

    if probe:
        show_reports(probe_commands(session), as_json=as_json)
        return
    document = describe_pack(session.bundle, session.recipe, session.launch)
    if as_json:
        echo_json(document)
    else:
        for line in lines(document):
            click.echo(printable(line))


@pack.command()
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@click.pass_obj
def verify(session: Session, as_json: bool) -> None:
    """Check every byte of this file, and of what it has extracted, against its hashes."""
    from runtime_stub.cache_check import cached_size, check_cached
    from runtime_stub.models import roots
    from runtime_stub.verify import verify as check

    bundle, runtime = session.bundle, session.launch.runtime
    with progress("Verifying", bundle.footer.pack_size + cached_size(bundle)) as meter:
        regions = check(bundle, meter)
        if not any(region.problem for region in regions):
            regions += check_cached(bundle, runtime, roots(bundle), meter)
    show_regions(regions, as_json=as_json, name=session.launch.path.name)


@pack.group()
def cache() -> None:
    """What packs have extracted on this machine, and prompts that servers keep."""


@cache.command("show")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@click.pass_obj
def cache_show(session: Session, as_json: bool) -> None:
    """List extracted runtimes and models, kept prompts, and where they are."""
    from runtime_stub.cache_items import items
    from runtime_stub.models import roots

    found = items(roots(session.bundle))
    if as_json:
        echo_json(
            [{**dataclasses.asdict(i), "root": str(i.root), "path": str(i.path)} for i in found]
        )
        return
    for item in found:
        own = "  (this pack)" if item.path == session.launch.runtime else ""
        day = time.strftime("%Y-%m-%d", time.localtime(item.last_used))
        size = bytes_text(item.size)
        click.echo(printable(f"{item.kind:<8} {size:>10}  used {day}  {item.path}{own}"))
    total = bytes_text(sum(item.size for item in found))
    click.echo(f"{len(found)} in the cache, {total} in all.")


@cache.command("clear")
@click.pass_obj
def cache_clear(session: Session) -> None:
    """Remove everything extracted that is not in use, and kept prompts; it all comes back when
    it is needed."""
    from runtime_stub.cache_items import items, remove
    from runtime_stub.models import roots

    freed = 0
    for item in items(roots(session.bundle)):
        if remove(item):
            freed += item.size
            click.echo(printable(f"removed {item.kind} {item.path}"))
        else:
            # This process runs from its own runtime and still has to read from it.
            own = item.path == session.launch.runtime
            why = "this command runs from it" if own else "a running pack uses it"
            click.echo(printable(f"kept {item.kind} {item.path}: {why}"))
    click.echo(f"{bytes_text(freed)} freed.")


@cache.command("prune")
@click.option(
    "--days",
    type=click.FloatRange(0),
    default=UNUSED_DAYS,
    show_default=True,
    help="Remove what was not used for so long.",
)
@click.pass_obj
def cache_prune(session: Session, days: float) -> None:
    """Remove runtimes, models and prompts that nobody has used for a while.

    A new version of a pack does the same on its first start.
    """
    gone = _prune(session, days)
    for item in gone:
        click.echo(printable(f"removed {item.kind} {item.path}"))
    click.echo(f"{bytes_text(sum(item.size for item in gone))} freed.")


def _prune(session: Session, days: float) -> list[CacheItem]:
    from runtime_stub.cache_items import prune
    from runtime_stub.models import roots

    own = [entry.sha256 for entry in session.bundle.manifest.entries]
    return prune(roots(session.bundle), days=days, keep=own)


@pack.command()
@click.option("--list", "names_only", is_flag=True, help="Only say what is in it.")
@click.pass_obj
def licenses(session: Session, names_only: bool) -> None:
    """Licences of everything in this pack, the model's first."""
    from runtime_stub.describe import license_lines

    text = "\n".join(license_lines(session.bundle, session.launch.runtime, names_only=names_only))
    click.echo_via_pager(text) if sys.stdout.isatty() and not names_only else click.echo(text)
