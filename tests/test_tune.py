"""`tune` of a real pack, and what others make of its result."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny_models
from running_pack import ASK, Place, place, satchel

from runtime_stub.engine.profile import Measured, Profile, Trial
from runtime_stub.tuning.show import summary, table

FOUND = Measured(
    Profile(threads=3, prompt_threads=4, flash_attention=False, batch=256, repack=True),
    (
        Trial("threads", 3, "generate", 1234.5, 1.204, 8, chosen=True),
        Trial("prompt_threads", 16, "read", 10.0, 0.9, 2),
        Trial("flash_attention", 0, "generate", 10.0, 1.1, 8, note="slower at something else"),
        Trial("repack", 1, "generate", 0, 0, 0, note="it is gone"),
    ),
    1025.0,
    2000.0,
)


class TestShown:
    def test_summary(self) -> None:
        assert summary(Profile()) == "the defaults are the fastest here"
        assert summary(FOUND.profile) == (
            "3 threads generate, 4 threads read prompts, flash attention off, "
            "256 prompt tokens per step, repacked weights"
        )

    def test_table(self) -> None:
        found = list(table(FOUND))
        assert "by default" in found[0]
        assert "1,025.0 tokens/s" in found[0]
        assert found[2].split() == [
            "threads",
            "3",
            "generating",
            "1,234.5",
            "tokens/s",
            "+20%",
            "chosen",
        ]
        assert found[3].endswith("-10%")
        assert "flash attention off" in found[4]
        assert found[4].endswith("slower at something else")
        assert found[5].endswith("it is gone")
        assert list(table(Measured(Profile()))) == []


@pytest.fixture
def pack(tmp_path: Path) -> Place:
    return place(tmp_path)


def profiles(pack: Place) -> list[Path]:
    return sorted((pack.cache / "profiles").glob("*"))


def known(pack: Place) -> Any:
    return json.loads(pack.run("info", "--json").stdout)["models"][0]["measured"]


@pytest.mark.pack
def test_there_and_back(pack: Place) -> None:
    pack.run(*ASK)
    assert profiles(pack) == []
    assert known(pack) is None
    assert "not measured yet" in pack.run("info").stdout
    (found,) = json.loads(pack.run("tune", "--json").stdout)
    assert found["seconds"] < 10  # it has 4.5, and ends what it is at
    assert found["profile"]["repack"] is False
    if found["file"] is None:  # it was too busy to be believed
        assert "other programs took" in found["note"]
        assert found["profile"] == {**found["profile"], "threads": 0, "prompt_threads": 0}
        assert known(pack) is None
        return
    assert [str(path) for path in profiles(pack)] == [found["file"]]
    assert known(pack) == {key: found[key] for key in known(pack)}
    assert found["file"] in pack.run("cache", "show").stdout
    assert "Paris" in pack.run(*ASK).stdout
    assert json.loads(pack.run("tune", "--reset", "--json").stdout)[0]["forgotten"] is True
    assert json.loads(pack.run("tune", "--reset", "--json").stdout)[0]["forgotten"] is False
    assert profiles(pack) == []


@pytest.mark.pack
def test_repacked_weights_are_tried_where_they_are_not_unasked(pack: Place, tmp_path: Path) -> None:
    def tried(place: Place) -> set[str]:
        (found,) = json.loads(place.run("tune", "--json").stdout)
        settings = {trial["setting"] for trial in found["trials"]}
        # The second takes the place of the first.
        busy = any(why in found["note"] for why in ("there was no time", "other programs took"))
        if busy and "repack" not in settings:
            pytest.skip("this machine is too busy to measure it all")
        return settings

    model = tiny_models.hybrid(tmp_path / "hybrid.gguf")
    satchel("pack", model, "-o", tmp_path / "hybrid")
    assert "repack" in tried(place(tmp_path / "other", source=tmp_path / "hybrid"))
    if "avx2" in Path("/proc/cpuinfo").read_text():
        assert "repack" not in tried(pack)


@pytest.mark.pack
def test_for_people(pack: Place) -> None:
    said = pack.run("tune").stdout
    assert "measured in" in said
    assert "Chosen: " in said or "The defaults stay" in said
    assert "nothing was known" in pack.run("tune", "--reset").stdout or profiles(pack) == []


@pytest.mark.pack
def test_what_is_known_is_used(pack: Place) -> None:
    """And only where nobody decided otherwise."""
    pack.run("tune", "--json")
    if not profiles(pack):
        pytest.skip("this machine is too busy to be measured")
    path = profiles(pack)[0]
    document = json.loads(path.read_text(encoding="utf-8"))
    document["measured"]["profile"]["threads"] = 1
    path.write_text(json.dumps(document), encoding="utf-8")
    assert "1 threads generate" in pack.run("info").stdout
    assert "Paris" in pack.run(*ASK).stdout
    path.write_text("{", encoding="utf-8")
    assert "Paris" in pack.run(*ASK).stdout
    assert known(pack) is None


@pytest.mark.pack
def test_a_model_that_is_not_there(pack: Place) -> None:
    said = pack.run("tune", "--model", "none", check=False)
    assert said.returncode == 3
    assert "there is no model 'none' here" in said.stderr
