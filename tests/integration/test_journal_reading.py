"""What was confirmed, read beside the agent and after it; and the word that there is more."""

from __future__ import annotations

import os
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from syncagent.core.errors import JournalBroken
from syncagent.core.model import Digest, Facts, State
from syncagent.edges.journal import Arrival, Journal, JournalReader
from syncagent.edges.journal import reading as reading_module
from syncagent.edges.journal.confirmations import Confirmations
from tests.fakes import FakeClock
from tests.servers import wait_until

DIGEST = Digest(b"m" * 16, b"s" * 32)


@pytest.fixture
def journal(tmp_path: Path, clock: FakeClock) -> Iterator[Journal]:
    journal = Journal(str(tmp_path), clock)
    journal.set_stores({"a": "store"})
    yield journal
    journal.close()


@pytest.fixture
def reader(tmp_path: Path) -> JournalReader:
    return JournalReader(str(tmp_path))


def confirm(journal: Journal, name: str, *, etag: str | None = "e") -> None:
    path = f"generated_data/camera/{name}"
    journal.record([Arrival("a", path, Facts(10, 5, 5, 1))])
    row = journal.listing()[-1]
    journal.sending(row, f"key/{row.id}", DIGEST)
    journal.confirm(row, key=f"key/{row.id}", digest=DIGEST, etag=etag)


def positions(reader: JournalReader, *, after: int = 0, limit: int = 500) -> list[int]:
    return [each.position for each in reader.confirmed(after=after, limit=limit)]


def test_confirmed_versions_are_read_in_order_after_a_position_in_batches(
    journal: Journal, reader: JournalReader, clock: FakeClock
) -> None:
    assert (reader.newest(), positions(reader)) == (0, [])
    for number in range(7):
        confirm(journal, f"{number}.jpg")
    assert reader.newest() == 7
    assert positions(reader, after=2, limit=3) == [3, 4, 5]
    assert positions(reader, after=5) == [6, 7]
    first = reader.confirmed(after=0, limit=1)[0]
    assert (first.path, first.key, first.size_bytes, first.mtime_ns) == ("generated_data/camera/0.jpg", "key/1", 10, 5)
    assert (first.sha256, first.address, first.message) == (DIGEST.sha256.hex(), "a", None)
    assert first.confirmed_at == clock.now().timestamp()


def test_a_version_that_was_there_already_is_not_told_and_a_removed_one_still_is(
    journal: Journal, reader: JournalReader
) -> None:
    confirm(journal, "a.jpg")
    confirm(journal, "b.jpg", etag=None)
    confirm(journal, "c.jpg")
    journal.vanished([row.id for row in journal.listing([State.CONFIRMED])])
    assert {row.state for row in journal.listing()} == {State.REMOVED}
    assert [each.path[-5:] for each in reader.confirmed(after=0, limit=9)] == ["a.jpg", "c.jpg"]
    assert positions(reader) == [1, 2]


