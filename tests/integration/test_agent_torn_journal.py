"""A torn, deleted or replaced journal: set aside or noticed, told of, and made anew from disk and bucket."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable
from typing import Any

import pytest

from syncagent.edges.journal import FILE_NAME
from tests.agent import Agent, puts, sent
from tests.integration.test_agent_once import app_of, signals_restored
from tests.servers import VerifyingS3, wait_until

__all__ = ["signals_restored"]
FILES = 40


def journal_of(agent: Agent) -> str:
    return os.path.join(agent.state_dir, FILE_NAME)


def wrecks_of(agent: Agent) -> list[str]:
    return [name for name in os.listdir(agent.state_dir) if ".torn-" in name and not name.endswith(("-wal", "-shm"))]


def noise(path: str) -> None:
    with open(path, "r+b") as file:
        size = len(file.read())
        file.seek(0)
        file.write(os.urandom(size))


def cut(path: str) -> None:
    os.truncate(path, os.path.getsize(path) // 2)


def zero_first_page(path: str) -> None:
    with open(path, "r+b") as file:
        file.write(bytes(1024))


def zero_the_rest(path: str) -> None:
    size = os.path.getsize(path)
    os.truncate(path, 4096)
    os.truncate(path, size)


def make_directory(path: str) -> None:
    os.unlink(path)
    os.mkdir(path)


@pytest.fixture
def agent(tmp_path: object, verifying: VerifyingS3) -> Agent:
    """Has sent some files."""
    agent = Agent(str(tmp_path))
    agent.configure(verifying.endpoint_url, watch={"scan_s": 1, "settle_s": 0.05})
    for number in range(FILES):
        agent.write(f"{number}.jpg", str(number).encode())
    assert agent.run_once().returncode == 0
    assert len(puts(verifying)) == FILES
    return agent


def status(agent: Agent) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(agent.cli("status", "--json").stdout)
    return document


@pytest.mark.parametrize("damage", [noise, cut, zero_first_page, zero_the_rest, make_directory])
def test_a_torn_journal_is_set_aside_and_told_of_and_the_next_run_sends_what_is_new_and_nothing_else(
    agent: Agent, verifying: VerifyingS3, damage: Callable[[str], None]
) -> None:
    damage(journal_of(agent))
    agent.write("new.jpg", b"new")
    result = agent.run_once()
    assert result.returncode == 0, result.stderr
    assert len(puts(verifying)) == FILES + 1
    assert agent.missing(sent(verifying)) == []
    assert agent.states("0.jpg") == ["confirmed"]
    (wreck,) = wrecks_of(agent)
    assert wreck.startswith("journal.db.torn-20")
    assert "torn" in result.stderr and wreck in result.stderr
    (warning,) = status(agent)["warnings"]
    assert wreck in warning and "retry" in warning
    assert agent.cli("retry", "--all").returncode == 0
    assert status(agent)["warnings"] == []
    assert agent.run_once().returncode == 0
    assert status(agent)["warnings"] == []
    assert wrecks_of(agent) == [wreck]


@pytest.mark.parametrize("command", ["ls", "retry", "send"])
def test_only_the_agent_sets_a_torn_journal_aside(agent: Agent, command: str) -> None:
    noise(journal_of(agent))
    with open(journal_of(agent), "rb") as file:
        before = file.read()
    arguments = {"retry": ["--all"], "send": [agent.path("0.jpg")]}.get(command, [])
    result = agent.cli(command, *arguments)
    assert result.returncode == 1
    assert "damaged" in result.stderr and "Traceback" not in result.stderr
    with open(journal_of(agent), "rb") as file:
        assert file.read() == before
    assert wrecks_of(agent) == []


def test_the_status_of_an_agent_that_is_not_running_says_so_and_that_its_journal_is_torn(agent: Agent) -> None:
    noise(journal_of(agent))
    for arguments in ((), ("--json",)):
        result = agent.cli("status", *arguments)
        assert result.returncode == 3
        assert "is damaged" in result.stderr and "Traceback" not in result.stderr
    document = json.loads(result.stdout)
    assert (document["running"], document["state"]) == (False, "stopped")
    assert "is damaged" in document["facts"]["disk"]["reason"]
    assert wrecks_of(agent) == []


def test_an_agent_that_meets_a_torn_page_ends_with_1_and_the_next_one_begins_a_new_journal(
    agent: Agent, verifying: VerifyingS3
) -> None:
    app = app_of(agent)
    with app.journal._lock, app.journal._read_lock:
        os.truncate(journal_of(agent), 4096)
        for connection in (app.journal._writer, app.journal._reader):
            connection.execute("PRAGMA shrink_memory")  # what it read before does not count
    agent.write("new.jpg", b"new")
    assert app.run_once(10) == 1
    (wreck,) = wrecks_of(agent)
    assert not os.path.exists(journal_of(agent))
    result = agent.run_once()
    assert result.returncode == 0, result.stderr
    assert agent.missing(sent(verifying)) == []
    assert len(puts(verifying)) == FILES + 1
    (warning,) = status(agent)["warnings"]
    assert wreck in warning


@pytest.mark.parametrize("is_replaced", [False, True])
def test_an_agent_whose_journal_is_deleted_or_replaced_ends_with_1_and_loses_nothing(
    agent: Agent, verifying: VerifyingS3, is_replaced: bool
) -> None:
    process = agent.start()
    for name in os.listdir(agent.state_dir):
        if name.startswith(FILE_NAME):
            os.unlink(os.path.join(agent.state_dir, name))
    if is_replaced:
        with open(journal_of(agent), "w"):
            pass
    agent.write("new.jpg", b"new")
    assert process.wait(30) == 1
    assert "deleted or replaced" in agent.log()
    assert agent.run_once().returncode == 0
    assert agent.missing(sent(verifying)) == []
    assert len(puts(verifying)) == FILES + 1
    assert wrecks_of(agent) == []


def test_an_agent_whose_log_is_cut_ends_with_1_and_loses_nothing(agent: Agent, verifying: VerifyingS3) -> None:
    process = agent.start()
    for number in range(FILES):
        agent.write(f"later/{number}.jpg", f"later {number}".encode())
    wait_until(lambda: agent.count("confirmed") == 2 * FILES, what="all are confirmed")
    cut(journal_of(agent) + "-wal")
    agent.write("new.jpg", b"new")
    assert process.wait(30) == 1
    assert "cut while it was in use" in agent.log()
    assert agent.run_once().returncode == 0
    assert agent.missing(sent(verifying)) == []
    assert len(puts(verifying)) == 2 * FILES + 1


def test_send_does_not_say_queued_into_a_journal_that_the_agent_does_not_use(
    agent: Agent, verifying: VerifyingS3
) -> None:
    agent.configure(verifying.endpoint_url, duration="as_needed")
    agent.write("asked.jpg", b"asked")
    app = app_of(agent)
    app.control.open()
    app.supervisor.serve("control", app.control.serve)
    for name in os.listdir(agent.state_dir):
        if name.startswith(FILE_NAME):
            os.unlink(os.path.join(agent.state_dir, name))
    result = agent.cli("send", agent.path("asked.jpg"))
    assert result.returncode == 1
    assert "queued" not in result.stdout
    assert "deleted or replaced" in result.stderr
    assert app._end() == 0
    # The request is in the file that the next agent opens.
    assert agent.run_once().returncode == 0
    assert sent(verifying)[agent.key("asked.jpg")] == b"asked"


def test_of_many_torn_journals_the_newest_two_are_kept(agent: Agent) -> None:
    for _ in range(4):
        noise(journal_of(agent))
        with contextlib.suppress(FileNotFoundError):
            os.unlink(journal_of(agent) + "-wal")
        assert agent.run_once().returncode == 0
    assert len(wrecks_of(agent)) == 2
