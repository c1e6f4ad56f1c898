"""Claim a ready version, have it delivered -- or ask `core.retry` what its error means.

One pass handles one version, or as many parts of a large one as it may. Several of these work for one dock.
"""

from __future__ import annotations

import logging

from syncagent.core.errors import (
    Blocked,
    Doubtful,
    FileChanged,
    FileVanished,
    Refused,
    Stopping,
    SyncagentError,
    Transient,
    Trouble,
)
from syncagent.core.model import State
from syncagent.core.retry import Do, backoff_s, verdict
from syncagent.docks.delivery import Delivery
from syncagent.docks.dock import IDLE_S, Dock
from syncagent.edges import files
from syncagent.edges.clock import Stop
from syncagent.edges.journal import Row

logger = logging.getLogger(__name__)

#: A worker that found nothing to do does not look again sooner.
LEAST_WAIT_S = 0.05
#: A watched directory that is away is looked for this often.
AWAY_S = 10.0
#: What somebody can do about a trouble that may pass.
AGAIN_REMEDY = "none is needed: it is tried again by itself; syncagent retry PATH tries it now"
#: One claim in so many takes the oldest file, with `order: newest_first_with_backfill`.
BACKFILL_EVERY = 4
#: So many files that meet a bug, with none between them that does not, and the worker counts as crashed.
POISON_ROWS = 3
#: While a large file is hashed, small ones are looked for this often.
LOOK_S = 0.5
#: With files waiting all the time, orphans are looked for this often.
TIDY_S = 600.0


