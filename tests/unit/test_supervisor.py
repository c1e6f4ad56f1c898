"""Threads begin, crash and end as promised; the clock is the test's own, and so is the service manager."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from syncagent import supervisor as module
from syncagent.core.board import Board, Fact
from syncagent.core.errors import EXIT_BUG, JournalBroken, JournalLost, Stopping, Transient, Trouble
from syncagent.edges.clock import Clock, Stop
from syncagent.edges.systemd import Notifier
from syncagent.supervisor import TOGETHER_S, Crew, Supervisor
from tests.fakes import FakeClock, FakeStop

SILENT = Notifier(None)


class Worker:
    """Does what it is told in each pass; sleeps an hour after it."""

    def __init__(self, pass_once: Callable[[Stop], float], name: str = "worker") -> None:
        self.name = name
        self._pass = pass_once
        self.passes = 0

    def pass_once(self, stop: Stop, /) -> float:
        self.passes += 1
        return self._pass(stop)


class Team:
    """A supervisor whose waiting moves a clock instead of taking time."""

    def __init__(self, notifier: Notifier = SILENT) -> None:
        self.clock = FakeClock()
        self.stop = FakeStop(self.clock)
        self.board = Board(self.clock.monotonic)
        self.supervisor = Supervisor(stop=self.stop, board=self.board, clock=self.clock, notifier=notifier)
        self.crew: list[Crew] = []

    def add(self, pass_once: Callable[[Stop], float], *, is_essential: bool = True, name: str = "worker") -> Worker:
        worker = Worker(pass_once, name)
        crew = Crew(worker, self.stop.bell(), f"uploader/{name}", is_essential=is_essential)
        self.crew.append(crew)
        self.supervisor.add(crew)
        return worker

    def run(self) -> None:
        """Until every worker's thread has ended by itself."""
        self.supervisor.start()
        for crew in self.crew:
            assert crew.thread is not None
            crew.thread.join(30)
            assert not crew.thread.is_alive()


def crash(_: Stop) -> float:
    raise RuntimeError("a bug")


def test_an_essential_worker_that_crashes_five_times_in_ten_minutes_ends_the_agent_with_70() -> None:
    team = Team()
    worker = team.add(crash)
    begun = team.clock.monotonic()
    team.run()
    assert worker.passes == 5
    assert team.supervisor.exit_code == EXIT_BUG == 70
    assert 15 <= team.clock.monotonic() - begun <= 600  # spaced out: 1, 2, 4, 8 s
    fact = team.board.fact("uploader/worker")
    assert fact is not None and not fact.ok and "RuntimeError: a bug" in fact.reason


@pytest.mark.parametrize("is_essential", [True, False])
def test_any_worker_that_finds_the_journal_lost_ends_the_agent_at_once_with_1(is_essential: bool) -> None:
    team = Team()

    def lost(_: Stop) -> float:
        raise JournalLost("journal.db was deleted or replaced")

    worker = team.add(lost, is_essential=is_essential)
    team.run()
    assert worker.passes == 1
    assert team.supervisor.exit_code == 1
    fact = team.board.fact("uploader/worker")
    assert fact is not None and not fact.ok and "deleted" in fact.reason


def test_crashes_that_lie_far_apart_do_not_add_up() -> None:
    team = Team()

    def sometimes(stop: Stop) -> float:
        if worker.passes >= 60:
            stop.set()
        if worker.passes % 2:
            raise RuntimeError("now and then")
        return 200.0

    worker = team.add(sometimes)
    team.run()
    assert worker.passes == 60
    assert team.supervisor.exit_code == 0


def test_an_optional_worker_may_crash_for_ever_and_is_tried_again_and_again() -> None:
    team = Team()

    def always(stop: Stop) -> float:
        if worker.passes >= 40:
            stop.set()
        raise RuntimeError("a bug")

    worker = team.add(always, is_essential=False)
    team.run()
    assert worker.passes == 40
    assert team.supervisor.exit_code == 0
    assert team.clock.monotonic() - 1000 >= 30 * 60


