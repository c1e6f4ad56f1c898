"""The fakes keep the promises that tests lean on."""

from __future__ import annotations

import hashlib
import io

import pytest

from syncagent.core.errors import FileChanged, KeyTaken, Refused, Transient, Trouble, UploadGone
from syncagent.core.model import Digest, Part
from syncagent.edges.objects import ObjectStore, PutRequest
from tests.fakes import FakeClock, FakeStop, MemoryStore, Script


class _Bytes:
    def __init__(self, data: bytes, size_bytes: int | None = None) -> None:
        self._file = io.BytesIO(data)
        self.size_bytes = len(data) if size_bytes is None else size_bytes

    def read(self, n: int = -1) -> bytes:
        return self._file.read(n)

    def rewind(self) -> None:
        self._file.seek(0)


def _digest(data: bytes) -> Digest:
    return Digest(hashlib.md5(data).digest(), hashlib.sha256(data).digest())


def _request(key: str, data: bytes, *, only_if_absent: bool = False) -> PutRequest:
    return PutRequest(key, _digest(data), {"a": "b"}, "image/jpeg", only_if_absent=only_if_absent)


def test_the_memory_store_is_an_object_store(memory_store: MemoryStore) -> None:
    store: ObjectStore = memory_store
    assert store.put(_request("k", b"hello"), _Bytes(b"hello")) == hashlib.md5(b"hello").hexdigest()
    facts = store.head("k")
    assert facts is not None
    assert (facts.size_bytes, facts.metadata) == (5, {"a": "b"})
    assert b"".join(store.read("k")) == b"hello"
    assert [row.key for row in store.list("")] == ["k"]
    assert store.head("other") is None


@pytest.mark.parametrize("body", [_Bytes(b"hellO"), _Bytes(b"hell"), _Bytes(b"hello", size_bytes=6)])
def test_the_memory_store_shows_nothing_that_was_not_announced(memory_store: MemoryStore, body: _Bytes) -> None:
    with pytest.raises(FileChanged):
        memory_store.put(_request("k", b"hello"), body)
    assert memory_store.objects == {}
    assert [(c.name, c.error, c.became_visible) for c in memory_store.history] == [("put", "FileChanged", False)]


def test_the_memory_store_honours_a_conditional_write(memory_store: MemoryStore) -> None:
    memory_store.put(_request("k", b"1", only_if_absent=True), _Bytes(b"1"))
    with pytest.raises(KeyTaken):
        memory_store.put(_request("k", b"2", only_if_absent=True), _Bytes(b"2"))
    assert memory_store.bytes_of("k") == b"1"


def test_the_memory_store_takes_a_multipart_upload_whole_or_not_at_all(memory_store: MemoryStore) -> None:
    upload_id = memory_store.create_multipart("k", metadata={}, content_type="image/jpeg")

    def put_part(number: int, data: bytes) -> Part:
        return memory_store.put_part("k", upload_id=upload_id, number=number, body=_Bytes(data), digest=_digest(data))

    parts = [put_part(1, b"one"), put_part(2, b"two")]
    assert memory_store.list_parts("k", upload_id=upload_id) == parts
    with pytest.raises(Refused):
        memory_store.complete("k", upload_id=upload_id, parts=[Part(1, 3, "0" * 32)])
    assert memory_store.objects == {}
    assert memory_store.complete("k", upload_id=upload_id, parts=parts).endswith("-2")
    assert memory_store.bytes_of("k") == b"onetwo"
    with pytest.raises(UploadGone):
        memory_store.list_parts("k", upload_id=upload_id)
    memory_store.abort("k", upload_id=upload_id)  # idempotent


@pytest.mark.parametrize(("after", "visible"), [(False, []), (True, ["k"])])
def test_a_scripted_error_comes_before_or_after_the_deed(
    memory_store: MemoryStore, after: bool, visible: list[str]
) -> None:
    def error() -> BaseException:
        return Transient("gone", trouble=Trouble.LINK)

    memory_store.scripts = [Script(error, name="put", times=1, after=after)]
    with pytest.raises(Transient):
        memory_store.put(_request("k", b"1"), _Bytes(b"1"))
    assert list(memory_store.objects) == visible
    assert memory_store.history[-1].became_visible is after
    memory_store.put(_request("k", b"1"), _Bytes(b"1"))


def test_waiting_on_a_fake_stop_lets_time_pass_and_ends_after_its_passes() -> None:
    clock = FakeClock()
    stop = FakeStop(clock, passes=3)
    begin_s, begin = clock.monotonic(), clock.now()
    while not stop.wait(10):
        pass
    assert stop.is_set()
    assert clock.monotonic() - begin_s == 30
    assert (clock.now() - begin).total_seconds() == 30


def test_a_wall_clock_that_jumps_leaves_the_monotonic_one_alone(clock: FakeClock) -> None:
    before = clock.monotonic()
    clock.jump(-7200)
    assert clock.monotonic() == before


def test_a_rung_fake_bell_does_not_wait() -> None:
    stop = FakeStop()
    bell = stop.bell()
    bell.ring()
    assert bell.wait(60)
    assert stop.waits == []
    assert not bell.wait(60)
    assert stop.waits == [60]
