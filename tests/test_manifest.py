from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime_stub.errors import FormatError, SatchelError, UnsupportedError
from runtime_stub.manifest import (
    CODECS,
    FEATURES,
    KINDS,
    RAW,
    READER_VERSION,
    ZSTD,
    Entry,
    Manifest,
    parse,
    serialise,
)

HASHES = st.binary(min_size=32, max_size=32).map(bytes.hex)
SIZES = st.integers(0, 2**63 - 1)
WORDS = st.text(max_size=12)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=6,
)
MAPPINGS = st.dictionaries(WORDS, PLAIN, max_size=3)


def entries(name: str) -> st.SearchStrategy[Entry]:
    return st.builds(
        Entry,
        name=st.just(name),
        kind=st.sampled_from([*KINDS, "of the future"]),
        codec=st.sampled_from([*set(CODECS) - {RAW}, "of the future"]),
        offset=SIZES,
        length=SIZES,
        size=SIZES,
        sha256=HASHES,
        stored_sha256=HASHES,
        file=st.none() | HASHES,
        chunk_size=SIZES,
        table=st.none() | WORDS,
        masked=st.lists(st.tuples(SIZES, SIZES), max_size=2).map(tuple),
        requires=st.lists(HASHES, max_size=2).map(tuple),
        metadata=MAPPINGS,
    )


MANIFESTS = st.lists(WORDS, max_size=3, unique=True).flatmap(
    lambda names: st.builds(
        Manifest,
        entries=st.tuples(*map(entries, names)),
        stub=MAPPINGS,
        name=WORDS,
        recipe=st.none() | MAPPINGS,
        features=st.lists(st.sampled_from(sorted(FEATURES)), unique=True).map(sorted).map(tuple),
        oldest_reader=st.integers(0, READER_VERSION),
    )
)
ENTRY = Entry("model", "model", ZSTD, 0, 1, 2, "a" * 64, "b" * 64)


@settings(deadline=None, max_examples=60)
@given(MANIFESTS)
def test_round_trip(manifest: Manifest) -> None:
    data = serialise(manifest)
    assert parse(data) == manifest
    assert serialise(parse(data)) == data


def document(**changes: Any) -> Any:
    found = json.loads(serialise(Manifest(entries=(ENTRY,), stub={})))
    found["satchel"].update({k: v for k, v in changes.items() if k in found["satchel"]})
    found["entries"][0].update({k: v for k, v in changes.items() if k in found["entries"][0]})
    found.update({k: v for k, v in changes.items() if k in found})
    return found


def parsed(**changes: Any) -> Manifest:
    return parse(json.dumps(document(**changes)).encode())


def test_is_canonical() -> None:
    data = serialise(Manifest(entries=(ENTRY,), stub={"b": "é", "a": 1}, features=("x", "b")))
    assert b'"stub":{"a":1,"b":"\xc3\xa9"}' in data
    assert b'"features":["b","x"]' in data
    assert b": " not in data


def test_unknown_feature() -> None:
    with pytest.raises(UnsupportedError, match="needs features encryption, unknown here") as caught:
        parsed(features=["sidecar", "encryption"])
    assert caught.value.hint == "Use a newer satchel"


def test_newer_reader() -> None:
    with pytest.raises(UnsupportedError, match="needs reader version 2"):
        parsed(oldest_reader=READER_VERSION + 1)


def test_newer_manifest_is_refused_before_the_rest_is_read() -> None:
    with pytest.raises(UnsupportedError):
        parse(b'{"satchel": {"features": ["new"], "oldest_reader": 1}}')


def test_unknown_fields_kinds_and_codecs_are_let_be() -> None:
    found = document(kind="poem", codec="rhymes")
    found["later"] = found["satchel"]["later"] = found["entries"][0]["later"] = {"x": 1}
    manifest = parse(json.dumps(found).encode())
    assert (manifest.entries[0].kind, manifest.entries[0].codec) == ("poem", "rhymes")


@pytest.mark.parametrize(
    "change",
    [
        *({"name": 1}, {"entries": 1}, {"entries": [1]}, {"entries": [[]]}, {"entries": None}),
        *({"stub": []}, {"stub": None}, {"recipe": 1}, {"recipe": []}, {"satchel": []}),
        *({"features": "sidecar"}, {"features": [1]}, {"features": None}, {"oldest_reader": "1"}),
        *({"offset": -1}, {"offset": 2**63}, {"offset": 1.0}, {"offset": True}, {"size": None}),
        *({"sha256": "a" * 63}, {"sha256": "A" * 64}, {"sha256": 1}, {"stored_sha256": ""}),
        *({"file": ""}, {"file": 1}, {"table": 1}, {"masked": [1]}, {"masked": [[1]]}),
        *({"masked": [[1, 2, 3]]}, {"masked": 5}, {"requires": ["x"]}, {"requires": 1}),
        *({"metadata": []}, {"metadata": None}, {"kind": 1}, {"codec": None}),
        {"codec": RAW},  # whose sizes must be equal
    ],
)
def test_malformed(change: dict[str, Any]) -> None:
    with pytest.raises(FormatError, match="manifest is malformed"):
        parsed(**change)


@pytest.mark.parametrize("key", sorted(document()["entries"][0]))
def test_missing_field(key: str) -> None:
    found = document()
    del found["entries"][0][key]
    with pytest.raises(FormatError, match=f"KeyError: '{key}'"):
        parse(json.dumps(found).encode())


def test_two_entries_alike() -> None:
    data = serialise(Manifest(entries=(ENTRY, ENTRY), stub={}))
    with pytest.raises(FormatError, match="two entries alike"):
        parse(data)


@pytest.mark.parametrize("data", [b"", b"[]", b"null", b"\xff", b"[" * 100_000, b"1" * 5000])
def test_no_manifest(data: bytes) -> None:
    with pytest.raises(FormatError, match="manifest is malformed"):
        parse(data)


SOUND = serialise(Manifest(entries=(ENTRY,), stub={"a": 1}))


@settings(deadline=None)
@given(st.integers(0, len(SOUND)), st.integers(0, 12), st.binary(max_size=6))
def test_changed_bytes(start: int, length: int, between: bytes) -> None:
    refused = False
    try:
        parse(SOUND[:start] + between + SOUND[start + length :])
    except SatchelError:
        refused = True
    assert refused in (False, True)


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(sorted(document()["entries"][0])), PLAIN, max_size=2))
def test_any_values(changes: dict[str, Any]) -> None:
    found = document()
    found["entries"][0].update(changes)
    try:
        manifest = parse(json.dumps(found).encode())
    except SatchelError:
        return
    assert parse(serialise(manifest)) == manifest
