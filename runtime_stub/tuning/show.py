"""Profiles for people: what was tried, and what came of it."""

from __future__ import annotations

from collections.abc import Iterator

from runtime_stub.engine.profile import Measured, Profile, Trial

_TASKS = {"generate": "generating", "read": "reading prompts"}


def summary(profile: Profile) -> str:
    """A profile in one line."""
    words = []
    if profile.threads:
        words.append(f"{profile.threads} threads generate")
    if profile.prompt_threads:
        words.append(f"{profile.prompt_threads} threads read prompts")
    if profile.flash_attention is not None:
        words.append(f"flash attention {'on' if profile.flash_attention else 'off'}")
    if profile.batch:
        words.append(f"{profile.batch} prompt tokens per step")
    if profile.repack:
        words.append("repacked weights")
    return ", ".join(words) or "the defaults are the fastest here"


def table(measured: Measured) -> Iterator[str]:
    """What was tried, a line each."""
    if measured.generate:
        yield f"  {'by default':<24} {'generating':<16} {measured.generate:>9,.1f} tokens/s"
        yield f"  {'':<24} {'reading prompts':<16} {measured.read:>9,.1f} tokens/s"
    for trial in measured.trials:
        yield f"  {_name(trial):<24} {_TASKS.get(trial.task, ''):<16} {_verdict(trial)}"


def _name(trial: Trial) -> str:
    if trial.setting in ("flash_attention", "repack"):
        return f"{trial.setting.replace('_', ' ')} {'on' if trial.value else 'off'}"
    return f"{trial.setting.replace('_', ' ')} {trial.value}"


def _verdict(trial: Trial) -> str:
    if not trial.pairs:
        return trial.note
    change = f"{trial.gain - 1:+.0%}"
    why = "chosen" if trial.chosen else trial.note
    return f"{trial.speed:>9,.1f} tokens/s  {change:>6}  {why}".rstrip()
