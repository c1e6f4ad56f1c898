"""Any order of calls, runs and processes: rows are what a plain dict says, and counts are a recount."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections import Counter
from dataclasses import dataclass

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from syncagent.core.errors import FileChanged
from syncagent.core.model import TRANSITIONS, Digest, Facts, State
from syncagent.edges.journal import Arrival, Journal, Row, Tally
from tests.fakes import FakeClock

STORES = {"a": "one", "b": "one", "c": "two"}
ADDRESSES = st.sampled_from(sorted(STORES))
PATHS = st.sampled_from(["generated_data/x", "generated_data/d/\udcff", "/mnt/y"])
FACTS = st.integers(1, 3).map(lambda n: Facts(n * 10, n, n, 1))
KEYS = st.sampled_from(["k1", "k2"])
DIGESTS = {text: Digest(hashlib.md5(text.encode()).digest(), hashlib.sha256(text.encode()).digest()) for text in "123"}


@dataclass
class Version:
    """What the model knows of one row."""

    address: str
    path: str
    facts: Facts
    state: State
    reason: str = ""
    attempts: int = 0
    due: float = 0.0
    cloud_path: str | None = None

    def move(self, state: State, reason: str = "") -> None:
        assert state in TRANSITIONS[self.state], (self.state, state)
        self.state, self.reason = state, reason


class JournalMachine(RuleBasedStateMachine):
    """See the module."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.mkdtemp(prefix="journal-")
        self.clock = FakeClock()
        self.model: dict[int, Version] = {}
        self.held: dict[int, Row] = {}
        self.confirmed: dict[tuple[str, str], bytes] = {}
        self.positions: list[int] = []
        self.open()

    def open(self) -> None:
        self.journal = Journal(self.directory, self.clock)
        self.journal.set_stores(STORES)

    def teardown(self) -> None:
        self.journal.close()
        shutil.rmtree(self.directory)

    def own(self, address: str, path: str) -> list[Version]:
        return [v for _, v in sorted(self.model.items(), reverse=True) if (v.address, v.path) == (address, path)]

    # -- what the intake does

    @rule(arrivals=st.lists(st.tuples(ADDRESSES, PATHS, FACTS, st.booleans()), min_size=1, max_size=4))
    def record(self, arrivals: list[tuple[str, str, Facts, bool]]) -> None:
        expected = 0
        for address, path, facts, is_wanted in arrivals:
            wants: list[str | None] = [None] if is_wanted else []
            for cloud_path in (None, "k1", "k2"):
                versions = [v for v in self.own(address, path) if v.cloud_path == cloud_path]
                settling = [v for v in versions if v.state is State.SETTLING]
                stale = [v for v in versions if v.facts != facts and v not in settling]
                is_known = bool(settling)
                for version in settling:
                    version.facts = facts
                    version.move(State.READY)
                    expected += 1
                for version in stale:
                    if version.state in (State.READY, State.WAITING, State.PARKED):
                        version.move(State.SUPERSEDED)
                        wants.append(cloud_path)
                    elif version.state is State.CONFIRMED:
                        version.move(State.REMOVED)
                if versions and versions[0] not in settling + stale:
                    is_known = True
                    if versions[0].state in (State.SUPERSEDED, State.GONE):
                        versions[0].move(State.READY)
                        versions[0].attempts = 0
                        expected += 1
                    elif versions[0].state is State.REMOVED:
                        versions[0].move(State.CONFIRMED)
                if is_known:
                    wants = [want for want in wants if want != cloud_path]
            for cloud_path in sorted(set(wants), key=lambda want: want or ""):
                self.model[len(self.model) + 1] = Version(address, path, facts, State.READY, cloud_path=cloud_path)
                expected += 1
        given = [Arrival(address, path, facts, is_wanted=want) for address, path, facts, want in arrivals]
        assert self.journal.record(given) == expected

    @rule(address=ADDRESSES, path=PATHS, cloud_path=st.none() | KEYS, is_other_process=st.booleans())
    def ask(self, address: str, path: str, cloud_path: str | None, is_other_process: bool) -> None:
        open_states = (State.SETTLING, State.READY, State.SENDING, State.WAITING)
        found = [
            row_id
            for row_id, v in sorted(self.model.items(), reverse=True)
            if (v.address, v.path, v.cloud_path) == (address, path, cloud_path) and v.state in open_states
        ]
        if not found:
            found = [len(self.model) + 1]
            self.model[found[0]] = Version(address, path, Facts(0, 0, 0, 0), State.SETTLING, cloud_path=cloud_path)
        if is_other_process:
            other = Journal(self.directory, self.clock)
            assert other.ask(address, path, cloud_path=cloud_path) == found[0]
            other.close()
        else:
            assert self.journal.ask(address, path, cloud_path=cloud_path) == found[0]

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def vanish(self, data: st.DataObject) -> None:
        ids = data.draw(st.lists(st.sampled_from(sorted(self.model)), max_size=4))
        for row_id in ids:
            version = self.model[row_id]
            if version.state is State.CONFIRMED:
                version.move(State.REMOVED)
            elif version.state in (State.READY, State.WAITING, State.PARKED, State.SETTLING):
                version.move(State.GONE)
        self.journal.vanished(ids)

    # -- what the uploaders do

    @rule(address=ADDRESSES)
    def claim(self, address: str) -> None:
        row = self.journal.claim((address,))
        held_paths = {(held.address, held.path) for held in self.held.values()}
        free = [
            row_id
            for row_id, v in self.model.items()
            if v.address == address
            and v.state is State.READY
            and row_id not in self.held
            and (address, v.path) not in held_paths
        ]
        assert (row is None) == (not free)
        if row is not None:
            assert row.id in free
            assert (row.attempts > 0) <= all(self.model[row_id].attempts > 0 for row_id in free)
            self.held[row.id] = row

    @precondition(lambda self: self.held)
    @rule(
        data=st.data(),
        key=KEYS,
        text=st.sampled_from(sorted(DIGESTS)),
        end=st.sampled_from(["confirm", "defer", "release", "settling", "parked", "gone", "there", "die"]),
    )
    def send(self, data: st.DataObject, key: str, text: str, end: str) -> None:
        row = self.held.pop(data.draw(st.sampled_from(sorted(self.held))))
        version, journal, digest = self.model[row.id], self.journal, DIGESTS[text]
        is_overtaken = version.state is not State.READY
        if not self.journal.reserve_key(row, key):
            end = "release"
        if end == "there":
            journal.confirm(row, key=key, digest=digest, etag=None)
        else:
            try:
                journal.sending(row, key, digest)
                assert not is_overtaken
                version.attempts = row.attempts + 1
                version.move(State.SENDING)
            except FileChanged:
                assert is_overtaken
                end = "release" if end in ("confirm", "die") else end
        if end == "confirm":
            journal.confirm(row, key=key, digest=digest, etag="e")
        elif end == "defer":
            journal.defer(row, reason="link", wait_s=10)
        elif end == "release":
            journal.release(row)
        elif end in ("settling", "parked", "gone"):
            journal.finish(row, State(end), reason="why" if end == "parked" else "")
        journal.let_go(row)
        if is_overtaken:
            return
        if end in ("confirm", "there"):
            version.move(State.CONFIRMED)
        elif end == "defer":
            version.move(State.WAITING, "link")
            version.due = self.clock.monotonic() + 10
        elif end == "release" and version.state is State.SENDING:
            version.move(State.READY)
            version.attempts = row.attempts
        elif end in ("settling", "parked", "gone"):
            version.move(State(end), "why" if end == "parked" else "")
        if end == "confirm":
            self.confirmed[STORES[version.address], key] = digest.sha256
            position = journal.row(row.id).position
            assert position is not None
            self.positions.append(position)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def let_go(self, data: st.DataObject) -> None:
        self.journal.let_go(self.held.pop(data.draw(st.sampled_from(sorted(self.held)))))

    # -- what time and people do

    @rule(seconds=st.integers(0, 15), jump=st.sampled_from([0, 1e9, -1e9]))
    def wait(self, seconds: int, jump: float) -> None:
        self.clock.advance(seconds)
        self.clock.jump(jump)

    @rule()
    def wake_due(self) -> None:
        woken = [v for v in self.model.values() if v.state is State.WAITING and v.due <= self.clock.monotonic()]
        for version in woken:
            version.move(State.READY)
        assert self.journal.wake_due(tuple(STORES)) == len(woken)

    @rule(path=st.none() | PATHS)
    def retry(self, path: str | None) -> None:
        released = [
            v for v in self.model.values() if v.state in (State.PARKED, State.WAITING) and path in (None, v.path)
        ]
        for version in released:
            version.move(State.READY)
            version.attempts = 0
        assert self.journal.retry(None if path is None else [path]) == len(released)

    @rule(is_killed=st.booleans())
    def restart(self, is_killed: bool) -> None:
        if not is_killed:
            self.journal.close()
        old = self.journal
        self.held.clear()
        self.open()
        if is_killed:
            old.close()
        left = [v for v in self.model.values() if v.state in (State.SENDING, State.WAITING)]
        for version in left:
            version.move(State.READY)
        assert self.journal.recover() == len(left)

    # -- what holds always

    @invariant()
    def rows_are_what_the_model_says(self) -> None:
        found = {
            row.id: Version(row.address, row.path, row.facts, row.state, row.reason, row.attempts, 0.0, row.cloud_path)
            for row in self.journal.listing()
        }
        assert found == {row_id: Version(**{**vars(v), "due": 0.0}) for row_id, v in self.model.items()}

    @invariant()
    def counts_are_a_recount(self) -> None:
        files: Counter[tuple[str, State, str]] = Counter()
        sizes: Counter[tuple[str, State, str]] = Counter()
        for version in self.model.values():
            cell = (version.address, version.state, version.reason)
            files[cell] += 1
            sizes[cell] += version.facts.size_bytes
        assert self.journal.tally() == {cell: Tally(files[cell], sizes[cell]) for cell in files}
        assert self.journal.count_of(*State) == len(self.model)

    @invariant()
    def positions_grow_and_occupants_are_what_was_confirmed_last(self) -> None:
        assert self.positions == list(range(1, len(self.positions) + 1))
        for address, store in STORES.items():
            for key in ("k1", "k2"):
                assert self.journal.occupant(address, key) == self.confirmed.get((store, key))


JournalMachine.TestCase.settings = settings(
    max_examples=30,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
TestJournal = JournalMachine.TestCase
