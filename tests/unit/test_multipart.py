"""A large file as steps: it goes on wherever it stopped, and completes only what the file still is."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from syncagent.core.errors import FileChanged, KeyTaken, PartsRefused, Refused, Transient, Trouble, UploadGone
from syncagent.core.model import Digest, ObjectFacts, Part
from syncagent.edges import multipart
from syncagent.edges.answers import NotOffered
from syncagent.edges.files import Content, digest_of
from syncagent.edges.multipart import MAX_PARTS, MIB, MIN_PART_BYTES, Parcel, Shipment, part_size
from tests.fakes import MemoryStore, Script

KEY = "camera/film.mp4"
CONTENT = bytes(range(256)) * 4 + b"end"  # 1,027 bytes: five parts of 256 and less
PARTS = 5


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of 256 bytes: the steps are the same, and there is less to hash."""
    monkeypatch.setattr(multipart, "MIN_PART_BYTES", 16)
    monkeypatch.setattr(multipart, "MIB", 1)


class Film:
    """A pinned file in memory that can change under the reader."""

    def __init__(self, content: bytes = CONTENT) -> None:
        self.content = content
        self.size_bytes = len(content)
        self.is_changed = False
        self.digests = 0

    def check(self) -> None:
        if self.is_changed:
            raise FileChanged("changed after it was recorded")

    def read(self, start: int, size_bytes: int) -> bytes:
        return self.content[start : start + size_bytes]

    def digest(self, start: int = 0, size_bytes: int | None = None) -> Digest:
        self.digests += 1
        return digest_of(self.read(start, self.size_bytes - start if size_bytes is None else size_bytes))

    def stretch(self, start: int, size_bytes: int) -> Content:
        return Content(self.read(start, size_bytes))


class Ledger:
    """What a journal keeps of one upload. `before` and `after` may end the process at the n-th write."""

    def __init__(self) -> None:
        self.upload: tuple[str, int] | None = None
        self.parts: dict[int, tuple[Part, bytes]] = {}
        self.writes = 0
        self.reconciliations = 0
        self.dies_at: tuple[int, bool] | None = None

    def _write(self, apply: Callable[[], None]) -> None:
        self.writes += 1
        dies = self.dies_at is not None and self.writes == self.dies_at[0]
        if dies and self.dies_at is not None and not self.dies_at[1]:
            raise PowerCut
        apply()
        if dies:
            raise PowerCut

    def load(self) -> tuple[str, int, dict[int, tuple[Part, bytes]]] | None:
        return None if self.upload is None else (*self.upload, dict(self.parts))

    def begun(self, upload_id: str, part_bytes: int) -> None:
        def apply() -> None:
            self.upload, self.parts = (upload_id, part_bytes), {}

        self._write(apply)

    def reconciled(self) -> None:
        self.reconciliations += 1

    def part_done(self, part: Part, md5: bytes) -> None:
        self._write(lambda: self.parts.update({part.number: (part, md5)}))

    def ended(self) -> None:
        def apply() -> None:
            self.upload, self.parts = None, {}

        self._write(apply)


class PowerCut(BaseException):
    """The end of the process."""


def parcel(**changes: Any) -> Parcel:
    values: dict[str, Any] = {
        "key": KEY,
        "digest": digest_of(CONTENT),
        "metadata": {"syncagent-version": "1"},
        "content_type": "video/mp4",
        "storage_class": None,
        "part_bytes": 256,
    }
    return Parcel(**{**values, **changes})


def go_on(
    store: MemoryStore,
    ledger: Ledger,
    film: Film | None = None,
    *,
    is_first_in_run: bool = True,
    gives_way: Callable[[], bool] = lambda: False,
    **changes: Any,
) -> str | None:
    shipment = Shipment(store, film or Film(), ledger, parcel(**changes))
    return shipment.go_on(is_first_in_run=is_first_in_run, gives_way=gives_way)


def names(store: MemoryStore) -> list[str]:
    return [call.name for call in store.history]


def test_a_file_is_sent_in_parts_and_completed_with_its_metadata() -> None:
    store, ledger = MemoryStore(), Ledger()
    etag = go_on(store, ledger)
    assert store.bytes_of(KEY) == CONTENT
    assert store.objects[KEY].metadata == {"syncagent-version": "1"}
    assert store.objects[KEY].content_type == "video/mp4"
    assert etag == store.objects[KEY].etag
    assert names(store) == ["create_multipart", *["put_part"] * PARTS, "complete"]
    assert not store.uploads


