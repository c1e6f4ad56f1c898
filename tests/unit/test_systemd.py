"""What the service manager hears, on a socket of the test's own."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from syncagent.edges.systemd import Notifier


@pytest.fixture
def heard(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.settimeout(5)
        yield sock


def test_lines_arrive_as_one_message(heard: socket.socket) -> None:
    Notifier(heard.getsockname()).tell("READY=1", "STATUS=x")
    assert heard.recv(1000) == b"READY=1\nSTATUS=x"


def test_an_abstract_address_is_understood() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        name = f"syncagent-test-{os.getpid()}"
        sock.bind("\0" + name)
        sock.settimeout(5)
        Notifier("@" + name).tell("WATCHDOG=1")
        assert sock.recv(100) == b"WATCHDOG=1"


@pytest.mark.parametrize("address", [None, "", "/nowhere/at/all"])
def test_without_a_service_manager_nothing_happens(address: str | None) -> None:
    Notifier(address).tell("READY=1")


def test_the_watchdog_of_the_environment_counts_only_when_it_is_meant_for_this_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "/nowhere")
    monkeypatch.setenv("WATCHDOG_USEC", "30000000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    assert Notifier.from_environment().watchdog_s == 30.0
    monkeypatch.delenv("WATCHDOG_PID")
    assert Notifier.from_environment().watchdog_s == 30.0
    monkeypatch.setenv("WATCHDOG_PID", "1")
    assert Notifier.from_environment().watchdog_s is None
    monkeypatch.delenv("WATCHDOG_PID")
    monkeypatch.setenv("WATCHDOG_USEC", "soon")
    assert Notifier.from_environment().watchdog_s is None
