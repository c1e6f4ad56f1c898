"""Firmware: one pass looks at the bucket when it is time, and brings what is offered to its place.

A worker of its own, with its own connection to the store: it goes on when uploads are blocked, and the other way
round. A poll that finds nothing is one request, and writes nothing.
"""

from __future__ import annotations

import contextlib
import logging
import random
import threading
from collections.abc import Callable
from datetime import UTC
from typing import Any

from syncagent.core.board import Board, Fact
from syncagent.core.errors import AlreadyRunning, Blocked, JournalBroken, Transient, Trouble
from syncagent.core.release import Phase
from syncagent.core.retry import backoff_s
from syncagent.core.settings import Carrier
from syncagent.docks.channel import Channel, Look, face_in_trouble, face_of, fact_of
from syncagent.docks.installer import Installer
from syncagent.edges.claim import claimed
from syncagent.edges.clock import Clock, Stop
from syncagent.edges.journal import Journal

logger = logging.getLogger(__name__)

#: Polls are spread by so much, so that a fleet that was switched on at once does not ask at once for ever.
JITTER = 0.1
LEAST_RETRY_S = 5.0
#: After a trouble of link or disk the bucket is asked again at least so often, however rare polls are.
MOST_RETRY_S = 300.0
#: A command is at work beside the agent.
BUSY_S = 2.0
#: The image lies here already.
_HERE = frozenset({Phase.VERIFIED, Phase.INSTALLED})


class FirmwareWorker:
    """See the module."""

    def __init__(
        self,
        carrier: Carrier,
        *,
        channel: Channel,
        installer: Installer,
        journal: Journal,
        board: Board,
        clock: Clock,
        directory: str,
        why_untrusted: str = "",
        is_once: bool = False,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        """`why_untrusted`: why there is no root of trust, where that is a mistake. `directory`: what is claimed."""
        self.name = f"firmware-{carrier.name}"
        self._carrier = carrier
        self._channel = channel
        self._installer = installer
        self._journal = journal
        self._board = board
        self._clock = clock
        self._directory = directory
        self._why_untrusted = why_untrusted
        self._is_once = is_once
        self._jitter = jitter
        self._due = 0.0
        self._failures = 0
        self._trouble: Trouble | None = None  # that the journal's face of the component tells of
        self._asked = threading.Event()
        self._is_done = False

    def poll_now(self) -> None:
        """A message asks for a look; the next pass takes it."""
        self._asked.set()

    def is_idle(self) -> bool:
        """The last look led to an end, and nobody asks for another."""
        return self._is_done and not self._asked.is_set()

    def pass_once(self, stop: Stop) -> float:
        """Look and act when it is time; seconds until the next look."""
        now = self._clock.monotonic()
        is_asked = self._asked.is_set()
        if now < self._due and not is_asked:
            return self._due - now
        self._asked.clear()
        try:
            with claimed(self._directory):
                wait_s = self._act(stop)
        except AlreadyRunning:
            if is_asked:
                self._asked.set()
            return BUSY_S
        except (Transient, Blocked) as error:
            wait_s = self._failed(error)
        self._due = self._clock.monotonic() + wait_s
        return wait_s

    def _act(self, stop: Stop) -> float:
        self._installer.finish(stop)
        look = self._channel.look()
        if look.phase is Phase.AVAILABLE and look.release is not None:
            if look.release.phase not in _HERE:
                self._show(Look(Phase.DOWNLOADING, look.reason, look.release))
            self._trouble = None
            release = self._installer.install(look.release, stop, basis=look.basis)
            look = Look(release.phase, release.reason, release, warning=look.warning)
        elif look.phase is Phase.UNCHANGED and look.release is not None:
            reason = look.reason or look.release.reason
            look = Look(look.release.phase, reason, look.release, warning=look.warning)
        self._show(look)
        self._failures = 0
        self._trouble = None
        self._is_done = True
        return self._next(look)

    def _next(self, look: Look) -> float:
        wait_s = self._carrier.firmware.poll_s * (1 - JITTER + 2 * JITTER * self._jitter())
        if look.due is not None:
            until_s = (look.due - self._clock.now().astimezone(UTC)).total_seconds()
            wait_s = max(1.0, min(wait_s, until_s + 1.0 + self._jitter()))
        return wait_s

    def _failed(self, error: Transient | Blocked) -> float:
        self._failures += 1
        logger.warning("firmware poll failed component=%s reason=%s", self._channel.component, error)
        state = "untrusted" if self._why_untrusted else str(error.trouble)
        more = {"remedy": error.remedy} if isinstance(error, Blocked) and error.remedy else {}
        self._board.set_fact(f"firmware/{self._carrier.name}", Fact(False, state, str(error), more))
        if error.trouble is not self._trouble:
            # Once per trouble, whatever numbers its words hold: an outage is no reason to write to the card.
            self._trouble = error.trouble
            with contextlib.suppress(JournalBroken):  # the trouble may be just that
                face = face_in_trouble(self._journal.firmware_face(self._channel.component), error)
                self._journal.set_firmware_face(self._channel.component, dict(face))
        poll_s = self._carrier.firmware.poll_s
        if isinstance(error, Blocked):
            self._is_done = True  # nothing will come of it until somebody acts
            most_s = poll_s
        elif self._is_once:
            return backoff_s(self._failures, least_s=0.5, most_s=5.0)
        else:
            most_s = min(poll_s, MOST_RETRY_S)
        return backoff_s(self._failures, least_s=min(LEAST_RETRY_S, most_s), most_s=most_s)

    def _show(self, look: Look) -> None:
        face: dict[str, Any] = dict(face_of(look))
        self._journal.set_firmware_face(self._channel.component, face)
        self._board.set_fact(f"firmware/{self._carrier.name}", fact_of(self._carrier, face, look.warning))
