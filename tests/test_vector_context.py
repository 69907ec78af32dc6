from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny_architectures
import tiny_embedders
import tiny_models
from engine_fixtures import loaded
from gguf_files import BOOL, U32, Typed

from runtime_stub.engine import vector_context
from runtime_stub.engine.hardware import Hardware
from runtime_stub.engine.model import Model
from runtime_stub.engine.vector_context import PIECE, VectorContext
from runtime_stub.errors import EngineError

TOKENS = [number % tiny_models.END for number in range(1000)]
LAST, CLASSIFIER, MEAN = 3, 2, 1


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    with loaded(tiny_models.plain(tmp_path_factory.mktemp("context") / "model.gguf")) as model:
        yield model


def context_of(model: Model, reserved: int = 0) -> VectorContext:
    return VectorContext(model, 1, reserved, lambda _context, _mix: None)


def read(context: VectorContext, tokens: list[int], most: int = PIECE) -> tuple[int, list[float]]:
    """In how many pieces it was read, and what came of it."""
    context.begin(tokens, ())
    pieces = 1
    while (values := context.read(most)) is None:
        assert context.reading
        pieces += 1
    assert not context.reading
    return pieces, list(values)


def pooled(path: Path, pooling: int | None, *, ahead: bool = False) -> Path:
    facts = {} if pooling is None else {"pooling_type": Typed(U32, pooling)}
    facts |= {"attention.causal": Typed(BOOL, value=False)} if ahead else {}
    return tiny_architectures.quantized(path, "qwen3", facts=facts)


@pytest.mark.parametrize("pooling", [None, LAST])
def test_pieces_make_no_difference(pooling: int | None, tmp_path: Path) -> None:
    with loaded(pooled(tmp_path / "model.gguf", pooling)) as model:
        context = context_of(model)
        small, in_small = read(context, TOKENS, 64)
        large, in_large = read(context, TOKENS)
        context.free()
        context._in_pieces = False
        whole, at_once = read(context, TOKENS)
        context.free()
    assert (small, large, whole) == (16, 2, 1)
    assert len(at_once) == tiny_models.WIDTH
    assert in_small == pytest.approx(at_once, abs=1e-4)
    assert in_large == pytest.approx(at_once, abs=1e-4)


@pytest.mark.parametrize(
    ("pooling", "ahead"), [(MEAN, False), (CLASSIFIER, False), (LAST, True), (None, True)]
)
def test_what_takes_all_of_a_text_is_read_at_once(
    pooling: int | None, tmp_path: Path, *, ahead: bool
) -> None:
    """Also where the model says nothing of pooling: in pieces it would look ahead within one."""
    with loaded(pooled(tmp_path / "model.gguf", pooling, ahead=ahead)) as model:
        context = context_of(model)
        pieces, values = read(context, TOKENS, 64)
        context.free()
    assert (pieces, len(values)) == (1, tiny_models.WIDTH)


@pytest.mark.parametrize("name", ["ranking", "bert"])
def test_scores(name: str, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    if name == "bert":
        tiny_embedders.bert(path, ranks=True)
    else:
        tiny_embedders.ranking(path)
    with loaded(path) as model:
        context = context_of(model)
        tokens = [token % 50 for token in TOKENS]
        pieces, first = read(context, tokens, 100)
        _, second = read(context, tokens[::-1], 100)
        _, again = read(context, tokens, PIECE)
        context.free()
    assert pieces == (1 if name == "bert" else 10)
    assert len(first) == 1
    assert first != second
    assert again == pytest.approx(first, abs=1e-4)


def test_a_text_that_is_left_changes_no_other(model: Model) -> None:
    context = context_of(model)
    _, expected = read(context, TOKENS[:100])
    context.begin(TOKENS[::-1], ())
    assert context.read(64) is None
    context.leave()
    assert not context.reading
    assert read(context, TOKENS[:100])[1] == expected
    context.free()


def test_what_others_will_use_is_not_free(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """And where memory is short, the context does not stay, unless a text is being read."""
    context = context_of(model, reserved=600 << 20)
    free = (664 << 20) + 1
    monkeypatch.setattr(vector_context, "read_hardware", lambda: Hardware(1, 1, 1 << 30, free))
    with pytest.raises(EngineError, match="are free"):
        context.begin(TOKENS, ())
    free = 1 << 30
    context.begin(TOKENS, ())
    free = 700 << 20
    assert context.read(64) is None
    context.rest()
    assert context._handle
    assert context.read(64) is None
    context.leave()
    context.rest()
    assert not context._handle


def test_adapters_are_applied_when_they_change(model: Model) -> None:
    applied = []
    context = VectorContext(model, 1, 0, lambda _context, mix: applied.append(mix))
    red = (("red", 1.0),)
    for mix in ((), red, red, ()):
        context.begin(TOKENS[:10], mix)
        context.read(PIECE)
    assert applied == [red, ()]
    context.begin(TOKENS[:10], red)
    context.free()  # with what was applied to it
    context.begin(TOKENS[:10], ())
    context.read(PIECE)
    assert applied == [red, (), red]
    context.free()
