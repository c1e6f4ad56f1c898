"""Tells the bucket how the agent is: the status object, every so many seconds, under one key that it replaces.

Promises that nothing of it is written to the card, and that whatever becomes of it stops nobody. It waits where files
wait: while power is short, the month's budget is spent, or the store is away.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from syncagent.core.board import Board
from syncagent.core.errors import Blocked, SyncagentError
from syncagent.core.retry import backoff_s
from syncagent.docks.dock import Dock
from syncagent.docks.naming import corner_key
from syncagent.edges.clock import Clock, Stop
from syncagent.edges.files import digest_of
from syncagent.edges.orders import PutRequest
from syncagent.edges.payload import BytesBody

logger = logging.getLogger(__name__)

NAME = "status.json"
#: The first one tells of a start; a little later, when there is something to tell.
FIRST_S = 60.0
LEAST_S = 1.0
#: After a failure it is tried again after this long, then half as often each time, but at least this often.
RETRY_S, RETRY_MOST_S = 30.0, 300.0
#: While it may not go it is looked this often whether it may.
LOOK_S = 30.0
#: A trouble that stays is logged this often.
LOG_EVERY_S = 3_600.0


class Heartbeat:
    """See the module. `status` gives the status object; `ring` wakes the thread of this worker."""

    name = "heartbeat"

    def __init__(
        self,
        docks: Iterable[Dock],
        *,
        status: Callable[[], Mapping[str, Any]],
        period_s: float,
        board: Board,
        clock: Clock,
        ring: Callable[[], None],
    ) -> None:
        # Carriers of one bucket and path have one object between them: the first whose store takes it tells.
        self._places: dict[tuple[str | None, str | None, str], list[Dock]] = {}
        for dock in docks:
            carrier = dock.carrier
            place = (carrier.endpoint_url, carrier.bucket_name, corner_key(carrier, NAME))
            self._places.setdefault(place, []).append(dock)
        self._status = status
        self._period_s = max(period_s, LEAST_S)
        self._board = board
        self._clock = clock
        self._ring = ring
        self._due = clock.monotonic() + min(self._period_s, FIRST_S)
        self._failures = 0  # in a row
        self._logged_at = float("-inf")
        self._is_at_work = threading.Event()
        self._is_asked = threading.Event()
        self._is_said = threading.Event()

    def tell_now(self, *, wait_s: float = 0.0) -> None:
        """Tell as soon as possible, and wait for that, at most so long. Not before the first pass: nothing may go yet.

        For any thread but this worker's.
        """
        if not self._is_at_work.is_set():
            return
        self._is_said.clear()
        self._is_asked.set()
        self._ring()
        self._is_said.wait(wait_s)

    def pass_once(self, _stop: Stop) -> float:
        """Tell when it is time; returns after how many seconds that is."""
        self._is_at_work.set()
        is_asked = self._is_asked.is_set()
        self._is_asked.clear()
        wait_s = self._due - self._clock.monotonic()
        if wait_s > 0 and not is_asked:
            return wait_s
        wait_s = LOOK_S
        try:
            wait_s = self._tell_all()
        finally:
            self._due = self._clock.monotonic() + wait_s
            self._is_said.set()
        return wait_s

    def _tell_all(self) -> float:
        """Every place once; seconds until the next time."""
        went, errors = 0, []
        for (_, _, key), docks in self._places.items():
            for dock in docks:
                if dock.is_held() or dock.is_away() or dock.is_paused():
                    continue
                try:
                    self._put(dock, key)
                except SyncagentError as error:
                    errors.append((key, error))
                else:
                    went += 1
                    self._board.settle_complaint(key, "heartbeat")
                    break
        for failed in errors:
            self._complain(*failed)
        if errors:
            self._failures += 1
            most_s = max(min(self._period_s, RETRY_MOST_S), RETRY_S)
            return backoff_s(self._failures, least_s=min(self._period_s, RETRY_S), most_s=most_s)
        if self._failures and went:
            self._failures, self._logged_at = 0, float("-inf")
            logger.info("heartbeat goes again")
        return self._period_s if went else min(self._period_s, LOOK_S)

    def _put(self, dock: Dock, key: str) -> None:
        """Raises: every error of core/errors.py that a store can cause."""
        data = json.dumps(self._status()).encode("ascii")
        request = PutRequest(key, digest_of(data), {}, "application/json")
        with dock.meter.aside():
            dock.store.put(request, BytesBody(data))

    def _complain(self, key: str, error: SyncagentError) -> None:
        remedy = error.remedy if isinstance(error, Blocked) else ""
        self._board.complain(key, "heartbeat", str(error), remedy)
        now = self._clock.monotonic()
        if now - self._logged_at >= LOG_EVERY_S:
            self._logged_at = now
            logger.warning("heartbeat not sent key=%s reason=%s", key, error)
