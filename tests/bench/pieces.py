"""What is measured. Each piece returns rows of (what, figures) and can be run alone."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import statistics
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tests.bench import processes
from tests.bench.contenders import CONTENDERS, PATH, Job, agent, environment
from tests.bench.diet import diet
from tests.bench.million import huge, million
from tests.bench.plan import Plan, Row
from tests.proxy import Proxy, Rule
from tests.servers import RcloneS3, VerifyingS3, free_port, s3_client, wait_until

MIB = 1 << 20


def _fill(directory: str, files: int, size_bytes: int) -> None:
    """Files of random bytes, on the disk before anything is measured."""
    os.makedirs(directory, exist_ok=True)
    source = random.Random(files)
    for number in range(files):
        with open(os.path.join(directory, f"img_{number:05d}.jpg"), "wb") as file:
            file.write(source.randbytes(size_bytes))
    os.sync()


@contextmanager
def _workplace() -> Iterator[str]:
    """A directory on the disk (not in memory: the journal's writes are part of the cost)."""
    top = os.path.join(os.getcwd(), "build")
    os.makedirs(top, exist_ok=True)
    directory = tempfile.mkdtemp(prefix="bench-", dir=top)
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _check_complete(server: RcloneS3, job: Job, size_bytes: int) -> None:
    """A contender that left a file out has no figures."""
    found = Counter(os.path.getsize(path) for key, path in server.files(job.bucket) if key.startswith(PATH + "/"))
    wanted = len(os.listdir(job.source_dir))
    if found[size_bytes] != wanted:
        raise processes.Failed(f"{found[size_bytes]} of {wanted} files arrived: {dict(found)}")


def upload(plan: Plan) -> Iterator[Row]:
    """Many files that are there already, each contender in turn, into one server."""
    env = environment()
    for files, size_bytes in ((2000, 100_000), (3000, 10_000)):
        count = max(10, int(files * plan.shares))
        costs: dict[str, list[processes.Cost]] = {name: [] for name in plan.contenders}
        empty: list[processes.Cost] = []
        with _workplace() as top, RcloneS3() as server:
            base_dir = os.path.join(top, "base")
            _fill(os.path.join(base_dir, "generated_data", PATH), count, size_bytes)
            for number in range(plan.rounds):
                # Turned by one each round, so that nobody always runs after the same neighbour.
                turn = number % len(plan.contenders)
                for name in plan.contenders[turn:] + plan.contenders[:turn]:
                    job = _job(top, base_dir, server)
                    command = CONTENDERS[name](job)
                    os.sync()
                    costs[name].append(processes.run(command, env, log_path=os.path.join(job.work_dir, "log")))
                    _check_complete(server, job, size_bytes)
                    shutil.rmtree(server.bucket_dir(job.bucket))
                if "agent" in plan.contenders:
                    bare_dir = os.path.join(top, "bare")
                    os.makedirs(os.path.join(bare_dir, "generated_data", PATH), exist_ok=True)
                    job = _job(top, bare_dir, server)
                    empty.append(processes.run(agent(job), env, log_path=os.path.join(job.work_dir, "log")))
        yield from _upload_rows(f"{count} × {size_bytes // 1000} kB", count, costs, empty)


def _job(top: str, base_dir: str, server: RcloneS3) -> Job:
    work_dir = tempfile.mkdtemp(prefix="job-", dir=top)
    bucket = "bench-" + os.path.basename(work_dir)[4:].lower().replace("_", "x")
    server.create_bucket(bucket)
    return Job(base_dir, work_dir, server.endpoint_url, bucket)


def _upload_rows(
    what: str, count: int, costs: dict[str, list[processes.Cost]], empty: list[processes.Cost]
) -> Iterator[Row]:
    start_cpu_s = statistics.median(cost.cpu_s for cost in empty) if empty else 0.0
    start_wall_s = statistics.median(cost.wall_s for cost in empty) if empty else 0.0
    rates = {name: statistics.median(count / cost.wall_s for cost in runs) for name, runs in costs.items()}
    fastest_peer = max((rate for name, rate in rates.items() if name != "agent"), default=0.0)
    for name, runs in costs.items():
        figures = {
            "files/s": rates[name],
            "CPU ms/file": statistics.median(cost.cpu_s * 1000 / count for cost in runs),
            "peak RSS MiB": max(cost.peak_rss_bytes for cost in runs) / MIB,
            "slowest files/s": min(count / cost.wall_s for cost in runs),
            "fastest files/s": max(count / cost.wall_s for cost in runs),
        }
        if name == "agent":
            figures["CPU ms/file"] -= start_cpu_s * 1000 / count
            figures |= {"start-up CPU ms": start_cpu_s * 1000, "start-up wall ms": start_wall_s * 1000}
            if fastest_peer:
                figures["of the faster peer"] = rates[name] / fastest_peer
        yield Row(f"{what}: {name}", figures)


def latency(plan: Plan) -> Iterator[Row]:
    """From the close of a file to its object being visible with all its bytes, the agent being idle before."""
    count = max(20, int(300 * plan.shares))
    pause = random.Random(1)
    with _workplace() as top, RcloneS3() as server:
        job = _job(top, os.path.join(top, "base"), server)
        os.makedirs(job.source_dir)
        body = random.Random(2).randbytes(100_000)
        client = s3_client(server.endpoint_url)
        floor = []
        for number in range(count):
            target = os.path.join(server.bucket_dir(job.bucket), f"floor_{number}")
            begin = time.monotonic()
            client.put_object(Bucket=job.bucket, Key=f"floor_{number}", Body=body)
            floor.append(_seconds_until_visible(target, len(body), begin))
            time.sleep(pause.uniform(0.02, 0.06))
        yield _latency_row("floor: put_object of boto3, no agent", floor)
        if "agent" not in plan.contenders:
            return
        log_path = os.path.join(job.work_dir, "log")
        with processes.running(agent(job, "run"), environment(), log_path=log_path):
            seen = []
            for number in range(count + 1):
                name = f"img_{number:05d}.jpg"
                with open(os.path.join(job.source_dir, name), "wb") as file:
                    file.write(body)
                begin = time.monotonic()
                target = os.path.join(server.bucket_dir(job.bucket), PATH, name)
                seen.append(_seconds_until_visible(target, len(body), begin))
                time.sleep(pause.uniform(0.05, 0.15))
        yield _latency_row("close to visible at settle_s 0, 100 kB", seen[1:])  # the first waited for the start


def _seconds_until_visible(path: str, size_bytes: int, begin: float) -> float:
    while True:
        with contextlib.suppress(FileNotFoundError):
            if os.stat(path).st_size == size_bytes:
                return time.monotonic() - begin
        if time.monotonic() - begin > 60:
            raise processes.Failed(f"{os.path.basename(path)} did not become visible within 60 s")
        time.sleep(0.0005)


def _latency_row(what: str, seconds: list[float]) -> Row:
    cuts = statistics.quantiles(seconds, n=100, method="inclusive")
    return Row(what, {"p50 ms": cuts[49] * 1000, "p99 ms": cuts[98] * 1000, "worst ms": max(seconds) * 1000})


def _status(job: Job) -> dict[str, Any]:
    """`status --json` of a running agent; it exits with 1 when unhealthy, which is not our matter."""
    done = subprocess.run(agent(job, "status", "--json"), env=environment(), capture_output=True, check=False)
    try:
        found: dict[str, Any] = json.loads(done.stdout)
    except ValueError as error:
        raise processes.Failed(f"status --json: {done.stderr.decode(errors='replace')[-500:]}") from error
    return found


def _wait_for_files(job: Job, count: int, *states: str, deadline_s: float) -> None:
    def is_there() -> bool:
        time.sleep(0.5)
        queue = _status(job)["queue"]
        return sum(int(queue[state]["files"]) for state in states) >= count

    wait_until(is_there, deadline_s=deadline_s, what=f"{count} files in {', '.join(states)}")


def waiting(plan: Plan) -> Iterator[Row]:
    """Memory with many files that cannot go, because nothing listens where the store should be."""
    count = max(100, int(20_000 * plan.shares))
    with _workplace() as top:
        job = Job(os.path.join(top, "base"), tempfile.mkdtemp(dir=top), f"http://127.0.0.1:{free_port()}", "bucket")
        _fill(job.source_dir, count, 100)
        log_path = os.path.join(job.work_dir, "log")
        with processes.running(agent(job, "run"), environment(), log_path=log_path) as process:
            begin = time.monotonic()
            _wait_for_files(job, count, "ready", "waiting", "sending", deadline_s=300)
            recorded_s = time.monotonic() - begin
            time.sleep(10)  # what it does with a queue that does not move is part of the figure
            seen = processes.sample(process.pid)
    figures = {
        "RSS MiB": seen.rss_bytes / MIB,
        "peak RSS MiB": seen.peak_rss_bytes / MIB,
        "recorded after s": recorded_s,
    }
    yield Row(f"{count} waiting files, store down", figures)


def idle(plan: Plan) -> Iterator[Row]:
    """What an agent costs that has nothing to do."""
    with _workplace() as top, RcloneS3() as server:
        job = _job(top, os.path.join(top, "base"), server)
        _fill(job.source_dir, 100, 10_000)
        log_path = os.path.join(job.work_dir, "log")
        with processes.running(agent(job, "run"), environment(), log_path=log_path) as process:
            _wait_for_files(job, 100, "confirmed", deadline_s=120)
            time.sleep(5)
            state_dir = os.path.join(job.work_dir, "state")
            before, files_before = processes.sample(process.pid), _files(state_dir)
            time.sleep(plan.idle_s)
            after, files_after = processes.sample(process.pid), _files(state_dir)
    span_s = after.at - before.at
    figures = {
        "CPU %": 100 * (after.cpu_s - before.cpu_s) / span_s,
        "bytes written": after.written_bytes - before.written_bytes,
        "state files changed": sum(files_before.get(k) != files_after.get(k) for k in files_before | files_after),
        "wake-ups/s": (after.switches - before.switches) / span_s,
        "RSS MiB": after.rss_bytes / MIB,
    }
    yield Row(f"idle for {plan.idle_s:.0f} s", figures)


def _files(directory: str) -> dict[str, tuple[int, int]]:
    found = {}
    for folder, _, names in os.walk(directory):
        for path in (os.path.join(folder, name) for name in names):
            facts = os.stat(path)
            found[path] = (facts.st_size, facts.st_mtime_ns)
    return found


def requests(plan: Plan) -> Iterator[Row]:
    """Requests and bytes on the wire for small files, counted by a strict store behind a proxy."""
    count = max(20, int(300 * plan.shares))
    size_bytes = 10_000
    with _workplace() as top, VerifyingS3() as server, Proxy(server.endpoint_url, Rule()) as proxy:
        job = Job(os.path.join(top, "base"), tempfile.mkdtemp(dir=top), proxy.endpoint_url, "bucket")
        _fill(job.source_dir, count, size_bytes)
        processes.run(agent(job), environment(), log_path=os.path.join(job.work_dir, "log"))
        # The probe object and the heartbeat are the agent's own, and not a file's.
        own = f"{PATH}/bench/.syncagent/"
        stored = {key: body for key, body in server.objects().items() if not key.startswith(own)}
        history, wire_bytes = list(server.history), proxy.up_bytes
    if len(stored) != count:
        raise processes.Failed(f"{len(stored)} of {count} files arrived")
    per_file = Counter(event.key for event in history if event.key in stored)
    figures = {
        "requests per file": sum(per_file.values()) / count,
        "most for one file": max(per_file.values()),
        "other requests": len(history) - sum(per_file.values()),
        "wire bytes up per file byte": wire_bytes / (count * size_bytes),
    }
    others = Counter(event.operation for event in history if event.key not in stored)
    yield Row(f"{count} × 10 kB over a counting proxy", figures, [f"{n} {name}" for name, n in others.items()])


PIECES: dict[str, Callable[[Plan], Iterator[Row]]] = {
    "upload": upload,
    "latency": latency,
    "waiting": waiting,
    "idle": idle,
    "requests": requests,
    "diet": diet,
    "million": million,
    "huge": huge,
}
