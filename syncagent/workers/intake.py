"""Hints and scans become settled file versions, and those become rows of the journal.

One pass looks at what the doorbell rang for, at the files whose quiet time may be over, and at one slice of the scan.
The scan is the truth: whatever is on the disk and not in the journal is found by it, whoever wrote it and however.
"""

from __future__ import annotations

import logging
import math
import os
import posixpath
import stat
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from syncagent.core.board import Board, Fact
from syncagent.core.errors import FileVanished, SyncagentError, Transient, Trouble
from syncagent.core.model import OWED, Facts, State
from syncagent.core.places import OUTSIDE, Places
from syncagent.core.settle import QUIET_WITHOUT_LEASE, Settling, Verdict, Writers
from syncagent.core.territory import ASIDE, Owner, Territory, is_within
from syncagent.core.words import kind_words
from syncagent.edges import files
from syncagent.edges.clock import Clock, Stop
from syncagent.edges.files import Lease, Listing
from syncagent.edges.journal import Arrival, Journal, Known, Row
from syncagent.edges.watch import Doorbell, Hints

logger = logging.getLogger(__name__)

#: Looks in one pass, so that no single kind of work holds up the others.
SLICE = 500
SLICE_S = 0.05
#: Scans may take this share of the time; a slow card is scanned less often.
SCAN_SHARE = 0.02
#: Names of what a scan could not read that are kept for the status.
MAX_UNREADABLE = 1_000
#: Without a hint, the intake still looks around this often: doorbell, other processes' requests.
IDLE_S = 1.0
#: Rows that wait for their files and are looked after in one round: 10,000 of them are through in less than a minute.
EXPECTED_SLICE = 200
#: So long the scan waits for settling files to make room before those that are held open must give way.
FULL_S = 5.0
#: So many files that meet a bug, with none between them that does not, and the pass counts as crashed.
POISON_FILES = 3

_NO_LINK = "mount or put the directory itself there, or let generated_data be the link"
_WRITERS = {Lease.FREE: Writers.NONE, Lease.BUSY: Writers.SOME, Lease.UNAVAILABLE: Writers.UNKNOWN}


@dataclass(slots=True)
class Scan:
    """A walk below some directories, one chunk of one directory at a time. Paths are below generated_data."""

    todo: list[str]
    started: float
    is_full: bool
    busy_s: float = 0.0
    current: Iterator[Listing] | None = None
    matched: int = 0  # names of the current directory that the journal knows
    visited: set[str] = field(default_factory=set)
    odd: Counter[str] = field(default_factory=Counter)
    unreadable: dict[str, str] = field(default_factory=dict)
    skipped: int = 0  # files that found no room to settle


