"""`syncagent follow` beside the real agent: no position is skipped or told twice, whatever happens to the agent."""

from __future__ import annotations

import array
import contextlib
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pytest

from syncagent.edges.control import ask
from tests.agent import Agent, environment, sent
from tests.servers import VerifyingS3, program, wait_until

FIELDS = ["position", "path", "key", "bytes", "sha256", "address", "confirmed_at", "message"]
NOBODY = 65534


@pytest.fixture
def agent(tmp_path: Path, verifying: VerifyingS3) -> Iterator[Agent]:
    """Configured for the strict store, and not started."""
    with Agent(str(tmp_path)) as agent:
        agent.configure(verifying.endpoint_url, watch={"scan_s": 1})
        yield agent


class Follow:
    """One `follow` in a process of its own, its lines in a file. Killed at the end of the block."""

    def __init__(self, agent: Agent, *arguments: str, before: tuple[str, ...] = ()) -> None:
        self.output, self.errors = (tempfile.TemporaryFile("w+") for _ in range(2))  # noqa: SIM115
        command = [*before, *agent.command("follow", *arguments)]
        self.process = subprocess.Popen(
            command, stdout=self.output, stderr=self.errors, stdin=subprocess.DEVNULL, env=environment()
        )

    def __enter__(self) -> Follow:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        self.output.close()
        self.errors.close()

    def lines(self) -> list[dict[str, Any]]:
        whole, _, _ = os.pread(self.output.fileno(), 1 << 26, 0).rpartition(b"\n")
        return [json.loads(line) for line in whole.splitlines()]

    def positions(self) -> list[int]:
        return [line["position"] for line in self.lines()]

    def says(self) -> str:
        return os.pread(self.errors.fileno(), 1 << 20, 0).decode()

    def expect(self, positions: list[int], *, deadline_s: float = 30) -> None:
        try:
            wait_until(lambda: len(self.positions()) >= len(positions), deadline_s=deadline_s)
        except AssertionError:
            raise AssertionError(f"{self.positions()} {self.says()}") from None
        assert self.positions() == positions

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(10)


def is_followed(agent: Agent, count: int = 1) -> bool:
    """Whether so many peers have a question open: the accepted ends of the agent's socket."""
    assert agent.process is not None
    with open("/proc/net/unix") as sockets:
        lines = [line.split() for line in sockets if line.rstrip().endswith("/agent.sock")]
    accepted = {f"socket:[{fields[6]}]" for fields in lines if fields[5] == "03"}  # SS_CONNECTED
    fds = f"/proc/{agent.process.pid}/fd"
    held = set()
    for fd in os.listdir(fds):
        with contextlib.suppress(FileNotFoundError):
            held.add(os.readlink(os.path.join(fds, fd)))
    return len(accepted & held) >= count


def confirmed(agent: Agent, count: int) -> None:
    wait_until(lambda: agent.count("confirmed") == count, what=f"{count} files are confirmed", deadline_s=30)


def arrive(agent: Agent, *names: str) -> None:
    """Files that are confirmed one after the other."""
    for name in names:
        before = agent.count("confirmed")
        agent.write(name, os.fsencode(name))
        confirmed(agent, before + 1)


def test_it_prints_what_is_there_and_then_each_file_when_it_is_confirmed(agent: Agent, verifying: VerifyingS3) -> None:
    agent.start()
    arrive(agent, "a.jpg", os.fsdecode(b"caf\xe9.jpg"))
    with Follow(agent, "--from", "0") as everything, Follow(agent, "--from", "1") as middle, Follow(agent) as news:
        everything.expect([1, 2])
        middle.expect([2])
        wait_until(lambda: "after position 2" in news.says())
        arrive(agent, "b.jpg")
        everything.expect([1, 2, 3])
        middle.expect([2, 3])
        news.expect([3])
        lines = everything.lines()
        assert [list(line) for line in lines] == [FIELDS] * 3
        first = lines[0]
        assert (first["path"], first["key"]) == ("generated_data/camera/a.jpg", agent.key("a.jpg"))
        assert (first["bytes"], first["address"]) == (5, "upload")
        assert first["message"]["msg_content"] == {
            "id": first["sha256"][:32],
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(os.stat(agent.path("a.jpg")).st_mtime)),
            "file_name": "a.jpg",
            "disk_path": "generated_data/camera/a.jpg",
            "cloud_path": agent.key("a.jpg"),
        }
        assert os.fsencode(lines[1]["path"]).endswith(b"caf\xe9.jpg")
        assert {line["key"] for line in lines} == set(sent(verifying))
        assert (everything.end(signal.SIGINT), middle.end(signal.SIGTERM)) == (0, 0)


