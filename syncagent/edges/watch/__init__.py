"""The doorbell: tells the intake which paths are worth a look, and when only a scan can tell.

Owns every inotify watch below the watched roots. Promises that whatever makes it deaf (a full kernel queue, a
root deleted, moved, replaced or unmounted, a dead thread, a bug, no watch left) is found by the next `check`,
asks for a rescan, is repaired or tried again, and stands in the facts; that an idle tree costs one `stat` per
root and check and wakes no thread; that it neither reads nor changes a file. Scanning is left to others.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from syncagent.edges.watch.ear import NO_WATCH_LEFT, Ear, Identity, explain
from syncagent.edges.watch.hints import Hints
from syncagent.edges.watch.mounts import Mounts

__all__ = ["Doorbell", "DoorbellFacts", "Hints", "outermost"]

logger = logging.getLogger(__name__)

REBUILD_S = 5.0  # no two ears of one root are built closer together
RETRY_S = 60.0  # between attempts to get events where they could not be had; also the longest backoff
REMEMBER_S = 600.0  # a repaired trouble stays in the reason this long, so that a person can see it
JOIN_S = 1.0  # for an ear that is being replaced


@dataclass(frozen=True, slots=True)
class DoorbellFacts:
    """What the doorbell can hear at the moment."""

    ok: bool
    state: str  # "events" | "polling" (scans only, for a part at least) | "off" (as configured) | "missing"
    reason: str  # words for a person, with the remedy; also of a trouble repaired a short while ago
    watches: int
    overflows: int
    restarts: int


def outermost(roots: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The roots that lie in no other one, each with those that lie in it."""
    named = sorted({root.rstrip("/") or "/" for root in roots}, key=lambda root: (len(root), root))
    nest: dict[str, tuple[str, ...]] = {}
    for root in named:
        outer = next((outer for outer in nest if _lies_in(root, outer)), None)
        if outer is None:
            nest[root] = ()
        else:
            nest[outer] += (root,)
    return nest


