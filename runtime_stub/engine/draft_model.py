"""A small model that guesses how texts go on, for a larger one that verifies it.

It has a context of its own, with a sequence for each slot, and sees the end of a text alone: its
first tokens, then the latest. So it never has to read a long prompt, and its memory stays small.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from runtime_stub.engine.candidates import Candidates
from runtime_stub.engine.context import Context, ContextSize
from runtime_stub.engine.drafts import PRIOR, ROOM, Chance
from runtime_stub.engine.hardware import read_hardware
from runtime_stub.engine.messages import EngineSettings, ModelSource, Sampling
from runtime_stub.engine.model import Model
from runtime_stub.engine.sampler import Sampler
from runtime_stub.engine.slots import common
from runtime_stub.engine.weights import load_weights
from runtime_stub.errors import EngineError

_HEAD = 4
"""Tokens of the beginning that it always sees: models attend to them whatever follows."""
_TAIL, _SHORTEST_TAIL, _FIRST_TAIL = 256, 16, 64
"""Tokens before the end that it starts with: at most, at least, and until it has shown to pay."""
_WORTH_READING = 16.0
"""Steps of the main model that reading them may take."""
_AT_ONCE = 16
"""Tokens that it reads together with guessing; more are read first, in pieces."""
_FEW = 3
"""Tokens that are computed in about the time of one."""
_WEIGHT = 0.2
"""Of the newest measurement in the running averages."""
_SLOW_WEIGHT = 0.05
_RECOVERY = 0.001
"""Of a text's chance with each step without a guess. Unlike a look-up, a try always costs
something."""
_AGAIN = 0.5
"""What a text's chance is taken to be when it is tried again."""
_WAIT, _LONGEST_WAIT = 512, 8192
"""Steps without a guess after which all that is known of it is measured anew. Each time that is in
vain the next is twice as far off."""
_PAYS = 32
"""Guesses one after the other that show it to pay."""
_PADDING = 1024
"""By how many tokens one vocabulary may be longer: some are padded to a round number."""
_STEP = 97


