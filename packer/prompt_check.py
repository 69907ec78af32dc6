"""Counts the tokens of a long system prompt while packing: it must fit into the context.

Only the model's vocabulary is loaded, in a child process: it is a stranger's file, read by
native code.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from runtime_stub.errors import PromptError

SECONDS = 60

_CHILD = """
import sys
sys.path[:] = filter(None, sys.path)
import json, os
from runtime_stub.engine.messages import ModelSource
from runtime_stub.engine.model import load_model
path = sys.argv[1]
descriptor = os.open(path, os.O_RDONLY)
source = ModelSource(descriptor, 0, os.fstat(descriptor).st_size, path)
model = load_model(source, lambda _: True, vocabulary_only=True)
text = json.load(sys.stdin)
print(len(model.tokenize(text, special=False, add_bos=False)))
"""


def check_length(system: str | None, context: int, paths: tuple[Path, ...]) -> None:
    """Raise PromptError if `system` alone fills a context of `context` tokens, 0 if unknown.

    `paths` are the model's files. What can't be counted is let through: the pack says so itself.
    """
    # No tokenizer makes more tokens than there are bytes.
    if not system or not context or len(system.encode()) < context or len(paths) != 1:
        return
    count = _tokens(system, paths[0])
    if count is not None and count >= context:
        raise PromptError(
            f"the system prompt has {count:,} tokens, the context {context:,}",
            "Shorten it, or ask for a larger context",
        )


def _tokens(text: str, model: Path) -> int | None:
    try:
        result = subprocess.run(
            [sys.executable, "-c", _CHILD, str(model)],
            input=json.dumps(text),
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        return int(result.stdout)
    except (subprocess.TimeoutExpired, ValueError):
        return None