def test_a_worker_that_crashed_and_works_again_is_well_after_a_while() -> None:
    team = Team()

    def once(stop: Stop) -> float:
        if worker.passes == 1:
            raise RuntimeError("once")
        if worker.passes == 20:
            stop.set()
        return 60.0

    worker = team.add(once)
    team.run()
    assert team.board.fact("uploader/worker") == Fact(True, "ok")


def test_a_crash_is_no_progress_and_a_pass_is() -> None:
    team = Team()

    def once(stop: Stop) -> float:
        team.clock.advance(50)
        if worker.passes == 3:
            stop.set()
            raise RuntimeError("at last")
        return 0.0

    worker = team.add(once)
    team.run()
    assert team.board.silences()["worker"] >= 50


def test_stopping_ends_a_worker_without_a_crash() -> None:
    team = Team()

    def stopping(stop: Stop) -> float:
        stop.set()
        raise Stopping

    team.add(stopping)
    team.run()
    assert team.supervisor.exit_code == 0
    assert team.board.fact("uploader/worker") is None


@pytest.mark.parametrize(
    "error", [JournalBroken("database or disk is full"), Transient("cannot look", trouble=Trouble.DISK)]
)
def test_trouble_of_the_disk_is_no_crash_shows_as_long_as_it_lasts_and_is_tried_again_at_least_each_half_minute(
    error: Exception,
) -> None:
    team = Team()
    seen = []

    def troubled(stop: Stop) -> float:
        team.crew[0].bell.ring()  # news for a worker that cannot use it must not make it busy
        fact = team.board.fact("disk/worker")
        seen.append(fact is None or fact.ok)
        if worker.passes <= 100:
            raise error
        if worker.passes == 103:
            stop.set()
        return 60.0

    worker = team.add(troubled)
    begun = team.clock.monotonic()
    team.supervisor.start()
    assert team.crew[0].thread is not None
    team.crew[0].thread.join(30)
    assert seen == [True] + [False] * 100 + [True] * 2
    assert team.supervisor.exit_code == 0
    assert team.board.fact("uploader/worker") is None
    waits = team.stop.waits[:100]
    assert waits[0] <= 2 and max(waits) == 30 and sum(waits) == pytest.approx(sum(waits[:8]) + 92 * 30)
    assert team.clock.monotonic() - begun >= 2_700


def test_trouble_of_the_disk_says_why_and_the_watchdog_is_fed_for_a_restart_helps_nothing() -> None:
    team = Team()

    def troubled(stop: Stop) -> float:
        team.clock.advance(50)
        stop.set()
        raise JournalBroken("database or disk is full")

    team.add(troubled)
    team.run()
    fact = team.board.fact("disk/worker")
    assert fact is not None and (fact.state, fact.reason) == ("failing", "database or disk is full")
    assert team.board.silences()["worker"] < 50


def test_trouble_of_anything_but_the_disk_that_leaves_a_pass_is_a_bug() -> None:
    team = Team()

    def careless(_: Stop) -> float:
        raise Transient("no route", trouble=Trouble.LINK)

    team.add(careless)
    team.run()
    assert team.supervisor.exit_code == EXIT_BUG


def test_one_worker_that_crashes_does_not_stop_another_one_before_the_agent_ends() -> None:
    team = Team()
    team.add(crash, is_essential=False, name="bad")

    def good(stop: Stop) -> float:
        if worker.passes >= 30:
            stop.set()
        return 1.0

    worker = team.add(good, name="good")
    team.run()
    assert worker.passes >= 30


def test_the_end_wakes_sleeping_workers_and_joins_them_in_reverse_order() -> None:
    clock, stop = Clock(), Stop()
    supervisor = Supervisor(stop=stop, board=Board(clock.monotonic), clock=clock, notifier=SILENT)
    crews = [Crew(Worker(lambda _: 3_600.0, str(n)), stop.bell(), "f") for n in range(3)]
    for crew in crews:
        supervisor.add(crew)
    supervisor.start()
    assert [crew.thread.name for crew in crews if crew.thread] == ["0", "1", "2"]
    assert supervisor.end() == []
    assert all(crew.thread is not None and not crew.thread.is_alive() for crew in crews)


