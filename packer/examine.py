"""Deciding whether a model can be packed, and what there is to know about it beforehand.

Works on the header alone, so it is quick for a model of any size; split models are examined as
the one file that their parts make. Facts that a file does not state are None or 0, never
guesses, except where a docstring says how llama.cpp fills them in.
"""

from __future__ import annotations

import difflib
import os
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from packer.facts import Facts
from packer.gguf import ArraySummary, Tensor, TextSummary
from packer.memory import (
    CacheNeed,
    cache_need,
    compute_buffer,
    head_lengths,
    heads_kv,
    sliding_window,
)
from packer.merge import MergePlan, plan
from packer.tensor_types import TENSOR_TYPES, TensorType
from runtime_stub.engine.kv import DEFAULT as DEFAULT_KV
from runtime_stub.errors import FormatError, UnsupportedError

MAX_LAYERS = 512
"""As in llama.cpp."""

MAPPED_ALIGNMENT = 32
"""Bytes. What llama.cpp asks of the place of a data section that it maps from an open file."""

GENERATOR = "generator"
KINDS: dict[str, str] = {
    GENERATOR: "continues text: chat and completions",
    "embedding": "turns text into vectors; it can't chat",
    "encoder-decoder": "reads with one half and writes with the other, as T5 does",
    "diffusion": "fills in text in rounds instead of writing it token by token",
    "draft": "proposes tokens for another model; useless without it",
    "audio": "makes sound, or codes for it",
}
"""Kinds of models, with their meaning."""

_KIND_OF: dict[str, str] = {
    **dict.fromkeys(("bert", "modern-bert", "nomic-bert", "nomic-bert-moe"), "embedding"),
    **dict.fromkeys(("neo-bert", "jina-bert-v2", "jina-bert-v3", "eurobert"), "embedding"),
    **dict.fromkeys(("gemma-embedding", "llama-embed", "t5encoder"), "embedding"),
    **dict.fromkeys(("dream", "llada", "llada-moe", "rnd1"), "diffusion"),
    **dict.fromkeys(("eagle3", "dflash", "gemma4-assistant"), "draft"),
    **dict.fromkeys(("wavtokenizer-dec", "qwen3tts", "pockettts"), "audio"),
    "t5": "encoder-decoder",
}
_NO_CACHE = {"embedding", "diffusion", "audio"}

_NOT_MODELS: dict[str, tuple[str, str]] = {
    "adapter": ("a LoRA adapter", "Name its model, and the adapter with --adapter"),
    "mmproj": ("the image or audio half of a model", "Name the language model it belongs to"),
    "clip": ("the image or audio half of a model", "Name the language model it belongs to"),
    "imatrix": ("an importance matrix for quantizing", "Name the model itself"),
    "controlvector": ("a control vector", "Name the model itself"),
}
"""Values of general.type and general.architecture that are not language models."""

# general.file_type: what the file was quantized to. Numbers that are missing were withdrawn.
_FILE_TYPES = {
    **dict(enumerate(("F32", "F16", "Q4_0", "Q4_1"))),
    **dict(enumerate(("Q8_0", "Q5_0", "Q5_1", "Q2_K", "Q3_K_S", "Q3_K_M", "Q3_K_L"), 7)),
    **dict(enumerate(("Q4_K_S", "Q4_K_M", "Q5_K_S", "Q5_K_M", "Q6_K", "IQ2_XXS"), 14)),
    **dict(enumerate(("IQ2_XS", "Q2_K_S", "IQ3_XS", "IQ3_XXS", "IQ1_S", "IQ4_NL"), 20)),
    **dict(enumerate(("IQ3_S", "IQ3_M", "IQ2_S", "IQ2_M", "IQ4_XS", "IQ1_M", "BF16"), 26)),
    **dict(enumerate(("TQ1_0", "TQ2_0", "MXFP4", "NVFP4", "Q1_0", "Q2_0"), 36)),
}
_GUESSED = 1024  # a bit in general.file_type

_BASE_KEYS = ("name", "author", "organization", "version", "url", "repo_url")
_LICENCE_KEYS = (
    *("license", "license.name", "license.link", "author", "organization", "version"),
    *("url", "repo_url", "source.url", "source.repo_url", "quantized_by", "basename"),
    *("finetune", "size_label", "description", "doi"),
)

_FLOATING = {"f16", "bf16", "f32"}


