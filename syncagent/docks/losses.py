"""What was dropped unsent, told to the bucket: one object per carrier, written anew when there are more."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence

from syncagent.core.errors import Transient, Trouble
from syncagent.core.model import State
from syncagent.core.moments import moment_of
from syncagent.core.settings import Carrier, SendAddress
from syncagent.docks.naming import corner_key
from syncagent.edges import files
from syncagent.edges.clock import Clock
from syncagent.edges.inbox import Outbox
from syncagent.edges.journal import Journal, Loss

logger = logging.getLogger(__name__)

#: Lines of the object; of older losses it says how many there were.
MOST_LINES = 10_000
#: Between two reports, because losses come in rows: at least so long, and on average no more bytes on card and link.
EVERY_S, BYTES_PER_S = 10.0, 2_000.0
#: The object's name in the agent's corner.
KEY = "losses.jsonl"


class Losses:
    """The reports of one carrier. One worker owns it."""

    def __init__(
        self, carrier: Carrier, addresses: Sequence[SendAddress], *, journal: Journal, outbox: Outbox, clock: Clock
    ) -> None:
        self._carrier = carrier
        self._addresses = [address.name for address in addresses]
        self._journal = journal
        self._outbox = outbox
        self._clock = clock
        self._note = f"losses {carrier.name}"
        told = journal.note(self._note)
        self._told = int(told) if told is not None and told.isdigit() else 0
        self._next = clock.monotonic()

    def report(self) -> None:
        """Queue the object when there are losses that it does not tell of. Raises: JournalBroken, Transient(DISK)."""
        count, now = self._journal.total_of(State.LOST, self._addresses)[0], self._clock.monotonic()
        if count == self._told or now < self._next:
            return
        losses = self._journal.losses(self._addresses, limit=MOST_LINES)
        text = _lines(losses, earlier=count - len(losses))
        path = self._outbox.keep(f"losses-{self._carrier.name}.jsonl", text.encode())
        status = files.look(os.path.dirname(path), os.path.basename(path))
        if status is None:
            raise Transient(f"{path} is gone", trouble=Trouble.DISK)
        self._journal.send_own(self._addresses[0], path, files.facts_of(status), key=corner_key(self._carrier, KEY))
        self._journal.set_note(self._note, str(count))
        self._told, self._next = count, now + max(EVERY_S, len(text) / BYTES_PER_S)
        logger.warning("losses reported carrier=%s count=%d", self._carrier.name, count)


def _lines(losses: Sequence[Loss], *, earlier: int) -> str:
    documents: list[dict[str, object]] = [{"earlier_losses": earlier}] if earlier else []
    documents += [
        {
            "path": loss.path,
            "address": loss.address,
            "bytes": loss.size_bytes,
            "modified": _time(loss.mtime_ns / 1e9),
            "reason": loss.reason,
            "lost_at": _time(loss.lost_at),
        }
        for loss in losses
    ]
    return "".join(f"{json.dumps(document)}\n" for document in documents)


def _time(at: float) -> str:
    try:
        return f"{moment_of(at):%Y-%m-%dT%H:%M:%SZ}"
    except (OverflowError, ValueError):
        return "unknown"
