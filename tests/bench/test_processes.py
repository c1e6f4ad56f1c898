"""The measuring itself: figures of a program that failed, or of the wrong process, would be worse than none."""

from __future__ import annotations

import os
import sys

import pytest

from tests.bench import processes

MIB = 1 << 20


def _python(source: str) -> list[str]:
    return [sys.executable, "-S", "-c", source]


def test_the_peak_memory_is_the_programs_and_not_that_of_who_started_it(tmp_path: os.PathLike[str]) -> None:
    ballast = bytearray(200 * MIB)
    ballast[::4096] = b"x" * len(ballast[::4096])
    small = processes.run(_python("import time; time.sleep(0.2)"), os.environ, log_path=f"{tmp_path}/log")
    large = processes.run(
        _python("import time; a = b'x' * (80 << 20); time.sleep(0.2)"), os.environ, log_path=f"{tmp_path}/log"
    )
    assert small.peak_rss_bytes < 50 * MIB
    assert 80 * MIB < large.peak_rss_bytes < 150 * MIB


def test_cpu_time_counts_the_children_that_a_program_waited_for(tmp_path: os.PathLike[str]) -> None:
    burn = "import time\nwhile time.process_time() < 0.3: pass"
    source = f"import subprocess, sys; subprocess.run([sys.executable, '-S', '-c', {burn!r}])"
    assert processes.run(_python(source), os.environ, log_path=f"{tmp_path}/log").cpu_s >= 0.3


def test_a_program_that_fails_has_no_figures(tmp_path: os.PathLike[str]) -> None:
    with pytest.raises(processes.Failed, match="ended with 3: why"):
        processes.run(
            _python("import sys; print('why'); sys.stdout.flush(); sys.exit(3)"), os.environ, log_path=f"{tmp_path}/log"
        )
    with (
        pytest.raises(processes.Failed, match="ended early"),
        processes.running(_python("raise SystemExit(4)"), os.environ, log_path=f"{tmp_path}/log") as process,
    ):
        process.wait()


def test_a_sample_of_a_running_process_has_every_figure() -> None:
    seen = processes.sample(os.getpid())
    assert seen.cpu_s > 0
    assert 0 < seen.rss_bytes <= seen.peak_rss_bytes
    assert seen.written_bytes >= 0
    assert seen.switches > 0
