from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from runtime_stub.engine import aside, next_tokens, waiting
from runtime_stub.engine.context import NO_ROOM, Context, ContextSize
from runtime_stub.engine.job import Job
from runtime_stub.engine.messages import (
    Begun,
    ChoiceEnd,
    Event,
    Failed,
    Finished,
    PromptRead,
    Request,
    Sampling,
    Text,
)
from runtime_stub.engine.model import Model
from runtime_stub.engine.reading import Reading
from runtime_stub.engine.sampler import DeadEndError, Odds
from runtime_stub.engine.scheduler import Scheduler
from runtime_stub.errors import PromptError

END = 0


class FakeModel:
    """Tokens stand for one character each; 0 ends an answer."""

    vocabulary_size = 1 << 20
    vocabulary = None

    def ends_generation(self, token: int) -> bool:
        return token == END

    def piece(self, token: int, *, special: bool = False) -> bytes:
        return chr(token).encode()


class FakeContext:
    """Holds what a context would, and answers each prompt with its last token plus one.

    `script` says what to answer instead, by the tokens of the prompt.
    """

    handle = None
    cuttable = forgiving = True

    def __init__(self, tokens: int = 1000, batch: int = 8) -> None:
        self.size = ContextSize(tokens, "a test's")
        self.batch_size = batch
        self.cells: dict[int, list[int]] = {}
        self.batch: list[tuple[int, int, int, bool]] = []
        self.batches: list[list[tuple[int, int, int, bool]]] = []
        self.results: list[int] = []
        self.forgetful = False
        self.refuses_states = False
        self.has_gaps = False
        """Whether free cells lie before those in use."""
        self.cleared = 0

    def remembers(self, sequence: int, tokens: int) -> bool:
        return len(self.cells.get(sequence, [])) >= tokens

    def has_room_before(self, sequence: int) -> bool:
        return self.has_gaps and bool(self.cells.get(sequence))

    def clear(self) -> None:
        assert sum(map(bool, self.cells.values())) <= 1, "all others were put aside"
        self.cells = {}
        self.has_gaps = False
        self.cleared += 1

    def clear_batch(self) -> None:
        self.batch = []

    @property
    def room(self) -> int:
        return self.batch_size - len(self.batch)

    def add(
        self, token: int, position: int, sequence: int, *, output: bool, choice: int = 0
    ) -> int:
        assert self.room
        assert not choice
        self.batch.append((token, position, sequence, output))
        return len(self.batch) - 1

    def decode(self) -> int:
        if self.results and (result := self.results.pop(0)):
            return result
        held = sum(map(len, self.cells.values()))
        if held + len(self.batch) > self.size.tokens:
            return NO_ROOM
        for token, position, sequence, _ in self.batch:
            cells = self.cells.setdefault(sequence, [])
            assert position == len(cells), "positions follow each other"
            cells.append(token)
        self.batches.append(self.batch)
        return 0

    def chosen(self, _index: int) -> int | None:
        return None

    def share(self, source: int, target: int, tokens: int, saved: bytes | None = None) -> int:
        kept = 0 if self.forgetful else tokens
        self.cells[target] = self.cells.get(source, [])[:kept]
        return len(self.cells[target])

    def keep(self, sequence: int, tokens: int, saved: bytes | None = None) -> int:
        kept = 0 if self.forgetful else tokens
        self.cells[sequence] = self.cells.get(sequence, [])[:kept]
        return len(self.cells[sequence])

    def state_size(self, sequence: int) -> int:
        return 4 * len(self.cells.get(sequence, []))

    def state(self, sequence: int) -> bytearray:
        return bytearray("".join(map(chr, self.cells[sequence])).encode("utf-32-le"))

    def set_state(
        self, sequence: int, state: bytearray | memoryview, tokens: int, keep: int
    ) -> int:
        self.cells[sequence] = []
        if self.refuses_states or sum(map(len, self.cells.values())) + tokens > self.size.tokens:
            return 0
        held = [ord(char) for char in bytes(state).decode("utf-32-le")]
        assert len(held) == tokens, "the whole state"
        self.cells[sequence] = held[:keep]
        return keep


