"""Firmware over a real connection: what polls and downloads cost, byte by byte, and what a bad link adds to it."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from syncagent.core.errors import Refused, Stopping, Transient
from syncagent.edges.clock import Clock
from syncagent.edges.fetch import Fetch, Order, Ticket
from syncagent.edges.objects import S3Store, StoreSettings
from tests.fakes import MemoryStore
from tests.firmware_device import Device
from tests.firmware_publisher import FirmwarePublisher, into_client, into_memory, into_verifying
from tests.proxy import Proxy
from tests.proxy_rules import Rule
from tests.servers import ACCESS_KEY, SECRET_KEY, Fault, MotoS3, VerifyingS3

IMAGE = os.urandom(1_500_000)
SHA256 = hashlib.sha256(IMAGE).hexdigest()


def open_store(endpoint_url: str, bucket: str = "bucket", **more: Any) -> S3Store:
    settings = StoreSettings(
        bucket=bucket,
        endpoint_url=endpoint_url,
        region="us-east-1",
        access_key_id=ACCESS_KEY,
        secret_access_key=SECRET_KEY,
        stall_s=10.0,
    )
    return S3Store(settings, clock=Clock().now, **more)


@pytest.fixture
def proxy(verifying: VerifyingS3) -> Iterator[Proxy]:
    with Proxy(verifying.endpoint_url) as proxy:
        yield proxy


def order(**more: Any) -> Order:
    whole = {"key": "image", "name": SHA256, "length": len(IMAGE), "sha256": SHA256, "max_bytes": 1 << 26}
    return Order(**{**whole, **more})


def test_a_link_cut_every_400_kb_costs_no_byte_twice(verifying: VerifyingS3, proxy: Proxy, tmp_path: Path) -> None:
    into_verifying(verifying)("image", IMAGE)
    proxy.rule = Rule(end_after_down_bytes=400_000)
    store = open_store(proxy.endpoint_url)
    ticket = Ticket()
    image = Fetch(store, str(tmp_path)).fetch(order(), ticket)
    assert Path(image.path).read_bytes() == IMAGE
    down = sum(connection.down_bytes for connection in proxy.connections)
    up = sum(connection.up_bytes for connection in proxy.connections)
    print(f"{len(IMAGE)} bytes of image: {down} down, {up} up, {len(proxy.connections)} connections")
    assert down <= 1.02 * len(IMAGE) and ticket.spent_bytes <= 1.02 * len(IMAGE)
    assert len(proxy.connections) == 4
    store.close()


def test_a_download_goes_on_where_an_earlier_run_was_killed(
    verifying: VerifyingS3, proxy: Proxy, tmp_path: Path
) -> None:
    into_verifying(verifying)("image", IMAGE)
    stop = threading.Event()

    def on_news(size_bytes: int) -> None:
        if size_bytes > 700_000 and not stop.is_set():
            stop.set()
            raise Stopping

    store = open_store(proxy.endpoint_url)
    fetch, ticket = Fetch(store, str(tmp_path), on_news=on_news), Ticket()
    with pytest.raises(Stopping):
        fetch.fetch(order(), ticket)
    had = fetch.have_bytes(SHA256)
    assert had > 700_000
    fetch.fetch(order(), ticket)
    (last,) = verifying.requests("GET")[1:]
    assert last.headers["range"] == f"bytes={had}-" and last.headers["if-match"] == ticket.etag
    store.close()


def test_an_image_that_changed_meanwhile_is_begun_anew(verifying: VerifyingS3, tmp_path: Path) -> None:
    into_verifying(verifying)("image", IMAGE)
    fetch = Fetch(open_store(verifying.endpoint_url), str(tmp_path))
    Path(fetch.part_path(SHA256)).write_bytes(IMAGE[:1000])
    assert fetch.fetch(order(), Ticket(etag='"another"')).sha256 == SHA256
    assert [event.status for event in verifying.requests("GET")] == [412, 200]


def test_a_store_without_ranges_is_read_from_the_beginning(tmp_path: Path) -> None:
    class NoRanges(MemoryStore):
        def get(self, key: str, *, headers: Any = None) -> Any:
            return super().get(key, headers={n: v for n, v in (headers or {}).items() if n != "Range"})

    store = NoRanges()
    into_memory(store)("image", IMAGE)
    fetch = Fetch(store, str(tmp_path))
    Path(fetch.part_path(SHA256)).write_bytes(IMAGE[:1000])
    assert fetch.fetch(order(), Ticket()).sha256 == SHA256


def test_a_part_that_a_power_cut_tore_is_begun_anew_and_a_longer_one_as_well(
    verifying: VerifyingS3, tmp_path: Path
) -> None:
    into_verifying(verifying)("image", IMAGE)
    fetch = Fetch(open_store(verifying.endpoint_url), str(tmp_path))
    for torn in (b"\0" * 700_000, IMAGE + b"more", b"\0" * len(IMAGE)):
        Path(fetch.part_path(SHA256)).write_bytes(torn)
        assert Path(fetch.fetch(order(), Ticket()).path).read_bytes() == IMAGE


def test_a_digest_that_differs_leaves_no_part_behind(verifying: VerifyingS3, tmp_path: Path) -> None:
    into_verifying(verifying)("image", IMAGE[:-1] + b"!")
    fetch = Fetch(open_store(verifying.endpoint_url), str(tmp_path))
    with pytest.raises(Refused, match="digest"):
        fetch.fetch(order(), Ticket())
    assert os.listdir(tmp_path) == [] and len(verifying.requests("GET")) == 1


def test_the_byte_budget_ends_a_download_that_goes_round_in_circles(verifying: VerifyingS3, tmp_path: Path) -> None:
    into_verifying(verifying)("image", IMAGE)
    fetch = Fetch(open_store(verifying.endpoint_url), str(tmp_path))
    with pytest.raises(Refused, match="were spent"):
        fetch.fetch(order(), Ticket(spent_bytes=3 * len(IMAGE)))


def test_an_outage_is_transient_and_what_came_stays(verifying: VerifyingS3, proxy: Proxy, tmp_path: Path) -> None:
    into_verifying(verifying)("image", IMAGE)
    proxy.rule = Rule(end_after_down_bytes=400_000, times=1)
    store = open_store(proxy.endpoint_url)

    def on_news(size_bytes: int) -> None:
        if size_bytes > 300_000:
            proxy.rule = Rule(mode="refuse")

    fetch = Fetch(store, str(tmp_path), on_news=on_news)
    with pytest.raises(Transient):
        fetch.fetch(order(), Ticket())
    assert fetch.have_bytes(SHA256) >= 300_000
    proxy.rule = Rule()
    assert Fetch(store, str(tmp_path)).fetch(order(), Ticket()).sha256 == SHA256
    store.close()


@pytest.mark.parametrize(
    "fault",
    [
        Fault(status=500),
        Fault(status=404, body=b"<html></html>"),
        Fault(status=200, body=b"<html></html>", headers={"Content-Type": "text/html; charset=utf-8"}),
        Fault.throttled(1),
    ],
    ids=["500", "portal", "portal that says 200", "slow"],
)
def test_troubles_of_the_store_are_no_verdict_on_the_image(
    verifying: VerifyingS3, tmp_path: Path, fault: Fault
) -> None:
    verifying.faults = [fault]
    with pytest.raises(Transient):
        Fetch(open_store(verifying.endpoint_url), str(tmp_path)).fetch(order(), Ticket())


def test_an_image_that_a_portal_kept_away_comes_when_it_is_gone(verifying: VerifyingS3, tmp_path: Path) -> None:
    store = open_store(verifying.endpoint_url)
    device = Device(str(tmp_path), getter=store, publisher=FirmwarePublisher(into_verifying(verifying)))
    device.publisher.publish(IMAGE)
    page, headers = b"<html>Log in</html>" * 100, {"Content-Type": "text/html"}
    image = f"{device.publisher.path}/targets"
    verifying.faults = [Fault(operation="GetObject", prefix=image, status=200, body=page, headers=headers)]
    # What came before stays.
    part = Path(device.staging_dir) / f"{SHA256}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(IMAGE[:1_000_000])
    for _ in range(20):
        fact = device.poll()
        assert (fact.ok, fact.state) == (False, "link") and "login" in fact.reason
        assert part.stat().st_size == 1_000_000
    verifying.faults = []
    assert device.poll().state == "activated"
    device.close()
    store.close()


def test_a_poll_that_finds_nothing_is_one_request_on_the_wire(
    verifying: VerifyingS3, proxy: Proxy, tmp_path: Path
) -> None:
    store = open_store(proxy.endpoint_url)
    device = Device(str(tmp_path), getter=store, publisher=FirmwarePublisher(into_verifying(verifying)))
    device.publisher.publish(IMAGE)
    assert device.poll().state == "activated"
    requests = len(verifying.history)
    (connection,) = proxy.connections  # kept open between polls
    before = (connection.up_bytes, connection.down_bytes)
    assert device.poll().ok
    assert len(verifying.history) == requests + 1 and len(proxy.connections) == 1
    up, down = connection.up_bytes - before[0], connection.down_bytes - before[1]
    print(f"a poll that finds nothing: {up} bytes up, {down} bytes down")
    assert up < 1000 and down < 400
    device.close()
    store.close()


def test_a_wrong_clock_of_the_device_is_corrected_before_anything_is_refused(
    verifying: VerifyingS3, tmp_path: Path
) -> None:
    verifying.clock_offset_s = 86_400.0 * 365
    store = open_store(verifying.endpoint_url)
    device = Device(str(tmp_path), getter=store, publisher=FirmwarePublisher(into_verifying(verifying)))
    device.publisher.publish(IMAGE)
    assert device.poll().state == "activated"
    device.close()
    store.close()


def test_refused_credentials_are_told_as_such(verifying: VerifyingS3, tmp_path: Path) -> None:
    store = open_store(verifying.endpoint_url)
    device = Device(str(tmp_path), getter=store, publisher=FirmwarePublisher(into_verifying(verifying)))
    device.publisher.publish(IMAGE)
    verifying.credentials = {ACCESS_KEY: "another"}
    assert device.poll().state == "credentials"
    verifying.credentials = {ACCESS_KEY: SECRET_KEY}
    assert device.poll().state == "activated"
    device.close()
    store.close()


def test_a_device_that_may_not_list_gets_403_for_the_next_root_and_goes_on(
    verifying: VerifyingS3, tmp_path: Path
) -> None:
    verifying.faults = [Fault.denied("firmware_images/metadata/2.root.json")]
    store = open_store(verifying.endpoint_url)
    device = Device(str(tmp_path), getter=store, publisher=FirmwarePublisher(into_verifying(verifying)))
    device.publisher.publish(IMAGE)
    assert device.poll().state == "activated"
    verifying.faults = [Fault("GetObject", "firmware_images/metadata/2.root.json", status=403, code="ExpiredToken")]
    device.publisher.publish(b"more")
    assert device.poll().state == "credentials"
    device.close()
    store.close()


def test_another_store_does_as_well(moto: MotoS3, moto_bucket: str, tmp_path: Path) -> None:
    store = open_store(moto.endpoint_url, moto_bucket)
    device = Device(str(tmp_path), getter=store, publisher=FirmwarePublisher(into_client(moto.client(), moto_bucket)))
    device.publisher.publish(IMAGE)
    assert device.poll().state == "activated"
    assert device.poll().state == "activated"
    device.publisher.publish(b"more")
    assert device.poll().ok and device.files["firmware_images/boot.bin"] == b"more"
    device.close()
    store.close()
