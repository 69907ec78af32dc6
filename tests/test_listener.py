from __future__ import annotations

import socket
import stat
from pathlib import Path
from typing import Any

import pytest

from runtime_stub.errors import AddressError
from runtime_stub.server.listener import address_of, is_exposed, listen, listen_unix


def test_free_port() -> None:
    with listen("127.0.0.1", 0) as listener:
        address = address_of(listener)
        assert address.startswith("http://127.0.0.1:")
        assert int(address.rpartition(":")[2]) > 0
        socket.create_connection(listener.getsockname(), timeout=2).close()


def test_port_in_use() -> None:
    with listen("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(AddressError, match=f"port {port} on 127.0.0.1 is in use") as caught:
            listen("127.0.0.1", port)
    assert caught.value.exit_code == 9
    assert "--port" in caught.value.hint
    listen("127.0.0.1", port).close()


@pytest.mark.parametrize(
    "host", ["no.such.host.invalid", "1.2.3.4.5", "a\x00b", "x" * 300, "ä" * 80]
)
def test_bad_host(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = socket.getaddrinfo

    def offline(name: str, *arguments: Any, **more: Any) -> Any:
        if name == "no.such.host.invalid":
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return real(name, *arguments, **more)

    monkeypatch.setattr(socket, "getaddrinfo", offline)
    with pytest.raises(AddressError) as caught:
        listen(host, 0)
    assert caught.value.exit_code == 9


def test_address_of_another_machine() -> None:
    # 192.0.2.0/24 is set aside for documentation.
    with pytest.raises(AddressError, match=r"192\.0\.2\.1"):
        listen("192.0.2.1", 0)


@pytest.mark.parametrize("port", [-1, 65_536, 70_000, 2**40])
def test_port_out_of_range(port: int) -> None:
    with pytest.raises(AddressError, match="out of range"):
        listen("127.0.0.1", port)


def test_no_right_to_the_port(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    class Refusing(socket.socket):
        bind = refuse

    monkeypatch.setattr(socket, "socket", Refusing)
    with pytest.raises(AddressError, match="port 80 needs administrator rights"):
        listen("127.0.0.1", 80)


def test_ipv6() -> None:
    if not socket.has_ipv6:
        pytest.skip("this Python has no IPv6")
    try:
        listener = listen("::1", 0)
    except AddressError:
        pytest.skip("this machine has no IPv6")
    with listener:
        assert address_of(listener).startswith("http://[::1]:")


@pytest.mark.parametrize(
    ("host", "shown", "exposed"),
    [
        ("127.0.0.1", "127.0.0.1", False),
        ("localhost", "127.0.0.1", False),
        ("0.0.0.0", "127.0.0.1", True),
    ],
)
def test_address_to_open(host: str, shown: str, exposed: bool) -> None:
    with listen(host, 0) as listener:
        if listener.family is not socket.AF_INET:
            pytest.skip("this machine is called by an IPv6 address")
        assert address_of(listener) == f"http://{shown}:{listener.getsockname()[1]}"
        assert is_exposed(listener) == exposed


# Unix sockets.

unix = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="there are no Unix sockets")


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A short path: their length is limited."""
    monkeypatch.chdir(tmp_path)
    return Path("socket")


@unix
def test_unix_socket(path: Path) -> None:
    listener = listen_unix(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert (address_of(listener), is_exposed(listener)) == ("unix:socket", False)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    listener.close()
    assert not path.exists()
    listener.close()


@unix
def test_unix_socket_that_was_left_behind(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    assert path.exists()
    listen_unix(path).close()


@unix
def test_unix_socket_in_use(path: Path) -> None:
    listener = listen_unix(path)
    with pytest.raises(AddressError, match="another program listens on socket"):
        listen_unix(path)
    assert path.exists()
    listener.close()


@unix
def test_something_else_is_there(path: Path) -> None:
    path.write_text("precious")
    with pytest.raises(AddressError, match="no socket"):
        listen_unix(path)
    assert path.read_text() == "precious"
    path.unlink()
    path.symlink_to("elsewhere")
    with pytest.raises(AddressError, match="no socket"):
        listen_unix(path)


@unix
def test_unix_socket_that_was_replaced_stays(path: Path) -> None:
    listener = listen_unix(path)
    path.rename("old")
    path.write_text("new")
    listener.close()
    assert path.read_text() == "new"


@unix
@pytest.mark.parametrize("name", ["no/such/folder/socket", "x" * 200])
def test_unix_socket_that_can_not_be(name: str, path: Path) -> None:
    with pytest.raises(AddressError, match=f"can't listen on {name}"):
        listen_unix(path.with_name(name) if "/" not in name else Path(name))


def test_no_unix_sockets(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(socket, "AF_UNIX", raising=False)
    with pytest.raises(AddressError, match="no Unix sockets"):
        listen_unix(path)
