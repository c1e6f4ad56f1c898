"""When a file is finished, in a world where only the test moves the clock."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import pytest

from syncagent.core.model import Facts
from syncagent.core.settle import (
    LEAST_QUIET_WITHOUT_LEASE_S,
    QUIET_WITHOUT_LEASE,
    Pending,
    Settling,
    Verdict,
    Writers,
)
from tests.fakes import FakeClock

_changes = itertools.count(1)


@dataclass
class File:
    """A simulated file: facts that move with each write, and how many writers have it open."""

    facts: Facts = field(default_factory=lambda: Facts(0, 0, 0, next(_changes)))
    writers: int = 0
    has_leases: bool = True

    def write(self, size_bytes: int = 10) -> None:
        change = next(_changes)
        self.facts = Facts(self.facts.size_bytes + size_bytes, change, change, self.facts.inode)

    @property
    def seen_writers(self) -> Writers:
        if not self.has_leases:
            return Writers.UNKNOWN
        return Writers.SOME if self.writers else Writers.NONE


class World:
    """Files, one Settling, and the loop that the intake is: look at what is due, no later than it is due."""

    def __init__(self, *, settle_s: float = 1.0, max_unsettled_s: float | None = None, limit: int = 1_000) -> None:
        self.clock = FakeClock()
        self.settling = Settling(limit)
        self.settle_s = settle_s
        self.max_unsettled_s = max_unsettled_s
        self.files: dict[str, File] = {}
        self.finished: dict[str, float] = {}
        self.unsettled: list[tuple[str, float]] = []
        self.begun = self.clock.monotonic()
        self.looks = 0

    def now(self) -> float:
        return self.clock.monotonic() - self.begun

    def see(self, name: str) -> bool:
        """A hint, or a scan, comes to this file."""
        return self.settling.see(
            name,
            self.files[name].facts,
            now=self.clock.monotonic(),
            settle_s=self.settle_s,
            max_unsettled_s=self.max_unsettled_s,
        )

    def add(self, name: str = "f", *, writers: int = 0, has_leases: bool = True) -> File:
        file = self.files[name] = File(writers=writers, has_leases=has_leases)
        assert self.see(name)
        return file

    def run(self, seconds: float) -> None:
        """Let time pass, looking whenever a look is due."""
        until = self.clock.monotonic() + seconds
        while (due := self.settling.next_due()) is not None and due <= until:
            self.clock.advance(max(0.0, due - self.clock.monotonic()))
            for name in self.settling.due(self.clock.monotonic(), limit=100):
                self.looks += 1
                file = self.files[name]
                verdict = self.settling.judge(name, file.facts, file.seen_writers, now=self.clock.monotonic())
                if verdict is Verdict.FINISHED:
                    self.finished[name] = self.now()
                elif verdict is Verdict.UNSETTLED:
                    self.unsettled.append((name, self.now()))
        self.clock.advance(max(0.0, until - self.clock.monotonic()))


@pytest.mark.parametrize("settle_s", [0.0, 0.3, 1.0, 10.0])
def test_a_file_that_nobody_has_open_is_finished_after_exactly_its_quiet_time(settle_s: float) -> None:
    world = World(settle_s=settle_s)
    world.add()
    world.run(settle_s + 1.0)
    assert world.finished == {"f": pytest.approx(settle_s)}
    assert len(world.settling) == 0
    assert world.looks == max(1, settle_s)  # a look each second, in case a change is not heard of


def test_each_change_of_any_fact_begins_the_quiet_time_anew() -> None:
    for change in ({"size_bytes": 1}, {"mtime_ns": 1}, {"ctime_ns": 1}, {"inode": 1}):
        settling = Settling()
        old = Facts(0, 0, 0, 0)
        new = Facts(**{"size_bytes": 0, "mtime_ns": 0, "ctime_ns": 0, "inode": 0, **change})
        settling.see("f", old, now=0.0, settle_s=1.0)
        assert settling.due(1.0, limit=9) == ["f"]
        assert settling.judge("f", new, Writers.NONE, now=1.0) is Verdict.NOT_YET
        assert settling.due(1.9, limit=9) == []
        assert settling.due(2.0, limit=9) == ["f"]
        assert settling.judge("f", new, Writers.NONE, now=2.0) is Verdict.FINISHED


def test_a_file_rewritten_under_its_old_mtime_is_told_by_its_ctime() -> None:
    world = World()
    file = world.add()
    world.run(0.9)
    file.facts = Facts(file.facts.size_bytes, file.facts.mtime_ns, file.facts.ctime_ns + 1, file.facts.inode)
    world.run(1.0)
    assert world.finished == {}
    world.run(0.2)
    assert world.finished == {"f": pytest.approx(2.0)}


def test_an_open_file_is_never_finished_however_quiet_it_is() -> None:
    world = World()
    file = world.add(writers=1)
    world.run(3_600)
    assert world.finished == {}
    file.writers = 0
    world.run(2.0)
    assert "f" in world.finished
    assert world.finished["f"] <= 3_600 + 2.0


def test_two_writers_must_both_have_closed() -> None:
    world = World()
    file = world.add(writers=2)
    world.run(5)
    file.writers = 1
    world.run(5)
    assert world.finished == {}
    file.writers = 0
    world.run(2)
    assert "f" in world.finished


@pytest.mark.parametrize("hears_close", [True, False])
@pytest.mark.parametrize("settle_s", [0.0, 0.5, 1.0, 4.0])
@pytest.mark.parametrize("written_s", [0.1, 0.7, 1.3, 5.05, 61.7])
def test_a_file_is_finished_at_most_two_seconds_after_its_quiet_time(
    written_s: float, settle_s: float, hears_close: bool
) -> None:
    world = World(settle_s=settle_s)
    file = world.add(writers=1)
    for _ in range(round(written_s / 0.05)):
        world.run(0.05)
        file.write()
        if hears_close:
            world.see("f")
    closed_at = world.now()
    file.writers = 0
    if hears_close:
        world.see("f")
    world.run(settle_s + 2.0)
    assert closed_at + settle_s - 1e-6 <= world.finished["f"] <= closed_at + settle_s + 2.0
    if hears_close:
        assert world.finished["f"] == pytest.approx(closed_at + settle_s)


def test_without_a_lease_five_times_the_quiet_decides() -> None:
    world = World(settle_s=2.0)
    file = world.add(has_leases=False)
    world.run(9.9)
    file.write()  # found by the next look, not before
    world.run(2.0 * QUIET_WITHOUT_LEASE)
    assert world.finished == {}
    world.run(1.0)
    assert world.finished == {"f": pytest.approx(2.0 * QUIET_WITHOUT_LEASE + 10.0)}


def test_without_a_lease_and_without_a_quiet_time_one_second_decides() -> None:
    world = World(settle_s=0.0)
    world.add(has_leases=False)
    world.run(LEAST_QUIET_WITHOUT_LEASE_S - 0.01)
    assert world.finished == {}
    world.run(0.02)
    assert "f" in world.finished


def test_a_busy_file_delays_only_itself() -> None:
    world = World()
    for number in range(50):
        world.add(f"busy-{number}", writers=1)
    world.run(30)
    world.add("quiet")
    world.run(1.0)
    assert world.finished == {"quiet": pytest.approx(31.0)}


def test_a_busy_file_is_looked_at_a_few_times_and_then_once_a_second() -> None:
    world = World()
    world.add(writers=1)
    world.run(600)
    assert world.looks <= 605


def test_a_file_that_is_written_for_ever_is_sent_as_it_is_each_time_the_limit_passes() -> None:
    world = World(max_unsettled_s=10.0)
    file = world.add(writers=1)
    for _ in range(70):
        world.run(0.5)
        file.write()
        world.see("f")
    assert [at for _, at in world.unsettled] == pytest.approx([10.0, 20.0, 30.0])
    assert "f" in world.settling
    file.writers = 0
    world.see("f")
    world.run(3.0)
    assert "f" in world.finished


def test_without_a_limit_a_file_is_never_sent_unsettled() -> None:
    world = World()
    world.add(writers=1)
    world.run(10_000)
    assert world.unsettled == []


def test_no_more_files_are_held_than_the_limit() -> None:
    world = World(limit=3)
    for name in "abc":
        world.add(name, writers=1)
    world.files["d"] = File()
    assert not world.see("d")
    assert world.settling.room == 0
    assert world.see("a")  # one that is held is always seen
    assert world.settling.evict(2) == 0  # nobody knows yet that they are busy
    world.run(1.5)
    assert world.settling.evict(2) == 2
    assert world.see("d")
    world.run(1.5)
    assert "d" in world.finished


def test_the_bookkeeping_of_looks_does_not_grow_with_the_number_of_hints() -> None:
    world = World()
    file = world.add(writers=1)
    for _ in range(5_000):
        world.run(0.01)
        file.write()
        world.see("f")
    assert len(world.settling) == 1
    assert len(world.settling._due) < 50


def test_a_forgotten_file_is_not_due_and_may_come_again() -> None:
    world = World()
    world.add()
    world.settling.forget("f")
    world.settling.forget("f")
    assert world.settling.next_due() is None
    world.run(5)
    assert world.finished == {}
    assert world.see("f")
    world.run(1)
    assert world.finished == {"f": pytest.approx(6.0)}


def test_due_gives_no_more_than_it_is_asked_for_and_nothing_twice() -> None:
    settling = Settling()
    for number in range(10):
        settling.see(str(number), Facts(1, 1, 1, number), now=0.0, settle_s=1.0)
        settling.see(str(number), Facts(1, 1, 1, number), now=0.5, settle_s=1.0)
    taken = [settling.due(5.0, limit=4) for _ in range(4)]
    assert [len(paths) for paths in taken] == [4, 4, 2, 0]
    assert len({path for paths in taken for path in paths}) == 10


def test_what_settles_is_shown_with_its_size_and_why() -> None:
    world = World()
    world.add("a", writers=1).write(100)
    world.see("a")
    world.add("b").write(11)
    world.see("b")
    world.run(0.9)
    shown = dict(world.settling.items())
    assert set(shown) == {"a", "b"}
    world.run(0.5)
    assert dict(world.settling.items())["a"].writers is Writers.SOME


def test_what_each_address_waits_for_is_counted_with_its_size_and_the_oldest_of_it() -> None:
    settling = Settling()
    for number, (name, addresses) in enumerate({"x": "ab", "y": "b", "asked": ""}.items()):
        assert settling.see(name, Facts(10, 1, 1, number), now=100.0 + number, settle_s=1.0, addresses=addresses)
    settling.see("y", Facts(15, 2, 2, 1), now=200.0, settle_s=1.0, addresses="c")
    assert settling.pending() == {"a": Pending(1, 10, 100.0), "b": Pending(2, 25, 100.0), "c": Pending(1, 15, 101.0)}
    settling.forget("x")
    assert settling.pending() == {"b": Pending(1, 15, 101.0), "c": Pending(1, 15, 101.0)}


def test_with_very_many_files_the_looks_are_spaced_out() -> None:
    world = World(limit=20_000)
    for number in range(3_000):
        world.add(str(number), writers=1)
    world.run(60)
    assert world.looks <= 60 * 1_000 + 2 * 3_000
