from __future__ import annotations

import pytest

from runtime_stub.server.functions import functions_of
from runtime_stub.server.replies import Problem

CITY = {"type": "object", "properties": {"city": {"type": "string"}}}


def test_as_the_engine_takes_them() -> None:
    assert functions_of([("weather", "Tells it", CITY), ("mcp.clock:now", None, None)]) == (
        {"name": "weather", "description": "Tells it", "parameters": CITY},
        {
            "name": "mcp.clock:now",
            "description": "",
            "parameters": {"type": "object", "properties": {}},
        },
    )
    assert functions_of([]) == ()


@pytest.mark.parametrize("name", ["", "two words", "a" * 129, 'quo"te', "new\nline", "a{b}"])
def test_names_that_calls_cannot_be_told_by(name: str) -> None:
    with pytest.raises(
        Problem, match=r"^tools\[1\]\.function\.name: .* must be of 1 to 128 letters"
    ) as told:
        functions_of([("fine", None, None), (name, None, None)], ".function")
    assert (told.value.status, told.value.param) == (400, "tools[1].function.name")


def test_two_of_one_name() -> None:
    with pytest.raises(Problem, match=r"^tools\[2\]\.name: 'clock' is there twice$"):
        functions_of([("clock", None, None), ("weather", None, None), ("clock", None, CITY)])
