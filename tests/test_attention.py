"""Attention is what it is meant to be, on each kind of processor that this one can stand in for,
and depends on nothing but the cells that a token sees."""

from __future__ import annotations

import ctypes
import functools
import math
import random
import struct
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import pytest
from backends import F16, F32, Q8_0, TOO_OLD, Graph, able, apart, base, needs_avx2, variants

EXACT = 2e-6
"""Of the largest value: what sums in another order come to."""
HALVES = 2e-3
"""What llama.cpp sums up in sixteen bits."""
Sees = Callable[[int, int], float | None]
"""What is added to the score of a cell for a token; None: the token does not see it."""


@dataclass(frozen=True)
class Case:
    """What is asked for. A query is a head of a token, and cells are of one cache."""

    tokens: int
    cells: int
    sees: Sees | None = None
    """None: there is no mask."""
    key: int = 32
    """Numbers of a key."""
    value: int = 32
    groups: int = 2
    """Heads of a group share keys and values."""
    heads: int = 6
    sequences: int = 1
    """Each with so many tokens and cells."""
    bias: float = 0
    """The greatest that ALiBi's slopes come from."""
    cap: float = 0
    """On scores."""
    sinks: tuple[float, ...] = ()
    spread: float = 1
    """Of the queries' numbers: the greater, the fewer cells matter."""

    @property
    def scale(self) -> float:
        return 1 / math.sqrt(self.key)


def everything(token: int, cell: int) -> float | None:
    return 0


def behind(first: int) -> Sees:
    """A token sees all cells up to its own, which is the `first` or comes after it."""
    return lambda token, cell: 0 if cell <= first + token else None


def numbers(name: str, count: int, spread: float = 1) -> array[float]:
    chance = random.Random(name)  # noqa: S311
    return array("f", (chance.gauss(0, spread) for _ in range(count)))


def halves(values: Sequence[float]) -> bytes:
    return struct.pack(f"<{len(values)}e", *values)


def rounded(values: Sequence[float]) -> array[float]:
    """To sixteen bits."""
    return array("f", struct.unpack(f"<{len(values)}e", halves(values)))


class Attention(Graph):
    """Of a case's tokens, whose numbers are always the same."""

    def __init__(self, variant: str, case: Case, threads: int, kind: int = F16) -> None:
        super().__init__(variant, threads)
        self.case = case
        self.kind = kind
        # The heads of a token, and those of a cell, lie side by side.
        sequences = case.sequences
        self.queries = self.tensor(F32, case.key, case.heads, case.tokens, sequences)
        self.keys = self.tensor(kind, case.key, case.groups, case.cells, sequences)
        self.values = self.tensor(kind, case.value, case.groups, case.cells, sequences)
        self.mask = self.tensor(F16, case.cells, case.tokens, 1, sequences) if case.sees else 0
        inputs = [
            base("ggml_permute", self.context, tensor, 0, 2, 1, 3)
            for tensor in (self.queries, self.keys, self.values)
        ]
        settings = map(ctypes.c_float, (case.scale, case.bias, case.cap))
        self.result = base("ggml_flash_attn_ext", self.context, *inputs, self.mask, *settings)
        sinks = self.tensor(F32, case.heads) if case.sinks else 0
        base("ggml_flash_attn_ext_add_sinks", self.result, sinks)
        self.add(self.result)
        if sinks:
            self.set(sinks, array("f", case.sinks))
        self.set(self.queries, queries(case))
        self.set_cells(self.keys, keys(case))
        self.set_cells(self.values, values(case))
        if self.mask:
            self.set(self.mask, mask(case))

    def set_cells(self, tensor: int, numbers: array[float]) -> None:
        if self.kind == F16:
            self.set(tensor, halves(numbers))
            return
        packed = ctypes.create_string_buffer(base("ggml_nbytes", tensor))
        size = self.case.key
        base(
            "ggml_quantize_chunk",
            self.kind, numbers.buffer_info()[0], packed, 0, len(numbers) // size, size, 0,
        )  # fmt: skip
        self.set(tensor, packed.raw)

    def computed(self) -> array[float]:
        """Head after head of each token."""
        self.compute()
        return self.get(self.result)


@functools.cache
def queries(case: Case) -> array[float]:
    count = case.sequences * case.tokens * case.heads * case.key
    return numbers("queries", count, case.spread)


@functools.cache
def keys(case: Case) -> array[float]:
    return rounded(numbers("keys", case.sequences * case.cells * case.groups * case.key))


@functools.cache
def values(case: Case) -> array[float]:
    return rounded(numbers("values", case.sequences * case.cells * case.groups * case.value))


