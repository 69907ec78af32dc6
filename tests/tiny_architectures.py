"""Whole models like those of `tiny_models`, one of each architecture that multiplies its weights
with states and does nothing else with them: each has what is particular to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from gguf_files import F32, U32, Typed
from tiny_models import (
    HEAD,
    HEADS,
    HIDDEN,
    KEY_VALUE_HEADS,
    LAYERS,
    VOCABULARY,
    WIDTH,
    WINDOW,
    attention_facts,
    attention_shapes,
    feed_forward_shapes,
    write,
)

Shapes = dict[str, tuple[int, ...]]
_QUERIES, _KEYS = HEADS * HEAD, KEY_VALUE_HEADS * HEAD
_EXPERTS = 4


@dataclass(frozen=True)
class Architecture:
    """What its models have besides what most have."""

    layer: Shapes = field(default_factory=dict)
    """Of each layer, without the layer's name."""
    without: tuple[str, ...] = ()
    """What its layers don't have of what most have."""
    facts: Mapping[str, Typed] = field(default_factory=dict)
    beside: Shapes = field(default_factory=dict)
    """Of no layer."""
    ties: tuple[bool, ...] = (False, True)
    """Whether the weights of the first layer may be those of the last, too, or have to."""
    called: str = ""
    """Its name, where that is another's."""


_EVERY_SECOND = {
    "attention.sliding_window": Typed(U32, WINDOW),
    "attention.sliding_window_pattern": Typed(U32, 2),
}
_NORMS_AFTERWARDS: Shapes = {
    "post_attention_norm.weight": (WIDTH,),
    "post_ffw_norm.weight": (WIDTH,),
}
_NORMS_OF_HEADS: Shapes = {"attn_q_norm.weight": (HEAD,), "attn_k_norm.weight": (HEAD,)}
ARCHITECTURES: Mapping[str, Architecture] = {
    "gemma": Architecture(ties=(True,)),
    "gemma2": Architecture(
        _NORMS_AFTERWARDS,
        facts=_EVERY_SECOND
        | {
            "attn_logit_softcapping": Typed(F32, 5.0),
            "final_logit_softcapping": Typed(F32, 5.0),
        },
        ties=(True,),
    ),
    "gemma3": Architecture(_NORMS_AFTERWARDS | _NORMS_OF_HEADS, facts=_EVERY_SECOND),
    "granite": Architecture(
        facts={
            "attention.scale": Typed(F32, 0.5),
            "embedding_scale": Typed(F32, 3.0),
            "residual_scale": Typed(F32, 0.6),
            "logit_scale": Typed(F32, 4.0),
        }
    ),
    "llama": Architecture(
        {  # most models do without them
            "attn_output.bias": (WIDTH,),
            "ffn_gate.bias": (HIDDEN,),
            "ffn_up.bias": (HIDDEN,),
            "ffn_down.bias": (WIDTH,),
        }
    ),
    "llama with experts": Architecture(
        {
            "ffn_gate_inp.weight": (WIDTH, _EXPERTS),
            "ffn_gate_exps.weight": (WIDTH, HIDDEN, _EXPERTS),
            "ffn_up_exps.weight": (WIDTH, HIDDEN, _EXPERTS),
            "ffn_down_exps.weight": (HIDDEN, WIDTH, _EXPERTS),
        },
        without=("ffn_gate.weight", "ffn_up.weight", "ffn_down.weight"),
        # All are asked: were some left out, the last bits of a number could decide on which.
        facts={"expert_count": Typed(U32, _EXPERTS), "expert_used_count": Typed(U32, _EXPERTS)},
        called="llama",
    ),
    "olmo2": Architecture(
        {
            "attn_q_norm.weight": (_QUERIES,),
            "attn_k_norm.weight": (_KEYS,),
            **_NORMS_AFTERWARDS,
        },
        without=("attn_norm.weight", "ffn_norm.weight"),
        ties=(False,),
    ),
    "olmo2 with a window": Architecture(  # as OLMo 3 has
        {
            "attn_q_norm.weight": (_QUERIES,),
            "attn_k_norm.weight": (_KEYS,),
            **_NORMS_AFTERWARDS,
        },
        without=("attn_norm.weight", "ffn_norm.weight"),
        facts=_EVERY_SECOND,
        ties=(False,),
        called="olmo2",
    ),
    "phi3": Architecture(
        {
            "attn_qkv.weight": (WIDTH, _QUERIES + 2 * _KEYS),
            "ffn_up.weight": (WIDTH, 2 * HIDDEN),
        },
        without=("attn_q.weight", "attn_k.weight", "attn_v.weight", "ffn_gate.weight"),
    ),
    "qwen2": Architecture(
        {"attn_q.bias": (_QUERIES,), "attn_k.bias": (_KEYS,), "attn_v.bias": (_KEYS,)},
        beside={"output.bias": (VOCABULARY,)},
    ),
    "qwen3": Architecture(_NORMS_OF_HEADS),
    "smollm3": Architecture(),  # every fourth layer does without positions
}


def quantized(
    path: Path, name: str, *, tied: bool = False, facts: Mapping[str, Typed] | None = None
) -> Path:
    """A model of the architecture that is called `name` above, with weights of Q8_0, that says
    `facts` besides."""
    own = ARCHITECTURES[name]
    shapes = dict(own.beside)
    for layer in range(LAYERS):
        block = f"blk.{layer}"
        usual = attention_shapes(block) | feed_forward_shapes(block)
        usual |= {f"{block}.ffn_norm.weight": (WIDTH,)}
        for missing in own.without:
            del usual[f"{block}.{missing}"]
        shapes |= usual | {f"{block}.{key}": shape for key, shape in own.layer.items()}
    said = {**attention_facts(), "rope.dimension_count": Typed(U32, HEAD), **own.facts}
    said |= facts or {}
    return write(path, own.called or name, said, shapes, quantized=True, tied=tied)