class FakeSampler:
    """Continues the alphabet."""

    made: list[FakeSampler]
    context: FakeContext

    def __init__(
        self,
        _sampling: Sampling,
        _model: Any,
        *,
        grammar: str | None = None,
        logprobs: int | None = None,
        seed_offset: int = 0,
        longest: int = 0,
    ) -> None:
        if grammar == "refused":
            raise PromptError("llama.cpp refuses the grammar")
        self.grammar, self.logprobs, self.offset = grammar, logprobs, seed_offset
        self.freed = False
        self.prompt: list[int] = []
        self.longest = longest
        self.choice = 0
        self.odds: Odds | None = None
        FakeSampler.made.append(self)

    def sample(self, _context: Any, index: int, _candidates: Any) -> int:
        token, _, _, output = FakeSampler.context.batch[index]
        assert output, "logits were asked for"
        if self.grammar == "dead" and chr(token) == "c":
            raise DeadEndError
        following = END if token == ord("z") else token + 1 + (self.offset if token == 97 else 0)
        if self.logprobs is not None:
            self.odds = Odds(-0.5, ((following, -0.5), (ord("?"), -1.5)))
        return following

    def read(self, prompt: list[int]) -> None:
        self.prompt = prompt

    def free(self) -> None:
        assert not self.freed
        self.freed = True


@dataclass
class Asked:
    job: Job
    events: list[Event] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(event.text for event in self.events if isinstance(event, Text))

    @property
    def end(self) -> Finished | Failed | None:
        last = self.events[-1] if self.events else None
        return last if isinstance(last, (Finished, Failed)) else None

    @property
    def reason(self) -> str:
        assert isinstance(self.end, Finished), self.events
        return self.end.reason

    @property
    def cached(self) -> int:
        assert isinstance(self.end, Finished)
        return self.end.usage.cached_tokens


class Bench:
    """A scheduler over a fake context."""

    def __init__(self, parallel: int = 1, tokens: int = 1000, batch: int = 8) -> None:
        FakeSampler.made = []
        self.context = FakeSampler.context = FakeContext(tokens, batch)
        self.scheduler = Scheduler(
            cast("Model", FakeModel()), cast("Context", self.context), parallel
        )

    def ask(self, prompt: str, **request: Any) -> Asked:
        events: list[Event] = []
        job = Job(Request(**request), events.append, tokens=[ord(char) for char in prompt])
        self.scheduler.add(job)
        return Asked(job, events)

    def run(self, limit: int = 500) -> None:
        for _ in range(limit):
            if self.scheduler.idle:
                break
            self.scheduler.step()
        assert self.scheduler.idle, "never ends"
        assert all(sampler.freed for sampler in FakeSampler.made)


@pytest.fixture(autouse=True)
def _fake_sampler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "Sampler", FakeSampler)
    monkeypatch.setattr(next_tokens, "Candidates", lambda _size: None)


def test_one_request() -> None:
    bench = Bench()
    asked = bench.ask("tu")
    bench.run()
    assert asked.events[:2] == [Begun((0,)), PromptRead(2, 0)]
    assert asked.text == "vwxyz"
    assert asked.reason == "stop"
    assert isinstance(asked.end, Finished)
    usage = asked.end.usage
    assert (usage.prompt_tokens, usage.completion_tokens) == (2, 5)
    assert usage.prompt_seconds >= 0
    assert usage.completion_seconds >= 0


def test_long_prompt_is_read_in_chunks() -> None:
    bench = Bench(batch=8)
    asked = bench.ask("a" * 19 + "x")
    bench.run()
    assert [len(batch) for batch in bench.context.batches] == [8, 8, 4, 1, 1]
    outputs = [token for batch in bench.context.batches for token in batch if token[3]]
    assert len(outputs) == 3, "logits are only computed where they are read"
    assert asked.text == "yz"