def test_each_step_is_in_the_journal_before_the_next_begins() -> None:
    ledger = Ledger()
    order: list[str] = []

    class Watching(MemoryStore):
        def put_part(self, key: str, **how: Any) -> Part:
            assert ledger.upload is not None
            assert set(ledger.parts) == set(range(1, how["number"]))
            order.append("part")
            return super().put_part(key, **how)

        def complete(self, key: str, **how: Any) -> str:
            assert set(ledger.parts) == set(range(1, PARTS + 1))
            order.append("complete")
            return super().complete(key, **how)

    go_on(Watching(), ledger)
    assert order == ["part"] * PARTS + ["complete"]


@pytest.mark.parametrize("is_done", [False, True])
@pytest.mark.parametrize("number", range(1, 9))
def test_a_process_that_dies_at_any_request_goes_on_and_repeats_at_most_that_one(number: int, is_done: bool) -> None:
    store, ledger = MemoryStore(), Ledger()
    store.scripts.append(Script(PowerCut, skip=number - 1, times=1, after=is_done))
    died = False
    try:
        go_on(store, ledger)
    except PowerCut:
        died = True
    assert died == (number <= PARTS + 2)
    if died:
        etag = go_on(store, ledger)
        assert etag == store.objects[KEY].etag
    assert store.bytes_of(KEY) == CONTENT
    repeated = len(store.calls("put_part")) - PARTS
    # What had arrived is not sent again; what had not is.
    assert repeated == (1 if 2 <= number <= PARTS + 1 and not is_done else 0)
    assert len(store.calls("complete")) <= 2
    assert len([call for call in store.history if call.became_visible]) == 1


@pytest.mark.parametrize("is_written", [False, True])
@pytest.mark.parametrize("number", range(1, PARTS + 2))
def test_a_process_that_dies_at_any_write_of_the_journal_goes_on(number: int, is_written: bool) -> None:
    store, ledger = MemoryStore(), Ledger()
    ledger.dies_at = (number, is_written)
    with pytest.raises(PowerCut):
        go_on(store, ledger)
    ledger.dies_at = None
    go_on(store, ledger)
    assert store.bytes_of(KEY) == CONTENT
    assert len(store.calls("put_part")) == PARTS
    if number > 1 or is_written:
        assert not store.uploads


def test_within_one_run_the_store_is_not_asked_what_it_has() -> None:
    store, ledger = MemoryStore(), Ledger()
    passes = iter([False, False, True])
    assert go_on(store, ledger, gives_way=lambda: next(passes)) is None
    assert len(store.calls("put_part")) == 2
    go_on(store, ledger, is_first_in_run=False)
    assert store.calls("list_parts") == []
    assert len(store.calls("put_part")) == PARTS


def test_a_shipment_that_gives_way_before_its_first_part_sends_none() -> None:
    store, ledger = MemoryStore(), Ledger()
    assert go_on(store, ledger, gives_way=lambda: True) is None
    assert names(store) == ["create_multipart"]
    assert not store.objects


def test_a_part_that_the_store_lost_or_has_otherwise_is_sent_again() -> None:
    store, ledger = MemoryStore(), Ledger()
    store.scripts.append(Script(PowerCut, name="complete"))
    with pytest.raises(PowerCut):
        go_on(store, ledger)
    store.scripts.clear()
    (upload,) = store.uploads.values()
    del upload.parts[2]
    other = b"y" * 256
    upload.parts[3] = (Part(3, 256, hashlib.md5(other).hexdigest()), other)
    go_on(store, ledger)
    assert len(store.calls("put_part")) == PARTS + 2
    assert store.bytes_of(KEY) == CONTENT


def test_a_part_of_the_right_bytes_that_only_the_store_knows_is_taken_and_noted() -> None:
    store, ledger = MemoryStore(), Ledger()
    store.scripts.append(Script(PowerCut, name="put_part", skip=2, after=True))
    with pytest.raises(PowerCut):
        go_on(store, ledger)
    assert set(ledger.parts) == {1, 2}
    store.scripts.clear()
    go_on(store, ledger)
    assert set(ledger.parts) == set(range(1, PARTS + 1))
    assert len(store.calls("put_part")) == PARTS


@pytest.mark.parametrize(("name", "count"), [("list_parts", 0), ("put_part", 1)])
def test_it_is_told_that_the_store_was_asked_only_when_it_answered(name: str, count: int) -> None:
    store, ledger = MemoryStore(), Ledger()
    store.scripts.append(Script(PowerCut, name="put_part", skip=2))
    with pytest.raises(PowerCut):
        go_on(store, ledger)
    ledger.reconciliations = 0
    store.scripts[:] = [Script(lambda: Transient("refused", trouble=Trouble.LINK), name=name)]
    with pytest.raises(Transient):
        go_on(store, ledger)
    assert ledger.reconciliations == count


