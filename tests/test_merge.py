from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import gguf_files as g
import pytest
from gguf_files import Gguf, TensorInfo, Typed
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from packer.gguf_reader import read_header
from packer.merge import Literal, MergePlan, Range, chunks, plan
from runtime_stub.errors import FormatError, InputError, SatchelError


def content(merge_plan: MergePlan) -> bytes:
    return b"".join(chunks(merge_plan, size=1000))


def merged(gguf: Gguf, parts: int) -> bytes:
    """What gguf-split makes of `parts` parts: `split.count` is last and 0, the rest stays."""
    keys = {
        **gguf.metadata,
        "split.no": Typed(g.U16, 0),
        "split.tensors.count": Typed(g.I32, len(gguf.tensors)),
        "split.count": Typed(g.U16, 0),
    }
    trimmed = (replace(tensor, shape=_trimmed(tensor.shape)) for tensor in gguf.tensors)
    return replace(gguf, version=3, metadata=keys, tensors=tuple(trimmed)).build()


def _trimmed(shape: tuple[int, ...]) -> tuple[int, ...]:
    while len(shape) > 1 and shape[-1] == 1:
        shape = shape[:-1]
    return shape or (1,)


class TestWhole:
    def test_is_itself(self, tmp_path: Path) -> None:
        path = tmp_path / "m.gguf"
        data = g.model().build() + b"trailing"
        path.write_bytes(data)
        found = plan(path)
        assert found.pieces == (Range(path, 0, len(data)),)
        assert found.parts == (path,)
        assert found.size == len(data)
        assert found.header == read_header(path)
        assert content(found) == data

    @pytest.mark.parametrize("count", [0, 1])
    def test_split_into_one(self, tmp_path: Path, count: int) -> None:
        path = g.model(split__count=Typed(g.U16, count)).write(tmp_path / "any name.gguf")
        assert content(plan(path)) == path.read_bytes()


class TestParts:
    @pytest.mark.parametrize("counts", [[3, 2], [0, 5], [1, 1, 1, 1, 1], [0, 2, 3], [5, 0]])
    def test_merge(self, tmp_path: Path, counts: list[int]) -> None:
        gguf = g.model()
        paths = g.split(gguf, tmp_path / "m", counts)
        found = plan(paths[0])
        data = content(found)
        assert data == merged(gguf, len(counts))
        assert found.size == len(data)
        assert found.parts == tuple(paths)
        path = tmp_path / "merged.gguf"
        path.write_bytes(data)
        header = read_header(path)
        assert [t.name for t in header.tensors] == [t.name for t in gguf.tensors]
        assert list(header.metadata) == list(found.header.metadata)
        assert header.spans == found.header.spans
        assert header == found.header
        assert content(plan(path)) == data

    def test_keys_behind_split_count_keep_their_order(self, tmp_path: Path) -> None:
        paths = g.split(g.model(), tmp_path / "m", [3, 2])
        first = replace(
            g.model(split__no=Typed(g.U16, 0), split__count=Typed(g.U16, 2)),
            tensors=g.TENSORS[:3],
        )
        keys = {"split.count": Typed(g.U16, 2), **first.metadata}
        replace(first, metadata=keys).write(paths[0])
        found = plan(paths[0])
        assert list(found.header.metadata) == [*list(first.metadata)[:-1], "split.count"]
        (tmp_path / "merged.gguf").write_bytes(content(found))
        assert read_header(tmp_path / "merged.gguf") == found.header

    def test_other_alignment(self, tmp_path: Path) -> None:
        gguf = replace(g.model(general__alignment=Typed(g.U32, 64)), alignment=64)
        paths = g.split(gguf, tmp_path / "m", [2, 2, 1])
        assert content(plan(paths[0])) == merged(gguf, 3)

    def test_version_2(self, tmp_path: Path) -> None:
        gguf = replace(g.model(), version=2)
        paths = g.split(gguf, tmp_path / "m", [2, 3])
        assert content(plan(paths[0])) == merged(gguf, 2)

    def test_padding_is_zeros(self, tmp_path: Path) -> None:
        paths = g.split(g.model(), tmp_path / "m", [2, 3])
        data = bytearray(paths[0].read_bytes())
        header = read_header(paths[0])
        data[header.data_end :] = b"\xff" * (len(data) - header.data_end)
        paths[0].write_bytes(data)
        assert content(plan(paths[0])) == merged(g.model(), 2)

    def test_pieces_are_ranges_of_the_parts(self, tmp_path: Path) -> None:
        paths = g.split(g.model(), tmp_path / "m", [2, 3])
        pieces = plan(paths[0]).pieces
        ranges = [piece for piece in pieces if isinstance(piece, Range)]
        literal = sum(piece.length for piece in pieces if isinstance(piece, Literal))
        assert {piece.path for piece in ranges} == set(paths)
        assert all(piece.length for piece in ranges)
        assert literal < 1000

    def test_linked_parts(self, tmp_path: Path) -> None:
        """As in the cache of huggingface_hub: the links have the names, the files have hashes."""
        paths = g.split(g.model(), tmp_path / "m", [2, 3])
        for number, path in enumerate(paths):
            blob = path.rename(tmp_path / f"blob{number}")
            try:
                path.symlink_to(blob)
            except OSError:
                pytest.skip("needs symbolic links")
        assert content(plan(paths[0])) == merged(g.model(), 2)


