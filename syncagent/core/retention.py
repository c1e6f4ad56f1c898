"""What may go from the disk, and how much of it: the owner's rules as sums. Values only.

Only what is confirmed for every address that owes a file goes by these rules. What is unsent goes when the owner said
`when_full: "drop_unsent"`, the disk is below its minimum, and nothing confirmed is left to go.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from syncagent.core.model import Facts, State
from syncagent.core.settings import Retention, SendAddress
from syncagent.core.territory import is_within

DAY_S = 86400.0
#: "Below a minimum the oldest confirmed go until it is passed by a tenth": else each new file would cost a removal.
BEYOND = 1.1
#: Less room than this is none: the journal has to go on. Of a small card a twentieth.
ROOM_BYTES, ROOM_SHARE = 8 << 20, 0.05
ROOM_INODES_SHARE = 0.005


@dataclass(frozen=True, slots=True)
class Space:
    """What a file system has."""

    free_bytes: int
    total_bytes: int
    free_inodes: int
    total_inodes: int  # 0: it makes them as it needs them


@dataclass(frozen=True, slots=True)
class Need:
    """How much must be freed."""

    size_bytes: int = 0
    inodes: int = 0

    def __bool__(self) -> bool:
        return self.size_bytes > 0 or self.inodes > 0

    def less(self, size_bytes: int) -> Need:
        """After one file of that size went."""
        return Need(self.size_bytes - size_bytes, self.inodes - 1)


@dataclass(frozen=True, slots=True)
class Scope:
    """One watched directory, by its path below generated_data, and the rules of the carriers that share it."""

    path: str
    rules: Retention
    addresses: frozenset[str]


def shared(rules: Sequence[Retention]) -> Retention:
    """The rules of carriers that share a directory: what keeps longest, and what keeps most room, counts."""

    def longest(name: str) -> float | None:
        values = [getattr(each, name) for each in rules]
        return None if any(value is None for value in values) else max(values)

    def most(name: str) -> float | None:
        return max((value for value in (getattr(each, name) for each in rules) if value is not None), default=None)

    days, files, size = longest("keep_days"), longest("keep_files"), longest("keep_bytes")
    free_bytes = most("min_free_bytes")
    return Retention(
        keep_days=days,
        keep_files=None if files is None else int(files),
        keep_bytes=None if size is None else int(size),
        min_free_percent=most("min_free_percent"),
        min_free_bytes=None if free_bytes is None else int(free_bytes),
        min_free_inodes_percent=most("min_free_inodes_percent"),
        when_full="drop_unsent" if all(each.when_full == "drop_unsent" for each in rules) else "stop",
        drop_order=rules[0].drop_order,
        remove_empty_directories=all(each.remove_empty_directories for each in rules),
    )


def scopes_of(addresses: Iterable[SendAddress]) -> tuple[Scope, ...]:
    """One scope for each watched directory; the longest path first, which owns what lies in it."""
    by_path: dict[str, list[SendAddress]] = {}
    for address in addresses:
        by_path.setdefault(address.carrier.path, []).append(address)
    return tuple(
        Scope(path, shared([address.carrier.retention for address in own]), frozenset(each.name for each in own))
        for path, own in sorted(by_path.items(), key=lambda item: -len(item[0]))
    )


def scope_of(place: str, scopes: Sequence[Scope]) -> Scope | None:
    """Whose rules a file goes by; none when it lies elsewhere."""
    return next((scope for scope in scopes if is_within(place, scope.path)), None)


def due_until(rules: Retention, now: float) -> float | None:
    """What was confirmed by then (journal time) goes for its age alone, or because none is kept."""
    if rules.keep_files == 0 or rules.keep_bytes == 0:
        return now
    return None if rules.keep_days is None else now - rules.keep_days * DAY_S


def is_eager(rules: Retention) -> bool:
    """Whether a file goes as soon as it is confirmed."""
    return 0 in (rules.keep_days, rules.keep_files, rules.keep_bytes)


def surplus(rules: Retention, files: int, size_bytes: int) -> Need:
    """How much of the confirmed files is more than shall be kept."""
    return Need(
        max(0, size_bytes - rules.keep_bytes) if rules.keep_bytes is not None else 0,
        max(0, files - rules.keep_files) if rules.keep_files is not None else 0,
    )


def room(space: Space) -> Need:
    """What must stay free whatever the rules say, so that the journal can be written."""
    return Need(min(ROOM_BYTES, int(space.total_bytes * ROOM_SHARE)), int(space.total_inodes * ROOM_INODES_SHARE))


def minimum(rules: Retention, space: Space) -> Need:
    """What shall be free. Who may drop what is unsent needs a minimum: it is the room that stays free, at least."""
    least = room(space) if rules.when_full == "drop_unsent" else Need()
    percent, inodes = rules.min_free_percent or 0.0, rules.min_free_inodes_percent or 0.0
    return Need(
        max(least.size_bytes, rules.min_free_bytes or 0, int(space.total_bytes * percent / 100)),
        max(least.inodes, int(space.total_inodes * inodes / 100)),
    )


def unmet(rules: Retention, space: Space) -> list[str]:
    """The minimums, in the owner's words, that are not passed by a tenth: what a lack, once there is one, is of."""
    free_percent = 100.0 * space.free_bytes / max(1, space.total_bytes)
    inodes_percent = 100.0 * space.free_inodes / space.total_inodes if space.total_inodes else 100.0
    said = (
        ("min_free_percent", rules.min_free_percent, free_percent),
        ("min_free_bytes", rules.min_free_bytes, space.free_bytes),
        ("min_free_inodes_percent", rules.min_free_inodes_percent, inodes_percent),
    )
    return [f"{name} ({least:.15g})" for name, least, free in said if least and free <= least * BEYOND]


