"""One version on its way: pinned, hashed, given its key, put there, proved, confirmed.

Promises that no request leaves before the key is known to be free or ours, that nothing but the recorded version is
sent, and that `confirmed` is written only after the store proved the digest. What an error means for the row is
left to the worker.
"""

from __future__ import annotations

import hashlib
import json
import logging
import mimetypes
from collections.abc import Callable, Mapping
from contextlib import ExitStack

from syncagent import __version__
from syncagent.core.board import Flight
from syncagent.core.capture import HEAD_BYTES, capture_time
from syncagent.core.errors import Blocked, HeadersTooLarge, KeyTaken, Refused, Transient, Trouble, UploadGone
from syncagent.core.keys import Naming, check_key, time_of, with_digest
from syncagent.core.messages import PLACE_FIELDS
from syncagent.core.metadata import SIDECAR, attach, header_value, pack, sayable_value
from syncagent.core.model import Digest, ObjectFacts, Part
from syncagent.core.places import OUTSIDE
from syncagent.core.proof import is_md5_hex
from syncagent.docks.dock import Dock
from syncagent.docks.naming import (
    check_outside_corner,
    content_of,
    corner_key,
    is_in_corner,
    is_receipt,
    is_report,
    naming_of,
)
from syncagent.edges import files
from syncagent.edges.files import Content, PinnedFile
from syncagent.edges.journal import Row
from syncagent.edges.multipart import NotBegun, Parcel, Shipment, etag_of_file, give_up, part_size
from syncagent.edges.objects import PutRequest
from syncagent.edges.payload import is_copy

logger = logging.getLogger(__name__)

#: Files up to this size are read once, into memory; larger ones are hashed first and read again while they are sent.
IN_MEMORY_BYTES = 1024 * 1024
#: Metadata of an object that was sent before its file was finished.
UNSETTLED = "syncagent-unsettled"
#: Another worker is sending to the same key: it will be done soon.
KEY_BUSY_WAIT_S = 1.0
#: The size of an object that we may not look at: that of no file.
UNSEEN_BYTES = -1


class _Ledger:
    """The journal as one shipment sees it."""

    def __init__(self, dock: Dock, row: Row, parcel: Parcel, on_bytes: Callable[[int], None]) -> None:
        self._dock = dock
        self._journal = dock.journal
        self._row = row
        self._parcel = parcel
        self._on_bytes = on_bytes  # told how many bytes of the file the store has
        self._has_bytes = 0

    def load(self) -> tuple[str, int, dict[int, tuple[Part, bytes]]] | None:
        upload = self._journal.upload_of(self._row)
        if upload is None:
            return None
        self._has_bytes = sum(part.size_bytes for part, _ in upload.parts)
        self._on_bytes(self._has_bytes)
        return upload.upload_id, upload.part_bytes, {part.number: (part, md5) for part, md5 in upload.parts}

    def begun(self, upload_id: str, part_bytes: int) -> None:
        self._journal.upload_begun(
            self._row, upload_id, key=self._parcel.key, sha256=self._parcel.digest.sha256, part_bytes=part_bytes
        )
        self._dock.reconciled(self._row)  # with an upload that has no parts
        self._dock.passed(self._row.address)

    def reconciled(self) -> None:
        self._dock.reconciled(self._row)

    def part_done(self, part: Part, md5: bytes) -> None:
        self._journal.part_done(self._row, part, md5)
        # After an outage the others must not wait until a large file is through.
        self._dock.passed(self._row.address)
        self._has_bytes += part.size_bytes
        self._on_bytes(self._has_bytes)

    def ended(self) -> None:
        self._dock.upload_ended(self._row.id)


