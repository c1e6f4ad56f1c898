"""Runs a program and says what it cost: wall time, CPU time with its children, and peak memory."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Cost:
    """What one run took."""

    wall_s: float
    cpu_s: float
    peak_rss_bytes: int


class Failed(Exception):
    """A program that is measured must succeed; what it wrote is in the text."""


def run(command: Sequence[str], env: Mapping[str, str], *, log_path: str, timeout_s: float = 600) -> Cost:
    """Run to the end and measure. The log gets both outputs."""
    with open(log_path, "wb") as log:
        begin = time.monotonic()
        process = subprocess.Popen(command, env=dict(env), stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    peak = 0
    status_path = f"/proc/{process.pid}/status"
    timer = threading.Timer(timeout_s, process.kill)
    timer.start()
    try:
        while True:
            # VmHWM and not ru_maxrss: that one inherits the memory of whoever called fork.
            peak = max(peak, _status_bytes(status_path, "VmHWM"))
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            if pid:
                break
            time.sleep(0.02)
    finally:
        timer.cancel()
    wall_s = time.monotonic() - begin
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        with open(log_path, errors="replace") as said:
            raise Failed(f"{command[0]} ended with {process.returncode}: {said.read()[-2000:]}")
    return Cost(wall_s, usage.ru_utime + usage.ru_stime, peak)


def _status_bytes(path: str, name: str) -> int:
    """A line of /proc/PID/status in bytes; 0 for a process that has ended."""
    try:
        with open(path) as file:
            return next((int(line.split()[1]) * 1024 for line in file if line.startswith(name + ":")), 0)
    except OSError:
        return 0


@dataclass(frozen=True, slots=True)
class Sample:
    """A running process at one moment."""

    at: float
    cpu_s: float
    rss_bytes: int
    peak_rss_bytes: int
    written_bytes: int  # what it caused to be written to a disk
    switches: int  # voluntary, of all threads: how often it woke up


def sample(pid: int) -> Sample:
    """Read /proc of a running process."""
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    with open(f"/proc/{pid}/io") as file:
        io = dict(line.split(": ") for line in file)
    switches = 0
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/status") as file:
            switches += next(int(line.split()[1]) for line in file if line.startswith("voluntary_ctxt_switches"))
    status = f"/proc/{pid}/status"
    return Sample(
        time.monotonic(),
        (int(fields[11]) + int(fields[12])) / TICKS_PER_S,
        _status_bytes(status, "VmRSS"),
        _status_bytes(status, "VmHWM"),
        int(io["write_bytes"]),
        switches,
    )


@contextmanager
def running(command: Sequence[str], env: Mapping[str, str], *, log_path: str) -> Iterator[subprocess.Popen[bytes]]:
    """A program in the background, asked to end with SIGTERM when the block ends."""
    with open(log_path, "wb") as log:
        process = subprocess.Popen(command, env=dict(env), stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    try:
        yield process
        if process.poll() is not None:
            with open(log_path, errors="replace") as said:
                raise Failed(f"{command[0]} ended early with {process.returncode}: {said.read()[-2000:]}")
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
