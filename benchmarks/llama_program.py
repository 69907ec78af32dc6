"""What somebody would write with llama-cpp-python alone. Runs in the rivals' environment.

llama_program.py QUESTION THREADS CONTEXT TOKENS      answers; also what the one-file holds
llama_program.py serve --model ...                    llama_cpp.server, with its options
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path
from typing import Any

import llama_cpp


def main() -> None:
    """Answer or serve."""
    # This build brings one library for each kind of processor; the best one is loaded here.
    ggml = ctypes.CDLL("libggml.so")
    folder = Path(llama_cpp.__file__).parent / "lib"
    ggml.ggml_backend_load_all_from_path(ctypes.c_char_p(os.fsencode(folder)))
    llama_cpp.llama_cpp.llama_model_default_params = _parameters
    if sys.argv[1] == "serve":
        from llama_cpp.server.__main__ import main as serve

        del sys.argv[1]
        serve()
    else:
        answer(sys.argv[1], *map(int, sys.argv[2:5]))


def _parameters(make: Any = llama_cpp.llama_cpp.llama_model_default_params) -> Any:
    """Weights stay as they lie in the file, as in all programs that are compared."""
    parameters = make()
    parameters.use_extra_bufts = False
    return parameters


def answer(question: str, threads: int, context: int, tokens: int) -> None:
    """Print the answer piece by piece."""
    folder = Path(getattr(sys, "_MEIPASS", ".")) / "model"
    llama = llama_cpp.Llama(
        model_path=str(next(folder.glob("*.gguf"))),
        n_threads=threads,
        n_threads_batch=threads,
        n_ctx=context,
        flash_attn=True,
        verbose=False,
    )
    for chunk in llama.create_chat_completion(
        messages=[{"role": "user", "content": question}],
        max_tokens=tokens,
        temperature=0,
        stream=True,
    ):
        sys.stdout.write(chunk["choices"][0]["delta"].get("content", ""))
        sys.stdout.flush()


if __name__ == "__main__":
    main()
