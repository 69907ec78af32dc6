"""A real pack with a draft: it says the same, and leaves the draft alone where it is told to."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import tiny_models
from running_pack import Place, address_of, place, satchel

pytestmark = pytest.mark.pack

PROMPT = "abcabcabcabdabcabcabcabd"
OTHERS = {str(token): -100 for token in range(94) if chr(33 + token) not in "oix"}
BODY = {
    "prompt": PROMPT,
    "max_tokens": 100,
    "temperature": 0,
    "logit_bias": {**OTHERS, str(tiny_models.END): -100, str(tiny_models.END + 1): -100},
}


@pytest.fixture(scope="module", params=["mapped", "compressed"])
def ready(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("drafts")
    main = tiny_models.plain(folder / "main.gguf")
    small = tiny_models.plain(folder / "small.gguf", seed="other")
    options = ("--draft", small, "--context", "512", "--storage", request.param, "-o")
    satchel("pack", main, *options, folder / "made")
    return place(folder / "place", source=folder / "made")


@contextmanager
def server(ready: Place, *options: str) -> Iterator[str]:
    process = ready.start("serve", "--port", "0", *options)
    try:
        yield address_of(process)
    finally:
        process.kill()
        process.communicate()


def answer(address: str) -> str:
    reply = httpx.post(f"{address}/v1/completions", json=BODY, timeout=60).json()
    return str(reply["choices"][0]["text"])


def test_it_says_the_same(ready: Place) -> None:
    with server(ready) as address:
        found = answer(address)
    with server(ready, "--no-drafts") as address:
        assert answer(address) == found
    assert len(found) == 100


def test_it_is_known(ready: Place) -> None:
    assert "guesses ahead" in ready.run("info").stdout
    kinds = [entry["kind"] for entry in json.loads(ready.run("info", "--json").stdout)["entries"]]
    assert kinds.count("draft") == 1
    assert "draft" in ready.run("verify").stdout
    assert "== draft" in ready.run("licenses", "--list").stdout
    bill = json.loads(satchel("sbom", ready.pack).stdout)
    assert "entry:draft" in [part["bom-ref"] for part in bill["components"]]


def test_ask(ready: Place) -> None:
    said = [
        ready.run("ask", "a b", "--max-tokens", "40", "--temperature", "0", *more).stdout
        for more in ((), ("--no-drafts",))
    ]
    assert said[0]
    assert said[0][:20] == said[1][:20]


def test_of_another_family(tmp_path: Path) -> None:
    main = tiny_models.plain(tmp_path / "main.gguf")
    strange = tiny_models.plain(tmp_path / "s.gguf", characters=tiny_models.CHARACTERS[::-1])
    said = satchel("pack", main, "--draft", strange, "-o", tmp_path / "made", check=False)
    assert said.returncode != 0
    assert "its tokens are others" in said.stderr
    assert not (tmp_path / "made").exists()
