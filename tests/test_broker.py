"""The process that opens what a person names, and its counterpart without a sandbox."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runtime_stub.confinement.broker import Broker, DirectBroker, Offer, fork_broker
from runtime_stub.environment import Launch

ALL = Offer.FILES | Offer.EDITOR | Offer.BROWSER | Offer.SOCKET


def launch_in(folder: Path, **environment: str) -> Launch:
    host = {"PATH": os.environ["PATH"], "HOME": str(folder), **environment}
    return Launch(0, folder / "pack", folder, folder, "pack", host)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Without a hidden folder on the way."""
    assert not any(part.startswith(".") for part in tmp_path.parts)
    return tmp_path


@pytest.fixture(params=["forked", "direct"])
def broker(request: Any, folder: Path) -> Iterator[Broker]:
    launch = launch_in(folder)
    made: Broker = DirectBroker(launch)
    if request.param == "forked":
        made = fork_broker(launch, ALL)
    yield made
    made.close()


@pytest.fixture
def forked(folder: Path) -> Iterator[Broker]:
    made = fork_broker(launch_in(folder), ALL)
    yield made
    made.close()


def test_a_file_is_read(broker: Broker, folder: Path) -> None:
    (folder / "notes").write_bytes(b"text" * 100_000)
    with broker.reading(folder / "notes") as stream:
        assert stream.read() == b"text" * 100_000


