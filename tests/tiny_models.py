"""Whole models of a few hundred kilobytes, with random weights: what they say means nothing, but
each next token depends on all that came before, so that a wrong memory shows at once.

Their vocabulary is one token for each printable ASCII character: a text is its tokens, and so
is an answer.
"""

from __future__ import annotations

import random
import struct
import zlib
from array import array
from collections.abc import Mapping
from pathlib import Path

from gguf_files import BOOL, F32, I32, STRING, TYPE_Q8_0, U32, Gguf, TensorInfo, Typed

WIDTH, LAYERS, HIDDEN = 64, 4, 96
WINDOW = 16
CHARACTERS = "".join(map(chr, range(33, 127)))
END = len(CHARACTERS)
"""The token that ends an answer; tests forbid it."""
VOCABULARY = END + 2
HEADS, HEAD, KEY_VALUE_HEADS = 4, 16, 2
_STATE, _CONVOLUTION, _RANK = 8, 4, 4


def plain(
    path: Path,
    head: int = HEAD,
    seed: str = "",
    characters: str = CHARACTERS,
    *,
    quantized: bool = False,
    tied: bool = False,
    said: Mapping[str, Typed] | None = None,
    metadata: Mapping[str, Typed] | None = None,
) -> Path:
    """Llama's architecture, with `head` numbers in each key and value. Another `seed` makes other
    weights, `characters` another vocabulary. `quantized` weights are Q8_0; `tied` ones of the first
    layer are the last one's, too. What is `said` is of the architecture, `metadata` of the file."""
    facts = attention_facts(head) | {"rope.dimension_count": Typed(U32, head), **(said or {})}
    shapes: dict[str, tuple[int, ...]] = {}
    for layer in range(LAYERS):
        block = f"blk.{layer}"
        shapes |= attention_shapes(block, head) | feed_forward_shapes(block)
        shapes |= {f"{block}.ffn_norm.weight": (WIDTH,)}
    return write(path, "llama", facts, shapes, seed, characters, quantized, tied, metadata)


def adapter(path: Path, seed: str, rank: int = 4) -> Path:
    """A LoRA adapter for `plain`, as strong as the model itself."""
    metadata = {
        "general.architecture": Typed(STRING, "llama"),
        "general.type": Typed(STRING, "adapter"),
        "adapter.type": Typed(STRING, "lora"),
        "adapter.lora.alpha": Typed(F32, float(rank)),
    }
    tensors = []
    for layer in range(LAYERS):
        name = f"blk.{layer}.ffn_down.weight"
        for half, shape in (("lora_a", (HIDDEN, rank)), ("lora_b", (rank, WIDTH))):
            data = weights(f"{seed}.{name}.{half}", shape)
            tensors.append(TensorInfo(f"{name}.{half}", shape, data=data))
    return Gguf(metadata, tuple(tensors)).write(path)


def sliding(path: Path, head: int = HEAD, *, quantized: bool = False, tied: bool = False) -> Path:
    """Gemma 3's architecture: every second layer sees the last WINDOW tokens only."""
    facts = attention_facts(head) | {
        "attention.sliding_window": Typed(U32, WINDOW),
        "attention.sliding_window_pattern": Typed(U32, 2),
    }
    shapes: dict[str, tuple[int, ...]] = {}
    for layer in range(LAYERS):
        block = f"blk.{layer}"
        shapes |= attention_shapes(block, head) | feed_forward_shapes(block)
        shapes |= {
            f"{block}.attn_q_norm.weight": (head,),
            f"{block}.attn_k_norm.weight": (head,),
            f"{block}.post_attention_norm.weight": (WIDTH,),
            f"{block}.post_ffw_norm.weight": (WIDTH,),
            f"{block}.ffn_norm.weight": (WIDTH,),
        }
    return write(path, "gemma3", facts, shapes, quantized=quantized, tied=tied)


