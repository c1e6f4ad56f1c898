"""The checks of this machine, on a /proc, a /sys and a /dev of the test's own."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from syncagent.assembly import Directories
from syncagent.checks import Finding, Verdict
from syncagent.checks.device import Device, check_device
from syncagent.cli.doctor import report
from syncagent.core.settings import Carrier, Retention, SendAddress, Settings, System
from syncagent.edges import machine

NOBODY = "nobody"
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can look with another user's eyes")


@pytest.fixture
def places(tmp_path: Path) -> Directories:
    (tmp_path / "base/generated_data/camera").mkdir(parents=True)
    os.chmod(tmp_path, 0o755)
    base = str(tmp_path / "base")
    return Directories(str(tmp_path / "configs"), base, os.path.join(base, "state"))


@pytest.fixture
def open_place() -> Iterator[Directories]:
    """Where other users come through, as they do not below pytest's own directories."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as base:
        os.makedirs(os.path.join(base, "generated_data/camera"))
        yield Directories(os.path.join(base, "configs"), base, os.path.join(base, "state"))


@pytest.fixture
def device(tmp_path: Path) -> Device:
    put(tmp_path / "proc/sys/fs/inotify/max_user_watches", "1000")
    (tmp_path / "sys/block").mkdir(parents=True)
    (tmp_path / "dev").mkdir()
    return Device(str(tmp_path / "proc"), str(tmp_path / "sys"), str(tmp_path / "dev"), str(tmp_path / "unit"))


