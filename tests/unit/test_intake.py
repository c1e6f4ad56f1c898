"""The intake on a real directory, without events and on a clock that only the test moves: the scan is the truth."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from syncagent.core.board import Board
from syncagent.core.errors import JournalBroken
from syncagent.core.model import Facts, State
from syncagent.core.places import Places
from syncagent.core.settings import Carrier, SendAddress, Watch
from syncagent.core.settle import Settling
from syncagent.core.territory import Territory
from syncagent.edges.files import digest_of
from syncagent.edges.journal import Arrival, Journal, Known
from syncagent.edges.watch import Doorbell, Hints
from syncagent.workers.intake import SLICE, Intake
from tests.fakes import BadEntries, FakeClock, FakeStop
from tests.narrow import IS_NARROW


class World:
    """A base directory, its journal, and the intake of some addresses."""

    def __init__(self, base: Path, clock: FakeClock, *, paths: tuple[str, ...] = ("camera",), **watch: Any) -> None:
        self.base, self.clock = base, clock
        self.root = base / "generated_data"
        self.elsewhere = base / "elsewhere"
        for directory in (self.root, self.elsewhere, base / "state"):
            directory.mkdir()
        self.journal = Journal(str(base / "state"), clock)
        addresses = [
            SendAddress(
                name=path or "all",
                configured_name=path or "all",
                message_type="image_info",
                carrier=Carrier(name=path or "all", bucket_name="b", path=path, watch=Watch(**watch)),
                duration="on_change",
            )
            for path in paths
        ]
        self.journal.set_stores({address.name: "s" for address in addresses})
        self.stop = FakeStop(clock)
        self.board = Board(clock.monotonic)
        self.hints = Hints()
        self.rings = 0
        self.rechecks: list[tuple[Known, str, Facts]] = []
        self.territory = Territory(addresses, reserved=["firmware"])
        self.restart()

    def restart(self) -> None:
        """Another run: of the last one, only the journal is left."""
        self.settling = Settling()
        self.intake = Intake(
            territory=self.territory,
            places=Places(str(self.base), str(self.root), (str(self.elsewhere),)),
            journal=self.journal,
            doorbell=Doorbell([], self.hints, events=False),
            hints=self.hints,
            clock=self.clock,
            board=self.board,
            on_ready=self._ring,
            on_recheck=self._recheck,
            settling=self.settling,
        )
        self.intake.open()

    def _ring(self) -> None:
        self.rings += 1

    def _recheck(self, known: Known, path: str, facts: Facts) -> bool:
        self.rechecks.append((known, path, facts))
        return True

    def run(self, seconds: float = 32.0) -> None:
        """Passes, for so long; the clock moves when the intake would sleep."""
        until = self.clock.monotonic() + seconds
        for _ in range(20_000):
            wait_s = self.intake.pass_once(self.stop)
            if self.clock.monotonic() + wait_s > until:
                break
            # Each pass takes a moment, as it does in the world.
            self.clock.advance(max(wait_s, 0.001))
        else:
            raise AssertionError("the intake does not come to rest")
        self.clock.advance(max(0.0, until - self.clock.monotonic()))

    def write(self, name: str, content: bytes = b"x") -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    def paths(self, *states: State) -> list[str]:
        return sorted(row.path.removeprefix("generated_data/") for row in self.journal.listing(states))

    def confirm_all(self) -> None:
        for row in self.journal.listing([State.READY]):
            digest = digest_of(b"x")
            self.journal.sending(row, row.path, digest)
            self.journal.confirm(row, key=row.path, digest=digest, etag="e")


@pytest.fixture
def build(tmp_path: Path, clock: FakeClock) -> Iterator[Callable[..., World]]:
    built: list[World] = []

    def make(**how: Any) -> World:
        built.append(World(tmp_path, clock, **how))
        return built[-1]

    yield make
    for world in built:
        world.journal.close()


@pytest.fixture
def world(build: Callable[..., World]) -> World:
    return build()


def test_files_that_were_there_before_the_start_and_files_that_come_later_are_found_without_events(
    world: World,
) -> None:
    world.write("camera/old/a.jpg")
    world.write("camera/caf\udce9.jpg")
    world.run(3)
    assert world.paths(State.READY) == ["camera/caf\udce9.jpg", "camera/old/a.jpg"]
    world.write("camera/new/deep/b.jpg")
    os.link(world.root / "camera/old/a.jpg", world.root / "camera/link.jpg")
    world.run(33)
    expected = ["camera/caf\udce9.jpg", "camera/link.jpg", "camera/new/deep/b.jpg", "camera/old/a.jpg"]
    assert world.paths(State.READY) == expected
    assert world.rings >= 2


def test_a_directory_that_is_moved_in_is_found_with_all_that_is_in_it(world: World) -> None:
    world.run(3)
    outside = world.base / "outside"
    (outside / "deep").mkdir(parents=True)
    for number in range(5):
        (outside / "deep" / f"{number}").write_bytes(b"x")
    outside.rename(world.root / "camera" / "moved")
    world.hints.add(str(world.root / "camera" / "moved"))
    world.run(3)
    assert len(world.paths(State.READY)) == 5


def test_a_hint_is_enough_and_need_not_wait_for_a_scan(world: World) -> None:
    world.run(3)
    world.hints.add(str(world.write("camera/a.jpg")))
    world.run(1.5)
    assert world.paths(State.READY) == ["camera/a.jpg"]
    assert world.intake.full_scans == 1


def test_temporary_names_links_and_odd_files_are_not_files(world: World) -> None:
    for name in ("camera/.a.jpg.Xy12Zq", "camera/a.tmp", "camera/.cache/a.jpg", "camera/tmpfileabcdef"):
        world.write(name)
    world.write("camera/real.jpg")
    os.symlink("real.jpg", world.root / "camera/link.jpg")
    os.symlink("/etc", world.root / "camera/etc")
    os.mkfifo(world.root / "camera/fifo")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(world.root / "camera/socket"))
    for name in ("link.jpg", "fifo", "socket", "etc/passwd"):
        world.hints.add(str(world.root / "camera" / name))
    world.run()
    assert world.paths() == ["camera/real.jpg"]
    fact = world.board.fact("watcher")
    assert fact is not None and fact.more["not_files"] == {"link": 2, "fifo": 1, "socket": 1}


def test_inbox_firmware_and_what_belongs_to_nobody_are_not_looked_at(build: Callable[..., World]) -> None:
    world = build(paths=("", "camera"))
    for name in ("messages/image_info/a.json", "firmware/image.bin", "top.jpg", "camera/a.jpg", "other/a.jpg"):
        world.hints.add(str(world.write(name)))
    world.run()
    assert sorted((row.address, row.path) for row in world.journal.listing()) == [
        ("all", "generated_data/other/a.jpg"),
        ("all", "generated_data/top.jpg"),
        ("camera", "generated_data/camera/a.jpg"),
    ]


def test_a_file_that_is_written_for_long_is_not_recorded_and_holds_up_no_other(world: World) -> None:
    path = world.write("camera/film.mp4")
    with open(path, "ab") as film:
        world.write("camera/a.jpg")
        _write_for(world, film, 40)
        assert world.paths(State.READY) == ["camera/a.jpg"]
    world.run(3)
    assert world.paths(State.READY) == ["camera/a.jpg", "camera/film.mp4"]


def _write_for(world: World, file: BinaryIO, seconds: int) -> None:
    for _ in range(seconds):
        file.write(b"more")
        file.flush()
        world.run(1)


def test_a_file_that_is_written_for_ever_is_recorded_unsettled_and_again_when_it_is_finished(
    build: Callable[..., World],
) -> None:
    world = build(max_unsettled_s=10.0)
    with open(world.write("camera/log"), "ab") as log:
        _write_for(world, log, 13)
        (row,) = world.journal.listing([State.READY])
        assert row.is_unsettled
    world.run(33)
    assert [(row.state, row.is_unsettled) for row in world.journal.listing()][-1] == (State.READY, False)


@pytest.mark.parametrize("is_sent", [False, True])
@pytest.mark.parametrize("is_restarted", [False, True])
def test_a_file_that_was_recorded_unsettled_and_is_closed_without_another_write_is_recorded_as_finished(
    build: Callable[..., World], is_sent: bool, is_restarted: bool
) -> None:
    world = build(max_unsettled_s=10.0)
    with open(world.write("camera/log"), "ab"):
        world.run(45)  # long enough for a scan that finds it again
        (row,) = world.journal.listing()
        assert (row.state, row.is_unsettled) == (State.READY, True)
        if is_sent:
            world.confirm_all()
        world.run(45)
        assert len(world.journal.listing()) == 1
    if is_restarted:
        world.restart()
    world.run(35)
    assert [(row.state, row.is_unsettled) for row in world.journal.listing()] == [
        (State.REMOVED if is_sent else State.SUPERSEDED, True),
        (State.READY, False),
    ]
    assert world.rechecks == []


def test_a_rewritten_file_is_a_new_version_and_a_removed_one_is_gone(world: World) -> None:
    world.write("camera/sent", b"x")
    world.write("camera/owed", b"x")
    world.run(3)
    owed = next(row for row in world.journal.listing() if row.path.endswith("owed"))
    world.journal.defer(owed, reason="link", wait_s=1e6)
    world.confirm_all()
    (world.root / "camera/sent").write_bytes(b"longer")
    os.unlink(world.root / "camera/owed")
    world.run(33)
    assert world.paths(State.REMOVED) == ["camera/sent"]
    assert world.paths(State.READY) == ["camera/sent"]
    assert world.paths(State.GONE) == ["camera/owed"]


def test_a_directory_that_vanishes_whole_takes_its_files_with_it(world: World) -> None:
    for name in ("a/1", "a/b/2", "a/b/c/3", "keep/4"):
        world.write(f"camera/{name}")
    world.run(3)
    (world.root / "camera/a").rename(world.base / "taken away")
    world.run(33)
    assert world.paths(State.GONE) == ["camera/a/1", "camera/a/b/2", "camera/a/b/c/3"]
    assert world.paths(State.READY) == ["camera/keep/4"]
    (world.base / "taken away").rename(world.root / "camera/a")
    world.run(33)
    assert len(world.paths(State.READY)) == 4


def test_a_chmod_of_confirmed_files_asks_for_a_recheck_and_records_nothing(world: World) -> None:
    for number in range(3):
        world.write(f"camera/{number}")
    world.run(3)
    world.confirm_all()
    for number in range(3):
        path = world.root / f"camera/{number}"
        before = os.stat(path).st_ctime_ns
        while os.stat(path).st_ctime_ns == before:
            os.chmod(path, 0o600)
            os.chmod(path, 0o640)
    world.run(33)
    assert world.paths(State.CONFIRMED) == ["camera/0", "camera/1", "camera/2"]
    assert len(world.journal.listing()) == 3
    assert {path for _, path, _ in world.rechecks} == {f"generated_data/camera/{n}" for n in range(3)}


def test_a_file_that_is_held_open_is_counted_for_its_address_with_its_age_and_an_asked_one_only_by_its_row(
    world: World,
) -> None:
    asked = world.elsewhere / "asked.jpg"
    with open(world.write("camera/film.mp4"), "ab") as film, open(asked, "wb") as other:
        other.write(b"x")
        other.flush()
        world.journal.ask("camera", str(asked))
        _write_for(world, film, 40)
        (pending,) = world.settling.pending().values()
        assert list(world.settling.pending()) == ["camera"]
        assert pending.files == 1
        assert pending.size_bytes == os.path.getsize(world.root / "camera/film.mp4")
        assert world.clock.monotonic() - pending.first >= 39
        assert len(world.settling) == 2
        assert world.journal.tally()["camera", State.SETTLING, ""].files == 1
    world.run(3)
    assert world.settling.pending() == {}


def test_a_file_that_is_asked_for_is_settled_wherever_it_lies(world: World) -> None:
    (world.elsewhere / "a.bin").write_bytes(b"x")
    row_id = world.journal.ask("camera", str(world.elsewhere / "a.bin"), cloud_path="k/a.bin")
    missing = world.journal.ask("camera", str(world.elsewhere / "missing"))
    world.intake.poke()
    world.run(5)
    assert world.journal.row(row_id).state is State.READY
    assert world.journal.row(row_id).facts.size_bytes == 1
    assert world.journal.row(missing).state is State.GONE


def test_a_file_whose_journal_was_full_is_recorded_later(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: object) -> int:
        raise JournalBroken("disk full")

    world.write("camera/a.jpg")
    with monkeypatch.context() as broken:
        broken.setattr(world.journal, "record", full)
        with pytest.raises(JournalBroken):
            world.run(3)
    world.run(33)
    assert world.paths(State.READY) == ["camera/a.jpg"]


def bugged(world: World, monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Recording one of these files meets a bug."""
    record: Callable[..., int] = world.journal.record

    def failing(arrivals: Sequence[Arrival]) -> int:
        if any(arrival.path.endswith(names) for arrival in arrivals):
            raise OverflowError("Python int too large to convert to SQLite INTEGER")
        return record(arrivals)

    monkeypatch.setattr(world.journal, "record", failing)


