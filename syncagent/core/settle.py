"""When a file is finished: quiet, by the monotonic clock, and closed by every writer.

Owns the set of files that are not finished yet, and decides when to look at each again. Does not look itself:
the caller stats the file, asks for a lease, and tells what it saw. Knows nothing of wall clocks.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from syncagent.core.model import Facts

#: Without a lease only time can tell: so many times the quiet that a lease would need.
QUIET_WITHOUT_LEASE = 5
#: With `settle_s: 0` and no lease, no multiple of nothing is a quiet time.
LEAST_QUIET_WITHOUT_LEASE_S = 1.0
#: A file that a writer keeps open is looked at this often; its close event, where there are events, is faster.
BUSY_LOOK_S = 0.25
#: Between two looks at a file on an idle agent: a change that no event told must not cost a second quiet time.
LONGEST_LOOK_S = 1.0
#: Beyond this many files the looks are spaced out, so that they never take all of a small processor.
LOOKS_PER_S = 1_000


class Writers(Enum):
    """What is known of writers that have the file open."""

    NONE = "closed by every writer"
    SOME = "open for writing"
    UNKNOWN = "no lease"


class Verdict(Enum):
    NOT_YET = "not yet"
    FINISHED = "finished"
    UNSETTLED = "written for too long: to be sent as it is"


@dataclass(slots=True)
class Entry:
    """One file that is not finished yet. Times are monotonic seconds."""

    facts: Facts
    settle_s: float
    max_unsettled_s: float | None
    first: float  # when it was first seen, or last sent unsettled
    since: float  # when its facts last changed
    look_at: float
    looks: int = 0  # in a row that found a writer
    writers: Writers = Writers.UNKNOWN
    addresses: frozenset[str] = frozenset()  # that wait for it, and have no row of it that says so


@dataclass(slots=True)
class Pending:
    """The unfinished files of one address. `first` is monotonic: when the oldest of them was first seen."""

    files: int = 0
    size_bytes: int = 0
    first: float = math.inf


class Settling:
    """The files that are being watched until they are finished. Not thread-safe: one worker owns it."""

    def __init__(self, limit: int = 20_000) -> None:
        """`limit` bounds the memory; a file that finds no room is found again by the next scan."""
        self.limit = limit
        self._entries: dict[str, Entry] = {}
        self._due: list[tuple[float, str]] = []
        self._sets: dict[frozenset[str], frozenset[str]] = {}  # each once: there are few, and many files

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, path: str) -> bool:
        return path in self._entries

    @property
    def room(self) -> int:
        return self.limit - len(self._entries)

    @property
    def _longest_look_s(self) -> float:
        return max(LONGEST_LOOK_S, len(self._entries) / LOOKS_PER_S)

    def items(self) -> list[tuple[str, Entry]]:
        """A copy, for whoever shows what is settling."""
        return list(self._entries.items())

    def pending(self) -> dict[str, Pending]:
        """What each address waits for. May be called from any thread."""
        found: dict[str, Pending] = {}
        for entry in list(self._entries.values()):
            for address in entry.addresses:
                pending = found.setdefault(address, Pending())
                pending.files += 1
                pending.size_bytes += entry.facts.size_bytes
                pending.first = min(pending.first, entry.first)
        return found

    def see(
        self,
        path: str,
        facts: Facts,
        *,
        now: float,
        settle_s: float,
        max_unsettled_s: float | None = None,
        addresses: Iterable[str] = (),
    ) -> bool:
        """Something happened to the file, or a scan found it. False when there is no room for one more.

        `addresses`: who waits for it, as far as no row of the journal says so.
        """
        entry = self._entries.get(path)
        known = entry.addresses if entry is not None else frozenset()
        waiting = known.union(addresses)
        waiting = self._sets.setdefault(waiting, waiting)
        if entry is None:
            if self.room <= 0:
                return False
            look_at = now + min(settle_s, self._longest_look_s)
            entry = Entry(facts, settle_s, max_unsettled_s, first=now, since=now, look_at=look_at, addresses=waiting)
            self._entries[path] = entry
            heapq.heappush(self._due, (entry.look_at, path))
            return True
        entry.addresses = waiting
        if facts != entry.facts:
            entry.facts, entry.since = facts, now
        entry.looks = 0
        # A close event is worth a look as soon as the quiet time allows one; never later than planned.
        look_at = max(now, entry.since + settle_s)
        if look_at < entry.look_at:
            entry.look_at = look_at
            heapq.heappush(self._due, (look_at, path))
        return True

    def due(self, now: float, *, limit: int) -> list[str]:
        """Files to look at now, at most `limit`; each must be answered with `judge` or `forget`."""
        paths: list[str] = []
        while self._due and self._due[0][0] <= now and len(paths) < limit:
            look_at, path = heapq.heappop(self._due)
            entry = self._entries.get(path)
            if entry is not None and entry.look_at == look_at:
                entry.look_at = math.inf  # until `judge` plans the next look
                paths.append(path)
        return paths

    def next_due(self) -> float | None:
        """Monotonic time of the next look, None when nothing settles."""
        while self._due:
            look_at, path = self._due[0]
            entry = self._entries.get(path)
            if entry is not None and entry.look_at == look_at:
                return look_at
            heapq.heappop(self._due)
        return None

    def judge(self, path: str, facts: Facts, writers: Writers, *, now: float) -> Verdict:
        """What a fresh look says. FINISHED forgets the file; UNSETTLED keeps watching it."""
        entry = self._entries[path]
        entry.writers = writers
        if facts != entry.facts:
            entry.facts, entry.since = facts, now
        quiet_s = entry.settle_s
        if writers is Writers.UNKNOWN:
            quiet_s = max(QUIET_WITHOUT_LEASE * quiet_s, LEAST_QUIET_WITHOUT_LEASE_S)
        # Summed as the looks are planned, so that the look at the end of the quiet time is not a hair too early.
        if writers is not Writers.SOME and now >= entry.since + quiet_s:
            self.forget(path)
            return Verdict.FINISHED
        if writers is Writers.SOME:
            entry.looks += 1
            wait_s = max(min(BUSY_LOOK_S * entry.looks, LONGEST_LOOK_S), len(self._entries) / LOOKS_PER_S)
        else:
            wait_s = min(max(0.01, entry.since + quiet_s - now), self._longest_look_s)
        verdict = Verdict.NOT_YET
        if entry.max_unsettled_s is not None:
            if now - entry.first >= entry.max_unsettled_s:
                entry.first = now
                verdict = Verdict.UNSETTLED
            wait_s = min(wait_s, max(0.01, entry.first + entry.max_unsettled_s - now))
        entry.look_at = now + wait_s
        heapq.heappush(self._due, (entry.look_at, path))
        return verdict

    def forget(self, path: str) -> None:
        """The file is finished, gone, or nobody's."""
        self._entries.pop(path, None)

    def evict(self, count: int) -> int:
        """Make room by forgetting files that writers hold open longest; the next scan finds them again."""
        busy = sorted(
            (path for path, entry in self._entries.items() if entry.writers is Writers.SOME),
            key=lambda path: self._entries[path].first,
        )
        for path in busy[:count]:
            self.forget(path)
        return min(len(busy), count)
