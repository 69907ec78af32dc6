"""What the engine's parts tell each other; outside it is an error like its base."""

from __future__ import annotations

from runtime_stub.errors import PromptError


class TooLongError(PromptError):
    """The prompt is more than the context holds, whatever its tokens are."""
