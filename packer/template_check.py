"""Tries a chat template at pack time, in a child process with limits on time and memory."""

from __future__ import annotations

import json
import subprocess
import sys

from runtime_stub.errors import PromptError

SECONDS = 10
MEMORY = 512 << 20
"""What the child may take, in bytes of address space."""

_CHILD = """
import sys
sys.path[:] = filter(None, sys.path)  # not the current folder, which may hold a json.py
import json
try:
    import resource
    limit = int(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CPU, (int(sys.argv[2]),) * 2)
except ImportError:
    pass
from runtime_stub.engine.template import ChatTemplate, Variables
from runtime_stub.errors import PromptError
given = json.load(sys.stdin)
try:
    template = ChatTemplate(given["template"], Variables("<s>", "</s>"))
    print(json.dumps({"text": template.render(given["messages"])[:1000]}))
except PromptError as error:
    print(json.dumps({"problem": error.message}))
"""


def check_template(template: str, system: str | None) -> list[str]:
    """Render a short chat with `template`; returns notes for the maker.

    Raises PromptError when it fails, or takes more time or memory than any template should.
    """
    user = {"role": "user", "content": "Hello"}
    problem = _render(template, [user])
    if problem:
        raise PromptError(
            f"the model's chat template can't be used: {problem}",
            'Give another with `template = "@FILE"` in a recipe',
        )
    if system:
        problem = _render(template, [{"role": "system", "content": system}, user])
        if problem:
            return [f"The model's chat template does not take a system prompt ({problem})."]
    return []


def _render(template: str, messages: list[dict[str, str]]) -> str:
    """What is wrong with rendering `messages`; empty when nothing is."""
    try:
        result = subprocess.run(
            [sys.executable, "-c", _CHILD, str(MEMORY), str(SECONDS)],
            input=json.dumps({"template": template, "messages": messages}),
            capture_output=True,
            text=True,
            timeout=12 * SECONDS,  # on a busy machine; what counts is the time it computes
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"it takes longer than {12 * SECONDS} seconds"
    try:
        outcome = json.loads(result.stdout)
    except ValueError:
        return "it takes too much time or memory"
    return str(outcome.get("problem", ""))
