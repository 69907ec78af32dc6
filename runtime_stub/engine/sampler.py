"""From sampling settings to a llama.cpp sampler chain."""

from __future__ import annotations

import secrets
from typing import Any

from runtime_stub.engine.library import library
from runtime_stub.engine.messages import Sampling


class Sampler:
    """A native sampler chain with its state. Belongs to the thread that owns the context."""

    def __init__(self, sampling: Sampling, vocabulary_size: int) -> None:
        llama = library()
        self._chain: Any = llama.llama_sampler_chain_init(
            llama.llama_sampler_chain_default_params()
        )
        for stage in _stages(llama, sampling, vocabulary_size):
            llama.llama_sampler_chain_add(self._chain, stage)

    def sample(self, context: Any, index: int) -> int:
        """Choose a token from the logits of batch position `index`, and remember it."""
        return int(library().llama_sampler_sample(self._chain, context, index))

    def accept(self, token: int) -> None:
        """Remember a prompt token, for the penalties."""
        library().llama_sampler_accept(self._chain, token)

    def free(self) -> None:
        """Release the chain; the object must not be used afterwards."""
        if self._chain:
            library().llama_sampler_free(self._chain)
            self._chain = None


_COLDEST = 1e-5
"""Dividing by less overflows; below it the most likely token is taken."""
_WEAKEST_PENALTY = 0.01
"""llama.cpp wants a factor above 0."""


def _stages(llama: Any, sampling: Sampling, vocabulary_size: int) -> list[Any]:
    stages = []
    if (
        sampling.repeat_penalty != 1.0
        or sampling.frequency_penalty != 0.0
        or sampling.presence_penalty != 0.0
    ):
        stages.append(
            llama.llama_sampler_init_penalties(
                vocabulary_size,
                sampling.repeat_last_n,
                max(sampling.repeat_penalty, _WEAKEST_PENALTY),
                sampling.frequency_penalty,
                sampling.presence_penalty,
            )
        )
    if sampling.temperature < _COLDEST:
        stages.append(llama.llama_sampler_init_greedy())
        return stages
    if sampling.top_k > 0:
        stages.append(llama.llama_sampler_init_top_k(sampling.top_k))
    if sampling.top_p < 1:
        stages.append(llama.llama_sampler_init_top_p(sampling.top_p, 1))
    if sampling.min_p > 0:
        stages.append(llama.llama_sampler_init_min_p(sampling.min_p, 1))
    stages.append(llama.llama_sampler_init_temp(sampling.temperature))
    seed = secrets.randbits(32) if sampling.seed is None else sampling.seed & 0xFFFFFFFF
    stages.append(llama.llama_sampler_init_dist(seed))
    return stages