@pytest.mark.parametrize("limit", [1, 3])
def test_max_tokens(limit: int) -> None:
    bench = Bench()
    asked = bench.ask("a", max_tokens=limit)
    bench.run()
    assert (asked.text, asked.reason) == ("bcd"[:limit], "length")


def test_end_of_context() -> None:
    bench = Bench(tokens=10)
    asked = bench.ask("abcde")
    bench.run()
    assert asked.reason == "length"
    assert asked.text == "fghij"[: len(asked.text)]
    assert len(asked.text) >= 4


@pytest.mark.parametrize(("length", "fits"), [(9, True), (10, False), (11, False)])
def test_too_long(length: int, fits: bool) -> None:
    bench = Bench(tokens=10)
    asked = bench.ask("a" * length)
    bench.run()
    if fits:
        assert asked.reason == "length"
    else:
        assert isinstance(asked.end, Failed)
        assert asked.end.kind == "too-long"
        assert f"{length} tokens" in asked.end.message
        assert "holds 10" in asked.end.message


def test_stop_string() -> None:
    bench = Bench()
    asked = bench.ask("a", stop=("ef",))
    bench.run()
    assert (asked.text, asked.reason) == ("bcd", "stop")


def test_held_back_text_comes_at_the_end() -> None:
    bench = Bench()
    asked = bench.ask("a", stop=("cdX",), max_tokens=3)
    bench.run()
    assert (asked.text, asked.reason) == ("bcd", "length")


def test_next_turn_reads_only_what_is_new() -> None:
    bench = Bench()
    first = bench.ask("hello u")
    bench.run()
    second = bench.ask("hello uvwxyz + u")
    bench.run()
    assert second.cached == len("hello uvwxyz")
    assert (first.text, second.text) == ("vwxyz", "vwxyz")


def test_same_prompt_again_reads_its_last_token() -> None:
    bench = Bench()
    bench.ask("abc", max_tokens=1)
    bench.run()
    again = bench.ask("abc", max_tokens=1)
    bench.run()
    assert again.cached == 2
    assert again.text == "d"


def test_forgetful_memory_reads_all_again() -> None:
    bench = Bench()
    bench.ask("abc", max_tokens=1)
    bench.run()
    bench.context.forgetful = True
    again = bench.ask("abcd", max_tokens=1)
    bench.run()
    assert (again.cached, again.text) == (0, "e")


def test_slot_with_the_longest_prefix_is_taken() -> None:
    bench = Bench(parallel=2)
    one, two = bench.ask("chat one x"), bench.ask("other two x")
    bench.run()
    next_two, next_one = bench.ask("other two xyz x"), bench.ask("chat one xyz x")
    bench.run()
    assert (next_one.cached, next_two.cached) == (12, 13)
    assert one.text == two.text == next_one.text == next_two.text == "yz"


def test_least_recently_used_slot_is_taken() -> None:
    bench = Bench(parallel=2)
    for prompt in ("aaa", "bbb"):
        bench.ask(prompt, max_tokens=1)
        bench.run()
    bench.ask("ccc", max_tokens=1)
    bench.run()
    kept = bench.ask("bbbc", max_tokens=1)
    bench.run()
    assert kept.cached == 3


def test_more_requests_than_slots() -> None:
    bench = Bench(parallel=2)
    asked = [bench.ask(chr(ord("p") + number)) for number in range(5)]
    bench.run()
    assert [one.text[-1] for one in asked] == ["z"] * 5
    assert {len({token[2] for token in batch}) for batch in bench.context.batches} == {1, 2}


def test_running_answers_flow_while_a_long_prompt_is_read() -> None:
    bench = Bench(parallel=2, batch=8)
    running = bench.ask("a")
    bench.scheduler.step()
    bench.ask("b" * 70, max_tokens=1)
    before = len(running.text)
    for _ in range(5):
        bench.scheduler.step()
    assert len(running.text) == before + 5
    bench.run()