class Doorbell:
    """Listens at every root from `open` on; `check`, about once a second, is where repairs happen.

    All three are called from one thread. `never` names directories that are not to be heard.
    """

    def __init__(
        self,
        roots: Sequence[str],
        hints: Hints,
        *,
        events: bool = True,
        never: Sequence[str] = (),
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._events = events
        self._monotonic = monotonic
        self._mounts = Mounts()
        unheard = frozenset(os.fsencode(path) for path in never)
        self._places = [
            _Place(root, inner, hints=hints, mounts=self._mounts, events=events, never=unheard)
            for root, inner in outermost(roots).items()
        ]
        self._facts = DoorbellFacts(ok=True, state="off", reason="", watches=0, overflows=0, restarts=0)
        hints.know([place.root for place in self._places])

    def open(self) -> None:
        """Begins to listen, and asks for a scan of each root: what came before was not heard."""
        self._mounts.open()
        self.check()

    def check(self) -> DoorbellFacts:
        """Finds what broke since the last call, repairs what it can, says what it is now."""
        now = self._monotonic()
        for place in self._places:
            place.check(now)
        facts = self._gather(now)
        if (facts.state, facts.reason) != (self._facts.state, self._facts.reason):
            log = logger.info if facts.ok else logger.warning
            log("doorbell state=%s watches=%d reason=%s", facts.state, facts.watches, facts.reason)
        self._facts = facts
        return facts

    def close(self, deadline_s: float) -> None:
        """Stops listening. A thread that outlives the deadline is logged and ends with the process."""
        until = self._monotonic() + deadline_s
        for place in self._places:
            place.silence()
        for place in self._places:
            place.leave(max(0.0, until - self._monotonic()))
        self._mounts.close()

    def _gather(self, now: float) -> DoorbellFacts:
        states = {place.state for place in self._places}
        worst_first = ("missing", "polling", "events" if self._events else "off")
        state = next(state for state in worst_first if state in states or state == worst_first[-1])
        return DoorbellFacts(
            ok=state in ("events", "off"),
            state=state,
            reason="; ".join(filter(None, (place.reason(now) for place in self._places))),
            watches=sum(place.watches for place in self._places),
            overflows=sum(place.overflows for place in self._places),
            restarts=sum(place.restarts for place in self._places),
        )


class _Place:
    """One root: its ear, if it has one, and when to try for a new one."""

    def __init__(
        self,
        root: str,
        inner: tuple[str, ...],
        *,
        hints: Hints,
        mounts: Mounts,
        events: bool,
        never: frozenset[bytes],
    ) -> None:
        self.root = root
        self.restarts = 0
        self._inner = inner
        self._hints = hints
        self._mounts = mounts
        self._events = events
        self._never = never
        self._ear: Ear | None = None
        self._mounted: frozenset[tuple[bytes, bytes]] = frozenset()
        self._seen: dict[str, Identity | str] = {}
        self._past_overflows = 0
        self._trouble = ""
        self._trouble_at = 0.0
        self._built_at: float | None = None
        self._due = float("-inf")
        self._short_lives = 0

    @property
    def state(self) -> str:
        if any(isinstance(found, str) for found in self._seen.values()):
            return "missing"
        if self._events and (self._ear is None or self._ear.unheard):
            return "polling"
        return "events" if self._events else "off"

    @property
    def watches(self) -> int:
        return self._ear.watches if self._ear else 0

    @property
    def overflows(self) -> int:
        return self._past_overflows + (self._ear.overflows if self._ear else 0)

    def reason(self, now: float) -> str:
        missing = [f"{_shown(root)}: {found}" for root, found in self._seen.items() if isinstance(found, str)]
        if missing:
            return f"{', '.join(missing)}; create or mount it, it is looked for all the time"
        if self._ear is not None and self._ear.unheard:
            return f"{_shown(self.root)}: scans only for {self._ear.unheard} directories: {NO_WATCH_LEFT}"
        if self._trouble and (self._ear is None or now - self._trouble_at < REMEMBER_S):
            after = "a scan was asked for" if self._ear else "scans only until events are back"
            return f"{_shown(self.root)}: {self._trouble}; {after}"
        return ""

    def check(self, now: float) -> None:
        before, self._seen = self._seen, {root: _identify(root) for root in (self.root, *self._inner)}
        if self._ear is not None and (why := self._ear.fault() or self._replaced()):
            self._lose(why, now)
        identity = self._seen[self.root]
        if isinstance(identity, str):
            return
        if not self._events:
            if before and before[self.root] != identity:
                self._hints.suspect(self.root, "the directory was replaced or came back")
            return
        if now < self._due:
            return
        if self._ear is None:
            self._build(identity, now)
        elif self._ear.unheard:
            self._due = now + RETRY_S
            # Asked first, because a new ear costs a scan and this may go on for weeks.
            if self._ear.could_hear_more():
                self._lose("inotify watches are to be had again", now)
                self._build(identity, now)

    def silence(self) -> None:
        if self._ear is not None:
            self._ear.silence()

    def leave(self, deadline_s: float) -> None:
        if self._ear is not None and not self._ear.leave(deadline_s):
            logger.warning("doorbell did not end root=%s deadline_s=%.1f", _shown(self.root), deadline_s)
        self._ear = None

    def _replaced(self) -> str:
        assert self._ear is not None
        if self._seen[self.root] != self._ear.identity:
            return "the directory was deleted, moved, replaced or unmounted"
        if self._mounted != self._mounts.below(self.root):
            return "a file system was mounted or unmounted below it"
        return ""

    def _lose(self, why: str, now: float) -> None:
        assert self._ear is not None and self._built_at is not None
        self._hints.suspect(self.root, why)
        self._trouble, self._trouble_at = why, now
        self._past_overflows += self._ear.overflows
        self._ear.silence()
        self.leave(JOIN_S)
        self._short_lives = self._short_lives + 1 if now - self._built_at < RETRY_S else 0
        self._due = self._built_at + min(RETRY_S, REBUILD_S * 2 ** min(max(self._short_lives - 1, 0), 6))

    def _build(self, identity: Identity, now: float) -> None:
        mounted = self._mounts.below(self.root)  # before the walk, so that a change during it is seen after it
        ear = Ear(self.root, self._hints, identity=identity, never=self._never)
        try:
            ear.open()
        except FileNotFoundError:
            return  # it went this instant: the next check sees that it is missing
        except (OSError, RuntimeError) as error:  # RuntimeError: no thread to be had
            self._trouble, self._trouble_at = explain(error), now
            self._due = now + RETRY_S
            return
        if self._built_at is not None:
            self.restarts += 1
        self._ear, self._mounted, self._built_at = ear, mounted, now
        self._due = now + RETRY_S
        # After the watches stand: what happened while there were none rang nowhere.
        self._hints.suspect(self.root, self._trouble or "watching begins")


def _lies_in(path: str, root: str) -> bool:
    return path == root or path.startswith(root if root.endswith("/") else root + "/")


def _identify(root: str) -> Identity | str:
    """What the name leads to now, or in words why it leads nowhere."""
    try:
        found = os.stat(root)
    except OSError as error:
        return os.strerror(error.errno or 0).lower()
    return found.st_dev, found.st_ino


def _shown(path: str) -> str:
    """A path for people: any terminal and any log can print it."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")
