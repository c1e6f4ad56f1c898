"""Looks after the page: takes its port, also when that is free only later, and samples what the plots show.

Promises that a port which is taken is a warning and nothing more, and that an idle agent writes nothing for it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Protocol

from syncagent.core.board import Board, Fact
from syncagent.core.samples import HOUR_STEP_S, History, Sample
from syncagent.edges.clock import Clock, Stop

logger = logging.getLogger(__name__)

#: A port that is taken is tried again this often.
AGAIN_S = 30.0
FACT = "page"


class Server(Protocol):
    """What takes the port."""

    listen: str

    @property
    def is_open(self) -> bool: ...
    def open(self) -> None: ...


class Page:
    """See the module. `unsent_files`, `sent_files` and `wire_bytes` tell what a sample is made of."""

    name = "page"

    def __init__(
        self,
        server: Server,
        history: History,
        *,
        unsent_files: Callable[[], int],
        sent_files: Callable[[], int],
        wire_bytes: Callable[[], int],
        board: Board,
        clock: Clock,
    ) -> None:
        self._server = server
        self._history = history
        self._unsent_files = unsent_files
        self._sent_files = sent_files
        self._wire_bytes = wire_bytes
        self._board = board
        self._clock = clock
        self._due = clock.monotonic()

    def pass_once(self, _stop: Stop) -> float:
        """Sample, and see to the port; returns after how many seconds to do so again."""
        now = self._clock.monotonic()
        self._history.add(Sample(now, self._unsent_files(), self._sent_files(), self._wire_bytes()))
        if not self._server.is_open and now >= self._due:
            self._due = now + AGAIN_S
            self._open()
        return HOUR_STEP_S

    def _open(self) -> None:
        listen = self._server.listen
        try:
            self._server.open()
        except OSError as error:
            reason = f"cannot listen on {listen}: {error.strerror or error}; another program's port? See web.listen"
            if self._board.fact(FACT) is None:
                logger.warning("no page reason=%s", reason)
            self._board.set_fact(FACT, Fact(False, "taken", reason))
            return
        self._board.drop_fact(FACT)
        logger.info("page listen=%s", listen)
