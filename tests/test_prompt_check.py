from __future__ import annotations

from pathlib import Path

import pytest
from running_pack import sample_model, satchel

from packer import prompt_check
from packer.prompt_check import check_length
from runtime_stub.errors import PromptError


def test_short_ones_are_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise AssertionError

    monkeypatch.setattr(prompt_check, "_tokens", refuse)
    for system, context, paths in (
        (None, 100, 1),
        ("", 100, 1),
        ("x" * 99, 100, 1),
        ("x" * 999, 0, 1),
        ("x" * 999, 100, 2),
    ):
        check_length(system, context, (Path("model"),) * paths)


def test_what_can_not_be_counted_is_let_through(tmp_path: Path) -> None:
    (tmp_path / "model").write_bytes(b"GGUF and nothing else")
    check_length("x" * 999, 100, (tmp_path / "model",))


@pytest.mark.pack
def test_counted_by_the_model_itself() -> None:
    text = "one two three four five "  # five tokens and a few
    check_length(text * 50, 512, (sample_model(),))
    with pytest.raises(PromptError, match=r"has \d,\d\d\d tokens, the context 512") as caught:
        check_length(text * 400, 512, (sample_model(),))
    assert 2000 <= int(caught.value.message.split()[4].replace(",", "")) <= 2500


@pytest.mark.pack
def test_packing(tmp_path: Path) -> None:
    (tmp_path / "long.txt").write_text("word " * 9000)
    system = ("--system", f"@{tmp_path / 'long.txt'}")
    result = satchel("pack", sample_model(), "-o", tmp_path / "out", *system, check=False)
    assert result.returncode == 14
    assert "tokens, the context 8,192. Shorten it" in result.stderr
    assert not (tmp_path / "out").exists()
