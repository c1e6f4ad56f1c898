"""Files on their way out: asked of the journal, removed by the edge, written down, and mended after a crash.

Promises that a file goes only while the journal says that everybody has it (or that it may be lost, which stands in
the journal before the file goes), and that what could not be written down is written down later.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from enum import Enum

from syncagent.core.board import Board, Fact
from syncagent.core.errors import FileChanged, FileVanished, JournalBroken, Transient
from syncagent.core.model import Facts, State
from syncagent.core.places import Places
from syncagent.core.retention import Scope, confirmed_version, droppable_version, scope_of
from syncagent.core.territory import Territory
from syncagent.edges import files, removal
from syncagent.edges.clock import Clock, Stop
from syncagent.edges.journal import Candidate, Journal
from syncagent.edges.removal import Outcome

logger = logging.getLogger(__name__)

#: A directory that we emptied stays so long: its writer may be about to write the next file. One that does not make
#: its directory again would fail, which is why none goes unless the owner says so.
TIDY_S = 10.0
#: So many of them are remembered.
MAX_EMPTY = 10_000
#: Files that went under one of several names, between two writes of the journal; of more, the others are hashed again.
MAX_TWINS = 1_000
#: More than are dropped at once.
LAST_LOSSES = 1_000
WRITABLE = "let the agent's user write to the directory"


class Fate(Enum):
    """What became of a candidate."""

    WENT = "went"
    STAYS = "stays"


class Clearance:
    """See the module. One worker owns it; `found_aside` may be called from any thread."""

    def __init__(
        self,
        *,
        journal: Journal,
        places: Places,
        territory: Territory,
        board: Board,
        clock: Clock,
        is_settling: Callable[[str], bool],
        on_look_again: Callable[[str], None],
    ) -> None:
        self._journal = journal
        self._places = places
        self._territory = territory
        self._board = board
        self._clock = clock
        self._is_settling = is_settling
        self._on_look_again = on_look_again
        self._unwritten: dict[int, None] = {}  # rows whose files went
        self._twins: dict[Facts, Facts] = {}  # what rows say of a file that lost a name -> what is true of the others
        self._touched: dict[str, dict[str, None]] = {}  # root -> directories that lost a name
        self._asides: dict[str, None] = {}  # places of files that a run left aside
        self._empty: dict[str, float] = {}  # directory below generated_data -> when it lost a file

    # -- one file -----------------------------------------------------------------------------------------------------

    def scope_of(self, path: str, scopes: Sequence[Scope]) -> Scope | None:
        """Whose rules a path of the journal goes by; none when it is not of a watched directory."""
        place = self._places.relative_of(path)
        return None if place is None or self._territory.is_reserved(place) else scope_of(place, scopes)

    def clear(self, path: str, stop: Stop, *, is_urgent: bool) -> tuple[Fate, int]:
        """Remove a file that everybody has, if it is unchanged; what became of it, and how many bytes it had.

        One whose ctime alone is new is hashed again when the idle hour for that may come too late (`is_urgent`), or
        never comes, because no scan looks at the file.
        """
        claims = self._journal.claims_on(path)
        facts = confirmed_version(claims, wanting=self._wanting(path))
        if facts is None or self._is_settling(path):
            return Fate.STAYS, 0
        ids = [claim.id for claim in claims if claim.state is State.CONFIRMED]
        facts = self._twins.get(facts, facts)
        if is_urgent or not self._wanting(path):
            facts = self._refaced(path, facts, ids[0], stop)
        if self._remove(path, facts, ids[0]) is Fate.STAYS:
            return Fate.STAYS, 0
        self._unwritten.update(dict.fromkeys(ids))
        logger.info("removed path=%s bytes=%d", path, facts.size_bytes)
        return Fate.WENT, facts.size_bytes

    def _refaced(self, path: str, facts: Facts, row_id: int, stop: Stop) -> Facts:
        """The facts of now, of a file with the bytes that were confirmed; those of then otherwise."""
        located = self._places.locate(path)
        try:
            status = files.look(*located) if located is not None else None
            if located is None or status is None or not files.is_file(status):
                return facts
            now = files.facts_of(status)
            if now == facts or (now.size_bytes, now.mtime_ns) != (facts.size_bytes, facts.mtime_ns):
                return facts
            with files.PinnedFile.open(*located, facts=now) as pinned:
                pinned.pulse = lambda _start: stop.check()
                return now if pinned.digest() == self._journal.row(row_id).digest else facts
        except (FileChanged, FileVanished, Transient):
            return facts

    def drop(self, candidates: Sequence[Candidate], reason: str) -> int:
        """Drop unsent files; how many went. The journal knows before the disk does. Raises: JournalBroken."""
        chosen: list[tuple[str, Facts, list[int], list[int]]] = []
        for candidate in candidates:
            claims = self._journal.claims_on(candidate.path)
            facts = droppable_version(claims)
            unsent = [claim.id for claim in claims if claim.state not in (State.CONFIRMED, State.GONE)]
            if facts is None or not unsent or not self._can_go(candidate.path, facts):
                continue
            confirmed = [claim.id for claim in claims if claim.state is State.CONFIRMED]
            chosen.append((candidate.path, facts, unsent, confirmed))
        if not chosen:
            return 0
        lost = self._journal.lose([row_id for _, _, unsent, _ in chosen for row_id in unsent], reason)
        count = 0
        kept: set[int] = set()
        for path, facts, unsent, confirmed in chosen:
            # What was confirmed, or overtaken, since the journal was asked is no loss.
            if not lost.issuperset(unsent) or self._remove(path, facts, unsent[0]) is Fate.STAYS:
                kept.update(lost.intersection(unsent))
                continue
            self._unwritten.update(dict.fromkeys(confirmed))
            count += 1
            logger.error("lost path=%s bytes=%d reason=%s", path, facts.size_bytes, reason)
            self._board.complain(path, "lost", reason, "a larger card, a better link, or when_full: stop")
        if kept:
            self._journal.regain(sorted(kept))
            for path, _, unsent, _ in chosen:
                if not kept.isdisjoint(unsent):
                    self._on_look_again(path)
        return count

    def _wanting(self, path: str) -> frozenset[str]:
        place = self._places.relative_of(path) or ""
        owner = self._territory.owner_of(place)
        return frozenset(address.name for address in owner.wanting(place)) if owner is not None else frozenset()

    def _can_go(self, path: str, facts: Facts) -> bool:
        """Asked before a loss is written down, which costs the card a write, and one more if nothing came of it."""
        located = self._places.locate(path)
        if located is None or self._is_settling(path) or self._journal.is_taken(path):
            return False
        if not removal.may_remove(*located):
            self._board.complain(path, "remove", "its directory is not writable", WRITABLE)
            return False
        try:
            sighting = files.sight(*located)
        except (FileVanished, Transient):
            return False
        return sighting.facts == facts and sighting.lease is not files.Lease.BUSY

    def _remove(self, path: str, facts: Facts, row_id: int) -> Fate:
        located = self._places.locate(path)
        if located is None:
            return Fate.STAYS
        try:
            done = removal.remove(*located, facts, row_id=row_id)
        except Transient as error:
            self._board.complain(path, "remove", str(error), WRITABLE)
            return Fate.STAYS
        if done.outcome is Outcome.REMOVED:
            root, place = located
            head = place.rpartition("/")[0]
            self._touched.setdefault(root, {})[head] = None
            if len(self._empty) < MAX_EMPTY:
                self._empty[head] = self._clock.monotonic()
            if done.twin is not None:
                self._remember_twin(facts, done.twin)
        elif done.outcome is Outcome.CHANGED:
            logger.debug("not removed path=%s why=%s", path, done.outcome.value)
        return Fate.WENT if done.outcome is Outcome.REMOVED else Fate.STAYS

    def _remember_twin(self, before: Facts, now: Facts) -> None:
        """The rows of its other names say what was true before this removal, or before the first of several."""
        for known in {before, *(known for known, last in self._twins.items() if last == before)}:
            if known in self._twins or len(self._twins) < MAX_TWINS:
                self._twins[known] = now

    # -- after many ---------------------------------------------------------------------------------------------------

    def write_down(self) -> bool:
        """Removals become durable, then rows. False when the journal cannot be written: then later."""
        for root, directories in self._touched.items():
            removal.sync(root, directories)
        self._touched.clear()
        try:
            self._journal.write_proved()
            if self._unwritten:
                self._journal.removed(self._unwritten)
                self._unwritten.clear()
            if self._twins:
                self._journal.reface_twins(self._twins)
                self._twins.clear()
        except JournalBroken as error:
            self._board.set_fact("disk/journal", Fact(False, "failing", str(error)))
            return False
        fact = self._board.fact("disk/journal")
        if fact is not None and not fact.ok:
            self._board.set_fact("disk/journal", Fact(True, "ok"))
        return True

    def tidy(self, scopes: Sequence[Scope], *, is_end: bool = False) -> None:
        """Remove directories that we emptied, where the owner lets us; never a watched one.

        `is_end`: nobody comes back for those that were emptied just now.
        """
        now = self._clock.monotonic()
        while ripe := [place for place, at in self._empty.items() if is_end or now - at >= TIDY_S]:
            for place in ripe:
                del self._empty[place]
                if place and self._may_go(place, scopes) and removal.remove_directory(self._places.data_root, place):
                    logger.info("empty directory removed path=%s", self._places.path_of(place))
                    self._empty[place.rpartition("/")[0]] = now - TIDY_S

    def _may_go(self, place: str, scopes: Sequence[Scope]) -> bool:
        scope = scope_of(place, scopes)
        is_watched = any(each.path == place for each in scopes)
        return scope is not None and scope.rules.remove_empty_directories and not is_watched

    # -- after a crash ------------------------------------------------------------------------------------------------

    def found_aside(self, place: str) -> None:
        """A scan saw a file that was set aside: by a run that ended before it could remove it, or just now by us."""
        self._asides[place] = None

    def look_for_asides(self, scopes: Sequence[Scope]) -> None:
        """In directories that no scan looks into, because nothing there is sent by itself."""
        watched = {owner.path for owner in self._territory.owners}
        for scope in scopes:
            if scope.path in watched:
                continue
            for directory in self._journal.directories_below(self._places.path_of(scope.path)):
                place = self._places.relative_of(directory) or ""
                for listing in files.scan_directory(self._places.data_root, place):
                    for name in listing.files:
                        if removal.parse_aside(name) is not None:
                            self.found_aside(f"{place}/{name}" if place else name)
            try:
                self._look_for_undropped(scope, scopes)
            except (JournalBroken, Transient) as error:
                logger.warning("not looked for files that were not dropped after all reason=%s", error)

    def _look_for_undropped(self, scope: Scope, scopes: Sequence[Scope]) -> None:
        """Files whose loss was written down by a run that ended before it could remove them."""
        for loss in self._journal.losses(sorted(scope.addresses), limit=LAST_LOSSES):
            row = self._journal.row_if_any(loss.id)
            if row is None or self.scope_of(row.path, scopes) is not scope:
                continue
            head, slash, name = (self._places.relative_of(row.path) or "").rpartition("/")
            status = files.look(self._places.data_root, f"{head}{slash}{name}")
            if status is not None and files.is_file(status) and files.facts_of(status) == row.facts:
                self._journal.regain([row.id])
            elif files.look(self._places.data_root, aside := f"{head}{slash}{removal.aside_name(name, row.id)}"):
                self.found_aside(aside)

    def mend(self) -> None:
        """What was left aside goes back under its name, or, where its loss is written down already, away."""
        while self._asides:
            place, _ = self._asides.popitem()
            try:
                self._mend(place)
            except (OSError, Transient) as error:
                reason = files.words(error) if isinstance(error, OSError) else str(error)
                self._board.complain(self._places.path_of(place), "put back", reason, "check the disk")

    def _mend(self, place: str) -> None:
        head, _, aside = place.rpartition("/")
        parsed = removal.parse_aside(aside)
        status = files.look(self._places.data_root, place)
        if parsed is None or status is None or not files.is_file(status):
            return  # ours of just now
        row_id, name = parsed
        row = self._journal.row_if_any(row_id)
        facts = files.facts_of(status)
        if row is not None and (
            row.path.rpartition("/")[0] != self._places.path_of(head) or not _begins(row.path, name)
        ):
            row = None  # of another journal
        if row is not None:
            name = os.path.basename(row.path)
            known = (row.facts.size_bytes, row.facts.mtime_ns, row.facts.inode)
            if row.state is State.LOST and known == (facts.size_bytes, facts.mtime_ns, facts.inode):
                removal.finish(self._places.data_root, place)
                logger.error("lost path=%s, as was begun before the restart", row.path)
                return
        given = removal.put_back(self._places.data_root, place, name)
        path = self._places.path_of(f"{head}/{given}" if head else given)
        logger.info("put back path=%s", path)
        self._on_look_again(path)


def _begins(path: str, name: str) -> bool:
    return os.fsencode(os.path.basename(path)).startswith(os.fsencode(name))
