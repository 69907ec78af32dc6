"""A started pack on the command line: what its commands share.

Like the `cli` modules, this prints; unlike core code, it may.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from runtime_stub.bundle import Bundle
from runtime_stub.console import progress
from runtime_stub.environment import Launch
from runtime_stub.recipe import ENGINE, SAMPLING, ModelRecipe, Recipe, check_engine
from runtime_stub.settings import check_value

_PLENTY = 1 << 30
"""Bytes beside what a model needs with which nobody has to look closer."""

if TYPE_CHECKING:
    from runtime_stub.engine.hardware import Hardware
    from runtime_stub.engine.messages import EngineSettings, Request, Sources
    from runtime_stub.models import PackedModel


_SERVING = ("parallel", "queue", "timeout", "prompt_cache")
"""Options of `serve` alone that the engine knows by the same names."""


@dataclass(frozen=True)
class Session:
    """The pack that was started, and how."""

    launch: Launch
    bundle: Bundle
    recipe: Recipe


@dataclass(frozen=True)
class Chosen:
    """One of the pack's models, as a person named it."""

    model: PackedModel
    adapters: tuple[tuple[str, float | None], ...] | None = None
    """What to answer with, as a request says it."""

    @property
    def recipe(self) -> ModelRecipe:
        """What holds for the model."""
        return self.model.recipe


def generation_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of every command that generates text, from the recipe's settings."""
    options = [
        click.option("--system", metavar="TEXT", help="System prompt, instead of the pack's."),
        click.option("--max-tokens", type=click.IntRange(1), help="Longest answer, in tokens."),
        click.option("--context", type=click.IntRange(64), help="Context, in tokens."),
        click.option("--threads", type=click.IntRange(1, 512), help="Threads to compute with."),
        click.option(
            "--drafts/--no-drafts",
            default=None,
            help="Guess tokens ahead where that saves time; every answer stays the model's own.  "
            "[default: as the pack's maker chose, or on]",
        ),
        click.option(
            "--prompt-threads",
            type=click.IntRange(1, 512),
            help="Threads to read prompts with.  [default: as many]",
        ),
        click.option(
            "--batch", type=click.IntRange(16, 8192), help="Prompt tokens to read per step."
        ),
        click.option(
            "--flash-attention",
            type=click.Choice(["on", "off"]),
            callback=lambda _context, _parameter, value: value and value == "on",
            help="Whether to compute attention in one piece.",
        ),
        click.option(
            "--repack/--no-repack",
            default=None,
            help="Put weights into an order that suits the processor: faster, but starts later.  "
            "[default: for models of up to 1 GB]",
        ),
        click.option(
            "--kv",
            type=click.Choice(ENGINE["kv"].choices),
            help="How to keep what was read: q8_0 takes half the memory of f16.  [default: f16]",
        ),
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


def model_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """The option of commands that use one of the pack's models."""
    return click.option(
        "--model", metavar="NAME", help="Model to use; MODEL:ADAPTER for one with an adapter."
    )(command)


def chosen_model(session: Session, name: str | None) -> Chosen:
    """The model that `name` means, the first for None. Raises InputError."""
    from runtime_stub.models import choose, packed_models

    return Chosen(*choose(packed_models(session.bundle, session.recipe), name))


def base_request(
    model: ModelRecipe,
    options: dict[str, Any],
    adapters: tuple[tuple[str, float | None], ...] | None = None,
) -> Request:
    """A request with everything but its prompt: the recipe's settings under the options."""
    from runtime_stub.engine.messages import Request, Sampling

    chosen = {name: options[name] for name in SAMPLING if options.get(name) is not None}
    values: dict[str, Any] = {**model.sampling, **chosen}
    return Request(
        sampling=Sampling(**values),
        max_tokens=options["max_tokens"] or model.max_tokens,
        adapters=adapters,
    )


def engine_settings(
    model: ModelRecipe, options: dict[str, Any], context: int | None
) -> EngineSettings:
    """How to run the engine: the recipe's settings under the options."""
    from runtime_stub.engine.messages import EngineSettings

    chosen = {name: options[name] for name in ENGINE if options.get(name) is not None}
    said = dict(model.engine)
    if "threads" in chosen:
        said.pop("prompt_threads", None)  # as many as for generating, unless chosen, too
    values: dict[str, Any] = {**said, **chosen}
    check_engine(values, "the command line")
    drafts = model.drafts if options["drafts"] is None else options["drafts"]
    return EngineSettings(
        context=context,
        drafts=drafts is not False,
        template=model.template,
        examples=tuple((example.user, example.assistant) for example in model.examples),
        **values,
        **{name: options[name] for name in _SERVING if options.get(name) is not None},
    )


def memory_warning(
    session: Session, model: PackedModel, settings: EngineSettings, hardware: Hardware
) -> str:
    """One line where `model` will not run as it should for want of memory; mostly empty.

    `hardware` as it was before the model was loaded.
    """
    needed = model.entry.metadata.get("memory_needed", 0)
    if needed + _PLENTY < hardware.memory_available:
        return ""
    from runtime_stub.forecast import forecast
    from runtime_stub.profiles import shelf_for

    shelf = shelf_for(session.bundle, model, settings, hardware)
    found = forecast(model, hardware, shelf, settings)
    return f"{model.name}: {found.warning}" if found is not None and found.warning else ""


def find_model(session: Session, model: PackedModel, *, drafts: bool = True) -> Sources:
    """Where the model and its adapters lie, once they are extracted if the pack holds them
    compressed."""
    from runtime_stub.models import find_sources

    def on_wait() -> None:
        click.echo("Waiting for another start to finish extracting the model.", err=True)

    with ExitStack() as bars:

        def on_start(size: int) -> Callable[[int], None]:
            bars.close()  # that of the file before
            return bars.enter_context(progress("First start: extracting the model", size))

        return find_sources(
            session.bundle, model, on_start=on_start, on_wait=on_wait, drafts=drafts
        )
