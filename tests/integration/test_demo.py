"""The demo as a user meets it, and its link and its comparison against a real store."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from syncagent.core.model import Digest, Facts, State
from syncagent.demo.audit import Bucket, compare
from syncagent.demo.camera import Version
from syncagent.demo.camp import BUCKET
from syncagent.demo.link import Link
from syncagent.edges.journal import Row
from tests.agent import environment
from tests.servers import MotoS3, wait_until

END_S = 150.0


class Demo:
    """`syncagent demo` in a process, with its temporary files below `directory`."""

    def __init__(self, directory: str, *options: str) -> None:
        self.directory = directory
        self.said_path = os.path.join(directory, "said")
        with open(self.said_path, "wb") as said:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "syncagent", "demo", *options],
                stdout=said,
                stderr=said,
                stdin=subprocess.DEVNULL,
                cwd=directory,
                env={**environment(), "TMPDIR": directory},
                start_new_session=True,
            )

    def said(self) -> str:
        with open(self.said_path, encoding="utf-8") as file:
            return file.read()

    def has_said(self, word: str) -> bool:
        assert self.process.poll() is None or word in self.said(), self.said()
        return word in self.said()

    def await_word(self, word: str) -> None:
        wait_until(lambda: self.has_said(word), deadline_s=END_S, what=f"{word!r} in what the demo says")

    def children(self) -> dict[int, str]:
        """PID -> command line of the processes that work in its directory; the demo's own does not name it."""
        found = {}
        for path in glob.glob("/proc/[0-9]*/cmdline"):
            with contextlib.suppress(OSError), open(path, "rb") as file:
                words = file.read().decode(errors="replace").split("\0")
                if any(word.startswith(os.path.join(self.directory, "syncagent-demo-")) for word in words):
                    found[int(path.split("/")[2])] = " ".join(words)
        return found

    def left_behind(self) -> list[str]:
        return [name for name in os.listdir(self.directory) if name != "said"]


@pytest.fixture
def directory(tmp_path: os.PathLike[str]) -> str:
    return os.path.realpath(tmp_path)


@contextlib.contextmanager
def running(directory: str, *options: str) -> Iterator[Demo]:
    demo = Demo(directory, *options)
    try:
        yield demo
    finally:
        if demo.process.poll() is None:
            demo.process.kill()
            demo.process.wait()


def test_the_demo_ends_by_itself_with_every_file_identical_and_leaves_nothing(directory: str) -> None:
    with running(directory, "--seconds", "3") as demo:
        assert demo.process.wait(END_S) == 0, demo.said()
    lines = demo.said().splitlines()
    assert lines[-1].endswith("bytes: all identical")
    assert not lines[-1].startswith("0 ")
    assert any(" settling " in line for line in lines)
    assert any(" confirmed " in line and " -> camera/demo-camera/" in line for line in lines)
    assert all(line.isprintable() for line in lines)
    assert demo.left_behind() == []
    assert demo.children() == {}


def test_ctrl_c_stops_the_camera_waits_and_compares_and_keep_keeps(directory: str) -> None:
    with running(directory, "--keep") as demo:
        demo.await_word(" settling ")
        os.kill(demo.process.pid, signal.SIGINT)
        assert demo.process.wait(END_S) == 0, demo.said()
    kept = demo.said().splitlines()[-1].removeprefix("kept: ")
    assert "all identical" in demo.said()
    assert os.listdir(os.path.join(kept, "generated_data", "camera"))
    assert demo.children() == {}


def test_a_second_ctrl_c_ends_at_once_and_leaves_neither_processes_nor_files(directory: str) -> None:
    with running(directory) as demo:
        demo.await_word(" settling ")
        assert len(demo.children()) == 3
        os.kill(demo.process.pid, signal.SIGINT)
        demo.await_word("the camera finishes its file")
        os.kill(demo.process.pid, signal.SIGINT)
        assert demo.process.wait(20) == 130, demo.said()
    assert demo.children() == {}
    assert demo.left_behind() == []


def test_a_demo_that_is_killed_takes_its_processes_along(directory: str) -> None:
    with running(directory) as demo:
        demo.await_word(" settling ")
        assert len(demo.children()) == 3
        demo.process.kill()
        demo.process.wait()
        wait_until(lambda: not demo.children(), what="the end of the children")


def test_a_demo_whose_agent_is_killed_names_what_did_not_arrive_and_fails(directory: str) -> None:
    with running(directory) as demo:
        demo.await_word(" settling ")
        (agent,) = [pid for pid, command in demo.children().items() if command.endswith(" run ")]
        os.kill(agent, signal.SIGKILL)
        assert demo.process.wait(END_S) == 1, demo.said()
    assert "the agent ended with -9" in demo.said()
    assert re.search(r"img_\d+\.jpg: not confirmed$", demo.said(), re.MULTILINE)
    assert demo.children() == {}
    assert demo.left_behind() == []


def test_two_demos_at_the_same_time_do_not_disturb_one_another(directory: str) -> None:
    places = [os.path.join(directory, name) for name in ("one", "two")]
    with contextlib.ExitStack() as stack:
        for place in places:
            os.mkdir(place)
        demos = [stack.enter_context(running(place, "--seconds", "2")) for place in places]
        for demo in demos:
            assert demo.process.wait(END_S) == 0, demo.said()


