"""Questions to the agent over its socket: every peer gets an answer or is dropped, and none stops the others."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from syncagent.edges.control import MAX_LINE_BYTES, SOCKET_NAME, Control, ask


class Served:
    """A Control in a thread of its own."""

    def __init__(self, state_dir: Path) -> None:
        self.state_dir = str(state_dir)
        self.pokes = 0
        answers = {"status": lambda: {"name": "caf\udce9", "n": 1}, "poke": self._poke, "bug": self._bug}
        self.control = Control(self.state_dir, answers)
        self.control.open()
        self.thread = threading.Thread(target=self.control.serve, daemon=True)
        self.thread.start()

    def _poke(self) -> dict[str, bool]:
        self.pokes += 1
        return {"ok": True}

    def _bug(self) -> Any:
        raise RuntimeError("a bug")

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
