"""How much memory a model will need, estimated from its header.

weights + cache + compute buffer, where the cache is per layer that has one

    heads_kv × (key_length + value_length) × tokens × 2 bytes (f16; 17/16 with kv q8_0)

with tokens = context, or window + 512 for a layer with a window; recurrent layers have a fixed
state instead. The compute buffer is

    512 × 4 bytes × (max(vocabulary, attention) + 2 × embedding + 2 × feed-forward)

with attention = (heads + 1) × context, or context / 2 with flash attention. SmolLM2 at 8,192
tokens: 104 MiB (measured: 98) with flash attention and 168 (166) without. Repacked weights,
which some CPUs use, may take up to their size once more.
"""

from __future__ import annotations

from dataclasses import dataclass

from packer.facts import Facts
from runtime_stub.engine.kv import DEFAULT as DEFAULT_KV
from runtime_stub.engine.kv import KV_TYPES

# How often a layer attends to everything, where the file does not say: every nth one.
_WINDOW_PERIODS = {
    **dict.fromkeys(("gemma2", "gpt-oss"), 2),
    **dict.fromkeys(("exaone4", "exaone-moe", "olmo2", "llama4", "cohere2", "cohere2moe"), 4),
    **dict.fromkeys(("afmoe", "laguna", "mellum", "muse-glimmer", "smallthinker"), 4),
    "gemma3n": 5,
    "gemma3": 6,
    "plamo3": 8,
}
_DENSE_FIRST = {"cohere2moe", "laguna", "smallthinker"}
_DEFAULT_WINDOWS = {"llama4": 8192}
_RECURRENT = {"mamba", "mamba2", "rwkv6", "rwkv6qwen2", "rwkv7", "arwkv7"}
_RECURRENT_PERIODS = dict.fromkeys(("qwen3next", "qwen35", "qwen35moe", "qwen4exp"), 4)
_SHARED_FROM = {"gemma3n": 20}  # layers from here on have no cache of their own

_MICRO_BATCH = 512  # tokens computed at once, llama.cpp's default
_HALF, _FLOAT = 2, 4  # bytes


@dataclass(frozen=True)
class CacheNeed:
    """What a context costs. All in bytes, with keys and values in f16, except `window`."""

    per_token: int = 0
    """Of layers that attend to everything."""
    per_window_token: int = 0
    """Of layers that attend to a window only."""
    window: int = 0
    """Tokens that such a layer keeps."""
    state: int = 0
    """Of recurrent layers, whatever the context."""

    def bytes_for(self, context: int, kv: str = DEFAULT_KV) -> int:
        windowed = min(context, self.window + _MICRO_BATCH)
        kept = self.per_token * context + self.per_window_token * windowed
        return KV_TYPES[kv].bytes_of(kept // _HALF) + self.state


def compute_buffer(
    *,
    vocabulary: int,
    heads: int,
    embedding_length: int,
    feed_forward_length: int,
    context: int,
    flash_attention: bool,
) -> int:
    """Bytes that computing takes on top of weights and cache."""
    attention = context // 2 if flash_attention else (heads + 1) * context
    widths = 2 * embedding_length + 2 * feed_forward_length
    return _MICRO_BATCH * _FLOAT * (max(vocabulary, attention) + widths)


def cache_need(facts: Facts) -> CacheNeed:
    """What a context of the model costs, from what its header says about its layers."""
    key, value = head_lengths(facts)
    if facts.number("attention.key_length_mla"):
        value = 0  # the cache holds one compressed row, from which llama.cpp computes both
    window_key = facts.number("attention.key_length_swa") or key
    window_value = facts.number("attention.value_length_swa") or value
    shared = facts.number("attention.shared_kv_layers")
    own = _SHARED_FROM.get(facts.architecture, max(facts.layers - shared, 0))
    recurrent, windowed = _recurrent(facts), _windowed(facts)
    full = part = 0
    for layer, heads in enumerate(heads_kv(facts)[:own]):
        if recurrent[layer]:
            continue
        if windowed[layer]:
            part += heads * (window_key + window_value)
        else:
            full += heads * (key + value)
    states = facts.layers if facts.architecture == "falcon-h1" else sum(recurrent)
    return CacheNeed(full * _HALF, part * _HALF, _window(facts), states * _layer_state(facts))


def heads_kv(facts: Facts) -> tuple[int, ...]:
    """For each layer, the attention heads whose keys and values the cache holds."""
    if facts.numbers("attention.head_count_kv"):
        return facts.per_layer("attention.head_count_kv", 0)
    return facts.per_layer("attention.head_count", 0)


def head_lengths(facts: Facts) -> tuple[int, int]:
    """Numbers in a head's key and value; the embedding's share of each head unless stated."""
    heads = facts.per_layer("attention.head_count", 0)
    usual = facts.number("embedding_length") // heads[0] if heads and heads[0] else 0
    key = facts.number("attention.key_length") or usual
    return key, facts.number("attention.value_length") or usual


def sliding_window(facts: Facts) -> int:
    """Tokens that layers with a window attend to; 0 without such layers."""
    return _window(facts) if any(_windowed(facts)) else 0


def _window(facts: Facts) -> int:
    return facts.number("attention.sliding_window") or _DEFAULT_WINDOWS.get(facts.architecture, 0)


def _windowed(facts: Facts) -> tuple[bool, ...]:
    """For each layer, whether it attends to a window only.

    Architectures that don't say, and are not known to have such layers, have none: llama.cpp
    ignores the window that some of them state.
    """
    key = "attention.sliding_window_pattern"
    if not _window(facts):
        return (False,) * facts.layers
    if isinstance(facts.get(key), tuple):
        return tuple(map(bool, facts.per_layer(key, 0)))
    period = facts.number(key) or _WINDOW_PERIODS.get(facts.architecture, 1)
    dense = 0 if facts.architecture in _DENSE_FIRST else period - 1
    return tuple(layer % period != dense for layer in range(facts.layers))


def _recurrent(facts: Facts) -> tuple[bool, ...]:
    """For each layer, whether it keeps a fixed state instead of keys and values."""
    if facts.architecture in _RECURRENT:
        return (True,) * facts.layers
    key = "attention.recurrent_layers"
    if isinstance(facts.get(key), tuple):
        return tuple(map(bool, facts.per_layer(key, 0)))
    period = _RECURRENT_PERIODS.get(facts.architecture, 0)
    if period:
        period = facts.number("full_attention_interval") or period
        return tuple((layer + 1) % period != 0 for layer in range(facts.layers))
    return tuple(heads == 0 for heads in heads_kv(facts))


def _layer_state(facts: Facts) -> int:
    """Bytes of one recurrent layer's state (f32): RWKV's, short convolutions', or Mamba's."""
    embedding = facts.number("embedding_length")
    if head := facts.number("wkv.head_size"):
        return embedding * ((facts.number("token_shift_count") or 2) + head) * _FLOAT
    if kernel := facts.number("shortconv.l_cache"):
        return embedding * (kernel - 1) * _FLOAT
    inner, state = facts.number("ssm.inner_size"), facts.number("ssm.state_size")
    kept = max(facts.number("ssm.conv_kernel") - 1, 0)
    convolution = kept * (inner + 2 * facts.number("ssm.group_count") * state)
    return (convolution + inner * state) * _FLOAT