def version_of(path: str, content: bytes) -> Version:
    return Version(path, len(content), hashlib.sha256(content).hexdigest())


def confirmed_row(path: str, key: str, content: bytes) -> Row:
    """What the journal says of a version that arrived."""
    digest = Digest(hashlib.md5(content).digest(), hashlib.sha256(content).digest())
    return Row(
        id=1,
        address="camera",
        path=path,
        facts=Facts(len(content), 0, 0, 0),
        state=State.CONFIRMED,
        reason="",
        attempts=1,
        due=0.0,
        recorded=0.0,
        key=key,
        digest=digest,
        etag=None,
        is_unsettled=False,
        cloud_path=None,
        message=None,
        position=1,
        confirmed_at=0.0,
    )


@pytest.fixture
def bucket(moto: MotoS3) -> Iterator[Bucket]:
    client = moto.client()
    bucket = Bucket(moto.endpoint_url)
    bucket.create()
    yield bucket
    for key in list(bucket.list_keys()):
        client.delete_object(Bucket=BUCKET, Key=key)
    client.delete_bucket(Bucket=BUCKET)


def test_the_comparison_names_what_differs_what_is_missing_and_what_nobody_finished(
    directory: str, moto: MotoS3, bucket: Bucket
) -> None:
    contents = {
        "same": b"s" * 600_000,
        "differs": b"d" * 600_000,
        "shorter": b"h" * 10,
        "missing": b"m",
        "unsent": b"u",
    }
    rows, versions = [], []
    for name, content in contents.items():
        path = f"generated_data/camera/{name}.jpg"
        os.makedirs(os.path.dirname(os.path.join(directory, path)), exist_ok=True)
        with open(os.path.join(directory, path), "wb") as file:
            file.write(content)
        versions.append(version_of(path, content))
        if name != "unsent":
            rows.append(confirmed_row(path, f"camera/{name}.jpg", content))
    client = moto.client()
    for name, body in {
        "same": contents["same"],
        "differs": contents["differs"][:-1] + b"x",
        "shorter": b"h" * 9,
        "strange": b"torn",
    }.items():
        client.put_object(Bucket=BUCKET, Key=f"camera/{name}.jpg", Body=body)
    client.put_object(Bucket=BUCKET, Key="camera/demo-camera/.syncagent/status.json", Body=b"{}")
    verdict = compare(directory, rows, versions, bucket, lambda done, total: None)
    found = sorted(os.path.basename(fault.partition(":")[0]) for fault in verdict.faults)
    assert found == ["differs.jpg", "missing.jpg", "shorter.jpg", "strange.jpg", "unsent.jpg"]


def test_earlier_versions_are_compared_by_their_digest(directory: str, moto: MotoS3, bucket: Bucket) -> None:
    path = "generated_data/camera/a.jpg"
    os.makedirs(os.path.dirname(os.path.join(directory, path)))
    with open(os.path.join(directory, path), "wb") as file:
        file.write(b"third")
    versions: list[Version] = [version_of(path, content) for content in (b"first", b"second", b"third")]
    rows = [confirmed_row(path, "camera/a.jpg", b"first"), confirmed_row(path, "camera/a.3.jpg", b"third")]
    client = moto.client()
    client.put_object(Bucket=BUCKET, Key="camera/a.jpg", Body=b"first")
    client.put_object(Bucket=BUCKET, Key="camera/a.3.jpg", Body=b"third")
    verdict = compare(directory, rows, versions, bucket, lambda done, total: None)
    assert (verdict.files, verdict.earlier, verdict.replaced, verdict.faults) == (1, 1, 1, [])
    client.put_object(Bucket=BUCKET, Key="camera/a.jpg", Body=b"fir5t")
    assert len(compare(directory, rows, versions, bucket, lambda done, total: None).faults) == 1


@pytest.fixture
def echo() -> Iterator[socket.socket]:
    """Something to connect to; the test accepts."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(10)
        yield server


@pytest.fixture
def link(echo: socket.socket) -> Iterator[Link]:
    link = Link(echo.getsockname()[1])
    link.open()
    yield link
    link.close()


def meet(link: Link, echo: socket.socket) -> tuple[socket.socket, socket.socket]:
    near = socket.create_connection(("127.0.0.1", link.port), timeout=10)
    far, _ = echo.accept()
    far.settimeout(10)
    return near, far


def test_the_link_carries_both_ways_and_passes_the_end_of_either_side(link: Link, echo: socket.socket) -> None:
    near, far = meet(link, echo)
    with near, far:
        near.sendall(b"question")
        near.shutdown(socket.SHUT_WR)
        assert far.makefile("rb").read() == b"question"
        far.sendall(b"answer")
        far.shutdown(socket.SHUT_WR)
        assert near.makefile("rb").read() == b"answer"


def test_a_cut_link_resets_what_is_open_refuses_what_comes_and_is_the_same_after_mending(
    link: Link, echo: socket.socket
) -> None:
    near, far = meet(link, echo)
    with near, far:
        near.sendall(b"x")
        assert far.recv(1) == b"x"
        link.cut()
        with pytest.raises(ConnectionResetError):
            near.recv(1)
        with pytest.raises(ConnectionResetError):
            far.recv(1)
        for _ in range(200):
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", link.port), timeout=10)
        link.mend()
        again, there = meet(link, echo)
        with again, there:
            again.sendall(b"y")
            assert there.recv(1) == b"y"
