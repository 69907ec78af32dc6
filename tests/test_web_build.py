from __future__ import annotations

import gzip
import json
import re
import shutil
from pathlib import Path

import pytest

from packer.web_build import LIBRARIES, build_web, package_folder
from runtime_stub.errors import StubError
from runtime_stub.server.page import INDEX, START

ROOT = Path(__file__).resolve().parent.parent
OWN = ROOT / "templates" / "web"
SCRIPTS = sorted(OWN.glob("*.js"))
ELSEWHERE = re.compile(r"""(?:https?:)?//[\w-]+\.[\w.-]+""")
"""What looks like an address of another machine."""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with our page and libraries that only look like them."""
    shutil.copytree(OWN, tmp_path / "templates" / "web")
    for library in LIBRARIES:
        folder = tmp_path / "build" / "web" / "node_modules" / library.package
        (folder / library.file).parent.mkdir(parents=True, exist_ok=True)
        (folder / "package.json").write_text("{}")
        (folder / library.file).write_text(
            f"/* {library.package} */\n//# sourceMappingURL=x.js.map\n"
        )
    return tmp_path


def test_everything_is_there(checkout: Path, tmp_path: Path) -> None:
    build_web(checkout, tmp_path / "out")
    index = json.loads((tmp_path / "out" / INDEX).read_bytes())
    assert START in index
    assert {path.name for path in OWN.iterdir()} <= set(index)
    for library in LIBRARIES:
        text = gzip.decompress((tmp_path / "out" / f"{library.target}.gz").read_bytes()).decode()
        assert text == f"/* {library.package} */{library.ending}"
    for name, facts in index.items():
        assert (tmp_path / "out" / f"{name}.gz").is_file()
        assert facts["type"].startswith("text/")


def test_same_inputs_same_bytes(checkout: Path, tmp_path: Path) -> None:
    build_web(checkout, tmp_path / "one")
    build_web(checkout, tmp_path / "two")
    for path in (tmp_path / "one").rglob("*"):
        if path.is_file():
            other = tmp_path / "two" / path.relative_to(tmp_path / "one")
            assert path.read_bytes() == other.read_bytes()


def test_a_change_has_another_tag(checkout: Path, tmp_path: Path) -> None:
    build_web(checkout, tmp_path / "one")
    (checkout / "templates" / "web" / "app.js").write_text("other();")
    build_web(checkout, tmp_path / "two")
    one, two = (json.loads((tmp_path / name / INDEX).read_bytes()) for name in ("one", "two"))
    assert {name for name in one if one[name] != two[name]} == {"app.js"}


def test_missing_library(tmp_path: Path) -> None:
    with pytest.raises(StubError, match="npm package marked is not there") as caught:
        package_folder(tmp_path, "marked")
    assert "build.py stub" in (caught.value.hint or "")


# What lies in templates/web.


def test_no_inline_script_and_no_inline_style() -> None:
    text = (OWN / START).read_text(encoding="utf-8")
    assert not re.search(r"<script(?![^>]*\bsrc=)", text)
    assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:", text)


def test_what_the_page_names_is_there() -> None:
    text = (OWN / START).read_text(encoding="utf-8")
    known = {path.name for path in OWN.iterdir()} | {library.target for library in LIBRARIES}
    named = {name.removeprefix("web/") for name in re.findall(r'(?:src|href)="(web/[^"]+)"', text)}
    assert named - {"icon"} <= known
    # All are fetched at once, not one after the other.
    late = {"vendor/highlight.js", "vendor/temml.js"}
    assert known - late - {START} == named - {"icon"}


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_scripts(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for name in re.findall(r'from "\./([^"]+)"', text):
        assert name.startswith("vendor/") or (OWN / name).is_file()
    sinks = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function"
    assert not re.search(sinks, text)
    assert [found for found in ELSEWHERE.findall(text) if "www.w3.org" not in found] == []


def test_pictures_that_are_used_are_there() -> None:
    page = (OWN / START).read_text(encoding="utf-8")
    there = set(re.findall(r'<symbol id="i-([\w-]+)"', page))
    used = set(re.findall(r'href="#i-([\w-]+)"', page))
    for path in SCRIPTS:
        text = path.read_text(encoding="utf-8")
        for one, two in re.findall(r'\bicon\("([\w-]+)"\)|iconButton\("([\w-]+)"', text):
            used.add(one or two)
    assert used <= there


def test_both_dark_looks_are_the_same() -> None:
    """One is for systems that are dark, one for people who want it so: CSS can't say it once."""
    text = (OWN / "style.css").read_text(encoding="utf-8")
    system = re.search(r':root:not\(\[data-theme="light"\]\) \{(.*?)\}', text, re.DOTALL)
    wanted = re.search(r':root\[data-theme="dark"\] \{(.*?)\}', text, re.DOTALL)
    assert system is not None
    assert wanted is not None
    assert system[1].split() == wanted[1].split()


def test_libraries_are_pinned() -> None:
    folder = ROOT / "requirements" / "web"
    package = json.loads((folder / "package.json").read_bytes())
    lock = json.loads((folder / "package-lock.json").read_bytes())
    assert set(package["dependencies"]) == {library.package for library in LIBRARIES}
    for name, facts in lock["packages"].items():
        if not name:
            continue
        assert facts["integrity"].startswith("sha512-")
        assert "resolved" not in facts
    assert all(v[0].isdigit() for v in package["dependencies"].values())
