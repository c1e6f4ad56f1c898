"""A removal that is cut at any call: what the bucket lacks is on the disk, and nothing is left lying aside."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from syncagent.core.territory import ASIDE
from tests.agent import Agent, integrity, puts, regular_files, sent
from tests.fault.mortal import DIED, Driver, job_of, points_in
from tests.servers import VerifyingS3

WORKERS = 2
#: Points that a run of `make test` tries, evenly taken; `-m long` tries each.
SAMPLE = 25
#: Calls that belong to the removal of files: of the others, the crash points of the upload tell.
OURS = ("removal.", "Journal.removed", "Journal.vanished", "os.unlink", "os.rename", "sql UPDATE version", "sql COMMIT")


@dataclass
class Place:
    """One device after the other, each with its own prefix in the shared store."""

    top: str
    store: VerifyingS3
    number: int = 0

    def prepare(self) -> tuple[Agent, dict[str, bytes]]:
        self.number += 1
        agent = Agent(os.path.join(self.top, f"p{self.number}"), system_id=f"p{self.number}")
        rules = {"keep_files": 0, "remove_empty_directories": True}
        agent.configure(
            self.store.endpoint_url, watch={"settle_s": 0.02}, upload={"workers": WORKERS}, carrier={"retention": rules}
        )
        source = random.Random(self.number)
        files = {f"day/{name}.jpg": source.randbytes(3000) for name in "abcd"}
        for name, content in files.items():
            agent.write(name, content)
        return agent, files

    def wrong(self, agent: Agent, files: dict[str, bytes]) -> str:
        objects = {key: body for key, body in sent(self.store).items() if key.startswith(agent.key(""))}
        if objects != {agent.key(name): content for name, content in files.items()}:
            return f"the bucket holds {sorted(objects)}"
        # A file that was put back has a new ctime: it is hashed again before it goes, which a short run need not see.
        left = regular_files(agent.data_dir)
        if any(files.get(name) != content for name, content in left.items()):
            return f"on the disk is {sorted(left)}"
        done = {"removed", "gone", "confirmed"} if left else {"removed", "gone"}
        if {state for path, state, _ in agent.rows() if path.startswith("generated_data/")} - done:
            return f"the journal says {agent.rows()}"
        return "" if integrity(agent.state_dir) == "ok" else "the journal is broken"

    def crash(self, driver: Driver, point: str) -> tuple[bool, str]:
        agent, files = self.prepare()
        code = driver.run(**job_of(agent), is_mortal=True, at=point)
        # Whatever is not in the bucket yet is on the disk, under its name or aside.
        objects = sent(self.store)
        on_disk = set(regular_files(agent.data_dir).values())
        lost = [name for name, body in files.items() if objects.get(agent.key(name)) != body and body not in on_disk]
        again = driver.run(**job_of(agent))
        wrong = f"lost: {lost}" if lost else self.wrong(agent, files)
        if again != 0 or code not in (0, DIED):
            wrong += f"; the runs ended with {code} and {again}"
        repeats = len([event for event in puts(self.store) if event.key.startswith(agent.key(""))]) - len(files)
        if repeats > WORKERS:
            wrong += f"; {repeats} requests were repeated"
        if not wrong:
            shutil.rmtree(agent.top)
        return code == DIED, wrong and f"{point}: {wrong}\n{agent.log()[-2000:]}"


@pytest.fixture
def place(tmp_path: object) -> Iterator[Place]:
    with VerifyingS3() as store:
        yield Place(str(tmp_path), store)


def prove(place: Place, *, step: int | None) -> None:
    with Driver() as driver:
        agent, files = place.prepare()
        path = os.path.join(agent.top, "points.json")
        assert driver.run(**job_of(agent), is_mortal=True, points=path) == 0, agent.log()
        assert not place.wrong(agent, files)
        points = [point for point in points_in(path) if point.split(" ", 1)[1].startswith(OURS)]
        assert any("removal.remove" in point for point in points), points
        chosen = points[:: step or max(1, len(points) // SAMPLE)]
        outcomes = [place.crash(driver, point) for point in chosen]
    wrong = [said for _, said in outcomes if said]
    assert not wrong, "\n".join(wrong[:3])
    died = sum(has_died for has_died, _ in outcomes)
    print(f"crash points of removals: {len(points)} known, {len(chosen)} tried, {died} died")
    # A thread may come to a point earlier or later than in the run that listed them, and now and then not at all.
    assert died >= 0.6 * len(chosen)
    assert not [name for _, _, names in os.walk(place.top) for name in names if name.startswith(ASIDE)]


def test_a_process_ended_at_any_step_of_a_removal_loses_nothing_and_leaves_nothing_aside(place: Place) -> None:
    prove(place, step=None)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_a_process_ended_at_each_step_of_a_removal_loses_nothing_and_leaves_nothing_aside(place: Place) -> None:
    prove(place, step=1)
