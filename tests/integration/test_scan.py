"""What a scan of very many known files costs: counted, not timed."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from syncagent.edges import files
from syncagent.workers.intake import SCAN_SHARE
from tests.fakes import FakeClock, Recording
from tests.unit.test_intake import World

DIRECTORIES, FILES = 100, 1_000


@pytest.fixture
def build(tmp_path: Path, clock: FakeClock) -> Iterator[Callable[..., World]]:
    built: list[World] = []

    def make(**how: Any) -> World:
        built.append(World(tmp_path, clock, **how))
        return built[-1]

    yield make
    for world in built:
        world.journal.close()


def fill(world: World, directories: int, number: int) -> None:
    """So many files in so many directories, and the journal knows them all as confirmed."""
    rows = []
    for directory in range(directories):
        top = world.root / "camera" / f"{directory:03}"
        top.mkdir(parents=True)
        # Names of one inode cost nothing, and a scan cannot tell.
        first = top / f"{0:05}.jpg"
        first.write_bytes(b"x")
        for name in range(1, number):
            os.link(first, top / f"{name:05}.jpg")
        facts = files.facts_of(os.stat(first))
        values = (facts.size_bytes, facts.mtime_ns, facts.ctime_ns, facts.inode)
        path = os.fsencode(f"generated_data/camera/{directory:03}")
        rows += [(path, f"{name:05}.jpg".encode(), *values) for name in range(number)]

    def apply(connection: sqlite3.Connection) -> None:
        connection.executemany("INSERT OR IGNORE INTO directory(path) VALUES (?)", [(row[0],) for row in rows])
        connection.executemany(
            "INSERT INTO version(address, directory, name, size, mtime_ns, ctime_ns, inode, state, recorded)"
            " SELECT 1, id, ?, ?, ?, ?, ?, 'confirmed', 0 FROM directory WHERE path = ?",
            [(*row[1:], row[0]) for row in rows],
        )

    world.journal._write(apply)


def scan(world: World) -> None:
    """Passes until one more full scan is done."""
    wanted = world.intake.full_scans + 1
    for _ in range(100_000):
        world.clock.advance(max(world.intake.pass_once(world.stop), 0.001))
        if world.intake.full_scans == wanted:
            return
    raise AssertionError("the scan does not end")


def test_a_scan_of_a_hundred_thousand_known_files_costs_stat_calls_only(
    build: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    world = build()
    fill(world, DIRECTORIES, FILES)
    written = world.journal._writer.total_changes
    recording = Recording()
    monkeypatch.setattr(files, "os", recording)
    monkeypatch.setattr(files, "fcntl", None)  # no lease is asked for
    scan(world)
    assert recording.calls.pop("DirEntry.stat") == DIRECTORIES * FILES + DIRECTORIES
    # Beside them the directories are opened and listed, each once, and nothing is done per file.
    assert recording.calls.pop("scandir") == DIRECTORIES + 1
    assert set(recording.calls) <= {"open", "close", "stat"}, recording.calls
    assert sum(recording.calls.values()) < 10 * DIRECTORIES, recording.calls
    assert world.journal._writer.total_changes == written
    assert len(world.settling) == 0
    assert world.rechecks == []
    assert world.rings == 0


@pytest.mark.parametrize(("stat_s", "is_stretched"), [(0.010, True), (0.000_1, False)])
def test_a_slow_card_is_scanned_less_often_so_that_scans_take_under_two_percent_of_the_time(
    build: Callable[..., World], monkeypatch: pytest.MonkeyPatch, stat_s: float, is_stretched: bool
) -> None:
    world = build(scan_s=30.0)
    fill(world, 2, 500)
    monkeypatch.setattr(files, "os", Recording(lambda: world.clock.advance(stat_s)))
    scan(world)
    fact = world.board.fact("watcher")
    begun = world.clock.monotonic()
    for _ in range(3):
        scan(world)
    each_s = (world.clock.monotonic() - begun) / 3
    busy_s = 1_000 * stat_s
    assert fact is not None
    assert each_s == pytest.approx(busy_s + (busy_s / SCAN_SHARE if is_stretched else 30.0), rel=0.05)
    assert busy_s / each_s <= SCAN_SHARE
