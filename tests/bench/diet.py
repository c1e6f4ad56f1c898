"""What an uploaded file costs the card: what the agent caused to be written, and what a device was told to write."""

from __future__ import annotations

import os
import random
import tempfile
import time
from collections.abc import Iterator

from tests.bench import processes
from tests.bench.contenders import Job, agent, environment
from tests.bench.plan import Plan, Row
from tests.card import Card, card
from tests.servers import RcloneS3, wait_until

CARD_BYTES = 1 << 30
SIZE_BYTES = 100_000
#: Lone files come this far apart: the agent has gone to sleep in between.
APART_S = 0.5


class _Scale:
    """What was written between two looks, by the process and by the device."""

    def __init__(self, pid: int, mounted: Card) -> None:
        self._pid = pid
        self._card = mounted
        self._begun = self._look()

    def _look(self) -> tuple[int, int]:
        fd = os.open(self._card.path, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
        os.sync()
        return processes.sample(self._pid).written_bytes, self._card.written_sectors() * 512

    def read(self, count: int) -> dict[str, float]:
        process, device = (after - before for before, after in zip(self._begun, self._look(), strict=True))
        return {"of the process, KiB per file": process / 1024 / count, "of the device": device / 1024 / count}


def diet(plan: Plan) -> Iterator[Row]:
    """Lone files and bursts of 100 kB. Only the state directory is on the card: all that is written there is ours."""
    lone, burst = max(5, int(50 * plan.shares)), max(50, int(1000 * plan.shares))
    with tempfile.TemporaryDirectory(prefix="bench-") as top, RcloneS3() as server:
        work_dir = os.path.join(top, "job")
        os.makedirs(work_dir)
        bucket = "bench-diet"
        server.create_bucket(bucket)
        job = Job(os.path.join(top, "base"), work_dir, server.endpoint_url, bucket)
        os.makedirs(job.source_dir)
        with (
            card(os.path.join(work_dir, "state"), CARD_BYTES, "ext4") as mounted,
            processes.running(agent(job, "run"), environment(), log_path=os.path.join(work_dir, "log")) as process,
        ):
            shoot = _Camera(job, server)
            shoot(10)
            scale = _Scale(process.pid, mounted)
            for _ in range(lone):
                shoot(1)
                time.sleep(APART_S)
            yield Row(f"{lone} lone files of 100 kB", scale.read(lone))
            scale = _Scale(process.pid, mounted)
            begun = time.monotonic()
            shoot(burst)
            span_s = time.monotonic() - begun
            time.sleep(APART_S)
            yield Row(f"a burst of {burst} files of 100 kB", {**scale.read(burst), "files/s": burst / span_s})


class _Camera:
    """Writes files, and waits until the store has them."""

    def __init__(self, job: Job, server: RcloneS3) -> None:
        self._job = job
        self._server = server
        self._count = 0
        self._body = random.Random(1).randbytes(SIZE_BYTES)

    def __call__(self, count: int) -> None:
        for _ in range(count):
            path = os.path.join(self._job.source_dir, f"img_{self._count:06d}.jpg")
            with open(path, "wb") as file:
                file.write(self._body)
            self._count += 1
        wait_until(
            lambda: sum(key.endswith(".jpg") for key, _ in self._server.files(self._job.bucket)) == self._count,
            deadline_s=300,
            what=f"{self._count} files are in the bucket",
        )
