"""schemathesis reads a running pack's own description, and asks for all that it allows and more."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from running_pack import address_of, place, wait_for

pytestmark = [pytest.mark.pack, pytest.mark.slow]

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
)


@pytest.mark.timeout(900)
def test_every_operation_is_as_it_is_described(tmp_path: Path) -> None:
    here = place(tmp_path)
    # A small context bounds the answers, however long ones are asked for.
    server = here.start("serve", "--port", "0", "--context", "128", "--max-tokens", "4")
    try:
        address = address_of(server)
        wait_for(lambda: httpx.get(f"{address}/health").status_code == 200, "loading the model")
        result = subprocess.run(
            [
                Path(sys.executable).with_name("schemathesis"),
                "run",
                f"{address}/openapi.json",
                *("--phases", "coverage,fuzzing", "--checks", ",".join(CHECKS)),
                *("--max-examples", "8", "--seed", "1", "--generation-database", "none"),
                *("--continue-on-failure", "--no-shrink", "--suppress-health-check", "all"),
                *("--request-timeout", "60", "--warnings", "off"),
            ],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=800,
            check=False,
        )
        assert result.returncode == 0, result.stdout[-6000:]
        cases = re.search(r"(\d+) generated", result.stdout)
        assert cases, result.stdout
        assert int(cases[1]) > 1000
        assert server.poll() is None
        reply = httpx.post(
            f"{address}/v1/chat/completions",
            json={"messages": [{"role": "user", "content": "Hi"}]},
            timeout=60,
        )
        assert reply.status_code == 200, reply.text
    finally:
        server.terminate()
        _, told = server.communicate(timeout=60)
    assert "Traceback" not in told
    assert "unexpectedly" not in told
