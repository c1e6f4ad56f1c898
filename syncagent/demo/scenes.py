"""What can be seen of the demo at one moment: the agent's own answers, its journal, its log, camera and link.

Reads only, and only what any user may: `status`, the questions of the control socket, the journal. Values come out;
drawing them is left to `view`.
"""

from __future__ import annotations

import contextlib
import re
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from syncagent.core.errors import SyncagentError
from syncagent.core.model import OWED, State
from syncagent.core.settle import Writers
from syncagent.demo.camera import Record, Version
from syncagent.demo.camp import Camp
from syncagent.edges.control import ask
from syncagent.edges.journal import Journal, Row

#: Nothing smaller is sent in parts.
PART_BYTES = 5 * 1024 * 1024
_ASK_S = 1.0
_LOG_LINES = 12
#: Date, thread and the level of most lines; a terminal has 80 columns.
_LOG_HEAD = re.compile(r"^\d{4}-\d\d-\d\d (\d\d:\d\d:\d\d),\d+ (?:INFO|(\w+)) \S+ ")


@dataclass(frozen=True, slots=True)
class Card:
    """One version of one file on its way. `row_id` 0: the journal does not have it yet."""

    path: str
    state: State
    size_bytes: int
    row_id: int = 0
    reason: str = ""
    key: str = ""
    sent_bytes: int = 0

    @property
    def is_owed(self) -> bool:
        return self.state in OWED


@dataclass(frozen=True, slots=True)
class Scene:
    """One moment. `status` is None while no agent answers."""

    stage: str
    elapsed_s: float
    is_link_up: bool
    link_cuts: int
    status: dict[str, Any] | None
    cards: tuple[Card, ...]
    written: tuple[Version, ...]
    log: tuple[str, ...]

    @property
    def firmware(self) -> str:
        """What the agent says of its firmware; empty before it says anything."""
        told = (self.status or {}).get("firmware") or {}
        return "; ".join(
            " ".join(str(word) for word in (name, entry.get("release"), entry.get("state")) if word)
            for name, entry in sorted(told.items())
        )

    @property
    def owed(self) -> list[Card]:
        return [card for card in self.cards if card.is_owed]

    @property
    def arrived(self) -> list[Card]:
        """What is in the bucket; an earlier version of a rewritten file is, too, though its file is "removed"."""
        return [card for card in self.cards if card.state in (State.CONFIRMED, State.REMOVED)]


def shortened(line: str) -> str:
    """A line of the agent's log as a small page shows it."""
    return _LOG_HEAD.sub(lambda head: f"{head[1]} {head[2] + ' ' if head[2] else ''}", line)


class Tail:
    """The last lines of a growing log, shortened, without the name of the temporary directory."""

    def __init__(self, path: str, hidden: str) -> None:
        self._path = path
        self._hidden = hidden
        self._offset = 0
        self._lines: deque[str] = deque(maxlen=_LOG_LINES)

    def read(self) -> tuple[str, ...]:
        with contextlib.suppress(FileNotFoundError), open(self._path, "rb") as log:
            log.seek(self._offset)
            news = log.read()
            whole = news[: news.rfind(b"\n") + 1]
            self._offset += len(whole)
            for line in whole.decode(errors="replace").splitlines():
                self._lines.append(shortened(line).replace(self._hidden, "…"))
        return tuple(self._lines)


class Lookout:
    """Looks at a running demo."""

    def __init__(self, camp: Camp, journal: Journal) -> None:
        self._state_dir = camp.state_dir
        self._journal = journal
        self._record = Record(camp.record_path)
        self._tail = Tail(camp.log_path("agent"), camp.directory)

    def rows(self) -> list[Row]:
        """The journal's rows; none while it cannot be read."""
        try:
            return self._journal.listing()
        except SyncagentError:
            return []

    def parts(self, rows: Sequence[Row]) -> dict[int, int]:
        """Row id -> bytes that the store confirmed already, of what goes in parts."""
        found = {}
        with contextlib.suppress(SyncagentError):
            for row in rows:
                upload = (
                    self._journal.upload_of(row) if row.state in OWED and row.facts.size_bytes > PART_BYTES else None
                )
                if upload is not None:
                    found[row.id] = sum(part.size_bytes for part, _ in upload.parts)
        return found

    def written(self) -> list[Version]:
        return self._record.read()

    def look(self, *, stage: str, elapsed_s: float, is_link_up: bool, link_cuts: int) -> Scene:
        flights = ask(self._state_dir, "flights", timeout_s=_ASK_S) or []
        settling = ask(self._state_dir, "settling", timeout_s=_ASK_S) or []
        status = ask(self._state_dir, "status", timeout_s=_ASK_S)
        rows = self.rows()
        return Scene(
            stage=stage,
            elapsed_s=elapsed_s,
            is_link_up=is_link_up,
            link_cuts=link_cuts,
            status=status if isinstance(status, dict) else None,
            cards=tuple(cards(rows, settling, flights, self.parts(rows))),
            written=tuple(self.written()),
            log=self._tail.read(),
        )


def cards(
    rows: Sequence[Row],
    settling: Sequence[dict[str, Any]],
    flights: Sequence[dict[str, Any]],
    parts: Mapping[int, int] | None = None,
) -> list[Card]:
    """What the journal has, in its order, then what is not finished yet. `parts`: row id -> bytes sent in parts."""
    sent = {flight["path"]: int(flight["sent_bytes"]) for flight in flights}
    parts = parts or {}
    known = [
        Card(
            path=row.path,
            state=row.state,
            size_bytes=row.facts.size_bytes,
            row_id=row.id,
            reason=row.reason,
            key=row.key or "",
            sent_bytes=parts.get(row.id, 0) + (sent.get(row.path, 0) if row.state is State.SENDING else 0),
        )
        for row in rows
    ]
    asked = {card.path for card in known if card.state is State.SETTLING}
    unfinished = [
        Card(path=entry["path"], state=State.SETTLING, size_bytes=entry["bytes"], reason=_why(entry["why"]))
        for entry in settling
        if entry["path"] not in asked
    ]
    return known + sorted(unfinished, key=lambda card: card.path)


def _why(writers: str) -> str:
    """Why a file is not finished; nothing before the agent looked for its writers the first time."""
    return "" if writers == Writers.UNKNOWN.value else writers
