"""Deciding whether a model can guess ahead for another: the tokens of both must be the same."""

from __future__ import annotations

import os
import struct
from collections.abc import Collection, Mapping

from packer.examine import GENERATOR, Examination, examine
from packer.merge import Literal, MergePlan
from packer.tensor_types import TENSOR_TYPES, TensorType
from runtime_stub.errors import InputError, UnsupportedError

_TOKENS = "tokenizer.ggml.tokens"
_PADDING = 1024
"""By how many tokens one vocabulary may be longer: some are padded to a round number."""
_ARRAY_HEAD = struct.Struct("<IIQ")


def examine_draft(
    path: str | os.PathLike[str],
    model: Examination,
    *,
    architectures: Collection[str] | None = None,
    tensor_types: Mapping[int, TensorType] = TENSOR_TYPES,
    llama_cpp: str = "",
) -> Examination:
    """Examine the model at `path`, which is to guess ahead for `model`.

    Raises UnsupportedError where it can't, and all that `examine` raises.
    """
    draft = examine(
        path, architectures=architectures, tensor_types=tensor_types, llama_cpp=llama_cpp
    )
    if draft.kind != GENERATOR:
        raise UnsupportedError(f"{path} is no ordinary text generator, and can't guess ahead")
    if forgets(draft):
        raise UnsupportedError(
            f"{path} can't guess ahead: its memory (a state, or a sliding window) can't take back "
            "what was wrong",
            "Use a draft that attends to everything",
        )
    if not _same_tokens(draft.plan, model.plan):
        raise UnsupportedError(
            f"{path} can't guess ahead for {model.paths[0]}: its tokens are others "
            f"({draft.vocabulary:,} and {model.vocabulary:,})",
            "Use a smaller model of the same family",
        )
    return draft


def forgets(model: Examination) -> bool:
    """Whether tokens that were read can't be taken back at any time."""
    return model.sliding_window > 0 or model.cache.state > 0


def _same_tokens(one: MergePlan, other: MergePlan) -> bool:
    """Whether both vocabularies are the same, as far as the shorter one goes."""
    (first, texts), (second, others) = (_tokens(plan) for plan in (one, other))
    if abs(first - second) > _PADDING:
        return False
    shorter, longer = sorted((texts, others), key=len)
    return first > 0 and longer.startswith(shorter)


def _tokens(plan: MergePlan) -> tuple[int, bytes]:
    """How many tokens there are, and their texts as they are stored, each behind its length."""
    if _TOKENS not in plan.header.spans:
        return 0, b""
    start, end = plan.header.spans[_TOKENS]
    data = _bytes(plan, start + 8 + len(_TOKENS), end)
    _, _, count = _ARRAY_HEAD.unpack_from(data)
    return count, data[_ARRAY_HEAD.size :]


def _bytes(plan: MergePlan, start: int, end: int) -> bytes:
    """What the one file that `plan` makes holds there."""
    found = bytearray()
    place = 0
    for piece in plan.pieces:
        first, last = max(start, place), min(end, place + piece.length)
        if first < last and isinstance(piece, Literal):
            found += piece.data[first - place : last - place]
        elif first < last and not isinstance(piece, Literal):
            found += _read(piece.path, piece.offset + first - place, last - first)
        place += piece.length
    return bytes(found)


def _read(path: os.PathLike[str], offset: int, length: int) -> bytes:
    try:
        with open(path, "rb") as file:
            file.seek(offset)
            data = file.read(length)
    except OSError as error:
        raise InputError(f"{path} can't be read: {error.strerror}") from None
    if len(data) < length:
        raise InputError(f"{path} was changed while it was read", "Try again")
    return data
