from __future__ import annotations

import pytest

from runtime_stub.engine.messages import EngineSettings
from runtime_stub.engine.profile import Profile, applied, is_open

BEST = Profile(threads=3, prompt_threads=4, flash_attention=False, batch=256, repack=True)


def test_what_is_open_is_filled_in() -> None:
    found = applied(EngineSettings(context=100), BEST)
    assert found == EngineSettings(
        context=100, threads=3, prompt_threads=4, flash_attention=False, batch=256, repack=True
    )


def test_a_profile_of_defaults_changes_nothing_that_counts() -> None:
    found = applied(EngineSettings(), Profile())
    assert (found.threads, found.prompt_threads, found.batch) == (0, 0, 0)
    assert found.flash_attention is None
    assert not found.repack


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("threads", 1),
        ("prompt_threads", 2),
        ("flash_attention", True),
        ("flash_attention", False),
        ("batch", 64),
        ("repack", False),
    ],
)
def test_what_somebody_decided_wins(field: str, value: int) -> None:
    settings = EngineSettings(**{field: value})  # type: ignore[arg-type]
    assert not is_open(settings, field)
    assert getattr(applied(settings, BEST), field) == value


def test_threads_that_were_chosen_read_prompts_too() -> None:
    assert applied(EngineSettings(threads=2), BEST).prompt_threads == 0


def test_flash_attention_stays_where_keys_and_values_need_it() -> None:
    assert applied(EngineSettings(kv="q8_0"), BEST).flash_attention is None
