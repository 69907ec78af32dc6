from __future__ import annotations

import io
import os
import struct
import tracemalloc
from dataclasses import replace
from pathlib import Path

import gguf_files as g
import pytest
from gguf_files import Gguf, TensorInfo, Typed
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from packer.gguf import (
    MAX_HEADER,
    MAX_KEYS,
    MAX_TENSORS,
    ArraySummary,
    GgufHeader,
    Tensor,
    TextSummary,
)
from packer.gguf_reader import parse_header, read_header
from packer.tensor_types import TensorType
from runtime_stub.errors import FormatError, InputError, SatchelError, UnsupportedError


def parse(data: bytes) -> GgufHeader:
    return parse_header(io.BytesIO(data), name="m.gguf")


def with_key(key: str, kind: int, value: g.Item | list[g.Item]) -> Gguf:
    return Gguf({key: Typed(kind, value)})


class TestReading:
    def test_model(self, tmp_path: Path) -> None:
        gguf = g.model()
        path = gguf.write(tmp_path / "m.gguf")
        header = read_header(path)
        start = len(g.pad(gguf.header(), 32))
        assert header.version == 3
        assert header.alignment == 32
        assert header.header_size == start
        assert header.file_size == path.stat().st_size
        assert list(header.metadata) == list(gguf.metadata)
        assert header.metadata["llama.block_count"] == 2
        assert header.metadata["tokenizer.ggml.add_bos_token"] is True
        assert header.metadata["llama.rope.freq_base"] == 10000.0
        assert header.tensors[0] == Tensor("token_embd.weight", (64, 96), 1, 0, 12288)
        assert header.tensors[2].size == 64 * 64 // 32 * 20
        data = path.read_bytes()
        for tensor, info in zip(header.tensors, gguf.tensors, strict=True):
            assert data[start + tensor.offset :][: tensor.size] == info.content
        for key, (begin, end) in header.spans.items():
            assert data[begin:end] == g.pair(key, gguf.metadata[key])

    @pytest.mark.parametrize(
        ("kind", "value"),
        [
            *((g.U8, 255), (g.I8, -1), (g.U16, 65535), (g.I16, -2), (g.U32, 2**32 - 1)),
            *((g.I32, -3), (g.F32, 0.5), (g.BOOL, True), (g.STRING, "é"), (g.U64, 2**64 - 1)),
            *((g.I64, -(2**63)), (g.F64, 1e300)),
        ],
    )
    def test_every_type(self, kind: int, value: g.Item) -> None:
        array: list[g.Item] = [value, value]
        assert parse(with_key("k", kind, value).build()).metadata["k"] == value
        assert parse(with_key("k", kind, array).build()).metadata["k"] == (value, value)

    def test_version_2(self) -> None:
        assert parse(replace(g.model(), version=2).build()).version == 2

    def test_alignment(self) -> None:
        gguf = replace(g.model(general__alignment=Typed(g.U32, 128)), alignment=128)
        header = parse(gguf.build())
        assert header.alignment == 128
        assert header.header_size % 128 == 0

    def test_long_values_become_summaries(self) -> None:
        keys = {
            "text": Typed(g.STRING, "x" * (2 << 20)),
            "texts": Typed(g.STRING, ["", "abc"] * 400_000),
            "numbers": Typed(g.F32, [1.0] * 5000),
            "layers": Typed(g.U32, [8] * 512),
            "last": Typed(g.U8, 7),
        }
        metadata = parse(Gguf(keys).build()).metadata
        assert metadata["text"] == TextSummary(2 << 20)
        assert metadata["texts"] == ArraySummary(g.STRING, 800_000)
        assert metadata["numbers"] == ArraySummary(g.F32, 5000)
        assert metadata["layers"] == (8,) * 512
        assert metadata["last"] == 7

    def test_text_that_is_not_utf_8(self) -> None:
        assert (
            parse(with_key("k", g.STRING, b"a\xff").build()).metadata["k"]
            == "a\N{REPLACEMENT CHARACTER}"
        )

    def test_no_tensors(self) -> None:
        gguf = with_key("k", g.U8, 1)
        header = parse(gguf.build())
        assert header.tensors == ()
        assert header.header_size == header.data_end == len(gguf.header())

    def test_scalars_and_empty_tensors(self) -> None:
        tensors = (TensorInfo("a", ()), TensorInfo("b", (0, 4)), TensorInfo("c", (2, 3, 4, 5)))
        header = parse(Gguf(tensors=tensors).build())
        assert [tensor.size for tensor in header.tensors] == [4, 0, 480]
        assert [tensor.elements for tensor in header.tensors] == [1, 0, 120]

    def test_bytes_behind_the_last_tensor_are_allowed(self) -> None:
        data = g.model().build()
        header = parse(data + b"garbage")
        assert header.file_size == len(data) + 7
        assert header.data_end <= len(data)

    def test_last_tensor_need_not_be_padded(self) -> None:
        data = g.model().build(pad_last=False)
        assert parse(data).data_end == len(data)

    def test_inside_another_file(self) -> None:
        data = g.model().build()
        file = io.BytesIO(b"x" * 64 + data + b"y" * 64)
        header = parse_header(file, name="pack", offset=64, size=len(data))
        assert header == parse(data)

    def test_short_reads(self) -> None:
        class Slow(io.BytesIO):
            def read(self, count: int | None = -1) -> bytes:
                return super().read(min(count or 0, 7))

        data = g.model().build()
        assert parse_header(Slow(data), name="m") == parse(data)


