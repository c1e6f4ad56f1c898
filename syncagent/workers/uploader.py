"""Claim a ready version, send it, have it proved, confirm it -- or ask `core.retry` what its error means.

A `Dock` is what the workers of one carrier share: the store, the gates that say whether it is worth asking, and the
addresses. One pass handles one version, or as many parts of a large one as it may.
"""

from __future__ import annotations

import logging
import mimetypes
import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from syncagent import __version__
from syncagent.core.board import Board, Fact, Flight
from syncagent.core.errors import (
    Blocked,
    FileChanged,
    FileVanished,
    KeyTaken,
    Refused,
    SyncagentError,
    Transient,
    Trouble,
    UploadGone,
)
from syncagent.core.keys import Naming, check_key, escape, with_digest
from syncagent.core.model import Digest, Part, State
from syncagent.core.places import Places
from syncagent.core.retry import EVERYBODYS, SHARED, Do, Gate, backoff_s, verdict
from syncagent.core.settings import Carrier, SendAddress
from syncagent.edges import files
from syncagent.edges.clock import Clock, Stop
from syncagent.edges.files import Content, PinnedFile
from syncagent.edges.journal import Journal, Row
from syncagent.edges.multipart import Parcel, Shipment
from syncagent.edges.objects import ObjectStore, PutRequest

logger = logging.getLogger(__name__)

#: Files up to this size are read once, into memory; larger ones are hashed first and read again while they are sent.
IN_MEMORY_BYTES = 1024 * 1024
#: With nothing to send a worker sleeps until it is rung for; this is how long it trusts the bell.
IDLE_S = 30.0
#: Another worker is sending to the same key: it will be done soon.
KEY_BUSY_WAIT_S = 1.0
#: WAITING rows are looked at this often.
WAKE_EVERY_S = 1.0

#: Reasons of rows that wait for the store; they may go at once when it is back.
STORE_REASONS = tuple(trouble.value for trouble in SHARED | EVERYBODYS)