def test_idle_conversations_lie_aside_until_they_go_on() -> None:
    bench = Bench(parallel=3, batch=512)
    first = bench.ask("a" * 100, max_tokens=3)
    bench.run()
    assert first.text == "bcd"
    second = bench.ask("k" * 100, max_tokens=3)
    bench.run()
    assert bench.context.cells[0] == []
    assert len(bench.context.cells[1]) == 102
    again = bench.ask("a" * 100 + "bcdx", max_tokens=1)
    bench.run()
    assert (again.cached, again.text) == (102, "y")
    assert bench.context.cells[1] == []
    branch = bench.ask("k" * 80 + "p", max_tokens=1)
    bench.run()
    assert (branch.cached, branch.text) == (80, "q")
    assert second.reason == "length"


def test_what_lay_aside_and_is_refused_is_read_again() -> None:
    bench = Bench(parallel=2, batch=512)
    bench.ask("a" * 100, max_tokens=1)
    bench.run()
    bench.ask("k" * 100, max_tokens=1)
    bench.run()
    bench.context.refuses_states = True
    again = bench.ask("a" * 100 + "x", max_tokens=1)
    bench.run()
    assert (again.cached, again.text) == (0, "y")


def bench_with_gaps() -> Bench:
    """Two conversations lie in its context, behind free cells."""
    bench = Bench(parallel=3)
    for prompt in ("abc", "rst"):
        bench.ask(prompt, max_tokens=2)
        bench.run()
    bench.context.has_gaps = True
    return bench


def test_who_is_alone_lies_before_all_gaps() -> None:
    """Then what comes out does not depend on what others have left where."""
    bench = bench_with_gaps()
    answer = bench.ask("abcdef", max_tokens=2)
    bench.run()
    assert (answer.text, answer.cached) == ("gh", 4)
    assert bench.context.cleared == 1
    again = bench.ask("rstu", max_tokens=1)  # what was put aside is not lost
    bench.run()
    assert (again.text, again.cached) == ("v", 3)
    assert bench.context.cleared == 1


def test_gaps_beside_others_are_left() -> None:
    bench = Bench(parallel=3)
    bench.ask("abc", max_tokens=1)
    bench.run()
    other = bench.ask("m", max_tokens=8)
    bench.scheduler.step()
    bench.context.has_gaps = True
    answer = bench.ask("abcdef", max_tokens=2)
    bench.run()
    assert (answer.text, other.text) == ("gh", "nopqrstu")
    assert bench.context.cleared == 0


def test_gaps_stay_where_nothing_more_may_lie_aside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aside, "LIMIT", 4)
    bench = bench_with_gaps()
    answer = bench.ask("abcdef", max_tokens=2)
    bench.run()
    assert (answer.text, answer.cached) == ("gh", 4)
    assert bench.context.cleared == 0


def test_no_more_lies_aside_than_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aside, "LIMIT", 4 * 250)
    bench = Bench(parallel=4, batch=512)
    for letter in "aku":
        bench.ask(letter * 200, max_tokens=1)
        bench.run()
    bench.ask("x", max_tokens=1)
    bench.run()
    assert [len(bench.context.cells[number]) for number in range(3)] == [0, 200, 200]


def test_choices_take_slots_that_lay_aside() -> None:
    bench = Bench(parallel=3, batch=512)
    for letter in "aku":
        bench.ask(letter * 100, max_tokens=1)
        bench.run()
    asked = bench.ask("q" * 100, max_tokens=2, choices=3)
    bench.run()
    assert asked.reason == "length"
    assert [len(cells) for cells in bench.context.cells.values()] == [101, 101, 101]


