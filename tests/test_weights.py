"""Interleaved weights give what llama.cpp's own code gives, on each kind of processor that this
one can stand in for."""

from __future__ import annotations

import ctypes
import functools
import itertools
import operator
import random
import struct
from array import array
from itertools import chain
from pathlib import Path

import pytest
import tiny_architectures
import tiny_models
from backends import F32, I32, TOO_OLD, Graph, able, apart, base, needs_avx2, variants
from engine_fixtures import loaded, worked_out
from gguf_files import U32, Typed

from packer.gguf_reader import read_header
from runtime_stub.engine import library
from runtime_stub.engine.adapters import Adapters
from runtime_stub.engine.context import Context, ContextSize
from runtime_stub.engine.embedder import Embedder
from runtime_stub.engine.messages import (
    AdapterSource,
    Embeddings,
    EmbedRequest,
    EngineSettings,
    ModelSource,
)
from runtime_stub.engine.model import Model
from runtime_stub.engine.weights import ARCHITECTURES, LARGEST, interleave, load_weights
from runtime_stub.errors import EngineError

TYPES = {
    "q4_0": 2,
    "q4_1": 3,
    "q5_0": 6,
    "q5_1": 7,
    "q8_0": 8,
    "q4_k": 12,
    "q5_k": 13,
    "q6_k": 14,
}
"""Numbers that GGUF gives them."""
ROWS, COLUMNS = 32, 512
MOST = 300
"""States: more than are multiplied with the same weights before others are."""
SETTINGS = EngineSettings()
WRONG = 0.1
"""How far predictions may be apart. Sums that are rounded in another way make it up to 0.06, and
a single matrix with other weights 0.12 or more."""


class _Interleaving(ctypes.Structure):
    _fields_ = (
        ("can", ctypes.CFUNCTYPE(ctypes.c_bool, ctypes.c_size_t)),
        ("write", ctypes.CFUNCTYPE(None, ctypes.c_size_t, ctypes.c_size_t)),
        ("mark", ctypes.CFUNCTYPE(None, ctypes.c_size_t)),
    )


@functools.cache
def many_numbers() -> array[float]:
    chance = random.Random(5)  # noqa: S311
    return array("f", (chance.gauss(0.1, 1) for _ in range(MOST * COLUMNS)))


def numbers(rows: int) -> array[float]:
    return many_numbers()[: rows * COLUMNS]