class Dock:
    """One carrier's store and its state, shared by its workers."""

    def __init__(
        self,
        *,
        carrier: Carrier,
        addresses: Mapping[str, SendAddress],
        store: ObjectStore,
        journal: Journal,
        places: Places,
        board: Board,
        clock: Clock,
        on_look_again: Callable[[str], None],
        on_open: Callable[[], None],
    ) -> None:
        self.carrier = carrier
        self.addresses = addresses
        self.store = store
        self.journal = journal
        self.places = places
        self.board = board
        self.clock = clock
        self.on_look_again = on_look_again
        self._on_open = on_open  # rings the workers
        self._lock = threading.Lock()
        self._gate = Gate()
        self._address_gates = {name: Gate() for name in addresses}
        self._order = list(addresses)
        self._next_wake = 0.0
        self._seen_uploads: set[int] = set()  # multipart rows that were reconciled with the store in this run
        self.show()

    def permission(self) -> tuple[float, list[str]]:
        """(seconds to wait, addresses that may be sent to). With no wait, give back what was taken with `report`."""
        now = self.clock.monotonic()
        with self._lock:
            wait_s = self._gate.wait_s(now)
            if wait_s > 0:
                return wait_s, []
            # Every claim begins with another address, so that a busy one does not starve the others.
            self._order.append(self._order.pop(0))
            allowed, waits = [], []
            for name in self._order:
                gate = self._address_gates[name]
                wait_s = gate.wait_s(now)
                if wait_s == 0:
                    allowed.append(name)
                    if not gate.is_open:
                        break  # one request, to find out
                else:
                    waits.append(wait_s)
            if not allowed:
                self._gate.unused()
                return min(waits, default=IDLE_S), []
            return 0.0, allowed

    def unused(self, allowed: list[str], *, but: str | None = None) -> None:
        """Give back permissions that were not needed."""
        with self._lock:
            if but is None:
                self._gate.unused()
            for name in allowed:
                if name != but:
                    self._address_gates[name].unused()

    def passed(self, address: str) -> None:
        """The store took something."""
        now = self.clock.monotonic()
        with self._lock:
            opened = self._gate.passed(now)
            gate = self._address_gates[address]
            refused = gate.trouble
            opened_address = gate.passed(now)
        if opened or opened_address:
            logger.info("store back carrier=%s", self.carrier.name)
            self.journal.wake(reasons=STORE_REASONS if refused is None else (*STORE_REASONS, Trouble.FORBIDDEN.value))
            self.show()
            self._on_open()

    def failed(self, address: str, error: Transient | Blocked) -> None:
        """A request failed in a way that may concern more than its file."""
        now = self.clock.monotonic()
        with self._lock:
            gate = self._address_gates[address] if error.trouble is Trouble.FORBIDDEN else self._gate
            if gate is not self._gate:
                self._gate.unused()
            closed = gate.failed(error, now)
        if closed:
            logger.warning("store unavailable carrier=%s trouble=%s reason=%s", self.carrier.name, error.trouble, error)
        self.show()

    def forgiven(self, address: str) -> None:
        """The request ended for a reason of the file's own; nothing was learnt of the store."""
        with self._lock:
            self._gate.unused()
            self._address_gates[address].unused()

    def wake(self) -> bool:
        """Make due rows ready; while the store is away, one of those that wait for it. True when some became ready."""
        now = self.clock.monotonic()
        with self._lock:
            if now < self._next_wake:
                return False
            self._next_wake = now + WAKE_EVERY_S
            is_away = not self._gate.is_open or any(not gate.is_open for gate in self._address_gates.values())
        woken = self.journal.wake_due()
        if is_away and not woken:
            woken = self.journal.wake((*STORE_REASONS, Trouble.FORBIDDEN.value), limit=1)
        return woken > 0

    def is_away(self) -> bool:
        with self._lock:
            return not self._gate.is_open

    def first_time(self, row: Row) -> bool:
        """Whether a multipart upload has not been compared with the store in this run."""
        with self._lock:
            is_first = row.id not in self._seen_uploads
            self._seen_uploads.add(row.id)
            return is_first

    def show(self) -> None:
        """Put the gates on the board. Facts of several carriers are merged by the status builder."""
        with self._lock:
            gates = {"": self._gate, **self._address_gates}
            facts = {
                name: Fact(False, str(gate.trouble), gate.reason, {"remedy": gate.remedy})
                for name, gate in gates.items()
                if gate.trouble is not None
            }
        store = facts.pop("", None)
        link = store if store and store.state in (Trouble.LINK, Trouble.STALLED) else None
        carrier = self.carrier.name
        self.board.set_fact(f"link/{carrier}", link or Fact(True, "ok"))
        if store and not link:
            self.board.set_fact(f"store/{carrier}", store)
        elif facts:
            name, fact = next(iter(facts.items()))
            all_refused = len(facts) == len(self.addresses)
            reason = f"{name}: {fact.reason}"
            self.board.set_fact(f"store/{carrier}", Fact(not all_refused, fact.state, reason, fact.more))
        else:
            self.board.set_fact(f"store/{carrier}", Fact(True, "ok"))


class _Ledger:
    """The journal as one shipment sees it."""

    def __init__(self, journal: Journal, row: Row) -> None:
        self._journal = journal
        self._row = row

    def load(self) -> tuple[str, int, dict[int, tuple[Part, bytes]]] | None:
        upload = self._journal.upload_of(self._row)
        if upload is None:
            return None
        return upload.upload_id, upload.part_bytes, {part.number: (part, md5) for part, md5 in upload.parts}

    def begun(self, upload_id: str, part_bytes: int) -> None:
        self._journal.upload_begun(self._row, upload_id, part_bytes)

    def part_done(self, part: Part, md5: bytes) -> None:
        self._journal.part_done(self._row, part, md5)

    def ended(self) -> None:
        self._journal.upload_ended(self._row.id)


