"""From sampling settings to a llama.cpp sampler chain."""

from __future__ import annotations

import ctypes
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from runtime_stub.engine.candidates import Candidates, is_allowed
from runtime_stub.engine.library import library, recent_problems
from runtime_stub.engine.messages import Sampling
from runtime_stub.engine.model import Model
from runtime_stub.engine.shortlist import MOST, Shortlist, are_there
from runtime_stub.errors import PromptError

_COLDEST = 1e-5
"""Dividing by less overflows; below it the most likely token is taken."""
_WEAKEST_PENALTY = 0.01
"""llama.cpp wants a factor above 0."""
_MIROSTAT_M = 100
_DRY_BREAKERS = (b"\n", b":", b'"', b"*")


class DeadEndError(Exception):
    """The grammar allows no token at all: nothing can follow."""


@dataclass(frozen=True)
class Odds:
    """How likely a sampled token was."""

    logprob: float
    top: tuple[tuple[int, float], ...] = ()
    """Those that were likeliest, best first."""


class Sampler:
    """Native samplers with their state. Belongs to the thread that owns the context."""

    def __init__(
        self,
        sampling: Sampling,
        model: Model,
        *,
        grammar: str | None = None,
        logprobs: int | None = None,
        seed_offset: int = 0,
        longest: int = 4096,
    ) -> None:
        """`grammar` is GBNF that was checked before; `logprobs` how many alternatives to tell;
        `longest` how many tokens prompt and answer can have together.

        Raises PromptError when llama.cpp does not take the grammar.
        """
        llama = library()
        sampling = _looking_back_at_most(sampling, longest)
        self.odds: Odds | None = None
        """Of the last token that was sampled, where they were asked for."""
        self._logprobs = logprobs
        self._grammar: Any = None
        self._softmax: Any = None
        self._chain: Any = None
        if grammar is not None:
            recent_problems()
            self._grammar = llama.llama_sampler_init_grammar(
                model.vocabulary, grammar.encode(), b"root"
            )
            if not self._grammar:
                reason = "; ".join(recent_problems()[-2:]) or "it does not parse"
                raise PromptError(f"llama.cpp refuses the grammar: {reason}")
        if logprobs is not None:
            self._softmax = llama.llama_sampler_init_dist(0)
        biases = [(token, bias) for token, bias in sampling.logit_bias if token in model]
        # What chooses from a list. Of the chain, it is the part behind the bias.
        self._chain = listed = _chain(llama, _stages(llama, sampling, model, seed_offset))
        if biases:
            self._chain = _chain(llama, [_bias(llama, biases, model), listed])
        needed = _needed(sampling)
        self._list: Shortlist | None = None
        if 0 < needed <= MOST and are_there():
            self._list = Shortlist(listed, needed, biases)
        self._looks_back = max(
            sampling.repeat_last_n if _penalises(sampling) else 0,
            sampling.dry_last_n if sampling.dry_multiplier > 0 else 0,
        )
        self._remembers = self._looks_back > 0
        """Whether what was chosen before matters."""
        self._is_plain = grammar is None and logprobs is None
        self.choice = 0
        """Address of a shortlist whose choice is this sampler's, without any ado; 0 for none."""
        if self._list is not None and self._is_plain and not self._remembers:
            self.choice = self._list.address

    def sample(self, context: Any, index: int, candidates: Candidates) -> int:
        """Choose a token from the logits of batch position `index`, and remember it.

        Raises DeadEndError when the grammar leaves nothing to choose: accepting any token
        then would end the process.
        """
        if self._list is None and self._is_plain:
            return int(library().llama_sampler_sample(self._chain, context, index))
        token = self._first_choice(context, index, candidates)
        if not self._is_plain:
            token = self._looked_at(token, context, index, candidates)
        if self._remembers:
            library().llama_sampler_accept(self._chain, token)
        return token

    def _looked_at(self, token: int, context: Any, index: int, candidates: Candidates) -> int:
        """The token that the grammar lets come in place of `token`, after noting its odds."""
        if self._grammar is not None and not is_allowed(self._grammar, token):
            token = self._constrained(context, index, candidates)
        if self._softmax is not None:
            candidates.fill(context, index)
            self.odds = Odds(*candidates.probabilities(token, self._logprobs or 0, self._softmax))
        if self._grammar is not None:
            library().llama_sampler_accept(self._grammar, token)
        return token

    def _first_choice(self, context: Any, index: int, candidates: Candidates) -> int:
        """What it would be without a grammar: going through that with every token is slow, and
        often the first choice fits."""
        if self._list is not None:
            token = self._list.choose(context, index)
            if token is not None:
                return token
        library().llama_sampler_apply(self._chain, candidates.fill(context, index))
        return candidates.chosen

    def _constrained(self, context: Any, index: int, candidates: Candidates) -> int:
        pointer = candidates.fill(context, index)
        library().llama_sampler_apply(self._grammar, pointer)
        if not candidates.any_allowed:
            raise DeadEndError
        library().llama_sampler_apply(self._chain, pointer)
        token = candidates.chosen
        if not is_allowed(self._grammar, token):
            raise DeadEndError
        return token

    def read(self, prompt: Sequence[int]) -> None:
        """Remember as much of a prompt as matters: the penalties and DRY look back."""
        for token in prompt[-self._looks_back :] if self._remembers else ():
            library().llama_sampler_accept(self._chain, token)

    def free(self) -> None:
        """Release everything; the object must not be used afterwards."""
        for sampler in (self._chain, self._grammar, self._softmax):
            if sampler:
                library().llama_sampler_free(sampler)
        self._chain = self._grammar = self._softmax = self._list = None
        self.choice = 0


