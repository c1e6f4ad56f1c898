"""A journal that is lost is made anew from disk and bucket: what the bucket holds with our digest is not sent again."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator

import pytest

from syncagent.edges.journal import FILE_NAME
from tests.agent import Agent, puts, sent, suffixed
from tests.servers import VerifyingS3, wait_until

MIB = 1 << 20
FILES = 40
#: Requests that bring bytes.
SENDING = ("PutObject", "CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload")


@pytest.fixture
def agent(tmp_path: object, verifying: VerifyingS3) -> Iterator[Agent]:
    """Has sent small files, and one in parts."""
    with Agent(str(tmp_path)) as agent:
        agent.configure(
            verifying.endpoint_url, watch={"scan_s": 1, "settle_s": 0.05}, upload={"multipart_bytes": 5 * MIB}
        )
        for number in range(FILES):
            agent.write(f"day/{number}.jpg", str(number).encode())
        agent.write("film.mp4", os.urandom(11 * MIB))
        yield agent


def journal_of(agent: Agent) -> str:
    return os.path.join(agent.state_dir, FILE_NAME)


def remove_state(agent: Agent) -> None:
    shutil.rmtree(agent.state_dir)


def empty_state(agent: Agent) -> None:
    remove_state(agent)
    os.mkdir(agent.state_dir)


def remove_file(agent: Agent) -> None:
    os.unlink(journal_of(agent))


def warnings(agent: Agent) -> list[str]:
    document = json.loads(agent.cli("status", "--json").stdout)
    return list(document["warnings"])


def empty_file(agent: Agent) -> None:
    os.truncate(journal_of(agent), 0)


def sending(store: VerifyingS3) -> list[str]:
    """Requests that brought bytes of files."""
    return [e.key for e in store.requests() if e.operation in SENDING and "/.syncagent/" not in e.key]


@pytest.mark.parametrize("lose", [remove_state, empty_state, empty_file])
def test_what_the_bucket_holds_is_adopted_and_not_sent_again(
    agent: Agent, verifying: VerifyingS3, lose: Callable[[Agent], None]
) -> None:
    assert agent.run_once().returncode == 0
    objects, before = sent(verifying), len(verifying.history)
    lose(agent)
    result = agent.run_once()
    assert result.returncode == 0, result.stderr
    own = [event for event in verifying.history[before:] if "/.syncagent/" not in event.key]
    # One listing tells all, also of the film, whose ETag is that of its parts.
    assert [event.operation for event in own] == ["ListObjectsV2"]
    assert sent(verifying) == objects
    assert agent.states("film.mp4") == ["confirmed"] and agent.states("day/7.jpg") == ["confirmed"]


def test_what_is_new_or_other_is_sent_and_replaces_nothing(agent: Agent, verifying: VerifyingS3) -> None:
    assert agent.run_once().returncode == 0
    objects, before = sent(verifying), len(puts(verifying))
    remove_state(agent)
    agent.write("new.jpg", b"new")
    agent.write("day/1.jpg", b"other")
    assert agent.run_once().returncode == 0
    key = suffixed(agent.key("day/1.jpg"), b"other")
    assert sent(verifying) == {**objects, agent.key("new.jpg"): b"new", key: b"other"}
    assert len(puts(verifying)) == before + 2


@pytest.mark.parametrize("lose", [remove_file, empty_file])
def test_a_lost_journal_is_told_of_until_somebody_has_seen_it(agent: Agent, lose: Callable[[Agent], None]) -> None:
    assert agent.run_once().returncode == 0
    assert warnings(agent) == []
    lose(agent)
    result = agent.run_once()
    assert result.returncode == 0 and "no journal is left" in result.stderr
    (warning,) = warnings(agent)
    assert "the journal was lost" in warning and "retry" in warning
    assert agent.cli("retry", "--all").returncode == 0
    assert warnings(agent) == []
    assert agent.run_once().returncode == 0
    assert warnings(agent) == []


def log_of(agent: Agent) -> str:
    return journal_of(agent) + "-wal"


def log_bytes(agent: Agent) -> int:
    return os.path.getsize(log_of(agent))


def kill_without_log(agent: Agent) -> None:
    """The agent is killed, and its log does not survive."""
    agent.kill()
    for ending in ("-wal", "-shm"):
        os.unlink(journal_of(agent) + ending)


def cut_log(agent: Agent, at: int) -> None:
    os.truncate(log_of(agent), at + 100)


def zero_log(agent: Agent, at: int) -> None:
    size = log_bytes(agent)
    os.truncate(log_of(agent), at)
    os.truncate(log_of(agent), size)


def flip_log(agent: Agent, at: int) -> None:
    """One page of it is not what was written."""
    with open(log_of(agent), "r+b") as file:
        file.seek(at + 500)
        (byte,) = file.read(1)
        file.seek(at + 500)
        file.write(bytes([byte ^ 1]))


def noise_log(agent: Agent, _at: int) -> None:
    with open(log_of(agent), "r+b") as file:
        file.write(os.urandom(log_bytes(agent)))


TEARS = pytest.mark.parametrize("tear", [cut_log, zero_log, flip_log, noise_log])


@TEARS
def test_a_torn_log_costs_a_listing_and_sends_nothing_again(
    agent: Agent, verifying: VerifyingS3, tear: Callable[[Agent, int], None]
) -> None:
    agent.start()
    wait_until(lambda: agent.count("confirmed") == FILES + 1, deadline_s=60, what="all are confirmed")
    begun = log_bytes(agent)
    for number in range(FILES):
        agent.write(f"later/{number}.jpg", f"later {number}".encode())
    wait_until(lambda: agent.count("confirmed") == 2 * FILES + 1, deadline_s=60, what="all are confirmed")
    before, objects = len(sending(verifying)), sent(verifying)
    agent.kill()
    tear(agent, begun)
    result = agent.run_once()
    assert result.returncode == 0, result.stderr
    assert "log is lost or torn" in result.stderr
    assert sent(verifying) == objects and len(sending(verifying)) == before
    assert "log is lost or torn" not in agent.run_once().stderr


@TEARS
def test_a_torn_log_never_lets_other_bytes_be_replaced(
    agent: Agent, verifying: VerifyingS3, tear: Callable[[Agent, int], None]
) -> None:
    verifying.has_conditional_writes = False
    assert agent.run_once().returncode == 0
    agent.start()
    wait_until(lambda: agent.count("confirmed") == FILES + 1, deadline_s=60, what="it is up")
    begun = log_bytes(agent)
    agent.write("later.jpg", b"first")
    wait_until(lambda: agent.states("later.jpg") == ["confirmed"], what="it is confirmed")
    agent.kill()
    tear(agent, begun)
    agent.write("later.jpg", b"second")
    assert agent.run_once().returncode == 0
    key = agent.key("later.jpg")
    assert sent(verifying)[key] == b"first" and sent(verifying)[suffixed(key, b"second")] == b"second"


def test_a_missing_log_costs_a_listing_and_sends_nothing_again(agent: Agent, verifying: VerifyingS3) -> None:
    agent.start()
    wait_until(lambda: agent.count("confirmed") == FILES + 1, deadline_s=60, what="all are confirmed")
    before, objects = len(sending(verifying)), sent(verifying)
    kill_without_log(agent)
    result = agent.run_once()
    assert result.returncode == 0, result.stderr
    assert sent(verifying) == objects and len(sending(verifying)) == before
    assert "log is lost or torn" in result.stderr
    assert agent.run_once().returncode == 0
    assert "log is lost or torn" not in agent.run_once().stderr


def test_a_missing_log_never_lets_other_bytes_be_replaced(agent: Agent, verifying: VerifyingS3) -> None:
    """Also in a store without conditional writes, where only the journal and the listing know what is there."""
    verifying.has_conditional_writes = False
    assert agent.run_once().returncode == 0
    agent.start()
    wait_until(lambda: agent.count("confirmed") == FILES + 1, deadline_s=60, what="it is up")
    agent.write("later.jpg", b"first")
    wait_until(lambda: agent.states("later.jpg") == ["confirmed"], what="it is confirmed")
    kill_without_log(agent)
    assert agent.states("later.jpg") == []
    agent.write("later.jpg", b"second")
    assert agent.run_once().returncode == 0
    key = agent.key("later.jpg")
    assert sent(verifying)[key] == b"first" and sent(verifying)[suffixed(key, b"second")] == b"second"


def test_a_kill_alone_loses_no_log_and_lists_nothing(agent: Agent, verifying: VerifyingS3) -> None:
    agent.start()
    wait_until(lambda: agent.count("confirmed") == FILES + 1, deadline_s=60, what="all are confirmed")
    agent.kill()
    before = len(verifying.history)
    assert agent.run_once().returncode == 0
    assert verifying.history[before:] == []