@functools.cache
def mask(case: Case) -> bytes:
    assert case.sees is not None
    rows = b""
    for token in range(case.tokens):
        row = (case.sees(token, cell) for cell in range(case.cells))
        rows += halves([-math.inf if seen is None else seen for seen in row])
    return rows * case.sequences


def computed(case: Case, variant: str, threads: int = 2) -> array[float]:
    made = Attention(variant, case, threads)
    try:
        return made.computed()
    finally:
        made.close()


def slope(case: Case, head: int) -> float:
    """As ALiBi has it, for any number of heads."""
    if case.bias == 0:
        return 1
    most = 1 << math.floor(math.log2(case.heads))
    if head < most:
        return float(2 ** (-case.bias / most * (head + 1)))
    return float(2 ** (-case.bias / 2 / most * (2 * (head - most) + 1)))


def exact(case: Case) -> array[float]:
    """With as many digits as Python has."""
    found = array("f")
    key, value = case.key, case.value
    all_queries, all_keys, all_values = queries(case), keys(case), values(case)
    for row in range(case.sequences * case.tokens * case.heads):
        index, head = divmod(row, case.heads)
        sequence, token = divmod(index, case.tokens)
        query = all_queries[row * key : (row + 1) * key]
        scores, places = [], []
        for cell in range(case.cells):
            seen = case.sees(token, cell) if case.sees else 0
            if seen is None:
                continue
            place = (sequence * case.cells + cell) * case.groups
            place += head // (case.heads // case.groups)
            own = all_keys[place * key : (place + 1) * key]
            score = math.fsum(a * b for a, b in zip(query, own, strict=True)) * case.scale
            if case.cap:
                score = case.cap * math.tanh(score / case.cap)
            scores.append(score + slope(case, head) * seen)
            places.append(place)
        sums = [0.0] * value
        most = max([*scores, *(case.sinks[head : head + 1] or ()), -1e30])
        weights = [math.exp(score - most) for score in scores]
        total = sum(weights)
        if case.sinks:
            total += math.exp(case.sinks[head] - most)
        for place, weight in zip(places, weights, strict=True):
            for number in range(value):
                sums[number] += weight * all_values[place * value + number]
        found.extend(number / total if total else 0.0 for number in sums)
    return found


CASES = {
    "a text": Case(5, 70, behind(60)),
    "one token": Case(1, 300, behind(299)),
    "no mask": Case(3, 100),
    "few cells": Case(4, 5, behind(1)),
    "scattered cells": Case(7, 200, lambda token, cell: 0 if cell % 7 == token else None),
    "a window": Case(6, 150, lambda token, cell: 0 if token < cell < token + 90 else None),
    "nothing seen": Case(3, 40, lambda token, _: None if token == 1 else 0),
    "many tokens": Case(70, 80, behind(3)),
    "a long window": Case(20, 200, lambda token, cell: 0 if token < cell < token + 150 else None),
    "many cells": Case(1, 600, everything, heads=2),
    "no shared heads": Case(3, 70, behind(60), groups=6),
    "one group": Case(3, 70, behind(60), groups=1),
    "five heads of a group": Case(3, 70, behind(60), heads=5, groups=1),
    "many heads of a group": Case(2, 40, behind(30), heads=18, groups=1),
    "long keys": Case(3, 40, behind(30), key=192, value=128),
    "long values": Case(3, 40, behind(30), key=64, value=256),
    "odd sizes": Case(3, 40, behind(30), key=80, value=112),
    "the least": Case(3, 40, behind(30), key=16, value=16),
    "sequences": Case(3, 64, behind(50), sequences=2),
    "biased": Case(3, 70, lambda token, cell: -abs(token - cell) / 8, bias=8),
    "a capped score": Case(3, 70, behind(60), cap=5, spread=9),
    "a loose cap": Case(3, 70, behind(60), cap=50, spread=0.1),
    "sinks": Case(3, 70, behind(60), sinks=(-3.0, 0.0, 1.0, 2.0, 5.0, 20.0)),
    "sinks of nothing": Case(2, 40, lambda _, __: None, sinks=(0.0,) * 6),
    "sharp": Case(3, 200, behind(190), spread=40),
}


@needs_avx2
@pytest.mark.parametrize("name", CASES)
def test_it_is_exact(name: str) -> None:
    case = CASES[name]
    expected = exact(case)
    for variant in able():
        found = computed(case, variant)
        most = max(map(abs, values(case)))
        for one, other in zip(found, expected, strict=True):
            assert one == pytest.approx(other, abs=EXACT * most), variant


