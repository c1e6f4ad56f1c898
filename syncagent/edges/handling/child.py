"""The process that handlers run in, as seen from the agent: one line to it, one line from it, and what it prints.

Promises: no exchange takes longer than its time-out or holds more than `MAX_ANSWER_BYTES`; `end` leaves no process of
its group, unless the kernel holds it.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping

from syncagent.core.errors import HandlerFailed, Stopping

logger = logging.getLogger(__name__)

MAX_ANSWER_BYTES = 1024 * 1024
#: Of one call. A handler that prints more is not going to end.
MAX_PRINTED_BYTES = 1024 * 1024
#: One of these is in every answer.
ANSWERS = {"ready", "returned", "failed"}
#: How long a stop may stay unnoticed.
_TICK_S = 0.1
#: How long the end of a killed process is waited for; only one stuck in the kernel takes longer.
_END_S = 0.3
_LOGGED_LINES = 50
_LOGGED_LINE = 500
#: The agent's own business: its credentials, its configuration, its talks with the service manager.
_OUR_VARIABLES = ("AWS_", "SYNCAGENT_", "NOTIFY_", "WATCHDOG_", "JOURNAL_", "LISTEN_", "CREDENTIALS_")


class NotStarted(Exception):
    """Not the handler's fault."""


class Printed:
    """What a handler prints during one call: into the log, as far as a person would read it."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._rest = b""
        self._lines = 0
        self.size_bytes = 0

    def take(self, piece: bytes) -> None:
        self.size_bytes += len(piece)
        *lines, self._rest = (self._rest + piece).split(b"\n")
        for line in lines:
            self._log(line)
        if len(self._rest) > _LOGGED_LINE:
            # Only its beginning is for the log: what never sees an end of line must not grow here.
            self._rest = self._rest[:_LOGGED_LINE]

    def finish(self) -> None:
        if self._rest:
            self._log(self._rest)
        if self._lines > _LOGGED_LINES:
            logger.info("handler said more source=%s lines=%d", self._source, self._lines - _LOGGED_LINES)

    def _log(self, line: bytes) -> None:
        self._lines += 1
        if self._lines <= _LOGGED_LINES:
            text = line[:_LOGGED_LINE].decode("utf-8", "replace")
            text = "".join(character if character.isprintable() else " " for character in text)
            logger.info("handler said source=%s line=%s", self._source, text.rstrip())


class Child:
    """One process and the three pipes to it."""

    def __init__(self, base_dir: str) -> None:
        """Raises: NotStarted."""
        self._is_ready = False
        try:
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter, our own module
                [
                    sys.executable,
                    *("-P", "-X", "faulthandler", "-m", "syncagent.handlers.host"),
                    *(base_dir, str(MAX_ANSWER_BYTES)),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                cwd="/",
                env=_environment(os.environ),
                start_new_session=True,
            )
        except OSError as error:
            raise NotStarted(error.strerror or type(error).__name__) from error
        pipes = [pipe for pipe in (self._process.stdin, self._process.stdout, self._process.stderr) if pipe]
        for pipe in pipes:
            os.set_blocking(pipe.fileno(), False)
        self._calls, self._answers, self._prints = (pipe.fileno() for pipe in pipes)

    def has_ended(self) -> bool:
        """Without reaping it: its number must stay its own until its group was killed."""
        if self._process.returncode is not None:
            return True
        try:
            return os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        except ChildProcessError:  # somebody reaped it
            return True

    def is_quiet(self) -> bool:
        """Whether it says nothing unasked; what it does say would be taken for the answer to the next call."""
        try:
            os.read(self._answers, 1)
        except BlockingIOError:
            return True
        return False

    def end(self) -> None:
        """Kill it with everything it started."""
        self._kill()
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()

    def _kill(self) -> int | None:
        """How it ended, maybe before this: an exit code, or a signal's number below zero."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
            try:
                self._process.wait(_END_S)
            except subprocess.TimeoutExpired:
                logger.warning("process of the handlers does not end pid=%d", self._process.pid)
        return self._process.returncode

    def exchange(
        self, line: bytes, printed: Printed, *, timeout_s: float, should_stop: Callable[[], bool]
    ) -> dict[str, object]:
        """Say a line and hear one. Raises: HandlerFailed; NotStarted for the first one; Stopping."""
        deadline = time.monotonic() + timeout_s
        heard = bytearray()
        with selectors.DefaultSelector() as pipes:
            pipes.register(self._answers, selectors.EVENT_READ)
            pipes.register(self._prints, selectors.EVENT_READ)
            if line:
                pipes.register(self._calls, selectors.EVENT_WRITE)
            try:
                while not heard.endswith(b"\n"):
                    if should_stop():
                        raise Stopping
                    left_s = deadline - time.monotonic()
                    if left_s <= 0:
                        raise self._failure(
                            f"{'still running' if self._is_ready else 'not ready'} after {timeout_s:g} s"
                        )
                    # Asked before the pipes are: whatever it said before its end is in them by then.
                    is_over = self.has_ended()
                    for key, _ in pipes.select(0 if is_over else min(_TICK_S, left_s)):
                        if key.fd == self._calls:
                            line = self._say(line, pipes)
                        elif key.fd == self._answers:
                            is_over = not self._hear(heard) or is_over
                        else:
                            self._listen(printed, pipes)
                    if len(heard) > MAX_ANSWER_BYTES + 1000:
                        raise self._failure(f"its answer is larger than {MAX_ANSWER_BYTES} bytes of JSON")
                    if printed.size_bytes > MAX_PRINTED_BYTES:
                        raise self._failure(f"printed more than {MAX_PRINTED_BYTES} bytes")
                    if is_over and not heard.endswith(b"\n") and not self._hear(heard):
                        raise self._ended()
            finally:
                self._listen_to_the_end(printed, pipes)
                printed.finish()
        self._is_ready = True
        return self._understood(bytes(heard))

    def _say(self, line: bytes, pipes: selectors.BaseSelector) -> bytes:
        """What is left to be said."""
        try:
            line = line[os.write(self._calls, line) :]
        except BlockingIOError:
            return line
        except OSError:  # its end is noticed by the others
            line = b""
        if not line:
            pipes.unregister(self._calls)
        return line

    def _hear(self, heard: bytearray) -> bool:
        """False when nothing more will come."""
        try:
            piece = os.read(self._answers, 65536)
        except BlockingIOError:
            # It ended, but somebody it forked still holds the pipe.
            return not self.has_ended()
        heard += piece
        return bool(piece)

    def _listen(self, printed: Printed, pipes: selectors.BaseSelector) -> bool:
        """False when there is nothing (more) to be heard."""
        try:
            piece = os.read(self._prints, 65536)
        except BlockingIOError:
            return False
        if not piece:
            pipes.unregister(self._prints)
        printed.take(piece)
        return bool(piece)

    def _listen_to_the_end(self, printed: Printed, pipes: selectors.BaseSelector) -> None:
        """What was printed before the answer, or as a last word."""
        while self._prints in pipes.get_map() and printed.size_bytes <= MAX_PRINTED_BYTES:
            if not self._listen(printed, pipes):
                return

    def _ended(self) -> Exception:
        # A handler may have closed everything and gone on: then it is ended here, and by nobody's signal but ours.
        had_ended = self._has_ended_soon()
        code = self._kill()
        if not had_ended or code is None:
            return self._failure("closed its connection to the agent")
        return self._failure(f"ended with signal {-code}" if code < 0 else f"ended with exit code {code}")

    def _has_ended_soon(self) -> bool:
        """The pipes of an ending process close a moment before it has ended."""
        deadline = time.monotonic() + _END_S
        with selectors.DefaultSelector() as nothing:
            while not self.has_ended():
                if time.monotonic() > deadline:
                    return False
                nothing.select(0.01)
        return True

    def _failure(self, what: str) -> Exception:
        return HandlerFailed(f"handler: {what}") if self._is_ready else NotStarted(what)

    def _understood(self, line: bytes) -> dict[str, object]:
        try:
            answer = json.loads(line)
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict) or not ANSWERS & answer.keys():
            raise self._failure("what came back is not an answer")
        return answer


def _environment(ours: Mapping[str, str]) -> dict[str, str]:
    """The agent's own, without what is the agent's business alone."""
    kept = {name: value for name, value in ours.items() if not name.startswith(_OUR_VARIABLES)}
    # Also where the program does not lie in the interpreter's own place.
    return {**kept, "PYTHONPATH": os.pathsep.join(os.path.abspath(path) for path in sys.path)}
