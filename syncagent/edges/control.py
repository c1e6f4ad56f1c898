"""Questions to the running agent: one line of JSON there, one line back, over a socket in the state directory.

The answers are read-only, but for "poke", which wakes the workers after another process wrote to the journal.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

logger = logging.getLogger(__name__)

SOCKET_NAME = "agent.sock"
ASK_TIMEOUT_S = 5.0
MAX_LINE_BYTES = 64 * 1024


@contextlib.contextmanager
def _address(state_dir: str) -> Iterator[str]:
    """A name for the socket that fits into the 108 bytes of sun_path (unix(7)), however long the directory's is."""
    fd = os.open(state_dir, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{fd}/{SOCKET_NAME}"
    finally:
        os.close(fd)


def ask(state_dir: str, question: str, *, timeout_s: float = ASK_TIMEOUT_S) -> Any:
    """The agent's answer, or None when no agent answers in time."""
    try:
        with (
            _address(state_dir) as address,
            socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as sock,
        ):
            sock.settimeout(timeout_s)
            sock.connect(address)
            sock.sendall(json.dumps({"ask": question}).encode() + b"\n")
            with sock.makefile("rb") as lines:
                line = lines.readline()
        return json.loads(line) if line else None
    except (OSError, ValueError):
        return None


class Control:
    """Answers questions, one after the other. `answers`: question -> function that gives the answer."""

    name = "control"

    def __init__(self, state_dir: str, answers: Mapping[str, Callable[[], Any]]) -> None:
        self._state_dir = state_dir
        self._answers = answers
        self._sock: socket.socket | None = None
        self._closed = threading.Event()

    def open(self) -> None:
        """Raises OSError; the caller holds the state directory's lock, so an old socket is a dead one's."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(self._state_dir, SOCKET_NAME))
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        with _address(self._state_dir) as address:
            sock.bind(address)
        sock.listen(16)
        self._sock = sock

    def serve(self) -> None:
        """Answer until closed; runs in a thread of its own."""
        sock = self._sock
        assert sock is not None
        while True:
            try:
                peer, _ = sock.accept()
            except OSError as error:
                if self._closed.wait(1.0):
                    return
                # Such as too many open files: the next question may be luckier.
                logger.warning("cannot take a question reason=%s", error)
                continue
            with peer:
                try:
                    self._answer(peer)
                except (OSError, ValueError) as error:
                    logger.debug("question dropped reason=%s", error)
                except Exception:
                    logger.exception("question failed")

    def _answer(self, peer: socket.socket) -> None:
        peer.settimeout(ASK_TIMEOUT_S)
        with peer.makefile("rb") as lines:
            line = lines.readline(MAX_LINE_BYTES)
        question = json.loads(line).get("ask") if line else None
        give = self._answers.get(str(question))
        answer = give() if give else {"error": f"unknown question {question!r}"}
        peer.sendall(json.dumps(answer).encode() + b"\n")

    def close(self) -> None:
        self._closed.set()
        if self._sock is not None:
            # shutdown wakes the accept in the other thread; close alone does not.
            with contextlib.suppress(OSError):
                self._sock.shutdown(socket.SHUT_RDWR)
            self._sock.close()
        with contextlib.suppress(OSError):
            os.unlink(os.path.join(self._state_dir, SOCKET_NAME))