@dataclass(frozen=True)
class Examination:
    """A model that can be packed, and what its header says about it."""

    plan: MergePlan
    """Its bytes, and its header."""
    paths: tuple[Path, ...]
    """The file, or all parts of a split one."""
    size: int
    """Bytes of the one GGUF it makes."""
    is_split: bool
    architecture: str
    kind: str
    """One of `KINDS`."""
    name: str
    """For people; the file's name without its ending if it states none."""
    quantization: str
    """Such as "Q4_K_M": what the file states, else the type of most of its bytes."""
    parameters: int
    context_length: int
    """Tokens it was trained for; 0 if it does not say."""
    embedding_length: int
    feed_forward_length: int
    layers: int
    heads: int
    """Attention heads of the layer that has most; likewise for the next."""
    heads_kv: int
    key_length: int
    """Numbers in a head's key; the embedding's length divided by the heads unless stated."""
    value_length: int
    vocabulary: int
    """Tokens."""
    sliding_window: int
    """Tokens that layers with a window attend to; 0 without such layers."""
    experts: int
    experts_used: int
    has_chat_template: bool
    chat_template: str
    """Empty if it has none, or one of more than 1 MiB (`notes` says so)."""
    chat_templates: Mapping[str, str]
    """Named variants."""
    licence: Mapping[str, str]
    """Licence, authors, sources and base models: the key without "general.", and its text."""
    weights: int
    """Bytes of all tensors."""
    floating: float
    """Fraction of these that are F16, BF16 or F32, which compression gains on: 0 to 1."""
    cache: CacheNeed
    notes: tuple[str, ...]
    """What a person should know before packing it: plain sentences."""

    def memory_needed(
        self, context: int, *, flash_attention: bool = True, kv: str = DEFAULT_KV
    ) -> int:
        """Bytes of memory to run with `context` tokens, estimated from above as `packer.memory`
        says. Repacked weights, which some CPUs use, may take up to `weights` once more."""
        compute = compute_buffer(
            vocabulary=self.vocabulary,
            heads=self.heads,
            embedding_length=self.embedding_length,
            feed_forward_length=self.feed_forward_length,
            context=context,
            flash_attention=flash_attention,
        )
        return self.weights + self.cache.bytes_for(context, kv) + compute


def examine(
    path: str | os.PathLike[str],
    *,
    architectures: Collection[str] | None = None,
    tensor_types: Mapping[int, TensorType] = TENSOR_TYPES,
    context: int | None = None,
    llama_cpp: str = "",
) -> Examination:
    """Examine the model at `path`: a GGUF file, or the first part of a split one.

    `architectures` and `tensor_types` are what the stub knows (None: any architecture), and
    `llama_cpp` its llama.cpp's version, for messages. `context` is what the pack will ask for.

    Raises UnsupportedError for an unknown architecture or tensor type and for files that are
    not language models, FormatError for unsound or incomplete ones, InputError for unreadable
    or missing ones.
    """
    merge_plan = plan(path, tensor_types=tensor_types)
    facts = Facts(merge_plan.header, merge_plan.parts[0])
    _require_model(facts, architectures, llama_cpp)
    return _examination(facts, merge_plan, tensor_types, context)


def _require_model(facts: Facts, architectures: Collection[str] | None, llama_cpp: str) -> None:
    path, architecture = facts.path, facts.architecture
    for what in (facts.text("general.type"), architecture):
        if what in _NOT_MODELS:
            problem, hint = _NOT_MODELS[what]
            raise UnsupportedError(f"{path} is {problem}, not a language model", hint)
    if not architecture:
        raise FormatError(f"{path} does not say its architecture", "Convert the model again")
    if architectures is not None and architecture not in architectures:
        raise UnsupportedError(*_unknown_architecture(facts, architectures, llama_cpp))
    if not facts.header.tensors:
        raise FormatError(f"{path} holds no tensors: it is a vocabulary or a header alone")
    if facts.layers > MAX_LAYERS:
        raise UnsupportedError(
            f"{path} says it has {facts.layers:,} layers; llama.cpp loads at most {MAX_LAYERS}"
        )
    if facts.header.header_size % MAPPED_ALIGNMENT:
        raise UnsupportedError(
            f"{path} has its tensors from byte {facts.header.header_size:,} on, which is no "
            f"multiple of {MAPPED_ALIGNMENT}: llama.cpp can't map it inside a pack",
            "Convert the model again, with the usual alignment of 32",
        )
    if not facts.text("tokenizer.ggml.model"):
        raise FormatError(f"{path} has no tokenizer", "Convert the model again")


def _unknown_architecture(
    facts: Facts, architectures: Collection[str], llama_cpp: str
) -> tuple[str, str]:
    shown = facts.architecture[:80]
    by = f"llama.cpp {llama_cpp}" if llama_cpp else "the stub's llama.cpp"
    near = difflib.get_close_matches(shown, sorted(architectures), n=3)
    known = f"; it knows {', '.join(near)}" if near else ""
    return (
        f"{facts.path} has architecture {shown!r}, which {by} does not know{known}",
        "Use a stub with a newer llama.cpp",
    )


