"""The disk of the journal is full, or somebody else has the journal: the agent waits, says so, and goes on after it."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing

import pytest

from tests.agent import Agent, sent
from tests.servers import VerifyingS3, wait_until

#: The journal and its log, and little more.
CARD_BYTES = 512 * 1024

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a file system")


@pytest.fixture
def agent(tmp_path: object, verifying: VerifyingS3) -> Iterator[Agent]:
    with Agent(str(tmp_path)) as agent:
        agent.configure(verifying.endpoint_url, watch={"scan_s": 1})
        yield agent


@pytest.fixture
def card(agent: Agent) -> Iterator[str]:
    """A file system of its own under the state directory."""
    os.makedirs(agent.state_dir)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={CARD_BYTES}", "none", agent.state_dir], check=True)
    yield agent.state_dir
    subprocess.run(["umount", "--lazy", agent.state_dir], check=True)


def fill(card: str) -> str:
    path = os.path.join(card, "filler")
    with open(path, "ab", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(4096)):
            pass
    return path


def one_line(agent: Agent) -> str:
    """What `run` says of why it cannot start."""
    result = agent.cli("run")
    assert result.returncode == 1, result.stderr
    assert "bug" not in result.stderr and "Traceback" not in result.stderr
    return result.stderr.strip().split("\n")[-1]


@as_root
def test_an_agent_whose_journal_is_full_waits_and_says_so_and_goes_on_when_there_is_room(
    agent: Agent, verifying: VerifyingS3, card: str
) -> None:
    process = agent.start()
    agent.write("before.jpg", b"before")
    wait_until(lambda: agent.count("confirmed") == 1, what="the first file is confirmed")
    assert agent.status()["healthy"]
    filler = fill(card)
    count = 0

    def is_full() -> bool:
        nonlocal count
        # The log is written over from its beginning now and then: one file need not be too many.
        agent.write(f"{count}.jpg", str(count).encode())
        count += 1
        return not agent.status()["facts"]["disk"]["ok"]

    wait_until(is_full, deadline_s=60, what="the status says that the disk is full")
    status = agent.status()
    assert not status["healthy"] and "full" in status["facts"]["disk"]["reason"], status["facts"]
    wait_until(lambda: agent.log().count("disk trouble") >= 2, what="more than one worker met it")
    # Long enough for five crashes of one worker: 1, 2, 4 and 8 s lie between them.
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(17)
    os.unlink(filler)
    wait_until(lambda: agent.count("confirmed") == count + 1, deadline_s=60, what="every file is confirmed")
    wait_until(lambda: agent.status()["healthy"], deadline_s=60, what="the status is well again")
    assert agent.missing(sent(verifying)) == []
    assert agent.stop() == 0
    assert "crashed" not in agent.log()


@as_root
def test_an_agent_that_finds_no_room_at_its_start_says_so_in_one_line(
    agent: Agent, verifying: VerifyingS3, card: str
) -> None:
    filler = fill(card)
    assert "agent.lock" in one_line(agent)
    os.unlink(filler)
    with open(os.path.join(card, "agent.lock"), "w") as lock:
        lock.write("12345\n")
    fill(card)
    assert "journal.db" in one_line(agent)
    os.unlink(filler)
    agent.write("a.jpg", b"a")
    assert agent.run_once().returncode == 0
    assert sent(verifying) == {agent.key("a.jpg"): b"a"}


def test_an_agent_whose_journal_is_locked_by_another_program_says_so_in_one_line(agent: Agent) -> None:
    assert agent.run_once().returncode == 0
    with closing(sqlite3.connect(os.path.join(agent.state_dir, "journal.db"), isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert "locked" in one_line(agent)
        result = agent.cli("retry", "--all")
        assert (result.returncode, result.stderr.count("\n")) == (1, 1), result.stderr
        assert "locked" in result.stderr
