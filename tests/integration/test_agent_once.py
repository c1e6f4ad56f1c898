"""`run --once` in this process, where its workers can be held up at a chosen moment."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import sqlite3
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from syncagent import supervisor
from syncagent.app import App
from syncagent.assembly import Directories
from syncagent.core.errors import JournalBroken
from syncagent.core.metadata import SIDECAR, text_of
from syncagent.core.model import OWED
from syncagent.edges.configfiles import identify, load_settings
from syncagent.edges.files import PinnedFile
from syncagent.edges.journal import Journal
from tests.agent import Agent, sent
from tests.servers import VerifyingS3


@pytest.fixture(autouse=True)
def signals_restored() -> Iterator[None]:
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGIO)
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


def app_of(agent: Agent) -> App:
    directories = Directories(agent.config_dir, os.path.realpath(agent.base_dir), os.path.realpath(agent.state_dir))
    return App(load_settings(agent.config_dir, identity=identify), directories, is_once=True)


@pytest.fixture
def agent(tmp_path: object, verifying: VerifyingS3) -> Agent:
    agent = Agent(str(tmp_path))
    agent.configure(verifying.endpoint_url, watch={"settle_s": 0.05})
    agent.write("a.jpg", b"a")
    return agent


def test_run_once_does_not_end_between_settling_and_recording(
    agent: Agent, verifying: VerifyingS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = app_of(agent)
    record: Callable[..., int] = app.journal.record

    def slowly(*arguments: Any) -> int:
        # Long enough for the main thread, which looks every 50 ms, to believe that all is done.
        threading.Event().wait(0.5)
        return record(*arguments)

    monkeypatch.setattr(app.journal, "record", slowly)
    assert app.run_once(10) == 0
    assert sent(verifying) == {agent.key("a.jpg"): b"a"}


def test_reading_a_large_file_on_a_slow_card_is_progress(
    agent: Agent, verifying: VerifyingS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: Callable[..., bytes] = PinnedFile.read

    def slowly(file: PinnedFile, start: int, size_bytes: int) -> bytes:
        threading.Event().wait(0.06)
        return read(file, start, size_bytes)

    monkeypatch.setattr(PinnedFile, "read", slowly)
    film = bytes(18_000_000)
    agent.write("film.mp4", film)
    # It takes 4 s to hash, and a part 1.2 s without a byte on the wire.
    assert app_of(agent).run_once(2.5) == 0
    assert sent(verifying)[agent.key("film.mp4")] == film


@pytest.mark.parametrize("is_readable", [True, False])
def test_run_once_sees_what_another_process_asked_for_at_the_last_moment(
    agent: Agent, verifying: VerifyingS3, monkeypatch: pytest.MonkeyPatch, is_readable: bool
) -> None:
    app = app_of(agent)
    is_idle, refresh = app.intake.is_idle, app.journal.refresh
    asked: list[int] = []
    failures = iter(() if is_readable else [JournalBroken("disk I/O error")])

    def ask_when_idle() -> bool:
        if is_idle() and app.journal.count_of(*OWED) == 0 and not asked:
            other = Journal(agent.state_dir, app.clock)
            asked.append(other.ask("upload", "generated_data/camera/a.jpg", cloud_path="again.jpg"))
            other.close()
        return is_idle()

    def read_at_last() -> None:
        if asked and threading.current_thread() is threading.main_thread():
            for failure in failures:
                raise failure
        refresh()

    monkeypatch.setattr(app.intake, "is_idle", ask_when_idle)
    monkeypatch.setattr(app.journal, "refresh", read_at_last)
    assert app.run_once(10) == 0
    assert asked and sent(verifying) == {agent.key("a.jpg"): b"a", "again.jpg": b"a"}
    assert next(failures, None) is None


def test_commits_that_fail_for_a_while_end_nothing_and_lose_nothing(
    agent: Agent, verifying: VerifyingS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "backoff_s", lambda *_, **__: 0.01)
    for number in range(20):
        agent.write(f"{number}.jpg", bytes([number]))
    app = app_of(agent)
    failures = itertools.count()

    class Failing:
        """A connection whose commits find the disk full: after the start all of them, later two of three."""

        def __init__(self, connection: sqlite3.Connection) -> None:
            self._connection = connection

        def __getattr__(self, name: str) -> Any:
            return getattr(self._connection, name)

        def execute(self, query: str, *values: Any) -> Any:
            if query == "COMMIT":
                count = next(failures)
                if 0 < count < 60 or (count < 300 and count % 3):
                    raise sqlite3.OperationalError("database or disk is full")
            return self._connection.execute(query, *values)

    monkeypatch.setattr(app.journal, "_writer", Failing(app.journal._writer))
    assert app.run_once(10) == 0
    assert next(failures) > 60
    assert app.supervisor.exit_code == 0
    assert agent.missing(sent(verifying)) == []
    assert all(state == "confirmed" for _, state, _ in agent.rows())
    facts = app.board.facts()
    assert all(fact.ok for name, fact in facts.items() if name.startswith("disk/")), facts


def test_files_that_the_journal_did_not_take_are_found_again(
    agent: Agent, verifying: VerifyingS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = app_of(agent)
    record: Callable[..., int] = app.journal.record
    failures = iter([JournalBroken("database or disk is full")])

    def failing(*arguments: Any) -> int:
        with contextlib.suppress(StopIteration):
            raise next(failures)
        return record(*arguments)

    monkeypatch.setattr(app.journal, "record", failing)
    assert app.run_once(10) == 0
    assert sent(verifying) == {agent.key("a.jpg"): b"a"}


def test_a_system_id_that_is_not_ascii_is_encoded_where_a_header_names_it(agent: Agent, verifying: VerifyingS3) -> None:
    agent.system_id = "gerät-7"
    agent.configure(verifying.endpoint_url, watch={"settle_s": 0.05})
    # Too much for headers: the rest lies in an object whose key, in a header, holds the id as well.
    message = {"id": "m", "time": 1_700_000_000, "file_name": "a.jpg", "note": "n" * 3000}
    assert agent.cli("post", "image_info", json.dumps(message)).returncode == 0
    assert app_of(agent).run_once(10) == 0
    assert sent(verifying) == {agent.key("a.jpg"): b"a"}
    metadata = verifying.buckets["bucket"][agent.key("a.jpg")].metadata
    assert text_of(metadata["syncagent-system-id"]) == "gerät-7"
    sidecar = text_of(metadata[SIDECAR])
    assert json.loads(verifying.objects()[sidecar])["content"]["note"] == message["note"]


def test_run_once_leaves_no_directory_that_it_emptied(agent: Agent) -> None:
    rules = {"retention": {"keep_files": 0, "remove_empty_directories": True}}
    with VerifyingS3() as store:
        agent.configure(store.endpoint_url, watch={"settle_s": 0.05}, carrier=rules)
        agent.write("2025/06/b.jpg", b"b")
        os.makedirs(agent.path("of/the/camera"))
        assert app_of(agent).run_once(10) == 0
    assert sorted(os.listdir(agent.data_dir)) == ["of"] and os.path.isdir(agent.path("of/the/camera"))


def test_run_once_removes_each_name_of_a_file(agent: Agent, verifying: VerifyingS3) -> None:
    agent.configure(verifying.endpoint_url, watch={"settle_s": 0.05}, carrier={"retention": {"keep_days": 0}})
    for name in ("b.jpg", "c.jpg"):
        os.link(agent.path("a.jpg"), agent.path(name))
    assert app_of(agent).run_once(10) == 0
    assert os.listdir(agent.data_dir) == []
    assert sent(verifying) == {agent.key(name): b"a" for name in ("a.jpg", "b.jpg", "c.jpg")}