class Sums(Graph):
    """Weights times states, and the rows of the weights."""

    def __init__(
        self, variant: str, kind: str, states: int, threads: int, *, across: int = 1
    ) -> None:
        """The states lie behind each other, or `across` of them apart from the next one."""
        super().__init__(variant, threads)
        self._states = self.tensor(F32, COLUMNS, across, states // across)
        order = base("ggml_permute", self.context, self._states, 0, 2, 1, 3)
        picked = self.tensor(I32, ROWS)
        self.weights = self.tensor(TYPES[kind], COLUMNS, ROWS)
        self._product = base("ggml_mul_mat", self.context, self.weights, order)
        self._rows = base("ggml_get_rows", self.context, self.weights, picked)
        self.add(self._product, self._rows)
        rows = numbers(ROWS)
        packed = ctypes.create_string_buffer(base("ggml_nbytes", self.weights))
        base("ggml_quantize_chunk", TYPES[kind], rows.buffer_info()[0], packed, 0, ROWS, COLUMNS, 0)
        self.set(self.weights, packed.raw)
        self.set(picked, array("i", range(ROWS)))
        # Each state is its own, and the same, however many there are.
        self.set_states(array("f", [0.0] * COLUMNS) + numbers(states - 1))

    def set_states(self, states: array[float]) -> None:
        self.states = states
        self.set(self._states, states)

    def interleave(self) -> bool:
        offered = _Interleaving.in_dll(self.library, "satchel_interleaving")
        if not offered.can(self.weights):
            return False
        room = ctypes.create_string_buffer(base("ggml_nbytes", self.weights))
        offered.write(self.weights, ctypes.addressof(room))
        self.set(self.weights, room.raw)
        offered.mark(self.weights)
        return not offered.can(self.weights)

    def computed(self) -> tuple[array[float], array[float]]:
        """The products, state after state, and the rows."""
        self.compute()
        return self.get(self._product), self.get(self._rows)


def sums(
    variant: str, kind: str, states: int, threads: int = 2, *, interleaved: bool = True
) -> tuple[array[float], array[float]]:
    made = Sums(variant, kind, states, threads)
    try:
        assert not interleaved or made.interleave()
        return made.computed()
    finally:
        made.close()


@needs_avx2
@pytest.mark.parametrize("kind", TYPES)
def test_products_are_as_exact_as_llama_cpps(kind: str) -> None:
    for states in (2, 3, 9):
        plain = Sums(able()[0], kind, states, 1)
        there, rows = plain.computed()
        lines = [rows[first : first + COLUMNS] for first in range(0, len(rows), COLUMNS)]
        exact = array("f")
        for first in range(0, len(plain.states), COLUMNS):
            state = plain.states[first : first + COLUMNS]
            exact.extend(sum(map(operator.mul, state, line)) for line in lines)
        plain.close()
        for variant in able():
            here, _ = sums(variant, kind, states)
            # All of it comes from states being rounded to whole numbers.
            assert apart(here, exact) < 0.01, (variant, states)
            assert apart(here, exact) < 1.1 * apart(there, exact), (variant, states)
            assert not any(here[:ROWS])  # of the state that is all zeros


@needs_avx2
@pytest.mark.parametrize("kind", TYPES)
def test_rows_are_as_they_were(kind: str) -> None:
    _, there = sums(able()[0], kind, 1, interleaved=False)
    for variant in able():
        _, here = sums(variant, kind, 1)
        assert apart(here, there) < 1e-7, variant


@needs_avx2
@pytest.mark.parametrize("kind", TYPES)
def test_a_product_does_not_depend_on_what_is_computed_beside_it(kind: str) -> None:
    """Neither on other states nor on the threads nor on the kind of processor: guesses that are
    checked together are what they would have been one by one."""
    many, _ = sums(able()[0], kind, MOST)
    for variant in able():
        for states, threads in ((1, 1), (2, 2), (7, 2), (100, 3), (MOST, 1)):
            few, _ = sums(variant, kind, states, threads)
            assert few == many[: states * ROWS], (variant, states, threads)


@needs_avx2
@pytest.mark.parametrize("kind", TYPES)
def test_states_need_not_lie_side_by_side(kind: str) -> None:
    for states in (12, 120):
        expected, _ = sums(able()[0], kind, states)
        made = Sums(able()[0], kind, states, 2, across=4)
        assert made.interleave()
        found, _ = made.computed()
        made.close()
        for index in range(states):  # the fourth comes after the first, and so on
            place = index % 4 * (states // 4) + index // 4
            there = found[place * ROWS : (place + 1) * ROWS]
            assert there == expected[index * ROWS : (index + 1) * ROWS]


SCALES = {"q4_1": (0, 2), "q5_1": (0, 2), "q4_k": (0, 2), "q5_k": (0, 2), "q6_k": (208,)}
"""Where halves lie in a block; in those left out, at its beginning."""


@needs_avx2
@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("filling", [0x00, 0x7F, 0x80, 0xFF])
def test_the_largest_sums_are_exact(kind: str, filling: int) -> None:
    """Whatever bits a file holds, no sum has too little room."""
    for variant in able():
        made = Sums(variant, kind, 4, 1)
        size = base("ggml_nbytes", made.weights)
        block = bytearray([filling]) * base("ggml_type_size", TYPES[kind])
        for place in SCALES.get(kind, (0,)):
            block[place : place + 2] = struct.pack("<e", 1.0)
        made.set(made.weights, bytes(block) * (size // len(block)))
        half = COLUMNS // 2
        states = (
            [127.0] * COLUMNS,
            [-127.0] * COLUMNS,
            [127.0, -127.0] * half,
            [-127.0, 127.0] * half,
        )
        made.set_states(array("f", itertools.chain(*states)))
        assert made.interleave()
        found, rows = made.computed()
        made.close()
        row = rows[:COLUMNS]
        assert max(map(abs, row)) > 0 or filling == 0
        for index, state in enumerate(states):
            exact = sum(map(operator.mul, state, row))
            most = sum(abs(a * b) for a, b in zip(state, row, strict=True))
            for value in found[index * ROWS : (index + 1) * ROWS]:
                assert value == pytest.approx(exact, abs=1e-6 * most), (variant, index)


def test_a_processor_without_avx2_leaves_them() -> None:
    for variant in set(variants()) & set(TOO_OLD):
        made = Sums(variant, "q4_0", 1, 1)
        before = made.computed()
        assert not made.interleave()
        assert made.computed() == before
        made.close()


def predictions(model: Model, *adapters: AdapterSource, threads: int = 2) -> array[float]:
    """What a model expects after some tokens, read at once, so many that threads share them, and
    then after each of a few more."""
    found = array("f")
    mixing = Adapters(model, adapters)
    context = Context(model, ContextSize(512, ""), SETTINGS, threads)
    try:
        mixing.apply(context.handle, mixing.mix(None))
        for position in range(303):
            context.add(position * 7 % 90, position, 0, output=position >= 299)
            if position < 299:
                continue
            assert context.decode() == 0
            context.clear_batch()
            row = library.library().llama_get_logits_ith(context.handle, -1)
            found.extend(row[: model.vocabulary_size])
    finally:
        context.free()
    return found


def multiplied(path: Path) -> int:
    """Bytes of the weights that a model multiplies with states and nothing else, but for experts;
    0 where these are most of it. All others that have blocks are the table of tokens, where the
    last layer has its own."""
    tensors = read_header(path).tensors
    names = {tensor.name for tensor in tensors}
    found = sum(
        tensor.size
        for tensor in tensors
        if tensor.type_id == TYPES["q8_0"]
        and not (tensor.name == "token_embd.weight" and "output.weight" in names)
        and not tensor.name.endswith("_exps.weight")
    )
    return found if found > sum(tensor.size for tensor in tensors) / 2 else 0


def test_there_is_a_model_of_each_architecture() -> None:
    known = tiny_architectures.ARCHITECTURES.items()
    assert {own.called or name for name, own in known} == ARCHITECTURES


@needs_avx2
@pytest.mark.parametrize(
    ("name", "tied"),
    [(name, tied) for name, own in tiny_architectures.ARCHITECTURES.items() for tied in own.ties],
)
def test_whole_models(name: str, tied: bool, tmp_path: Path) -> None:
    path = tiny_architectures.quantized(tmp_path / "model.gguf", name, tied=tied)
    before = path.read_bytes()
    with loaded(path) as model:
        expected = predictions(model, threads=1)
    with loaded(path) as model:
        assert interleave(model, SETTINGS, 1 << 30) == multiplied(path)
        assert apart(predictions(model), expected) < WRONG
        assert interleave(model, SETTINGS, 1 << 30) == 0  # all done
    assert path.read_bytes() == before


@needs_avx2
def test_adapters_change_interleaved_weights_alike(tmp_path: Path) -> None:
    path = tiny_models.plain(tmp_path / "model.gguf", quantized=True)
    adapter = tiny_models.adapter(tmp_path / "adapter.gguf", "changed")
    with adapter.open("rb") as stream:
        file = ModelSource(stream.fileno(), 0, adapter.stat().st_size)
        source = AdapterSource("it", file, scale=0.5, always=True)
        with loaded(path) as model:
            alone, expected = (predictions(model, *it, threads=1) for it in ((), (source,)))
        with loaded(path) as model:
            assert interleave(model, SETTINGS, 1 << 30)
            assert apart(predictions(model, source), expected) < WRONG
    assert apart(alone, expected) > 0.5


@needs_avx2
@pytest.mark.parametrize("pooling", [None, 1, 3])
def test_texts_have_the_same_vectors(pooling: int | None, tmp_path: Path) -> None:
    """Whether nothing is said of how states are pooled, or the mean or the last of them is taken,
    as Qwen 3's embedding models do."""
    facts = {} if pooling is None else {"pooling_type": Typed(U32, pooling)}
    path = tiny_architectures.quantized(tmp_path / "model.gguf", "qwen3", tied=True, facts=facts)

    def vectors(model: Model) -> array[float]:
        embedder = Embedder(model, threads=2)
        try:
            texts = ("something", "something-else", tiny_models.CHARACTERS)
            found = worked_out(embedder, EmbedRequest(texts))
            assert isinstance(found, Embeddings), found
            return array("f", chain(*found.vectors))
        finally:
            embedder.free()

    with loaded(path) as model:
        assert model.stated_pooling() == (-1 if pooling is None else pooling)
        expected = vectors(model)
    with loaded(path) as model:
        assert interleave(model, SETTINGS, 1 << 30)
        assert apart(vectors(model), expected) < WRONG


def test_there_is_no_memory_for_what_is_asked(tmp_path: Path) -> None:
    path = tiny_models.plain(tmp_path / "model.gguf", quantized=True)
    with path.open("rb") as stream:
        source = ModelSource(stream.fileno(), 0, path.stat().st_size)
        wanted = EngineSettings(repack=True)
        with pytest.raises(EngineError, match="to repack the weights takes 0 MB of memory"):
            load_weights(source, lambda _: True, wanted, 1000)
        model = load_weights(source, lambda _: True, wanted, 1 << 30)
        assert model.memory == model.size  # in place of the mapped ones
        model.free()
        model = load_weights(source, lambda _: True, EngineSettings(), 1000)  # as in the file
        assert model.memory == model.size
        model.free()


def test_what_is_left_alone(tmp_path: Path) -> None:
    class Large:
        handle: object = None
        size = LARGEST + 1

        def metadata(self, _: str) -> str:
            return "llama"

    assert "llama" in ARCHITECTURES
    assert interleave(Large(), SETTINGS, 1 << 40) == 0
    with loaded(tiny_models.plain(tmp_path / "plain.gguf", quantized=True)) as model:
        assert interleave(model, SETTINGS, model.size) == 0  # memory is short
        assert interleave(model, EngineSettings(repack=False), 1 << 30) == 0  # nobody wants it
    with loaded(tiny_models.hybrid(tmp_path / "hybrid.gguf")) as model:
        assert interleave(model, SETTINGS, 1 << 30) == 0  # an unknown architecture
    with loaded(tiny_models.plain(tmp_path / "floats.gguf")) as model:
        assert interleave(model, SETTINGS, 1 << 30) == 0  # a type of which there is no block