class Intake:
    """See the module. `on_ready` is called after rows became ready, `on_recheck` for a file whose ctime alone moved."""

    name = "intake"

    def __init__(
        self,
        *,
        territory: Territory,
        places: Places,
        journal: Journal,
        doorbell: Doorbell,
        hints: Hints,
        clock: Clock,
        board: Board,
        on_ready: Callable[[], None],
        on_recheck: Callable[[Known, str, Facts], bool],
        settling: Settling | None = None,
        is_once: bool = False,
    ) -> None:
        """`is_once`: one scan, and no other look for new files."""
        self._territory = territory
        self._places = places
        self._journal = journal
        self._doorbell = doorbell
        self._hints = hints
        self._clock = clock
        self._board = board
        self._on_ready = on_ready
        self._on_recheck = on_recheck
        self.settling = settling if settling is not None else Settling()
        self._is_once = is_once
        self.on_aside: Callable[[str], None] = lambda _place: None  # told of files that a removal left aside
        self._scan: Scan | None = None
        self._requests: deque[str] = deque()  # directories to scan, below generated_data
        self._next_scan = clock.monotonic()
        self._next_check = clock.monotonic()
        self._is_recording = False  # files are between settling and the journal
        self.full_scans = 0
        self._last_scan: Scan | None = None
        self._no_lease: dict[str, str] = {}
        self._full_since = math.inf
        self._devices: dict[str, int] = {}
        self._missing: dict[str, str] = {}
        self._poison: set[str] = set()  # paths that met a bug since one was recorded
        self._expected_after = 0  # the last row that was looked after of those that wait for their files

    # -- the pass -----------------------------------------------------------------------------------------------------

    def pass_once(self, stop: Stop) -> float:
        """One slice of everything; returns after how many seconds the next one is due."""
        now = self._clock.monotonic()
        if now >= self._next_check:
            self._check()
            self._next_check = now + IDLE_S
        self._take_hints()
        self._judge_due()
        if self._scan is None and (self._requests or now >= self._next_scan):
            self._begin_scan(now)
        if self._scan is not None:
            self._scan_slice(stop)
        return self._wait_s()

    def _wait_s(self) -> float:
        now = self._clock.monotonic()
        if (self._requests or self._scan is not None) and self.settling.room >= SLICE:
            return 0.0
        due = self.settling.next_due()
        ends = [self._next_check, self._next_scan]
        if due is not None:
            ends.append(due)
        return max(0.0, min(ends) - now)

    def is_idle(self) -> bool:
        """Everything that was there has been looked at, and nothing is settling."""
        is_looked_at = self.full_scans > 0 and self._scan is None and not self._requests and not len(self.settling)
        # Asked last: what no longer settles is in the journal once this is false.
        return is_looked_at and not self._is_recording

    def is_whole(self) -> bool:
        """Whether all that is watched could be looked at."""
        return not self._missing and self._last_scan is not None and not self._last_scan.unreadable

    def poke(self) -> None:
        """Another process wrote to the journal: look at what it asks for. May be called from any thread."""
        self._next_check = self._clock.monotonic()

    def open(self) -> None:
        """Make the watched directories where they are missing, and start to listen."""
        for owner in self._territory.owners:
            self._make(owner)
        self._doorbell.open()

    def close(self, deadline_s: float) -> None:
        self._doorbell.close(deadline_s)

    # -- looking around -----------------------------------------------------------------------------------------------

    def _make(self, owner: Owner) -> None:
        root = posixpath.join(self._places.data_root, owner.path) if owner.path else self._places.data_root
        strange = self._strange(owner.path)
        if strange:
            self._missing[owner.path] = f"{self._places.path_of(owner.path)} {strange}"
            return
        device = files.device_of(root)
        if device is None:
            try:
                files.make_directory(root)
            except Transient as error:
                self._missing[owner.path] = str(error)
                return
            device = files.device_of(root)
        self._missing.pop(owner.path, None)
        if device is not None and self._devices.get(owner.path, device) != device:
            self._suspect(owner.path, "another disk is mounted there now")
        if device is not None:
            self._devices[owner.path] = device

    def _strange(self, root: str) -> str:
        """In words, why a watched directory is none although its name is there. No link is followed."""
        try:
            status = files.look(self._places.data_root, root)
        except Transient as error:
            return str(error)
        if status is None:
            is_there = files.device_of(posixpath.join(self._places.data_root, root)) is not None
            return f"lies behind a link; {_NO_LINK}" if is_there else ""
        if stat.S_ISDIR(status.st_mode):
            return ""
        kind = "file" if files.is_file(status) else kind_words(status.st_mode)
        return f"is a link; {_NO_LINK}" if kind == "link" else f"is a {kind}; put a directory there"

    def _is_away(self, place: str) -> bool:
        """Whether nothing can be said of the files at a place, because of the directory that is watched for them."""
        owner = self._territory.owner_of(place)
        if owner is None:
            return False
        return any(is_within(place, root) for root in self._missing) or bool(self._strange(owner.path))

    def _check(self) -> None:
        """Look after journal, doorbell and roots, and pick up what other processes asked for. Raises: JournalLost."""
        self._journal.check()
        for owner in self._territory.owners:
            self._make(owner)
        heard = self._doorbell.check()
        self._journal.refresh()
        for row in self._journal.asked():
            self._see_asked(row)
        self._see_expected()
        no_lease = next(iter(self._no_lease.values()), "")
        reasons = [*self._missing.values(), heard.reason]
        if no_lease:
            so_far = f"{QUIET_WITHOUT_LEASE} times the quiet time decides ({len(self._no_lease)} so far)"
            reasons.append(f"no lease: {no_lease}; {so_far}")
        last = self._last_scan
        if last and last.unreadable:
            path, why = next(iter(last.unreadable.items()))
            reasons.append(f"{len(last.unreadable)} cannot be read, {path}: {why}")
        more = {
            "settling": len(self.settling),
            "watches": heard.watches,
            "overflows": heard.overflows,
            "restarts": heard.restarts,
            "scans": self.full_scans,
            "scan_busy_s": round(last.busy_s, 3) if last else None,
            "not_files": dict(last.odd) if last else {},
        }
        ok = heard.ok and not self._missing
        state = "missing" if self._missing else heard.state
        self._board.set_fact("watcher", Fact(ok, state, "; ".join(reason for reason in reasons if reason), more))

    def _suspect(self, path: str, why: str) -> None:
        logger.info("rescan path=%s why=%s", self._places.path_of(path), why)
        if path not in self._requests:
            self._requests.append(path)

    def _take_hints(self) -> None:
        paths, roots = self._hints.take()
        for root, why in roots.items():
            place = self._places.heard(root)
            if place is not None:
                self._suspect(place, why)
            elif not root:  # "everything"
                self._next_scan = self._clock.monotonic()
        for absolute in paths:
            place = self._places.heard(absolute)
            if place is not None:
                self._look(place)

    def look_again(self, path: str) -> None:
        """A worker found that a file is not what was recorded. May be called from any thread."""
        located = self._places.locate(path)
        if located is not None:
            self._hints.add(posixpath.join(*located))

    # -- one path -----------------------------------------------------------------------------------------------------

    def _look(self, place: str) -> None:
        """A hint: something happened at this place below generated_data."""
        try:
            status = files.look(self._places.data_root, place)
        except Transient as error:
            self._complain(self._places.path_of(place), error)
            return
        if status is None:
            self._vanished(place)
        elif stat.S_ISDIR(status.st_mode):
            if self._holds_files(place):
                self._suspect(place, "new directory")
        elif files.is_file(status):
            path = self._places.path_of(place)
            self._compare(place, files.facts_of(status), self._journal.known_at(path))

    def _holds_files(self, place: str) -> bool:
        """Whether a directory can hold files of ours, of an owner above it or of one below it."""
        if self._territory.is_reserved(place):
            return False
        owner = self._territory.owner_of(place)
        below = any(is_within(other.path, place) for other in self._territory.owners)
        return below or (owner is not None and owner.enters(place))

    def _vanished(self, place: str) -> None:
        path = self._places.path_of(place)
        self.settling.forget(path)
        if self._is_away(place):
            return
        self._journal.vanished(known.id for known in self._journal.known_at(path) if known.state is not State.SENDING)
        if not any(is_within(root, place) for root in self._missing):
            for directory in self._journal.directories_below(path):
                self._find_vanished(directory)

    def _compare(self, place: str, facts: Facts, known: list[Known]) -> bool:
        """Whether the file is news; if so it settles. False when it is news and there is no room for it."""
        owner = self._territory.owner_of(place)
        wanted = {address.name for address in owner.wanting(place)} if owner else set()
        wanted |= {row.address for row in known if row.state in OWED or row.is_unsettled}
        path = self._places.path_of(place)
        by_address = {row.address: row for row in known}
        news = [address for address in wanted if _is_news(by_address.get(address), facts)]
        if not news:
            return True
        return self.settling.see(
            path,
            facts,
            now=self._clock.monotonic(),
            settle_s=owner.settle_s if owner else self._settle_s,
            max_unsettled_s=owner.max_unsettled_s if owner else None,
            addresses=[name for name in news if name not in by_address or not by_address[name].is_expected],
        )

    @property
    def _settle_s(self) -> float:
        return max((owner.settle_s for owner in self._territory.owners), default=1.0)

    def _see_asked(self, row: Row) -> None:
        """A row that waits for its file to be finished, wherever it lies."""
        path = row.path
        if path in self.settling:
            return
        located = self._places.locate(path)
        if located is None:
            # Its directory is not allowed any more: nobody may even look whether it is finished.
            logger.warning("parked path=%s reason=%s", path, OUTSIDE)
            self._journal.finish(row, State.PARKED, reason=OUTSIDE)
            self._board.complain(path, "parked", OUTSIDE, "allow its directory again, then: syncagent retry PATH")
            return
        place = self._places.relative_of(path)
        try:
            status = files.look(*located)
        except Transient as error:
            self._complain(path, error)
            return
        if status is not None and files.is_file(status):
            owner = self._territory.owner_of(place or "")
            self.settling.see(
                path,
                files.facts_of(status),
                now=self._clock.monotonic(),
                settle_s=owner.settle_s if owner else self._settle_s,
            )
        elif place is not None and self._is_away(place):
            pass
        elif status is None and files.device_of(located[0]) is not None:
            self._journal.vanished(row.id for row in self._journal.known_at(path) if row.state is State.SETTLING)

    def _see_expected(self) -> None:
        """The next few of the files that messages wait for; of those in a watched directory events tell sooner."""
        rows = self._journal.expected(after=self._expected_after, limit=EXPECTED_SLICE)
        self._expected_after = rows[-1].id if len(rows) == EXPECTED_SLICE else 0
        for row in rows:
            self._see_asked(row)

    # -- finished? ----------------------------------------------------------------------------------------------------

    def _judge_due(self) -> None:
        arrivals: list[Arrival] = []
        self._is_recording = True
        try:
            for path in self.settling.due(self._clock.monotonic(), limit=SLICE):
                arrivals += self._judge(path)
            ready = self._record(arrivals) if arrivals else 0
        except Exception:
            # They do not settle any more, and the journal does not have them: the disk still does.
            self._suspect("", "finished files were not recorded")
            raise
        finally:
            self._is_recording = False
        if ready:
            self._on_ready()

    def _record(self, arrivals: list[Arrival]) -> int:
        """Record finished versions together; one that meets a bug is left out, so that it holds up no other."""
        try:
            ready = self._journal.record(arrivals)
        except SyncagentError:
            raise
        except Exception as error:
            if len(arrivals) > 1:
                return sum(self._record([arrival]) for arrival in arrivals)
            self._poison.add(arrivals[0].path)
            if len(self._poison) >= POISON_FILES:
                raise  # not the file's fault, it seems: the supervisor decides
            logger.exception("a bug met this file path=%s", arrivals[0].path)
            reason = f"{type(error).__name__}: {error}"
            self._board.complain(arrivals[0].path, "watch", reason, "please report this bug; the log has the details")
            return 0
        self._poison.clear()
        return ready

    def _judge(self, path: str) -> list[Arrival]:
        located = self._places.locate(path)
        if located is None:
            self.settling.forget(path)
            return []
        try:
            sighting = files.sight(*located)
            facts, writers = sighting.facts, _WRITERS[sighting.lease]
            if writers is Writers.UNKNOWN:
                self._note_no_lease(path, sighting.why)
        except FileVanished:
            self.settling.forget(path)
            place = self._places.relative_of(path)
            if place is not None:
                self._vanished(place)
            return []
        except Transient as error:
            # It cannot be opened, so nobody can ask for a lease; the uploader says why it waits.
            status = self._looked_at(*located) if error.trouble is Trouble.FILE else None
            if status is None:
                self.settling.forget(path)
                self._complain(path, error)
                return []
            facts, writers = files.facts_of(status), Writers.UNKNOWN
        verdict = self.settling.judge(path, facts, writers, now=self._clock.monotonic())
        if verdict is Verdict.NOT_YET:
            return []
        return self._arrivals(path, facts, is_unsettled=verdict is Verdict.UNSETTLED)

    def _looked_at(self, root: str, place: str) -> os.stat_result | None:
        """`files.look` at a file that could not be opened: where that cannot be done either, nothing is known."""
        try:
            return files.look(root, place)
        except Transient:
            return None

    def _arrivals(self, path: str, facts: Facts, *, is_unsettled: bool) -> list[Arrival]:
        place = self._places.relative_of(path)
        owner = self._territory.owner_of(place) if place is not None else None
        addresses = {address.name for address in owner.wanting(place)} if owner and place is not None else set()
        wanted = frozenset(addresses)
        known = {row.address: row for row in self._journal.known_at(path)}
        addresses |= {row.address for row in known.values() if row.state in OWED or row.is_unsettled}
        arrivals = []
        for address in sorted(addresses):
            row = known.get(address)
            follows = row is not None and row.is_unsettled and not is_unsettled
            if row and row.state is State.CONFIRMED and _only_refaced(row.facts, facts) and not follows:
                # The same size and mtime under a new ctime or inode: hashed again later, one by one.
                if row.facts != facts and not self._on_recheck(row, path, facts):
                    logger.debug("recheck later path=%s", path)
                continue
            arrivals.append(Arrival(address, path, facts, is_unsettled, address in wanted))
        return arrivals

    def _complain(self, path: str, error: Transient) -> None:
        self._board.complain(path, "watch", str(error), "check the disk and the permissions of the file")

    def _note_no_lease(self, path: str, why: str) -> None:
        if len(self._no_lease) < 1000:
            self._no_lease[path] = why

    # -- scanning -----------------------------------------------------------------------------------------------------

    def _begin_scan(self, now: float) -> None:
        if self._requests and now < self._next_scan:
            self._scan = Scan([self._requests.popleft()], now, is_full=False)
            return
        self._requests.clear()
        roots = [owner.path for owner in self._territory.owners if owner.path not in self._missing]
        outer = [root for root in roots if not any(root != other and is_within(root, other) for other in roots)]
        self._scan = Scan(sorted(set(outer)), now, is_full=True)

    def _scan_slice(self, stop: Stop) -> None:
        scan = self._scan
        assert scan is not None
        begun = now = self._clock.monotonic()
        while now - begun < SLICE_S and not stop.is_set():
            if not self._has_room(now):
                break
            if scan.current is None:
                if not scan.todo:
                    self._end_scan(scan)
                    break
                scan.matched = 0
                scan.current = files.scan_directory(self._places.data_root, scan.todo[-1])
            listing = next(scan.current, None)
            if listing is None:
                self._leave_directory(scan)
            else:
                self._take_listing(scan, listing)
            now = self._clock.monotonic()
        scan.busy_s += self._clock.monotonic() - begun

    def _has_room(self, now: float) -> bool:
        """Whether the scan may go on: files that settle leave by themselves, those held open for long must give way."""
        if self.settling.room >= SLICE:
            self._full_since = math.inf
            return True
        self._full_since = min(self._full_since, now)
        return now - self._full_since > FULL_S and self.settling.evict(SLICE) > 0

    def _take_listing(self, scan: Scan, listing: Listing) -> None:
        place = listing.path
        scan.visited.add(place)
        if listing.error:
            scan.unreadable[self._places.path_of(place)] = listing.error
            self._board.complain(
                self._places.path_of(place),
                "scan",
                listing.error,
                "let the agent's user read and enter the directory",
            )
        for name, why in listing.unreadable.items():
            path = self._places.path_of(f"{place}/{name}" if place else name)
            if len(scan.unreadable) < MAX_UNREADABLE:
                scan.unreadable[path] = why
            self._board.complain(path, "scan", why, "check the file system for errors")
        scan.odd.update(listing.odd.values())
        for name in listing.directories:
            inner = f"{place}/{name}" if place else name
            if self._holds_files(inner):
                scan.todo.insert(0, inner)
        known = self._journal.known_among(self._places.path_of(place), list(listing.files)) if listing.files else {}
        scan.matched += len(known)
        owner = self._territory.owner_of(place)
        askers = {address.name for address in owner.addresses} if owner else set()
        for name, facts in listing.files.items():
            rows = known.get(name, [])
            if rows and not any(_is_news(row, facts) for row in rows) and askers.issubset(row.address for row in rows):
                continue  # whoever may want it has it: most files of most scans
            inner = f"{place}/{name}" if place else name
            if name.startswith(ASIDE):
                self.on_aside(inner)
            if not self._compare(inner, facts, rows):
                scan.skipped += 1
        if listing.missing:
            scan.matched = -1

    def _leave_directory(self, scan: Scan) -> None:
        place = scan.todo.pop()
        scan.current = None
        path = self._places.path_of(place)
        if path in scan.unreadable:
            return
        if scan.matched < 0:
            for directory in self._journal.directories_below(path):
                self._find_vanished(directory)
        elif self._journal.count_live(path) > scan.matched:
            self._find_vanished(path)

    def _find_vanished(self, directory: str) -> None:
        """Ask for every live row of a directory whether its file is there; for directories that shrank."""
        relative = self._places.relative_of(directory)
        if relative is None or self._is_away(relative):
            return
        after = ""
        while True:
            rows = self._journal.live_names(directory, after=after, limit=SLICE)
            if not rows:
                return
            after = rows[-1][0]
            self._journal.vanished(
                row_id for name, row_id in rows if self._is_lost(directory, f"{relative}/{name}".lstrip("/"))
            )

    def _is_lost(self, directory: str, place: str) -> bool:
        """Whether there surely is no file; what cannot be told of one is asked of the others all the same."""
        try:
            return not files.is_file(files.look(self._places.data_root, place))
        except Transient as error:
            self._complain(directory, error)
            return False

    def _end_scan(self, scan: Scan) -> None:
        self._scan = None
        if not scan.is_full:
            return
        for owner in self._territory.owners:
            for directory in self._journal.directories_below(self._places.path_of(owner.path)):
                relative = self._places.relative_of(directory) or ""
                if relative not in scan.visited and self._territory.owner_of(relative):
                    self._find_vanished(directory)
        self.full_scans += 1
        self._last_scan = scan
        scan.visited.clear()
        scan_s = min((owner.scan_s for owner in self._territory.owners), default=30.0)
        # Measured by the monotonic clock and without waiting for room: what the scan itself cost.
        wait_s = 1.0 if scan.skipped else max(scan_s, scan.busy_s / SCAN_SHARE)
        if self._is_once and not scan.skipped:
            wait_s = math.inf
        self._next_scan = self._clock.monotonic() + wait_s


def _only_refaced(old: Facts, new: Facts) -> bool:
    return (old.size_bytes, old.mtime_ns) == (new.size_bytes, new.mtime_ns)


def _is_news(row: Known | None, facts: Facts) -> bool:
    """Whether the journal does not have this version of the file yet."""
    return row is None or row.facts != facts or row.is_expected or row.is_unsettled
