"""A coverage-guided fuzzer for one of the Python readers:

    python tests/fuzz/run.py TARGET CORPUS -max_total_time=60

The options are libFuzzer's. `tests/test_fuzz.py` runs all of them for a short while.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

TESTS = Path(__file__).resolve().parent.parent

if __name__ == "__main__":
    sys.path[:0] = [str(TESTS), str(TESTS.parent)]
    with atheris.instrument_imports(include=["runtime_stub", "packer", "fuzz_targets"]):
        from fuzz_targets import TARGETS

    atheris.Setup([sys.argv[0], *sys.argv[2:]], TARGETS[sys.argv[1]])
    atheris.Fuzz()
