"""The commands of `satchel` that have to do with keys."""

from __future__ import annotations

from pathlib import Path

import click

from packer.output import output_path
from runtime_stub.console import printable


@click.group()
def key() -> None:
    """Keys that packs are signed with (Ed25519, PEM)."""


@key.command("new")
@click.argument("file", type=output_path)
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