def put(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n")


def settings(*, devices: dict[str, dict[str, object]] | None = None, **retention: Any) -> Settings:
    carrier = Carrier(name="store", bucket_name="b", path="camera", retention=Retention(**retention))
    address = SendAddress(
        name="a", configured_name="a", message_type="image_info", carrier=carrier, duration="on_change"
    )
    return Settings(system=System(id="x"), addresses=(address,), devices=devices or {})


def check(name: str, places: Directories, device: Device, found: Settings | None = None, **more: Any) -> list[Finding]:
    findings = list(check_device(found or settings(), places, device=device, **more))
    return [finding for finding in findings if finding.check == name]


def test_too_few_watches_are_found_with_the_line_that_allows_more(
    places: Directories, device: Device, tmp_path: Path
) -> None:
    assert check("watches", places, device)[0].verdict is Verdict.OK
    put(tmp_path / "proc/sys/fs/inotify/max_user_watches", "60")
    found = check("watches", places, device)[0]
    assert found.verdict is Verdict.FAILED
    assert "fs.inotify.max_user_watches=524288" in found.remedy


@pytest.mark.parametrize(
    ("life", "reserve", "verdict"),
    [
        ("0x01 0x02", "0x01", Verdict.OK),
        ("0x02 0x0a", "0x01", Verdict.FAILED),
        ("0x0b 0x01", "0x01", Verdict.FAILED),
        ("0x01 0x01", "0x02", Verdict.FAILED),
    ],
)
def test_a_card_that_tells_of_its_end_is_believed(
    places: Directories, device: Device, tmp_path: Path, life: str, reserve: str, verdict: Verdict
) -> None:
    put(tmp_path / "sys/block/mmcblk0/device/life_time", life)
    put(tmp_path / "sys/block/mmcblk0/device/pre_eol_info", reserve)
    assert [found.verdict for found in check("wear", places, device)] == [verdict]


def test_a_card_without_an_estimate_is_no_finding(places: Directories, device: Device, tmp_path: Path) -> None:
    (tmp_path / "sys/block/mmcblk0/device").mkdir(parents=True)
    put(tmp_path / "sys/block/sda/device/life_time", "0x0b 0x0b")
    assert check("wear", places, device) == []


def test_a_card_nearly_full_is_a_failure_unless_confirmed_files_go(
    places: Directories, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    from syncagent.edges import files

    monkeypatch.setattr(files, "space_of", lambda _: (5, 100, 50.0))
    found = check("card", places, device)[0]
    assert (found.verdict, "min_free_percent" in found.remedy) == (Verdict.FAILED, True)
    assert check("card", places, device, settings(min_free_percent=10.0))[0].verdict is Verdict.WARNING
    second = attrs.evolve(settings(), addresses=settings().addresses + settings(min_free_percent=10.0).addresses)
    assert check("card", places, device, second)[0].verdict is Verdict.WARNING
    monkeypatch.setattr(files, "space_of", lambda _: (50, 100, 2.0))
    assert check("card", places, device)[0].verdict is Verdict.FAILED
    monkeypatch.setattr(files, "space_of", lambda _: (50, 100, 50.0))
    assert check("card", places, device)[0].verdict is Verdict.OK


def test_a_bus_that_is_switched_off_is_found_only_if_a_part_needs_it(
    places: Directories, device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Where the package is installed, its user would be asked for, who does not come through pytest's directories.
    monkeypatch.setattr(machine, "service_user", lambda: None)
    assert check("i2c", places, device) == []
    wanted = settings(devices={"clock": {"source": "ds3231", "bus": 1}})
    found = check("i2c", places, device, wanted)[0]
    assert (found.verdict, "raspi-config" in found.remedy) == (Verdict.FAILED, True)
    put(tmp_path / "dev/i2c-1", "")
    os.chmod(tmp_path / "dev/i2c-1", 0o666)
    assert check("i2c", places, device, wanted)[0].verdict is Verdict.OK


def test_an_old_unit_and_an_old_agent_are_found(places: Directories, device: Device, tmp_path: Path) -> None:
    found = check("unit", places, device, running={"version": "0.0.1"})[0]
    assert (found.verdict, "restart" in found.remedy) == (Verdict.FAILED, True)
    put(tmp_path / "unit", "[Service]")
    found = check("unit", places, device)[0]
    assert (found.verdict, "daemon-reload" in found.remedy) == (Verdict.FAILED, True)


def test_a_data_directory_that_is_away_is_found(places: Directories, device: Device) -> None:
    os.rmdir(os.path.join(places.data_dir, "camera"))
    os.rmdir(places.data_dir)
    os.symlink("/nowhere/at/all", places.data_dir)
    found = check("directories", places, device)[0]
    assert found.verdict is Verdict.FAILED
    assert "a link to it is" in found.what


def test_a_watched_directory_that_is_away_is_not_called_readable(places: Directories, device: Device) -> None:
    os.rmdir(os.path.join(places.data_dir, "camera"))
    (found,) = check("directories", places, device)
    assert found.verdict is Verdict.WARNING
    assert "camera is not there" in found.what
    assert "install -d" in found.remedy


@needs_root
def test_what_the_services_user_cannot_read_or_delete_in_is_found_by_root(
    device: Device,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    open_place: Directories,
) -> None:
    places = open_place
    monkeypatch.setattr(machine, "service_user", lambda: NOBODY)
    top = os.path.join(places.data_dir, "camera")
    for directory in (places.base_dir, places.data_dir):
        os.chmod(directory, 0o755)
    os.chmod(top, 0o777)
    assert [found.verdict for found in check("directories", places, device)] == [Verdict.OK]

    os.mkdir(os.path.join(top, "shut"), 0o700)
    subprocess.run(["install", "-m", "0600", "/dev/null", os.path.join(top, "secret.jpg")], check=True)
    subprocess.run(["install", "-m", "0600", "/dev/null", os.path.join(top, "two\nlines\udcff.jpg")], check=True)
    found = check("directories", places, device)
    assert [each.verdict for each in found] == [Verdict.FAILED]
    assert "shut" in found[0].what
    assert "secret.jpg" in found[0].what
    assert "chmod -R g+rwX" in found[0].remedy
    assert "\n" not in line_of(found[0], capsys), "one line each, whatever a file is called"

    os.chmod(os.path.join(top, "shut"), 0o755)
    os.unlink(os.path.join(top, "secret.jpg"))
    os.unlink(os.path.join(top, "two\nlines\udcff.jpg"))
    assert [each.verdict for each in check("directories", places, device)] == [Verdict.OK]  # nothing is ever deleted
    found = check("directories", places, device, settings(keep_days=7.0))
    assert [each.verdict for each in found] == [Verdict.FAILED]
    assert "cannot delete" in found[0].what


@needs_root
def test_a_journal_that_a_run_as_root_left_behind_is_found(
    device: Device, monkeypatch: pytest.MonkeyPatch, open_place: Directories
) -> None:
    monkeypatch.setattr(machine, "service_user", lambda: NOBODY)
    os.chmod(open_place.base_dir, 0o755)
    for folder in ("generated_data", "generated_data/camera"):
        os.chmod(os.path.join(open_place.base_dir, folder), 0o777)
    os.mkdir(open_place.state_dir)
    shutil.chown(open_place.state_dir, NOBODY)
    assert [each.verdict for each in check("directories", open_place, device)] == [Verdict.OK]
    with open(os.path.join(open_place.state_dir, "journal.db"), "w"):
        pass
    (found,) = check("directories", open_place, device)
    assert found.verdict is Verdict.FAILED
    assert "cannot write" in found.what
    assert "journal.db" in found.what
    assert found.remedy == f"sudo chown -R {NOBODY} {open_place.state_dir}"


def line_of(finding: Finding, capsys: pytest.CaptureFixture[str]) -> str:
    report(iter([finding]))
    return capsys.readouterr().out.removesuffix("\n")
