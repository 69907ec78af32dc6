from __future__ import annotations

import json
from pathlib import Path

import pytest
from engine_fixtures import FACTS, NO_USAGE, ScriptedEngine

from runtime_stub.chat.commands import COMMANDS, SETTINGS, Commands, Outcome
from runtime_stub.chat.conversation import Conversation
from runtime_stub.chat.files import Files
from runtime_stub.chat.pack_models import Prepared
from runtime_stub.confinement.broker import DirectBroker
from runtime_stub.engine.messages import (
    EngineSettings,
    Finished,
    PromptRead,
    Request,
    Sampling,
    Text,
)
from runtime_stub.environment import Launch
from runtime_stub.errors import InputError, OutputError, RecipeError, SatchelError


class TwoModels:
    names = ("small", "large")
    current = "small"
    prepared = Prepared(EngineSettings(), Request(), "Be brief.")
    engine = ScriptedEngine()

    def switch(self, name: str) -> None:
        self.current = name
        self.prepared = Prepared(EngineSettings(), Request(max_tokens=9), "Be large.")


def direct_broker(folder: Path) -> DirectBroker:
    """A way to files without a sandbox around."""
    return DirectBroker(Launch(-1, folder / "pack", folder, folder, "pack", {}))


def said(text: str) -> list[object]:
    return [PromptRead(1, 0), Text(text), Finished("stop", NO_USAGE)]


@pytest.fixture
def commands(tmp_path: Path) -> Commands:
    """On a conversation of two questions: one, two; answered a, b."""
    engine = ScriptedEngine(*[said(text) for text in "abc"], facts=FACTS, count=lambda _: 1)  # type: ignore[arg-type]
    conversation = Conversation(
        engine, "Be brief.", Request(sampling=Sampling(temperature=0.5), max_tokens=50)
    )
    for question in ("one", "two"):
        list(conversation.say(question))
    return Commands(conversation, TwoModels(), Files(direct_broker(tmp_path)))


def run(commands: Commands, line: str) -> Outcome:
    outcome = commands.run(line)
    assert outcome is not None
    return outcome


@pytest.mark.parametrize(
    "line", ["hello", "/usr/bin", "/ help", "/", "//x", "a /help", "/Help", "/help/me", "/2"]
)
def test_what_is_no_command(commands: Commands, line: str) -> None:
    assert commands.run(line) is None


def test_help_lists_them_all(commands: Commands) -> None:
    lines = "\n".join(run(commands, "/help").lines)
    assert all(f"/{name}" in lines for name in COMMANDS)
    assert "Ctrl-C" in lines


@pytest.mark.parametrize("name", COMMANDS)
def test_each_says_something(
    commands: Commands, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir("/")
    try:
        outcome = run(commands, f"/{name}")
    except SatchelError as error:
        assert error.hint  # noqa: PT017
    else:
        assert outcome != Outcome()


def test_near_misses_are_understood(commands: Commands) -> None:
    with pytest.raises(InputError, match="Did you mean /export"):
        commands.run("/exprt x")


def test_system(commands: Commands) -> None:
    assert list(run(commands, "/system").lines) == ["Be brief."]
    run(commands, "/system Be long.\nAnd wide.")
    assert commands.conversation.system == "Be long.\nAnd wide."
    run(commands, "/system -")
    assert "no system prompt" in run(commands, "/system").notice
    assert "system prompt" in run(commands, "/undo").notice
    assert list(run(commands, "/system").lines) == ["Be long.", "And wide."]


def test_undo_says_what_is_gone(commands: Commands) -> None:
    run(commands, "/clear")
    assert (
        run(commands, "/undo").notice == "Back to a conversation of 2 questions with their answers"
    )
    assert run(commands, "/undo").notice == "Taken back: two"
    assert run(commands, "/undo").notice == "Taken back: one"
    assert run(commands, "/undo").notice == "There is nothing to undo"


def test_retry_and_edit_replace_an_answer_but_not_a_failure(commands: Commands) -> None:
    assert run(commands, "/retry") == Outcome("Asking again: two", ask="two", again=True)
    assert run(commands, "/edit") == Outcome(edit="two", again=True)
    commands.conversation.question = "not answered"
    assert run(commands, "/retry").again is False
    assert run(commands, "/edit") == Outcome(edit="not answered", again=False)


def test_settings(commands: Commands) -> None:
    assert len(run(commands, "/set").lines) == len(SETTINGS)
    assert "0.2 now" in run(commands, "/set temperature 0.2").notice
    assert "7 now" in run(commands, "/set max_tokens 7").notice
    run(commands, "/set seed 3")
    template = commands.conversation.template
    assert (template.sampling.temperature, template.sampling.seed) == (0.2, 3)
    assert template.max_tokens == 7
    for name in ("temperature", "max_tokens", "seed"):
        run(commands, f"/set {name} default")
    template = commands.conversation.template
    assert template == Request(sampling=Sampling(temperature=0.5), max_tokens=50)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("/set temprature 1", "Did you mean temperature"),
        ("/set temperature warm", "must be a number, not 'warm'"),
        ("/set temperature nan", "must be from 0 to 10"),
        ("/set temperature -1", "must be from 0 to 10"),
        ("/set top_k 1.5", "must be a whole number"),
        ("/set max_tokens 0", "must be from 1"),
    ],
)
def test_bad_settings_change_nothing(commands: Commands, line: str, message: str) -> None:
    before = commands.conversation.template
    with pytest.raises(RecipeError, match=message):
        commands.run(line)
    assert commands.conversation.template == before


def test_files(commands: Commands, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(out))
    run(commands, "/save ~/my talk.json")
    assert (out / "my talk.json").is_file()
    run(commands, "/undo")
    run(commands, "/save")  # where it was saved before
    assert len(json.loads((out / "my talk.json").read_text())["messages"]) == 3
    run(commands, "/export ~/x.md")
    with pytest.raises(OutputError, match="--force"):
        commands.run("/export ~/x.md")
    run(commands, "/export --force '~/x.md'")
    run(commands, "/clear")
    assert "1 question" in run(commands, '/load "~/my talk.json"').notice
    assert commands.conversation.exchanges[0].question == "one"


def test_failed_load_loses_nothing(commands: Commands, out: Path) -> None:
    (out / "x").write_text("no")
    before = commands.conversation.transcript
    with pytest.raises(SatchelError):
        commands.run(f"/load {out / 'x'}")
    assert commands.conversation.transcript == before


def test_models(commands: Commands) -> None:
    assert list(run(commands, "/model").lines)[:2] == ["* small", "  large"]
    assert "answers already" in run(commands, "/model small").notice
    assert "from now on" in run(commands, "/model large").notice
    assert commands.models.current == "large"
    conversation = commands.conversation
    assert (conversation.system, conversation.template.max_tokens) == ("Be large.", 9)
    assert len(conversation.exchanges) == 2
    with pytest.raises(InputError, match="small, large"):
        commands.run("/model huge")


def test_reasoning(commands: Commands) -> None:
    states = []
    for line in ("/reasoning off", "/reasoning", "/reasoning on"):
        run(commands, line)
        states.append(commands.shows_reasoning)
    assert states == [False, True, True]
    with pytest.raises(InputError, match="on, or off"):
        commands.run("/reasoning maybe")


def test_quit(commands: Commands) -> None:
    assert run(commands, "/quit").leave
