"""Tries grammars in llama.cpp itself: a program of its own, for native code may abort it.

Reads {"model": path, "steps": n, "grammars": [text, ...]} from standard input. For each
grammar it writes one line, before the next is begun: "refused", or the text of a random
walk, with "end", "open" or "dead" before it.
"""

from __future__ import annotations

import ctypes
import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from runtime_stub.engine.library import library


def run_natively(grammars: list[str], steps: int) -> list[str]:
    """What llama.cpp makes of each grammar; fewer lines than grammars when it aborted."""
    model = os.environ.get("SATCHEL_SAMPLE_MODEL", "")
    if not model:
        pytest.skip("SATCHEL_SAMPLE_MODEL names no model")
    done = subprocess.run(
        [sys.executable, __file__],
        input=json.dumps({"model": model, "steps": steps, "grammars": grammars}),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)},
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


def main() -> None:
    asked = json.load(sys.stdin)
    llama = library()
    parameters = llama.llama_model_default_params()
    parameters.vocab_only = True
    model = llama.llama_model_load_from_file(asked["model"].encode(), parameters)
    vocabulary = llama.llama_model_get_vocab(model)
    count = llama.llama_vocab_n_tokens(vocabulary)
    fresh = (llama.llama_token_data * count)(*((token, 0.0, 0.0) for token in range(count)))
    for number, text in enumerate(asked["grammars"]):
        sampler = llama.llama_sampler_init_grammar(vocabulary, text.encode(), b"root")
        if not sampler:
            line = "refused"
        else:
            choose = random.Random(number)  # noqa: S311
            line = walk(llama, vocabulary, sampler, fresh, asked["steps"], choose)
            llama.llama_sampler_free(sampler)
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()


def walk(
    llama: Any, vocabulary: Any, sampler: Any, fresh: Any, steps: int, choose: random.Random
) -> str:
    count = len(fresh)
    candidates = (llama.llama_token_data * count)()
    items = llama.llama_token_data_array(data=candidates, size=count, selected=-1, sorted=False)
    words = memoryview(candidates).cast("B").cast("f")
    written = b""
    buffer = ctypes.create_string_buffer(512)
    for _ in range(steps):
        ctypes.memmove(candidates, fresh, ctypes.sizeof(fresh))
        llama.llama_sampler_apply(sampler, ctypes.byref(items))
        allowed = [token for token, logit in enumerate(words[1::3].tolist()) if logit == 0.0]
        if not allowed:
            return "dead " + written.decode(errors="replace")
        # Short tokens reach more of a grammar in few steps.
        token = min(choose.sample(allowed, min(2, len(allowed))))
        if any(llama.llama_vocab_is_eog(vocabulary, other) for other in allowed):
            return "end " + written.decode(errors="replace")
        llama.llama_sampler_accept(sampler, token)
        length = llama.llama_token_to_piece(vocabulary, token, buffer, 512, 0, True)
        written += buffer.raw[: max(0, length)]
    return "open " + written.decode(errors="replace")


if __name__ == "__main__":
    main()
