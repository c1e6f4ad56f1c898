"""A `chmod -R` costs neither the link nor the card; other bytes under an old mtime are found all the same."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from syncagent.core.errors import JournalBroken, Stopping
from syncagent.core.model import Facts, State
from syncagent.core.places import Places
from syncagent.edges.files import digest_of, facts_of
from syncagent.edges.journal import Arrival, Journal
from syncagent.workers.rechecker import BATCH, MAX_WAITING, PATIENCE_S, Rechecker
from tests.fakes import FakeClock, FakeStop


class World:
    """A directory of confirmed files, the journal that knows them, and the rechecker."""

    def __init__(self, base: Path, clock: FakeClock) -> None:
        self.root = base / "generated_data"
        self.root.mkdir()
        (base / "state").mkdir()
        self.journal = Journal(str(base / "state"), clock)
        self.journal.set_stores({"a": "s"})
        self.is_busy = False
        self.rings = 0
        self.stop = FakeStop(clock)
        self.rechecker = Rechecker(
            journal=self.journal,
            places=Places(str(base), str(self.root)),
            clock=clock,
            is_busy=lambda: self.is_busy,
            on_ready=self.ring,
        )

    def ring(self) -> None:
        self.rings += 1

    def confirm(self, name: str, content: bytes = b"content") -> None:
        (self.root / name).write_bytes(content)
        self.journal.record([Arrival("a", f"generated_data/{name}", self.facts(name))])
        row = self.journal.listing()[-1]
        self.journal.sending(row, name, digest_of(content))
        self.journal.confirm(row, key=name, digest=digest_of(content), etag="e")

    def facts(self, name: str) -> Facts:
        return facts_of(os.stat(self.root / name))

    def offer(self, name: str) -> bool:
        path = f"generated_data/{name}"
        return self.rechecker.offer(self.journal.known_at(path)[0], path, self.facts(name))

    def work(self) -> list[float]:
        waits = [self.rechecker.pass_once(self.stop)]
        while waits[-1] == 0.0:
            waits.append(self.rechecker.pass_once(self.stop))
        return waits

    def states(self) -> list[State]:
        return [row.state for row in self.journal.listing()]


@pytest.fixture
def world(tmp_path: Path, clock: FakeClock) -> Iterator[World]:
    world = World(tmp_path, clock)
    yield world
    world.journal.close()


def chmod(path: Path) -> None:
    before = os.stat(path)
    while os.stat(path).st_ctime_ns == before.st_ctime_ns:
        os.chmod(path, 0o600)
        os.chmod(path, 0o640)


def test_a_chmod_of_confirmed_files_sends_nothing_and_updates_what_is_known_of_them(world: World) -> None:
    names = [f"{n}.jpg" for n in range(5)]
    for name in names:
        world.confirm(name)
        chmod(world.root / name)
        assert world.offer(name)
    assert not world.rechecker.is_idle()
    world.work()
    assert world.states() == [State.CONFIRMED] * 5
    assert [row.facts for row in world.journal.listing()] == [world.facts(name) for name in names]
    assert world.rings == 0
    assert world.rechecker.is_idle()


def test_a_new_hard_link_is_no_new_version_of_the_old_name(world: World) -> None:
    world.confirm("a.jpg")
    os.link(world.root / "a.jpg", world.root / "b.jpg")
    world.offer("a.jpg")
    world.work()
    assert world.states() == [State.CONFIRMED]
    assert world.journal.listing()[0].facts == world.facts("a.jpg")


def test_other_bytes_under_the_old_size_and_mtime_are_recorded_and_sent(world: World) -> None:
    world.confirm("a.jpg", b"one")
    old = os.stat(world.root / "a.jpg")
    (world.root / "a.jpg").write_bytes(b"two")
    os.utime(world.root / "a.jpg", ns=(old.st_atime_ns, old.st_mtime_ns))
    chmod(world.root / "a.jpg")
    world.offer("a.jpg")
    world.work()
    assert world.states() == [State.REMOVED, State.READY]
    assert world.journal.listing()[1].facts == world.facts("a.jpg")
    assert world.rings == 1


def test_a_file_that_changes_or_vanishes_meanwhile_is_left_to_the_next_scan(world: World) -> None:
    for name in ("changed", "vanished"):
        world.confirm(name)
        chmod(world.root / name)
        world.offer(name)
    before = world.journal.listing()
    (world.root / "changed").write_bytes(b"something longer")
    os.unlink(world.root / "vanished")
    world.work()
    assert world.journal.listing() == before
    assert world.rechecker.is_idle()


def test_a_row_that_is_not_confirmed_any_more_is_left_alone(world: World) -> None:
    world.confirm("a.jpg")
    chmod(world.root / "a.jpg")
    world.offer("a.jpg")
    world.journal.vanished([1])
    world.work()
    assert world.states() == [State.REMOVED]
    assert world.rechecker.is_idle()


def test_files_that_wait_to_be_sent_come_first_and_what_was_hashed_is_not_hashed_again(world: World) -> None:
    for name in ("a", "b"):
        world.confirm(name)
        chmod(world.root / name)
        world.offer(name)
    assert world.rechecker.pass_once(world.stop) == 0.0
    world.is_busy = True
    assert world.rechecker.pass_once(world.stop) == 1.0
    assert world.journal.row(1).facts == world.facts("a")
    assert world.journal.row(2).facts != world.facts("b")
    assert not world.rechecker.is_idle()
    world.is_busy = False
    world.work()
    assert world.journal.row(2).facts == world.facts("b")


def test_files_that_are_always_being_sent_hold_up_a_rewritten_one_for_some_seconds_only(world: World) -> None:
    names = ("a", "b", "c")
    for name in names:
        world.confirm(name)
        chmod(world.root / name)
        world.offer(name)
    world.is_busy = True
    for hashed, name in enumerate(names):
        assert world.rechecker.pass_once(world.stop) == 1.0
        assert len([row for row in world.journal.listing() if row.facts == world.facts(row.path[15:])]) == hashed, name
        world.stop.clock.advance(PATIENCE_S)
        assert world.rechecker.pass_once(world.stop) == 0.0
        world.rechecker.pass_once(world.stop)


def test_a_file_is_not_hashed_to_its_end_when_the_agent_is_to_stop(world: World) -> None:
    world.confirm("a")
    chmod(world.root / "a")
    world.offer("a")
    world.stop.set()
    with pytest.raises(Stopping):
        world.rechecker.pass_once(world.stop)
    assert world.journal.row(1).facts != world.facts("a")


def test_it_is_not_idle_before_the_journal_knows_what_it_found(world: World) -> None:
    world.confirm("a")
    chmod(world.root / "a")
    world.offer("a")
    while not world.rechecker.is_idle():
        world.rechecker.pass_once(world.stop)
    assert world.journal.row(1).facts == world.facts("a")


def test_many_files_cost_few_commits(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(BATCH + 20):
        world.confirm(f"{number}")
        chmod(world.root / f"{number}")
        world.offer(f"{number}")
    commits: list[int] = []
    reface = world.journal.reface

    def counted(pairs: Sequence[tuple[int, Facts]]) -> None:
        commits.append(len(pairs))
        reface(pairs)

    monkeypatch.setattr(world.journal, "reface", counted)
    world.work()
    assert commits == [BATCH, 20]
    assert all(row.facts == world.facts(row.path.rpartition("/")[2]) for row in world.journal.listing())


def test_the_queue_is_bounded_and_takes_a_path_once(world: World) -> None:
    world.confirm("a")
    assert world.offer("a")
    assert world.offer("a")
    known, facts = world.journal.known_at("generated_data/a")[0], world.facts("a")
    taken = [world.rechecker.offer(known, f"generated_data/{n}", facts) for n in range(MAX_WAITING)]
    assert taken == [True] * (MAX_WAITING - 1) + [False]


def test_a_journal_that_is_broken_for_a_moment_does_not_lose_a_file_for_ever(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.confirm("a", b"one")
    (world.root / "a").write_bytes(b"two")
    world.offer("a")

    def full(_: object) -> int:
        raise JournalBroken("disk full")

    with monkeypatch.context() as broken:
        broken.setattr(world.journal, "record", full)
        with pytest.raises(JournalBroken):
            world.rechecker.pass_once(world.stop)
    assert world.rechecker.is_idle()
    assert world.offer("a")
    world.work()
    assert world.states() == [State.REMOVED, State.READY]