def test_those_who_come_together_begin_together() -> None:
    bench = Bench(parallel=3, batch=512)
    first = bench.ask("a" * 100)
    bench.scheduler.step()
    others = [bench.ask("b" * 90), bench.ask("c" * 60)]
    bench.scheduler.step()
    assert all(request.text for request in (first, *others))
    bench.run()


def test_a_request_that_nobody_can_join_is_read_at_once() -> None:
    bench = Bench(parallel=1, batch=512)
    alone = bench.ask("a" * 100)
    bench.scheduler.step()
    assert alone.text
    bench.run()


def test_prompts_end_in_the_order_they_came() -> None:
    bench = Bench(parallel=2, batch=8)
    short = bench.ask("x", max_tokens=1)
    first = bench.ask("a" * 40, max_tokens=1)
    bench.scheduler.step()
    assert short.end
    late = bench.ask("b" * 40, max_tokens=1)
    while first.end is None:
        bench.scheduler.step()
        assert late.end is None
    bench.run()


def test_a_short_prompt_does_not_wait_for_a_long_one() -> None:
    bench = Bench(parallel=2, batch=8)
    long = bench.ask("a" * 200, max_tokens=1)
    bench.scheduler.step()
    short = bench.ask("bbbx", max_tokens=1)
    for _ in range(3):
        bench.scheduler.step()
    assert short.end is not None
    assert long.end is None
    bench.run()


def test_several_choices_read_the_prompt_once() -> None:
    bench = Bench(parallel=4, batch=8)
    asked = bench.ask("x" * 19 + "a", choices=3, max_tokens=2)
    bench.run()
    texts = ["", "", ""]
    for event in asked.events:
        if isinstance(event, Text):
            texts[event.choice] += event.text
    assert texts == ["bc", "cd", "de"]
    assert sum(isinstance(event, PromptRead) for event in asked.events) == 1
    ends = [event for event in asked.events if isinstance(event, ChoiceEnd)]
    assert sorted(event.choice for event in ends) == [0, 1, 2]
    assert isinstance(asked.end, Finished)
    assert (asked.end.usage.prompt_tokens, asked.end.usage.completion_tokens) == (20, 6)
    assert sum(len(batch) for batch in bench.context.batches) == 20 + 3


def test_the_stop_string_is_told() -> None:
    bench = Bench()
    asked = bench.ask("a", stop=("xyz", "de"), max_tokens=9)
    bench.run()
    assert asked.text == "bc"
    assert asked.end is not None
    assert (asked.reason, getattr(asked.end, "stop", None)) == ("stop", "de")
    (end,) = (event for event in asked.events if isinstance(event, ChoiceEnd))
    assert end.stop == "de"
    none = bench.ask("a", stop=("xyz",), max_tokens=3)
    bench.run()
    assert (none.reason, getattr(none.end, "stop", "")) == ("length", None)


def test_choices_of_memory_that_cannot_be_shared() -> None:
    bench = Bench(parallel=3)
    bench.context.forgetful = True
    asked = bench.ask("xxa", choices=2, max_tokens=1)
    bench.run()
    assert {e.choice: e.text for e in asked.events if isinstance(e, Text)} == {0: "b", 1: "c"}


@pytest.mark.parametrize("choices", [0, 3, 100])
def test_impossible_choices(choices: int) -> None:
    bench = Bench(parallel=2)
    asked = bench.ask("a", choices=choices)
    assert isinstance(asked.end, Failed)
    assert asked.end.kind == "unsupported"
    assert bench.scheduler.idle


def test_cancelled_choices_all_end() -> None:
    bench = Bench(parallel=3, batch=8)
    asked = bench.ask("a" * 50, choices=3)
    bench.scheduler.step()
    asked.job.cancelled = True
    bench.scheduler.step()
    assert asked.reason == "cancelled"
    assert bench.scheduler.idle
    bench.run()


