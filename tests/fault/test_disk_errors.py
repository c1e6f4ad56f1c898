"""The card answers with an error whenever the journal is written: what is known is sent, and what is confirmed goes."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.agent import Agent, integrity, puts, sent
from tests.proxy import Proxy, Rule
from tests.servers import VerifyingS3, program, wait_until

COUNT = 10
WRITES = "pwrite64,write,fsync,fdatasync,ftruncate,fallocate"

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may trace a process that is not its child")


def tracers(pid: int) -> set[str]:
    """The tracers of each thread of a process; "0" is none."""
    found: set[str] = set()
    for thread in os.listdir(f"/proc/{pid}/task"):
        with contextlib.suppress(OSError), open(f"/proc/{pid}/task/{thread}/status") as file:
            found |= {line.split()[1] for line in file if line.startswith("TracerPid:")}
    return found


@contextmanager
def failing(agent: Agent, error: str) -> Iterator[None]:
    """Every write to the journal, to its log, and every flush of them ends with an error."""
    process = agent.process
    assert process is not None
    paths = [os.path.join(agent.state_dir, f"journal.db{end}") for end in ("", "-wal")]
    named = [word for path in paths for word in ("-P", path)]
    command = [program("strace"), "-f", "-qq", "-o", os.devnull, *named, "-e", f"inject={WRITES}:error={error}"]
    tracer = subprocess.Popen([*command, "-p", str(process.pid)])
    try:
        wait_until(lambda: tracers(process.pid) == {str(tracer.pid)}, what="every thread is traced")
        yield
    finally:
        tracer.terminate()
        tracer.wait()


@pytest.mark.parametrize("error", ["ENOSPC", "EDQUOT", "EROFS", "EIO"])
def test_what_is_known_is_sent_once_and_goes_whatever_error_the_journal_meets(
    tmp_path: object, verifying: VerifyingS3, error: str
) -> None:
    with Proxy(verifying.endpoint_url, Rule("refuse")) as link, Agent(str(tmp_path)) as agent:
        agent.configure(link.endpoint_url, watch={"scan_s": 1}, carrier={"retention": {"keep_files": 0}})
        agent.start()
        shots = {f"{number}.jpg": f"{number}".encode() for number in range(COUNT)}
        for name, content in shots.items():
            agent.write(name, content)
        # A journal that takes no writes makes nothing READY that waits for its next attempt.
        wait_until(lambda: agent.count("ready") == COUNT, what="all are recorded")
        with failing(agent, error):
            link.rule = Rule("pass")
            wait_until(
                lambda: sent(verifying) == {agent.key(name): content for name, content in shots.items()},
                deadline_s=60,
                what="all are in the bucket",
            )
            wait_until(lambda: os.listdir(agent.data_dir) == [], deadline_s=60, what="all went")
            wait_until(lambda: not agent.status()["facts"]["disk"]["ok"], deadline_s=30, what="the status says so")
            assert agent.process is not None and agent.process.poll() is None
        wait_until(lambda: bool(agent.status()["healthy"]), deadline_s=60, what="it is well again")
        wait_until(
            lambda: agent.count("confirmed") + agent.count("removed") == COUNT, deadline_s=60, what="it is written down"
        )
        agent.write("later.jpg", b"later")
        wait_until(lambda: agent.key("later.jpg") in sent(verifying), deadline_s=60, what="a new one is sent")
        assert len(puts(verifying)) == COUNT + 1, "a file was sent twice"
        assert agent.stop() == 0
        assert "crashed" not in agent.log() and integrity(agent.state_dir) == "ok"
