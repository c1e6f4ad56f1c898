"""Questions to the running agent: one line of JSON there, one line back, over a socket in the state directory.

The answers are read-only, but for "poke", which wakes the workers after another process wrote to the journal. So
whoever may enter the state directory may ask. Peers are answered beside one another, and one that waits for news
holds up none of the others.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

logger = logging.getLogger(__name__)

SOCKET_NAME = "agent.sock"
ASK_TIMEOUT_S = 5.0
MAX_LINE_BYTES = 64 * 1024
#: Peers that are answered at once; others wait their turn.
MAX_PEERS = 16
#: Of these, peers that wait for news; others are told at once that they cannot.
MAX_WAITING = 12
#: How long the end waits for answers that are on their way.
CLOSE_S = 2.0

#: Whether the peer that waits for an answer is still there, and the agent not about to end.
GoOn = Callable[[], bool]


@contextlib.contextmanager
def _address(state_dir: str) -> Iterator[str]:
    """A name for the socket that fits into the 108 bytes of sun_path (unix(7)), however long the directory's is."""
    fd = os.open(state_dir, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{fd}/{SOCKET_NAME}"
    finally:
        os.close(fd)


def ask(state_dir: str, question: str, *, timeout_s: float = ASK_TIMEOUT_S, **arguments: object) -> Any:
    """The agent's answer, or None when no agent answers in time. `arguments` stand beside the question."""
    try:
        with (
            _address(state_dir) as address,
            socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as sock,
        ):
            sock.settimeout(timeout_s)
            sock.connect(address)
            sock.sendall(json.dumps({"ask": question, **arguments}).encode() + b"\n")
            with sock.makefile("rb") as lines:
                line = lines.readline()
        return json.loads(line) if line else None
    except (OSError, ValueError):
        return None


class Control:
    """Answers questions. `answers`: question -> function that gives the answer at once; `waits`: question ->
    function that may take its time over it, given the question with its arguments, and looks at `GoOn` meanwhile."""

    name = "control"

    def __init__(
        self,
        state_dir: str,
        answers: Mapping[str, Callable[[], Any]],
        waits: Mapping[str, Callable[[Mapping[str, Any], GoOn], Any]] | None = None,
    ) -> None:
        self._state_dir = state_dir
        self._answers = answers
        self._waits = waits or {}
        self._sock: socket.socket | None = None
        self._closed = threading.Event()
        self._turns = threading.Semaphore(MAX_PEERS)
        self._waiting = threading.Semaphore(MAX_WAITING)
        self._lock = threading.Lock()
        self._peers: dict[threading.Thread, socket.socket] = {}  # under _lock

    def open(self) -> None:
        """Raises OSError; the caller holds the state directory's lock, so an old socket is a dead one's."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(self._state_dir, SOCKET_NAME))
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        with _address(self._state_dir) as address:
            sock.bind(address)
            # Asking takes the right to write, by unix(7); who may enter the directory may read the journal as well.
            os.chmod(address, 0o666)  # noqa: S103 - the directory's mode decides
        sock.listen(MAX_PEERS)
        self._sock = sock

    def serve(self) -> None:
        """Take questions until closed; runs in a thread of its own, and each answer in another."""
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
            self._turns.acquire()
            if not self._attend(peer):
                peer.close()
                self._turns.release()

    def _attend(self, peer: socket.socket) -> bool:
        """Answer a peer in a thread of its own; whether there is one."""
        thread = threading.Thread(target=self._keep, args=(peer,), name="control-peer", daemon=True)
        with self._lock:
            if self._closed.is_set():
                return False
            try:
                thread.start()
            except RuntimeError as error:  # no memory, or no number, left for a thread
                logger.warning("cannot answer a question reason=%s", error)
                return False
            self._peers[thread] = peer
        return True

    def _keep(self, peer: socket.socket) -> None:
        try:
            self._answer(peer)
        except (OSError, ValueError) as error:
            logger.debug("question dropped reason=%s", error)
        except Exception:
            logger.exception("question failed")
        finally:
            with self._lock:  # before it is closed: the descriptor may be another's then, which `close` must not shut
                del self._peers[threading.current_thread()]
            peer.close()
            self._turns.release()

    def _answer(self, peer: socket.socket) -> None:
        peer.settimeout(ASK_TIMEOUT_S)
        with peer.makefile("rb") as lines:
            line = lines.readline(MAX_LINE_BYTES)
        question = json.loads(line) if line else {}
        if not isinstance(question, dict):
            raise ValueError("no object")
        word = str(question.get("ask"))
        if word in self._waits:
            answer = self._wait(peer, word, question)
        elif word in self._answers:
            answer = self._answers[word]()
        else:
            answer = {"error": f"unknown question {question.get('ask')!r}"}
        peer.sendall(json.dumps(answer).encode() + b"\n")

    def _wait(self, peer: socket.socket, word: str, question: Mapping[str, Any]) -> Any:
        if not self._waiting.acquire(blocking=False):
            return {"error": f"{MAX_WAITING} others wait already"}
        try:
            return self._waits[word](question, lambda: not (self._closed.is_set() or _is_gone(peer)))
        finally:
            self._waiting.release()

    def close(self) -> None:
        """No more questions; answers that are on their way get a moment to arrive."""
        self._closed.set()
        if self._sock is not None:
            # shutdown wakes the accept in the other thread; close alone does not.
            with contextlib.suppress(OSError):
                self._sock.shutdown(socket.SHUT_RDWR)
            self._sock.close()
        with contextlib.suppress(OSError):
            os.unlink(os.path.join(self._state_dir, SOCKET_NAME))
        with self._lock:
            threads = list(self._peers)
            for peer in self._peers.values():
                # Whoever has not asked by now is not waited for; answers still leave.
                with contextlib.suppress(OSError):
                    peer.shutdown(socket.SHUT_RD)
        until = time.monotonic() + CLOSE_S
        for thread in threads:
            thread.join(max(0.0, until - time.monotonic()))
            if thread.is_alive():
                logger.warning("an answer is still on its way at the end")


def _is_gone(peer: socket.socket) -> bool:
    """Whether the peer closed its end; one that only says that it asks nothing more has not."""
    poll = select.poll()
    poll.register(peer, 0)
    return bool(poll.poll(0))