def test_a_worker_that_will_not_end_is_named_and_not_waited_for_beyond_the_deadline(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "STOP_DEADLINE_S", 0.2)
    clock, stop, may_end = Clock(), Stop(), threading.Event()
    supervisor = Supervisor(stop=stop, board=Board(clock.monotonic), clock=clock, notifier=SILENT)

    def stick(_: Stop) -> float:
        may_end.wait(60)
        return 0.0

    for name, work in (("good", lambda _: 3_600.0), ("stuck", stick), ("stuck too", stick)):
        supervisor.add(Crew(Worker(work, name), stop.bell(), "f"))
    supervisor.start()
    assert supervisor.end() == ["stuck too", "stuck"]
    may_end.set()


def test_the_deadline_leaves_room_within_the_ten_seconds_that_a_stop_may_take() -> None:
    assert module.STOP_DEADLINE_S < 10


# -- the service manager ----------------------------------------------------------------------------------------------


class Manager:
    """A service manager's socket."""

    def __init__(self, directory: Path) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.bind(str(directory / "notify"))
        self.sock.setblocking(False)
        self.notifier = Notifier(self.sock.getsockname(), watchdog_usec="30000000")

    def heard(self) -> list[str]:
        lines: list[str] = []
        while True:
            try:
                lines += self.sock.recv(1000).decode().split("\n")
            except BlockingIOError:
                return lines


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    manager = Manager(tmp_path)
    yield manager
    manager.sock.close()


def test_ready_is_said_when_the_workers_run_and_stopping_when_they_are_to_end(manager: Manager) -> None:
    team = Team(manager.notifier)
    team.add(lambda stop: 3_600.0, is_essential=True)
    assert manager.heard() == []
    team.supervisor.start()
    assert manager.heard() == ["READY=1"]
    team.supervisor.end()
    assert manager.heard() == ["STOPPING=1"]


def watch(team: Team, *, beats: Callable[[int], list[str]], looks: int) -> None:
    """Let the main thread look `looks` times; before each, `beats` says who made progress."""
    count = 0

    def look() -> bool:
        nonlocal count
        count += 1
        for name in beats(count):
            team.board.beat(name)
        return count == looks

    for crew in team.crew:
        team.board.beat(crew.worker.name)
    team.supervisor.watch(look)


def test_the_watchdog_is_fed_three_times_in_its_period_while_everybody_makes_progress(manager: Manager) -> None:
    team = Team(manager.notifier)
    team.add(lambda _: 1.0)
    watch(team, beats=lambda _: ["worker"], looks=6)
    assert manager.heard() == ["WATCHDOG=1"] * 6
    assert team.stop.waits[0] == 10.0


def test_the_watchdog_is_not_fed_once_an_essential_worker_is_silent_for_too_long(manager: Manager) -> None:
    team = Team(manager.notifier)
    team.add(lambda _: 1.0, name="busy")
    team.add(lambda _: 1.0, name="stuck")
    team.crew[1].max_silence_s = 35.0
    watch(team, beats=lambda _: ["busy"], looks=20)
    assert manager.heard() == ["WATCHDOG=1"] * 3


def test_a_worker_that_comes_back_lets_the_watchdog_be_fed_again(manager: Manager) -> None:
    team = Team(manager.notifier)
    team.add(lambda _: 1.0)
    team.crew[0].max_silence_s = 15.0
    watch(team, beats=lambda count: ["worker"] if count >= 5 else [], looks=8)
    assert manager.heard() == ["WATCHDOG=1"] * (1 + 3)


def test_an_optional_worker_may_be_silent(manager: Manager) -> None:
    team = Team(manager.notifier)
    team.add(lambda _: 1.0, is_essential=False)
    team.crew[0].max_silence_s = 15.0
    watch(team, beats=lambda _: [], looks=8)
    assert manager.heard() == ["WATCHDOG=1"] * 8


# -- signals ----------------------------------------------------------------------------------------------------------