class TestRefusals:
    @pytest.fixture
    def paths(self, tmp_path: Path) -> list[Path]:
        return g.split(g.model(), tmp_path / "m", [2, 2, 1])

    def test_missing_part(self, paths: list[Path]) -> None:
        paths[1].unlink()
        with pytest.raises(InputError, match=r"m-00002-of-00003\.gguf is missing: part 2 of 3"):
            plan(paths[0])

    def test_other_part_named(self, paths: list[Path]) -> None:
        with pytest.raises(InputError, match="is part 2 of 3") as caught:
            plan(paths[1])
        assert str(paths[0]) in caught.value.hint

    @pytest.mark.parametrize(
        "name", ["model.gguf", "m-00001-of-00002.gguf", "-00001-of-00003.gguf"]
    )
    def test_renamed(self, paths: list[Path], name: str) -> None:
        with pytest.raises(InputError, match="not called so") as caught:
            plan(paths[0].rename(paths[0].with_name(name)))
        assert "-00001-of-00003.gguf" in caught.value.hint

    def test_swapped_parts(self, paths: list[Path]) -> None:
        paths[2].write_bytes(paths[1].read_bytes())
        with pytest.raises(FormatError, match="is not part 3 of 3"):
            plan(paths[0])

    def test_part_of_another_split(self, paths: list[Path], tmp_path: Path) -> None:
        other = g.split(g.model(), tmp_path / "o", [1, 1, 1, 2])
        paths[1].write_bytes(other[1].read_bytes())
        with pytest.raises(FormatError, match="is not part 2 of 3"):
            plan(paths[0])

    def test_part_that_is_a_whole_model(self, paths: list[Path]) -> None:
        g.model().write(paths[1])
        with pytest.raises(FormatError, match="is not part 2 of 3"):
            plan(paths[0])

    def test_too_few_tensors(self, paths: list[Path]) -> None:
        keys = {"split.no": Typed(g.U16, 2), "split.count": Typed(g.U16, 3)}
        Gguf(keys).write(paths[2])
        with pytest.raises(FormatError, match="promises 5 tensors; its parts have 4"):
            plan(paths[0])

    def test_tensor_in_two_parts(self, paths: list[Path]) -> None:
        keys = {"split.no": Typed(g.U16, 2), "split.count": Typed(g.U16, 3)}
        Gguf(keys, g.TENSORS[:1]).write(paths[2])
        with pytest.raises(FormatError, match=r"'token_embd\.weight' is in two parts"):
            plan(paths[0])

    def test_part_that_is_cut_short(self, paths: list[Path]) -> None:
        os.truncate(paths[1], paths[1].stat().st_size - 100)
        with pytest.raises(FormatError, match=r"m-00002-of-00003\.gguf is cut short"):
            plan(paths[0])

    @pytest.mark.parametrize(
        "value",
        [Typed(g.STRING, "2"), Typed(g.I32, -1), Typed(g.U64, 2**63), Typed(g.U32, 70_000)],
    )
    def test_absurd_counts(self, tmp_path: Path, value: Typed) -> None:
        path = g.model(split__count=value).write(tmp_path / "m-00001-of-70000.gguf")
        with pytest.raises(FormatError, match="malformed"):
            plan(path)

    def test_source_that_shrinks(self, paths: list[Path]) -> None:
        found = plan(paths[0])
        os.truncate(paths[1], 100)
        with pytest.raises(InputError, match="became shorter"):
            content(found)

    def test_source_that_vanishes(self, paths: list[Path]) -> None:
        found = plan(paths[0])
        paths[2].unlink()
        with pytest.raises(InputError, match="does not exist"):
            content(found)


SHAPES = st.lists(st.integers(0, 9), max_size=4).map(tuple)


@settings(
    max_examples=60, deadline=2000, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    shapes=st.lists(SHAPES, max_size=8), cuts=st.lists(st.integers(0, 8), min_size=1, max_size=3)
)
def test_any_split(tmp_path: Path, shapes: list[tuple[int, ...]], cuts: list[int]) -> None:
    tensors = tuple(TensorInfo(f"t{number}", shape) for number, shape in enumerate(shapes))
    ends = [*sorted(min(cut, len(tensors)) for cut in cuts), len(tensors)]
    counts = [end - start for start, end in zip([0, *ends], ends, strict=False)]
    gguf = g.model(tensors=tensors)
    paths = g.split(gguf, tmp_path / "any", counts)
    assert content(plan(paths[0])) == merged(gguf, len(counts))


@settings(
    max_examples=100, deadline=2000, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.integers(0, 1), st.integers(0, 400), st.integers(0, 255))
def test_damaged_parts(tmp_path: Path, number: int, back: int, value: int) -> None:
    """A changed byte near the end of a header, where the split's keys and the tensors are."""
    paths = g.split(g.model(), tmp_path / "m", [2, 3])
    data = bytearray(paths[number].read_bytes())
    position = max(read_header(paths[number]).header_size - back, 0)
    data[position] = value
    paths[number].write_bytes(data)
    refused = ""
    size = 0
    try:
        found = plan(paths[0])
        size = found.size - len(content(found))
    except SatchelError as error:
        refused = str(error)
    assert size == 0
    assert len(refused) < 1000
