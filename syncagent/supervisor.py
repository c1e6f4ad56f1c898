"""Named threads: their loops, their crashes, their end. Trouble of the disk is no crash: it is waited for.

Owns every thread of the agent. A worker is a name and a pass; loop, waiting, heartbeat and crash policy are here.
A signal has `Stop` set and does nothing else; everything then ends under one deadline.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from syncagent.core.board import Board, Fact
from syncagent.core.errors import EXIT_BUG, JournalBroken, JournalLost, Stopping, Transient, Trouble
from syncagent.core.retry import backoff_s
from syncagent.edges.clock import Bell, Clock, Stop
from syncagent.edges.systemd import Notifier

logger = logging.getLogger(__name__)

#: Under the 10 s that a stop may take.
STOP_DEADLINE_S = 8.0
CRASHES_TO_END = 5
CRASH_WINDOW_S = 600.0
EXIT_LOST = 1
#: A disk that is full, or away, is asked again at least this often.
DISK_WAIT_S = 30.0
#: The main thread looks after the others this often when no watchdog asks for more.
LOOK_S = 10.0
#: Signals to end that come closer together are one wish: `timeout` asks the process, and then its whole group.
TOGETHER_S = 0.2


class Worker(Protocol):
    """One pass each; `pass_once` returns after how many seconds the next one is due."""

    @property
    def name(self) -> str: ...
    def pass_once(self, stop: Stop, /) -> float: ...


@dataclass(slots=True)
class Crew:
    """One worker and what the supervisor knows of it. An essential worker that keeps crashing ends the agent."""

    worker: Worker
    bell: Bell
    fact: str  # the fact of the board that its crashes make untrue
    is_essential: bool = True
    max_silence_s: float = 120.0
    crashes: deque[float] = field(default_factory=deque)
    disk_failures: int = 0  # in a row
    thread: threading.Thread | None = None


class Supervisor:
    """Runs workers until told to stop."""

    def __init__(self, *, stop: Stop, board: Board, clock: Clock, notifier: Notifier) -> None:
        self.stop = stop
        self.board = board
        self._clock = clock
        self._notifier = notifier
        self._crew: list[Crew] = []
        self._servers: list[threading.Thread] = []
        self.exit_code = 0
        self._asked: float | None = None  # when a signal did first

    def add(self, crew: Crew) -> None:
        self._crew.append(crew)

    def catch_signals(self, on_hangup: Callable[[], None] = lambda: None) -> None:
        """SIGTERM and SIGINT ask for the end, a later one ends at once; SIGHUP calls `on_hangup`, in any thread.

        SIGIO, which a lease may cause, is ignored. Python runs a handler in the main thread alone, and that may have
        begun a long wait just when the signal came: it would hear of it when the wait is over. So the numbers go
        through a pipe, into which the interpreter writes at once (`signal.set_wakeup_fd`), to a thread that acts.
        """
        receive, send = os.pipe()
        os.set_blocking(send, False)
        signal.set_wakeup_fd(send, warn_on_full_buffer=False)
        signal.signal(signal.SIGIO, signal.SIG_IGN)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda _number, _frame: None)
        threading.Thread(target=self._hear, args=(receive, on_hangup), name="signals", daemon=True).start()

    def _hear(self, receive: int, on_hangup: Callable[[], None]) -> None:
        while True:
            for number in os.read(receive, 64):
                if number == signal.SIGHUP:
                    on_hangup()
                elif number not in (signal.SIGTERM, signal.SIGINT):
                    continue  # somebody else's
                elif self._asked is None:
                    self._asked = self._clock.monotonic()
                    self.stop.set()
                elif self._clock.monotonic() - self._asked > TOGETHER_S:
                    os._exit(128 + number)

    def serve(self, name: str, target: Callable[[], None]) -> None:
        """Run a server's own loop in a named thread; whoever opened it closes it."""
        thread = threading.Thread(target=target, name=name, daemon=True)
        thread.start()
        self._servers.append(thread)

    def start(self) -> None:
        for crew in self._crew:
            self.board.beat(crew.worker.name)
            crew.thread = threading.Thread(target=self._keep, args=(crew,), name=crew.worker.name, daemon=True)
            crew.thread.start()
        self._notifier.tell("READY=1")

    def watch(self, look: Callable[[], bool] = lambda: False, *, every_s: float = LOOK_S) -> None:
        """Wait for the stop, feeding the service manager's watchdog; `look` is asked each time whether all is done."""
        watchdog_s = self._notifier.watchdog_s
        wait_s = min(every_s, watchdog_s / 3) if watchdog_s else every_s
        while not self.stop.wait(wait_s):
            silent = self._silent()
            if silent:
                logger.error("no progress worker=%s: the watchdog is not fed", silent)
            else:
                self._notifier.tell("WATCHDOG=1")
            if look():
                self.stop.set()

    def _silent(self) -> str:
        """The name of an essential worker whose last beat is too long ago."""
        silences = self.board.silences()
        for crew in self._crew:
            if crew.is_essential and silences.get(crew.worker.name, 0.0) > crew.max_silence_s:
                return crew.worker.name
        return ""

    def end(self) -> list[str]:
        """Stop every worker and wait for it, in reverse order, under one deadline. Returns the names of survivors."""
        self.stop.set()
        self._notifier.tell("STOPPING=1")
        until = self._clock.monotonic() + STOP_DEADLINE_S
        survivors = []
        for crew in reversed(self._crew):
            if crew.thread is not None:
                crew.thread.join(max(0.0, until - self._clock.monotonic()))
                if crew.thread.is_alive():
                    survivors.append(crew.worker.name)
        if survivors:
            logger.warning("still busy at the end workers=%s", ",".join(survivors))
        return survivors

    def _keep(self, crew: Crew) -> None:
        """Run passes of one worker until stopped; crashes are logged, counted and spaced out."""
        while not self.stop.is_set():
            try:
                wait_s = crew.worker.pass_once(self.stop)
            except Stopping:
                return
            except JournalLost as error:
                self._lost(crew, error)
                return
            except Exception as error:
                if _is_of_the_disk(error):
                    wait_s = self._held_up(crew, error)
                else:
                    logger.exception("pass crashed worker=%s", crew.worker.name)
                    wait_s = self._crashed(crew, error)
                self.stop.wait(wait_s)  # whatever the bell rings for, nothing can be done about it yet
            else:
                self._went_well(crew)
                if wait_s > 0:
                    crew.bell.wait(wait_s)

    def _went_well(self, crew: Crew) -> None:
        self.board.beat(crew.worker.name)
        if crew.disk_failures:
            crew.disk_failures = 0
            logger.info("disk trouble over worker=%s", crew.worker.name)
            self.board.set_fact(f"disk/{crew.worker.name}", Fact(True, "ok"))
        if crew.crashes and self._clock.monotonic() - crew.crashes[-1] > CRASH_WINDOW_S:
            crew.crashes.clear()
            self.board.set_fact(crew.fact, Fact(True, "ok"))

    def _held_up(self, crew: Crew, error: Exception) -> float:
        crew.disk_failures += 1
        if crew.disk_failures == 1:
            logger.warning("disk trouble worker=%s reason=%s", crew.worker.name, error)
        self.board.set_fact(f"disk/{crew.worker.name}", Fact(False, "failing", str(error)))
        # Nothing can be done until somebody makes room, and a new process could do no more: the watchdog, which
        # would start one again and again, takes a worker that keeps trying for one that works.
        self.board.beat(crew.worker.name)
        return backoff_s(crew.disk_failures, least_s=1.0, most_s=DISK_WAIT_S)

    def _lost(self, crew: Crew, error: JournalLost) -> None:
        """Without its journal no worker can do anything, and only a new start has a way to get another."""
        self.board.set_fact(crew.fact, Fact(False, "journal lost", str(error)))
        if not self.stop.is_set():
            logger.critical("giving up, so that the service manager starts all anew: %s", error)
        self.exit_code = self.exit_code or EXIT_LOST
        self.stop.set()

    def _crashed(self, crew: Crew, error: Exception) -> float:
        now = self._clock.monotonic()
        crew.crashes.append(now)
        while crew.crashes[0] < now - CRASH_WINDOW_S:
            crew.crashes.popleft()
        reason = f"{crew.worker.name} crashed {len(crew.crashes)} times: {type(error).__name__}: {error}"
        self.board.set_fact(crew.fact, Fact(False, "crashing", reason))
        if crew.is_essential and len(crew.crashes) >= CRASHES_TO_END:
            logger.critical("giving up, so that the service manager starts all anew: %s", reason)
            self.exit_code = EXIT_BUG
            self.stop.set()
        return backoff_s(len(crew.crashes), least_s=1.0, most_s=60.0)


def _is_of_the_disk(error: Exception) -> bool:
    return isinstance(error, JournalBroken) or (isinstance(error, Transient) and error.trouble is Trouble.DISK)