def test_a_beginning_is_shared_with_a_busy_slot() -> None:
    bench = Bench(parallel=2, batch=64)
    system = "You are a helpful assistant. "
    bench.ask(system + "a")
    bench.scheduler.step()
    second = bench.ask(system + "x")
    bench.run()
    assert second.cached == len(system)
    assert second.text == "yz"


def test_a_branch_keeps_the_conversation_it_left() -> None:
    bench = Bench(parallel=2, batch=64)
    system = "You are a helpful assistant. "
    long = system + "u" * 60 + "x"
    bench.ask(long)
    bench.run()
    branch = bench.ask(system + "x")
    bench.run()
    assert branch.cached == len(system)
    again = bench.ask(long + "yz and x")
    bench.run()
    assert again.cached == len(long) + 2


def test_grammar_that_leaves_nothing_ends_only_its_own_request() -> None:
    bench = Bench(parallel=2)
    other = bench.ask("u")
    events: list[Event] = []
    job = Job(Request(), events.append, tokens=[97], grammar="dead")
    bench.scheduler.add(job)
    bench.run()
    assert isinstance(events[-1], Failed)
    assert events[-1].kind == "prompt"
    assert other.text == "vwxyz"


def test_refused_grammar() -> None:
    bench = Bench()
    events: list[Event] = []
    job = Job(Request(), events.append, tokens=[97], grammar="refused")
    bench.scheduler.add(job)
    bench.run()
    assert isinstance(events[-1], Failed)


def test_logprobs() -> None:
    bench = Bench()
    asked = bench.ask("a", max_tokens=2, logprobs=2)
    bench.run()
    pieces = [event for event in asked.events if isinstance(event, Text)]
    rows = [row for piece in pieces for row in piece.logprobs]
    assert [(row.text, row.logprob) for row in rows] == [("b", -0.5), ("c", -0.5)]
    assert rows[0].top == (("b", b"b", -0.5), ("?", b"?", -1.5))


def test_overdue_requests_fail() -> None:
    bench = Bench()
    running, waiting = bench.ask("a"), bench.ask("b")
    bench.scheduler.step()
    running.job.deadline = waiting.job.deadline = 0.0
    bench.scheduler.step()
    for asked in (running, waiting):
        assert isinstance(asked.end, Failed)
        assert asked.end.kind == "timeout"
    assert bench.scheduler.idle
    bench.run()


def test_full_context_forgets_idle_slots_first() -> None:
    bench = Bench(parallel=3, tokens=40)
    for prompt in ("aaaaaaaaaa", "bbbbbbbbbb"):
        bench.ask(prompt, max_tokens=1)
        bench.run()
    asked = bench.ask("c" * 25, max_tokens=8)
    bench.run()
    assert (asked.text, asked.reason) == ("defghijk", "length")


def test_requests_that_do_not_fit_together_wait_for_each_other() -> None:
    bench = Bench(parallel=2, tokens=40)
    one, two = bench.ask("a" * 29 + "w"), bench.ask("b" * 29 + "w")
    bench.run()
    assert (one.text, two.text) == ("xyz", "xyz")


def test_full_context_ends_the_longest() -> None:
    bench = Bench(parallel=2, tokens=40)
    long, short = bench.ask("a" * 20), bench.ask("m" * 10)
    bench.run()
    assert long.reason == "length"
    assert long.text
    assert short.text == "nopqrstuvwxyz"
    assert short.reason == "stop"


def test_nothing_else_to_forget() -> None:
    bench = Bench()
    asked = bench.ask("abc")
    bench.context.results = [NO_ROOM]
    bench.run()
    assert (asked.text, asked.reason) == ("", "length")


def test_cancelled_while_waiting() -> None:
    bench = Bench()
    running, waiting = bench.ask("a"), bench.ask("b")
    bench.scheduler.step()
    waiting.job.cancelled = True
    bench.scheduler.step()
    assert waiting.reason == "cancelled"
    assert waiting.text == ""
    bench.run()
    assert running.reason == "stop"


