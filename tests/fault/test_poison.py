"""A file that always fails, one that is refused and one that never rests, among a thousand good ones."""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.fault.field import Field, field_of, until
from tests.s3_model import Fault

GOOD = 1_000
#: A first request and its retries while the good ones pass: one file among a thousand may not take more than its share.
RARE = 10


@pytest.fixture
def here(tmp_path: object) -> Iterator[Field]:
    with field_of(str(tmp_path)) as field:
        yield field


class Restless:
    """A program that rewrites one file again and again, and at last lets it be."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.content = b""
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._write)

    def __enter__(self) -> Restless:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _write(self) -> None:
        number = 0
        while not self._over.wait(0.02):
            number += 1
            self.content = b"%08d" % number * 500
            with open(self.path, "wb") as file:
                file.write(self.content)


@pytest.mark.timeout(240)
def test_poison_among_a_thousand_good_files_is_rare_visible_and_explained(here: Field) -> None:
    here.agent.configure(here.strict.endpoint_url, upload={"retry_min_s": 0.2, "retry_max_s": 300})
    poison = {"always.jpg": Fault(status=500, code="InternalError"), "never.jpg": Fault(status=400, code="InvalidTag")}
    for name, fault in poison.items():
        fault.prefix = here.agent.key(name)
        here.strict.faults.append(fault)
    os.makedirs(here.agent.data_dir, exist_ok=True)
    for name in poison:
        here.shoot(name, 3000)
    with Restless(here.agent.path("restless.jpg")) as restless:
        here.agent.start()
        here.shoot_many(GOOD, 1000, prefix="good")
        good = {name: content for name, content in here.expected().items() if "good" in name}
        assert len(good) == GOOD
        until(lambda: good.items() <= here.objects().items(), deadline_s=120, what=here.story)
        asked = Counter(
            os.path.basename(event.key) for event in here.strict.requests() if event.key.endswith(tuple(poison))
        )
        assert set(asked) == set(poison) and max(asked.values()) <= RARE, asked
        assert here.agent.key("restless.jpg") not in here.objects()
        status = here.agent.status()
        assert status["facts"]["store"]["ok"] and status["facts"]["uploader"]["ok"], status["facts"]
        said = {os.path.basename(entry["path"]): entry for entry in status["last_errors"]}
        for name in poison:
            assert said[name]["reason"] and said[name]["remedy"], said
        waiting = {state: cell["reasons"] for state, cell in status["queue"].items() if state in ("waiting", "parked")}
        assert sum(sum(reasons.values()) for reasons in waiting.values()) == len(poison), status["queue"]
    here.files["restless.jpg"] = restless.content
    here.strict.faults.clear()
    assert here.agent.cli("retry", "--all").returncode == 0
    until(lambda: here.objects() == here.expected(), deadline_s=60, what=here.story)
    assert here.agent.stop() == 0