@pytest.mark.parametrize(
    "error",
    [
        lambda: NotOffered("501 NotImplemented", trouble=Trouble.STORE),
        lambda: Refused("405 MethodNotAllowed"),
    ],
)
def test_a_store_that_lists_no_parts_is_believed_what_it_answered_to_each(error: Callable[[], Exception]) -> None:
    store, ledger = MemoryStore(), Ledger()
    store.scripts.append(Script(PowerCut, name="put_part", skip=2, after=True))
    with pytest.raises(PowerCut):
        go_on(store, ledger)
    store.scripts[:] = [Script(error, name="list_parts")]
    go_on(store, ledger)
    assert store.bytes_of(KEY) == CONTENT
    assert len(store.calls("put_part")) == PARTS + 1  # the one whose note was lost
    assert len(store.calls("create_multipart")) == 1


def test_an_upload_that_the_store_forgot_between_two_runs_begins_anew() -> None:
    store, ledger = MemoryStore(), Ledger()
    store.scripts.append(Script(PowerCut, name="put_part", skip=2))
    with pytest.raises(PowerCut):
        go_on(store, ledger)
    store.scripts.clear()
    store.uploads.clear()
    go_on(store, ledger)
    assert store.bytes_of(KEY) == CONTENT
    assert len(store.calls("create_multipart")) == 2


def test_an_upload_that_is_aborted_at_a_part_is_forgotten_and_the_next_attempt_begins_anew() -> None:
    store, ledger = MemoryStore(), Ledger()
    store.scripts.append(Script(lambda: UploadGone("gone"), name="put_part", skip=2, times=1))
    with pytest.raises(UploadGone):
        go_on(store, ledger)
    assert ledger.upload is None
    go_on(store, ledger, is_first_in_run=False)
    assert store.bytes_of(KEY) == CONTENT


def test_an_upload_whose_parts_the_store_does_not_take_is_aborted_and_the_next_attempt_begins_anew() -> None:
    store, ledger = MemoryStore(), Ledger()
    store.scripts.append(Script(lambda: PartsRefused("InvalidPart"), name="complete", times=1))
    with pytest.raises(UploadGone):
        go_on(store, ledger)
    assert ledger.upload is None and store.uploads == {}
    go_on(store, ledger, is_first_in_run=False)
    assert store.bytes_of(KEY) == CONTENT and store.uploads == {}


def test_an_upload_that_cannot_be_aborted_now_is_not_forgotten() -> None:
    store, ledger = MemoryStore(), Ledger()
    store.scripts.append(Script(lambda: PartsRefused("InvalidPart"), name="complete", times=1))
    store.scripts.append(Script(lambda: Transient("reset", trouble=Trouble.LINK), name="abort"))
    with pytest.raises(Transient):
        go_on(store, ledger)
    assert ledger.upload is not None


def test_a_complete_that_did_its_work_and_lost_its_answer_is_found_and_nothing_is_sent_twice() -> None:
    store, ledger = MemoryStore(), Ledger()
    store.scripts.append(Script(lambda: Transient("reset", trouble=Trouble.LINK), name="complete", times=1, after=True))
    with pytest.raises(Transient):
        go_on(store, ledger)
    for is_first_in_run in (False, True):
        kept = dict(ledger.parts), ledger.upload
        assert go_on(store, ledger, is_first_in_run=is_first_in_run) == store.objects[KEY].etag
        ledger.parts, ledger.upload = kept
    assert len(store.calls("put_part")) == PARTS
    assert len([call for call in store.history if call.became_visible]) == 1
    assert store.calls("abort") == []


class Encrypted(MemoryStore):
    """A store whose ETags are no MD5s, and which may hold other bytes than the metadata says."""

    body: bytes | None = None

    def head(self, key: str) -> ObjectFacts | None:
        found = super().head(key)
        return None if found is None else replace(found, etag="0123456789abcdef-5")

    def read(self, key: str) -> Iterator[bytes]:
        yield from super().read(key) if self.body is None else (self.body,)


@pytest.mark.parametrize("is_first_in_run", [False, True])
def test_a_complete_whose_answer_was_lost_is_found_by_reading_where_etags_are_no_md5s(is_first_in_run: bool) -> None:
    store, ledger = Encrypted(), Ledger()
    store.scripts.append(Script(lambda: Transient("reset", trouble=Trouble.LINK), name="complete", times=1, after=True))
    metadata = {"syncagent-sha256": digest_of(CONTENT).sha256.hex()}
    with pytest.raises(Transient):
        go_on(store, ledger, metadata=metadata)
    assert go_on(store, ledger, is_first_in_run=is_first_in_run, metadata=metadata) == "0123456789abcdef-5"
    assert len(store.calls("put_part")) == PARTS
    assert len(store.calls("read")) == 1


def test_metadata_alone_does_not_make_an_object_ours() -> None:
    store, ledger = Encrypted(), Ledger()
    store.scripts.append(Script(lambda: Transient("reset", trouble=Trouble.LINK), name="complete", times=1, after=True))
    metadata = {"syncagent-sha256": digest_of(CONTENT).sha256.hex()}
    with pytest.raises(Transient):
        go_on(store, ledger, metadata=metadata)
    store.body = CONTENT[::-1]
    with pytest.raises(UploadGone):
        go_on(store, ledger, is_first_in_run=False, metadata=metadata)


