"""Confirmed files whose ctime alone is new are hashed again, one by one, when nothing else is to do.

A `chmod -R` or a new hard link touches every file and changes none: neither the link nor the card shall pay for it.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable

from syncagent.core.errors import FileChanged, FileVanished, Transient
from syncagent.core.model import Facts, State
from syncagent.core.places import Places
from syncagent.edges.clock import Clock, Stop
from syncagent.edges.files import PinnedFile
from syncagent.edges.journal import Arrival, Journal, Known

logger = logging.getLogger(__name__)

MAX_WAITING = 1_000
#: Rows written together: one commit for many files.
BATCH = 100
IDLE_S = 60.0
#: With files always on their way, one is hashed this often: it may be a rewritten one, which is owed as well.
PATIENCE_S = 10.0


class Rechecker:
    """See the module. `is_busy`: whether files are being sent, which come first."""

    name = "recheck"

    def __init__(
        self,
        *,
        journal: Journal,
        places: Places,
        clock: Clock,
        is_busy: Callable[[], bool],
        on_ready: Callable[[], None],
    ) -> None:
        self._journal = journal
        self._clock = clock
        self._hashed_at = clock.monotonic()  # or found nothing to hash
        self._places = places
        self._is_busy = is_busy
        self._on_ready = on_ready
        self._lock = threading.Lock()
        self._waiting: deque[tuple[Known, str, Facts]] = deque()
        self._paths: set[str] = set()
        self._same: list[tuple[int, Facts]] = []

    def offer(self, known: Known, path: str, facts: Facts) -> bool:
        """Queue one file; False when there is no room, so that a later scan offers it again."""
        with self._lock:
            if path in self._paths:
                return True
            if len(self._waiting) >= MAX_WAITING:
                return False
            self._waiting.append((known, path, facts))
            self._paths.add(path)
            return True

    def is_idle(self) -> bool:
        with self._lock:
            return not self._paths and not self._same

    def pass_once(self, stop: Stop) -> float:
        """Hash one file."""
        now = self._clock.monotonic()
        with self._lock:
            if not self._waiting:
                item, wait_s, self._hashed_at = None, IDLE_S, now
            elif self._is_busy() and now - self._hashed_at < PATIENCE_S:
                item, wait_s = None, 1.0
            else:
                item, wait_s = self._waiting.popleft(), 0.0
        if item is None:
            self._write()
            return wait_s
        try:
            self._check(*item, stop)
        finally:
            self._hashed_at = now
            # Whatever came of it: the next scan may offer it again.
            with self._lock:
                self._paths.discard(item[1])
        if len(self._same) >= BATCH:
            self._write()
        return 0.0

    def _write(self) -> None:
        """Tell the journal which files are what they were."""
        if self._same:
            self._journal.reface(self._same)
            self._same = []

    def _check(self, known: Known, path: str, facts: Facts, stop: Stop) -> None:
        row = self._journal.row(known.id)
        located = self._places.locate(path)
        if row.state is not State.CONFIRMED or row.digest is None or located is None:
            return
        try:
            with PinnedFile.open(*located, facts=facts) as pinned:
                pinned.pulse = lambda _start: stop.check()
                digest = pinned.digest()
                pinned.check()
        except (FileChanged, FileVanished, Transient) as error:
            logger.debug("recheck put off path=%s reason=%s", path, error)  # the next scan decides anew
            return
        if digest == row.digest:
            self._same.append((known.id, facts))
        elif self._journal.record([Arrival(known.address, path, facts)]):
            logger.info("rewritten under its old mtime path=%s", path)
            self._on_ready()
