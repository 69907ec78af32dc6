from __future__ import annotations

from runtime_stub.engine import places as module
from runtime_stub.engine.places import Places


def held(places: Places) -> list[int]:
    return [place for place in range(1000) if places.state(place) is not None]


def made(*tokens: int, size: int = 1) -> Places:
    places = Places()
    for place in tokens:
        places.add(place, bytes(size))
    return places


def test_the_furthest_within() -> None:
    places = made(20, 50)
    assert [places.last(tokens) for tokens in (19, 20, 49, 50, 500)] == [0, 20, 20, 50, 50]


def test_a_cut_forgets_what_lies_behind_it() -> None:
    assert held(made(20, 50, 80).up_to(50)) == [20, 50]


def test_reading_pauses_where_a_copy_is_wanted() -> None:
    places = Places()
    places.want(0, 60, 200)
    assert places.next_wanted(0, 48) == 48
    assert places.next_wanted(48, 96) == 60
    assert places.next_wanted(60, 108) == 108
    assert places.next_wanted(180, 200) == 192
    assert places.wants(60)
    places.add(60, b"state")
    assert not places.wants(60)


def test_what_is_near_is_not_worth_a_copy() -> None:
    places = Places()
    places.want(100, 105, 120)
    assert not places.wants(105)
    assert not places.wants(112)


def test_the_first_and_the_newest_stay() -> None:
    assert held(made(10, 20, 30, 40, 50, 60)) == [10, 40, 50, 60]


def test_copies_are_bounded_in_bytes() -> None:
    third = module._BYTES // 3 + 1
    assert held(made(10, 20, 30, size=third)) == [10, 30]
    assert held(made(10, 20, 30, size=module._BYTES + 1)) == [30]


def test_a_copy_that_could_not_be_had() -> None:
    places = Places()
    places.want(0, 0, 100)
    places.add(92, b"")
    assert held(places) == []
    assert not places.wants(92)
