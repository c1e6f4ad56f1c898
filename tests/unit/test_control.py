"""Questions to the agent over its socket: every peer gets an answer or is dropped, and none stops the others."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from syncagent.edges.control import MAX_LINE_BYTES, MAX_PEERS, MAX_WAITING, SOCKET_NAME, Control, ask


class Served:
    """A Control in a thread of its own."""

    def __init__(self, state_dir: Path) -> None:
        self.state_dir = str(state_dir)
        self.pokes = 0
        answers = {"status": lambda: {"name": "caf\udce9", "n": 1}, "poke": self._poke, "bug": self._bug}
        self.news = threading.Event()
        self.waiting = 0
        self.control = Control(self.state_dir, answers, {"news": self._wait})
        self.control.open()
        self.thread = threading.Thread(target=self.control.serve, daemon=True)
        self.thread.start()

    def _poke(self) -> dict[str, bool]:
        self.pokes += 1
        return {"ok": True}

    def _bug(self) -> Any:
        raise RuntimeError("a bug")

    def _wait(self, question: Mapping[str, Any], go_on: Callable[[], bool]) -> dict[str, Any]:
        self.waiting += 1
        try:
            while not self.news.wait(0.01) and go_on():
                pass
            return {"after": question.get("after"), "news": self.news.is_set()}
        finally:
            self.waiting -= 1

    def raw(self, content: bytes) -> bytes:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(10)
            sock.connect(os.path.join(self.state_dir, SOCKET_NAME))
            sock.sendall(content)
            sock.shutdown(socket.SHUT_WR)
            return sock.makefile("rb").read()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    served = Served(tmp_path)
    yield served
    served.control.close()
    served.thread.join(10)
    assert not served.thread.is_alive(), "close does not end the thread"
    wait_for(lambda: not peer_threads())


def peer_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "control-peer"]


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


class Askers:
    """Questions for news, each in a thread of its own."""

    def __init__(self, served: Served, count: int) -> None:
        self.answers: list[Any] = []
        self.threads = [threading.Thread(target=self._ask, args=(served.state_dir, n)) for n in range(count)]
        for thread in self.threads:
            thread.start()

    def _ask(self, state_dir: str, number: int) -> None:
        self.answers.append(ask(state_dir, "news", timeout_s=20, after=number))

    def join(self) -> list[Any]:
        for thread in self.threads:
            thread.join(10)
            assert not thread.is_alive()
        return self.answers


def test_a_question_gets_its_answer_whatever_bytes_names_are_made_of(served: Served) -> None:
    assert ask(served.state_dir, "status") == {"name": "caf\udce9", "n": 1}
    assert ask(served.state_dir, "poke") == {"ok": True}
    assert served.pokes == 1


def test_an_unknown_question_is_answered_by_an_error(served: Served) -> None:
    assert "error" in ask(served.state_dir, "stop")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        b"x\n",
        b"[]\n",
        b"1\n",
        b'{"ask": {}}\n',
        b"\xff\xfe\n",
        b"[" * 50_000 + b"\n",
        b"x" * (MAX_LINE_BYTES + 9),
    ],
)
def test_nonsense_is_dropped_and_the_next_question_answered(served: Served, content: bytes) -> None:
    try:
        answer = served.raw(content)
    except ConnectionError:
        answer = b""  # dropped before it was read to its end
    assert answer == b"" or "error" in json.loads(answer)
    assert ask(served.state_dir, "poke") == {"ok": True}


def test_an_answer_that_fails_drops_one_peer_only(served: Served) -> None:
    assert ask(served.state_dir, "bug") is None
    assert ask(served.state_dir, "poke") == {"ok": True}


def test_nobody_answers_where_no_agent_is(tmp_path: Path) -> None:
    assert ask(str(tmp_path), "status") is None
    assert ask(str(tmp_path / "missing"), "status") is None
    (tmp_path / SOCKET_NAME).write_text("not a socket")
    assert ask(str(tmp_path), "status") is None


def test_an_agent_that_does_not_answer_is_not_waited_for_longer_than_asked(tmp_path: Path) -> None:
    control = Control(str(tmp_path), {})
    control.open()  # and nobody serves
    assert ask(str(tmp_path), "status", timeout_s=0.05) is None
    control.close()


def test_a_dead_agents_socket_is_replaced_and_a_closed_one_is_gone(tmp_path: Path) -> None:
    first = Control(str(tmp_path), {})
    first.open()
    served = Served(tmp_path)
    assert ask(str(tmp_path), "poke") == {"ok": True}
    served.control.close()
    served.thread.join(10)
    assert not (tmp_path / SOCKET_NAME).exists()
    served.control.close()
    first.close()


def test_a_state_directory_with_a_very_long_name_works(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 120) / ("e" * 120)
    deep.mkdir(parents=True)
    served = Served(deep)
    assert ask(str(deep), "poke") == {"ok": True}
    served.control.close()
    served.thread.join(10)
    assert not served.thread.is_alive()


def test_being_out_of_descriptors_for_a_moment_does_not_end_the_answers(tmp_path: Path) -> None:
    class Scarce(socket.socket):
        """A listener whose first accept finds no descriptor left."""

        failures = 1

        def accept(self) -> tuple[socket.socket, Any]:
            if self.failures:
                self.failures -= 1
                raise OSError(24, "Too many open files")
            return super().accept()

    control = Control(str(tmp_path), {"poke": lambda: {"ok": True}})
    control.open()
    assert control._sock is not None
    control._sock = Scarce(socket.AF_UNIX, socket.SOCK_STREAM, fileno=control._sock.detach())
    thread = threading.Thread(target=control.serve, daemon=True)
    thread.start()
    assert ask(str(tmp_path), "poke", timeout_s=10) == {"ok": True}
    control.close()
    thread.join(10)
    assert not thread.is_alive()


def test_a_question_that_waits_holds_up_no_other_and_gets_its_arguments(served: Served) -> None:
    askers = Askers(served, 2)
    wait_for(lambda: served.waiting == 2)
    assert ask(served.state_dir, "poke") == {"ok": True}
    served.news.set()
    assert sorted(answer["after"] for answer in askers.join()) == [0, 1]
    assert all(answer["news"] for answer in askers.answers)


def test_however_many_wait_there_is_room_for_other_questions(served: Served) -> None:
    askers = Askers(served, MAX_WAITING)
    wait_for(lambda: served.waiting == MAX_WAITING)
    assert "error" in ask(served.state_dir, "news")
    assert ask(served.state_dir, "poke") == {"ok": True}
    assert len(peer_threads()) <= MAX_PEERS
    served.news.set()
    assert len(askers.join()) == MAX_WAITING
    assert ask(served.state_dir, "news", after=5) == {"after": 5, "news": True}


def test_silent_peers_are_bounded_and_the_next_question_is_answered_when_one_leaves(served: Served) -> None:
    peers = [socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) for _ in range(MAX_PEERS + 4)]
    for peer in peers:
        peer.connect(os.path.join(served.state_dir, SOCKET_NAME))
    wait_for(lambda: len(peer_threads()) == MAX_PEERS)
    assert ask(served.state_dir, "poke", timeout_s=0.1) is None
    for peer in peers:
        peer.close()
    assert ask(served.state_dir, "poke") == {"ok": True}
    wait_for(lambda: not peer_threads())


def test_a_peer_that_leaves_is_not_waited_for_but_one_that_only_stops_asking_is(served: Served) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.connect(os.path.join(served.state_dir, SOCKET_NAME))
        sock.sendall(b'{"ask": "news"}\n')
        wait_for(lambda: served.waiting == 1)
    wait_for(lambda: served.waiting == 0)
    answers: list[bytes] = []
    thread = threading.Thread(target=lambda: answers.append(served.raw(b'{"ask": "news", "after": 1}\n')))
    thread.start()
    wait_for(lambda: served.waiting == 1)
    served.news.set()
    thread.join(10)
    assert json.loads(answers[0]) == {"after": 1, "news": True}


def test_close_answers_who_waits_and_does_not_wait_for_who_never_asks(tmp_path: Path) -> None:
    served = Served(tmp_path)
    askers = Askers(served, 3)
    silent = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    silent.connect(os.path.join(served.state_dir, SOCKET_NAME))
    wait_for(lambda: served.waiting == 3 and len(peer_threads()) == 4)
    begun = time.monotonic()
    served.control.close()
    assert time.monotonic() - begun < 1
    wait_for(lambda: not peer_threads())
    assert [answer["news"] for answer in askers.join()] == [False] * 3
    served.thread.join(10)
    assert not served.thread.is_alive()
    silent.close()


def test_whoever_may_enter_the_directory_may_ask(served: Served) -> None:
    assert os.stat(os.path.join(served.state_dir, SOCKET_NAME)).st_mode & 0o777 == 0o666
