from __future__ import annotations

from pathlib import Path

import gguf_files as g
import pytest
from gguf_files import Typed

from packer.facts import Facts
from packer.gguf_reader import read_header


@pytest.fixture
def facts(tmp_path: Path) -> Facts:
    keys = {
        "llama.one": Typed(g.U32, 7),
        "llama.each": Typed(g.U32, [1, 5, 3]),
        "llama.text": Typed(g.STRING, "words"),
        "llama.negative": Typed(g.I32, -1),
        "llama.huge": Typed(g.U64, 2**32),
        "llama.floats": Typed(g.F32, [1.0, 2.0]),
        "llama.mixed_up": Typed(g.I32, [1, -1]),
    }
    path = g.model(more=keys, llama__block_count=Typed(g.U32, 4)).write(tmp_path / "m.gguf")
    return Facts(read_header(path), path)


def test_architecture(facts: Facts) -> None:
    assert (facts.architecture, facts.layers) == ("llama", 4)


def test_text(facts: Facts) -> None:
    assert facts.text("general.name") == "Tiny"
    assert facts.text("general.file_type") == facts.text("general.nothing") == ""


@pytest.mark.parametrize(
    ("key", "number", "numbers"),
    [
        ("one", 7, (7,)),
        ("each", 5, (1, 5, 3)),
        *((key, 0, ()) for key in ("text", "negative", "huge", "floats", "mixed_up", "nothing")),
    ],
)
def test_numbers(facts: Facts, key: str, number: int, numbers: tuple[int, ...]) -> None:
    assert facts.number(key) == number
    assert facts.numbers(key) == numbers


@pytest.mark.parametrize(
    ("key", "values"),
    [("one", (7, 7, 7, 7)), ("each", (1, 5, 3, 9)), ("nothing", (9, 9, 9, 9))],
)
def test_per_layer(facts: Facts, key: str, values: tuple[int, ...]) -> None:
    assert facts.per_layer(key, 9) == values
