"""Firmware end to end in one process: publish, poll, verify, drop, receipt; and what a poll costs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.firmware_device import Device

IMAGE = bytes(range(256)) * 1200  # 300 kB


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    made = Device(str(tmp_path))
    yield made
    made.close()


def test_a_published_image_is_verified_dropped_and_confirmed(device: Device) -> None:
    custom = device.publisher.publish(IMAGE)
    fact = device.poll()
    assert (fact.ok, fact.state) == (True, "activated")
    assert device.files == {"firmware_images/boot.bin": IMAGE, "latest_firmware.json": b"boot"}
    assert device.face == {"release": custom["id"], "state": "activated", "reason": ""}
    (receipt,) = device.letters
    assert device.receipts == 1, "whoever sends receipts is woken"
    content = json.loads(receipt)["msg_content"]
    assert (content["id"], content["file_name"], content["confirm_receipt"]) == (custom["id"], "boot", True)


def test_a_poll_that_finds_nothing_new_is_one_request(device: Device) -> None:
    device.publisher.publish(IMAGE)
    device.poll()
    before = len(device.store.calls("get"))
    for _ in range(3):
        device.poll()
    assert device.gets(before) == ["metadata/timestamp.json"] * 3
    assert [call.error for call in device.store.calls("get")[before:]] == ["304"] * 3
    assert len(device.letters) == 1