class TestFiles:
    def test_missing(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="does not exist"):
            read_header(tmp_path / "no.gguf")

    def test_folder(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="is a folder"):
            read_header(tmp_path)

    def test_not_allowed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = g.model().write(tmp_path / "m.gguf")

        def refuse(*_: object, **__: object) -> None:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(Path, "open", refuse)  # root may read anything
        with pytest.raises(InputError, match="permission denied"):
            read_header(path)

    def test_bad_name(self) -> None:
        with pytest.raises(InputError, match="can't be opened"):
            read_header("a\0b")

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
    def test_pipe(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(InputError, match="not a regular file"):
            read_header(tmp_path / "pipe")

    def test_read_error(self) -> None:
        class Broken(io.BytesIO):
            def read(self, count: int | None = -1) -> bytes:
                raise OSError(5, "Input/output error")

        with pytest.raises(InputError, match=r"m\.gguf can't be read"):
            parse_header(Broken(b"GGUF"), name="m.gguf")


SAFETENSORS = struct.pack("<Q", 20) + b'{"a": {"dtype": "F32"}}'


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "is empty"),
        (SAFETENSORS, "safetensors"),
        (b"PK\x03\x04\x14\0", "PyTorch"),
        (b"\x80\x02}q\0", "pickle"),
        (b"\n <!DOCTYPE html><html>", "web page"),
        (b"<HTML>", "web page"),
        (b'{"error": "not found"}', "JSON"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "Git LFS pointer"),
        (b"lmgg\x01\0\0\0", "before GGUF"),
        (b"tjgg\x03\0\0\0", "before GGUF"),
        (b"\x1f\x8b\x08", "compressed"),
        (b"\x7fELF", "program"),
        (bytes(600), "zeros"),
        (b"hello", "starts with b'hell'"),
        (b"GG", "starts with b'GG'"),
    ],
)
def test_what_it_looks_like(data: bytes, what: str) -> None:
    with pytest.raises(FormatError, match=what) as caught:
        parse(data)
    assert caught.value.message.startswith("m.gguf is not a GGUF file")
    assert caught.value.hint


@pytest.mark.parametrize(
    ("version", "error", "match"),
    [
        (0, FormatError, "version 0"),
        (1, UnsupportedError, "version 1"),
        (4, UnsupportedError, "version 4"),
        (3 << 24, UnsupportedError, "big-endian"),
    ],
)
def test_versions(version: int, error: type[SatchelError], match: str) -> None:
    with pytest.raises(error, match=match):
        parse(Gguf(version=version).build())


def raw(*tensors: TensorInfo, **metadata: Typed) -> bytes:
    """A file with tensors as they are described, and plenty of bytes behind."""
    keys = {key.replace("__", "."): value for key, value in metadata.items()}
    return Gguf(keys, tensors).header() + bytes(4096)


