from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime_stub.environment import (
    BOOTLOADER_VARIABLES,
    CACHE_VARIABLE,
    LAUNCHER_VARIABLES,
    take,
)
from runtime_stub.errors import InputError


@pytest.fixture
def descriptor(tmp_path: Path) -> Iterator[int]:
    path = tmp_path / "pack"
    path.touch()
    found = os.open(path, os.O_RDONLY)
    os.set_inheritable(found, True)
    yield found
    os.close(found)


def variables(descriptor: int | str) -> dict[str, str]:
    return {
        "SATCHEL_PACK_FD": str(descriptor),
        "SATCHEL_PACK_PATH": "/packs/assistant",
        "SATCHEL_RUNTIME": "/cache/runtimes/abc",
        "SATCHEL_RUNTIME_FD": str(descriptor),
        "SATCHEL_CACHE_ROOT": "/cache",
        "SATCHEL_ARGV0": "./assistant",
    }


def test_take(descriptor: int) -> None:
    launch = take(variables(descriptor))
    assert launch.descriptor == descriptor
    assert not os.get_inheritable(descriptor)
    assert launch.path == Path("/packs/assistant")
    assert (launch.runtime, launch.cache_root) == (Path("/cache/runtimes/abc"), Path("/cache"))
    assert launch.argv0 == "./assistant"
    assert launch.runtime_descriptor == descriptor
    assert not launch.first_start
    assert launch.host_environment == {}


def test_the_host_gets_its_environment_back(descriptor: int) -> None:
    environment = {
        **variables(descriptor),
        **dict.fromkeys(BOOTLOADER_VARIABLES, "ours"),
        "_PYI_ANYTHING": "ours",
        "SATCHEL_HOST_LD_LIBRARY_PATH": "/host/lib",
        "SATCHEL_HOST_LD_PRELOAD": "",
        "PATH": "/bin",
        CACHE_VARIABLE: "/chosen",
    }
    launch = take(environment)
    assert environment == {"PATH": "/bin", CACHE_VARIABLE: "/chosen"}
    assert launch.host_environment == {
        "PATH": "/bin",
        CACHE_VARIABLE: "/chosen",
        "LD_LIBRARY_PATH": "/host/lib",
        "LD_PRELOAD": "",
    }


@pytest.mark.parametrize("name", LAUNCHER_VARIABLES)
def test_without_the_launcher(descriptor: int, name: str) -> None:
    environment = variables(descriptor)
    del environment[name]
    with pytest.raises(InputError, match=f"{name} is not set") as caught:
        take(environment)
    assert caught.value.hint == "Start the pack itself"


@pytest.mark.parametrize("value", ["", "x", "-1", "987654", str(2**70)])
def test_no_open_file(value: str) -> None:
    with pytest.raises(InputError, match="no open file"):
        take(variables(value))