def lacking(rules: Retention, space: Space, *, is_under: bool) -> Need:
    """How much must go: nothing above the minimum, and below it (or once it was, `is_under`) a tenth more than it."""
    least = minimum(rules, space)
    factor = BEYOND if is_under else 1.0
    size = least.size_bytes * factor - space.free_bytes
    inodes = least.inodes * factor - space.free_inodes
    if size <= 0 and inodes <= 0:
        return Need()
    return Need(
        max(0, int(least.size_bytes * BEYOND) + 1 - space.free_bytes) if size > 0 else 0,
        max(0, int(least.inodes * BEYOND) + 1 - space.free_inodes) if inodes > 0 else 0,
    )


def is_out_of_room(space: Space) -> bool:
    """Whether the next files will find no space."""
    least = room(space)
    return space.free_bytes < least.size_bytes or (space.total_inodes > 0 and space.free_inodes < least.inodes)


@dataclass(frozen=True, slots=True)
class Claim:
    """What one live row says of a file."""

    id: int
    address: str
    state: State
    facts: Facts
    is_unsettled: bool


def confirmed_version(claims: Sequence[Claim], *, wanting: frozenset[str]) -> Facts | None:
    """The version that everybody has who wants the file; None when somebody still owes it.

    `wanting`: the addresses that want it by themselves. A version that its handler dropped owes nothing.
    """
    having = [claim for claim in claims if claim.state is not State.GONE]
    facts = {claim.facts for claim in having}
    is_whole = all(claim.state is State.CONFIRMED and not claim.is_unsettled for claim in having)
    if not is_whole or len(facts) != 1 or not wanting <= {claim.address for claim in claims}:
        return None
    return facts.pop()


#: What may be dropped: not what is being sent, and not what is still written.
DROPPABLE = frozenset({State.READY, State.WAITING, State.PARKED})


def droppable_version(claims: Sequence[Claim]) -> Facts | None:
    """The version that can be dropped: nobody sends it, and it is finished."""
    having = [claim for claim in claims if claim.state is not State.GONE]
    facts = {claim.facts for claim in having}
    if len(facts) != 1 or not all(claim.state in DROPPABLE or claim.state is State.CONFIRMED for claim in having):
        return None
    return facts.pop()


def thinned(times: Mapping[int, float]) -> list[int]:
    """All but the first and the last, in the order in which to drop them so that what stays is spread evenly.

    `times`: row id -> when. Each time the one goes whose neighbours are nearest to one another.
    """
    ids = sorted(times, key=lambda each: (times[each], each))
    before = dict(zip(ids[1:], ids, strict=False))
    after = dict(pairwise(ids))
    heap = [(times[after[each]] - times[before[each]], each) for each in ids[1:-1]]
    heapq.heapify(heap)
    order: list[int] = []
    gone: set[int] = set()
    while heap:
        gap, each = heapq.heappop(heap)
        if each in gone or gap != times[after[each]] - times[before[each]]:
            continue  # a neighbour went since
        gone.add(each)
        order.append(each)
        left, right = before[each], after[each]
        after[left], before[right] = right, left
        for near in (left, right):
            if near in before and near in after:
                heapq.heappush(heap, (times[after[near]] - times[before[near]], near))
    return order