def test_a_version_that_was_removed_is_still_told(agent: Agent) -> None:
    agent.start()
    arrive(agent, "a.jpg")
    os.unlink(agent.path("a.jpg"))
    wait_until(lambda: agent.states("a.jpg") == ["removed"])
    arrive(agent, "b.jpg")
    result = agent.cli("follow", "--from", "0", "--no-wait")
    assert [json.loads(line)["path"][-5:] for line in result.stdout.splitlines()] == ["a.jpg", "b.jpg"]


def test_it_needs_no_configuration_and_ends_after_so_many_lines_or_with_what_is_there(agent: Agent) -> None:
    nothing = agent.cli("follow", "--from", "0", "--no-wait")
    assert (nothing.returncode, nothing.stdout) == (0, "")
    assert agent.state_dir in nothing.stderr
    for name in ("a", "b", "c"):
        agent.write(name, name.encode())
    assert agent.run_once().returncode == 0
    shutil.rmtree(agent.config_dir)
    two = agent.cli("follow", "--from", "0", "--limit", "2")
    assert (two.returncode, len(two.stdout.splitlines())) == (0, 2)
    rest = agent.cli("follow", "--from", "2", "--no-wait")
    assert [json.loads(line)["position"] for line in rest.stdout.splitlines()] == [3]
    assert agent.cli("follow", "--from", "-1").returncode == 2
    assert agent.cli("follow", "--limit", "0").returncode == 2


def test_a_journal_that_ends_before_the_position_is_told_apart(agent: Agent) -> None:
    agent.write("a", b"a")
    assert agent.run_once().returncode == 0
    result = agent.cli("follow", "--from", "5")
    assert (result.returncode, result.stdout) == (1, "")
    assert "ends at position 1" in result.stderr and "--from 0" in result.stderr


def test_it_may_start_before_the_agent_and_outlives_it(agent: Agent) -> None:
    with Follow(agent) as follow:
        wait_until(lambda: "after position 0" in follow.says())
        agent.start()
        arrive(agent, "a.jpg")
        follow.expect([1])
        assert agent.stop() == 0
        agent.write("b.jpg", b"b")
        assert agent.run_once().returncode == 0
        follow.expect([1, 2])
        agent.start()
        arrive(agent, "c.jpg")
        follow.expect([1, 2, 3])
        assert follow.end() == 0


def test_kills_of_the_agent_neither_skip_nor_repeat_a_position(agent: Agent) -> None:
    total = 200
    agent.start()
    with Follow(agent, "--from", "0") as follow, Follow(agent, "--from", "0", "--limit", "70") as half:
        for number in range(total):
            agent.write(f"img_{number:03}.jpg", b"%d" % number)
            if number in (50, 100, 150):
                least = number // 2
                wait_until(lambda least=least: len(follow.positions()) > least, what="the middle", deadline_s=30)  # type: ignore[misc]
                agent.kill()
                agent.start()
        follow.expect(list(range(1, total + 1)), deadline_s=60)
        assert half.process.wait(30) == 0
        assert half.positions() == list(range(1, 71))
        names = [line["path"] for line in follow.lines()]
        assert len(set(names)) == total
        with Follow(agent, "--from", str(half.positions()[-1]), "--no-wait") as resumed:
            assert resumed.process.wait(30) == 0
            assert resumed.lines() == follow.lines()[70:]
        assert follow.end() == 0


def test_while_nothing_is_confirmed_it_reads_nothing_and_others_are_answered(agent: Agent) -> None:
    agent.start()
    arrive(agent, "a.jpg")
    with Follow(agent, "--from", "0") as first, Follow(agent, "--from", "0") as second:
        first.expect([1])
        second.expect([1])
        wait_until(lambda: is_followed(agent, 2), what="both wait")
        begun = time.monotonic()
        for _ in range(20):
            assert ask(agent.state_dir, "status")["running"]
        assert time.monotonic() - begun < 2
        reads = [read_calls(each) for each in (first, second)]
        assert_stays(lambda: [read_calls(each) for each in (first, second)] == reads, for_s=1.5)
        assert agent.stop() == 0  # with both waiting
        assert (first.end(), second.end()) == (0, 0)


def test_a_question_for_a_position_takes_only_numbers(agent: Agent) -> None:
    agent.start()
    arrive(agent, "a.jpg")
    assert ask(agent.state_dir, "position") == {"position": 1}
    assert ask(agent.state_dir, "position", after=0, wait_s=25) == {"position": 1}
    assert ask(agent.state_dir, "position", after=1, wait_s=0.1) == {"position": 1}
    wrong: tuple[dict[str, Any], ...] = (
        {"after": "1"},
        {"after": 1, "wait_s": -1},
        {"wait_s": float("nan")},
        {"wait_s": []},
    )
    for arguments in wrong:
        assert "error" in ask(agent.state_dir, "position", **arguments)