def _examination(
    facts: Facts,
    merge_plan: MergePlan,
    tensor_types: Mapping[int, TensorType],
    context: int | None,
) -> Examination:
    tensors = merge_plan.header.tensors
    sizes = _sizes_by_type(tensors, tensor_types)
    weights = sum(sizes.values())
    floating = sum(size for name, size in sizes.items() if name in _FLOATING)
    kind = _kind(facts)
    key_length, value_length = head_lengths(facts)
    template = facts.header.metadata.get("tokenizer.chat_template")
    templates = _named_templates(facts)
    return Examination(
        plan=merge_plan,
        paths=merge_plan.parts,
        size=merge_plan.size,
        is_split=len(merge_plan.parts) > 1,
        architecture=facts.architecture,
        kind=kind,
        name=facts.text("general.name") or os.fsencode(facts.path.stem).decode(errors="replace"),
        quantization=_quantization(facts, sizes),
        parameters=sum(tensor.elements for tensor in tensors),
        context_length=facts.number("context_length"),
        embedding_length=facts.number("embedding_length"),
        feed_forward_length=facts.number("feed_forward_length"),
        layers=facts.layers,
        heads=facts.number("attention.head_count"),
        heads_kv=max(heads_kv(facts), default=0),
        key_length=key_length,
        value_length=value_length,
        vocabulary=_vocabulary(facts),
        sliding_window=sliding_window(facts),
        experts=facts.number("expert_count"),
        experts_used=facts.number("expert_used_count"),
        has_chat_template=isinstance(template, str | TextSummary) or bool(templates),
        chat_template=template if isinstance(template, str) else "",
        chat_templates=templates,
        licence=licence_of(facts),
        weights=weights,
        floating=floating / weights if weights else 0.0,
        cache=cache_need(facts) if kind not in _NO_CACHE else CacheNeed(),
        notes=tuple(_notes(facts, kind, context)),
    )


def _sizes_by_type(
    tensors: tuple[Tensor, ...], tensor_types: Mapping[int, TensorType]
) -> Counter[str]:
    sizes: Counter[str] = Counter()
    for tensor in tensors:
        sizes[tensor_types[tensor.type_id].name] += tensor.size
    return sizes


def _quantization(facts: Facts, sizes: Counter[str]) -> str:
    file_type = facts.header.metadata.get("general.file_type")
    if isinstance(file_type, int):
        name = _FILE_TYPES.get(file_type & ~_GUESSED)
        if name:
            return name
    return sizes.most_common(1)[0][0].upper()


def _kind(facts: Facts) -> str:
    stated = _KIND_OF.get(facts.architecture)
    if stated:
        return stated
    # Such as Qwen3-Embedding: a generator's architecture, made to pool its output
    return "embedding" if facts.number("pooling_type") > 0 else GENERATOR


def _vocabulary(facts: Facts) -> int:
    tokens = facts.header.metadata.get("tokenizer.ggml.tokens")
    if isinstance(tokens, ArraySummary):
        return tokens.count
    return len(tokens) if isinstance(tokens, tuple) else facts.number("vocab_size")


def _named_templates(facts: Facts) -> dict[str, str]:
    prefix = "tokenizer.chat_template."
    return {
        key.removeprefix(prefix): value
        for key, value in facts.header.metadata.items()
        if key.startswith(prefix) and isinstance(value, str)
    }


def licence_of(facts: Facts) -> dict[str, str]:
    """Licence, authors, sources and base models, by their keys without "general."."""
    keys = list(_LICENCE_KEYS)
    count = facts.header.metadata.get("general.base_model.count")
    for number in range(min(count, 16) if isinstance(count, int) else 0):
        keys += [f"base_model.{number}.{key}" for key in _BASE_KEYS]
    found = {key: facts.text(f"general.{key}") for key in keys}
    return {key: value for key, value in found.items() if value}


def _notes(facts: Facts, kind: str, context: int | None) -> list[str]:
    notes = []
    trained = facts.number("context_length")
    if context and trained and context > trained:
        notes.append(
            f"A context of {context:,} tokens was asked for, but the model was trained for "
            f"{trained:,}: what it writes beyond that is likely to be poor."
        )
    if kind != GENERATOR:
        notes.append(f"This is no ordinary text generator; its kind {KINDS[kind]}.")
    notes += _template_notes(facts, kind)
    licence = facts.text("general.license")
    if not (licence or facts.text("general.license.name") or facts.text("general.license.link")):
        notes.append("The file does not state its licence: find out before you pass a pack on.")
    trailing = facts.header.file_size - facts.header.data_end
    if trailing > facts.header.alignment:
        notes.append(f"{trailing:,} bytes behind the last tensor belong to nothing.")
    return notes


def _template_notes(facts: Facts, kind: str) -> list[str]:
    template = facts.header.metadata.get("tokenizer.chat_template")
    if isinstance(template, TextSummary):
        return [f"Its chat template is left out: it has {template.size:,} bytes."]
    if template is None and kind == GENERATOR:
        return ["It has no chat template: it may be a base model, which continues text only."]
    return []
