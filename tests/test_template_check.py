from __future__ import annotations

from pathlib import Path

import gguf_files as g
import pytest

from packer import template_check
from packer.template_check import check_template
from runtime_stub.errors import PromptError

NO_SYSTEM = (
    "{% for m in messages %}"
    "{% if m['role'] == 'system' %}{{ raise_exception('no system prompt') }}{% endif %}"
    "{{ m['content'] }}{% endfor %}"
)


def test_sound() -> None:
    assert check_template(g.TEMPLATE, "Be kind.") == []


def test_without_a_system_prompt() -> None:
    notes = check_template(NO_SYSTEM, "Be kind.")
    assert len(notes) == 1
    assert "does not take a system prompt" in notes[0]
    assert "no system prompt" in notes[0]


def test_system_prompt_that_is_not_used() -> None:
    assert check_template(NO_SYSTEM, None) == []


@pytest.mark.parametrize(
    "template",
    [
        "{% for %}",
        "{{ raise_exception('never') }}",
        "{{ messages.__class__.__mro__ }}",
        "{{ 'x' * 500000000 }}",
    ],
)
def test_refused(template: str) -> None:
    with pytest.raises(PromptError, match="the model's chat template can't be used: ") as caught:
        check_template(template, None)
    assert "@FILE" in caught.value.hint


def test_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever ends the child is the template's fault."""
    monkeypatch.setattr(template_check, "_CHILD", "import os; os.abort()")
    with pytest.raises(PromptError, match="too much time or memory"):
        check_template(g.TEMPLATE, None)


def test_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_check, "_CHILD", "import time; time.sleep(60)")
    monkeypatch.setattr(template_check, "SECONDS", 0.05)
    with pytest.raises(PromptError, match="takes longer than"):
        check_template(g.TEMPLATE, None)


def test_the_current_folder_is_not_searched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Packing beside somebody's json.py must not run it."""
    (tmp_path / "json.py").write_text("raise SystemExit(3)", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert check_template(g.TEMPLATE, None) == []
