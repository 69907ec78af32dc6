from __future__ import annotations

import json

from benchmarks.measures import Measure, Results, spread
from benchmarks.report import Section, document, markdown

SPEED = Measure("speed", "tok/s", higher_is_better=True)
WRITTEN = Measure("written", "MB")


def section() -> Section:
    results = Results()
    for ours, theirs in ((80.0, 100.0), (40.0, 40.0), (9.0, 6.0)):
        results.add(SPEED, "Satchel", ours)
        results.add(SPEED, "rival", theirs)
    results.add(WRITTEN, "Satchel", 50.0)
    results.add(WRITTEN, "rival", 0.0)
    return Section("A model", results, {"rival": "Satchel", "Satchel": "Satchel"})


def test_ratios_are_of_rounds() -> None:
    results = section().results
    ratio = results.ratio(SPEED, "Satchel", "rival")
    assert ratio is not None
    assert (ratio.median, ratio.count) == (1.0, 3)
    assert results.ratio(WRITTEN, "Satchel", "rival") is None
    assert results.ratio(SPEED, "Satchel", "nobody") is None


def test_spread_of_one() -> None:
    assert spread([3.0]).high == spread([3.0]).low == 3.0


def test_tables() -> None:
    table = markdown([section()], "a machine", "2 threads.")
    assert "|  | rival | 40.0 [23.0, 70.0] | × 1.00 [0.90, 1.25] | 3 |" in table
    assert "| written (MB) | Satchel | 50.0 |  | 1 |" in table
    (found,) = json.loads(document([section()], "a machine", ""))["sections"]
    assert found["measures"][0]["programs"][0]["values"] == [80.0, 40.0, 9.0]
    assert found["measures"][1]["programs"][1]["ratio"] is None
