"""The command line of `satchel`: makes packs, and looks into them."""

from __future__ import annotations

import dataclasses
import functools
import os
import re
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from packer.output import OutputFile, check_destination
from runtime_stub import __version__
from runtime_stub.console import bytes_text, echo_json, printable, progress, run
from runtime_stub.errors import InputError, OutputError, RecipeError
from runtime_stub.manifest import GGUF_KINDS
from runtime_stub.recipe import ENGINE, MODES, PACKING, SAMPLING, TOP

if TYPE_CHECKING:
    from packer.pack import PackedPart, Plan, Warm
    from packer.recipe import PackingRecipe
    from runtime_stub.bundle import Bundle
    from runtime_stub.manifest import Entry

_PATH = click.Path(path_type=Path)


def _output(_context: click.Context, _parameter: click.Parameter, text: str | None) -> Path | None:
    """The path of a file to write, looked at as it was typed."""
    if text is None:
        return None
    if not text:
        raise OutputError("the output's name is empty", "Name a file to write")
    if text.endswith(("/", os.sep)) or text.rsplit("/", 1)[-1] in (".", ".."):
        raise OutputError(f"{text} names a folder", "Name a file to write")
    return Path(text)


def main() -> None:
    """Entry point of the `satchel` command."""
    # Ends like Ctrl-C does, so that nothing half-written is left behind.
    for name in ("SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.default_int_handler)
    sys.exit(run(satchel, "satchel", sys.argv[1:]))


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, message="satchel %(version)s")
@click.option("--verbose", is_flag=True, help="Show the full story of an error.")
def satchel(verbose: bool) -> None:
    """Pack a GGUF language model into one executable that runs offline.

    \b
    A first pack:
      satchel pack model.gguf -o assistant
      ./assistant
    """
    del verbose  # read by the error handler


def _sampling_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for name, setting in reversed(SAMPLING.items()):
        command = click.option(
            f"--{name.replace('_', '-')}",
            name,
            type=setting.kind,
            help=f"Default: {setting.help}.",
        )(command)
    return command


