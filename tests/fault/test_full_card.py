"""Data and journal on one small card, which fills up, runs out of names, or breaks: what is known is sent, and goes."""

from __future__ import annotations

import contextlib
import json
import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tests.agent import Agent, integrity, sent
from tests.card import Card, card, run
from tests.proxy import Proxy, Rule
from tests.servers import VerifyingS3, wait_until

MIB = 1 << 20
SHOT_BYTES = 100_000

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a file system"),
    pytest.mark.timeout(240),
]


class Place:
    """An agent whose base directory is a card, a camera, and a store behind a link that can be cut."""

    def __init__(self, top: str, mounted: Card, store: VerifyingS3, link: Proxy) -> None:
        self.card = mounted
        self.store = store
        self.link = link
        self.agent = Agent(top)
        self.shots: dict[str, bytes] = {}
        self._source = random.Random(1)

    def configure(self, **retention: object) -> None:
        self.agent.configure(
            self.link.endpoint_url, watch={"scan_s": 1}, upload={"workers": 2}, carrier={"retention": retention}
        )

    def cut(self, is_cut: bool = True) -> None:
        self.link.rule = Rule("refuse" if is_cut else "pass")

    def shoot(self, size_bytes: int = SHOT_BYTES) -> bool:
        """A camera writes one picture under a temporary name; False when the card is full."""
        name = f"{len(self.shots):04d}.jpg"
        content = self._source.randbytes(size_bytes)
        temporary = self.agent.path(f".{name}.tmp")
        try:
            with open(temporary, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.rename(temporary, self.agent.path(name))
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            return False
        self.shots[name] = content
        return True

    def shoot_until_full(self, size_bytes: int = SHOT_BYTES) -> None:
        while self.shoot(size_bytes):
            pass

    def objects(self) -> dict[str, bytes]:
        return sent(self.store)

    def is_all_there(self) -> bool:
        objects = self.objects()
        return all(objects.get(self.agent.key(name)) == content for name, content in self.shots.items())

    def unaccounted(self, lost: set[str]) -> list[str]:
        """Pictures that are neither in the bucket nor on the card nor among the losses."""
        objects = self.objects()
        return [
            name
            for name, content in self.shots.items()
            if objects.get(self.agent.key(name)) != content
            and not os.path.exists(self.agent.path(name))
            and name not in lost
        ]

    def fact(self) -> dict[str, object]:
        fact = self.agent.status()["facts"]["disk"]
        assert isinstance(fact, dict)
        return fact

    def story(self) -> str:
        return self.agent.log()[-3000:]


@contextmanager
def place_on(top: str, kind: str, *, size_bytes: int = 24 * MIB, inodes: int | None = None) -> Iterator[Place]:
    with (
        card(os.path.join(top, "base"), size_bytes, kind, inodes=inodes) as mounted,
        VerifyingS3() as store,
        Proxy(store.endpoint_url, Rule()) as link,
    ):
        place = Place(top, mounted, store, link)
        with place.agent:
            yield place


@pytest.fixture(params=["ext4", "tmpfs"])
def place(request: pytest.FixtureRequest, tmp_path: object) -> Iterator[Place]:
    with place_on(str(tmp_path), request.param) as made:
        yield made


def until(place: Place, condition: Callable[[], bool], what: str, deadline_s: float = 90) -> None:
    try:
        wait_until(condition, deadline_s=deadline_s, what=what)
    except AssertionError as error:
        raise AssertionError(f"{error}: {place.agent.status()} {place.story()}") from None


def test_three_times_a_cards_worth_of_pictures_passes_through_it(place: Place) -> None:
    place.configure(min_free_percent=30)
    place.agent.start()
    wanted = 3 * 24 * MIB // SHOT_BYTES
    while len(place.shots) < wanted:
        until(place, place.shoot, "there is room for a picture")
    until(place, place.is_all_there, "all are in the bucket")
    until(place, lambda: place.card.free_percent() >= 30, "the minimum is kept")
    assert place.agent.status()["losses"] == 0
    assert place.unaccounted(set()) == []
    assert place.agent.stop() == 0
    assert "crashed" not in place.agent.log() and integrity(place.agent.state_dir) == "ok"


def test_a_card_that_is_full_of_unsent_files_loses_none_and_is_emptied_when_the_link_is_back(place: Place) -> None:
    place.configure(keep_files=0)
    place.cut()
    place.agent.start()
    place.shoot_until_full()
    until(place, lambda: not place.fact()["ok"], "the status says that the disk is full")
    place.shoot_until_full(1000)
    filler = place.card.fill()
    until(
        place,
        lambda: any(word in str(place.fact()["reason"]) for word in ("recording will stop", "recording stops")),
        "it says that recording will stop",
    )
    assert place.unaccounted(set()) == [] and place.agent.status()["losses"] == 0
    place.cut(False)
    until(place, place.is_all_there, "all are in the bucket")
    until(place, lambda: not any(name.endswith(".jpg") for name in os.listdir(place.agent.data_dir)), "all went")
    os.unlink(filler)
    until(place, lambda: bool(place.agent.status()["healthy"]), "it is well again")
    assert place.agent.stop() == 0
    assert "crashed" not in place.agent.log() and integrity(place.agent.state_dir) == "ok"


def test_what_the_owner_lets_go_from_a_full_card_is_counted_listed_and_reported(place: Place) -> None:
    place.configure(when_full="drop_unsent", drop_order="oldest", min_free_percent=10)
    place.cut()
    place.agent.start()
    while len(place.shots) < 2 * 24 * MIB // SHOT_BYTES:
        until(place, place.shoot, "there is room for a picture")
    until(place, lambda: place.agent.status()["losses"] > 50, "pictures were dropped")
    place.cut(False)
    until(place, lambda: place.agent.count("ready") + place.agent.count("waiting") == 0, "the others are sent")

    def reported() -> int:
        report = place.store.objects().get(place.agent.key(".syncagent/losses.jsonl"), b"")
        lines = [json.loads(line) for line in report.splitlines()]
        return len(lines)

    until(place, lambda: reported() == place.agent.status()["losses"], "each loss is told of", deadline_s=150)
    listed = json.loads(place.agent.cli("ls", "--state", "lost", "--json").stdout)
    lost = {os.path.basename(row["path"]) for row in listed}
    assert len(lost) == place.agent.status()["losses"]
    assert place.unaccounted(lost) == []
    # The oldest went; of those that came within a moment, the order of recording says which is older.
    assert lost <= set(sorted(place.shots)[: len(lost) + 50])
    assert place.agent.stop() == 0
    assert "crashed" not in place.agent.log() and integrity(place.agent.state_dir) == "ok"


@pytest.mark.parametrize("kind", ["ext4", "tmpfs"])
def test_without_a_free_name_on_the_card_what_is_known_is_sent_and_goes(tmp_path: object, kind: str) -> None:
    with place_on(str(tmp_path), kind, inodes=400) as place:
        place.configure(keep_files=0)
        place.cut()
        place.agent.start()
        for _ in range(20):
            assert place.shoot(2000)
        until(place, lambda: place.agent.count("ready") + place.agent.count("waiting") == 20, "all are recorded")
        names = place.card.use_up_names()
        assert names and not place.shoot(2000)
        until(place, lambda: not place.fact()["ok"], "the status says so")
        place.cut(False)
        until(place, place.is_all_there, "all are in the bucket")
        until(place, lambda: not any(name.endswith(".jpg") for name in os.listdir(place.agent.data_dir)), "all went")
        for path in names:
            os.unlink(path)
        until(place, lambda: bool(place.agent.status()["healthy"]), "it is well again")
        assert place.shoot(2000)
        until(place, place.is_all_there, "a new one is sent")
        assert place.agent.stop() == 0
        assert "crashed" not in place.agent.log()


def test_a_card_that_turns_read_only_in_mid_run_stops_neither_the_agent_nor_what_is_known(tmp_path: object) -> None:
    with place_on(str(tmp_path), "ext4") as place:
        place.configure(keep_files=0)
        place.cut()
        place.agent.start()
        for _ in range(10):
            assert place.shoot()
        # Some wait for their next attempt, and a journal that takes no writes makes nothing READY.
        until(place, lambda: place.agent.count("waiting") > 0, "the outage met some of them")
        until(place, lambda: sum(map(place.agent.count, ("ready", "waiting"))) == 10, "all are recorded")
        place.card.abort()
        assert not place.shoot()
        place.cut(False)
        # It may be the last chance of all that lies on this card.
        until(place, lambda: len(place.objects()) == 10, "what is known is sent")
        until(place, lambda: not place.fact()["ok"], "the status says so")
        before = len(place.store.requests(operation="PutObject"))
        looks = place.agent.status()["facts"]["watcher"]["scans"]
        until(place, lambda: place.agent.status()["facts"]["watcher"]["scans"] > looks + 3, "it goes on looking")
        process = place.agent.process
        assert process is not None and process.poll() is None
        assert len(place.store.requests(operation="PutObject")) == before, "the same file was sent twice"
        place.agent.stop()
        place.card.umount()
        place.card.mount()
        assert integrity(place.agent.state_dir) == "ok"
        place.agent.start()
        until(place, place.is_all_there, "all are in the bucket")
        until(place, lambda: not any(name.endswith(".jpg") for name in os.listdir(place.agent.data_dir)), "all went")
        assert place.agent.stop() == 0
        assert place.unaccounted(set()) == []


@pytest.mark.parametrize("is_first", [True, False])
def test_on_a_card_that_is_read_only_it_does_not_start_and_says_what_to_do(tmp_path: object, is_first: bool) -> None:
    with place_on(str(tmp_path), "ext4") as place:
        place.configure()
        place.cut()
        assert place.shoot()
        if not is_first:
            place.agent.start()
            until(place, lambda: place.agent.count("ready") + place.agent.count("waiting") == 1, "it is recorded")
            place.agent.kill()
        run("mount", "-o", "remount,ro", place.card.path)
        begun = time.monotonic()
        done = place.agent.cli("run")
        assert time.monotonic() - begun < 5
        assert done.returncode == 1 and done.stderr.count("\n") == 1, done.stderr
        assert "Read-only file system" in done.stderr and "mount it for writing" in done.stderr
        status = place.agent.cli("status", "--json")
        disk = json.loads(status.stdout)["facts"]["disk"]
        assert status.returncode == 3 and (disk["ok"], disk["state"]) == (False, "read-only")
        assert "mount it for writing" in place.agent.cli("status").stdout
        listed = place.agent.cli("ls", "--json")
        assert listed.returncode == 0 and len(json.loads(listed.stdout)) == (0 if is_first else 1)
        place.cut(False)
        compared = place.agent.cli("verify")
        assert compared.returncode == 1 and "1 files" in compared.stderr and compared.stdout.startswith("unsent")


def test_an_agent_starts_on_a_card_that_somebody_filled_while_it_was_down(place: Place) -> None:
    place.configure(keep_files=0)
    place.agent.start()
    until(place, lambda: os.path.exists(os.path.join(place.agent.state_dir, "reserve")), "the reserve is made")
    assert place.shoot()
    until(place, place.is_all_there, "it is sent")
    assert place.agent.stop() == 0
    place.shoot_until_full()
    place.card.fill()
    assert place.card.free_bytes() < 4096
    place.agent.start()
    until(place, place.is_all_there, "all are in the bucket")
    until(place, lambda: not any(name.endswith(".jpg") for name in os.listdir(place.agent.data_dir)), "all went")
    assert place.agent.stop() == 0


def test_a_later_report_of_losses_replaces_the_one_before(tmp_path: object) -> None:
    with VerifyingS3() as store, Proxy(store.endpoint_url, Rule()) as link, Agent(str(tmp_path)) as agent:
        rules = {"when_full": "drop_unsent", "min_free_bytes": 1 << 60}  # so any disk is too full
        agent.configure(link.endpoint_url, carrier={"retention": rules})
        told: list[str] = []
        for name in ("a.jpg", "b.jpg"):
            link.rule = Rule("refuse")
            agent.write(name, name.encode())
            told.append(f"generated_data/camera/{name}")
            agent.start()
            wait_until(lambda: agent.count("lost") == len(told), deadline_s=30, what="the loss")
            link.rule = Rule("pass")
            wait_until(lambda: reported(store) == {"losses.jsonl": told}, deadline_s=30, what="the report")
            assert agent.stop() == 0


def test_unsent_files_that_may_not_be_removed_cost_a_full_card_no_write(tmp_path: object) -> None:
    with Agent(str(tmp_path), without=("dac_override",)) as agent:
        rules = {"when_full": "drop_unsent", "min_free_bytes": 1 << 60}
        agent.configure("http://127.0.0.1:9", carrier={"retention": rules})
        agent.write("theirs/a.jpg", b"a")
        os.chmod(agent.path("theirs"), 0o555)
        agent.start()
        wait_until(lambda: agent.count("ready") == 1, deadline_s=30, what="the file is recorded")
        log = os.path.join(agent.state_dir, "journal.db-wal")
        time.sleep(2)
        before = os.stat(log).st_mtime_ns
        time.sleep(5)
        assert os.stat(log).st_mtime_ns == before
        (error,) = [each for each in agent.status()["last_errors"] if each["what"] == "remove"]
        assert "writable" in error["reason"] and agent.status()["losses"] == 0


def reported(store: VerifyingS3) -> dict[str, list[str]]:
    """The paths that each report names."""
    return {
        os.path.basename(key): [json.loads(line)["path"] for line in body.splitlines()]
        for key, body in store.objects().items()
        if os.path.basename(key).startswith("losses")
    }