class Uploader:
    """One of a carrier's workers. `is_nimble`: it prefers small files, so that large ones never hold up all."""

    def __init__(self, name: str, dock: Dock, *, system_id: str, is_nimble: bool = False) -> None:
        self.name = name
        self._dock = dock
        self._journal = dock.journal
        self._system_id = system_id
        self._is_nimble = is_nimble
        self._claims = 0
        self._is_between = False  # sending small files while a large one is hashed
        self._looked_at = 0.0  # for small files, while a large one is hashed
        self._next_tidy = dock.clock.monotonic()
        self._unaborted: set[int] = set()  # rows whose uploads the store does not let us abort, for a while
        self._poison: set[int] = set()  # rows that met a bug since one went well

    def pass_once(self, stop: Stop) -> float:
        """Send one version; returns after how many seconds to look again."""
        dock = self._dock
        wait_s, allowed = dock.permission()
        if wait_s > 0:
            dock.wake()
            return min(wait_s, IDLE_S)
        row = None
        try:
            if not dock.reached(allowed):
                return 0.0  # the gate, asked again, knows how long to wait; the rows do not
            if self._is_nimble and dock.clock.monotonic() >= self._next_tidy:
                self._next_tidy = dock.clock.monotonic() + TIDY_S
                self._unaborted.clear()
                if not self._tidy(allowed):
                    return 0.0
            row = self._claim(allowed)
            if row is None and self._is_nimble:
                self._tidy(allowed)
        finally:
            dock.unused(allowed, but=row.address if row is not None else None)
        if row is None:
            return self._wait_s()
        try:
            return self._handle(row, stop)
        finally:
            dock.board.fly(self.name, None)
            self._journal.let_go(row)
            dock.wake()

    def tidy(self) -> None:
        """For a run that ends with its work, when nothing is to be sent any more: no pass may come to do this."""
        wait_s, allowed = self._dock.permission()
        if wait_s > 0:
            return
        try:
            self._tidy(allowed)
        finally:
            self._dock.unused(allowed)

    def _wait_s(self) -> float:
        """Nothing could be claimed: until when."""
        if self._dock.wake():
            return 0.0
        due_s = self._journal.next_due_s(tuple(self._dock.addresses))
        # Of an address that is refused there may be rows that are ready: they have no due time.
        wait_s = min(IDLE_S, self._dock.asks_in_s(), self._dock.ticks_in_s(), due_s if due_s is not None else IDLE_S)
        return max(wait_s, LEAST_WAIT_S)

    def _tidy(self, allowed: list[str]) -> bool:
        """At the start, when nothing is to be sent, and now and then: abort our own uploads that nobody will complete.

        False when the store was found to be away.
        """
        for row_id, key, upload_id in self._journal.orphans(tuple(self._dock.addresses)):
            if row_id in self._unaborted:
                continue
            try:
                self._dock.store.abort(key, upload_id=upload_id)
            except (Transient, Blocked) as error:
                if error.trouble is not Trouble.FORBIDDEN:
                    self._dock.failed(allowed[0], error)
                    return False
                # Sending needs no right to abort. It costs money that nobody sees: said each time.
                logger.warning("orphan not aborted key=%s reason=%s", key, error)
                self._unaborted.add(row_id)
            else:
                logger.info("orphan aborted key=%s", key)
                self._dock.upload_ended(row_id)
        return True

    def _claim(self, allowed: list[str], *, is_small: bool = False) -> Row | None:
        upload = self._dock.carrier.upload
        self._claims += 1
        order = upload.order
        if order == "newest_first_with_backfill" and self._claims % BACKFILL_EVERY == 0:
            order = "oldest"
        accepts = self._dock.accepts() if self._dock.is_paused() else None
        until = self._dock.until()
        # Whether a store is back is found out sooner with a small file.
        if is_small or self._is_nimble or self._dock.is_away():
            row = self._journal.claim(
                allowed, order=order, largest_bytes=upload.multipart_bytes, accepts=accepts, until=until
            )
            if row is not None or is_small:
                return row
        return self._journal.claim(allowed, order=order, accepts=accepts, until=until)

    def _pulse(self, stop: Stop) -> None:
        """A large file is being hashed, which may take minutes. Raises: Stopping."""
        if stop.is_set():
            raise Stopping
        now = self._dock.clock.monotonic()
        if now - self._looked_at < LOOK_S:
            return
        self._looked_at = now
        self._dock.board.beat(self.name)
        if self._is_nimble and not self._is_between:
            self._is_between = True
            try:
                self._send_small(stop)
            finally:
                self._is_between = False

    def _send_small(self, stop: Stop) -> None:
        """In between: the small files that are ready, which must not wait for all workers to be done with hashing."""
        dock = self._dock
        while not stop.is_set():
            wait_s, allowed = dock.permission()
            if wait_s > 0:
                return
            row = None
            try:
                if dock.reached(allowed):
                    row = self._claim(allowed, is_small=True)
            finally:
                dock.unused(allowed, but=row.address if row is not None else None)
            if row is None:
                return
            try:
                self._handle(row, stop)
            finally:
                dock.board.fly(self._flight, None)
                self._journal.let_go(row)

    @property
    def _flight(self) -> str:
        """What a flight is called by: two may be shown when one goes in between."""
        return f"{self.name}/small" if self._is_between else self.name

    def _handle(self, row: Row, stop: Stop) -> float:
        """Deliver one row, whatever comes of it; seconds until the next pass."""
        self._looked_at = self._dock.clock.monotonic()
        dock, upload = self._dock, self._dock.carrier.upload
        most_s, is_surveyed = upload.retry_max_s, False
        try:
            try:
                wait_s = dock.surveyed(row)
                if wait_s > 0:
                    dock.forgiven(row.address)
                    return wait_s
                is_surveyed = True
                Delivery(
                    dock,
                    row,
                    worker=self._flight,
                    system_id=self._system_id,
                    gives_way=lambda: stop.is_set() or self._gives_way(row),
                    pulse=lambda: self._pulse(stop),
                ).carry_out()
            except BaseException:
                self._journal.release(row)  # whatever it was, the row must not stay SENDING
                raise
        except (FileChanged, FileVanished, Refused, Transient, Blocked) as caught:
            error: SyncagentError = caught
            is_forbidden = is_surveyed and isinstance(error, Blocked) and error.trouble is Trouble.FORBIDDEN
            if isinstance(error, Doubtful) or (isinstance(error, Blocked) and is_forbidden):
                error, most_s = dock.refused(row, error)
            elif isinstance(error, Transient | Blocked) and error.trouble not in (Trouble.FILE, Trouble.DISK):
                dock.failed(row.address, error)
            else:
                dock.forgiven(row.address)
            said = verdict(error, row.attempts + 1, least_s=upload.retry_min_s, most_s=most_s)
            self._act(row, error, said.do, said.reason, said.wait_s)
        except SyncagentError:
            dock.forgiven(row.address)
            raise
        except Exception as error:
            # A bug. The row is put off first, so that it sinks and blocks nobody.
            dock.forgiven(row.address)
            reason = f"{type(error).__name__}: {error}"
            wait_s = backoff_s(row.attempts + 1, least_s=upload.retry_min_s, most_s=upload.retry_max_s)
            self._journal.defer(row, reason=reason, wait_s=wait_s)
            dock.board.complain(row.path, "upload", reason, "please report this bug; the log has the details")
            self._poison.add(row.id)
            if len(self._poison) >= POISON_ROWS:
                raise  # not the file's fault, it seems: the supervisor decides
            logger.exception("a bug met this file path=%s", row.path)
        else:
            self._poison.clear()
        return 0.0

    def _gives_way(self, row: Row) -> bool:
        """Between two parts: whether small files wait that this worker could send, or power or money are short."""
        dock = self._dock
        if dock.is_held():
            return True
        accepts = dock.accepts() if dock.is_paused() else None
        if accepts is not None and not accepts(row.path):
            return True
        # Only what the next claim would take: for anything else it would take this row again, and so for ever.
        return self._is_nimble and self._journal.has_ready(
            dock.askable(),
            largest_bytes=dock.carrier.upload.multipart_bytes,
            accepts=accepts,
            until=dock.until(),
        )

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
            remedy = error.remedy if isinstance(error, Blocked) else AGAIN_REMEDY
            board.complain(row.path, "upload", str(error), remedy)

    def _vanished(self, row: Row) -> None:
        """No file under that name: gone, unless its whole root is away."""
        located = self._dock.places.locate(row.path)
        if located is not None and files.device_of(located[0]) is None:
            self._journal.defer(row, reason="disk: the watched directory is not there", wait_s=AWAY_S)
        else:
            self._journal.finish(row, State.GONE)