A = TensorInfo("a", (8,))
BROKEN: list[tuple[bytes, str]] = [
    (Gguf(n_tensors=MAX_TENSORS + 1).build(), "claims 65,537 tensors"),
    (Gguf(n_tensors=2**64 - 1).build(), "claims 18,446,744,073,709,551,615 tensors"),
    (Gguf(n_keys=MAX_KEYS + 1).build(), "claims 8,193 metadata keys"),
    (Gguf(n_keys=100).build(), "cut short or damaged"),
    (Gguf(n_keys=1, extra_keys=g.pair("", Typed(g.U8, 1))).build(), "a key .* 0 bytes"),
    (Gguf(n_keys=1, extra_keys=struct.pack("<Q", 2**63) + bytes(9)).build(), "a key .* bytes long"),
    (Gguf(n_keys=1, extra_keys=g.pair(b"\xff", Typed(g.U8, 1))).build(), "not UTF-8"),
    (Gguf(n_keys=1, extra_keys=g.pair("a\0", Typed(g.U8, 1))).build(), "zero byte"),
    (Gguf({"k": Typed(g.U8, 1)}, n_keys=2, extra_keys=g.pair("k", Typed(g.I8, 1))).build(), "'k'"),
    (Gguf(n_keys=1, extra_keys=g.text("k") + struct.pack("<IQ", 13, 0)).build(), "type 13"),
    (
        Gguf(n_keys=1, extra_keys=g.text("k") + struct.pack("<IIQ", 9, 9, 1)).build(),
        "array of arrays",
    ),
    (Gguf(n_keys=1, extra_keys=g.text("k") + struct.pack("<IIQ", 9, 99, 1)).build(), "type 99"),
    (
        Gguf(n_keys=1, extra_keys=g.text("k") + struct.pack("<IIQ", 9, 10, 2**61)).build(),
        "needs 18,446,744,073,709,551,616 more",
    ),
    (
        Gguf(n_keys=1, extra_keys=g.text("k") + struct.pack("<IIQ", 9, 8, 2**61)).build(),
        "cut short or damaged",
    ),
    (
        Gguf(n_keys=1, extra_keys=g.text("k") + struct.pack("<IQ", 8, 2**64 - 1)).build(),
        "needs 18,446,744,073,709,551,615 more",
    ),
    (
        Gguf(
            n_keys=1,
            extra_keys=g.text("k")
            + struct.pack("<IIQ", 9, 8, 99)
            + struct.pack("<99Q", *[2**63] * 99),
        ).build(),
        "cut short or damaged",
    ),
    (raw(A, general__alignment=Typed(g.U32, 24)), "alignment is 24"),
    (raw(A, general__alignment=Typed(g.U32, 0)), "alignment is 0"),
    (raw(A, general__alignment=Typed(g.U64, 32)), "alignment is 32"),
    (raw(A, general__alignment=Typed(g.STRING, "32")), "alignment is '32'"),
    (raw(A, general__alignment=Typed(g.BOOL, value=True)), "alignment is True"),
    (raw(A, A), "tensor 'a' occurs twice"),
    (raw(TensorInfo("a" * 64)), "64 bytes long"),
    (raw(TensorInfo("a\0b")), "zero byte"),
    (raw(TensorInfo("a", (1, 1, 1, 1, 1))), "'a' has 5 dimensions"),
    (raw(TensorInfo("a", (33,), g.TYPE_Q4_1)), "rows of 33 elements"),
    (raw(TensorInfo("a", (2**31, 2**31, 2, 1), data=b"")), "impossibly large"),
    (raw(TensorInfo("a", (2**63, 0), data=b"")), "impossibly large"),
    (raw(TensorInfo("a", (2**62,), data=b"")), "impossibly large"),
    (raw(A, TensorInfo("b", offset=0)), "'b' lies at offset 0, expected 32: it overlaps"),
    (raw(A, TensorInfo("b", offset=33)), "not aligned to 32"),
    (raw(A, TensorInfo("b", offset=96)), "leaves a gap"),
    (raw(TensorInfo("a", offset=2**64 - 32)), "leaves a gap"),
    (raw(TensorInfo("a", (5000,), data=b"")), "is cut short: needs"),
]