class Delivery:
    """One row, once. `gives_way` is asked between two parts whether to stop there, `pulse` is called while a file is
    hashed: it may raise, or take its time for something else."""

    def __init__(
        self,
        dock: Dock,
        row: Row,
        *,
        worker: str,
        system_id: str,
        gives_way: Callable[[], bool],
        pulse: Callable[[], None],
    ) -> None:
        self._dock = dock
        self._journal = dock.journal
        self._carrier = dock.carrier
        self._row = row
        self._worker = worker
        self._system_id = system_id
        self._gives_way = gives_way
        self._pulse = pulse

    def carry_out(self) -> None:
        """Raises: every error of core/errors.py that a file or a store can cause."""
        row = self._row
        located = self._dock.places.locate(row.path)
        if located is None:
            raise Refused(OUTSIDE)
        with PinnedFile.open(*located, facts=row.facts, unsettled=row.is_unsettled) as original, ExitStack() as stack:
            # What a handler made of the file goes in its place, as long as the file is what the handler saw.
            pinned = original if row.body is None else stack.enter_context(self._handled(row.body))
            pinned.pulse = self._pulse
            content = None
            if pinned.size_bytes <= IN_MEMORY_BYTES:
                content = pinned.read(0, pinned.size_bytes)
                digest = files.digest_of(content)
            elif row.digest is not None and not row.is_unsettled:
                digest = row.digest  # the same facts, hashed by an earlier attempt
            else:
                digest = pinned.digest()
            pinned.check()
            if pinned is not original:
                original.check()
            self._find_key(pinned, content, digest)

    def _handled(self, body: str) -> PinnedFile:
        """What a handler made of the file. Raises: Transient when it is not there any more."""
        directory = self._dock.ways.handled_dir
        status = files.look(directory, body)
        if status is None or not files.is_file(status):
            self._journal.unhandle(self._row)
            raise Transient("what its handler made is gone; it is made again", trouble=Trouble.FILE)
        return PinnedFile.open(directory, body, facts=files.facts_of(status))

    def _find_key(self, pinned: PinnedFile, content: bytes | None, digest: Digest) -> None:
        """Put the version under the first key that is free, or find it there."""
        row = self._row
        # A key that somebody asked for was checked when it was asked for.
        base = check_key(row.wanted_key) if row.wanted_key is not None else self._naming().key()
        is_ours = is_report(row, self._carrier)
        if not is_ours and not is_receipt(row):
            check_outside_corner(base, [self._carrier])
        # Of two receipts with one name neither replaces the other, whatever the owner says of files.
        overwrites = is_ours or (
            self._carrier.upload.on_rewrite == "overwrite" and not is_in_corner(self._carrier, base)
        )
        for is_later_version in (False,) if overwrites else (False, True):
            # Made only when it is needed: a key that just fits has no room for a digest.
            key = with_digest(base, digest.sha256) if is_later_version else base
            if not self._journal.reserve_key(row, key):
                self._dock.forgiven(row.address)
                self._journal.defer(row, reason="another version is being sent to the same key", wait_s=KEY_BUSY_WAIT_S)
                return
            occupant = self._journal.occupant(row.address, key)
            if occupant == digest.sha256:
                if row.is_unsettled or not self._journal.is_flagged(row.address, key):
                    self._adopt(key, digest, etag=None)
                    return
                found = self._look_at(key, is_last=is_later_version)
                if self._is_ours(found, key, pinned, content, digest):
                    return
                if found is not None and not overwrites:
                    continue
            elif occupant is None:
                foreign = self._journal.foreign(row.address, key)
                if foreign is not None and self._is_same(pinned, digest, *foreign):
                    self._adopt(key, digest, etag=foreign[1])
                    return
                if foreign is not None and not overwrites:
                    if not is_later_version and is_md5_hex(foreign[1]):
                        continue  # other bytes, for sure
                    # The listing proves nothing, or it names a key that only this version would have: ask.
                    found = self._look_at(key, is_last=is_later_version)
                    if self._is_ours(found, key, pinned, content, digest):
                        return
                    if found is not None:
                        continue
            elif not overwrites:
                continue
            try:
                self._put(key, pinned, content, digest, only_if_absent=not overwrites)
            except KeyTaken as error:
                found = self._look_at(key, is_last=is_later_version)
                if found is None:
                    # Gone again, or never there: the key may well be ours, and the parts are still good.
                    raise Transient("the key is taken, but by no object", trouble=Trouble.FILE) from error
                self._drop_upload()
                self._journal.release(row)
                if self._is_ours(found, key, pinned, content, digest):
                    return  # an earlier attempt's, whose answer was lost
                logger.info("key taken path=%s key=%s", row.path, key)
                continue
            return
        raise Refused("both keys of this version are taken by other bytes")

    def _look_at(self, key: str, *, is_last: bool) -> ObjectFacts | None:
        """What is under a key; from a listing where the store refuses to say more.

        Where it refuses that, too, a key that is not the last choice counts as another's.
        """
        try:
            return self._dock.store.head(key)
        except Blocked as error:
            if error.trouble is not Trouble.FORBIDDEN:
                raise
        try:
            return next((found for found in self._dock.store.list(key) if found.key == key), None)
        except Blocked as error:
            if error.trouble is not Trouble.FORBIDDEN or is_last:
                raise
            return ObjectFacts(key, UNSEEN_BYTES, "")

    def _is_same(self, pinned: PinnedFile, digest: Digest, size_bytes: int, etag: str) -> bool:
        """Whether an object with this size and ETag is this version. An ETag that is no MD5 proves nothing."""
        if size_bytes != pinned.size_bytes:
            return False
        if etag == digest.md5.hex():
            return True
        part_bytes = part_size(pinned.size_bytes, wanted_bytes=self._carrier.upload.part_bytes)
        # As many parts as we would have made; only then is it worth reading the file.
        return etag.endswith(f"-{-(-size_bytes // part_bytes)}") and etag == etag_of_file(pinned, part_bytes)

    def _is_ours(
        self, found: ObjectFacts | None, key: str, pinned: PinnedFile, content: bytes | None, digest: Digest
    ) -> bool:
        """Whether an object that is under our key is this very version; then it is confirmed."""
        if found is None or found.size_bytes != pinned.size_bytes:
            return False
        same = self._is_same(pinned, digest, found.size_bytes, found.etag)
        if not same and found.metadata.get("syncagent-sha256") == digest.sha256.hex():
            # Its ETag is not an MD5 (encrypted by the store's own key): only its bytes prove it.
            same = is_copy(self._dock.store.read(key), digest, size_bytes=pinned.size_bytes)
        if not same:
            return False
        if UNSETTLED in found.metadata and not self._row.is_unsettled:
            # Sent before it was finished, and nothing was written since. The same bytes replace it, without the flag.
            self._put(key, pinned, content, digest, only_if_absent=False)
        else:
            self._drop_upload()
            self._confirm(key, digest, found.etag)
        return True

    def _adopt(self, key: str, digest: Digest, *, etag: str | None) -> None:
        """The bytes are there already; nothing is sent."""
        self._drop_upload()
        self._dock.forgiven(self._row.address)
        self._journal.confirm(self._row, key=key, digest=digest, etag=etag)
        logger.info("already there path=%s key=%s", self._row.path, key)

    def _put(
        self, key: str, pinned: PinnedFile, content: bytes | None, digest: Digest, *, only_if_absent: bool
    ) -> None:
        """Send it, with what its message says: in headers, or beside it where those are too long for the store."""
        try:
            self._put_as(key, pinned, content, digest, only_if_absent=only_if_absent, is_brief=False)
        except HeadersTooLarge as error:
            if not content_of(self._row.wording).keys() - PLACE_FIELDS and not self._dock.ways.attached():
                raise  # not because of its message, nor of what devices measured
            logger.info("fields go beside path=%s key=%s reason=%s", self._row.path, key, error)
            self._journal.release(self._row)
            self._put_as(key, pinned, content, digest, only_if_absent=only_if_absent, is_brief=True)

    def _put_as(
        self,
        key: str,
        pinned: PinnedFile,
        content: bytes | None,
        digest: Digest,
        *,
        only_if_absent: bool,
        is_brief: bool,
    ) -> None:
        row, upload = self._row, self._carrier.upload
        only_if_absent = only_if_absent and self._dock.is_conditional()
        head = content if content is not None else pinned.read(0, min(HEAD_BYTES, pinned.size_bytes))
        metadata, sidecar = self._metadata(key, digest, captured_at=capture_time(head[:HEAD_BYTES]), is_brief=is_brief)
        content_type = mimetypes.guess_type(row.path)[0] or "application/octet-stream"
        self._fly()
        if sidecar is not None:
            self._put_sidecar(*sidecar)
        if self._dock.goes_by_parts(row, pinned.size_bytes):
            # A single request needs no note of its own: should it be repeated, it is the same request.
            self._journal.sending(row, key, digest)
            self._fly(is_recorded=True)
            parcel = Parcel(
                key, digest, metadata, content_type, upload.storage_class, upload.part_bytes, only_if_absent
            )
            try:
                etag = self._ship(parcel, pinned)
            except NotBegun as error:
                self._dock.check_single(row, error.__cause__)
            else:
                if etag is None:
                    self._journal.release(row)
                    self._dock.forgiven(row.address)
                else:
                    self._confirm(key, digest, etag)
                return
        request = PutRequest(key, digest, metadata, content_type, upload.storage_class, only_if_absent)
        body = Content(content, digest) if content is not None else pinned.stretch(0, pinned.size_bytes)
        self._confirm(key, digest, self._dock.store.put(request, body))

    def _ship(self, parcel: Parcel, pinned: PinnedFile) -> str | None:
        """By parts. None when it gave way between two of them."""
        upload = self._journal.upload_of(self._row)
        if upload is not None and (upload.key, upload.sha256) != (parcel.key, parcel.digest.sha256):
            self._drop_upload()  # parts of other bytes, or under another key: the file was rewritten since
        ledger = _Ledger(self._dock, self._row, parcel, lambda count: self._fly(count, is_recorded=True))
        shipment = Shipment(self._dock.store, pinned, ledger, parcel)
        try:
            return shipment.go_on(is_first_in_run=not self._dock.is_reconciled(self._row), gives_way=self._gives_way)
        except UploadGone as error:
            raise Transient(str(error), trouble=Trouble.FILE) from error

    def _fly(self, before_bytes: int = 0, *, is_recorded: bool = False) -> None:
        """Show that the version is on its way."""
        row = self._row
        flight = Flight(
            row.path, row.address, row.facts.size_bytes, before_bytes, before_bytes, is_recorded=is_recorded
        )
        self._dock.board.fly(self._worker, flight)

    def _drop_upload(self) -> None:
        upload = self._journal.upload_of(self._row)
        if upload is not None:
            give_up(self._dock.store, upload.key, upload_id=upload.upload_id)
            self._dock.upload_ended(self._row.id)

    def _confirm(self, key: str, digest: Digest, etag: str) -> None:
        row, board = self._row, self._dock.board
        self._journal.confirm(row, key=key, digest=digest, etag=etag)
        board.fly(self._worker, None)
        self._dock.forget(row.id)
        self._dock.passed(row.address, row_id=row.id)
        board.add("sent_files")
        board.add("sent_bytes", row.facts.size_bytes)
        board.settle_complaint(row.path, "upload")
        logger.info("confirmed path=%s key=%s bytes=%d", row.path, key, row.facts.size_bytes)

    def _naming(self) -> Naming:
        address = self._dock.addresses[self._row.address]
        return naming_of(self._row, address, self._dock.places, self._dock.fields_of(address))

    # -- what travels along ------------------------------------------------------------------------------------------

    def _metadata(
        self, key: str, digest: Digest, *, captured_at: str | None, is_brief: bool
    ) -> tuple[Mapping[str, str], tuple[str, bytes] | None]:
        """(metadata, (key, bytes) of the object that holds what has no room in it: all of the message if `is_brief`).

        Values are printable ASCII: S3 allows no more.
        """
        metadata = {
            **self._carrier.upload.metadata,
            "syncagent-sha256": digest.sha256.hex(),
            "syncagent-mtime": f"{time_of(self._row.facts.mtime_ns):%Y-%m-%dT%H:%M:%SZ}",
            "syncagent-system-id": header_value(self._system_id),
            "syncagent-version": __version__,
        }
        if captured_at is not None:
            metadata["syncagent-captured-at"] = captured_at
        if self._row.is_unsettled:
            metadata[UNSETTLED] = "true"
        if not is_brief:
            metadata |= attach(self._dock.ways.attached(), own=metadata)
        content = content_of(self._row.wording)
        # Named by what it belongs to, so that a repeated request writes the same object again.
        name = hashlib.sha256(f"{key}\n{digest.sha256.hex()}".encode()).hexdigest()
        sidecar = corner_key(self._carrier, f"sidecars/{name}.json")
        named = header_value(sidecar)
        packed, is_whole = pack(content, own=metadata, reserve_bytes=len(SIDECAR) + len(named))
        if is_brief:
            packed, is_whole = {}, not content.keys() - PLACE_FIELDS
        if is_whole:
            return {**metadata, **packed}, None
        document = json.dumps({"key": key, "content": sayable_value(content)}, ensure_ascii=False, allow_nan=False)
        return {**metadata, **packed, SIDECAR: named}, (sidecar, document.encode())

    def _put_sidecar(self, key: str, data: bytes) -> None:
        """Before the object that names it: nobody shall find one without the other."""
        digest = files.digest_of(data)
        request = PutRequest(key, digest, {}, "application/json", None, only_if_absent=False)
        self._dock.store.put(request, Content(data, digest))
