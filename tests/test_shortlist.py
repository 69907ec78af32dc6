from __future__ import annotations

import ctypes
import math
import random
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import tiny_models

from runtime_stub.engine import sampler as sampler_module
from runtime_stub.engine import shortlist
from runtime_stub.engine.candidates import Candidates
from runtime_stub.engine.context import Context, ContextSize
from runtime_stub.engine.library import library
from runtime_stub.engine.messages import EngineSettings, ModelSource, Sampling
from runtime_stub.engine.model import Model, load_model
from runtime_stub.engine.sampler import Sampler
from runtime_stub.engine.shortlist import MOST, Shortlist


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Model, Context]]:
    """A context that has decoded one token."""
    if not shortlist.are_there():
        pytest.skip("this llama.cpp has no shortlists")
    path = tiny_models.plain(tmp_path_factory.mktemp("shortlist") / "model.gguf")
    with path.open("rb") as stream:
        source = ModelSource(stream.fileno(), 0, path.stat().st_size)
        model = load_model(source, lambda _: True)
        made = Context(model, ContextSize(256, ""), EngineSettings(), 1)
        made.add(1, 0, 0, output=True)
        assert made.decode() == 0
        yield model, made
        made.free()
        model.free()


def set_logits(model: Model, context: Context, values: Sequence[float]) -> None:
    place = library().llama_get_logits_ith(context.handle, 0)
    assert len(values) == model.vocabulary_size
    array = (ctypes.c_float * len(values)).from_address(ctypes.addressof(place.contents))
    array[:] = list(values)


def logits_now(model: Model, context: Context) -> list[float]:
    place = library().llama_get_logits_ith(context.handle, 0)
    values: list[float] = place[: model.vocabulary_size]
    return values


def greedy_choice(context: Context, most: int, biases: Any = ()) -> int | None:
    greedy = library().llama_sampler_init_greedy()
    try:
        return Shortlist(greedy, most, biases).choose(context.handle, 0)
    finally:
        library().llama_sampler_free(greedy)


def choices(model: Model, context: Context, sampling: Sampling, logits: Any) -> list[int]:
    """What is chosen time after time, from logits that change each time."""
    sampler, candidates = Sampler(sampling, model), Candidates(model.vocabulary_size)
    chosen = []
    for values in logits:
        set_logits(model, context, values)
        chosen.append(sampler.sample(context.handle, 0, candidates))
    sampler.free()
    return chosen


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(seed=1),
        Sampling(seed=2, temperature=0),
        Sampling(seed=3, temperature=1.3, top_k=5, top_p=0.7),
        Sampling(seed=4, top_k=MOST, top_p=1.0, min_p=0.0, temperature=3),
        Sampling(seed=5, typical_p=0.5),
        Sampling(seed=6, xtc_probability=0.5, xtc_threshold=0.05),
        Sampling(seed=7, logit_bias=((5, 3.0), (6, -2.5), (7, -math.inf), (8, math.inf))),
        Sampling(seed=8, repeat_penalty=1.4, temperature=0),
        Sampling(seed=9, repeat_penalty=1.2, presence_penalty=0.5, frequency_penalty=0.3),
        Sampling(seed=10, repeat_penalty=1.2, repeat_last_n=3, top_k=3),
    ],
    ids=str,
)
def test_it_chooses_as_the_whole_table_would(
    context: tuple[Model, Context], monkeypatch: pytest.MonkeyPatch, sampling: Sampling
) -> None:
    random_numbers = random.Random(11)  # noqa: S311  (the same logits each time)
    size = context[0].vocabulary_size
    logits = [[random_numbers.gauss(0, 4) for _ in range(size)] for _ in range(150)]
    listed = Sampler(sampling, context[0])
    assert listed._list is not None, "it would prove nothing"
    listed.free()
    mine = choices(*context, sampling, logits)
    monkeypatch.setattr(sampler_module, "are_there", lambda: False)
    assert mine == choices(*context, sampling, logits)
    assert len(set(mine)) > 3 or 8 in mine


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(top_k=0),
        Sampling(top_k=MOST + 1),
        Sampling(mirostat=2),
        Sampling(top_n_sigma=1.0),
        Sampling(dry_multiplier=0.8),
        Sampling(repeat_penalty=0.9),
        Sampling(presence_penalty=-0.1),
        Sampling(repeat_penalty=1.1, repeat_last_n=-1),
        Sampling(repeat_penalty=1.1, repeat_last_n=200),
    ],
    ids=str,
)
def test_where_more_tokens_matter_there_is_none(
    context: tuple[Model, Context], sampling: Sampling
) -> None:
    sampler = Sampler(sampling, context[0])
    assert sampler._list is None
    sampler.free()


def test_of_equals_the_first(context: tuple[Model, Context]) -> None:
    model, owner = context
    values = [0.0] * model.vocabulary_size
    for place in (3, 70, 71, model.vocabulary_size - 1):
        values[place] = 5.0
    set_logits(model, owner, values)
    assert greedy_choice(owner, 1) == greedy_choice(owner, 3) == 3


def test_the_last_token_counts(context: tuple[Model, Context]) -> None:
    model, owner = context
    values = [-1.0] * model.vocabulary_size
    values[-1] = 1.0
    set_logits(model, owner, values)
    assert greedy_choice(owner, 40) == model.vocabulary_size - 1


def test_logits_stay_as_they_were(context: tuple[Model, Context]) -> None:
    """Several choices may start from the same ones, also where a token is named twice."""
    model, owner = context
    values = [float(number % 7) for number in range(model.vocabulary_size)]
    set_logits(model, owner, values)
    biases = ((2, 100.0), (4, -math.inf), (2, -300.0), (9, 0.1))
    assert greedy_choice(owner, 4, biases) == 6
    assert logits_now(model, owner) == values


@pytest.mark.parametrize("value", [math.nan, -math.inf])
def test_nothing_to_choose(context: tuple[Model, Context], value: float) -> None:
    model, owner = context
    set_logits(model, owner, [value] * model.vocabulary_size)
    assert greedy_choice(owner, 40) is None


def test_what_is_no_number_is_passed_over(context: tuple[Model, Context]) -> None:
    model, owner = context
    values = [math.nan] * model.vocabulary_size
    values[9] = -3.0
    set_logits(model, owner, values)
    assert greedy_choice(owner, 40) == 9


@pytest.mark.parametrize(("most", "index"), [(0, 0), (MOST + 1, 0), (1, 5)])
def test_what_it_does_not_do(context: tuple[Model, Context], most: int, index: int) -> None:
    greedy = library().llama_sampler_init_greedy()
    assert Shortlist(greedy, most).choose(context[1].handle, index) is None
    library().llama_sampler_free(greedy)
