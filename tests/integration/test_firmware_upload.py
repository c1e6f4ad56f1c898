"""A large image on its way to the bucket: in parts, and never twice, whatever cuts it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from syncagent.core.errors import Transient
from syncagent.publish.publisher import LocalImage
from syncagent.publish.shelf import Shelf
from syncagent.publish.uploads import Notes
from tests.firmware_publisher import PATH
from tests.integration.test_firmware_link import open_store
from tests.servers import Fault, VerifyingS3

IMAGE = os.urandom(12_000_000)
NAME = f"stable/cam/{hashlib.sha256(IMAGE).hexdigest()}.image"
KEY = f"{PATH}/targets/{NAME}"


class Office:
    """A publisher's machine, of whose bucket `store` is the outside."""

    def __init__(self, store: VerifyingS3, top: Path) -> None:
        self.store = store
        self.notes = str(top / "uploads.json")
        self.image = str(top / "image.bin")
        Path(self.image).write_bytes(IMAGE)
        self.told: list[str] = []
        self.seen: list[tuple[int, int]] = []

    def put(self, on_parts: Callable[[int, int], None] = lambda _sent, _size: None) -> None:
        """One run of the publisher, as far as the image."""

        def see(sent_bytes: int, size_bytes: int) -> None:
            self.seen.append((sent_bytes, size_bytes))
            on_parts(sent_bytes, size_bytes)

        shelf = Shelf(
            open_store(self.store.endpoint_url),
            PATH,
            wait=lambda _: None,
            tell=self.told.append,
            notes=self.notes,
            on_parts=see,
        )
        shelf.put_images([LocalImage.open(self.image).upload(NAME)])

    @property
    def parts(self) -> list[int]:
        """How often each part was sent whole."""
        numbers = [e.query["partNumber"] for e in self.store.requests() if "partNumber" in e.query and e.status == 200]
        return [numbers.count(str(number)) for number in (1, 2, 3)]


@pytest.fixture
def office(verifying: VerifyingS3, tmp_path: Path) -> Office:
    return Office(verifying, tmp_path)


def test_a_cut_costs_one_part(office: Office) -> None:
    office.store.faults = [Fault(operation="UploadPart", skip=1, times=3, status=500, code="InternalError")]
    office.put()
    assert office.store.objects()[KEY] == IMAGE
    assert office.parts == [1, 1, 1]
    assert "PutObject" not in [event.operation for event in office.store.requests()]
    assert office.seen[0] == (0, len(IMAGE)) and office.seen[-1][0] < len(IMAGE)
    assert json.loads(Path(office.notes).read_bytes()) == {}
    office.put()
    assert office.told[-1] == "the image is in the bucket already"


def test_another_run_goes_on_where_one_was_given_up(office: Office) -> None:
    office.store.faults = [Fault(operation="UploadPart", skip=2, status=500, code="InternalError")]
    with pytest.raises(Transient):
        office.put()
    office.store.faults = []
    office.put()
    assert office.store.objects()[KEY] == IMAGE and office.parts == [1, 1, 1]


@pytest.mark.parametrize("notes", [b"", b"[]", b"{", b'{"%s": {"parts": 3}}' % KEY.encode()])
def test_lost_notes_cost_bytes_and_nothing_else(office: Office, notes: bytes) -> None:
    Path(office.notes).write_bytes(notes)
    office.put()
    assert office.store.objects()[KEY] == IMAGE


def test_an_upload_that_somebody_ended_is_begun_anew(office: Office) -> None:
    Notes(office.notes, KEY).begun("gone", 5 * 1024 * 1024)
    office.put()
    assert office.store.objects()[KEY] == IMAGE and office.parts == [1, 1, 1]


def test_an_upload_that_somebody_ends_on_the_way_goes_in_parts_again(office: Office) -> None:
    def ends(_sent_bytes: int, _size_bytes: int) -> None:
        if len(office.seen) == 3:
            office.store.uploads.clear()

    office.put(ends)
    assert office.store.objects()[KEY] == IMAGE
    assert "PutObject" not in [event.operation for event in office.store.requests()]


def test_an_upload_that_was_given_up_for_another_image_is_ended_by_gc(office: Office) -> None:
    office.store.faults = [Fault(operation="UploadPart", skip=2, status=500, code="InternalError")]
    with pytest.raises(Transient):
        office.put()
    office.store.faults = []
    shelf = Shelf(open_store(office.store.endpoint_url), PATH, wait=lambda _: None, notes=office.notes)
    assert shelf.unfinished() == [KEY] and len(office.store.uploads) == 1
    shelf.abort(KEY)
    assert shelf.unfinished() == [] and office.store.uploads == {}
    Notes(office.notes, KEY).begun("gone", 5 * 1024 * 1024)
    shelf.abort(KEY)
    assert shelf.unfinished() == []


@pytest.mark.parametrize(
    "fault",
    [
        Fault(operation="CreateMultipartUpload", status=501, code="NotImplemented"),
        Fault(operation="UploadPart", status=500, code="InternalError"),
    ],
    ids=["none", "broken"],
)
def test_a_store_without_uploads_in_parts_takes_it_in_one_request(office: Office, fault: Fault) -> None:
    office.store.faults = [fault]
    office.put()
    assert office.store.objects()[KEY] == IMAGE
    assert "PutObject" in [event.operation for event in office.store.requests()]
