from __future__ import annotations

from typing import Any

import click
import pytest
from click.testing import CliRunner

from runtime_stub.engine.messages import EngineSettings
from runtime_stub.recipe import ModelRecipe
from runtime_stub.session import engine_settings, generation_options


def settings(arguments: list[str], model: ModelRecipe) -> EngineSettings:
    """What a command with the options of generation would run the model with."""

    @click.command()
    @generation_options
    def command(**options: Any) -> EngineSettings:
        return engine_settings(model, options, None)

    result = CliRunner().invoke(command, arguments, standalone_mode=False)
    assert isinstance(result.return_value, EngineSettings), result
    return result.return_value


@pytest.mark.parametrize("recipe", [None, True, False])
def test_the_command_line_wins_over_the_recipe(recipe: bool | None) -> None:
    model = ModelRecipe("clara", drafts=recipe)
    assert settings([], model).drafts is (recipe is not False)
    assert settings(["--no-drafts"], model).drafts is False
    assert settings(["--drafts"], model).drafts is True


def test_what_only_a_server_decides() -> None:
    @click.command()
    @click.option("--parallel", type=int)
    @click.option("--prompt-cache", type=int)
    @generation_options
    def serve(**options: Any) -> EngineSettings:
        return engine_settings(ModelRecipe("clara"), options, None)

    def made(*arguments: str) -> tuple[int, int]:
        result = CliRunner().invoke(serve, arguments, standalone_mode=False)
        return result.return_value.parallel, result.return_value.prompt_cache

    assert made() == (1, 0)
    assert made("--parallel", "3", "--prompt-cache", "1000") == (3, 1000)