def recurrent(path: Path) -> Path:
    """Mamba's architecture: a state instead of a cache of keys and values."""
    inner = 2 * WIDTH
    facts = _state_space(inner, _STATE, _RANK) | {
        "feed_forward_length": Typed(U32, 0),
        "attention.head_count": Typed(U32, 0),
    }
    shapes: dict[str, tuple[int, ...]] = {}
    for layer in range(LAYERS):
        block = f"blk.{layer}"
        shapes |= {
            f"{block}.attn_norm.weight": (WIDTH,),
            f"{block}.ssm_in.weight": (WIDTH, 2 * inner),
            f"{block}.ssm_conv1d.weight": (_CONVOLUTION, inner),
            f"{block}.ssm_conv1d.bias": (inner,),
            f"{block}.ssm_x.weight": (inner, _RANK + 2 * _STATE),
            f"{block}.ssm_dt.weight": (_RANK, inner),
            f"{block}.ssm_dt.bias": (inner,),
            f"{block}.ssm_a": (_STATE, inner),
            f"{block}.ssm_d": (inner,),
            f"{block}.ssm_out.weight": (inner, WIDTH),
        }
    return write(path, "mamba", facts, shapes)


def hybrid(path: Path, head: int = HEAD) -> Path:
    """Falcon-H1's architecture: each layer has a state and attention beside each other."""
    inner, heads, state = WIDTH, 4, 16
    facts = _state_space(inner, state, heads) | attention_facts(head)
    facts |= {"ssm.group_count": Typed(U32, 1), "rope.freq_base": Typed(F32, 10000.0)}
    convolved = inner + 2 * state
    shapes: dict[str, tuple[int, ...]] = {}
    for layer in range(LAYERS):
        block = f"blk.{layer}"
        shapes |= attention_shapes(block, head) | feed_forward_shapes(block)
        shapes |= {
            f"{block}.ffn_norm": (WIDTH,),
            f"{block}.ssm_in.weight": (WIDTH, inner + convolved + heads),
            f"{block}.ssm_conv1d.weight": (_CONVOLUTION, convolved),
            f"{block}.ssm_conv1d.bias": (convolved,),
            f"{block}.ssm_dt.bias": (heads,),
            f"{block}.ssm_a": (1, heads),
            f"{block}.ssm_d": (1, heads),
            f"{block}.ssm_norm.weight": (inner, 1),
            f"{block}.ssm_out.weight": (inner, WIDTH),
        }
    return write(path, "falcon-h1", facts, shapes)


def _state_space(inner: int, state: int, rank: int) -> dict[str, Typed]:
    return {
        "ssm.conv_kernel": Typed(U32, _CONVOLUTION),
        "ssm.inner_size": Typed(U32, inner),
        "ssm.state_size": Typed(U32, state),
        "ssm.time_step_rank": Typed(U32, rank),
    }


def attention_facts(head: int = HEAD) -> dict[str, Typed]:
    """What a model says of its attention, and how wide its layers are in between."""
    return {
        "attention.head_count": Typed(U32, HEADS),
        "attention.head_count_kv": Typed(U32, KEY_VALUE_HEADS),
        "attention.key_length": Typed(U32, head),
        "attention.value_length": Typed(U32, head),
        "feed_forward_length": Typed(U32, HIDDEN),
    }


def attention_shapes(block: str, head: int = HEAD) -> dict[str, tuple[int, ...]]:
    return {
        f"{block}.attn_norm.weight": (WIDTH,),
        f"{block}.attn_q.weight": (WIDTH, HEADS * head),
        f"{block}.attn_k.weight": (WIDTH, KEY_VALUE_HEADS * head),
        f"{block}.attn_v.weight": (WIDTH, KEY_VALUE_HEADS * head),
        f"{block}.attn_output.weight": (HEADS * head, WIDTH),
    }


