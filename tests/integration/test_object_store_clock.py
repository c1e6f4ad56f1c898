"""The S3 store of a board whose clock is wrong: from 1970 to two years ahead, and set right in between."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from syncagent.core.errors import Blocked, SyncagentError, Transient, Trouble
from syncagent.edges.objects import S3Store, StoreSettings
from syncagent.edges.payload import BytesBody
from tests.integration.test_object_store import digest_of, request, settings_of
from tests.servers import Fault, MotoS3, RcloneS3, VerifyingS3

DATA = os.urandom(100_000)
SINCE_1970 = datetime.now(UTC) - datetime(1970, 1, 1, tzinfo=UTC)


class Wall:
    """A wall clock that is off by so much, and can be set."""

    def __init__(self, off: timedelta = timedelta(0)) -> None:
        self.off = off

    def now(self) -> datetime:
        return datetime.now(UTC) + self.off


def open_store(settings: StoreSettings, wall: Wall) -> S3Store:
    return S3Store(settings, clock=wall.now, is_synchronised=lambda: True)


def put(store: S3Store, key: str = "a.jpg", data: bytes = DATA) -> str:
    return store.put(request(key, data), BytesBody(data))


def send_parts(store: S3Store) -> None:
    upload_id = store.create_multipart("a.mp4", metadata={}, content_type="video/mp4")
    part = store.put_part("a.mp4", upload_id=upload_id, number=1, body=BytesBody(DATA), digest=digest_of(DATA))
    assert store.list_parts("a.mp4", upload_id=upload_id) == [part]
    store.complete("a.mp4", upload_id=upload_id, parts=[part])


OPERATIONS: dict[str, Callable[[S3Store], object]] = {
    "put": put,
    "head": lambda store: store.head("a.jpg"),
    "list": lambda store: list(store.list("")),
    "parts": send_parts,
    "read": lambda store: list(store.read("there.jpg")),
}


@pytest.fixture(params=["verifying", "rclone", "moto"])
def settings(request: pytest.FixtureRequest) -> Iterator[StoreSettings]:
    server: VerifyingS3 | RcloneS3 | MotoS3 = request.getfixturevalue(request.param)
    bucket = "bucket" if request.param == "verifying" else request.getfixturevalue(f"{request.param}_bucket")
    yield settings_of(server.endpoint_url, bucket)


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize(
    "off",
    [-SINCE_1970, timedelta(hours=-3), timedelta(hours=3), timedelta(days=730)],
    ids=["from 1970", "3 h behind", "3 h ahead", "2 years ahead"],
)
def test_a_wrong_clock_fails_no_request_whichever_comes_first(
    settings: StoreSettings, off: timedelta, operation: str
) -> None:
    there = open_store(settings, Wall())
    put(there, "there.jpg")
    store = open_store(settings, Wall(off))
    OPERATIONS[operation](store)
    put(store, "b.jpg")
    assert store.head("b.jpg") is not None
    assert store.is_corrected
    assert store.skew_s is not None and abs(store.skew_s + off.total_seconds()) < 60
    store.close()
    there.close()


@pytest.mark.parametrize("operation", ["put", "head", "list"])
def test_a_wrong_clock_costs_one_refused_request_in_the_life_of_the_agent(
    verifying: VerifyingS3, operation: str
) -> None:
    wall = Wall(timedelta(days=-400))
    store = open_store(settings_of(verifying.endpoint_url, "bucket"), wall)
    OPERATIONS[operation](store)
    for n in range(5):
        put(store, f"{n}.jpg")
    wall.off = timedelta(0)  # NTP arrives
    for n in range(5):
        put(store, f"after-{n}.jpg")
    assert not store.is_corrected and store.skew_s is not None and abs(store.skew_s) < 60
    put(store, "last.jpg")
    refused = [event for event in verifying.requests() if event.status == 403]
    assert len(refused) == 1
    store.close()


def test_an_offset_that_changes_is_followed(verifying: VerifyingS3) -> None:
    store = open_store(settings_of(verifying.endpoint_url, "bucket"), Wall())
    for offset_s in (0, 3 * 3600, -5 * 86400, 0):
        verifying.clock_offset_s = offset_s
        put(store)
        assert store.is_corrected is (offset_s != 0)
    store.close()


def test_a_conditional_write_that_was_refused_for_its_time_is_no_taken_key(verifying: VerifyingS3) -> None:
    store = open_store(settings_of(verifying.endpoint_url, "bucket"), Wall(-SINCE_1970))
    store.put(request("a.jpg", DATA, only_if_absent=True), BytesBody(DATA))
    assert verifying.objects() == {"a.jpg": DATA}
    store.close()


@pytest.mark.parametrize("operation", ["put", "head", "list"])
def test_a_store_that_refuses_every_time_is_asked_twice_and_not_for_ever(
    verifying: VerifyingS3, operation: str
) -> None:
    store = open_store(settings_of(verifying.endpoint_url, "bucket"), Wall(timedelta(hours=3)))
    verifying.faults.append(Fault(status=403, code="RequestTimeTooSkewed"))
    with pytest.raises(SyncagentError):
        OPERATIONS[operation](store)
    assert len(verifying.requests()) == 2
    for n in range(1, 4):
        with pytest.raises(SyncagentError) as caught:
            OPERATIONS[operation](store)
        assert len(verifying.requests()) == 2 + n
        if operation != "head":  # its refusal has no words, and the time was right
            assert isinstance(caught.value, Transient) and caught.value.trouble is Trouble.CLOCK
    store.close()


def test_a_refused_right_stays_a_right_under_a_corrected_clock(verifying: VerifyingS3) -> None:
    store = open_store(settings_of(verifying.endpoint_url, "bucket"), Wall(timedelta(hours=3)))
    put(store)
    verifying.faults.append(Fault.denied())
    before = len(verifying.requests())
    for act in (lambda: put(store), lambda: store.head("a.jpg")):
        with pytest.raises(Blocked) as caught:
            act()
        assert caught.value.trouble is Trouble.FORBIDDEN
    assert len(verifying.requests()) == before + 2
    store.close()


@pytest.fixture(params=[200, 302, 400, 403, 511])
def portal(request: pytest.FixtureRequest) -> Iterator[str]:
    """The address of something that answers everything with a page of its own, and lives in 2019."""

    class Portal(BaseHTTPRequestHandler):
        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            page = b"" if self.command == "HEAD" else b"<!DOCTYPE html><html><body>Please pay</body></html>"
            self.send_response_only(request.param)
            self.send_header("Date", "Tue, 01 Jan 2019 00:00:00 GMT")
            self.send_header("Content-Length", str(len(page)))
            self.end_headers()
            self.wfile.write(page)

        do_GET = do_PUT = do_HEAD = do_POST = answer  # noqa: N815

    with HTTPServer(("127.0.0.1", 0), Portal) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_the_date_of_a_portal_is_not_believed(portal: str) -> None:
    store = open_store(settings_of(portal, "bucket"), Wall())
    for act in (lambda: put(store), lambda: list(store.list("")), lambda: store.head("a.jpg")):
        with pytest.raises((Transient, Blocked)):
            act()
        assert store.skew_s is None and not store.is_corrected
    store.close()


def test_what_a_cache_kept_does_not_tell_the_time(verifying: VerifyingS3) -> None:
    store = open_store(settings_of(verifying.endpoint_url, "bucket"), Wall())
    old = {"Date": "Tue, 01 Jan 2019 00:00:00 GMT", "Age": "300"}
    verifying.faults.append(Fault(status=404, code="NoSuchKey", headers=old))
    with pytest.raises(SyncagentError):
        list(store.read("a.jpg"))
    assert store.skew_s is None and not store.is_corrected
    store.close()