def test_cancelled_while_its_prompt_is_read() -> None:
    bench = Bench(batch=8)
    asked = bench.ask("a" * 50)
    bench.scheduler.step()
    asked.job.cancelled = True
    bench.scheduler.step()
    assert asked.reason == "cancelled"
    assert bench.scheduler.idle
    again = bench.ask("a" * 50, max_tokens=1)
    bench.run()
    assert again.cached == 8


def test_cancelled_while_answering() -> None:
    bench = Bench()
    asked = bench.ask("a")
    for _ in range(3):
        bench.scheduler.step()
    asked.job.cancelled = True
    bench.scheduler.step()
    assert (asked.text, asked.reason) == ("bcd", "cancelled")


def test_cancelled_by_its_own_sink() -> None:
    bench = Bench()
    events: list[Event] = []

    def sink(event: Event) -> None:
        events.append(event)
        job.cancelled = True

    job = Job(Request(), sink, tokens=[ord("a")])
    bench.scheduler.add(job)
    bench.run()
    assert isinstance(events[-1], Finished)
    assert events[-1].reason == "cancelled"


@pytest.mark.parametrize("result", [2, -1, -3])
def test_failure_reaches_every_request(result: int) -> None:
    bench = Bench(parallel=2)
    asked = [bench.ask(prompt) for prompt in "abcd"]
    bench.scheduler.step()
    bench.context.results = [result]
    bench.scheduler.step()
    for one in asked:
        assert isinstance(one.end, Failed)
        assert one.end.kind == "engine"
        assert str(result) in one.end.message
    assert bench.scheduler.idle
    after = bench.ask("ax")
    bench.run()
    assert (after.text, after.cached) == ("yz", 0)


def test_raising_sink_hurts_its_own_request_only() -> None:
    bench = Bench(parallel=2)

    def sink(_event: Event) -> None:
        raise RuntimeError

    bench.scheduler.add(Job(Request(), sink, tokens=[ord("a")]))
    other = bench.ask("w")
    bench.run()
    assert other.text == "xyz"


def test_close_releases_samplers() -> None:
    bench = Bench(parallel=2)
    bench.ask("a")
    bench.scheduler.step()
    bench.scheduler.close()
    assert all(sampler.freed for sampler in FakeSampler.made)


def test_a_token_that_ends_the_answers_of_a_family() -> None:
    bench = Bench()
    events: list[Event] = []
    reading = Reading(ends=frozenset([ord("d")]))
    bench.scheduler.add(Job(Request(), events.append, tokens=[97], reading=reading))
    bench.run()
    assert "".join(event.text for event in events if isinstance(event, Text)) == "bc"
    assert isinstance(events[-1], Finished)
    assert events[-1].reason == "stop"


def test_samplers_know_the_prompt_and_how_long_it_may_become() -> None:
    bench = Bench()
    bench.ask("abcdef", max_tokens=1)
    bench.run()
    (made,) = FakeSampler.made
    assert made.prompt == [ord(char) for char in "abcdef"]
    assert made.longest == bench.context.size.tokens


def test_step_without_work_runs_nothing() -> None:
    bench = Bench()
    bench.scheduler.step()
    assert bench.context.batches == []


# A job, by itself.


def last_events(send: Callable[[Job], None]) -> tuple[Sequence[Event], int]:
    events: list[Event] = []
    ends: list[Job] = []
    send(Job(Request(), events.append, ends.append))
    return events, len(ends)


def test_nothing_follows_the_last_event() -> None:
    def send(job: Job) -> None:
        job.send(Text("a"))
        job.send(Failed("closed", "one"))
        job.send(Failed("closed", "two"))
        job.send(Text("b"))

    assert last_events(send) == ([Text("a"), Failed("closed", "one")], 1)


