"""Removes confirmed files by the owner's rules, oldest first; and unsent ones on a full card, where the owner says so.

One pass looks at every watched directory and removes one batch where there is something to remove. It needs no write
of the journal to remove what is confirmed: a full journal must not stop the only one who makes room for it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from syncagent.core.board import Board, Fact
from syncagent.core.errors import JournalBroken, Transient
from syncagent.core.model import State
from syncagent.core.places import Places
from syncagent.core.retention import (
    Need,
    Scope,
    Space,
    due_until,
    is_eager,
    is_out_of_room,
    lacking,
    surplus,
    thinned,
    unmet,
)
from syncagent.docks.clearance import Clearance, Fate
from syncagent.docks.losses import Losses
from syncagent.edges import files, removal
from syncagent.edges.clock import Clock, Stop
from syncagent.edges.journal import Candidate, Journal
from syncagent.edges.reserve import Reserve
from syncagent.edges.watch.mounts import Mounts

logger = logging.getLogger(__name__)

#: Files that are looked at in one pass.
BATCH = 64
#: So often the disk is asked for its space, and the ages of files are looked at.
LOOK_S = 5.0
#: When none shall be kept, and while there is too little room.
SOON_S = 1.0
#: Files that could not go (somebody owes them, their ctime is new) are looked at again after so long, and these
#: looks take at most this share of the time.
AGAIN_S, SHARE = 30.0, 0.02
#: A sweep of so much work is of very many files.
LONG_S = 1.0
#: Above every row id.
NO_ROW = 1 << 62
_START = (-1.0, 0)


@dataclass(slots=True)
class Sweep:
    """How far one directory has been looked through, from its oldest file on."""

    after: tuple[float, int] = _START
    busy_s: float = 0.0
    again_at: float = 0.0
    drop_at: float = 0.0  # when unsent files are looked through again
    is_under: bool = False  # the disk is below its minimum, or was and has not passed it by a tenth yet
    counted: tuple[int, ...] = ()  # what the tallies of confirmed and removed were when all were counted
    more: Need = field(default_factory=Need)  # what is left of the surplus that was found then


@dataclass(frozen=True, slots=True)
class Disk:
    """A watched directory, or what is mounted somewhere below it: a file system with a lack of its own."""

    scope: Scope
    place: str  # below generated_data
    path: str  # absolute

    @property
    def is_main(self) -> bool:
        """Whether the ages and numbers of files are looked at with it: once for each directory, whatever lies where."""
        return self.place == self.scope.path


class Pruner:
    """See the module."""

    name = "prune"

    def __init__(
        self,
        *,
        scopes: Sequence[Scope],
        clearance: Clearance,
        losses: Sequence[Losses],
        reserve: Reserve,
        mounts: Mounts,
        journal: Journal,
        places: Places,
        clock: Clock,
        board: Board,
    ) -> None:
        self._scopes = tuple(scopes)
        self._clearance = clearance
        self._losses = losses
        self._reserve = reserve
        self._mounts = mounts
        self._journal = journal
        self._places = places
        self._clock = clock
        self._board = board
        self._sweeps: dict[tuple[str, str], Sweep] = {}  # by scope and disk
        self._is_first = True
        self._seen = -1  # how many were confirmed at the last look
        self._is_idle = False

    def set_scopes(self, scopes: Sequence[Scope]) -> None:
        """The owner edited the rules."""
        self._scopes = tuple(scopes)
        self._sweeps.clear()

    def is_idle(self) -> bool:
        """Nothing was left to remove at the last look, and nothing was confirmed since."""
        return self._is_idle and self._seen == self._confirmed()

    def tidy(self) -> None:
        """For a run that ends with its work, once no pass comes any more: what it emptied goes at once."""
        self._clearance.tidy(self._scopes, is_end=True)

    def _confirmed(self) -> int:
        return self._journal.count_of(State.CONFIRMED)

    def pass_once(self, stop: Stop) -> float:
        """One batch of each directory; seconds until the next look."""
        self._is_idle, seen = False, self._confirmed()
        if self._is_first:
            self._clearance.look_for_asides(self._scopes)
            self._is_first = False
        self._clearance.mend()
        wait_s = LOOK_S
        for scope in self._scopes:
            if stop.is_set():
                break
            for disk in self._disks(scope):
                wait_s = min(wait_s, self._prune(disk, stop))
        is_written = self._clearance.write_down()
        self._clearance.tidy(self._scopes)
        if is_written:
            self._reserve.make()
            self._journal.keep_room()
            self._report()
        self._seen, self._is_idle = seen, wait_s > 0 and is_written
        return wait_s if is_written else min(wait_s, SOON_S)

    def _report(self) -> None:
        for losses in self._losses:
            try:
                losses.report()
            except (JournalBroken, Transient) as error:
                logger.warning("losses not reported yet reason=%s", error)

    # -- one watched directory ----------------------------------------------------------------------------------------

    def _disks(self, scope: Scope) -> list[Disk]:
        main = Disk(scope, scope.path, f"{self._places.data_root}/{scope.path}".rstrip("/"))
        mounted = {os.fsdecode(path) for _, path in self._mounts.below(main.path)}
        places = {path: self._places.heard(path) for path in sorted(mounted)}
        below = [Disk(scope, place, path) for path, place in places.items() if place]
        own = files.device_of(main.path)
        for name, sweep in self._sweeps.items():
            if name[0] == scope.path != name[1] and name[1] not in places.values():
                sweep.is_under = False  # it was taken away
                self._say(name[1], Fact(True, "ok"))
        return [
            main,
            *(
                disk
                for disk in below
                if files.device_of(disk.path) != own
                and self._clearance.scope_of(self._places.path_of(disk.place), self._scopes) is scope
            ),
        ]

    def _prune(self, disk: Disk, stop: Stop) -> float:
        scope = disk.scope
        sweep = self._sweeps.setdefault((scope.path, disk.place), Sweep())
        begun = self._clock.monotonic()
        space = self._space(disk)
        if space is None:
            return LOOK_S
        need = lacking(scope.rules, space, is_under=sweep.is_under)
        if need and not sweep.is_under:
            sweep.after = _START  # whatever was passed by may go now
        sweep.is_under = bool(need)
        until = due_until(scope.rules, self._journal.time()) if disk.is_main else None
        removed = self._clear_proved(disk, stop, need, is_due=until is not None)
        more = self._surplus(scope, sweep) if disk.is_main else Need()
        is_through = True
        if until is not None or more or need:
            if begun >= sweep.again_at:
                sweep.after, sweep.again_at, sweep.busy_s = _START, begun + AGAIN_S, 0.0
            went, is_through = self._clear(disk, sweep, stop, until, more, need)
            removed += went
        sweep.busy_s += self._clock.monotonic() - begun
        if not removed:
            sweep.again_at = max(sweep.again_at, begun + sweep.busy_s / SHARE)
        if need and is_through and not removed:
            removed = self._drop(disk, sweep, need)
        self._tell(disk, space, need=need, is_stuck=is_through and not removed)
        if removed or not is_through:
            return 0.0
        return SOON_S if need or is_eager(scope.rules) else LOOK_S

    def _space(self, disk: Disk) -> Space | None:
        try:
            return removal.space_at(disk.path)
        except Transient:
            return None  # it is not there: the intake says so

    def _clear(
        self, disk: Disk, sweep: Sweep, stop: Stop, until: float | None, more: Need, need: Need
    ) -> tuple[int, bool]:
        """Look at one batch; how many went, and whether none is left to look at."""
        scope, directory = disk.scope, self._places.path_of(disk.place)
        latest = self._journal.time() if more or need else until
        found = self._journal.confirmed_below(directory, until=latest or 0.0, after=sweep.after, limit=BATCH)
        count, is_through = 0, len(found) < BATCH
        for candidate in found:
            if not (until is not None and candidate.at <= until) and not more and not need:
                is_through = True
                break
            sweep.after = (candidate.at, candidate.id)
            if self._clearance.scope_of(candidate.path, self._scopes) is not scope:
                continue
            is_due = until is not None and candidate.at <= until
            if not is_due and not more and not self._makes_room(disk, candidate.path):
                continue
            fate, size_bytes = self._clearance.clear(candidate.path, stop, is_urgent=bool(need))
            if fate is Fate.WENT:
                count += 1
                more, need = _less(more, size_bytes), _less(need, size_bytes)
        sweep.more = more
        if count:
            self._board.add("removed_files", count)
        return count, is_through

    def _clear_proved(self, disk: Disk, stop: Stop, need: Need, *, is_due: bool) -> int:
        """What the store proved goes as well when the journal has no room to write that down: this makes some."""
        if not need and not is_due:
            return 0
        count = 0
        for path in self._journal.proved().values():
            if self._clearance.scope_of(path, self._scopes) is not disk.scope:
                continue
            if is_due or self._makes_room(disk, path):
                count += self._clearance.clear(path, stop, is_urgent=bool(need))[0] is Fate.WENT
        return count

    def _surplus(self, scope: Scope, sweep: Sweep) -> Need:
        """How many more confirmed files there are than shall be kept. Counted only when there may be too many."""
        rules = scope.rules
        if not rules.keep_files and not rules.keep_bytes:
            return Need()
        tally = self._journal.total_of(State.CONFIRMED, scope.addresses)
        most = surplus(rules, *tally)  # each file is counted once at least
        # The same tally may be of other files: one went, and one came.
        tallies = (*tally, *self._journal.total_of(State.REMOVED, scope.addresses))
        if most and not sweep.more and sweep.counted != tallies:
            if self._clock.monotonic() < sweep.again_at and sweep.busy_s > LONG_S:
                return Need()  # to count very many files is not worth it for each new one
            below = [self._places.path_of(each.path) for each in self._scopes if _is_below(each.path, scope.path)]
            total = self._journal.confirmed_total(self._places.path_of(scope.path), below)
            sweep.counted, sweep.more = tallies, surplus(rules, *total)
        # Others remove files, too.
        sweep.more = Need(min(sweep.more.size_bytes, most.size_bytes), min(sweep.more.inodes, most.inodes))
        return sweep.more

    # -- nothing confirmed is left ------------------------------------------------------------------------------------

    def _drop(self, disk: Disk, sweep: Sweep, need: Need) -> int:
        """Drop one batch of unsent files, where the owner allows it; how many went."""
        scope, begun = disk.scope, self._clock.monotonic()
        if scope.rules.when_full != "drop_unsent" or begun < sweep.drop_at:
            return 0
        reason = f"the card was full, and retention.drop_order is {scope.rules.drop_order}"
        try:
            for candidates in self._droppable(disk):
                chosen = []
                left = need
                for each in candidates:
                    if not left or self._clearance.scope_of(each.path, self._scopes) is not scope:
                        continue
                    if self._makes_room(disk, each.path):
                        chosen.append(each)
                        left = left.less(each.size_bytes)
                dropped = self._clearance.drop(chosen, reason) if chosen else 0
                if dropped:
                    return dropped
        except JournalBroken as error:
            # Nothing is dropped that cannot be told of.
            logger.warning("nothing dropped: the journal cannot be written reason=%s", error)
        now = self._clock.monotonic()
        sweep.drop_at = now + (now - begun) / SHARE
        return 0

    def _makes_room(self, disk: Disk, path: str) -> bool:
        """Whether a file lies on the disk that has too little, and not on another one that is mounted below."""
        located = self._places.locate(path)
        if located is None:
            return False
        directory = "/".join(located).rpartition("/")[0]
        return files.device_of(directory) == files.device_of(disk.path)

    def _droppable(self, disk: Disk) -> Iterator[list[Candidate]]:
        """Batches in the order in which to drop them; of most, only the first is looked at."""
        scope, directory = disk.scope, self._places.path_of(disk.place)
        if scope.rules.drop_order == "thin":
            order = thinned(self._journal.unsent_times(directory))
            for start in range(0, len(order), BATCH):
                found = [self._journal.candidate(row_id) for row_id in order[start : start + BATCH]]
                yield [each for each in found if each is not None]
        # With `thin`, the two ends are left.
        newest_first = scope.rules.drop_order == "newest"
        after = NO_ROW if newest_first else 0
        while batch := self._journal.unsent_below(directory, newest_first=newest_first, after=after, limit=BATCH):
            yield batch
            after = batch[-1].id

    # -- what people see ----------------------------------------------------------------------------------------------

    def _tell(self, disk: Disk, space: Space, *, need: Need, is_stuck: bool) -> None:
        fact = Fact(True, "ok")
        if is_stuck and (need or is_out_of_room(space)):
            fact = Fact(False, "filling", self._why_stuck(disk, space, need))
        self._say(disk.place, fact)

    def _say(self, place: str, fact: Fact) -> None:
        name = f"disk/retention/{place}"
        before = self._board.fact(name)
        if not fact.ok and (before is None or before.ok):
            logger.error("%s", fact.reason)
        if not fact.ok or before is not None:
            self._board.set_fact(name, fact)

    def _why_stuck(self, disk: Disk, space: Space, need: Need) -> str:
        """What is lacking, and what would free room: of all that the rules allow, nothing is left."""
        scope, where = disk.scope, self._places.path_of(disk.place)
        free = f"{space.free_bytes / 1e6:.1f} MB and {space.free_inodes} names are free under {where}"
        what, unmet_rules = f"recording will stop: {free}", unmet(scope.rules, space)
        if not is_out_of_room(space):
            asked = " and ".join(f"retention.{each}" for each in unmet_rules) or "`when_full: drop_unsent` keeps"
            what = f"{free}, which is less than {asked} with a tenth more"
        unsent = self._journal.total_of(State.READY, scope.addresses)[0]
        unsent += self._journal.total_of(State.WAITING, scope.addresses)[0]
        ways = ["files of others that go"]
        if unsent:
            ways.append("a link that sends them")
        if unsent and scope.rules.when_full == "stop":
            ways.append("`when_full: drop_unsent`, at the price of losses")
        if not need:
            ways.append("retention.min_free_percent, by which confirmed files go")
        elif unmet_rules and not is_out_of_room(space):
            ways.append("a lower minimum")
        return (
            f"{what}, and nothing there may be removed by the rules of retention ({unsent} files are unsent);"
            f" what helps: {', '.join(ways)}"
        )


def _less(need: Need, size_bytes: int) -> Need:
    return need.less(size_bytes) if need else need


def _is_below(path: str, other: str) -> bool:
    return path != other and (not other or path.startswith(other + "/"))
