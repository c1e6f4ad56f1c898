"""Which interface traffic leaves by, and whether NetworkManager calls it metered: read as the system gives it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from syncagent.edges import network
from syncagent.edges.network import default_interface, is_flagged_metered

IPV4 = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n"
ANY, NET = "00000000", "00FFFFFF"


def route(interface: str, *, to: str = ANY, flags: str = "0003", metric: int = 100, mask: str = ANY) -> str:
    return f"{interface}\t{to}\t0101A8C0\t{flags}\t0\t0\t{metric}\t{mask}\t0\t0\t0\n"


def route6(interface: str, *, to: str = "0" * 32, prefix: str = "00", metric: str = "00000400") -> str:
    return f"{to} {prefix} {'0' * 32} 00 {'f' * 32} {metric} 00000001 00000000 00000003 {interface}\n"


@pytest.mark.parametrize(
    ("ipv4", "ipv6", "interface"),
    [
        (route("eth0"), "", "eth0"),
        (route("wwan0", metric=700) + route("wlan0", metric=600), "", "wlan0"),
        (route("eth0", metric=100, flags="0002") + route("wwan0", metric=700), "", "wwan0"),  # eth0 is down
        (route("eth0", to="0001A8C0", mask=NET), "", None),  # a network, no default
        (route("eth0", mask="00000080"), route6("wwan0"), "wwan0"),  # half of all addresses, as a VPN has it
        ("", route6("wwan0") + route6("eth0", metric="00000064"), "eth0"),
        ("", route6("lo"), None),
        ("", route6("eth0", to="fe80" + "0" * 28, prefix="40"), None),
        ("", "", None),
        ("nonsense\n", "nonsense\n", None),
    ],
)
def test_the_default_route_with_the_lowest_metric_decides(
    tmp_path: Path, ipv4: str, ipv6: str, interface: str | None
) -> None:
    (tmp_path / "route").write_text(IPV4 + ipv4)
    (tmp_path / "ipv6_route").write_text(ipv6)
    found = default_interface(ipv4=str(tmp_path / "route"), ipv6=str(tmp_path / "ipv6_route"))
    assert found == interface


def test_without_the_tables_there_is_no_interface(tmp_path: Path) -> None:
    assert default_interface(ipv4=str(tmp_path / "none"), ipv6=str(tmp_path / "none either")) is None


def nmcli(directory: Path, script: str) -> None:
    """A NetworkManager's tool that answers like this."""
    program = directory / "nmcli"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


@pytest.mark.parametrize(
    ("script", "is_metered"),
    [
        ("echo yes", True),
        ("echo 'yes (guessed)'", True),
        ("echo no", False),
        ("echo 'no (guessed)'", False),
        ("echo unknown", False),
        ("echo yes; exit 10", False),
        ("exit 8", False),
        ("kill -9 $$", False),
        ("exec sleep 60", False),
        ('[ "$*" = "-g GENERAL.METERED device show wwan0" ] && echo yes', True),
    ],
)
def test_networkmanagers_word_is_taken_and_its_silence_is_no(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, is_metered: bool
) -> None:
    nmcli(tmp_path, script)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(network, "NMCLI_TIMEOUT_S", 0.3 if "sleep" in script else 10.0)
    assert is_flagged_metered("wwan0") is is_metered


def test_without_networkmanager_no_link_is_metered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not is_flagged_metered("wwan0")


def test_a_tool_that_cannot_be_run_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nmcli").write_bytes(b"\x7fnothing that runs")
    (tmp_path / "nmcli").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not is_flagged_metered("wwan0")
