from __future__ import annotations

import pytest

from runtime_stub.engine.crowd import slots_of, too_many
from runtime_stub.engine.messages import (
    DetokenizeRequest,
    EmbedRequest,
    EngineSettings,
    Request,
    RerankRequest,
    TokenizeRequest,
)


def test_who_takes_slots() -> None:
    assert slots_of(Request(text="a")) == 1
    assert slots_of(Request(text="a", choices=3)) == 3
    others = (
        EmbedRequest(("a",)),
        RerankRequest("a", ("b",)),
        TokenizeRequest(),
        DetokenizeRequest(()),
    )
    assert [slots_of(request) for request in others] == [0] * 4


@pytest.mark.parametrize(
    ("parallel", "queue", "asked", "owed", "waiting"),
    [
        (1, 0, 1, [], None),
        (1, 0, 1, [1], 0),
        (2, 0, 1, [1], None),
        (1, 2, 1, [1, 1], None),
        (1, 2, 1, [1, 1, 1], 2),
        # What takes no slot is counted apart.
        (1, 0, 1, [0, 0, 0], None),
        (1, 0, 0, [1, 1, 1], None),
        (1, 2, 0, [0, 0], None),
        (1, 2, 0, [0, 0, 0, 1], 2),
        # Choices take slots, and who waits for several lets nobody pass.
        (4, 0, 4, [], None),
        (4, 0, 1, [4], 0),
        (4, 0, 1, [3], None),
        (4, 1, 4, [1], None),
        (4, 1, 1, [1, 4], 1),
        (4, 2, 1, [1, 4], None),
    ],
)
def test_bound(parallel: int, queue: int, asked: int, owed: list[int], waiting: int | None) -> None:
    failed = too_many(asked, owed, EngineSettings(parallel=parallel, queue=queue))
    if waiting is None:
        assert failed is None
    else:
        assert failed is not None
        assert (failed.kind, failed.message) == (
            "busy",
            f"{waiting} requests are waiting already",
        )
