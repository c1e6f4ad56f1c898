"""Firmware on a board with a battery and a real-time clock."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

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
