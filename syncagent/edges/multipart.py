"""A large file as journaled steps: create, parts, check, complete; each step is durable before the next begins.

Promises that an upload goes on where it stopped, that no part is sent of bytes other than the recorded version's, and
that nothing becomes visible before the whole file was read once more and found to be what the parts are.
Knows neither which store nor which journal it works with.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from syncagent.core.errors import Blocked, FileChanged, PartsRefused, Refused, SyncagentError, Trouble, UploadGone
from syncagent.core.model import Digest, ObjectFacts, Part
from syncagent.core.proof import multipart_etag
from syncagent.edges.answers import NotOffered
from syncagent.edges.orders import MultipartStore
from syncagent.edges.payload import Body, is_copy

logger = logging.getLogger(__name__)

MIB = 1024 * 1024
#: S3's limits for multipart uploads (S3 user guide, "Amazon S3 multipart upload limits").
MAX_PARTS = 10_000
MIN_PART_BYTES = 5 * MIB
READ_BYTES = 256 * 1024


class NotBegun(SyncagentError):
    """The store refused to begin an upload in parts; why, is the cause."""


class Source(Protocol):
    """The pinned file."""

    @property
    def size_bytes(self) -> int: ...
    def check(self) -> None: ...
    def read(self, start: int, size_bytes: int) -> bytes: ...
    def digest(self, start: int = 0, size_bytes: int | None = None) -> Digest: ...
    def stretch(self, start: int, size_bytes: int) -> Body: ...


class Progress(Protocol):
    """What the journal remembers of this upload."""

    def load(self) -> tuple[str, int, dict[int, tuple[Part, bytes]]] | None: ...
    def begun(self, upload_id: str, part_bytes: int) -> None: ...
    def reconciled(self) -> None: ...
    def part_done(self, part: Part, md5: bytes) -> None: ...
    def ended(self) -> None: ...


def part_size(size_bytes: int, *, wanted_bytes: int) -> int:
    """Bytes per part of a file: `wanted_bytes`, or what keeps it within MAX_PARTS, in whole MiB.

    Small parts, because a part that the link cuts is sent again from its first byte.
    """
    least = -(-size_bytes // MAX_PARTS)
    return max(wanted_bytes, MIN_PART_BYTES, -(-least // MIB) * MIB)


def etag_of_file(source: Source, part_bytes: int) -> str:
    """The ETag that the file would have after a multipart upload in parts of `part_bytes`. Reads all of it."""
    size = source.size_bytes
    return multipart_etag([source.digest(at, min(part_bytes, size - at)).md5 for at in range(0, size, part_bytes)])


def give_up(store: MultipartStore, key: str, *, upload_id: str) -> None:
    """Abort an upload of a file that goes on without it; where that is not allowed, it stays, and the file goes on."""
    try:
        store.abort(key, upload_id=upload_id)
    except Blocked as error:
        if error.trouble is not Trouble.FORBIDDEN:
            raise
        logger.warning("upload not aborted key=%s reason=%s", key, error)


@dataclass(frozen=True, slots=True)
class Parcel:
    """One version on its way to one key."""

    key: str
    digest: Digest
    metadata: Mapping[str, str]
    content_type: str
    storage_class: str | None
    part_bytes: int
    only_if_absent: bool = False


class Shipment:
    """One multipart upload, from wherever it stands. Make a new one for each attempt."""

    def __init__(self, store: MultipartStore, source: Source, progress: Progress, parcel: Parcel) -> None:
        self._store = store
        self._source = source
        self._progress = progress
        self._parcel = parcel
        self._upload_id = ""
        self._part_bytes = 0
        self._done: dict[int, tuple[Part, bytes]] = {}

    def go_on(self, *, is_first_in_run: bool, gives_way: Callable[[], bool]) -> str | None:
        """Send what is missing, and complete. Returns the proven ETag, or None when `gives_way` asked to stop between
        two parts; what was sent is kept.

        `is_first_in_run`: nothing is known of what the store has; it is asked before anything is sent.
        Raises: NotBegun.
        """
        loaded = self._progress.load()
        if loaded is not None:
            self._upload_id, self._part_bytes, self._done = loaded
            if is_first_in_run:
                try:
                    self._reconcile()
                    self._progress.reconciled()
                except UploadGone:
                    etag = self._find_completed()
                    if etag is not None:
                        return etag
                    self._progress.ended()
                    loaded = None
        if loaded is None:
            self._begin()
        for number, start, size_bytes in self._missing():
            if gives_way():
                return None
            try:
                self._send_part(number, start, size_bytes)
            except UploadGone:
                # Somebody, or a lifecycle rule, aborted it: the next attempt begins anew.
                self._progress.ended()
                raise
        self._check_whole()
        try:
            etag = self._store.complete(
                self._parcel.key,
                upload_id=self._upload_id,
                parts=[self._done[number][0] for number in sorted(self._done)],
                only_if_absent=self._parcel.only_if_absent,
                digest=self._parcel.digest,
            )
        except UploadGone as error:
            # An earlier Complete may have done its work after all, and only its answer was lost.
            found = self._find_completed()
            if found is None:
                if isinstance(error, PartsRefused):
                    # It is still there. Not for NoSuchUpload: a Complete may be at work on it.
                    give_up(self._store, self._parcel.key, upload_id=self._upload_id)
                self._progress.ended()
                raise
            etag = found
        return etag

    def _begin(self) -> None:
        self._part_bytes = part_size(self._source.size_bytes, wanted_bytes=self._parcel.part_bytes)
        self._done = {}
        try:
            self._upload_id = self._store.create_multipart(
                self._parcel.key,
                metadata=self._parcel.metadata,
                content_type=self._parcel.content_type,
                storage_class=self._parcel.storage_class,
            )
        except (NotOffered, Refused) as error:
            raise NotBegun(str(error)) from error
        self._progress.begun(self._upload_id, self._part_bytes)

    def _parts(self) -> list[tuple[int, int, int]]:
        """(number, start, bytes) of every part."""
        size = self._source.size_bytes
        starts = range(0, size, self._part_bytes)
        return [(number, start, min(self._part_bytes, size - start)) for number, start in enumerate(starts, start=1)]

    def _missing(self) -> list[tuple[int, int, int]]:
        return [part for part in self._parts() if part[0] not in self._done]

    def _send_part(self, number: int, start: int, size_bytes: int) -> None:
        digest = self._source.digest(start, size_bytes)
        self._source.check()
        part = self._store.put_part(
            self._parcel.key,
            upload_id=self._upload_id,
            number=number,
            body=self._source.stretch(start, size_bytes),
            digest=digest,
        )
        self._progress.part_done(part, digest.md5)
        self._done[number] = (part, digest.md5)

    def _reconcile(self) -> None:
        """Believe the store about what it has, and the file about what that should be."""
        try:
            listed = self._store.list_parts(self._parcel.key, upload_id=self._upload_id)
        except UploadGone:
            raise
        except (NotOffered, Refused) as error:
            # Each part that we noted was proved when it was sent, and Complete names them all: what is missing there
            # ends the upload, and the next attempt begins anew.
            logger.info("parts not listed key=%s reason=%s", self._parcel.key, error)
            return
        stored = {part.number: part for part in listed}
        for number in list(self._done):
            kept = stored.get(number)
            if kept is None or kept.etag != self._done[number][0].etag:
                del self._done[number]
        for number, start, size_bytes in self._missing():
            part = stored.get(number)
            if part is None or part.size_bytes != size_bytes:
                continue
            md5 = self._source.digest(start, size_bytes).md5
            if part.etag == md5.hex():  # it arrived, only our note of it was lost
                self._progress.part_done(part, md5)
                self._done[number] = (part, md5)

    def _find_completed(self) -> str | None:
        """The ETag of our object when the store has it whole although it does not know the upload any more."""
        whole = len(self._done) == len(self._parts()) > 0
        found = self._store.head(self._parcel.key) if whole else None
        if found is not None and found.size_bytes == self._source.size_bytes:
            expected = multipart_etag([self._done[number][1] for number in sorted(self._done)])
            # Some stores (rclone) answer HEAD with the MD5 of the whole object, however it was uploaded.
            if found.etag in (expected, self._parcel.digest.md5.hex()) or self._reads_as_ours(found):
                return found.etag
        return None

    def _reads_as_ours(self, found: ObjectFacts) -> bool:
        """Of an object whose ETag proves nothing, as where the store encrypts with keys of its own."""
        if found.metadata.get("syncagent-sha256") != self._parcel.digest.sha256.hex():
            return False
        return is_copy(self._store.read(found.key), self._parcel.digest, size_bytes=found.size_bytes)

    def _check_whole(self) -> None:
        """Read the file once more: its parts and the whole must be what was sent.

        Raises: FileChanged. The parts may have been sent days apart, by several runs of this program.
        """
        whole = hashlib.sha256()
        for number, start, size_bytes in self._parts():
            md5 = hashlib.md5(usedforsecurity=False)
            end = start + size_bytes
            while start < end:
                piece = self._source.read(start, min(READ_BYTES, end - start))
                whole.update(piece)
                md5.update(piece)
                start += len(piece)
            if md5.digest() != self._done[number][1]:
                raise FileChanged(f"part {number} is not what was sent")
        if whole.digest() != self._parcel.digest.sha256:
            raise FileChanged("changed while its parts were sent")
        self._source.check()