@satchel.command()
@click.argument("models", metavar="[MODEL]...", type=_PATH, nargs=-1)
@click.option("-o", "--output", callback=_output, help="The pack to write.")
@click.option("--recipe", "recipe_file", type=_PATH, help="TOML file with any of these settings.")
@click.option("--name", help=f"{TOP['name'].help.capitalize()}.  [default: the output's name]")
@click.option("--mode", type=click.Choice(MODES), help="What it does when started plainly.")
@click.option("--system", metavar="TEXT|@FILE", help="System prompt.")
@click.option("--context", type=int, help="Context in tokens.  [default: what the machine allows]")
@click.option("--max-tokens", type=int, help="Longest answer in tokens.")
@click.option(
    "--kv",
    type=click.Choice(ENGINE["kv"].choices),
    help="How to keep what was read: q8_0 takes half the memory of f16.  [default: f16]",
)
@click.option(
    "--storage",
    type=click.Choice(PACKING["storage"].choices),
    help="Map the model where it lies in the pack; compress it and extract it once; or put it "
    "into a second file beside the pack.",
)
@click.option(
    "--adapter",
    "adapters",
    metavar="[NAME=]FILE",
    multiple=True,
    help="LoRA adapter of the model, that requests may choose by NAME. May be repeated.",
)
@click.option(
    "--draft",
    type=_PATH,
    metavar="FILE",
    help="Small GGUF model of the same family that guesses ahead, where that saves time.",
)
@click.option(
    "--warm",
    is_flag=True,
    default=None,
    help="Read the system prompt now: answers start sooner, the pack grows by the model's state.",
)
@click.option("--platform", metavar="NAME", help="Platform of the stub.  [default: this one]")
@click.option("--sign", "key", type=_PATH, metavar="KEY", help="Sign it with the private key KEY.")
@click.option("--force", is_flag=True, help="Replace an output that exists.")
@click.option("--json", "as_json", is_flag=True, help="Say what was made as JSON.")
@_sampling_options
def pack(
    models: tuple[Path, ...],
    adapters: tuple[str, ...],
    output: Path | None,
    recipe_file: Path | None,
    platform: str | None,
    key: Path | None,
    force: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Make one executable of the GGUF file MODEL, or of several.

    The model is examined before anything is written: is it whole, does the runtime know its
    architecture, how much memory will it need. Of a split model (-00001-of-0000N.gguf) name
    the first part. Of several models, requests choose one by the name of its file; the first is
    the default. The same inputs give the same bytes.

    \b
    Examples:
      satchel pack model.gguf -o assistant
      satchel pack model.gguf -o helper --system "You answer in rhymes." --temperature 1
      satchel pack model.gguf -o api --mode serve --context 16384
      satchel pack chat.gguf code.gguf -o both
      satchel pack model.gguf --adapter clinic=lora.gguf -o clinic
      satchel pack model.gguf --draft small.gguf -o quick
      satchel pack --recipe clinic.toml
    """
    from packer.pack import plan_pack, write_pack
    from packer.recipe import make_recipe, merged, read_recipe, text_or_file
    from packer.stub import find_stub, this_platform

    started = time.monotonic()
    values = read_recipe(recipe_file) if recipe_file is not None else {}
    if options["system"] is not None:
        options["system"] = text_or_file(options["system"], Path())
    values = merged(values, _recipe_values(models, adapters, options))
    packing = make_recipe(values, "the command line" if recipe_file is None else str(recipe_file))
    output = output or packing.output
    if not packing.models:
        raise InputError("no model was named", "satchel pack MODEL.gguf -o OUTPUT")
    if output is None:
        named = " ".join(map(str, models)) or f"--recipe {recipe_file}"
        raise InputError("no output was named", f"satchel pack {named} -o OUTPUT")
    if "name" not in values:
        name = os.fsencode(re.sub(r"\.exe$", "", output.name)).decode(errors="replace")
        packing = dataclasses.replace(
            packing, recipe=dataclasses.replace(packing.recipe, name=name)
        )
    packing, sign = _signing(packing, key)
    plan = plan_pack(output, packing, find_stub(platform or this_platform()), force=force)
    for note in plan.notes:
        click.echo(printable(f"note: {note}"), err=True)
    warm = _read_prompts(plan) if packing.warm else ()
    with progress("Packing", plan.work) as meter:
        made = write_pack(plan, meter, force=force, warm=warm, sign=sign)
    if as_json:
        parts = [
            {**dataclasses.asdict(part), "sidecar": part.sidecar or None} for part in made.parts
        ]
        first = {key: parts[0][key] for key in ("storage", "sidecar")}
        document = {"pack": str(made.path), "size": made.size, "model_size": made.model_size}
        echo_json({**document, **first, "parts": parts})
        return
    contents = ", ".join(
        f"{part.name.replace('-', ' ')} {bytes_text(part.size)}, {_how(part)}"
        for part in made.parts
    )
    click.echo(
        printable(
            f"{made.path}: {bytes_text(made.size)} ({contents}) "
            f"in {time.monotonic() - started:.1f} s"
        )
    )


def _read_prompts(plan: Plan) -> tuple[Warm, ...]:
    from packer.warm import read_prompts

    with progress("Reading the system prompt", 1000) as meter:
        shown = 0

        def on_progress(done: int, total: int) -> None:
            nonlocal shown
            now = 1000 * done // max(1, total)
            meter(now - shown)
            shown = now

        warm = read_prompts(plan, on_progress)
    for prompt in warm:
        size = bytes_text(len(prompt.data))
        click.echo(
            f"note: {prompt.metadata['tokens']:,} tokens are read; that adds {size}", err=True
        )
    return warm


def _signing(
    packing: PackingRecipe, path: Path | None
) -> tuple[PackingRecipe, Callable[[bytes], bytes] | None]:
    """The recipe with the key that it demands in the form that travels, and what signs."""
    demanded = packing.recipe.signed_by
    if path is None and demanded is None:
        return packing, None
    from packer import keys
    from runtime_stub.signature import key_text

    own = None if path is None else keys.private_key(path)
    if demanded is not None:
        wanted = keys.public_key(demanded)
        if own is None or bytes(own.verify_key) != wanted:
            raise RecipeError(
                f"the recipe demands a signature by {key_text(wanted)}",
                "Sign with the private key that belongs to it: --sign KEY",
            )
        recipe = dataclasses.replace(packing.recipe, signed_by=key_text(wanted))
        packing = dataclasses.replace(packing, recipe=recipe)
    return packing, None if own is None else functools.partial(keys.sign, own)


def _how(part: PackedPart) -> str:
    return {
        "mapped": "mapped where it lies" if part.kind == "model" else "as it is",
        "compressed": "compressed, extracted once at the first start",
        "sidecar": f"in {part.sidecar} beside it: copy both together",
    }[part.storage]


def _recipe_values(
    models: tuple[Path, ...], adapters: tuple[str, ...], options: dict[str, Any]
) -> dict[str, Any]:
    """What the command line decided, in the shape of a recipe."""
    said = {key: value for key, value in options.items() if value is not None}
    if len(models) == 1:
        said["model"] = str(models[0])
    elif models:
        said["models"] = [{"file": str(path)} for path in models]
    if "draft" in said:
        said["draft"] = str(said["draft"])
    if adapters:
        said["adapters"] = [
            {"file": file} if not named else {"name": name, "file": file}
            for name, named, file in (_split_name(text) for text in adapters)
        ]
    engine = {key: said.pop(key) for key in ENGINE if key in said}
    if engine:
        said["engine"] = engine
    sampling = {key: said.pop(key) for key in SAMPLING if key in said}
    if sampling:
        said["sampling"] = sampling
    return said


def _split_name(text: str) -> tuple[str, str, str]:
    """NAME, "=" and FILE of "[NAME=]FILE"; a file may have "=" in its name."""
    name, separator, file = text.partition("=")
    if not separator or os.sep in name:
        return "", "", text
    return name, separator, file


@satchel.command()
@click.argument("file", type=_PATH)
@click.option("--json", "as_json", is_flag=True, help="Everything, as JSON.")
def inspect(file: Path, as_json: bool) -> None:
    """Show what is in the pack or stub FILE, without running it."""
    from packer.keys import verify_ed25519
    from packer.stub import open_bundle
    from runtime_stub.describe import describe_bundle, lines

    document = describe_bundle(open_bundle(file), verify_ed25519)
    if as_json:
        echo_json(document)
    else:
        for line in lines(document):
            click.echo(printable(line))


@satchel.command()
@click.argument("file", type=_PATH)
@click.option(
    "--key", metavar="KEY", help="Demand that the owner of this public key has signed it."
)
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def verify(file: Path, key: str | None, as_json: bool) -> None:
    """Check every byte of the pack or stub FILE against the hashes it carries.

    Hashes show accidents; whoever changes a pack on purpose can write new ones. With --key (a
    file, or what `satchel key show` prints) it must be signed by that key as well.
    """
    from packer.stub import open_bundle
    from runtime_stub.console import show_regions
    from runtime_stub.verify import verify as check

    bundle = open_bundle(file)
    with progress("Verifying", bundle.footer.pack_size) as meter:
        regions = check(bundle, meter)
    if key is not None:
        from packer.keys import public_key, verify_ed25519
        from runtime_stub.signature import require_signer

        require_signer(bundle, public_key(key), verify_ed25519)
    show_regions(regions, as_json=as_json, name=str(file))
    if key is not None and not as_json:
        click.echo("Its signature is right.")


@satchel.command()
@click.argument("file", type=_PATH)
@click.option("-o", "--output", callback=_output, required=True, help="The GGUF file to write.")
@click.option(
    "--entry", metavar="NAME", help="Which model, adapter or draft, as `inspect` lists them."
)
@click.option("--force", is_flag=True, help="Replace an output that exists.")
def unpack(file: Path, output: Path, entry: str | None, force: bool) -> None:
    """Write a model inside the pack FILE, the first unless another is named, to a GGUF file,
    byte for byte as it was packed."""
    from packer.stub import open_bundle
    from packer.unpack import unpack as take_out
    from runtime_stub.models import first_model

    bundle = open_bundle(file)
    found = first_model(bundle) if entry is None else _gguf_entry(bundle, entry)
    with progress("Unpacking", found.size) as meter:
        take_out(bundle, found, output, meter, force=force)
    click.echo(printable(f"{output}: {bytes_text(found.size)}, sha256 {found.sha256}"))


def _gguf_entry(bundle: Bundle, name: str) -> Entry:
    entries = {entry.name: entry for kind in GGUF_KINDS for entry in bundle.of_kind(kind)}
    if name not in entries:
        raise InputError(
            f"there is no model, adapter or draft {name!r}", f"Known: {', '.join(entries)}"
        )
    return entries[name]


@satchel.command()
@click.argument("file", type=_PATH)
@click.option("-o", "--output", callback=_output, help="The file to write.  [default: print it]")
@click.option("--force", is_flag=True, help="Replace an output that exists.")
def sbom(file: Path, output: Path | None, force: bool) -> None:
    """List everything inside the pack or stub FILE as a CycloneDX bill of materials (JSON)."""
    from packer.sbom import bill_of_materials
    from packer.stub import open_bundle

    text = bill_of_materials(open_bundle(file))
    if output is None:
        click.echo(text)
        return
    check_destination(output, force=force)
    with OutputFile(output) as out:
        out.write(text.encode())
        out.complete()
    click.echo(printable(str(output)))


@satchel.group()
def key() -> None:
    """Keys that packs are signed with (Ed25519, PEM)."""


@key.command("new")
@click.argument("file", callback=_output)
@click.option("--force", is_flag=True, help="Replace a key that exists. It is gone then.")
def key_new(file: Path, force: bool) -> None:
    """Make a key: the private half in FILE, the public half in FILE.pub.

    Keep FILE to yourself and safe: whoever has it can sign as you. Give away FILE.pub.
    """
    from packer.keys import new_key

    text = new_key(file, force=force)
    click.echo(printable(f"{file}: the private key; {file}.pub: the public key"))
    click.echo(text)


@key.command("show")
@click.argument("file")
def key_show(file: str) -> None:
    """Print the public key of FILE, a private or public key, as one line."""
    from packer.keys import public_key
    from runtime_stub.signature import key_text

    click.echo(key_text(public_key(file)))


@satchel.group()
def stub() -> None:
    """Stubs: the launcher and runtime that packs are assembled from."""


@stub.command("list")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def stub_list(as_json: bool) -> None:
    """List the stubs that are installed here."""
    from packer.stub import list_stubs

    stubs = list_stubs()
    if as_json:
        echo_json(
            [
                {"path": str(s.path), "platform": s.platform, "version": s.version, "size": s.size}
                for s in stubs
            ]
        )
        return
    for found in stubs:
        size = bytes_text(found.size)
        line = f"{found.platform:<16} {found.version:<10} {size:>10}  {found.path}"
        click.echo(printable(line))
    if not stubs:
        click.echo("No stub is installed. Build one in a checkout: python build.py stub", err=True)


@stub.command("build")
@click.option(
    "-o", "--output", callback=_output, help="Where to.  [default: build/stubs of the checkout]"
)
def stub_build(output: Path | None) -> None:
    """Build the stub for this platform. Needs a checkout of Satchel."""
    from packer.stub_build import build_stub, contents_table

    started = time.monotonic()
    found = build_stub(output, lambda text: click.echo(f"   {text}"))
    click.echo(
        f"{found.path}: {bytes_text(found.size)} in {time.monotonic() - started:.1f} s; "
        "it unpacks to:"
    )
    click.echo(contents_table(found))


@stub.command("add")
@click.argument("file", type=_PATH)
@click.option("--force", is_flag=True, help="Replace the one that is there.")
def stub_add(file: Path, force: bool) -> None:
    """Install the stub FILE that was built on another machine, after checking it."""
    from packer.stub import add_stub

    found = add_stub(file, force=force)
    click.echo(printable(f"{found.platform} {found.version}: {found.path}"))