def _needed(sampling: Sampling) -> int:
    """How many of the likeliest tokens, at most, those that the chain chooses among are found in;
    0 if that can't be said."""
    if sampling.temperature < _COLDEST:
        chosen = 1
    elif sampling.mirostat or sampling.top_n_sigma > 0 or sampling.top_k <= 0:
        return 0
    else:
        chosen = sampling.top_k
    if sampling.dry_multiplier > 0:
        return 0
    if not _penalises(sampling):
        return chosen
    # Each of the last tokens may have to make way for another.
    only_lower = sampling.repeat_penalty >= 1 and not (
        sampling.frequency_penalty < 0 or sampling.presence_penalty < 0
    )
    return chosen + sampling.repeat_last_n if only_lower and sampling.repeat_last_n > 0 else 0


def _looking_back_at_most(sampling: Sampling, longest: int) -> Sampling:
    """The same, with numbers of tokens to look back that llama.cpp takes: it takes -1 for none and
    sets memory aside for all that is asked for."""
    ends = [
        longest if number < 0 else min(number, longest)
        for number in (sampling.repeat_last_n, sampling.dry_last_n)
    ]
    if ends == [sampling.repeat_last_n, sampling.dry_last_n]:
        return sampling
    return replace(sampling, repeat_last_n=ends[0], dry_last_n=ends[1])


def _penalises(sampling: Sampling) -> bool:
    return (
        sampling.repeat_penalty != 1.0
        or sampling.frequency_penalty != 0.0
        or sampling.presence_penalty != 0.0
    )


def _stages(llama: Any, sampling: Sampling, model: Model, seed_offset: int) -> list[Any]:
    """The chain in llama.cpp's usual order, behind the bias: penalties, cuts, temperature,
    choice."""
    seed = secrets.randbits(32) if sampling.seed is None else sampling.seed + seed_offset
    seed &= 0xFFFFFFFF
    stages = _penalties(llama, sampling, model)
    if sampling.temperature < _COLDEST:
        return [*stages, llama.llama_sampler_init_greedy()]
    if sampling.mirostat:
        stages.append(llama.llama_sampler_init_temp(sampling.temperature))
        tau, eta = sampling.mirostat_tau, sampling.mirostat_eta
        if sampling.mirostat == 1:
            size = model.vocabulary_size
            return [*stages, llama.llama_sampler_init_mirostat(size, seed, tau, eta, _MIROSTAT_M)]
        return [*stages, llama.llama_sampler_init_mirostat_v2(seed, tau, eta)]
    if sampling.top_n_sigma > 0:
        stages.append(llama.llama_sampler_init_top_n_sigma(sampling.top_n_sigma))
    if sampling.top_k > 0:
        stages.append(llama.llama_sampler_init_top_k(sampling.top_k))
    if sampling.typical_p < 1:
        stages.append(llama.llama_sampler_init_typical(sampling.typical_p, 1))
    if sampling.top_p < 1:
        stages.append(llama.llama_sampler_init_top_p(sampling.top_p, 1))
    if sampling.min_p > 0:
        stages.append(llama.llama_sampler_init_min_p(sampling.min_p, 1))
    if sampling.xtc_probability > 0:
        probability, threshold = sampling.xtc_probability, sampling.xtc_threshold
        stages.append(llama.llama_sampler_init_xtc(probability, threshold, 1, seed))
    stages.append(llama.llama_sampler_init_temp(sampling.temperature))
    return [*stages, llama.llama_sampler_init_dist(seed)]


def _chain(llama: Any, stages: Sequence[Any]) -> Any:
    """Samplers one after the other, as one."""
    chain = llama.llama_sampler_chain_init(llama.llama_sampler_chain_default_params())
    for stage in stages:
        llama.llama_sampler_chain_add(chain, stage)
    return chain


def _bias(llama: Any, biases: Sequence[tuple[int, float]], model: Model) -> Any:
    entries = (llama.llama_logit_bias * len(biases))()
    for entry, (token, bias) in zip(entries, biases, strict=True):
        entry.token, entry.bias = token, bias
    return llama.llama_sampler_init_logit_bias(model.vocabulary_size, len(biases), entries)


def _penalties(llama: Any, sampling: Sampling, model: Model) -> list[Any]:
    stages = []
    if _penalises(sampling):
        stages.append(
            llama.llama_sampler_init_penalties(
                model.vocabulary_size,
                sampling.repeat_last_n,
                max(sampling.repeat_penalty, _WEAKEST_PENALTY),
                sampling.frequency_penalty,
                sampling.presence_penalty,
            )
        )
    if sampling.dry_multiplier > 0:
        breakers = (ctypes.c_char_p * len(_DRY_BREAKERS))(*_DRY_BREAKERS)
        stages.append(
            llama.llama_sampler_init_dry(
                model.vocabulary,
                sampling.dry_multiplier,
                sampling.dry_base,
                sampling.dry_allowed_length,
                sampling.dry_last_n,
                breakers,
                len(breakers),
            )
        )
    return stages
