"""The command line of `satchel`: makes packs, and looks into them."""

from __future__ import annotations

import dataclasses
import os
import re
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from packer.key_cli import key
from packer.output import OutputFile, check_destination, output_path
from packer.stub_cli import stub
from runtime_stub import __version__
from runtime_stub.console import bytes_text, echo_json, printable, progress, run
from runtime_stub.errors import InputError
from runtime_stub.manifest import GGUF_KINDS
from runtime_stub.recipe import ENGINE, MODES, PACKING, SAMPLING, TOP

if TYPE_CHECKING:
    from packer.pack import PackedPart, Plan, Warm
    from runtime_stub.bundle import Bundle
    from runtime_stub.manifest import Entry

_PATH = click.Path(path_type=Path)


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
@click.option("-o", "--output", type=output_path, metavar="TEXT", help="The pack to write.")
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
    from packer.recipe import from_options, make_recipe, merged, read_recipe, text_or_file
    from packer.stub import find_stub, this_platform

    started = time.monotonic()
    values = read_recipe(recipe_file) if recipe_file is not None else {}
    if options["system"] is not None:
        options["system"] = text_or_file(options["system"], Path())
    values = merged(values, from_options(models, adapters, options))
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
    sign = None
    if key is not None or packing.recipe.signed_by is not None:
        from packer.keys import signing

        packing, sign = signing(packing, key)
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


def _how(part: PackedPart) -> str:
    return {
        "mapped": "mapped where it lies" if part.kind == "model" else "as it is",
        "compressed": "compressed, extracted once at the first start",
        "sidecar": f"in {part.sidecar} beside it: copy both together",
    }[part.storage]


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
@click.option(
    "-o",
    "--output",
    type=output_path,
    metavar="TEXT",
    required=True,
    help="The GGUF file to write.",
)
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
@click.option(
    "-o",
    "--output",
    type=output_path,
    metavar="TEXT",
    help="The file to write.  [default: print it]",
)
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


satchel.add_command(key)
satchel.add_command(stub)
