"""What an image may cost: held back while the month's budget is spent, and never faster than the limit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from syncagent.edges.fetch import CHECKPOINT_BYTES
from tests.firmware_device import Device

IMAGE = bytes(range(256)) * 8000  # 2 MB
SPENT = "the month's budget of 1000 bytes on wwan0 is spent"


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    made = Device(str(tmp_path))
    yield made
    made.close()


def test_an_image_waits_for_the_budget_and_polls_do_not(device: Device) -> None:
    device.publisher.publish(IMAGE)
    device.why_wait = lambda path: SPENT if path == "firmware_images/boot.bin" else ""
    for _ in range(3):
        fact = device.poll()
        assert (fact.ok, fact.state, fact.reason) == (True, "available", SPENT)
    assert not [name for name in device.gets() if name.endswith(".image")]
    assert device.gets().count("metadata/timestamp.json") == 3
    (release,) = device.journal.releases("cam")
    assert release.transitions == 1
    device.why_wait = lambda _: ""
    assert device.poll().state == "activated"


def test_a_budget_that_ends_on_the_way_holds_the_rest_back_and_nothing_comes_twice(device: Device) -> None:
    device.publisher.publish(IMAGE)
    (name,) = [key for key in device.store.objects if key.endswith(".image")]
    identity = name.rpartition("/")[2].removesuffix(".image")
    device.why_wait = lambda _: SPENT if device.installer._fetch.have_bytes(identity) >= CHECKPOINT_BYTES else ""
    fact = device.poll()
    assert (fact.ok, fact.state, fact.reason) == (True, "available", SPENT)
    have = device.installer._fetch.have_bytes(identity)
    assert CHECKPOINT_BYTES <= have < len(IMAGE)
    device.why_wait = lambda _: ""
    assert device.poll().state == "activated"
    assert device.journal.releases("cam")[0].spent_bytes == len(IMAGE)


def test_an_image_that_is_here_whole_costs_nothing_more(device: Device) -> None:
    device.publisher.publish(IMAGE)
    device.is_power_low = True
    assert device.poll().state == "verified"
    device.why_wait = lambda _: SPENT
    device.is_power_low = False
    assert device.poll().state == "activated"


@pytest.mark.parametrize(("limit", "within_s"), [(40, 500), (1_000, 20), (100_000, 20)])
def test_an_image_comes_no_faster_than_the_limit_and_is_not_taken_for_a_drip(
    device: Device, limit: int, within_s: float
) -> None:
    device.publisher.publish(IMAGE[: limit * int(within_s)])
    device.limit = limit
    begun = device.clock.monotonic()
    assert device.poll().state == "activated"
    assert 0.9 * within_s <= device.clock.monotonic() - begun <= 1.1 * within_s