def feed_forward_shapes(block: str) -> dict[str, tuple[int, ...]]:
    return {
        f"{block}.ffn_gate.weight": (WIDTH, HIDDEN),
        f"{block}.ffn_up.weight": (WIDTH, HIDDEN),
        f"{block}.ffn_down.weight": (HIDDEN, WIDTH),
    }


def write(
    path: Path,
    architecture: str,
    facts: Mapping[str, Typed],
    shapes: dict[str, tuple[int, ...]],
    seed: str = "",
    characters: str = CHARACTERS,
    quantized: bool = False,
    tied: bool = False,
    metadata: Mapping[str, Typed] | None = None,
) -> Path:
    """A model of `shapes`, and of what all have; `quantized`, `tied` and `metadata` as in
    `plain`."""
    facts = {
        "block_count": Typed(U32, LAYERS),
        "context_length": Typed(U32, 4096),
        "embedding_length": Typed(U32, WIDTH),
        "attention.layer_norm_rms_epsilon": Typed(F32, 1e-6),
        **facts,
    }
    every = {
        "general.architecture": Typed(STRING, architecture),
        **{f"{architecture}.{key}": value for key, value in facts.items()},
        "tokenizer.ggml.model": Typed(STRING, "gpt2"),
        "tokenizer.ggml.pre": Typed(STRING, "gpt-2"),
        "tokenizer.ggml.tokens": Typed(STRING, [*characters, "<|end|>", "!!"]),
        "tokenizer.ggml.token_type": Typed(I32, [1] * END + [3, 1]),
        "tokenizer.ggml.merges": Typed(STRING, ["! !"]),
        "tokenizer.ggml.eos_token_id": Typed(U32, END),
        "tokenizer.ggml.bos_token_id": Typed(U32, END),
        "tokenizer.ggml.add_bos_token": Typed(BOOL, value=False),
        **(metadata or {}),
    }
    shapes = {
        "token_embd.weight": (WIDTH, VOCABULARY),
        "output.weight": (WIDTH, VOCABULARY),
        "output_norm.weight": (WIDTH,),
        **shapes,
    }
    if tied:
        del shapes["output.weight"]
    tensors = tuple(
        TensorInfo(name, shape, TYPE_Q8_0, data=_rounded(weights(name, shape, seed)))
        if quantized and len(shape) > 1 and "ffn_gate_inp" not in name
        else TensorInfo(name, shape, data=weights(name, shape, seed))
        for name, shape in shapes.items()
    )
    return Gguf(every, tensors).write(path)


def _rounded(numbers: bytes) -> bytes:
    """Numbers as Q8_0: blocks of 32, each with a scale."""
    every = array("f", numbers)
    blocks = []
    for first in range(0, len(every), 32):
        block = every[first : first + 32]
        scale = max(map(abs, block)) / 127
        blocks.append(struct.pack("<e32b", scale, *(round(value / scale) for value in block)))
    return b"".join(blocks)


def weights(name: str, shape: tuple[int, ...], seed: str = "") -> bytes:
    """Numbers like a trained model's, the same each time."""
    chance = random.Random(zlib.crc32(f"{seed}{name}".encode()))  # noqa: S311  (weights, not secrets)
    count = 1
    for length in shape:
        count *= length
    if name.endswith(("_q_norm.weight", "_k_norm.weight")):
        values = [chance.uniform(1.5, 2.0) for _ in range(count)]  # attends to few tokens
    elif "norm" in name:
        values = [chance.uniform(0.8, 1.2) for _ in range(count)]
    elif name.endswith("ssm_a"):
        values = [-chance.uniform(0.02, 0.5) for _ in range(count)]  # how fast a state fades
    elif "bias" in name or name.endswith("ssm_d"):
        values = [chance.uniform(-0.1, 0.1) for _ in range(count)]
    else:
        spread = 1.0 if "embd" in name else 1.7 * shape[0] ** -0.5
        values = [chance.gauss(0, spread) for _ in range(count)]
    return array("f", values).tobytes()
