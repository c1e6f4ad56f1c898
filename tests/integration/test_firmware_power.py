"""Firmware on a board with a battery and a real-time clock."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from syncagent.core.release import Phase
from syncagent.edges.journal import Release
from tests.fakes import FakeClock
from tests.firmware_device import Device
from tests.firmware_publisher import NOW

IMAGE = bytes(range(256)) * 1200


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    made = Device(str(tmp_path))
    yield made
    made.close()


def test_firmware_is_fetched_and_not_activated_on_a_low_battery(device: Device) -> None:
    device.publisher.publish(IMAGE)
    device.is_power_low = True
    fact = device.poll()
    assert (fact.ok, fact.state, fact.reason) == (True, "verified", "it waits for the battery")
    assert device.files == {}
    device.is_power_low = False
    assert device.poll().state == "activated"
    assert device.files == {"firmware_images/boot.bin": IMAGE, "latest_firmware.json": b"boot"}
    image = device.publisher.image_key(IMAGE)
    assert len([call for call in device.store.calls("get") if call.key == image]) == 1, "the image is not fetched twice"


def test_a_battery_that_falls_between_the_drop_and_the_switch_leaves_the_old_config(device: Device) -> None:
    device.publisher.publish(b"old image")
    device.poll()
    before = device.files["latest_firmware.json"]
    device.publisher.publish(IMAGE, version="2.0.0", file_name="boot2")
    put = device.installer._drop.put

    def falls(path: str, *rest: object, **more: object) -> None:
        put(path, *rest, **more)  # type: ignore[arg-type]
        device.is_power_low = True

    device.installer._drop.put = falls  # type: ignore[method-assign,assignment]
    device.poll()
    assert device.files["latest_firmware.json"] == before
    device.poll()
    assert device.files["latest_firmware.json"] == before, "nor does a later pass finish it"
    device.installer._drop.put = put  # type: ignore[method-assign]
    device.is_power_low = False
    assert device.poll().state == "activated"
    assert device.files["latest_firmware.json"] != before


def test_a_rollback_that_had_begun_is_finished_on_a_low_battery(device: Device) -> None:
    old, new = two_releases(device)
    device.journal.intend_rollback(new, old, "a hook said so")
    device.is_power_low = True
    assert device.poll().state == "rolled_back"
    assert device.files == {"firmware_images/boot.bin": b"old image", "latest_firmware.json": b"boot"}
    assert device.journal.rollback_intent("cam") is None


def test_nothing_is_installed_while_a_rollback_is_under_way(device: Device) -> None:
    old, new = two_releases(device)
    device.publisher.publish(b"third image", id="third", file_name="boot3")
    look = device.channel.look()
    assert look.phase is Phase.AVAILABLE and look.release is not None
    device.journal.intend_rollback(new, old, "a hook said so")
    before = device.files
    release = device.installer.install(look.release, device.stop)
    assert (release.phase, release.reason) == (Phase.AVAILABLE, "it waits for a rollback to end")
    assert device.files == before
    assert device.poll().state == "activated" and device.files["firmware_images/boot3.bin"] == b"third image"
    assert [step.release for step in device.journal.firmware_steps("cam") if step.phase is Phase.ROLLED_BACK] == ["new"]


def test_a_rollback_that_cannot_be_finished_is_told_and_ends(device: Device) -> None:
    old, new = two_releases(device)
    shutil.rmtree(os.path.join(device.staging_dir, "kept"))
    device.journal.intend_rollback(new, old, "a hook said so")
    device.poll()
    assert device.files["firmware_images/boot.bin"] == IMAGE, "the bad one stays"
    assert device.journal.rollback_intent("cam") is None
    assert "a hook said so" in device.face["reason"] and "is not there" in device.face["reason"]
    device.publisher.publish(b"third image", id="third")
    assert device.poll().state == "activated", "the way forward is open"


def two_releases(device: Device) -> tuple[Release, Release]:
    """Has the second in use, and the first on its disk."""
    device.publisher.publish(b"old image", id="old")
    device.poll()
    device.publisher.publish(IMAGE, id="new")
    device.poll()
    new, old = device.journal.releases("cam")
    return old, new


def test_a_board_in_1970_judges_expiry_by_its_real_time_clock(tmp_path: Path) -> None:
    clock = FakeClock(NOW - timedelta(days=50 * 365))
    device = Device(str(tmp_path), clock=clock)
    try:
        device.publisher.publish(IMAGE)
        device.lower_bound = NOW + timedelta(days=400)
        assert device.poll().state == "stale"
        assert device.files == {}
        device.lower_bound = NOW
        assert device.poll().state == "activated"
    finally:
        device.close()
