"""SIGKILL at random moments while files arrive: the README's promise of what a kill does not do, from outside.

The seed is printed, and taken from TEST_SEED when that is set.
"""

from __future__ import annotations

import hashlib
import os
import random
import threading
from collections import Counter

import pytest

from tests.agent import Agent, integrity, puts, regular_files, sent, suffixed
from tests.servers import VerifyingS3, wait_until

WORKERS = 4


def seed() -> int:
    return int(os.environ.get("TEST_SEED") or random.SystemRandom().randrange(1 << 30))


class Camera:
    """Writes files at its own pace in a thread: plain ones, some in new directories, some renamed in."""

    def __init__(self, agent: Agent, *, files: int, seconds: float, source: random.Random) -> None:
        self._agent = agent
        self._plan = [
            (number, source.randbytes(source.randrange(5_000, 20_000)), source.random()) for number in range(files)
        ]
        self._pause_s = seconds / files
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._write, name="camera")

    def __enter__(self) -> Camera:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    @property
    def is_done(self) -> bool:
        return not self._thread.is_alive()

    def _write(self) -> None:
        for number, content, chance in self._plan:
            if self._ended.wait(self._pause_s):
                return
            name = f"img_{number:05d}.jpg"
            if chance < 0.2:
                self._agent.write(f"day_{number // 20}/hour_{number}/{name}", content)
            elif chance < 0.4:
                elsewhere = os.path.join(self._agent.base_dir, "elsewhere", name)
                os.makedirs(os.path.dirname(elsewhere), exist_ok=True)
                with open(elsewhere, "wb") as file:
                    file.write(content)
                os.rename(elsewhere, self._agent.path(name))
            else:
                self._agent.write(name, content)


def prove(top: str, *, files: int, kills: int, seconds: float) -> None:
    number = seed()
    source = random.Random(number)
    print(f"seed {number}")
    with VerifyingS3() as store, Agent(top) as agent:
        agent.configure(store.endpoint_url, watch={"settle_s": 0.05}, upload={"workers": WORKERS})
        with Camera(agent, files=files, seconds=seconds, source=source) as camera:
            for _ in range(kills):
                agent.start(is_ready=False)
                # From the first line of Python to well within the sending: a start takes about half a second.
                threading.Event().wait(source.uniform(0.2, 2 * seconds / kills))
                agent.kill()
                if os.path.exists(os.path.join(agent.state_dir, "journal.db")):
                    assert integrity(agent.state_dir) == "ok"
            agent.start()
            wait_until(lambda: camera.is_done, deadline_s=seconds + 60, what="the camera wrote all")
            wait_until(lambda: not agent.missing(sent(store)), deadline_s=120, what="all files arrived")
            wait_until(lambda: agent.count("confirmed") == files, deadline_s=60, what="the journal knows of all")
            assert agent.stop() == 0
        assert integrity(agent.state_dir) == "ok"
        local = regular_files(agent.data_dir)
        assert len(local) == files
        allowed = {key for name, body in local.items() for key in (agent.key(name), suffixed(agent.key(name), body))}
        assert set(sent(store)) <= allowed
        announced = {hashlib.sha256(content).hexdigest() for content in local.values()}
        requests = puts(store)
        assert {put.headers["x-amz-meta-syncagent-sha256"] for put in requests} <= announced
        asked = Counter(put.key for put in requests)
        repeats = sum(count - 1 for count in asked.values())
        print(f"{kills} kills, {files} files, {repeats} repeated requests")
        assert repeats <= kills * WORKERS


@pytest.mark.timeout(280)
def test_ten_kills_while_files_arrive_lose_none(tmp_path: object) -> None:
    prove(str(tmp_path), files=200, kills=10, seconds=8)


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_a_hundred_kills_while_a_thousand_files_arrive_lose_none(tmp_path: object) -> None:
    prove(str(tmp_path), files=1000, kills=100, seconds=100)