class DraftModel:
    """Guesses for all slots. Belongs to the thread that owns the main context."""

    def __init__(self, model: Model, main: Model, settings: EngineSettings, threads: int) -> None:
        """`model`, which belongs to this object from now on, guesses for `main`, which knows the
        same tokens. Raises EngineError when there is no memory for it."""
        self._model = model
        self._size = min(model.vocabulary_size, main.vocabulary_size)
        size = ContextSize(ROOM * settings.parallel, "for guessing")
        self.description = model.description()
        self.memory = model.size + size.tokens * model.state_bytes_per_token()
        """Bytes that it takes."""
        # How the main model keeps what it read may not suit this one.
        own = EngineSettings(
            parallel=settings.parallel,
            flash_attention=settings.flash_attention,
            batch=settings.batch,
        )
        self._context = Context(model, size, own, threads)
        self.useful = True
        """Whether it guesses; not any more once that has failed."""
        self._sampler = make_sampler(model)
        self._candidates = Candidates(model.vocabulary_size)
        self._held: dict[int, list[int]] = {}
        """What its context holds, by sequence."""
        self._origins: dict[int, int] = {}
        """Where in the text the tokens after the head start."""
        self._step: float | None = None
        self._per_token: float | None = None
        self._prior = PRIOR
        self._rested, self._wait = 0, _WAIT
        self._guesses = 0
        """Made since it was tried the last time."""

    @property
    def cost(self) -> float | None:
        """Seconds that a guessed token takes; None while unknown."""
        return self._step

    def new_chance(self) -> Chance:
        """For a text that nothing is known of yet: as others went."""
        return Chance(self._prior, _RECOVERY)

    def learn(self, chance: Chance) -> None:
        """A text has come to this."""
        self._prior += _SLOW_WEIGHT * (chance.value - self._prior)

    def rest(self) -> bool:
        """A step passes without it, because it would not pay; whether it is time to look again,
        as if nothing was known of it."""
        self._rested += 1
        if self._rested < self._wait:
            return False
        self._wait = min(2 * self._wait, _LONGEST_WAIT)
        self._rested = self._guesses = 0
        self._step, self._prior = None, max(self._prior, _AGAIN)
        return True

    def guess(
        self, wanted: Mapping[int, tuple[Sequence[int], int]], patience: float
    ) -> dict[int, list[int]]:
        """For each sequence, at most so many tokens that may follow its text. For texts that it
        has not read yet it reads on, for about `patience` seconds, and guesses nothing."""
        self._guesses += 1
        if self._guesses == _PAYS:
            self._wait = _WAIT
        tail = self._tail(patience)
        ready: dict[int, tuple[list[int], int]] = {}
        behind: dict[int, list[int]] = {}
        for sequence, (text, count) in wanted.items():
            missing = self._missing(sequence, text, tail)
            if len(missing) <= _AT_ONCE:
                ready[sequence] = missing, count
            else:
                behind[sequence] = missing
        try:
            if behind:
                self._read(behind, patience)
            return self._decide(ready)
        except EngineError:
            self.useful = False  # everything goes on without it
            return {}

    def _tail(self, patience: float) -> int:
        """How many tokens before its end it starts to read a text with."""
        if not self._per_token or self._guesses < _PAYS:
            return _FIRST_TAIL
        return max(_SHORTEST_TAIL, min(_TAIL, int(_WORTH_READING * patience / self._per_token)))

    def _missing(self, sequence: int, text: Sequence[int], tail: int) -> list[int]:
        """Make the context hold nothing but tokens of `text`; returns those to be read yet."""
        held = self._held.setdefault(sequence, [])
        origin = self._origins.get(sequence, 0)
        view = _view(text, origin)
        alike = common(held, view)
        if len(view) > ROOM - _TAIL or len(view) - alike > _HEAD + tail:
            self._origins[sequence] = origin = max(0, len(text) - tail)
            view = _view(text, origin)
            alike = common(held, view)
        alike = min(alike, len(view) - 1)  # the last one's logits are what is wanted
        if alike < len(held):
            alike = self._context.keep(sequence, alike)
            del held[alike:]
        return view[alike:]

    def _read(self, behind: Mapping[int, list[int]], patience: float) -> None:
        most = self._context.batch_size
        if self._per_token:
            most = min(most, max(_AT_ONCE, int(patience / self._per_token)))
        self._context.clear_batch()
        fed: dict[int, list[int]] = {}
        for sequence, missing in behind.items():
            share = min(max(1, most // len(behind)), len(missing) - 1, self._context.room)
            if share > 0:
                fed[sequence] = missing[:share]
                self._feed(sequence, fed[sequence], output=False)
        seconds = self._run(fed)
        count = sum(map(len, fed.values()))
        self._per_token = _average(self._per_token, seconds / max(1, count))

    def _decide(self, ready: Mapping[int, tuple[list[int], int]]) -> dict[int, list[int]]:
        guesses: dict[int, list[int]] = {sequence: [] for sequence in ready}
        feeding = {sequence: missing for sequence, (missing, _) in ready.items()}
        while feeding:
            self._context.clear_batch()
            # Where very many are answered at once, some get no guess this time.
            places = {
                sequence: self._feed(sequence, tokens, output=True)
                for sequence, tokens in feeding.items()
                if len(tokens) <= self._context.room
            }
            fed = {sequence: feeding[sequence] for sequence in places}
            seconds = self._run(fed)
            if all(len(tokens) <= _FEW for tokens in fed.values()):
                self._step = _average(self._step, seconds)
            feeding = {}
            for sequence, place in places.items():
                token = self._sampler.sample(self._context.handle, place, self._candidates)
                if token >= self._size:
                    continue
                guesses[sequence].append(token)
                if len(guesses[sequence]) < ready[sequence][1]:
                    feeding[sequence] = [token]
        return guesses

    def _feed(self, sequence: int, tokens: Sequence[int], *, output: bool) -> int:
        start, index = len(self._held[sequence]), 0
        for ahead, token in enumerate(tokens):
            last = ahead == len(tokens) - 1
            index = self._context.add(token, start + ahead, sequence, output=output and last)
        return index

    def _run(self, fed: Mapping[int, Sequence[int]]) -> float:
        """Compute the batch, which holds `fed`; how long it took."""
        started = time.monotonic()
        if self._context.decode():
            raise EngineError("llama.cpp failed to compute a guess")
        for sequence, tokens in fed.items():
            self._held[sequence] += tokens
        return time.monotonic() - started

    def free(self) -> None:
        """Release the context; the object must not be used afterwards."""
        self._sampler.free()
        self._context.free()
        self._model.free()


def make_sampler(model: Model) -> Sampler:
    """What chooses a guess: the likeliest token, whatever the request asks for. The main model's
    own choice decides."""
    return Sampler(Sampling(temperature=0), model)


def load_draft(
    source: ModelSource, main: Model, settings: EngineSettings, threads: int
) -> DraftModel | None:
    """The model at `source`, to guess for `main`; None for one that can't take back what was
    wrong. Raises EngineError where it can't be loaded, or knows other tokens than `main`."""
    model = load_weights(source, lambda _: True, settings, read_hardware().memory_available)
    try:
        require_same_vocabulary(model, main)
        if model.forgiving:
            return DraftModel(model, main, settings, threads)
    except EngineError:
        model.free()
        raise
    model.free()
    return None


def require_same_vocabulary(model: Model, main: Model) -> None:
    """Raise EngineError unless the tokens of both mean the same. The packer has compared all of
    them; here it is a sample that shows another model in its place."""
    sizes = sorted((model.vocabulary_size, main.vocabulary_size))
    same = sizes[1] - sizes[0] <= _PADDING and all(
        model.piece(token, special=True) == main.piece(token, special=True)
        for token in (*range(0, sizes[0], _STEP), min(sizes[0], model.vocabulary_size) - 1)
    )
    if not same:
        raise EngineError(
            "the model that guesses ahead knows other tokens than the one it guesses for",
            "Pack it with a draft of its own family, or start with --no-drafts",
        )


def _view(text: Sequence[int], origin: int) -> list[int]:
    """What the model sees of a text."""
    if origin <= _HEAD or origin >= len(text):
        return list(text)
    return [*text[:_HEAD], *text[origin:]]


def _average(old: float | None, new: float) -> float:
    return new if old is None else old + _WEIGHT * (new - old)
