"""The commands of `satchel` that have to do with stubs."""

from __future__ import annotations

import time
from pathlib import Path

import click

from packer.output import output_path
from runtime_stub.console import bytes_text, echo_json, printable


@click.group()
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
    "-o",
    "--output",
    type=output_path,
    metavar="TEXT",
    help="Where to.  [default: build/stubs of the checkout]",
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
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--force", is_flag=True, help="Replace the one that is there.")
def stub_add(file: Path, force: bool) -> None:
    """Install the stub FILE that was built on another machine, after checking it."""
    from packer.stub import add_stub

    found = add_stub(file, force=force)
    click.echo(printable(f"{found.platform} {found.version}: {found.path}"))