def test_what_lies_aside_stays_there_for_a_short_beginning() -> None:
    """Bringing back hundreds of tokens takes longer than reading a few."""
    bench = Bench(parallel=4, batch=512)
    bench.ask("s" * 8 + "a" * 300, max_tokens=1)
    bench.run()
    bench.ask("k" * 100, max_tokens=1)
    bench.run()
    lying = bench.scheduler._slots[0]
    assert lying.aside
    other = bench.ask("s" * 8 + "b" * 100, max_tokens=1)
    bench.run()
    assert (other.cached, other.text) == (0, "c")
    assert lying.aside
    third = bench.ask("s" * 8 + "c" * 100, max_tokens=1)  # the last one is still at hand
    bench.run()
    assert (third.cached, third.text) == (8, "d")
    assert lying.aside
    again = bench.ask("s" * 8 + "a" * 300 + "b", max_tokens=1)
    bench.run()
    assert again.cached == 308


def test_a_fresh_request_reads_all_and_costs_nobody_what_can_be_put_aside() -> None:
    bench = Bench(parallel=2, batch=512)
    text = "s" * 100
    bench.ask(text, max_tokens=1)
    bench.run()
    fresh = bench.ask(text, max_tokens=1, fresh=True)
    bench.run()
    assert (fresh.cached, fresh.text) == (0, "t")
    assert bench.context.cleared == 1
    again = bench.ask(text + "a", max_tokens=1)
    bench.run()
    assert again.cached == 100


def test_a_fresh_request_beside_another_leaves_the_context_as_it_is() -> None:
    bench = Bench(parallel=3, batch=512)
    running = bench.ask("a" * 20, max_tokens=8)
    bench.scheduler.step()
    fresh = bench.ask("a" * 20, max_tokens=2, fresh=True)
    bench.run()
    assert bench.context.cleared == 0
    assert fresh.cached == 0
    assert (running.text, fresh.text) == ("bcdefghi", "bc")


def test_a_fresh_request_always_has_the_first_sequences() -> None:
    bench = Bench(parallel=4, batch=512)
    for number in range(3):
        bench.ask("abc"[number] * 80, max_tokens=1)
        bench.run()
        fresh = bench.ask("x" * 10, max_tokens=1, choices=2, fresh=True)
        bench.run()
        begun = [event for event in fresh.events if isinstance(event, Begun)]
        assert begun == [Begun((0, 1))]
    again = bench.ask("c" * 80 + "d", max_tokens=1)
    bench.run()
    assert again.cached == 80


def test_a_long_conversation_stays_where_it_is_while_answers_are_written() -> None:
    """Copying it would be felt as a halt in those."""
    bench = Bench(parallel=4, tokens=4000, batch=512)
    for text in ("l" * 1000, "s" * 100):
        bench.ask(text, max_tokens=1)
        bench.run()
    running = bench.ask("r" * 20, max_tokens=400)
    slots = bench.scheduler._slots
    bench.scheduler.step()
    assert [bool(slot.aside) for slot in slots] == [True, True, False, False]  # it was alone
    again = bench.ask("l" * 1000 + "m", max_tokens=1)
    while again.end is None:
        bench.scheduler.step()
    assert again.cached == 1000
    bench.ask("x", max_tokens=1)
    for _ in range(3):
        bench.scheduler.step()
    assert running.end is None
    assert [bool(slot.aside) for slot in slots] == [False, True, False, False]
    bench.run()
    bench.ask("y", max_tokens=1)  # nobody writes any more
    bench.run()
    assert slots[0].aside


def test_what_there_is_no_room_for_is_put_aside_not_lost() -> None:
    bench = Bench(parallel=3, tokens=200, batch=512)
    running = bench.ask("{" * 20, max_tokens=60)  # nothing behind it ends an answer
    bench.scheduler.step()
    idle = bench.ask("l" * 130, max_tokens=1)
    while idle.end is None:
        bench.scheduler.step()
    bench.run()
    assert running.reason == "length"
    assert len(running.text) == 60
    again = bench.ask("l" * 130 + "m", max_tokens=1)
    bench.run()
    assert again.cached == 130
