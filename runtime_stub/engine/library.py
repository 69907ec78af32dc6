"""Loads llama.cpp: the only door to `llama_cpp`, opened once and only when needed."""

from __future__ import annotations

import collections
import ctypes
import os
import sys
import threading
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from runtime_stub.engine.cores import tell_cores
from runtime_stub.errors import EngineError
from runtime_stub.later import bare_package

_LEVEL_WARN = 3
_LEVEL_ERROR = 4
_problems: collections.deque[str] = collections.deque(maxlen=8)
_backend: list[str] = []
_callback: Any = None
_T = TypeVar("_T")


_opening = threading.Lock()
_opened: list[Any] = []


def library() -> Any:
    """The low-level `llama_cpp.llama_cpp` module, with the best CPU backend loaded.

    The package's own `__init__` imports NumPy and a second, larger interface; registering a
    bare package first leaves both out and makes the import three times as fast.
    """
    if not _opened:
        with _opening:
            if not _opened:
                _opened.append(_open())
                address = native_of_processor("satchel_cores")
                if address is not None:
                    tell_cores(address)
    return _opened[0]


def _open() -> Any:
    # Read by ggml when native code aborts: no debugger is started, no trace printed.
    os.environ["GGML_NO_BACKTRACE"] = "1"
    # Read by OpenMP when it is loaded. Threads that wait for each other spin 300,000 times by
    # default, and on a machine that does anything else besides, that is several times slower.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    if bare_package("llama_cpp") is None:
        raise EngineError("llama-cpp-python is not installed", "Run `python build.py`")
    # All that it wants of these is in `typing`, too; loading them takes as long as the rest of it.
    extensions = sys.modules.setdefault("typing_extensions", typing)
    try:
        import llama_cpp.llama_cpp as llama
    except (OSError, RuntimeError) as error:
        raise EngineError(f"llama.cpp can't be loaded: {error}") from error
    finally:
        if extensions is typing:
            del sys.modules["typing_extensions"]
    folder = libraries_folder()
    _keep_problems(llama)
    # Before llama_backend_init, which would also search the current directory.
    ggml = ctypes.CDLL(str(folder / _library_name("ggml")))
    ggml.ggml_backend_load_all_from_path.argtypes = [ctypes.c_char_p]
    ggml.ggml_backend_load_all_from_path(os.fsencode(folder))
    ggml.ggml_backend_dev_count.restype = ctypes.c_size_t
    if ggml.ggml_backend_dev_count() == 0:
        raise EngineError("no CPU backend of llama.cpp runs on this machine")
    llama.llama_backend_init()
    return llama


def libraries_folder() -> Path:
    """The folder that holds llama.cpp's shared libraries."""
    return Path(sys.modules["llama_cpp"].__path__[0]) / "lib"


def cpu_variant() -> str:
    """Which build of the CPU backend was chosen, such as "icelake"; empty if unknown."""
    library()
    return _backend[-1] if _backend else ""


def recent_problems() -> tuple[str, ...]:
    """llama.cpp's latest warnings and errors, oldest first; reading them forgets them."""
    lines = tuple(_problems)
    _problems.clear()
    return lines


def quietly(call: Callable[[], _T]) -> _T:
    """What the native `call` returns; where that is nothing it is called again, for its log.

    llama.cpp writes a thousand lines while it loads a model, and as many for a context. For each
    that we listen to, its thread would wait for its turn among Python's.
    """
    llama = library()
    # Any function that can be called from anywhere, looks at no argument and changes nothing.
    deaf = ctypes.cast(ctypes.pythonapi.Py_IsInitialized, llama.llama_log_callback)
    llama.llama_log_set(deaf, None)
    try:
        result = call()
    finally:
        llama.llama_log_set(_callback, None)
    if result:
        return result
    recent_problems()
    return call()


def native(name: str, *, quick: bool = False) -> Any:
    """A function of our own that was linked into libllama; None where it was not. One that is
    `quick` keeps the interpreter's lock: to hand it over and take it back takes longer."""
    linked = library()._lib  # noqa: SLF001
    if quick:
        linked = ctypes.PyDLL(linked._name, handle=linked._handle)  # noqa: SLF001
    return getattr(linked, name, None)


def native_of_processor(name: str) -> int | None:
    """The address of something of our own that was linked into the chosen CPU backend; None where
    it was not."""
    variant = cpu_variant()
    path = libraries_folder() / _library_name(f"ggml-cpu-{variant}")
    if not variant or not path.exists():
        return None
    try:
        return ctypes.addressof(ctypes.c_char.in_dll(ctypes.CDLL(str(path)), name))
    except ValueError:
        return None


def _library_name(name: str) -> str:
    if sys.platform == "win32":
        return f"{name}.dll"
    return f"lib{name}.dylib" if sys.platform == "darwin" else f"lib{name}.so"


def _keep_problems(llama: Any) -> None:
    """Send llama.cpp's log to a short memory instead of standard error."""
    global _callback  # noqa: PLW0603  (C holds the pointer, so it must never be collected)
    last_level = 0

    def on_line(level: int, text: bytes, _: object) -> None:
        nonlocal last_level
        if level <= _LEVEL_ERROR:  # 5 continues the line before
            last_level = level
        line = text.decode(errors="replace").strip()
        if "loaded CPU backend from" in line:
            _backend.append(line.rsplit("ggml-cpu-", 1)[-1].rsplit(".", 1)[0])
        elif line and last_level in (_LEVEL_WARN, _LEVEL_ERROR):
            _problems.append(line)

    _callback = llama.llama_log_callback(on_line)
    llama.llama_log_set(_callback, None)