class Uploader:
    """One of a carrier's workers. `is_nimble`: it prefers small files, so that large ones never hold up all."""

    def __init__(self, name: str, dock: Dock, *, system_id: str, is_nimble: bool = False) -> None:
        self.name = name
        self._dock = dock
        self._journal = dock.journal
        self._carrier = dock.carrier
        self._system_id = system_id
        self._is_nimble = is_nimble

    # -- the pass -----------------------------------------------------------------------------------------------------

    def pass_once(self, stop: Stop) -> float:
        """Send one version; returns after how many seconds to look again."""
        wait_s, allowed = self._dock.permission()
        if wait_s > 0:
            self._dock.wake()
            return wait_s
        row = self._claim(allowed)
        if row is None:
            self._dock.unused(allowed)
            if self._dock.wake():
                return 0.0
            due_s = self._journal.next_due_s()
            return min(IDLE_S, max(due_s, 0.05)) if due_s is not None else IDLE_S
        self._dock.unused(allowed, but=row.address)
        self._dock.wake()
        try:
            self._handle(row, stop)
        finally:
            self._dock.board.fly(self.name, None)
            self._journal.let_go(row)
        return 0.0

    def _claim(self, allowed: list[str]) -> Row | None:
        order, largest = self._carrier.upload.order, self._carrier.upload.multipart_bytes
        if self._is_nimble:
            row = self._journal.claim(allowed, order=order, largest_bytes=largest)
            if row is not None:
                return row
        return self._journal.claim(allowed, order=order)

    def _handle(self, row: Row, stop: Stop) -> None:
        dock = self._dock
        upload = self._carrier.upload
        try:
            try:
                self._send(row, stop)
            except BaseException:
                # Whatever it was, the row must not stay SENDING.
                self._settle_error(row)
                raise
        except (FileChanged, FileVanished, Refused, Transient, Blocked) as error:
            if isinstance(error, Transient | Blocked) and error.trouble not in (Trouble.FILE, Trouble.DISK):
                dock.failed(row.address, error)
            else:
                dock.forgiven(row.address)
            said = verdict(error, row.attempts + 1, least_s=upload.retry_min_s, most_s=upload.retry_max_s)
            self._act(row, error, said.do, said.reason, said.wait_s)
        except SyncagentError:
            dock.forgiven(row.address)
            raise
        except Exception as error:
            dock.forgiven(row.address)
            reason = f"{type(error).__name__}: {error}"
            wait_s = backoff_s(row.attempts + 1, least_s=upload.retry_min_s, most_s=upload.retry_max_s)
            self._journal.defer(row, reason=reason, wait_s=wait_s)
            raise

    def _settle_error(self, row: Row) -> None:
        """Take a row that an error left in SENDING back to READY; what then becomes of it is decided after."""
        self._journal.release(row)

    def _act(self, row: Row, error: SyncagentError, do: Do, reason: str, wait_s: float) -> None:
        board = self._dock.board
        if do is Do.RESETTLE:
            self._journal.finish(row, State.SETTLING)
            self._dock.on_look_again(row.path)
        elif do is Do.FORGET:
            self._vanished(row)
        elif do is Do.PARK:
            logger.warning("parked path=%s reason=%s", row.path, reason)
            self._journal.finish(row, State.PARKED, reason=reason)
            board.complain(row.path, "parked", reason, "mend the cause, then: syncagent retry PATH")
        elif do is Do.DEFER:
            logger.info(
                "upload deferred path=%s attempt=%d wait_s=%.1f reason=%s", row.path, row.attempts + 1, wait_s, error
            )
            self._journal.defer(row, reason=reason, wait_s=wait_s)
            remedy = error.remedy if isinstance(error, Blocked) else ""
            board.complain(row.path, "upload", str(error), remedy)

    def _vanished(self, row: Row) -> None:
        """No file under that name: gone, unless its whole root is away."""
        located = self._dock.places.locate(row.path)
        if located is not None and files.device_of(located[0]) is None:
            self._journal.defer(row, reason="disk: the watched directory is not there", wait_s=WAKE_EVERY_S * 10)
        else:
            self._journal.finish(row, State.GONE)

    # -- one version --------------------------------------------------------------------------------------------------

    def _send(self, row: Row, stop: Stop) -> None:
        located = self._dock.places.locate(row.path)
        if located is None:
            raise Refused("lies outside of generated_data and of every directory of upload.allowed_roots")
        with PinnedFile.open(*located, facts=row.facts, unsettled=row.is_unsettled) as pinned:
            content = None
            if pinned.size_bytes <= IN_MEMORY_BYTES:
                content = pinned.read(0, pinned.size_bytes)
                digest = files.digest_of(content)
            elif row.digest is not None and not row.is_unsettled:
                digest = row.digest  # the same facts, hashed by an earlier attempt
            else:
                digest = pinned.digest()
            pinned.check()
            self._place(row, pinned, content, digest, stop)

    def _place(self, row: Row, pinned: PinnedFile, content: bytes | None, digest: Digest, stop: Stop) -> None:
        """Find the key, and put the version there."""
        base = check_key(row.cloud_path) if row.cloud_path is not None else self._naming(row).key()
        overwrites = self._carrier.upload.on_rewrite == "overwrite"
        for key in (base,) if overwrites else (base, with_digest(base, digest.sha256)):
            if not self._journal.reserve_key(row, key):
                self._dock.forgiven(row.address)
                self._journal.defer(row, reason="another version is being sent to the same key", wait_s=KEY_BUSY_WAIT_S)
                return
            occupant = self._journal.occupant(row.address, key)
            if occupant == digest.sha256:
                self._dock.forgiven(row.address)
                self._journal.confirm(row, key=key, digest=digest, etag=None)
                logger.debug("already there path=%s key=%s", row.path, key)
                return
            if occupant is not None and not overwrites:
                continue
            try:
                self._put(row, key, pinned, content, digest, stop)
            except KeyTaken:
                logger.info("key taken path=%s key=%s", row.path, key)
                self._journal.release(row)
                continue
            return
        raise Refused("both keys of this version are taken by other bytes")

    def _put(self, row: Row, key: str, pinned: PinnedFile, content: bytes | None, digest: Digest, stop: Stop) -> None:
        self._journal.sending(row, key, digest)
        upload = self._carrier.upload
        metadata = self._metadata(row, digest)
        content_type = mimetypes.guess_type(row.path)[0] or "application/octet-stream"
        self._dock.board.fly(self.name, Flight(row.path, row.address, row.facts.size_bytes, 0))
        if pinned.size_bytes > upload.multipart_bytes and not row.is_unsettled:
            parcel = Parcel(key, digest, metadata, content_type, upload.storage_class, upload.part_bytes)
            shipment = Shipment(self._dock.store, pinned, _Ledger(self._journal, row), parcel)
            try:
                etag = shipment.go_on(
                    is_first_in_run=self._dock.first_time(row), gives_way=lambda: self._gives_way(row, stop)
                )
            except UploadGone as error:
                raise Transient(str(error), trouble=Trouble.FILE) from error
            if etag is None:
                self._journal.release(row)
                self._dock.forgiven(row.address)
                return
        else:
            request = PutRequest(key, digest, metadata, content_type, upload.storage_class)
            body = Content(content) if content is not None else pinned.stretch(0, pinned.size_bytes)
            etag = self._dock.store.put(request, body)
        self._journal.confirm(row, key=key, digest=digest, etag=etag)
        self._dock.passed(row.address)
        self._dock.board.add("sent_files")
        self._dock.board.add("sent_bytes", row.facts.size_bytes)
        self._dock.board.settle_complaint(row.path, "upload")
        logger.info("confirmed path=%s key=%s bytes=%d", row.path, key, row.facts.size_bytes)

    def _gives_way(self, row: Row, stop: Stop) -> bool:
        """Between two parts: whether this worker should stop, or look after small files first."""
        if stop.is_set():
            return True
        return self._is_nimble and self._journal.has_ready(
            tuple(self._dock.addresses), largest_bytes=self._carrier.upload.multipart_bytes
        )

    # -- names --------------------------------------------------------------------------------------------------------

    def _naming(self, row: Row) -> Naming:
        address = self._dock.addresses[row.address]
        place = self._dock.places.relative_of(row.path)
        path = self._carrier.path
        if place is None or (path and not place.startswith(path + "/")):
            relative = row.path.rpartition("/")[2]
        else:
            relative = place[len(path) + 1 :] if path else place
        return Naming(
            path=path,
            sub_path=address.sub_path,
            system_id=self._carrier.system_id,
            default_cloud_path=self._carrier.default_cloud_path,
            relative_path=relative,
            mtime_ns=row.facts.mtime_ns,
        )

    def _metadata(self, row: Row, digest: Digest) -> dict[str, str]:
        """What travels with the object. Values are printable ASCII: S3 allows no more."""
        mtime = datetime.fromtimestamp(row.facts.mtime_ns // 1_000_000_000, UTC)
        metadata = {
            **self._carrier.upload.metadata,
            "syncagent-sha256": digest.sha256.hex(),
            "syncagent-mtime": mtime.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "syncagent-system-id": escape(self._system_id),
            "syncagent-version": __version__,
        }
        if row.is_unsettled:
            metadata["syncagent-unsettled"] = "true"
        return metadata
