"""The S3 store on a bad link and before a store that lies."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from syncagent.core.errors import Blocked, KeyTaken, Refused, Stopping, Transient, Trouble
from syncagent.core.proof import StoreProfile
from syncagent.edges.connection import Flight, ProgressSink
from syncagent.edges.objects import S3Store, StoreSettings
from syncagent.edges.payload import CHUNK_BYTES, BytesBody
from tests.integration.test_object_store import PART_BYTES, digest_of, request, settings_of
from tests.proxy import Proxy, Rule
from tests.servers import Fault, VerifyingS3

DATA = os.urandom(100_000)


def open_store(settings: StoreSettings, progress: ProgressSink | None = None) -> S3Store:
    return S3Store(settings, clock=lambda: datetime.now(UTC), progress=progress)


@pytest.fixture
def store(verifying: VerifyingS3) -> Iterator[S3Store]:
    opened = open_store(settings_of(verifying.endpoint_url, "bucket"))
    yield opened
    opened.close()


@pytest.fixture
def proxy(verifying: VerifyingS3) -> Iterator[Proxy]:
    with Proxy(verifying.endpoint_url) as between:
        yield between


def put(store: S3Store, key: str = "a.jpg", data: bytes = DATA) -> str:
    return store.put(request(key, data), BytesBody(data))


def trouble_of_put(store: S3Store, data: bytes = DATA) -> Trouble:
    try:
        put(store, data=data)
    except (Transient, Blocked) as error:
        return error.trouble
    pytest.fail("the put succeeded")


def test_a_small_file_costs_one_request_on_one_connection(verifying: VerifyingS3, proxy: Proxy) -> None:
    store = open_store(settings_of(proxy.endpoint_url, "bucket"))
    for n in range(5):
        put(store, f"{n}.jpg")
    assert [event.operation for event in verifying.requests()] == ["PutObject"] * 5
    assert len(proxy.connections) == 1
    store.close()


def test_nothing_is_sent_that_some_store_would_not_take(verifying: VerifyingS3, store: S3Store) -> None:
    put(store)
    list(store.list(""))
    upload_id = store.create_multipart("b.mp4", metadata={}, content_type="video/mp4")
    part = store.put_part("b.mp4", upload_id=upload_id, number=1, body=BytesBody(DATA), digest=digest_of(DATA))
    store.complete("b.mp4", upload_id=upload_id, parts=[part])
    for event in verifying.requests():
        assert not {"expect", "transfer-encoding", "x-amz-trailer", "x-amz-sdk-checksum-algorithm"} & set(event.headers)
        assert not any(name.startswith("x-amz-checksum") for name in event.headers)
        assert len(event.headers["x-amz-content-sha256"]) == 64
        if event.method == "PUT":
            assert event.headers["content-md5"]


@pytest.mark.parametrize("operation", ["PutObject", "ListObjectsV2", "HeadObject"])
def test_a_portals_page_is_never_success(verifying: VerifyingS3, store: S3Store, operation: str) -> None:
    verifying.faults.append(Fault.portal())
    with pytest.raises(Transient) as caught:
        if operation == "PutObject":
            put(store)
        elif operation == "ListObjectsV2":
            list(store.list(""))
        else:
            store.head("a.jpg")
    assert caught.value.trouble is Trouble.STORE


def test_a_throttled_request_says_how_long_to_wait(verifying: VerifyingS3, store: S3Store) -> None:
    verifying.faults.append(Fault.throttled(7))
    for act in (lambda: put(store), lambda: store.head("x"), lambda: list(store.list(""))):
        with pytest.raises(Transient) as caught:
            act()
        assert caught.value.trouble is Trouble.THROTTLED and caught.value.retry_after_s == 7


def test_an_answer_that_comes_before_the_body_is_heard(verifying: VerifyingS3, store: S3Store) -> None:
    verifying.faults.append(Fault(status=403, code="AccessDenied", early=True))
    for size in (1000, 20_000_000):
        with pytest.raises(Blocked) as caught:
            put(store, data=bytes(size))
        assert caught.value.trouble is Trouble.FORBIDDEN
    assert store.wire_totals().sent_bytes < 20_000_000  # the rest stayed at home
    verifying.faults.clear()
    put(store)
    assert verifying.objects() == {"a.jpg": DATA}


def test_a_connection_with_half_a_body_on_it_is_not_used_again() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        connections: list[socket.socket] = []

        def refuse_early() -> None:
            # Says 403 to a head, promises to keep the connection, and never reads the body.
            for _ in range(2):
                client, _ = listener.accept()
                connections.append(client)
                head = b""
                while b"\r\n\r\n" not in head:
                    head += client.recv(1024)
                client.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")

        server = threading.Thread(target=refuse_early, daemon=True)
        server.start()
        store = open_store(settings_of(f"http://127.0.0.1:{listener.getsockname()[1]}", "bucket"))
        for _ in range(2):
            assert trouble_of_put(store, data=bytes(30_000_000)) is Trouble.FORBIDDEN
        server.join(10)
        assert len(connections) == 2
        for client in connections:
            client.close()


def test_an_error_inside_the_200_of_complete_is_an_error(verifying: VerifyingS3, store: S3Store) -> None:
    upload_id = store.create_multipart("a.mp4", metadata={}, content_type="video/mp4")
    part = store.put_part("a.mp4", upload_id=upload_id, number=1, body=BytesBody(DATA), digest=digest_of(DATA))
    verifying.faults.append(Fault.error_in_complete(times=1))
    with pytest.raises(Transient) as caught:
        store.complete("a.mp4", upload_id=upload_id, parts=[part])
    assert caught.value.trouble is Trouble.STORE
    assert verifying.objects() == {}
    store.complete("a.mp4", upload_id=upload_id, parts=[part])
    assert verifying.objects() == {"a.mp4": DATA}


def test_a_wrong_etag_is_settled_by_reading_back(verifying: VerifyingS3, store: S3Store) -> None:
    verifying.faults.append(Fault(operation="PutObject", etag="0" * 32, times=1))
    put(store)
    assert [event.operation for event in verifying.requests()] == ["PutObject", "GetObject"]


def test_other_bytes_in_the_read_back_are_no_success(verifying: VerifyingS3, store: S3Store) -> None:
    verifying.faults.append(Fault(operation="PutObject", etag="0" * 32))
    for lie in (b"x", DATA + b"x", DATA[:-1] + b"?"):
        fault = Fault(operation="GetObject", status=200, body=lie)
        verifying.faults.append(fault)
        assert trouble_of_put(store) is Trouble.STORE
        verifying.faults.remove(fault)


def test_a_store_without_md5_etags_is_read_back_until_its_checksums_are_proved(verifying: VerifyingS3) -> None:
    verifying.etag_is_md5 = False
    store = open_store(settings_of(verifying.endpoint_url, "bucket"))
    put(store)
    assert store.profile.etag_is_md5 is False
    assert len(verifying.requests("GET")) == 1
    assert store.probe_checksum(".syncagent/probe") is True
    before = len(verifying.requests("GET"))
    put(store, "b.jpg")
    assert len(verifying.requests("GET")) == before
    # A multipart object of such a store is proved by reading it, and by nothing less.
    key, upload_id = "c.mp4", store.create_multipart("c.mp4", metadata={}, content_type="video/mp4")
    part = store.put_part(key, upload_id=upload_id, number=1, body=BytesBody(DATA), digest=digest_of(DATA))
    store.complete(key, upload_id=upload_id, parts=[part], digest=digest_of(DATA))
    assert len(verifying.requests("GET")) == before + 1


def test_a_part_with_a_wrong_etag_is_not_taken(verifying: VerifyingS3, store: S3Store) -> None:
    upload_id = store.create_multipart("a.mp4", metadata={}, content_type="video/mp4")
    verifying.faults.append(Fault(operation="UploadPart", etag="0" * 32))
    with pytest.raises(Transient) as caught:
        store.put_part("a.mp4", upload_id=upload_id, number=1, body=BytesBody(DATA), digest=digest_of(DATA))
    assert caught.value.trouble is Trouble.STORE


def test_an_object_is_read_back_where_the_owner_wants_it(verifying: VerifyingS3) -> None:
    store = open_store(replace(settings_of(verifying.endpoint_url, "bucket"), reads_back=True))
    put(store)
    assert [event.operation for event in verifying.requests()] == ["PutObject", "GetObject"]


def test_an_idle_connection_that_the_store_closed_fails_no_file(verifying: VerifyingS3, store: S3Store) -> None:
    put(store)
    verifying.drop_connections()
    put(store, "b.jpg")
    verifying.drop_connections()
    # This one is never repeated: that the connection is closed must be seen before it is used.
    store.put(request("c.jpg", DATA, only_if_absent=True), BytesBody(DATA))
    assert verifying.objects() == {"a.jpg": DATA, "b.jpg": DATA, "c.jpg": DATA}


def test_a_used_connection_that_breaks_is_repeated_once_and_a_fresh_one_never(
    verifying: VerifyingS3, store: S3Store
) -> None:
    put(store)
    verifying.faults.append(Fault(operation="PutObject", drop=True, times=1))
    put(store, "b.jpg")  # on the used connection, then once more
    verifying.faults.append(Fault(operation="PutObject", drop=True))
    before = len(verifying.requests("PUT"))
    assert trouble_of_put(store) is Trouble.LINK
    assert len(verifying.requests("PUT")) == before + 2
    assert trouble_of_put(store) is Trouble.LINK  # nothing is idle now
    assert len(verifying.requests("PUT")) == before + 3


def test_a_conditional_write_is_never_repeated_and_never_finds_itself(verifying: VerifyingS3, store: S3Store) -> None:
    put(store)
    verifying.faults.append(Fault(operation="PutObject", act_first=True, drop=True, status=500, times=1))
    with pytest.raises((Transient, KeyTaken)) as caught:
        store.put(request("b.jpg", DATA, only_if_absent=True), BytesBody(DATA))
    assert isinstance(caught.value, Transient)
    assert len(verifying.requests("PUT")) == 2


@pytest.mark.parametrize("size", [1000, 100_000, 10_000_000])
def test_a_black_hole_is_noticed_after_stall_s(verifying: VerifyingS3, proxy: Proxy, size: int) -> None:
    proxy.rule = Rule(mode="black_hole")
    store = open_store(replace(settings_of(proxy.endpoint_url, "bucket"), stall_s=0.5))
    assert trouble_of_put(store, data=bytes(size)) is Trouble.STALLED
    with pytest.raises(Transient) as caught:
        store.head("a.jpg")
    assert caught.value.trouble is Trouble.STALLED
    proxy.rule = Rule()
    # Half a second may be too little for this machine. And the first request may come out of the hole again.
    put(open_store(settings_of(proxy.endpoint_url, "bucket")), "b.jpg")
    assert verifying.objects()["b.jpg"] == DATA


def test_slow_is_not_stalled(verifying: VerifyingS3) -> None:
    # 60 kB at 20 kB/s take far longer than stall_s, with a receive buffer that cannot hide it.
    with Proxy(verifying.endpoint_url, Rule(up_bytes_per_s=20_000), receive_buffer_bytes=4096) as slow:
        seen: list[int] = []
        store = open_store(
            replace(settings_of(slow.endpoint_url, "bucket"), stall_s=1.0),
            lambda flight: seen.append(flight.acknowledged_bytes),
        )
        data = os.urandom(60_000)
        put(store, data=data)
        assert verifying.objects() == {"a.jpg": data}
        assert seen == sorted(seen) and seen[-1] == len(data)
        # What lies in the kernel's queue is not progress: the count rose in steps.
        assert len({n for n in seen if 0 < n < len(data)}) >= 3


def test_progress_may_stop_a_request_that_waits_for_its_answer(verifying: VerifyingS3, proxy: Proxy) -> None:
    proxy.rule = Rule(mode="black_hole")
    asked = threading.Event()

    def progress(_: Flight) -> None:
        if asked.is_set():
            raise Stopping

    store = open_store(replace(settings_of(proxy.endpoint_url, "bucket"), stall_s=600), progress)
    timer = threading.Timer(0.2, asked.set)
    timer.start()
    with pytest.raises(Stopping):
        put(store)
    timer.join()
    for act in (lambda: store.head("a.jpg"), lambda: list(store.list(""))):
        with pytest.raises(Stopping):
            act()
    proxy.rule = Rule()
    asked.clear()
    put(store)
    assert verifying.objects() == {"a.jpg": DATA}


@pytest.mark.parametrize(
    "rule",
    [
        Rule(mode="reset"),
        Rule(mode="refuse"),
        Rule(reset_after_up_bytes=50_000),
        Rule(reset_before_answer=True),
    ],
    ids=["reset at once", "refused", "reset mid-body", "reset before the answer"],
)
def test_a_link_that_breaks_is_the_links_trouble_and_heals(verifying: VerifyingS3, proxy: Proxy, rule: Rule) -> None:
    store = open_store(settings_of(proxy.endpoint_url, "bucket"))
    proxy.rule = rule
    assert trouble_of_put(store) is Trouble.LINK
    proxy.rule = Rule()
    put(store)
    assert verifying.objects() == {"a.jpg": DATA}


def test_a_flipped_byte_is_refused_and_is_the_stores_word_not_the_files(verifying: VerifyingS3, proxy: Proxy) -> None:
    store = open_store(settings_of(proxy.endpoint_url, "bucket"))
    proxy.rule = Rule(flip_up_byte_at=50_000, times=1)
    assert trouble_of_put(store) is Trouble.STORE
    assert verifying.objects() == {}
    put(store)


def test_an_object_that_breaks_off_while_it_is_read_is_not_taken_for_whole(
    verifying: VerifyingS3, store: S3Store, proxy: Proxy
) -> None:
    put(store, data=os.urandom(3_000_000))
    through = open_store(settings_of(proxy.endpoint_url, "bucket"))
    chunks = through.read("a.jpg")
    next(chunks)
    proxy.rule = Rule(mode="reset")
    proxy.reset_all()
    with pytest.raises(Transient) as caught:
        list(chunks)
    assert caught.value.trouble is Trouble.LINK


def test_the_wire_is_counted_with_headers_and_repeats(verifying: VerifyingS3, proxy: Proxy) -> None:
    store = open_store(settings_of(proxy.endpoint_url, "bucket"))
    put(store)
    verifying.faults.append(Fault(operation="PutObject", drop=True, times=1))
    put(store, "b.jpg")
    list(store.list(""))
    b"".join(store.read("a.jpg"))
    totals = store.wire_totals()
    # TCP may count the closing of a connection as one byte, and it counts what it had to send again: on a busy
    # machine that happens on loopback, too.
    slack = 2 * len(proxy.connections)
    assert abs(totals.received_bytes - proxy.down_bytes) <= slack
    assert proxy.up_bytes - slack <= totals.sent_bytes <= proxy.up_bytes + 2 * len(DATA)
    assert totals.sent_bytes > 3 * len(DATA)


def test_a_forbidden_prefix_is_forbidden_and_the_rest_goes_on(verifying: VerifyingS3, store: S3Store) -> None:
    verifying.faults.append(Fault.denied("closed/"))
    with pytest.raises(Blocked) as caught:
        put(store, "closed/a.jpg")
    assert caught.value.trouble is Trouble.FORBIDDEN
    put(store, "open/a.jpg")


def test_rotated_credentials_of_the_environment_are_found_after_a_refusal(
    verifying: VerifyingS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, secret = next(iter(verifying.credentials.items()))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)
    store = open_store(
        replace(settings_of(verifying.endpoint_url, "bucket"), access_key_id=None, secret_access_key=None)
    )
    put(store)
    verifying.credentials = {"NEWKEY": "new-secret"}
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "NEWKEY")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "new-secret")
    assert trouble_of_put(store) is Trouble.CREDENTIALS
    put(store)


def test_many_threads_share_one_store(verifying: VerifyingS3, store: S3Store) -> None:
    errors: list[BaseException] = []

    def work(name: int) -> None:
        try:
            for n in range(20):
                data = f"{name}/{n}".encode() * 1000
                put(store, f"{name}/{n}.jpg", data)
                assert store.head(f"{name}/{n}.jpg") is not None
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == [] and len(verifying.objects()) == 120


def test_a_body_is_streamed_in_bounded_memory(verifying: VerifyingS3, store: S3Store) -> None:
    biggest = 0

    class Watched(BytesBody):
        def read(self, n: int = -1, /) -> bytes:
            nonlocal biggest
            biggest = max(biggest, n)
            return super().read(n)

    data = os.urandom(2 * PART_BYTES)
    store.put(request("a.mp4", data), Watched(data))
    assert 0 < biggest <= CHUNK_BYTES


def test_a_source_that_refuses_keeps_its_own_words(verifying: VerifyingS3, store: S3Store) -> None:
    class Broken(BytesBody):
        def read(self, n: int = -1, /) -> bytes:
            raise OSError(5, "Input/output error") if self._at else Refused("the card says no")

    with pytest.raises(Refused, match="the card says no"):
        store.put(request("a.jpg", DATA), Broken(DATA))
    assert verifying.requests() == []


def test_a_profile_that_was_known_is_used_again(verifying: VerifyingS3) -> None:
    known = StoreProfile(etag_is_md5=False, checksums_proved=True)
    store = S3Store(settings_of(verifying.endpoint_url, "bucket"), clock=lambda: datetime.now(UTC), profile=known)
    verifying.etag_is_md5 = False
    put(store)
    assert [event.operation for event in verifying.requests()] == ["PutObject"]
    assert store.profile.checksums_proved is True