AGENT = """
import os, signal, sys, threading
from syncagent.core.board import Board
from syncagent.edges.clock import Clock, Stop
from syncagent.edges.systemd import Notifier
from syncagent.supervisor import Crew, Supervisor

clock, stop = Clock(), Stop()
supervisor = Supervisor(stop=stop, board=Board(clock.monotonic), clock=clock, notifier=Notifier(None))

class Worker:
    name = "worker"
    def pass_once(self, stop):
        print("ready", flush=True)
        stop.wait(60)
        print("asked", flush=True)
        threading.Event().wait({stuck_s})
        return 0.0

supervisor.add(Crew(Worker(), stop.bell(), "f"))
supervisor.catch_signals(lambda: print("hangup", flush=True))
os.kill(os.getpid(), signal.SIGIO)
{before}
supervisor.start()
{main}
"""


def start(
    *, stuck_s: float, main: str = "supervisor.watch(); supervisor.end()", before: str = ""
) -> subprocess.Popen[str]:
    program = AGENT.format(stuck_s=stuck_s, main=main, before=before)
    agent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert agent.stdout is not None
    assert agent.stdout.readline() == "ready\n", "SIGIO ended the process"
    return agent


def end(agent: subprocess.Popen[str]) -> int:
    try:
        return agent.wait(30)
    finally:
        agent.kill()
        agent.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_asks_for_the_end_and_the_end_is_orderly(number: signal.Signals) -> None:
    agent = start(stuck_s=0)
    agent.send_signal(number)
    assert end(agent) == 0


def test_a_second_signal_ends_at_once() -> None:
    agent = start(stuck_s=3_600)
    agent.send_signal(signal.SIGTERM)
    assert agent.stdout is not None
    assert agent.stdout.readline() == "asked\n"
    threading.Event().wait(2 * TOGETHER_S)
    agent.send_signal(signal.SIGTERM)
    assert end(agent) == 128 + signal.SIGTERM


def test_signals_that_come_together_are_one_wish_for_an_orderly_end() -> None:
    main = """
for _ in range(20):
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGINT)
supervisor.watch(); supervisor.end()
"""
    assert end(start(stuck_s=0.1, main=main)) == 0


def test_a_signal_that_somebody_else_waits_for_asks_for_nothing() -> None:
    main = """
signal.signal(signal.SIGUSR1, lambda number, frame: None)
os.kill(os.getpid(), signal.SIGUSR1)
stop.wait(0.5)
print("stopped" if stop.is_set() else "goes on", flush=True)
supervisor.end()
"""
    agent = start(stuck_s=0, main=main)
    assert agent.stdout is not None
    assert agent.stdout.readline() == "goes on\n"
    assert end(agent) == 0


# A thread that waits is not always interrupted: the signal may have come just before its wait. Here it never is.
DEAF = "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGHUP])"


def test_a_main_thread_that_a_signal_does_not_wake_ends_at_once_all_the_same() -> None:
    agent = start(stuck_s=0, before=DEAF, main="supervisor.watch(every_s=3600); supervisor.end()")
    agent.send_signal(signal.SIGTERM)
    assert end(agent) == 0


def test_a_hangup_is_heard_each_time_and_does_not_wait_for_the_main_thread() -> None:
    agent = start(stuck_s=0, before=DEAF, main="supervisor.watch(every_s=3600); supervisor.end()")
    assert agent.stdout is not None
    for _ in range(3):
        agent.send_signal(signal.SIGHUP)
        assert agent.stdout.readline() == "hangup\n"
    agent.send_signal(signal.SIGTERM)
    assert end(agent) == 0


def test_a_signal_that_interrupts_the_main_thread_inside_of_its_wait_does_not_lock_it_up() -> None:
    # The moment in which Event.wait holds its lock is short; here it is as long as it takes.
    main = """
with stop._event._cond:
    os.kill(os.getpid(), signal.SIGTERM)
    for _ in range(1000):
        pass
supervisor.watch(); supervisor.end()
"""
    assert end(start(stuck_s=0, main=main)) == 0
