from __future__ import annotations

from pathlib import Path

import pytest

from packer.licenses import musl_version
from runtime_stub.errors import StubError


def test_musl_version(tmp_path: Path) -> None:
    header = tmp_path / "src" / "internal" / "version.h"
    header.parent.mkdir(parents=True)
    header.write_text('#define VERSION "1.2.5"\n')
    assert musl_version(tmp_path) == "1.2.5"


def test_musl_that_states_no_version(tmp_path: Path) -> None:
    """A bill of materials without it would be of no use: there is no stub then."""
    with pytest.raises(StubError, match="does not say which version"):
        musl_version(tmp_path)
