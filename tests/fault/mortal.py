"""A process that dies on purpose: one agent's `run --once`, ended before or after the n-th call into an edge.

Run as a program it is a warm process that forks a child for every run, because starting Python anew would cost
more than the run itself. It reads one JSON job per line and answers with one line; `Driver` is its other end.
Nothing in the product knows of this: the calls are wrapped from outside, in the child alone.
"""

from __future__ import annotations

import functools
import inspect
import json
import logging
import os
import socket
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Self

import attrs

if TYPE_CHECKING:
    from tests.agent import Agent

DIED = 77
#: Calls that are repeated while there is nothing to do: the first ones stand for all.
FIRST_ONES = 2
#: A file above this goes in parts of this size; the real limits only make the same steps slower.
PART_BYTES = 100_000


class Mortal:
    """Counts every call into every edge by name, and ends the process at one of them."""

    def __init__(self, *, at: str | None) -> None:
        """`at`: "before|after NAME NUMBER", None to live and write down every point."""
        self.at = at
        self.points: list[str] = []
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()

    def wrap(self, owner: Any, name: str, *, called: str, is_polled: bool = False) -> None:
        real = getattr(owner, name)

        @functools.wraps(real)
        def mortal(*args: Any, **kwargs: Any) -> Any:
            number = self.enter(called, is_polled=is_polled)
            result = real(*args, **kwargs)
            self.pass_by("after", called, number)
            return result

        static = isinstance(vars(owner).get(name), staticmethod) if isinstance(owner, type) else False
        setattr(owner, name, staticmethod(mortal) if static else mortal)

    def enter(self, called: str, *, is_polled: bool = False) -> int:
        """Count a call; 0 for one that is not worth a point."""
        with self._lock:
            self._counts[called] += 1
            number = self._counts[called]
        number = 0 if is_polled and number > FIRST_ONES else number
        self.pass_by("before", called, number)
        return number

    def pass_by(self, when: str, called: str, number: int) -> None:
        if not number:
            return
        point = f"{when} {called} {number}"
        if point == self.at:
            os._exit(DIED)
        if self.at is None:
            self.points.append(point)


#: What is asked again and again by workers that wait.
POLLED = frozenset(
    {
        *("tally", "asked", "next_due_s", "has_ready", "wake_due", "claim", "oldest_owed", "time", "known_at", "rows"),
        *("device_of", "make_directory", "known_among", "check", "take", "locate", "is_file", "facts_of"),
        *("words", "is_quiet", "row", "listing", "read", "orphans", "letters", "scan_directory", "expected", "overdue"),
        *("open_directory", "refresh", "space_at", "confirmed_below", "claims_on", "total_of", "proved", "is_taken"),
        *("parse_aside", "write_proved", "count_of", "note", "aside_name", "figures_of"),
    }
)


def arm(mortal: Mortal) -> None:
    """Wrap every public function and method of the edges, and what they do to disk, database and socket."""
    from syncagent.edges import files, removal
    from syncagent.edges.control import Control
    from syncagent.edges.inbox import Inbox
    from syncagent.edges.journal import Journal
    from syncagent.edges.objects import S3Store
    from syncagent.edges.watch import Doorbell, Hints

    for module, short in ((files, "files"), (removal, "removal")):
        for name, value in list(vars(module).items()):
            is_public = inspect.isfunction(value) and not name.startswith("_")
            if is_public and value.__module__ == module.__name__:
                mortal.wrap(module, name, called=f"{short}.{name}", is_polled=name in POLLED)
    for owner in (files.PinnedFile, files.Stretch, files.Hold, Journal, S3Store, Control, Doorbell, Hints, Inbox):
        for name in dir(owner):
            value = getattr(owner, name)
            is_bound_to_class = hasattr(value, "__self__")
            if not name.startswith("_") and callable(value) and not is_bound_to_class:
                mortal.wrap(owner, name, called=f"{owner.__name__}.{name}", is_polled=name in POLLED)
    for name in ("fsync", "rename", "replace", "unlink", "makedirs", "ftruncate", "pwrite"):
        mortal.wrap(os, name, called=f"os.{name}")
    for name in ("connect", "send", "sendall", "recv"):
        mortal.wrap(socket.socket, name, called=f"socket.{name}")
    sqlite3.connect = functools.partial(sqlite3.connect, factory=_connection(mortal))  # type: ignore[assignment]


def _connection(mortal: Mortal) -> type[sqlite3.Connection]:
    class MortalConnection(sqlite3.Connection):
        """Every statement is a point: a transaction can be cut anywhere."""

        def _statement(self, run: Callable[..., Any], sql: str, *rest: Any) -> Any:
            words = " ".join(sql.split()[:3])
            number = mortal.enter(f"sql {words}", is_polled=words.startswith(("SELECT", "PRAGMA")))
            result = run(sql, *rest)
            mortal.pass_by("after", f"sql {words}", number)
            return result

        def execute(self, sql: str, *rest: Any) -> Any:
            return self._statement(super().execute, sql, *rest)

        def executemany(self, sql: str, *rest: Any) -> Any:
            return self._statement(super().executemany, sql, *rest)

    return MortalConnection


def _run(job: dict[str, Any]) -> int:
    """One `run --once` in this process."""
    import syncagent.edges.multipart as multipart
    from syncagent.app import App
    from syncagent.assembly import Directories
    from syncagent.edges.configfiles import identify, load_settings

    multipart.part_size = lambda size_bytes, *, wanted_bytes: PART_BYTES
    settings = load_settings(job["configs"], identity=identify)
    addresses = tuple(
        attrs.evolve(
            address,
            carrier=attrs.evolve(
                address.carrier, upload=attrs.evolve(address.carrier.upload, multipart_bytes=PART_BYTES)
            ),
        )
        for address in settings.addresses
    )
    settings = attrs.evolve(settings, addresses=addresses)
    mortal = Mortal(at=job.get("at"))
    if job.get("is_mortal"):
        arm(mortal)
    code = App(settings, Directories(job["configs"], job["base"], job["state"]), is_once=True).run_once(job["timeout"])
    if job.get("is_mortal") and mortal.at is None:
        with open(job["points"], "w") as file:
            json.dump(mortal.points, file)
    return code


def _child(job: dict[str, Any]) -> None:
    """In the forked process: never returns."""
    code = 70
    try:
        log = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(log, 2)
        code = _run(job)
    except BaseException:
        logging.exception("died of itself")
    finally:
        os._exit(code)


def main() -> None:
    import boto3  # noqa: F401  # once, for all children

    import syncagent.app
    import syncagent.edges.configfiles  # noqa: F401

    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    for line in sys.stdin:
        job = json.loads(line)
        pid = os.fork()
        if pid == 0:
            _child(job)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        print(json.dumps({"code": code}), flush=True)


class Driver:
    """The other end of one warm process."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.fault.mortal"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)

    def run(self, **job: Any) -> int:
        """The exit code of one forked run."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise AssertionError("the driver of the runs ended")
        return int(json.loads(line)["code"])


def job_of(agent: Agent) -> dict[str, object]:
    """What `Driver.run` has to know of an agent."""
    return {
        "configs": agent.config_dir,
        "base": agent.base_dir,
        "state": agent.state_dir,
        "log": agent.log_path,
        "timeout": 20,
    }


def points_in(path: str) -> Iterator[str]:
    with open(path) as file:
        yield from json.load(file)


if __name__ == "__main__":
    main()