def read_calls(follow: Follow) -> int:
    with open(f"/proc/{follow.process.pid}/io") as counters:
        return int(next(line for line in counters if line.startswith("syscr")).split()[1])


def assert_stays(condition: Any, *, for_s: float) -> None:
    end = time.monotonic() + for_s
    while time.monotonic() < end:
        assert condition()
        time.sleep(0.1)


def test_it_ends_when_nobody_reads_any_more(agent: Agent) -> None:
    agent.start()
    arrive(agent, "a.jpg")
    process = subprocess.Popen(
        agent.command("follow", "--from", "0"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()
    )
    assert process.stdout is not None and process.stderr is not None
    assert json.loads(process.stdout.readline())["position"] == 1
    process.stdout.close()  # and no further file is needed for it to notice
    assert process.wait(10) == 0
    assert process.stderr.read() == b""
    process.stderr.close()


def waiting_bytes(pipe: IO[bytes] | None) -> int:
    """How much of a pipe has not been read."""
    assert pipe is not None
    count = array.array("i", [0])
    fcntl.ioctl(pipe, termios.FIONREAD, count)
    return count[0]


def test_a_reader_that_does_not_read_does_not_keep_it_from_ending(agent: Agent) -> None:
    for number in range(300):
        agent.write(f"{number}.jpg", b"%d" % number)
    assert agent.run_once().returncode == 0
    with subprocess.Popen(
        agent.command("follow", "--from", "0"), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment()
    ) as process:
        assert process.stdout is not None
        wait_until(lambda: waiting_bytes(process.stdout) > 50_000, what="the pipe is full")
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
        lines = process.stdout.read().splitlines()
    assert [json.loads(line)["position"] for line in lines] == list(range(1, len(lines) + 1))


def test_a_full_disk_under_its_output_is_said(agent: Agent) -> None:
    agent.write("a", b"a")
    assert agent.run_once().returncode == 0
    with open("/dev/full", "wb") as full:
        result = subprocess.run(
            agent.command("follow", "--from", "0"), stdout=full, stderr=subprocess.PIPE, env=environment(), timeout=30
        )
    assert result.returncode == 1
    assert b"No space left" in result.stderr


@pytest.fixture
def shared(verifying: VerifyingS3) -> Iterator[Agent]:
    """An agent whose state directory the group `nogroup` may enter, and read, but not change."""
    if os.geteuid() != 0:
        pytest.skip("only root can become somebody else")
    top = tempfile.mkdtemp()
    try:
        os.chmod(top, 0o755)
        with Agent(top) as agent:
            os.makedirs(agent.state_dir, mode=0o750)
            os.chown(agent.state_dir, 0, NOBODY)
            agent.configure(verifying.endpoint_url)
            yield agent
    finally:
        shutil.rmtree(top)


def as_nobody(gid: int = NOBODY) -> tuple[str, ...]:
    become = (program("setpriv"), f"--reuid={NOBODY}", f"--regid={gid}", "--clear-groups")
    if subprocess.run([*become, sys.executable, "-c", "import syncagent.cli.follow"], capture_output=True).returncode:
        pytest.skip("others may not run this interpreter")
    return become


def test_a_user_who_may_only_read_the_journal_follows_it(shared: Agent) -> None:
    shared.start()
    arrive(shared, "a.jpg")
    with Follow(shared, "--from", "0", before=as_nobody()) as follow:
        follow.expect([1])
        wait_until(lambda: is_followed(shared), what="it asks the agent")
        arrive(shared, "b.jpg")
        follow.expect([1, 2])
        shared.kill()
        with Follow(shared, "--from", "0", "--no-wait", before=as_nobody()) as beside_a_dead_one:
            assert beside_a_dead_one.process.wait(20) == 0, beside_a_dead_one.says()
            assert beside_a_dead_one.positions() == [1, 2]
        shared.start()
        arrive(shared, "c.jpg")
        follow.expect([1, 2, 3])
        assert shared.stop() == 0
        with Follow(shared, "--from", "0", "--no-wait", before=as_nobody()) as after_the_end:
            assert after_the_end.process.wait(20) == 0, after_the_end.says()
            assert after_the_end.positions() == [1, 2, 3]
        assert follow.end() == 0


def test_a_user_who_may_not_read_the_journal_is_told_what_is_needed(shared: Agent) -> None:
    shared.start()
    with Follow(shared, "--from", "0", before=as_nobody(gid=65533)) as outsider:
        assert outsider.process.wait(20) == 1
        assert "member of its group" in outsider.says() and shared.state_dir in outsider.says()
    os.chmod(os.path.join(shared.state_dir, "journal.db"), 0o600)
    with Follow(shared, "--from", "0", before=as_nobody()) as member:
        assert member.process.wait(20) == 1
        assert "cannot read" in member.says() and "journal.db" in member.says()