def test_a_file_that_cannot_be_recorded_is_reported_and_holds_up_no_other(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    bugged(world, monkeypatch, "bad.jpg")
    for name in ("a.jpg", "bad.jpg", "c.jpg"):
        world.write(f"camera/{name}")
    world.run(70)
    assert world.paths(State.READY) == ["camera/a.jpg", "camera/c.jpg"]
    (complaint,) = world.board.complaints()
    assert complaint.path == "generated_data/camera/bad.jpg"
    assert "OverflowError" in complaint.reason
    assert "report" in complaint.remedy


def test_when_no_file_at_all_can_be_recorded_the_intake_is_broken_and_not_the_files(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    bugged(world, monkeypatch, ".jpg")
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        world.write(f"camera/{name}")
    with pytest.raises(OverflowError):
        world.run(70)


@pytest.mark.skipif(IS_NARROW, reason="no file can be given a date of after 2038 where a time_t has 32 bits")
def test_a_time_beyond_the_journals_numbers_is_a_version_like_any_other(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = world.write("camera/future.jpg")
    os.utime(path, (10_413_792_000, 10_413_792_000))
    world.write("camera/a.jpg")
    world.run(70)
    assert world.paths() == ["camera/a.jpg", "camera/future.jpg"]
    assert world.board.complaints() == []


def test_more_files_than_may_settle_at_once_are_all_recorded(build: Callable[..., World]) -> None:
    world = build()
    world.settling.limit = SLICE + 100
    for number in range(1_500):
        world.write(f"camera/{number % 7}/{number}")
    world.run(90)
    assert len(world.paths(State.READY)) == 1_500


def test_a_scan_of_known_files_records_nothing_and_says_what_it_cost(world: World) -> None:
    for number in range(50):
        world.write(f"camera/{number}")
    world.run(3)
    rings = world.rings
    world.run(65)
    assert world.intake.full_scans >= 3
    assert world.rings == rings
    assert world.intake.is_idle()
    fact = world.board.fact("watcher")
    assert fact is not None and fact.ok and fact.more["scans"] >= 2


def test_a_directory_that_cannot_be_read_is_reported_and_the_others_are_scanned(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.write("camera/locked/a.jpg")
    world.write("camera/open/b.jpg")
    world.run(3)
    real = os.scandir

    def refuse(fd: Any) -> Any:
        if os.readlink(f"/proc/self/fd/{fd}").endswith("locked"):
            raise PermissionError(13, "Permission denied")
        return real(fd)

    monkeypatch.setattr(os, "scandir", refuse)
    world.write("camera/open/c.jpg")
    world.run(70)
    assert world.paths(State.READY) == ["camera/locked/a.jpg", "camera/open/b.jpg", "camera/open/c.jpg"]
    fact = world.board.fact("watcher")
    assert fact is not None and "camera/locked: Permission denied" in fact.reason
    assert world.board.complaints()[0].what == "scan"


def be_a_link(world: World) -> None:
    (world.root / "camera").rename(world.base / "usb")
    os.symlink(world.base / "usb", world.root / "camera")


def be_a_file(world: World) -> None:
    (world.root / "camera").rename(world.base / "usb")
    (world.root / "camera").write_bytes(b"")


def lead_nowhere(world: World) -> None:
    (world.root / "camera").rename(world.base / "usb")
    os.symlink(world.base / "nowhere", world.root / "camera")


@pytest.mark.parametrize("become", [be_a_link, be_a_file, lead_nowhere])
def test_a_watched_directory_that_becomes_something_else_is_reported_and_its_files_stay_what_they_are(
    world: World, become: Callable[[World], None]
) -> None:
    path = world.write("camera/sub/a.jpg")
    world.write("camera/b.jpg")
    world.run(3)
    world.confirm_all()
    become(world)
    # What the doorbell hears before anybody has looked at the directory itself.
    for hinted in (path, path.parent, path.parent.parent, world.root / "camera/b.jpg"):
        world.hints.add(str(hinted))
    world.run(70)
    assert len(world.paths(State.CONFIRMED)) == 2
    fact = world.board.fact("watcher")
    assert fact is not None and not fact.ok
    assert fact.reason.startswith(f"generated_data/camera is a {'file' if become is be_a_file else 'link'}; ")
    assert not world.intake.is_whole()
    (world.root / "camera").unlink()
    (world.base / "usb").rename(world.root / "camera")
    world.write("camera/c.jpg")
    world.run(70)
    assert len(world.paths(State.CONFIRMED)) == 2
    assert world.paths(State.READY) == ["camera/c.jpg"]
    fact = world.board.fact("watcher")
    assert fact is not None and fact.ok
    assert world.intake.is_whole()


def test_a_watched_directory_behind_a_link_is_reported_with_its_remedy(build: Callable[..., World]) -> None:
    world = build(paths=("usb/camera",))
    (world.root / "usb").rename(world.base / "stick")
    os.symlink(world.base / "stick", world.root / "usb")
    world.write("usb/camera/a.jpg")
    world.run(70)
    assert world.paths() == []
    fact = world.board.fact("watcher")
    assert fact is not None and not fact.ok
    assert "generated_data/usb/camera lies behind a link" in fact.reason
    assert "mount" in fact.reason


def test_a_file_that_cannot_be_looked_at_is_reported_and_the_others_of_its_directory_come_and_go(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("bad", "gone"):
        world.write(f"camera/{name}.jpg")
    world.run(3)
    stat = os.stat

    def bad_stat(path: Any, **how: Any) -> os.stat_result:
        if path == "bad.jpg":
            raise OSError(errno.EUCLEAN, os.strerror(errno.EUCLEAN))
        return stat(path, **how)

    monkeypatch.setattr(os, "scandir", BadEntries(lambda name: name == "bad.jpg"))
    monkeypatch.setattr(os, "stat", bad_stat)
    (world.root / "camera" / "gone.jpg").unlink()
    for number in range(20):
        world.write(f"camera/{number}.jpg")
    world.run(70)
    assert len(world.paths(State.READY)) == 21
    assert world.paths(State.GONE) == ["camera/gone.jpg"]
    fact = world.board.fact("watcher")
    assert fact is not None and "camera/bad.jpg: Structure needs cleaning" in fact.reason
    assert ("generated_data/camera/bad.jpg", "scan") in [(each.path, each.what) for each in world.board.complaints()]


def test_a_file_that_cannot_be_looked_at_any_more_when_it_settled_holds_up_no_other(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.run(3)
    for name in ("bad", "good"):
        world.write(f"camera/{name}.jpg")
        world.intake.look_again(f"generated_data/camera/{name}.jpg")
    world.run(0.1)
    assert world.paths() == []
    stat = os.stat

    def bad_stat(path: Any, **how: Any) -> os.stat_result:
        if path == "bad.jpg":
            raise OSError(errno.EOVERFLOW, os.strerror(errno.EOVERFLOW))
        return stat(path, **how)

    monkeypatch.setattr(os, "scandir", BadEntries(lambda name: name == "bad.jpg", errno.EOVERFLOW))
    monkeypatch.setattr(os, "stat", bad_stat)
    world.run(11)
    assert world.paths(State.READY) == ["camera/good.jpg"]
    assert any("after 2038" in each.reason for each in world.board.complaints())


def test_no_jump_of_the_wall_clock_changes_when_a_file_is_found(world: World, clock: FakeClock) -> None:
    world.run(3)
    world.write("camera/a.jpg")
    for jump in (1e9, -2e9, 3_600.0):
        clock.jump(jump)
        world.run(11)
    assert world.paths(State.READY) == ["camera/a.jpg"]
