"""How a client's wishes change the way tokens are chosen."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from runtime_stub.engine.messages import ModelFacts, Sampling
from runtime_stub.errors import RecipeError
from runtime_stub.recipe import SAMPLING
from runtime_stub.server.replies import Problem
from runtime_stub.settings import Setting, check_value

MAX_STOPS = 16
MAX_STOP_LENGTH = 1024
MAX_BIASES = 1024
NO_LIMIT = -1
"""As a limit of tokens."""
FRESH = -1
"""As a seed: one that nobody knows."""
_SEEDS = 2**32
DRY_BREAKERS = ("\n", ":", '"', "*")
"""Texts that end a repetition for DRY, always."""

FURTHER: dict[str, Setting] = {
    "typical_p": Setting(float, "only tokens as likely as is typical; 1 is off", 0, 1),
    "top_n_sigma": Setting(
        float, "only logits this many deviations below the best; negative is off", -1, 100
    ),
    "xtc_probability": Setting(float, "how often the most likely are left out", 0, 1),
    "xtc_threshold": Setting(float, "how likely those must be", 0, 1),
    "dry_multiplier": Setting(float, "discourages repeated sequences; 0 is off", 0, 100),
    "dry_base": Setting(float, "how quickly that grows with their length", 1, 100),
    "dry_allowed_length": Setting(int, "longest repetition that costs nothing", 0, 1_000_000),
    "dry_last_n": Setting(int, "how many tokens it looks back; -1 is all", -1, 1_000_000),
    "mirostat": Setting(int, "version of Mirostat; 0 is off", 0, 2),
    "mirostat_tau": Setting(float, "Mirostat's aim", 0, 100),
    "mirostat_eta": Setting(float, "Mirostat's learning rate", 0, 1),
}
"""Settings that clients may change, and recipes do not know."""

SETTINGS: dict[str, Setting] = {
    **SAMPLING,
    "top_k": dataclasses.replace(SAMPLING["top_k"], minimum=-1),
    **FURTHER,
    "dry_penalty_last_n": FURTHER["dry_last_n"],
}
"""What may be said of how tokens are chosen, as clients say it: some write -1 for none or all, and
call things as llama-server does."""
_ALIASES = {"dry_penalty_last_n": "dry_last_n"}


class SamplingFields(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The fields of a request that say how tokens are chosen; null is the pack's own setting."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    repeat_penalty: float | None = None
    repeat_last_n: int | None = None
    seed: int | None = None
    """Any whole number, of which the lowest 32 bits count; -1 for a fresh one."""
    typical_p: float | None = None
    top_n_sigma: float | None = None
    xtc_probability: float | None = None
    xtc_threshold: float | None = None
    dry_multiplier: float | None = None
    dry_base: float | None = None
    dry_allowed_length: int | None = None
    dry_last_n: int | None = None
    dry_penalty_last_n: int | None = None
    """llama-server's name for `dry_last_n`."""
    dry_sequence_breakers: list[str] | None = None
    """Only as they are: newline, colon, quotation mark and asterisk."""
    mirostat: int | None = None
    mirostat_tau: float | None = None
    mirostat_eta: float | None = None
    logit_bias: dict[str, float] | None = None


def sampling_of(fields: SamplingFields, defaults: Sampling, facts: ModelFacts | None) -> Sampling:
    """`defaults` with what a request says. Raises Problem (400) for what is out of bounds."""
    sampling = choose({name: getattr(fields, name) for name in SETTINGS}, defaults)
    breakers = fields.dry_sequence_breakers
    if breakers is not None and set(breakers) != set(DRY_BREAKERS):
        text = "dry_sequence_breakers: they are newline, colon, quotation mark and asterisk here"
        raise Problem(400, f"{text}, and can't be chosen; leave it out", "dry_sequence_breakers")
    if fields.logit_bias:
        biases = tuple(_biases(fields.logit_bias, facts))
        sampling = dataclasses.replace(sampling, logit_bias=biases)
    return sampling


def choose(values: Mapping[str, Any], defaults: Sampling) -> Sampling:
    """`defaults` with `values` that are not None, by the names in SETTINGS.

    Raises Problem (400) with the name of a value that is out of bounds.
    """
    chosen = {name: value for name, value in values.items() if value is not None}
    seed = chosen.pop("seed", None)
    for name, value in chosen.items():
        try:
            chosen[name] = check_value(name, value, SETTINGS[name], "the request")
        except RecipeError as error:
            raise Problem(400, error.message.removeprefix("the request: "), name) from None
    for alias in _ALIASES.keys() & chosen.keys():
        chosen.setdefault(_ALIASES[alias], chosen.pop(alias))
    if seed is not None:
        chosen["seed"] = None if seed == FRESH else seed % _SEEDS
    return dataclasses.replace(defaults, **chosen)


def _biases(given: Mapping[str, float], facts: ModelFacts | None) -> Iterable[tuple[int, float]]:
    if len(given) > MAX_BIASES:
        raise Problem(400, f"logit_bias: at most {MAX_BIASES} tokens are supported", "logit_bias")
    end = facts.vocabulary if facts is not None else 2**31
    for key, bias in given.items():
        # int() takes more: spaces, signs, underscores, digits of other scripts.
        known = key.isascii() and key.isdigit() and len(key) < 10 and int(key) < end
        if not known or not (-100 <= bias <= 100 or bias == -math.inf):
            raise Problem(
                400,
                f"logit_bias: {key[:20]!r}: {bias} is not a token of this model with a bias from "
                "-100 to 100",
                "logit_bias",
            )
        yield int(key), bias


def limit(**given: int | None) -> int | None:
    """The last of the limits that are given, by name. Raises Problem for one below 1."""
    chosen = None
    for name, value in given.items():
        if value is None:
            continue
        if not 1 <= value < 2**31:
            raise Problem(400, f"{name} must be at least 1 and below {2**31:,}", name)
        chosen = value
    return chosen


def limit_or(default: int | None, **given: int | None) -> int | None:
    """As `limit`, where NO_LIMIT is one, too; `default` where nothing is given."""
    chosen = default
    for name, value in given.items():
        if value is not None:
            chosen = None if value == NO_LIMIT else limit(**{name: value})
    return chosen


def stops(given: str | list[str] | None, name: str = "stop") -> tuple[str, ...]:
    """The texts to stop at. Raises Problem for too many, too long and empty ones."""
    texts = [given] if isinstance(given, str) else given or []
    if len(texts) > MAX_STOPS:
        raise Problem(400, f"{name}: at most {MAX_STOPS} texts are supported", name)
    if any(len(text) > MAX_STOP_LENGTH for text in texts):
        raise Problem(400, f"{name}: texts of at most {MAX_STOP_LENGTH} characters", name)
    if "" in texts:
        raise Problem(400, f"{name}: an empty text would stop every answer at once", name)
    return tuple(texts)