@needs_avx2
@pytest.mark.parametrize("name", CASES)
def test_threads_and_processors_change_nothing(name: str) -> None:
    expected = computed(CASES[name], able()[0], 1)
    for variant in able():
        for threads in (1, 2, 3, 7):
            found = computed(CASES[name], variant, threads)
            assert found.tobytes() == expected.tobytes(), (variant, threads)


LONG = Case(1, 8000, None, key=16, value=16, heads=2, groups=1)
"""More cells than there are short spans for."""


@needs_avx2
def test_long_texts() -> None:
    for cells in (4097, 8000):
        case = replace(LONG, cells=cells)
        expected = exact(case)
        for variant in able():
            found = computed(case, variant)
            assert apart(found, expected) < 1e-5, (variant, cells)


@needs_avx2
@pytest.mark.parametrize(
    ("cells", "first"),
    [
        (100, 80),
        (1000, 960),
        (4500, 4460),
        # Some have short spans and others long ones.
        (4352, 4092),
        # Fewer cells than there are, in more spans.
        (4352, 4000),
        (8448, 8190),
    ],
)
def test_a_token_does_not_depend_on_those_beside_it(cells: int, first: int) -> None:
    """Nor on how many they are, which decides what threads share."""
    case = replace(LONG, cells=cells, sees=behind(first), heads=4, groups=2)
    size = case.heads * case.value
    many = computed(replace(case, tokens=20), able()[0])
    for variant in able():
        for tokens, threads in ((1, 1), (1, 2), (8, 2), (16, 7), (17, 3)):
            few = computed(replace(case, tokens=tokens), variant, threads)
            assert few == many[: tokens * size], (variant, tokens)


@needs_avx2
def test_scores_that_are_infinitely_small() -> None:
    """Weigh nothing, also where a token's first cells have no others."""
    case = Case(1, 400, everything)
    for variant in able():
        expected = computed(replace(case, sees=lambda _, cell: 0 if cell >= 150 else None), variant)
        for threads in (1, 2):
            made = Attention(variant, case, threads)
            # The first number of each query is positive, and of each of those keys infinite.
            positive, infinite = queries(case)[:], keys(case)[:]
            for first in range(0, len(positive), case.key):
                positive[first] = abs(positive[first])
            for first in range(0, 150 * case.groups * case.key, case.key):
                infinite[first] = -math.inf
            made.set(made.queries, positive)
            made.set_cells(made.keys, infinite)
            found = made.computed()
            for index in range(0, len(found), case.value):
                if positive[index] == queries(case)[index]:
                    one, other = (it[index : index + case.value] for it in (found, expected))
                    assert apart(one, other) < 1e-5, (variant, threads)
            made.close()


@needs_avx2
def test_cells_may_lie_anywhere() -> None:
    """And whatever lies in between."""
    close = Case(2, 300, everything)
    far = replace(close, cells=1500, sees=lambda _, cell: 0 if cell % 5 == 3 else None)
    for variant in able():
        expected = computed(close, variant)
        made = Attention(variant, far, 2)
        for tensor, own in ((made.keys, keys(close)), (made.values, values(close))):
            size = len(own) // close.cells
            spread = array("f", [math.nan]) * (far.cells * size)
            for cell in range(close.cells):
                place = (cell * 5 + 3) * size
                spread[place : place + size] = own[cell * size : (cell + 1) * size]
            made.set_cells(tensor, spread)
        assert made.computed() == expected
        made.close()


@needs_avx2
def test_what_is_no_number_shows() -> None:
    """It is not for attention to hide that a model computes none."""
    case = Case(2, 100, everything)
    for variant in able():
        made = Attention(variant, case, 2)
        broken = keys(case)[:]
        broken[50 * case.groups * case.key] = math.nan
        made.set_cells(made.keys, broken)
        found = made.computed()
        made.close()
        seen = case.heads // case.groups * case.value
        assert all(map(math.isnan, found[:seen]))
        assert not any(map(math.isnan, found[seen : case.heads * case.value]))


def test_others_are_left_to_llama_cpp() -> None:
    """Processors without AVX2, numbers of eight bits, and sizes that fit into no register."""
    case = CASES["a text"]
    expected = exact(case)
    for variant in set(variants()) & set(TOO_OLD):
        assert apart(computed(case, variant), expected) < HALVES
    odd = replace(case, key=24, value=24)
    for variant in variants():
        assert apart(computed(odd, variant), exact(odd)) < HALVES
        made = Attention(variant, case, 2, Q8_0)
        assert apart(made.computed(), expected) < 0.01
        made.close()
