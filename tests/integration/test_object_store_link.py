"""The S3 store on a scripted link: what is counted, how fast it goes, when it gives up, and how it comes back."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from syncagent.core.errors import Blocked, Stopping, Transient, Trouble
from syncagent.edges.connection import Flight
from syncagent.edges.objects import S3Store, StoreSettings
from syncagent.edges.payload import BytesBody
from tests.integration.test_object_store import digest_of, request, settings_of
from tests.proxy import Proxy, Rule
from tests.servers import Fault, MotoS3, RcloneS3, VerifyingS3, free_port, wait_until

DATA = os.urandom(100_000)


def open_store(settings: StoreSettings, **how: object) -> S3Store:
    return S3Store(settings, clock=lambda: datetime.now(UTC), **how)  # type: ignore[arg-type]


def put(store: S3Store, key: str = "a.jpg", data: bytes = DATA) -> str:
    return store.put(request(key, data), BytesBody(data))


def trouble_of_put(store: S3Store, data: bytes = DATA) -> Trouble:
    try:
        put(store, data=data)
    except (Transient, Blocked) as error:
        return error.trouble
    pytest.fail("the put succeeded")


@pytest.fixture
def proxy(verifying: VerifyingS3) -> Iterator[Proxy]:
    with Proxy(verifying.endpoint_url) as between:
        yield between


# -- what is counted --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("behind", ["verifying", "rclone", "moto"])
def test_the_wire_is_counted_to_the_byte(behind: str, request: pytest.FixtureRequest) -> None:
    server: VerifyingS3 | RcloneS3 | MotoS3 = request.getfixturevalue(behind)
    bucket = "bucket" if behind == "verifying" else request.getfixturevalue(f"{behind}_bucket")
    with Proxy(server.endpoint_url) as proxy:
        store = open_store(settings_of(proxy.endpoint_url, bucket))
        store.reach()
        put(store)
        put(store, "b.mp4", os.urandom(3_000_000))
        assert store.head("a.jpg") is not None and store.head("none") is None
        assert len(list(store.list(""))) == 2
        b"".join(store.read("b.mp4"))
        store.probe_conditional(".syncagent/probe")
        store.probe_checksum(".syncagent/probe")
        store.probe_multipart(".syncagent/probe")
        totals = store.wire_totals()
        assert totals.sent_bytes == proxy.up_bytes
        assert totals.received_bytes == proxy.down_bytes
        assert totals.sent_bytes > 3_100_000 and totals.received_bytes > 3_000_000
        store.close()


def test_what_was_sent_in_vain_is_counted_too(verifying: VerifyingS3, proxy: Proxy) -> None:
    store = open_store(settings_of(proxy.endpoint_url, "bucket"))
    for rule in (Rule(reset_after_up_bytes=50_000, times=1), Rule(reset_before_answer=True, times=1)):
        proxy.rule = rule
        assert trouble_of_put(store) is Trouble.LINK
    proxy.rule = Rule()
    put(store)
    verifying.faults.append(Fault(operation="PutObject", drop=True, times=1))
    put(store, "b.jpg")
    # What was on its way when a connection was cut had left us, and never came.
    assert 0 <= store.wire_totals().sent_bytes - proxy.up_bytes <= 60_000
    assert store.wire_totals().sent_bytes > 4 * len(DATA)
    store.close()


def test_the_end_of_a_connection_is_no_byte(verifying: VerifyingS3, proxy: Proxy) -> None:
    store = open_store(settings_of(proxy.endpoint_url, "bucket"))
    for _ in range(3):  # TCP counts the other side's FIN
        put(store)
        verifying.faults.append(Fault(operation="PutObject", drop=True, times=2))
        assert trouble_of_put(store) is Trouble.LINK
    totals = store.wire_totals()
    assert (totals.sent_bytes, totals.received_bytes) == (proxy.up_bytes, proxy.down_bytes)
    store.close()


def test_bytes_that_never_left_the_kernel_are_not_counted(verifying: VerifyingS3) -> None:
    with Proxy(verifying.endpoint_url, Rule(mode="black_hole"), receive_buffer_bytes=4096) as proxy:
        store = open_store(replace(settings_of(proxy.endpoint_url, "bucket"), stall_s=0.5))
        assert trouble_of_put(store, bytes(3_000_000)) is Trouble.STALLED
        assert store.wire_totals().sent_bytes < 300_000
        store.close()


def test_an_object_that_nobody_reads_leaves_no_connection_open(verifying: VerifyingS3, proxy: Proxy) -> None:
    store = open_store(settings_of(proxy.endpoint_url, "bucket"))
    put(store, data=os.urandom(5_000_000))
    unread = store.read("a.jpg")
    next(unread)
    unread.close()  # type: ignore[attr-defined]  # a generator
    wait_until(lambda: all(c.outcome != "open" for c in proxy.connections), what="the reset")
    store.close()


# -- reach ------------------------------------------------------------------------------------------------------------


def test_reach_asks_nothing_and_its_connection_is_used(verifying: VerifyingS3, proxy: Proxy) -> None:
    store = open_store(settings_of(proxy.endpoint_url, "bucket"))
    store.reach()
    wait_until(lambda: len(proxy.connections) == 1, what="the connection")
    assert verifying.requests() == [] and proxy.up_bytes == 0
    put(store)
    assert len(proxy.connections) == 1
    store.close()


def test_reach_says_link_until_the_link_is_back(proxy: Proxy) -> None:
    store = open_store(settings_of(proxy.endpoint_url, "bucket"))
    proxy.rule = Rule(mode="refuse")
    for _ in range(3):
        with pytest.raises(Transient) as caught:
            store.reach()
        assert caught.value.trouble is Trouble.LINK
    proxy.rule = Rule()
    store.reach()
    store.close()
    with pytest.raises(Transient) as caught:
        open_store(settings_of(f"http://127.0.0.1:{free_port()}", "bucket")).reach()
    assert caught.value.trouble is Trouble.LINK


# -- the meter --------------------------------------------------------------------------------------------------------


def test_connections_share_one_limit_and_slow_is_not_stalled(verifying: VerifyingS3, proxy: Proxy) -> None:
    store = open_store(replace(settings_of(proxy.endpoint_url, "bucket"), stall_s=0.5), limit=lambda: 100_000)
    begun_s = time.monotonic()
    seen: list[tuple[float, int]] = []
    stopped = threading.Event()

    def watch() -> None:
        while not stopped.wait(0.02):
            seen.append((time.monotonic() - begun_s, proxy.up_bytes))

    threads = [threading.Thread(target=put, args=(store, f"{n}.jpg")) for n in range(3)]
    watcher = threading.Thread(target=watch)
    watcher.start()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stopped.set()
    watcher.join()
    assert verifying.objects() == {f"{n}.jpg": DATA for n in range(3)}
    # However long the machine took: at no moment had more come than that much time allows, and one burst.
    assert [(at_s, n) for at_s, n in seen if n > 100_000 * (at_s + 0.55)] == []
    assert len({n for _, n in seen}) > 5
    store.close()


def test_the_limit_may_change_while_a_file_is_on_its_way(verifying: VerifyingS3, proxy: Proxy) -> None:
    limits: list[int | None] = [1000]
    store = open_store(settings_of(proxy.endpoint_url, "bucket"), limit=lambda: limits[0])
    thread = threading.Thread(target=put, args=(store,))
    thread.start()
    wait_until(lambda: proxy.up_bytes > 0, what="the first piece")
    assert verifying.objects() == {}
    limits[0] = None  # at the old limit it would take a minute and a half
    thread.join(10)
    assert verifying.objects() == {"a.jpg": DATA}
    store.close()


def test_waiting_for_the_meter_can_be_stopped(verifying: VerifyingS3) -> None:
    stopped, waiting = threading.Event(), threading.Event()

    def progress(_: Flight) -> None:
        waiting.set()
        if stopped.is_set():
            raise Stopping

    store = open_store(settings_of(verifying.endpoint_url, "bucket"), limit=lambda: 10, progress=progress)
    ended: list[type[BaseException]] = []

    def send() -> None:
        try:
            put(store)
        except BaseException as error:
            ended.append(type(error))

    thread = threading.Thread(target=send)
    thread.start()
    assert waiting.wait(10)
    stopped.set()
    thread.join(10)
    assert ended == [Stopping]
    assert verifying.objects() == {}
    store.close()


def test_an_answer_that_comes_while_the_meter_waits_is_heard(verifying: VerifyingS3) -> None:
    verifying.faults.append(Fault(status=403, code="AccessDenied", early=True))
    store = open_store(settings_of(verifying.endpoint_url, "bucket"), limit=lambda: 3000)
    assert trouble_of_put(store, bytes(1_000_000)) is Trouble.FORBIDDEN
    assert store.wire_totals().sent_bytes < 100_000
    store.close()


# -- the stall --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("after_bytes", [1, 60_000, 1_000_000])
def test_a_black_hole_in_the_middle_of_a_body_is_noticed(verifying: VerifyingS3, after_bytes: int) -> None:
    with Proxy(verifying.endpoint_url, Rule(up_bytes_per_s=4_000_000), receive_buffer_bytes=4096) as proxy:
        store = open_store(replace(settings_of(proxy.endpoint_url, "bucket"), stall_s=1.0))

        def swallow() -> None:
            wait_until(lambda: proxy.up_bytes >= after_bytes, what="the bytes")
            proxy.rule = Rule(mode="black_hole")

        thread = threading.Thread(target=swallow)
        thread.start()
        assert trouble_of_put(store, os.urandom(4_000_000)) is Trouble.STALLED
        thread.join()
        proxy.rule = Rule()
        put(store)
        assert verifying.objects() == {"a.jpg": DATA}
        store.close()


@pytest.mark.parametrize("size", [0, 1000, 100_000])
def test_silence_after_the_whole_body_is_a_stall(verifying: VerifyingS3, proxy: Proxy, size: int) -> None:
    proxy.rule = Rule(latency_s=2.5)
    store = open_store(replace(settings_of(proxy.endpoint_url, "bucket"), stall_s=0.6))
    data = os.urandom(size)
    assert trouble_of_put(store, data) is Trouble.STALLED
    assert verifying.objects() == {"a.jpg": data}  # it was stored, and only the answer was missing
    proxy.rule = Rule()
    put(store, data=data)
    store.close()


def test_two_kilobytes_a_second_pass_for_longer_than_a_stall(verifying: VerifyingS3) -> None:
    with Proxy(verifying.endpoint_url, Rule(up_bytes_per_s=2_000), receive_buffer_bytes=4096) as slow:
        store = open_store(replace(settings_of(slow.endpoint_url, "bucket"), stall_s=6.0))
        data = os.urandom(24_000)
        put(store, data=data)
        assert verifying.objects() == {"a.jpg": data}
        store.close()


def test_a_tail_that_waits_out_an_outage_is_neither_lost_nor_sent_twice(verifying: VerifyingS3) -> None:
    with Proxy(verifying.endpoint_url, receive_buffer_bytes=4096) as proxy:
        store = open_store(replace(settings_of(proxy.endpoint_url, "bucket"), stall_s=20))
        proxy.rule = Rule(mode="black_hole")
        data = os.urandom(2_000_000)
        thread = threading.Thread(target=put, args=(store,), kwargs={"data": data})
        thread.start()
        wait_until(lambda: len(proxy.connections) == 1, what="the connection")
        thread.join(3)
        assert thread.is_alive()
        proxy.rule = Rule()
        thread.join(20)
        assert verifying.objects() == {"a.jpg": data}
        assert len(proxy.connections) == 1 and store.wire_totals().sent_bytes < 1.05 * len(data)
        store.close()


def test_a_part_is_not_read_before_there_is_a_connection(verifying: VerifyingS3, proxy: Proxy) -> None:
    class Unread(BytesBody):
        def read(self, n: int = -1, /) -> bytes:
            pytest.fail("the body was read")

    store = open_store(settings_of(proxy.endpoint_url, "bucket"))
    upload_id = store.create_multipart("a.mp4", metadata={}, content_type="video/mp4")
    store.close()
    proxy.rule = Rule(mode="refuse")
    fresh = open_store(settings_of(proxy.endpoint_url, "bucket"))
    with pytest.raises(Transient) as caught:
        fresh.put_part("a.mp4", upload_id=upload_id, number=1, body=Unread(DATA), digest=digest_of(DATA))
    assert caught.value.trouble is Trouble.LINK
    assert fresh.wire_totals().sent_bytes == 0
