from __future__ import annotations

from collections.abc import Iterator

import pytest
import tiny_models

from runtime_stub.engine import shortlist
from runtime_stub.engine.candidates import Candidates
from runtime_stub.engine.context import Context, ContextSize
from runtime_stub.engine.library import library
from runtime_stub.engine.messages import EngineSettings, ModelSource, Sampling
from runtime_stub.engine.model import Model, load_model
from runtime_stub.engine.sampler import Sampler

Place = tuple[Model, Context]


@pytest.fixture
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    path = tiny_models.plain(tmp_path_factory.mktemp("batch") / "model.gguf")
    with path.open("rb") as stream:
        source = ModelSource(stream.fileno(), 0, path.stat().st_size)
        model = load_model(source, lambda _: True)
        context = Context(model, ContextSize(256, ""), EngineSettings(parallel=4, batch=8), 1)
        yield model, context
        context.free()
        model.free()


def logits(place: Place, index: int) -> list[float]:
    model, context = place
    found: list[float] = library().llama_get_logits_ith(context.handle, index)[
        : model.vocabulary_size
    ]
    return found


def test_every_token_goes_where_it_belongs(place: Place) -> None:
    """Alone, or beside those of another sequence, the last one's logits are the same."""
    context = place[1]
    for position, token in enumerate((5, 6, 7)):
        context.add(token, position, 0, output=position == 2)
    assert context.decode() == 0
    alone = logits(place, 2)
    context.clear_batch()
    for position, token in enumerate((5, 6, 7)):
        context.add(9, position, 3, output=False)
        index = context.add(token, position, 2, output=position == 2)
    assert context.room == 2
    assert context.decode() == 0
    assert logits(place, index) == pytest.approx(alone, rel=1e-3, abs=1e-3)


SETTINGS = (
    Sampling(seed=1),
    Sampling(temperature=0),
    Sampling(seed=2, temperature=3, logit_bias=((5, 3.0), (6, -2.0))),
)


def test_tokens_are_chosen_as_soon_as_they_can_be(place: Place) -> None:
    """For some of the batch, while others get none; as the same sampler would choose later."""
    if not shortlist.are_there():
        pytest.skip("this llama.cpp has no shortlists")
    model, context = place
    at_once = [Sampler(sampling, model) for sampling in SETTINGS]
    later = [Sampler(sampling, model) for sampling in SETTINGS]
    candidates = Candidates(model.vocabulary_size)
    for step in range(20):
        context.clear_batch()
        assert context.add(step, step, 3, output=True) == 0
        for sequence, sampler in enumerate(at_once):
            assert sampler.choice
            context.add(sequence, step, sequence, output=True, choice=sampler.choice)
        assert context.decode() == 0
        assert context.chosen(0) is None
        for index, sampler in enumerate(later, 1):
            assert context.chosen(index) == sampler.sample(context.handle, index, candidates)
    for sampler in (*at_once, *later):
        sampler.free()


@pytest.mark.parametrize(
    ("sampling", "more"),
    [
        (Sampling(top_k=0), {}),
        (Sampling(repeat_penalty=1.1), {}),
        (Sampling(), {"logprobs": 1}),
        (Sampling(), {"grammar": 'root ::= "a"'}),
    ],
    ids=str,
)
def test_who_must_look_first_has_nothing_chosen(
    place: Place, sampling: Sampling, more: dict[str, int | str]
) -> None:
    sampler = Sampler(sampling, place[0], **more)  # type: ignore[arg-type]
    assert sampler.choice == 0
    sampler.free()