def test_what_can_not_be_read(broker: Broker, folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    for name, error in (("nothing", FileNotFoundError), ("", IsADirectoryError), ("pipe", OSError)):
        with pytest.raises(error), broker.reading(folder / name):
            pass
    test_a_file_is_read(broker, folder)


def test_a_file_is_written_whole(broker: Broker, folder: Path) -> None:
    with broker.writing(folder / "chat.md") as stream:
        stream.write(b"half")
        stream.flush()
        assert not (folder / "chat.md").exists()
        stream.write(b" and half")
    assert (folder / "chat.md").read_bytes() == b"half and half"
    assert [path.name for path in folder.iterdir()] == ["chat.md"]
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE((folder / "chat.md").stat().st_mode) == 0o666 & ~mask


def test_nothing_is_replaced_unasked(broker: Broker, folder: Path) -> None:
    (folder / "chat.md").write_text("precious")
    with pytest.raises(FileExistsError) as caught, broker.writing(folder / "chat.md") as stream:
        stream.write(b"new")
    assert caught.value.filename == str(folder / "chat.md")
    assert (folder / "chat.md").read_text() == "precious"
    with broker.writing(folder / "chat.md", replace=True) as stream:
        stream.write(b"new")
    assert (folder / "chat.md").read_text() == "new"
    assert len(list(folder.iterdir())) == 1


def test_a_file_that_came_meanwhile_is_kept(broker: Broker, folder: Path) -> None:
    with (  # noqa: PT012
        pytest.raises(FileExistsError),
        broker.writing(folder / "chat.md") as stream,
    ):
        (folder / "chat.md").write_text("precious")
        stream.write(b"new")
    assert (folder / "chat.md").read_text() == "precious"
    assert len(list(folder.iterdir())) == 1


def test_a_failure_leaves_nothing_behind(broker: Broker, folder: Path) -> None:
    with (  # noqa: PT012
        pytest.raises(ZeroDivisionError),
        broker.writing(folder / "chat.md") as stream,
    ):
        stream.write(b"half")
        raise ZeroDivisionError
    assert list(folder.iterdir()) == []
    with pytest.raises(FileNotFoundError), broker.writing(folder / "no" / "chat.md"):
        pass
    with pytest.raises(IsADirectoryError), broker.writing(folder, replace=True):
        pass


def test_the_editor(folder: Path) -> None:
    editor = folder / "editor"
    editor.write_text('#!/bin/sh\nprintf " and more" >> "$1"\nexit ${FAIL:-0}\n')
    editor.chmod(0o755)
    for environment, expected in (({}, "text é and more"), ({"FAIL": "1"}, None)):
        launch = launch_in(folder, EDITOR=str(editor), **environment)
        direct, forked = DirectBroker(launch), fork_broker(launch, Offer.EDITOR)
        assert direct.edit("text é") == expected
        assert forked.edit("text é") == expected
        forked.close()


def test_no_editor(folder: Path) -> None:
    launch = launch_in(folder, PATH=str(folder))
    forked = fork_broker(launch, Offer.EDITOR)
    for broker in (DirectBroker(launch), forked):
        with pytest.raises(FileNotFoundError, match="EDITOR"):
            broker.edit("text")
    forked.close()


@pytest.mark.parametrize(
    ("named", "match"), [("nowhere-to-be-found -w", "no program 'nowhere"), ("'half", "understood")]
)
def test_an_editor_that_can_not_be_started(folder: Path, named: str, match: str) -> None:
    launch = launch_in(folder, VISUAL=named, EDITOR="true")
    forked = fork_broker(launch, Offer.EDITOR)
    for broker in (DirectBroker(launch), forked):
        with pytest.raises(OSError, match=match):
            broker.edit("text")
    forked.close()


def test_an_editor_with_arguments_sees_a_file_of_ours_alone(folder: Path) -> None:
    """And nothing of it stays."""
    editor = folder / "editor"
    editor.write_text(
        '#!/bin/sh\nstat -c "%a %U" "$(dirname "$2")" > "$1"\necho "$2" >> "$1"\necho b > "$2"\n'
    )
    editor.chmod(0o755)
    forked = fork_broker(launch_in(folder, VISUAL=f"{editor} {folder}/seen"), Offer.EDITOR)
    assert forked.edit("a") == "b\n"
    forked.close()
    rights, path = (folder / "seen").read_text().splitlines()
    assert rights.startswith("700 ")
    assert not Path(path).parent.exists()


def test_the_browser_shows_pages_of_this_machine_alone(folder: Path) -> None:
    browser = folder / "xdg-open"
    browser.write_text(f'#!/bin/sh\necho "$1" > {folder}/shown\n')
    browser.chmod(0o755)
    forked = fork_broker(launch_in(folder, PATH=f"{folder}:/usr/bin:/bin"), Offer.BROWSER)
    assert forked.browse("http://127.0.0.1:8080")
    for address in ("https://elsewhere.example", "file:///etc/passwd", "--help"):
        with pytest.raises(PermissionError):
            forked.browse(address)
    forked.close()


def test_it_does_only_what_it_offers(folder: Path) -> None:
    (folder / "notes").write_text("text")
    forked = fork_broker(launch_in(folder), Offer.BROWSER)
    with pytest.raises(PermissionError), forked.reading(folder / "notes"):
        pass
    with pytest.raises(PermissionError), forked.writing(folder / "new"):
        pass
    with pytest.raises(PermissionError):
        forked.edit("text")
    forked.close()


def test_hidden_files_and_programs_are_not_written(forked: Broker, folder: Path) -> None:
    (folder / ".config").mkdir()
    (folder / "visible").symlink_to(folder / ".config")
    (folder / "program").write_text("#!/bin/sh\n")
    (folder / "program").chmod(0o755)
    for name in (".bashrc", ".config/autostart", "visible/autostart", "program"):
        with (
            pytest.raises(PermissionError, match="--no-sandbox"),
            forked.writing(folder / name, replace=True) as stream,
        ):
            stream.write(b"evil")
    assert (folder / "program").read_text() == "#!/bin/sh\n"
    assert list((folder / ".config").iterdir()) == []


def test_a_socket_is_removed_and_nothing_else(broker: Broker, folder: Path) -> None:
    path = folder / "socket"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        facts = path.lstat()
        broker.remove_socket(path, (facts.st_dev, facts.st_ino + 1))
        assert path.exists()
        broker.remove_socket(path, (facts.st_dev, facts.st_ino))
        assert not path.exists()
    path.write_text("a file")
    facts = path.lstat()
    broker.remove_socket(path, (facts.st_dev, facts.st_ino))
    assert path.exists()


def test_it_ends_with_who_asked_for_it(folder: Path) -> None:
    forked = fork_broker(launch_in(folder), Offer.FILES)
    process = forked._process
    assert Path(f"/proc/{process}").exists()
    forked.close()
    assert not Path(f"/proc/{process}").exists()


def test_it_holds_nothing_open(folder: Path) -> None:
    with (folder / "port").open("w"):
        forked = fork_broker(launch_in(folder), Offer.FILES)
        with pytest.raises(FileNotFoundError), forked.reading(folder / "nothing"):
            pass  # by now it has settled
        numbers = {int(path.name) for path in Path(f"/proc/{forked._process}/fd").iterdir()}
        assert len(numbers - {0, 1, 2}) == 1
        forked.close()
