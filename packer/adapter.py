"""Deciding whether a LoRA adapter can be packed with a model, by both headers alone."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from packer.examine import Examination, licence_of
from packer.facts import Facts
from packer.gguf import Tensor
from packer.merge import MergePlan, plan
from packer.tensor_types import TENSOR_TYPES, TensorType
from runtime_stub.errors import FormatError, UnsupportedError

_A, _B = ".lora_a", ".lora_b"
_IGNORED = "_norm.weight"
"""What llama.cpp leaves out of adapters."""


@dataclass(frozen=True)
class AdapterExamination:
    """An adapter that fits its model."""

    plan: MergePlan
    size: int
    """Bytes of its GGUF."""
    name: str
    rank: int
    """The largest among its tensors."""
    floating: float
    """Fraction of its bytes that are floating point numbers, which compression gains on."""
    licence: Mapping[str, str]


def examine_adapter(
    path: str | os.PathLike[str],
    model: Examination,
    *,
    tensor_types: Mapping[int, TensorType] = TENSOR_TYPES,
) -> AdapterExamination:
    """Examine the adapter at `path`, made for `model`.

    Raises UnsupportedError if it is no LoRA adapter or one for another model, FormatError if
    it is unsound, InputError if it can't be read.
    """
    merge_plan = plan(path, tensor_types=tensor_types)
    facts = Facts(merge_plan.header, merge_plan.parts[0])
    if facts.text("general.type") != "adapter":
        raise UnsupportedError(f"{path} is not a LoRA adapter", "Name it as a model, if it is one")
    kind = facts.text("adapter.type")
    if kind != "lora":
        raise UnsupportedError(f"{path} is an adapter of type {kind!r}; only LoRA is known")
    if facts.architecture != model.architecture:
        raise UnsupportedError(
            f"{path} was made for architecture {facts.architecture!r}, "
            f"and the model's is {model.architecture!r}"
        )
    tensors = merge_plan.header.tensors
    sizes = {True: 0, False: 0}
    for tensor in tensors:
        sizes[tensor_types[tensor.type_id].name in ("f16", "bf16", "f32")] += tensor.size
    return AdapterExamination(
        plan=merge_plan,
        size=merge_plan.size,
        name=facts.text("general.name"),
        rank=_fit(str(path), tensors, model),
        floating=sizes[True] / (sum(sizes.values()) or 1),
        licence=licence_of(facts),
    )


def _fit(path: str, tensors: tuple[Tensor, ...], model: Examination) -> int:
    """The adapter's rank; raises if one of its pairs has no place in the model."""
    base = {tensor.name: tensor.shape for tensor in model.plan.header.tensors}
    found = {tensor.name: tensor.shape for tensor in tensors}
    names = {name.removesuffix(_A).removesuffix(_B) for name in found if name.endswith((_A, _B))}
    strangers = [n for n in found if not n.endswith((_A, _B, _IGNORED))]
    if strangers or not names:
        what = f"the tensor {strangers[0]!r}" if strangers else "no tensors"
        raise FormatError(f"{path} holds {what}, which is not what LoRA adapters are made of")
    rank = 0
    for name in sorted(names):
        a, b, place = found.get(name + _A), found.get(name + _B), base.get(name)
        if a is None or b is None:
            raise FormatError(f"{path} holds only one half of the pair for {name!r}")
        if place is None:
            raise UnsupportedError(
                f"{path} changes the tensor {name!r}, which the model does not have",
                "It was made for another model",
            )
        if name == "token_embd.weight":
            fits = place[0] == b[1] and place[1] == a[1]
        else:
            fits = place[0] == a[0] and place[1] == b[1] and a[1] == b[0]
        if not fits:
            raise UnsupportedError(
                f"{path} changes the tensor {name!r} in a shape that the model's does not have",
                "It was made for another model",
            )
        rank = max(rank, min(a[1], b[0]))
    return rank