def test_a_batch_ends_early_when_its_messages_are_long(
    journal: Journal, reader: JournalReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(4):
        confirm(journal, f"{number}.jpg")
    with sqlite3.connect(journal.path) as connection:
        connection.execute("UPDATE version SET message = ?", ('"' + "x" * 98 + '"',))
    connection.close()
    monkeypatch.setattr(reading_module, "BATCH_BYTES", 150)
    assert positions(reader) == [1, 2]
    assert positions(reader, after=2) == [3, 4]
    assert reader.confirmed(after=3, limit=1)[0].message == '"' + "x" * 98 + '"'


def test_a_journal_that_is_not_there_yet_has_nothing(tmp_path: Path) -> None:
    for directory in (tmp_path, tmp_path / "missing"):
        reader = JournalReader(str(directory))
        assert (reader.newest(), positions(reader)) == (None, [])
    (tmp_path / "journal.db").touch()
    reader = JournalReader(str(tmp_path))
    assert (reader.newest(), positions(reader)) == (0, [])


def test_reading_leaves_nothing_behind_where_no_agent_runs(tmp_path: Path, journal: Journal) -> None:
    confirm(journal, "a.jpg")
    journal.close()
    before = sorted(os.listdir(tmp_path))
    assert before == ["journal.db"]
    facts = os.stat(tmp_path / "journal.db")
    assert positions(JournalReader(str(tmp_path))) == [1]
    assert sorted(os.listdir(tmp_path)) == before
    assert os.stat(tmp_path / "journal.db").st_mtime_ns == facts.st_mtime_ns


def test_what_a_killed_agent_committed_is_read_from_its_log(
    tmp_path: Path, journal: Journal, tmp_path_factory: pytest.TempPathFactory
) -> None:
    confirm(journal, "a.jpg")
    confirm(journal, "b.jpg")
    left = tmp_path_factory.mktemp("left")
    for name in ("journal.db", "journal.db-wal", "journal.db-shm"):
        shutil.copy(tmp_path / name, left / name)
    assert positions(JournalReader(str(left))) == [1, 2]


def test_a_mark_changes_with_every_commit_and_with_nothing_else(journal: Journal, reader: JournalReader) -> None:
    confirm(journal, "a.jpg")
    mark = reader.mark()
    assert positions(reader) == [1]
    assert reader.mark() == mark
    confirm(journal, "b.jpg")
    assert reader.mark() != mark


def test_an_agent_that_starts_during_a_reading_does_not_spoil_it(
    tmp_path: Path, clock: FakeClock, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    confirm(journal, "a.jpg")
    journal.close()
    reader = JournalReader(str(tmp_path))
    again: list[Journal] = []
    read_once = JournalReader._read_once

    def start_first(self: JournalReader, *args: object, **how: object) -> object:
        if not again:
            again.append(Journal(str(tmp_path), clock))
            again[0].set_stores({"a": "store"})
            confirm(again[0], "b.jpg")
        return read_once(self, *args, **how)  # type: ignore[arg-type]

    monkeypatch.setattr(JournalReader, "_read_once", start_first)
    assert positions(reader) == [1, 2]
    again[0].close()


def test_a_file_that_is_no_journal_and_one_of_a_newer_release_are_named(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    path.write_bytes(b"no database" * 1000)
    reader = JournalReader(str(tmp_path))
    with pytest.raises(JournalBroken, match=str(path)):
        reader.newest()
    path.unlink()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(JournalBroken, match="schema 99"):
        reader.newest()


# -- waiting for the next one -----------------------------------------------------------------------------------------


def wait_in_thread(work: Callable[[], int]) -> tuple[threading.Thread, list[int]]:
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(work()))
    thread.start()
    return thread, found


def test_who_waits_is_told_after_the_commit_and_finds_the_row(journal: Journal, reader: JournalReader) -> None:
    confirm(journal, "a.jpg")
    assert journal.confirmations.wait(0, 60) == 1
    found: list[int] = []

    def look() -> int:
        position = journal.confirmations.wait(1, 60)
        found.extend(positions(reader, after=1))
        return position

    thread, told = wait_in_thread(look)
    journal.set_note("some", "write")  # commits that confirm nothing wake nobody
    confirm(journal, "b.jpg", etag=None)
    assert not told
    confirm(journal, "c.jpg")
    thread.join(10)
    assert (told, found) == ([2], [2])


def test_a_confirmation_that_fails_is_not_told(journal: Journal) -> None:
    confirm(journal, "a.jpg")
    journal.record([Arrival("a", "generated_data/b.jpg", Facts(1, 1, 1, 1))])
    row = journal.listing()[-1]
    journal.finish(row, State.PARKED)
    with pytest.raises(ValueError, match="cannot go"):
        journal.confirm(row, key="k", digest=DIGEST, etag="e")
    assert journal.confirmations.position == 1
    journal.set_note("a later", "commit")
    assert journal.confirmations.position == 1


def test_the_next_run_knows_the_newest_position(tmp_path: Path, clock: FakeClock, journal: Journal) -> None:
    confirm(journal, "a.jpg")
    journal.close()
    again = Journal(str(tmp_path), clock)
    assert again.confirmations.position == 1
    again.close()


def test_a_wait_ends_when_its_time_is_over_when_nobody_wants_it_and_at_the_end() -> None:
    news = Confirmations(5)
    assert news.wait(5, 0) == 5
    assert news.wait(5, 0.05) == 5
    begun = time.monotonic()
    assert news.wait(5, 60, lambda: False) == 5
    assert time.monotonic() - begun < 5
    thread, told = wait_in_thread(lambda: news.wait(5, 60))
    wait_until(lambda: bool(news._condition._waiters))  # type: ignore[attr-defined]
    news.close()
    thread.join(10)
    assert told == [5]
    assert news.wait(5, 60) == 5
