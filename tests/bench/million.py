"""A backlog of very many small files in a thousand directories, in memory: start-up, memory, what goes first, scans.

And one huge file, of which only the memory that it takes is of interest.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections import deque
from collections.abc import Callable, Container, Iterator
from typing import Any

from syncagent.edges.control import ask
from tests.bench import processes
from tests.bench.contenders import Job, agent, environment
from tests.bench.plan import Plan, Row
from tests.card import card
from tests.servers import RcloneS3, wait_until

DIRECTORIES = 1_000
DEADLINE_S = 3_600.0
#: So often the agent is asked how far it is: more would be measured, too.
LOOK_S = 0.2


def _status(job: Job) -> dict[str, Any]:
    """Of the running agent, over its socket: a process for each question would be measured, too."""
    found = ask(os.path.join(job.work_dir, "state"), "status", timeout_s=60)
    return found if isinstance(found, dict) else {}


def _count(status: dict[str, Any], *states: str) -> int:
    return sum(int(status["queue"][state]["files"]) for state in states) if status else 0


def _fill(directory: str, count: int) -> list[str]:
    """Files of which the last is the newest. Returns the last few, by their paths below the directory."""
    names: deque[str] = deque(maxlen=100)
    now = time.time_ns()
    for number in range(DIRECTORIES):
        inner = os.path.join(directory, f"d{number:04d}")
        os.makedirs(inner)
        for each in range(count // DIRECTORIES):
            name = f"d{number:04d}/img_{each:05d}.jpg"
            path = os.path.join(directory, name)
            with open(path, "wb") as file:
                file.write(name.encode())
            names.append(name)
            stamp = now - (count - number * (count // DIRECTORIES) - each) * 1_000_000
            os.utime(path, ns=(stamp, stamp))
    return list(names)


def _wait(condition: Callable[[], bool], what: str) -> None:
    wait_until(condition, deadline_s=DEADLINE_S, what=what, every_s=LOOK_S)


def million(plan: Plan) -> Iterator[Row]:
    """Found at a first start, with the store there until its first object; then a second start, newest first."""
    count = max(DIRECTORIES, int(1_000_000 * plan.shares) // DIRECTORIES * DIRECTORIES)
    with tempfile.TemporaryDirectory(prefix="bench-") as top, RcloneS3() as server:
        base_dir, work_dir = os.path.join(top, "base"), os.path.join(top, "job")
        os.makedirs(work_dir)
        server.create_bucket("bench-million")
        job = Job(base_dir, work_dir, server.endpoint_url, "bench-million")
        log_path = os.path.join(work_dir, "log")
        with card(base_dir, 12 << 30, "tmpfs", inodes=2 * count + 10_000):
            os.makedirs(job.source_dir)
            last = _fill(job.source_dir, count)
            command = _newest_first(job)
            begun = time.monotonic()
            with processes.running(command, environment(), log_path=log_path) as process:
                wait_until(lambda: _first(server) != "", deadline_s=DEADLINE_S, what="the first file arrives")
                first_s = time.monotonic() - begun
                server.stop()
                states = ("ready", "waiting", "sending", "confirmed")
                _wait(lambda: _count(_status(job), *states) >= count, f"{count} files are recorded")
                recorded_s = time.monotonic() - begun
                seen = processes.sample(process.pid)
            figures = {
                "first confirmed after s": first_s,
                "recorded after s": recorded_s,
                "CPU s": seen.cpu_s,
                "peak RSS MiB": seen.peak_rss_bytes / (1 << 20),
            }
            yield Row(f"{count} files found, store away after the first", figures)
            early = {key for key, _ in server.files("bench-million")}
            newest = next(name for name in reversed(last) if f"camera/{name}" not in early)
            server.start()
            begun = time.monotonic()
            with processes.running(command, environment(), log_path=log_path) as process:
                wait_until(lambda: bool(_status(job)), deadline_s=DEADLINE_S, what="the agent answers")
                up_s = time.monotonic() - begun
                wait_until(lambda: _first(server, early) != "", deadline_s=DEADLINE_S, what="the first file arrives")
                first_s, first = time.monotonic() - begun, _first(server, early)
                server.stop()
                _wait(lambda: _scans(job) >= 1, "the first scan ends")
                seen = processes.sample(process.pid)
            figures = {
                "answers after s": up_s,
                "first confirmed after s": first_s,
                "CPU s from the start to the end of a scan": seen.cpu_s,
                "peak RSS MiB": seen.peak_rss_bytes / (1 << 20),
                "state MB": sum(entry.stat().st_size for entry in os.scandir(os.path.join(work_dir, "state"))) / 1e6,
            }
            yield Row(
                f"{count} files known, newest first",
                figures,
                [f"newest that was left: camera/{newest}, first: {first}"],
            )


def _newest_first(job: Job) -> list[str]:
    command = agent(job, "run")
    for folder, _, names in os.walk(job.work_dir):
        for name in names:
            path = os.path.join(folder, name)
            if folder.endswith("carriers"):
                with open(path) as file:
                    document = json.load(file)
                with open(path, "w") as file:
                    json.dump({**document, "upload": {**document.get("upload", {}), "order": "newest"}}, file)
    return command


def _scans(job: Job) -> int:
    return int(_status(job)["facts"]["watcher"]["scans"])


def _first(server: RcloneS3, early: Container[str] = ()) -> str:
    """The object that came first, but for early ones; by the change of its file, whose mtime is the picture's."""
    found = [(os.stat(path).st_ctime_ns, key) for key, path in server.files("bench-million") if key.endswith(".jpg")]
    return min((each for each in found if each[1] not in early), default=(0, ""))[1]


def huge(plan: Plan) -> Iterator[Row]:
    """One file of 100 MB and one of 10 GB: memory must not know the difference."""
    block = os.urandom(10_000_000)
    for blocks in (10, max(10, int(1_000 * plan.shares))):
        with tempfile.TemporaryDirectory(prefix="bench-", dir="/var/tmp") as top, RcloneS3() as server:
            work_dir = os.path.join(top, "job")
            os.makedirs(work_dir)
            server.create_bucket("bench-huge")
            job = Job(os.path.join(top, "base"), work_dir, server.endpoint_url, "bench-huge")
            os.makedirs(job.source_dir)
            size_bytes = blocks * len(block)
            with open(os.path.join(job.source_dir, "film.jpg"), "wb") as file:
                file.truncate(size_bytes)
                file.writelines(block for _ in range(blocks))
            log_path = os.path.join(work_dir, "log")
            cost = processes.run(agent(job), environment(), log_path=log_path, timeout_s=DEADLINE_S)
            sizes = [os.path.getsize(path) for key, path in server.files("bench-huge") if key.endswith(".jpg")]
            if sizes != [size_bytes]:
                raise processes.Failed(f"what arrived has {sizes} bytes")
            figures = {"peak RSS MiB": cost.peak_rss_bytes / (1 << 20), "MB/s": size_bytes / 1e6 / cost.wall_s}
            yield Row(f"one file of {size_bytes / 1e6:,.0f} MB", figures)
