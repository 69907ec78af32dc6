"""Whole models like those of `tiny_models` that make vectors of texts, or rank documents."""

from __future__ import annotations

from pathlib import Path

from gguf_files import BOOL, F32, I32, STRING, U32, Gguf, TensorInfo, Typed
from tiny_models import CHARACTERS, END, HEADS, HIDDEN, LAYERS, WIDTH, plain, weights

BEGIN, FINISH, SEPARATOR = map(CHARACTERS.index, "<>|")
"""What texts are put between by a model that ranks."""
BERT_WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
"""The tokens of a BERT that stand for no letter, in order."""


def ranking(path: Path, template: str = "") -> Path:
    """`plain`, made to rank documents: a text lies between BEGIN and FINISH, and a SEPARATOR comes
    between two. With a `template` it says how it wants to be asked."""
    kinds = [3 if token in (BEGIN, FINISH, SEPARATOR) else 1 for token in range(END)]
    metadata = {
        "tokenizer.ggml.token_type": Typed(I32, [*kinds, 3, 1]),
        "tokenizer.ggml.bos_token_id": Typed(U32, BEGIN),
        "tokenizer.ggml.eos_token_id": Typed(U32, FINISH),
        "tokenizer.ggml.seperator_token_id": Typed(U32, SEPARATOR),  # as llama.cpp spells it
        "tokenizer.ggml.add_bos_token": Typed(BOOL, value=True),
        "tokenizer.ggml.add_eos_token": Typed(BOOL, value=True),
        "tokenizer.ggml.add_sep_token": Typed(BOOL, value=True),
    }
    if template:
        metadata["tokenizer.chat_template.rerank"] = Typed(STRING, template)
    return plain(path, said={"pooling_type": Typed(U32, 4)}, metadata=metadata)


def bert(path: Path, *, ranks: bool) -> Path:
    """BERT's architecture: it looks ahead, keeps no memory, and its tokens are pieces of words, of
    which there are the letters alone, for a word's beginning and for the rest of it."""
    facts = {
        "block_count": Typed(U32, LAYERS),
        "context_length": Typed(U32, 1024),
        "embedding_length": Typed(U32, WIDTH),
        "feed_forward_length": Typed(U32, HIDDEN),
        "attention.head_count": Typed(U32, HEADS),
        "attention.layer_norm_epsilon": Typed(F32, 1e-6),
        "attention.causal": Typed(BOOL, value=False),
        "pooling_type": Typed(U32, 4 if ranks else 2),
    }
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = [*BERT_WORDS, *(f"\u2581{letter}" for letter in letters), *letters]
    metadata = {
        "general.architecture": Typed(STRING, "bert"),
        **{f"bert.{key}": value for key, value in facts.items()},
        "tokenizer.ggml.model": Typed(STRING, "bert"),
        "tokenizer.ggml.tokens": Typed(STRING, words),
        "tokenizer.ggml.token_type": Typed(I32, [3] * len(BERT_WORDS) + [1] * 2 * len(letters)),
        "tokenizer.ggml.token_type_count": Typed(U32, 2),
    }
    for number, name in enumerate(("padding", "unknown", "cls", "seperator", "mask")):
        metadata[f"tokenizer.ggml.{name}_token_id"] = Typed(U32, number)
    metadata["tokenizer.ggml.bos_token_id"] = metadata["tokenizer.ggml.cls_token_id"]
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (WIDTH, len(words)),
        "token_types.weight": (WIDTH, 2),
        "position_embd.weight": (WIDTH, 1024),
        **_norm("token_embd_norm"),
    }
    for layer in range(LAYERS):
        block = f"blk.{layer}"
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            shapes |= {f"{block}.{name}.weight": (WIDTH, WIDTH), f"{block}.{name}.bias": (WIDTH,)}
        shapes |= {f"{block}.ffn_up.weight": (WIDTH, HIDDEN), f"{block}.ffn_up.bias": (HIDDEN,)}
        shapes |= {f"{block}.ffn_down.weight": (HIDDEN, WIDTH), f"{block}.ffn_down.bias": (WIDTH,)}
        shapes |= _norm(f"{block}.attn_output_norm") | _norm(f"{block}.layer_output_norm")
    if ranks:
        shapes |= {"cls.output.weight": (WIDTH, 1), "cls.output.bias": (1,)}
    tensors = (TensorInfo(name, shape, data=weights(name, shape)) for name, shape in shapes.items())
    return Gguf(metadata, tuple(tensors)).write(path)


def _norm(name: str) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (WIDTH,), f"{name}.bias": (WIDTH,)}