@pytest.mark.parametrize("is_first_in_run", [False, True])
def test_another_object_under_the_key_is_not_taken_for_a_complete_of_ours(is_first_in_run: bool) -> None:
    store, ledger = MemoryStore(), Ledger()
    store.scripts.append(Script(PowerCut, name="complete"))
    with pytest.raises(PowerCut):
        go_on(store, ledger)
    store.scripts.clear()
    store.uploads.clear()
    other = Ledger()
    go_on(store, other, Film(CONTENT[::-1]), digest=digest_of(CONTENT[::-1]))
    if is_first_in_run:
        go_on(store, ledger)  # begins anew; whether it may replace is for others to say
        assert store.bytes_of(KEY) == CONTENT
    else:
        with pytest.raises(UploadGone):
            go_on(store, ledger, is_first_in_run=False)
        assert ledger.upload is None
        assert store.bytes_of(KEY) == CONTENT[::-1]


def test_a_file_that_changed_before_a_part_sends_no_more_of_it() -> None:
    store, ledger, film = MemoryStore(), Ledger(), Film()
    passes = iter([False, False, True])
    go_on(store, ledger, film, gives_way=lambda: next(passes))
    film.is_changed = True
    with pytest.raises(FileChanged):
        go_on(store, ledger, film, is_first_in_run=False)
    assert len(store.calls("put_part")) == 2
    assert not store.objects


@pytest.mark.parametrize("where", [0, 255, 256, 1026])
def test_a_file_that_changed_between_two_runs_never_completes(where: int) -> None:
    store, ledger = MemoryStore(), Ledger()
    store.scripts.append(Script(PowerCut, name="complete"))
    with pytest.raises(PowerCut):
        go_on(store, ledger)
    store.scripts.clear()
    changed = bytearray(CONTENT)
    changed[where] ^= 1
    with pytest.raises(FileChanged):
        go_on(store, ledger, Film(bytes(changed)))
    assert not store.objects
    assert store.calls("complete")[1:] == []


def test_parts_that_fit_but_are_not_the_recorded_version_never_complete() -> None:
    store = MemoryStore()
    with pytest.raises(FileChanged):
        go_on(store, Ledger(), digest=digest_of(b"another version"))
    assert not store.objects


def test_a_file_that_is_opened_for_writing_while_it_is_read_for_the_last_time_never_completes() -> None:
    store = MemoryStore()

    class Reopened(Film):
        def check(self) -> None:
            if len(store.calls("put_part")) == PARTS:
                raise FileChanged("opened for writing again")

    with pytest.raises(FileChanged):
        go_on(store, Ledger(), Reopened())
    assert not store.objects
    assert store.calls("complete") == []


def test_an_occupied_key_is_said_and_keeps_its_bytes() -> None:
    store = MemoryStore()
    go_on(store, Ledger(), Film(CONTENT[::-1]), digest=digest_of(CONTENT[::-1]))
    with pytest.raises(KeyTaken):
        go_on(store, Ledger(), only_if_absent=True)
    assert store.bytes_of(KEY) == CONTENT[::-1]


class Headless(MemoryStore):
    """A store that cannot say what it has at the moment that matters."""

    def head(self, key: str) -> ObjectFacts | None:
        raise Transient("no answer", trouble=Trouble.LINK)


def test_while_nobody_can_say_whether_it_completed_nothing_is_forgotten() -> None:
    store, ledger = Headless(), Ledger()
    store.scripts.append(Script(PowerCut, name="complete", after=True))
    with pytest.raises(PowerCut):
        go_on(store, ledger)
    store.scripts.clear()
    with pytest.raises(Transient):
        go_on(store, ledger)
    assert set(ledger.parts) == set(range(1, PARTS + 1))
    assert ledger.upload is not None


@pytest.mark.parametrize("size_bytes", [1, 5 * 2**20, 5 * 2**20 + 1, 100 * 2**20])
def test_an_ordinary_file_gets_the_parts_that_are_wanted(monkeypatch: pytest.MonkeyPatch, size_bytes: int) -> None:
    monkeypatch.undo()
    assert part_size(size_bytes, wanted_bytes=5 * 2**20) == 5 * 2**20
    assert part_size(size_bytes, wanted_bytes=8 * 2**20) == 8 * 2**20
    assert part_size(size_bytes, wanted_bytes=1) == 5 * 2**20


def test_the_limits_are_those_of_s3() -> None:
    assert (MAX_PARTS, MIN_PART_BYTES, MIB) == (10_000, 5 * 2**20, 2**20)