@pytest.mark.parametrize(("data", "match"), BROKEN, ids=[match for _, match in BROKEN])
def test_malformed(data: bytes, match: str) -> None:
    with pytest.raises(FormatError, match=match) as caught:
        parse(data)
    assert caught.value.hint == "Download or copy it again"


def test_unknown_tensor_type() -> None:
    with pytest.raises(UnsupportedError, match="tensor 'a' has type 31"):
        parse(raw(TensorInfo("a", kind=31)))


def test_cut_short_anywhere() -> None:
    data = g.model().build(pad_last=False)
    needs = f"is cut short: needs {len(data):,} bytes, has {len(data) - 1:,}"
    with pytest.raises(FormatError, match=needs):
        parse(data[:-1])
    for length in range(0, len(data), 61):
        with pytest.raises(FormatError):
            parse(data[:length])


def test_endless_header(tmp_path: Path) -> None:
    """A sparse file can be of any size: the header's own limit bounds the time."""
    path = tmp_path / "m.gguf"
    count = 1 << 40
    keys = g.text("k") + struct.pack("<IIQ", g.ARRAY, g.STRING, count)
    path.write_bytes(Gguf(n_keys=1, extra_keys=keys).build())
    try:
        os.truncate(path, count * 9)
    except OSError:
        pytest.skip("the file system has no files of this size")
    with pytest.raises(FormatError, match="header is longer than 128 MiB"):
        read_header(path)


def test_memory_is_bounded() -> None:
    """As much as may be kept of each kind; 400 MiB of text among it."""
    keys: dict[str, Typed] = {
        f"text{n}": Typed(g.STRING, "\U0001f9f3" * 50_000) for n in range(200)
    }
    keys |= {f"numbers{n}": Typed(g.U64, [2**60 + n] * 512) for n in range(1500)}
    data = Gguf(keys).build()
    tracemalloc.start()
    try:
        metadata = parse(data).metadata
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert isinstance(metadata["text0"], str)
    assert metadata["text199"] == TextSummary(200_000)
    assert isinstance(metadata["numbers0"], tuple)
    assert metadata["numbers1499"] == ArraySummary(g.U64, 512)
    assert peak < 100 << 20


def test_header_limit_is_above_any_vocabulary() -> None:
    assert MAX_HEADER >= 1_000_000 * (8 + 32 + 4 + 4 + 8 + 32)


def test_given_tensor_types_count() -> None:
    types = {77: TensorType("new", 4, 3)}
    tensor = TensorInfo("a", (8,), 77, data=bytes(6))
    data = Gguf(tensors=(tensor,)).build()
    header = parse_header(io.BytesIO(data), name="m", tensor_types=types)
    assert header.tensors[0].size == 6


SOUND = g.model().build()
HEADER_LENGTH = len(g.model().header())
EXTREMES = st.sampled_from([0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1])


def outcome(data: bytes) -> None:
    """Reading may only succeed or be refused."""
    refusal = ""
    try:
        end = parse(data).data_end
    except SatchelError as error:
        refusal = str(error)
        end = 0
    assert len(refusal) < 1000
    assert end <= len(data)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.integers(4, HEADER_LENGTH - 1), st.integers(0, 255)), max_size=6))
def test_changed_bytes(changes: list[tuple[int, int]]) -> None:
    data = bytearray(SOUND)
    for position, value in changes:
        data[position] = value
    outcome(bytes(data))


@settings(max_examples=400, deadline=None)
@given(st.integers(4, HEADER_LENGTH - 8), EXTREMES, st.sampled_from("IQ"))
def test_extreme_numbers(position: int, value: int, layout: str) -> None:
    number = struct.pack(f"<{layout}", value % 2 ** (8 * struct.calcsize(f"<{layout}")))
    outcome(SOUND[:position] + number + SOUND[position + len(number) :])


@settings(max_examples=200, deadline=None)
@given(st.integers(0, len(SOUND)), st.integers(0, len(SOUND)), st.binary(max_size=64))
def test_replaced_slices(start: int, end: int, between: bytes) -> None:
    outcome(SOUND[:start] + between + SOUND[end:])


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=400))
def test_noise(noise: bytes) -> None:
    outcome(noise)
    outcome(SOUND[:24] + noise)
