"""What goes from the disk, by the owner's rules: confirmed files, oldest first, and unsent ones only where allowed."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from syncagent.core.board import Board
from syncagent.core.errors import JournalBroken
from syncagent.core.model import Facts, State
from syncagent.core.places import Places
from syncagent.core.retention import DAY_S, Space, scopes_of
from syncagent.core.settings import Carrier, Retention, SendAddress, Upload, Watch
from syncagent.core.territory import ASIDE, Territory
from syncagent.docks.clearance import TIDY_S, Clearance
from syncagent.docks.losses import EVERY_S, Losses
from syncagent.edges import files, removal
from syncagent.edges.files import digest_of, facts_of
from syncagent.edges.inbox import Outbox
from syncagent.edges.journal import Arrival, Ask, Journal, deliveries
from syncagent.edges.removal import aside_name
from syncagent.edges.reserve import Reserve
from syncagent.edges.watch.mounts import Mounts
from syncagent.workers import pruner as pruner_module
from syncagent.workers.pruner import AGAIN_S, Pruner
from tests.fakes import FakeClock, FakeStop

CONTENT = b"content"
PLENTY = Space(10**12, 10**12, 10**6, 10**6)


def address(name: str, *, path: str = "camera", duration: str | float = "on_change", **retention: Any) -> SendAddress:
    carrier = Carrier(
        name=f"c-{name}",
        path=path,
        system_id="s",
        bucket_name="b",
        watch=Watch(),
        upload=Upload(),
        retention=Retention(**retention),
    )
    return SendAddress(name=name, configured_name=name, message_type="t", carrier=carrier, duration=duration)


class World:
    """A directory, its journal, and the pruner. The disk has as much space as `space` says."""

    def __init__(self, base: Path, clock: FakeClock, *addresses: SendAddress) -> None:
        self.base = base
        self.clock = clock
        self.root = base / "generated_data"
        self.state = base / "state"
        for directory in (self.root / "camera", self.state):
            directory.mkdir(parents=True, exist_ok=True)
        self.addresses = addresses
        self.journal = Journal(str(self.state), clock)
        self.journal.set_stores({each.name: "store" for each in addresses})
        self.places = Places(str(base), str(self.root), (str(base / "elsewhere"), str(self.state / "outbox")))
        self.board = Board(clock.monotonic)
        self.looks: list[str] = []
        self.settling: set[str] = set()
        self.stop = FakeStop(clock)
        self.mounts = Mounts()  # without any
        self.pruner, self.clearance = self.build()

    def build(self) -> tuple[Pruner, Clearance]:
        """As after a restart."""
        cleared = Clearance(
            journal=self.journal,
            places=self.places,
            territory=Territory(self.addresses),
            board=self.board,
            clock=self.clock,
            is_settling=lambda path: path in self.settling,
            on_look_again=self.looks.append,
        )
        losses = [
            Losses(
                each.carrier,
                [each],
                journal=self.journal,
                outbox=Outbox(str(self.state / "outbox")),
                clock=self.clock,
            )
            for each in self.addresses
        ]
        pruner = Pruner(
            scopes=scopes_of(self.addresses),
            clearance=cleared,
            losses=losses,
            reserve=Reserve(str(self.state)),
            mounts=self.mounts,
            journal=self.journal,
            places=self.places,
            clock=self.clock,
            board=self.board,
        )
        return pruner, cleared

    def write(self, name: str, content: bytes = CONTENT) -> str:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return f"generated_data/{name}"

    def facts(self, name: str) -> Facts:
        return facts_of(os.stat(self.root / name))

    def record(self, name: str, *addresses: str, content: bytes = CONTENT, is_unsettled: bool = False) -> str:
        path = self.write(name, content)
        for each in addresses or [each.name for each in self.addresses]:
            self.journal.record([Arrival(each, path, self.facts(name), is_unsettled)])
        return path

    def confirm(self, path: str, *addresses: str) -> None:
        for row in self.journal.listing([State.READY]):
            if row.path == path and (not addresses or row.address in addresses):
                content = (self.base / path).read_bytes()
                self.journal.confirm(row, key=f"{row.address}/{path}", digest=digest_of(content), etag="e")

    def have(self, name: str, content: bytes = CONTENT) -> str:
        path = self.record(name, content=content)
        self.confirm(path)
        return path

    def work(self) -> float:
        """Passes until there is nothing to do at once."""
        while not (wait_s := self.pruner.pass_once(self.stop)):
            pass
        return wait_s

    def left(self) -> list[str]:
        found = [path.relative_to(self.root).as_posix() for path in self.root.rglob("*") if path.is_file()]
        return sorted(found)

    def states(self) -> dict[str, State]:
        return {row.path.rpartition("/")[2]: row.state for row in self.journal.listing()}

    def fact(self) -> Any:
        return self.board.fact("disk/retention/camera")


Make = Callable[..., World]


@pytest.fixture
def make(tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    worlds: list[World] = []
    before = signal.signal(signal.SIGIO, signal.SIG_IGN)
    monkeypatch.setattr(removal, "space_at", lambda _path: PLENTY)

    def made(*addresses: SendAddress, **retention: Any) -> World:
        worlds.append(World(tmp_path, clock, *(addresses or [address("a", **retention)])))
        return worlds[-1]

    yield made
    for world in worlds:
        world.journal.close()
    signal.signal(signal.SIGIO, before)


class Disk:
    """A disk of so many bytes, of which each file takes as many as it has."""

    def __init__(self, world: World, total_bytes: int, *, monkeypatch: pytest.MonkeyPatch) -> None:
        self.world = world
        self.total_bytes = total_bytes
        self.inodes = 10**6
        self.below = ""
        monkeypatch.setattr(removal, "space_at", self.space_at)

    def space_at(self, _path: str) -> Space:
        files = [path for path in (self.world.root / self.below).rglob("*") if path.is_file()]
        used = sum(path.stat().st_size for path in files)
        return Space(max(0, self.total_bytes - used), self.total_bytes, max(0, self.inodes - len(files)), self.inodes)


# -- the rules ---------------------------------------------------------------------------------------------------------


def test_by_default_nothing_is_removed(make: Make, clock: FakeClock) -> None:
    world = make()
    world.have("camera/a.jpg")
    clock.advance(10 * 366 * DAY_S)
    world.work()
    assert world.left() == ["camera/a.jpg"]


@pytest.mark.parametrize("rule", ["keep_days", "keep_files", "keep_bytes"])
def test_0_removes_as_soon_as_confirmed(make: Make, rule: str) -> None:
    world = make(**{rule: 0})
    world.have("camera/a.jpg")
    world.record("camera/unsent.jpg")
    world.work()
    assert world.left() == ["camera/unsent.jpg"]
    assert world.states() == {"a.jpg": State.REMOVED, "unsent.jpg": State.READY}
    assert world.pruner.is_idle()


def test_keep_days_counts_journal_time_and_not_the_wall_clock(make: Make, clock: FakeClock) -> None:
    world = make(keep_days=2)
    world.have("camera/a.jpg")
    clock.jump(50 * 366 * DAY_S)
    world.work()
    assert world.left() == ["camera/a.jpg"]
    clock.jump(-100 * 366 * DAY_S)
    clock.advance(1.9 * DAY_S)
    world.have("camera/b.jpg")
    world.work()
    assert world.left() == ["camera/a.jpg", "camera/b.jpg"]
    clock.advance(0.2 * DAY_S)
    world.work()
    assert world.left() == ["camera/b.jpg"]


def test_keep_files_keeps_the_newest_of_them(make: Make, clock: FakeClock) -> None:
    world = make(keep_files=3)
    for number in range(200):
        world.have(f"camera/{number:03d}.jpg")
        clock.advance(1)
    world.record("camera/unsent.jpg")
    world.work()
    assert world.left() == ["camera/197.jpg", "camera/198.jpg", "camera/199.jpg", "camera/unsent.jpg"]
    clock.advance(AGAIN_S)
    world.have("camera/200.jpg")
    world.work()
    assert world.left() == ["camera/198.jpg", "camera/199.jpg", "camera/200.jpg", "camera/unsent.jpg"]


@pytest.mark.parametrize("rules", [{"keep_files": 3}, {"keep_bytes": 30}], ids=["files", "bytes"])
def test_of_files_of_one_size_that_come_one_by_one_no_more_are_kept(
    make: Make, clock: FakeClock, rules: dict[str, int]
) -> None:
    world = make(**rules)
    for number in range(10):
        world.have(f"camera/{number}.jpg", b"ten bytes!")
        world.work()
        assert world.left() == [f"camera/{kept}.jpg" for kept in range(max(0, number - 2), number + 1)]
        clock.advance(60)


def test_a_file_that_two_addresses_send_counts_once(make: Make, clock: FakeClock) -> None:
    world = make(address("a", keep_files=2), address("b", keep_files=2))
    for number in range(5):
        world.have(f"camera/{number}.jpg")
        clock.advance(1)
    world.work()
    assert world.left() == ["camera/3.jpg", "camera/4.jpg"]
    assert world.board.count("removed_files") == 3


def test_keep_bytes_keeps_the_newest_of_them(make: Make, clock: FakeClock) -> None:
    world = make(keep_bytes=25)
    for number in range(5):
        world.have(f"camera/{number}.jpg", b"ten bytes!")
        clock.advance(1)
    world.work()
    assert world.left() == ["camera/3.jpg", "camera/4.jpg"]


def test_each_watched_directory_has_its_own_count(make: Make, clock: FakeClock) -> None:
    world = make(address("a", keep_files=1), address("b", path="camera/inner", keep_files=2), address("c", path="x"))
    for name in ("camera/1", "camera/2", "camera/inner/1", "camera/inner/2", "camera/inner/3", "x/1", "x/2"):
        owner = "a" if name.count("/") == 1 else "b"
        path = world.record(name, "c" if name.startswith("x") else owner)
        world.confirm(path)
        clock.advance(1)
    world.work()
    assert world.left() == ["camera/2", "camera/inner/2", "camera/inner/3", "x/1", "x/2"]


def test_below_a_minimum_the_oldest_confirmed_go_until_it_is_passed_by_a_tenth(
    make: Make, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make(min_free_percent=50)
    Disk(world, 100_000, monkeypatch=monkeypatch)
    for number in range(48):
        world.have(f"camera/{number:02d}.jpg", bytes(1000))
        clock.advance(1)
    world.work()
    assert len(world.left()) == 48
    for number in range(48, 53):
        world.have(f"camera/{number:02d}.jpg", bytes(1000))
        clock.advance(1)
    world.work()
    # 55 % are free: 45 files are left, the newest ones.
    assert len(world.left()) == 44 and world.left()[0] == "camera/09.jpg"
    assert world.fact() is None or world.fact().ok


def test_too_few_free_inodes_are_a_lack_as_well(make: Make, clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    world = make(min_free_inodes_percent=50)
    Disk(world, 10**9, monkeypatch=monkeypatch).inodes = 100
    for number in range(60):
        world.have(f"camera/{number:02d}.jpg")
        clock.advance(1)
    world.work()
    assert len(world.left()) == 44


def test_new_rules_are_taken_over_while_it_runs(make: Make) -> None:
    world = make()
    world.have("camera/a.jpg")
    world.work()
    world.pruner.set_scopes(scopes_of([address("a", keep_files=0)]))
    world.work()
    assert world.left() == []


def test_very_many_files_are_removed_in_batches(make: Make, clock: FakeClock) -> None:
    world = make(keep_files=0)
    for number in range(pruner_module.BATCH * 2 + 1):
        world.have(f"camera/{number}.jpg")
    assert world.pruner.pass_once(world.stop) == 0.0
    assert len(world.left()) == pruner_module.BATCH + 1
    assert not any(ASIDE in name for name in world.left())
    world.work()
    assert world.left() == []


# -- what stays --------------------------------------------------------------------------------------------------------


def test_a_file_that_another_address_still_owes_is_not_removed(make: Make) -> None:
    world = make(address("a", keep_files=0), address("b", keep_files=0))
    path = world.record("camera/a.jpg")
    world.confirm(path, "a")
    world.work()
    assert world.left() == ["camera/a.jpg"]
    world.confirm(path, "b")
    world.clock.advance(AGAIN_S)
    world.work()
    assert world.left() == []
    assert [row.state for row in world.journal.listing()] == [State.REMOVED] * 2


def test_a_file_that_somebody_asked_for_under_another_key_is_not_removed(make: Make) -> None:
    world = make(keep_files=0)
    path = world.have("camera/a.jpg")
    world.journal.take([(b"1" * 32, "t", [Ask("a", path, "other/key", "{}")])])
    world.work()
    assert world.left() == ["camera/a.jpg"]


def test_what_was_sent_before_it_was_finished_is_not_removed(make: Make) -> None:
    world = make(keep_files=0)
    world.confirm(world.record("camera/a.jpg", is_unsettled=True))
    world.work()
    assert world.left() == ["camera/a.jpg"]


def test_a_file_with_a_new_ctime_is_not_removed_until_it_was_hashed_again(make: Make) -> None:
    world = make(keep_files=0)
    path = world.have("camera/a.jpg")
    before = world.facts("camera/a.jpg")
    while world.facts("camera/a.jpg").ctime_ns == before.ctime_ns:
        os.chmod(world.root / "camera/a.jpg", 0o600)
        os.chmod(world.root / "camera/a.jpg", 0o640)
    world.work()
    assert world.left() == ["camera/a.jpg"] and world.states() == {"a.jpg": State.CONFIRMED}
    world.journal.reface([(world.journal.known_at(path)[0].id, world.facts("camera/a.jpg"))])
    world.clock.advance(AGAIN_S)
    world.work()
    assert world.left() == []


def test_a_rewritten_file_is_never_deleted(make: Make) -> None:
    world = make(keep_files=0)
    world.have("camera/a.jpg")
    world.write("camera/a.jpg", b"new content")
    world.work()
    assert (world.root / "camera/a.jpg").read_bytes() == b"new content"


def twins(world: World, *names: str) -> None:
    """Names of one file, each confirmed."""
    (world.root / names[0]).write_bytes(CONTENT)
    for name in names[1:]:
        os.link(world.root / names[0], world.root / name)
    for name in names:
        for each in world.addresses:
            world.journal.record([Arrival(each.name, f"generated_data/{name}", world.facts(name))])
        world.confirm(f"generated_data/{name}")


def test_names_of_one_file_go_one_after_the_other_and_nothing_is_hashed_again(make: Make) -> None:
    world = make(keep_days=0)
    twins(world, "camera/a.jpg", "camera/b.jpg", "camera/c.jpg")
    world.work()
    assert world.left() == [] and set(world.states().values()) == {State.REMOVED}


def test_what_our_removal_did_to_another_name_is_no_news_of_it(make: Make, clock: FakeClock) -> None:
    world = make(address("a", keep_files=1), address("b", keep_files=1))
    twins(world, "camera/a.jpg", "camera/b.jpg")
    world.work()
    assert world.left() == ["camera/b.jpg"]
    known = world.journal.known_at("generated_data/camera/b.jpg")
    assert [row.facts for row in known] == [world.facts("camera/b.jpg")] * 2
    # Of what its owner does to it, only its bytes tell.
    before = world.facts("camera/b.jpg")
    chmod(world.root / "camera/b.jpg")
    world.clock.advance(AGAIN_S)
    world.work()
    assert [row.facts for row in world.journal.known_at("generated_data/camera/b.jpg")] == [before] * 2


def test_a_crash_between_two_names_leaves_the_other_to_be_hashed_again(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make(keep_days=0)
    twins(world, "camera/a.jpg", "camera/b.jpg")
    remove = removal.remove

    def dies(root: str, path: str, facts: Facts, *, row_id: int) -> removal.Removal:
        if path.endswith("b.jpg"):
            raise KeyboardInterrupt
        return remove(root, path, facts, row_id=row_id)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(removal, "remove", dies)
        world.work()
    restart(world)
    assert world.left() == ["camera/b.jpg"]
    (known,) = world.journal.known_at("generated_data/camera/b.jpg")
    assert known.state is State.CONFIRMED and known.facts != world.facts("camera/b.jpg")


def test_a_file_that_is_being_written_is_not_removed(make: Make) -> None:
    world = make(keep_files=0)
    path = world.have("camera/a.jpg")
    with open(world.root / "camera/a.jpg", "ab"):
        world.work()
    world.settling.add(path)
    world.clock.advance(AGAIN_S)
    world.work()
    assert world.left() == ["camera/a.jpg"]


def test_files_from_elsewhere_are_not_touched(make: Make) -> None:
    world = make(keep_files=0, keep_days=0)
    elsewhere = world.base / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "a.jpg").write_bytes(CONTENT)
    world.journal.record([Arrival("a", str(elsewhere / "a.jpg"), facts_of(os.stat(elsewhere / "a.jpg")))])
    world.confirm(str(elsewhere / "a.jpg"))
    world.work()
    assert (elsewhere / "a.jpg").exists()


def test_one_file_that_cannot_go_does_not_hold_up_those_behind_it(make: Make, clock: FakeClock) -> None:
    world = make(keep_files=0)
    for number in range(150):
        world.have(f"camera/{number:03d}.jpg")
        clock.advance(1)
    for number in range(100):
        world.write(f"camera/{number:03d}.jpg", b"rewritten")
    world.work()
    assert world.left() == [f"camera/{number:03d}.jpg" for number in range(100)]


def test_a_removal_that_fails_is_shown_and_others_go_on(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    world = make(keep_files=0)
    world.have("camera/a.jpg")
    world.have("camera/b.jpg")
    unlink = os.unlink

    def refuse(name: str, *, dir_fd: int | None = None) -> None:
        if name.endswith("a.jpg"):
            raise PermissionError(13, "Permission denied")
        unlink(name, dir_fd=dir_fd)

    monkeypatch.setattr(os, "unlink", refuse)
    world.work()
    assert [complaint.what for complaint in world.board.complaints()] == ["remove"]
    (left,) = world.left()
    assert left.startswith(f"camera/{ASIDE}") and left.endswith(".a.jpg")


# -- directories -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("may", [True, False])
def test_empty_directories_go_only_if_the_agent_may_and_never_the_watched_one(make: Make, may: bool) -> None:
    world = make(keep_files=0, remove_empty_directories=may)
    (world.root / "camera/made/by/others").mkdir(parents=True)
    world.have("camera/2025/06/a.jpg")
    world.have("camera/b.jpg")
    world.work()
    assert (world.root / "camera/2025/06").is_dir()
    world.clock.advance(TIDY_S)
    for _ in range(4):
        world.work()
    assert (world.root / "camera/2025").exists() is not may
    assert (world.root / "camera").is_dir() and (world.root / "camera/made/by/others").is_dir()


@pytest.mark.parametrize("may", [True, False])
def test_a_run_that_ends_with_its_work_does_not_wait_with_what_it_emptied(make: Make, may: bool) -> None:
    world = make(keep_files=0, remove_empty_directories=may)
    for path in ("camera/made/by/others", "camera/2025/made/by/others"):
        (world.root / path).mkdir(parents=True)
    world.have("camera/2024/06/a.jpg")
    world.have("camera/2025/06/a.jpg")
    world.have("camera/b.jpg")
    world.work()
    world.pruner.tidy()
    assert (world.root / "camera/2024").exists() is (world.root / "camera/2025/06").exists() is not may
    assert (world.root / "camera/made/by/others").is_dir() and (world.root / "camera/2025/made/by/others").is_dir()


# -- after a crash -----------------------------------------------------------------------------------------------------


def aside(world: World, name: str, row_id: int) -> str:
    """The file as a run left it that ended between setting it aside and removing it."""
    head, _, last = name.rpartition("/")
    place = f"{head}/{aside_name(last, row_id)}"
    os.rename(world.root / name, world.root / place)
    return place


def restart(world: World, *places: str) -> None:
    world.pruner, world.clearance = world.build()
    for place in places:
        world.clearance.found_aside(place)
    world.work()


def test_a_file_that_a_crash_left_aside_goes_back(make: Make) -> None:
    world = make(keep_files=0)
    path = world.have("camera/a.jpg")
    restart(world, aside(world, "camera/a.jpg", world.journal.known_at(path)[0].id))
    assert world.left() == ["camera/a.jpg"] and world.looks == [path]


def test_a_file_left_aside_that_no_journal_knows_goes_back(make: Make) -> None:
    world = make(keep_files=0)
    world.write("camera/a.jpg")
    restart(world, aside(world, "camera/a.jpg", 4711))
    assert world.left() == ["camera/a.jpg"]


def test_a_file_left_aside_whose_row_id_is_now_anothers_goes_back_under_its_own_name(make: Make) -> None:
    world = make()
    other = world.have("camera/b.jpg")
    world.write("camera/a.jpg")
    restart(world, aside(world, "camera/a.jpg", world.journal.known_at(other)[0].id))
    assert world.left() == ["camera/a.jpg", "camera/b.jpg"]


def test_a_name_too_long_to_be_set_aside_whole_comes_back_whole(make: Make) -> None:
    world = make()
    name = "camera/" + "x" * 251 + ".jpg"
    path = world.have(name)
    restart(world, aside(world, name, world.journal.known_at(path)[0].id))
    assert world.left() == [name]


def test_what_is_left_aside_in_a_directory_that_no_scan_looks_into_is_found_at_the_start(make: Make) -> None:
    world = make(address("a", duration="on_message"))
    path = world.have("camera/a.jpg")
    aside(world, "camera/a.jpg", world.journal.known_at(path)[0].id)
    restart(world)
    assert world.left() == ["camera/a.jpg"]


def test_a_loss_that_was_written_down_before_the_crash_is_carried_out(make: Make) -> None:
    world = make(when_full="drop_unsent")
    path = world.record("camera/a.jpg")
    (row,) = world.journal.known_at(path)
    world.journal.lose([row.id], "full")
    restart(world, aside(world, "camera/a.jpg", row.id))
    assert world.left() == [] and world.states()["a.jpg"] is State.LOST


@pytest.mark.parametrize("is_aside", [True, False])
def test_a_loss_that_a_crash_left_undone_where_no_scan_looks_is_found_at_the_start(make: Make, is_aside: bool) -> None:
    world = make(address("a", duration="on_message", when_full="drop_unsent"))
    path = world.record("camera/a.jpg")
    world.record("camera/gone.jpg")
    world.journal.lose([row.id for row in world.journal.listing()], "full")
    os.unlink(world.root / "camera/gone.jpg")
    if is_aside:
        (row,) = (row for row in world.journal.listing() if row.path == path)
        aside(world, "camera/a.jpg", row.id)
    restart(world)
    assert world.left() == ([] if is_aside else ["camera/a.jpg"])
    states = world.states()
    assert states["a.jpg"] is (State.LOST if is_aside else State.READY) and states["gone.jpg"] is State.LOST


def test_a_loss_whose_file_was_still_there_is_none(make: Make) -> None:
    world = make(when_full="drop_unsent")
    path = world.record("camera/a.jpg")
    (row,) = world.journal.known_at(path)
    world.journal.lose([row.id], "full")
    assert world.journal.record([Arrival("a", path, world.facts("camera/a.jpg"))]) == 1
    assert world.states() == {"a.jpg": State.READY}


def test_a_removal_that_a_crash_kept_from_the_journal_is_one_when_the_scan_misses_the_file(make: Make) -> None:
    world = make(keep_files=0)
    path = world.have("camera/a.jpg")
    os.unlink(world.root / "camera/a.jpg")
    world.work()
    assert world.states() == {"a.jpg": State.CONFIRMED}
    world.journal.vanished(known.id for known in world.journal.known_at(path))
    assert world.states() == {"a.jpg": State.REMOVED}


# -- a journal that cannot be written ----------------------------------------------------------------------------------


def broken(monkeypatch: pytest.MonkeyPatch, world: World) -> None:
    def no_room(*_: Any, **__: Any) -> None:
        raise JournalBroken("database or disk is full")

    monkeypatch.setattr(world.journal, "_write", no_room)


def test_confirmed_files_go_while_the_journal_cannot_be_written_and_are_written_down_later(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make(keep_files=0)
    for number in range(100):
        world.have(f"camera/{number}.jpg")
    with monkeypatch.context() as patch:
        broken(patch, world)
        world.work()
        assert world.left() == []
        assert set(world.states().values()) == {State.CONFIRMED}
    world.work()
    assert set(world.states().values()) == {State.REMOVED}


def test_what_is_proved_and_cannot_be_written_down_is_held_and_not_sent_again(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make()
    world.record("camera/a.jpg")
    world.record("camera/b.jpg")
    row = world.journal.claim(["a"])
    assert row is not None
    with monkeypatch.context() as patch:
        broken(patch, world)
        world.journal.confirm(row, key="k", digest=digest_of(CONTENT), etag="e")
        world.journal.release(row)
        world.journal.let_go(row)
        following = world.journal.claim(["a"])
        assert following is not None and following.path != row.path
        assert world.journal.claim(["a"]) is None
        world.work()
        assert not world.board.facts()["disk/journal"].ok
    world.work()
    assert world.board.facts()["disk/journal"].ok
    assert world.journal.row(row.id).state is State.CONFIRMED


def test_no_more_proofs_are_held_than_fit_into_memory(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    world = make()
    monkeypatch.setattr(deliveries, "MOST_PROVED", 1)
    for number in range(2):
        world.record(f"camera/{number}.jpg")
    broken(monkeypatch, world)
    for number in range(2):
        row = world.journal.claim(["a"])
        assert row is not None
        with pytest.raises(JournalBroken) if number else contextlib.nullcontext():
            world.journal.confirm(row, key="k", digest=digest_of(CONTENT), etag="e")


def test_what_is_proved_and_cannot_be_written_down_goes_and_makes_room(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make(min_free_percent=50)
    Disk(world, 10, monkeypatch=monkeypatch)
    world.record("camera/a.jpg")
    row = world.journal.claim(["a"])
    assert row is not None
    with monkeypatch.context() as patch:
        broken(patch, world)
        world.journal.confirm(row, key="k", digest=digest_of(CONTENT), etag="e")
        world.work()
        assert world.left() == []
    world.work()
    assert world.states() == {"a.jpg": State.REMOVED}
    assert world.journal.listing()[0].position == 1


# -- a full card -------------------------------------------------------------------------------------------------------


def filled(make: Make, clock: FakeClock, monkeypatch: pytest.MonkeyPatch, **retention: Any) -> World:
    """A disk on which 100 unsent files of 1,000 bytes leave nothing."""
    world = make(min_free_percent=10, **retention)
    Disk(world, 100_000, monkeypatch=monkeypatch)
    for number in range(100):
        world.record(f"camera/{number:03d}.jpg", content=bytes(1000))
        clock.advance(10)
    return world


def test_by_default_a_full_card_loses_nothing_and_says_that_recording_will_stop(
    make: Make, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = filled(make, clock, monkeypatch)
    world.work()
    assert len(world.left()) == 100
    fact = world.fact()
    assert not fact.ok and fact.reason.startswith("recording will stop") and "100 files are unsent" in fact.reason
    for path in sorted(world.left())[:20]:
        world.confirm(f"generated_data/{path}")
    world.work()
    assert len(world.left()) == 88 and world.fact().ok


@pytest.mark.parametrize(
    ("rules", "space", "said"),
    [
        ({"min_free_percent": 10}, Space(10**10, 10**12, 10**6, 10**6), "retention.min_free_percent (10)"),
        ({"min_free_bytes": 10**11}, Space(10**10, 10**12, 10**6, 10**6), "retention.min_free_bytes (100000000000)"),
        ({"min_free_inodes_percent": 5}, Space(10**12, 10**12, 10**4, 10**6), "retention.min_free_inodes_percent (5)"),
    ],
)
def test_a_minimum_that_is_not_met_is_named_and_is_no_end_of_recording(
    make: Make, monkeypatch: pytest.MonkeyPatch, rules: dict[str, int], space: Space, said: str
) -> None:
    world = make(**rules)
    world.record("camera/a.jpg")
    monkeypatch.setattr(removal, "space_at", lambda _path: space)
    world.work()
    reason = world.fact().reason
    assert not world.fact().ok and "recording" not in reason
    assert said in reason and reason.count("retention.min_") == 1
    assert "10000 names" in reason or "10000.0 MB" in reason
    assert all(way in reason for way in ("1 files are unsent", "a link", "drop_unsent", "a lower minimum"))


def test_a_full_card_without_a_minimum_is_told_of_one(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    world = make()
    world.have("camera/a.jpg")
    monkeypatch.setattr(removal, "space_at", lambda _path: Space(0, 10**9, 10**6, 10**6))
    world.work()
    reason = world.fact().reason
    assert reason.startswith("recording will stop: 0.0 MB") and "retention.min_free_percent, by which" in reason
    assert "a link" not in reason and "a lower minimum" not in reason


@pytest.mark.parametrize(
    ("order", "expected"), [("oldest", range(12, 100)), ("newest", range(88))], ids=["oldest", "newest"]
)
def test_unsent_files_follow_in_the_order_that_the_owner_chose(
    make: Make, clock: FakeClock, monkeypatch: pytest.MonkeyPatch, order: str, expected: range
) -> None:
    world = filled(make, clock, monkeypatch, when_full="drop_unsent", drop_order=order)
    world.work()
    assert world.left() == [f"camera/{number:03d}.jpg" for number in expected]


def test_thin_keeps_an_even_time_lapse(make: Make, clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    world = filled(make, clock, monkeypatch, when_full="drop_unsent", drop_order="thin")
    world.work()
    numbers = [int(name[7:10]) for name in world.left()]
    assert len(numbers) == 88 and numbers[0] == 0 and numbers[-1] == 99
    assert max(after - before for before, after in pairwise(numbers)) == 2


def test_confirmed_files_go_before_any_that_is_unsent(
    make: Make, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = filled(make, clock, monkeypatch, when_full="drop_unsent")
    for number in range(90, 95):
        world.confirm(f"generated_data/camera/{number:03d}.jpg")
    world.work()
    assert world.left() == [f"camera/{number:03d}.jpg" for number in (*range(7, 90), *range(95, 100))]


def chmod(path: Path) -> None:
    before = os.stat(path)
    while os.stat(path).st_ctime_ns == before.st_ctime_ns:
        os.chmod(path, 0o600)
        os.chmod(path, 0o640)


def test_a_full_card_loses_no_unsent_file_while_confirmed_ones_have_but_a_new_ctime(
    make: Make, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = filled(make, clock, monkeypatch, when_full="drop_unsent")
    for number in range(20):
        name = f"camera/{number:03d}.jpg"
        world.confirm(f"generated_data/{name}")
        before = os.stat(world.root / name)
        if number == 5:  # other bytes, and made to look as before
            world.write(name, b"x" * 1000)
            os.utime(world.root / name, ns=(before.st_atime_ns, before.st_mtime_ns))
        chmod(world.root / name)
    world.work()
    assert world.left() == [f"camera/{number:03d}.jpg" for number in (5, *range(13, 100))]
    assert world.journal.total_of(State.LOST, ["a"]) == (0, 0)


def test_a_new_ctime_of_a_file_that_no_scan_looks_at_keeps_it_no_longer(make: Make) -> None:
    world = make(address("a", duration="on_message", keep_files=0))
    world.have("camera/a.jpg")
    chmod(world.root / "camera/a.jpg")
    world.work()
    assert world.left() == []


def test_each_loss_is_a_row_counted_listed_and_reported_to_the_bucket(
    make: Make, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = filled(make, clock, monkeypatch, when_full="drop_unsent")
    world.work()
    lost = world.journal.listing([State.LOST])
    assert [row.path for row in lost] == [f"generated_data/camera/{number:03d}.jpg" for number in range(12)]
    assert {row.reason for row in lost} == {"the card was full, and retention.drop_order is oldest"}
    assert world.journal.total_of(State.LOST, ["a"]) == (12, 12_000)
    (report,) = [row for row in world.journal.listing([State.READY]) if row.path.endswith("losses-c-a.jsonl")]
    assert report.cloud_path == "camera/s/.syncagent/losses.jsonl"
    lines = [json.loads(line) for line in Path(report.path).read_text().splitlines()]
    assert [line["path"] for line in lines] == [row.path for row in lost]
    assert {(line["bytes"], line["reason"], line["lost_at"][:4]) for line in lines} == {(1000, lost[0].reason, "2025")}
    # Told once, and again when there are more.
    clock.advance(EVERY_S)
    world.work()
    assert world.journal.row(report.id).state is State.READY
    world.record("camera/more.jpg", content=bytes(5000))
    clock.advance(EVERY_S)
    world.work()
    assert world.journal.row(report.id).state is State.SUPERSEDED
    restart(world)
    assert len([row for row in world.journal.listing() if row.path.endswith("losses-c-a.jsonl")]) == 2


def test_a_file_that_is_sent_settling_or_written_is_never_dropped(
    make: Make, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = filled(make, clock, monkeypatch, when_full="drop_unsent")
    row = world.journal.claim(["a"])
    assert row is not None and row.path.endswith("000.jpg")
    world.settling.add("generated_data/camera/001.jpg")
    world.write("camera/002.jpg", bytes(1000))
    with open(world.root / "camera/003.jpg", "ab"):
        world.work()
    assert world.left()[:4] == [f"camera/00{number}.jpg" for number in range(4)]
    assert len(world.left()) == 88


def test_a_file_that_is_opened_for_writing_before_it_is_dropped_is_no_loss(
    make: Make, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = filled(make, clock, monkeypatch, when_full="drop_unsent")
    remove = removal.remove

    def opened(root: str, path: str, facts: Facts, *, row_id: int) -> removal.Removal:
        if path == "camera/000.jpg":
            return removal.Removal(removal.Outcome.BUSY)
        return remove(root, path, facts, row_id=row_id)

    monkeypatch.setattr(removal, "remove", opened)
    world.pruner.pass_once(world.stop)
    assert world.states()["000.jpg"] is State.READY and "generated_data/camera/000.jpg" in world.looks


def test_a_file_that_was_confirmed_a_moment_ago_is_no_loss(make: Make) -> None:
    world = make(when_full="drop_unsent")
    path = world.record("camera/a.jpg")
    found = world.journal.unsent_below("generated_data/camera", newest_first=False, after=0, limit=1)
    world.confirm(path)
    assert world.clearance.drop(found, "full") == 0
    assert world.left() == ["camera/a.jpg"] and world.states() == {"a.jpg": State.CONFIRMED}


def test_a_file_that_is_confirmed_while_it_is_to_be_dropped_is_no_loss(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make(when_full="drop_unsent")
    path = world.record("camera/a.jpg")
    found = world.journal.unsent_below("generated_data/camera", newest_first=False, after=0, limit=1)
    lose = world.journal.lose

    def confirmed(ids: Sequence[int], reason: str) -> set[int]:
        world.confirm(path)
        return lose(ids, reason)

    monkeypatch.setattr(world.journal, "lose", confirmed)
    assert world.clearance.drop(found, "full") == 0
    assert world.left() == ["camera/a.jpg"] and world.states() == {"a.jpg": State.CONFIRMED}


def test_nothing_is_dropped_that_the_journal_cannot_tell_of(
    make: Make, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = filled(make, clock, monkeypatch, when_full="drop_unsent")
    broken(monkeypatch, world)
    world.work()
    assert len(world.left()) == 100


def test_the_loss_stands_in_the_journal_before_the_file_goes(
    make: Make, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = filled(make, clock, monkeypatch, when_full="drop_unsent")
    seen: list[State] = []

    def looked(_root: str, path: str, _facts: Facts, *, row_id: int) -> removal.Removal:
        seen.append(world.journal.row(row_id).state)
        return removal.Removal(removal.Outcome.BUSY)

    monkeypatch.setattr(removal, "remove", looked)
    world.pruner.pass_once(world.stop)
    assert seen and set(seen) == {State.LOST}


def test_a_parked_file_may_be_dropped_and_a_message_without_its_file_is_none(
    make: Make, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = filled(make, clock, monkeypatch, when_full="drop_unsent")
    row = world.journal.claim(["a"])
    assert row is not None
    world.journal.finish(row, State.PARKED, reason="key too long")
    world.journal.let_go(row)
    world.journal.take([(b"1" * 32, "t", [Ask("a", "generated_data/camera/none.jpg", None, "{}")])])
    world.work()
    assert world.states()["000.jpg"] is State.LOST
    assert world.states()["none.jpg"] is State.WAITING


def test_what_lies_on_another_disk_makes_no_room_and_stays(
    make: Make, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = filled(make, clock, monkeypatch, when_full="drop_unsent")
    world.have("camera/stick/a.jpg")
    world.record("camera/stick/b.jpg")
    device_of = files.device_of
    monkeypatch.setattr(files, "device_of", lambda path: 0 if path.endswith("stick") else device_of(path))
    for path in world.left():
        if "stick" not in path:
            os.unlink(world.root / path)
            (world.root / path).symlink_to("nowhere")
    monkeypatch.setattr(removal, "space_at", lambda _path: Space(0, 100_000, 10**6, 10**6))
    world.work()
    assert world.left() == ["camera/stick/a.jpg", "camera/stick/b.jpg"]
    world.pruner.set_scopes(scopes_of([address("a", keep_files=0)]))
    world.work()
    assert world.left() == ["camera/stick/b.jpg"]


@pytest.mark.parametrize("when_full", ["stop", "drop_unsent"])
def test_a_full_disk_that_is_mounted_below_is_freed_by_what_lies_on_it(
    make: Make, clock: FakeClock, monkeypatch: pytest.MonkeyPatch, when_full: str
) -> None:
    world = make(min_free_percent=10, when_full=when_full)
    stick = str(world.root / "camera/stick")
    for number in range(60):
        world.have(f"camera/{number:02d}.jpg", bytes(1000))
        world.have(f"camera/stick/day/{number:02d}.jpg", bytes(1000))
    for number in range(60, 100):
        world.record(f"camera/stick/day/{number:02d}.jpg", content=bytes(1000))
    device_of = files.device_of
    monkeypatch.setattr(files, "device_of", lambda path: 0 if path.startswith(stick) else device_of(path))
    points = {(b"1", os.fsencode(stick))}
    monkeypatch.setattr(world.mounts, "below", lambda root: frozenset(points))
    disk = Disk(world, 100_000, monkeypatch=monkeypatch)
    disk.below = "camera/stick"
    monkeypatch.setattr(
        removal, "space_at", lambda path: disk.space_at(path) if path == stick else Space(10**9, 10**9, 10**6, 10**6)
    )
    world.work()
    left = world.left()
    assert len([name for name in left if "stick" not in name]) == 60
    assert [name for name in left if "stick" in name] == [f"camera/stick/day/{n:02d}.jpg" for n in range(12, 100)]
    assert world.board.fact("disk/retention/camera/stick") is None
    # Nothing confirmed is left there.
    disk.total_bytes = 40_000
    world.work()
    left = [name for name in world.left() if "stick" in name]
    assert left == [f"camera/stick/day/{n:02d}.jpg" for n in range(60 if when_full == "stop" else 65, 100)]
    fact = world.board.fact("disk/retention/camera/stick")
    assert (fact is not None and not fact.ok) is (when_full == "stop")
    assert world.fact() is None
    points.clear()
    world.work()
    fact = world.board.fact("disk/retention/camera/stick")
    assert fact is None or fact.ok


def test_to_look_for_what_can_be_dropped_in_vain_takes_little_of_the_time(
    make: Make, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = filled(make, clock, monkeypatch, when_full="drop_unsent")
    looks = 0

    def slow(*_: Any, **__: Any) -> list[Any]:
        nonlocal looks
        looks += 1
        clock.advance(1)
        return []

    monkeypatch.setattr(world.journal, "unsent_below", slow)
    begun = clock.monotonic()
    while clock.monotonic() < begun + 200:
        clock.advance(world.work())
    assert 3 <= looks <= 5


# -- the reserve -------------------------------------------------------------------------------------------------------


def test_the_reserve_is_made_given_up_once_and_made_again(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    world = make()
    world.work()
    reserve = world.state / "reserve"
    assert reserve.stat().st_blocks * 512 >= 4 << 20
    assert Reserve(str(world.state)).give_up() and not reserve.exists()
    assert not Reserve(str(world.state)).give_up()
    world.work()
    assert reserve.exists()
