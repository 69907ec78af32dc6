from __future__ import annotations

import pytest
from running_pack import sample_pack
from soak import soak

pytestmark = [pytest.mark.pack, pytest.mark.slow]


@pytest.mark.timeout(600)
def test_a_minute_of_mixed_load_with_faults() -> None:
    """The short form of `python build.py soak`."""
    found = soak(sample_pack(), 0.75)
    assert found.losses.total() == 0, found.notes
    assert found.tries["chat"] + found.tries["streamed chat"] >= 3
    assert found.tries["first start after kill -9"] >= 1
