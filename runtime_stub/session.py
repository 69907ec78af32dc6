"""A started pack on the command line: what its commands share.

Like the `cli` modules, this prints; unlike core code, it may.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from runtime_stub.bundle import Bundle
from runtime_stub.console import progress
from runtime_stub.environment import Launch
from runtime_stub.recipe import SAMPLING, Recipe
from runtime_stub.settings import check_value

if TYPE_CHECKING:
    from runtime_stub.engine.messages import EngineSettings, ModelSource, Request, Sampling


@dataclass(frozen=True)
class Session:
    """The pack that was started, and how."""

    launch: Launch
    bundle: Bundle
    recipe: Recipe


def generation_options(command: Callable[..., Any]) -> Callable[..., Any]:
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


def _sampling(session: Session, options: dict[str, Any]) -> Sampling:
    from runtime_stub.engine.messages import Sampling

    chosen = {name: options[name] for name in SAMPLING if options.get(name) is not None}
    values: dict[str, Any] = {**session.recipe.sampling, **chosen}
    return Sampling(**values)


def base_request(session: Session, options: dict[str, Any]) -> Request:
    """A request with everything but its prompt: the recipe's settings under the options."""
    from runtime_stub.engine.messages import Request

    return Request(
        sampling=_sampling(session, options),
        max_tokens=options["max_tokens"] or session.recipe.max_tokens,
    )


def engine_settings(
    session: Session, options: dict[str, Any], context: int | None
) -> EngineSettings:
    """How to run the engine: the recipe's settings under the options."""
    from runtime_stub.engine.messages import EngineSettings

    return EngineSettings(
        context=context,
        threads=options["threads"] or 0,
        template=session.recipe.template,
        **{name: options[name] for name in ("parallel", "queue", "timeout") if name in options},
    )


def find_model(session: Session) -> ModelSource:
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
