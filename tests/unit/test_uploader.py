"""The uploader over a store in memory and a real journal: what every kind of trouble means for a file, and the rest."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import attrs
import pytest

from syncagent.core.board import Board
from syncagent.core.errors import (
    Blocked,
    Doubtful,
    HeadersTooLarge,
    JournalBroken,
    KeyTaken,
    Refused,
    Stopping,
    Transient,
    Trouble,
)
from syncagent.core.model import State
from syncagent.core.places import Places
from syncagent.core.proof import StoreProfile
from syncagent.core.settings import Carrier, SendAddress, Upload
from syncagent.core.settings import Store as StoreKeys
from syncagent.core.ticks import Ticks
from syncagent.docks import survey
from syncagent.docks.dock import IDLE_S, Dock, Ways
from syncagent.docks.meter import Meter
from syncagent.edges.answers import NotOffered
from syncagent.edges.files import PinnedFile, facts_of
from syncagent.edges.journal import Arrival, Ask, Journal, Row
from syncagent.edges.orders import PutRequest
from syncagent.edges.payload import Body
from syncagent.workers.uploader import TIDY_S, Uploader
from tests.fakes import Call, FakeClock, FakeStop, MemoryStore, Script, Stored

MIB = 2**20


class Store(MemoryStore):
    """What a dock asks of a store beside objects. Its link is as good as its scripts say of "reach"."""

    def __init__(self) -> None:
        super().__init__()
        self.probes: list[str] = []
        self.probe_error: Callable[[], Exception] | None = None
        self.has_md5_etags = True
        self.has_multipart = True

    @property
    def sent(self) -> list[Call]:
        """Calls for objects; the one listing of a new journal's prefix is not one."""
        return [call for call in self.history if call.name != "list"]

    skew_s: float | None = None
    is_corrected = False
    profile = StoreProfile()

    def set_profile(self, profile: StoreProfile) -> None:
        self.profile = profile

    def probe_conditional(self, key: str) -> bool:
        self._probe("conditional", key)
        return False

    def probe_checksum(self, key: str) -> bool:
        self._probe("checksum", key)
        self.profile = replace(self.profile, etag_is_md5=self.has_md5_etags, checksums_proved=True)
        return True

    def probe_multipart(self, key: str) -> bool:
        self._probe("multipart", key)
        self.profile = replace(self.profile, multipart=self.has_multipart, list_parts=self.has_multipart)
        return self.has_multipart

    def create_multipart(self, key: str, **more: Any) -> str:
        if not self.has_multipart:
            self.history.append(Call("create_multipart", key, "NotOffered"))
            raise NotOffered("the store answered 501 NotImplemented", trouble=Trouble.STORE)
        return super().create_multipart(key, **more)

    def _probe(self, what: str, key: str) -> None:
        assert key == "camera/default/.syncagent/probe"
        self.probes.append(what)
        if self.probe_error is not None:
            raise self.probe_error()

    def put(self, request: PutRequest, body: Body) -> str:
        etag = super().put(request, body)
        self.profile = replace(self.profile, etag_is_md5=self.has_md5_etags)
        return etag

    def reach(self) -> None:
        for script in self.scripts:
            error = script.error()
            if script.name is None and isinstance(error, Transient) and error.trouble is Trouble.LINK:
                raise error


class World:
    """Files, a journal, a store in memory, and the workers of one carrier with two addresses."""

    def __init__(self, base: Path, clock: FakeClock, **upload: Any) -> None:
        self.clock = clock
        self.stop = FakeStop(clock)
        self.root = base / "generated_data"
        (self.root / "camera").mkdir(parents=True)
        (base / "state").mkdir()
        self.journal = Journal(str(base / "state"), clock)
        self.journal.set_stores({"a": "s", "b": "s"})
        self.store = Store()
        self.board = Board(clock.monotonic)
        self.looked_again: list[str] = []
        self.base = base
        self.carrier = Carrier(name="c", bucket_name="b", path="camera", upload=Upload(**upload))
        self.restart()

    def restart(self) -> None:
        """Another run: of the last one, only the journal is left."""
        carrier, clock = self.carrier, self.clock
        addresses = {
            name: SendAddress(
                name=name,
                configured_name=name,
                message_type="image_info",
                carrier=carrier,
                duration="on_change",
                sub_path=name,
            )
            for name in ("a", "b")
        }
        self.dock = Dock(
            carrier=carrier,
            addresses=addresses,
            store=self.store,
            journal=self.journal,
            places=Places(str(self.base), str(self.root)),
            board=self.board,
            clock=clock,
            meter=Meter(carrier, journal=self.journal, clock=clock, totals=lambda: (0, 0), store_time=lambda: None),
            ways=Ways(Ticks({}, 0.0)),
            on_look_again=self.looked_again.append,
            on_open=lambda: None,
        )
        self.workers = [Uploader(f"upload-{n}", self.dock, system_id="pi", is_nimble=n == 0) for n in range(2)]

    def write(self, name: str, content: bytes = b"content", *, address: str = "a") -> Row:
        path = self.root / "camera" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return self.record(name, address=address)

    def record(self, name: str, *, address: str = "a", is_wanted: bool = True, is_unsettled: bool = False) -> Row:
        facts = facts_of(os.stat(self.root / "camera" / name))
        self.journal.record([Arrival(address, f"generated_data/camera/{name}", facts, is_unsettled, is_wanted)])
        return self.journal.listing()[-1]

    def run(self, seconds: float = 0.0, *, worker: int = 0) -> None:
        """Passes of one worker until it has nothing to do, or for so long."""
        until = self.clock.monotonic() + seconds
        for _ in range(2_000):
            wait_s = self.workers[worker].pass_once(self.stop)
            if wait_s > 0:
                if self.clock.monotonic() + wait_s > until:
                    break
                self.clock.advance(wait_s)
        else:
            raise AssertionError("the worker does not come to rest")

    def states(self) -> list[State]:
        return [row.state for row in self.journal.listing()]

    def fails(self, error: Callable[[], BaseException], **how: Any) -> None:
        self.store.scripts.append(Script(error, **how))


@pytest.fixture
def build(tmp_path: Path, clock: FakeClock) -> Iterator[Callable[..., World]]:
    built: list[World] = []

    def make(**upload: Any) -> World:
        built.append(World(tmp_path, clock, **upload))
        return built[-1]

    yield make
    for world in built:
        world.journal.close()


@pytest.fixture
def world(build: Callable[..., World]) -> World:
    return build()


def forbidden() -> Blocked:
    return Blocked("403", trouble=Trouble.FORBIDDEN)


def link() -> Transient:
    return Transient("refused", trouble=Trouble.LINK)


def test_a_ready_file_is_sent_in_one_request_proved_and_confirmed(world: World) -> None:
    world.write("n/img.jpg", b"picture")
    world.run()
    key = "camera/a/n/img.jpg"
    assert [call.name for call in world.store.sent] == ["put"]
    stored = world.store.objects[key]
    assert (stored.body, stored.content_type) == (b"picture", "image/jpeg")
    assert {"syncagent-sha256", "syncagent-mtime", "syncagent-system-id", "syncagent-version"} <= set(stored.metadata)
    (row,) = world.journal.listing()
    assert (row.state, row.key, row.etag, row.position) == (State.CONFIRMED, key, stored.etag, 1)
    assert world.board.flights() == []


def test_a_file_whose_name_holds_bytes_that_no_key_can_is_sent_under_its_escaped_name(world: World) -> None:
    world.write("caf\udce9\n%41.jpg")
    world.run()
    assert set(world.store.objects) == {"camera/a/caf%E9%0A%2541.jpg"}


def test_a_key_that_just_fits_is_sent_and_one_byte_more_is_parked(world: World) -> None:
    room = 1024 - len("camera/a/") - 5 * 201
    deep = "/".join(["d" * 200] * 5)
    world.write(f"{deep}/{'f' * room}")
    world.write(f"{deep}/{'f' * (room + 1)}")
    world.run()
    assert world.states() == [State.CONFIRMED, State.PARKED]
    assert world.journal.listing()[1].reason == "key too long"


def test_later_bytes_under_a_name_get_a_name_of_their_own_and_the_same_bytes_are_not_sent_again(world: World) -> None:
    for content in (b"one", b"two", b"one", b"two", b"three"):
        world.write("x.jpg", content)
        world.run()
    assert len(world.store.calls("put")) == 3
    assert sorted(stored.body for stored in world.store.objects.values()) == [b"one", b"three", b"two"]
    assert world.store.bytes_of("camera/a/x.jpg") == b"one"
    assert world.states()[-1] is State.CONFIRMED


def test_with_overwrite_a_later_version_replaces(build: Callable[..., World]) -> None:
    world = build(on_rewrite="overwrite")
    for content in (b"one", b"two", b"one"):
        world.write("x.jpg", content)
        world.run()
    assert {key: stored.body for key, stored in world.store.objects.items()} == {"camera/a/x.jpg": b"one"}


def take(world: World, key: str, body: bytes = b"somebody else's") -> None:
    """Another writer puts an object there, after the listing."""
    world.store.objects[key] = Stored(body, hashlib.md5(body).hexdigest(), {}, "image/jpeg")


def is_suffixed(world: World, key: str) -> bool:
    head, _, extension = key.rpartition(".")
    return any(re.fullmatch(rf"{re.escape(head)}\.[0-9a-f]{{12}}\.{extension}", found) for found in world.store.objects)


def test_a_key_that_the_store_says_is_taken_is_not_replaced(world: World) -> None:
    world.write("before.jpg")
    world.run()
    world.write("x.jpg")
    take(world, "camera/a/x.jpg")
    world.fails(lambda: KeyTaken("taken"), name="put", times=1)
    world.run()
    assert is_suffixed(world, "camera/a/x.jpg")
    assert world.store.bytes_of("camera/a/x.jpg") == b"somebody else's"
    assert world.states() == [State.CONFIRMED] * 2


@pytest.mark.parametrize("size_bytes", [10, 11 * MIB])
def test_a_key_that_is_taken_by_nobody_is_tried_again_and_no_other_is_chosen(
    build: Callable[..., World], size_bytes: int
) -> None:
    world = build(multipart_bytes=5 * MIB)
    world.write("x.jpg", os.urandom(size_bytes))
    world.fails(lambda: KeyTaken("taken"), name="complete" if size_bytes > MIB else "put", times=2)
    world.run(30)
    assert set(world.store.objects) == {"camera/a/x.jpg"}
    assert world.states() == [State.CONFIRMED]
    assert len(world.store.calls("put_part")) == (3 if size_bytes > MIB else 0)


@pytest.mark.parametrize("may_list", [True, False], ids=["may list", "may only put"])
@pytest.mark.parametrize("is_theirs", [True, False], ids=["theirs", "ours"])
def test_without_the_right_to_look_at_an_object_an_occupied_key_holds_up_no_file(
    world: World, may_list: bool, is_theirs: bool
) -> None:
    world.store.set_profile(StoreProfile(conditional_writes_proved=True))
    world.write("before.jpg")
    world.run()
    world.fails(forbidden, name="head")
    if not may_list:
        world.fails(forbidden, name="list")
    world.write("x.jpg")
    if is_theirs:
        take(world, "camera/a/x.jpg")
    else:
        world.fails(lambda: Transient("500", trouble=Trouble.STORE), name="put", times=1, after=True)
    world.run(10)
    assert world.states() == [State.CONFIRMED] * 2
    # Unseen it might be anybody's: a second copy is the price of replacing nothing.
    assert is_suffixed(world, "camera/a/x.jpg") is (is_theirs or not may_list)
    assert world.store.bytes_of("camera/a/x.jpg") == (b"somebody else's" if is_theirs else b"content")
    fact = world.board.fact("store/c")
    assert fact is not None and fact.state == "ok"


def ask(world: World, name: str, cloud_path: str) -> None:
    """Somebody sends a file under a key of his choice."""
    path = world.root / "camera" / name
    path.write_bytes(name.encode())
    world.journal.ask("a", f"generated_data/camera/{name}", cloud_path=cloud_path)
    world.record(name, is_wanted=False)


def listed(world: World) -> list[str]:
    return [call.key for call in world.store.calls("list")]


def test_a_key_outside_the_prefix_is_not_replaced_and_its_directory_is_listed_once(world: World) -> None:
    take(world, "archive/2026/x0.jpg")
    for number in range(5):
        ask(world, f"{number}", f"archive/2026/x{number}.jpg")
    world.run()
    assert world.states() == [State.CONFIRMED] * 5
    assert world.store.bytes_of("archive/2026/x0.jpg") == b"somebody else's"
    assert is_suffixed(world, "archive/2026/x0.jpg")
    world.restart()
    ask(world, "later", "archive/2026/later.jpg")
    ask(world, "deeper", "archive/2026/11/24.jpg")
    world.run()
    assert world.states() == [State.CONFIRMED] * 7
    assert listed(world) == ["camera/a/", "archive/2026/"]


def test_of_very_many_directories_what_they_have_in_common_is_listed(world: World) -> None:
    for number in range(200):
        ask(world, f"{number}", f"archive/{number}/deep/x.jpg")
    take(world, "archive/199/deep/x.jpg")
    world.run()
    assert world.states() == [State.CONFIRMED] * 200
    assert world.store.bytes_of("archive/199/deep/x.jpg") == b"somebody else's"
    assert listed(world)[-1] == "archive/"
    assert len(listed(world)) <= 40


def test_with_overwrite_no_directory_is_listed(build: Callable[..., World]) -> None:
    world = build(on_rewrite="overwrite")
    ask(world, "x", "archive/x.jpg")
    world.run()
    assert listed(world) == ["camera/a/"]


def test_no_directory_is_listed_where_the_store_guards_its_keys(world: World) -> None:
    world.store.set_profile(StoreProfile(conditional_writes_proved=True))
    ask(world, "x", "archive/x.jpg")
    world.run()
    assert listed(world) == ["camera/a/"]


def test_a_directory_that_may_not_be_listed_is_asked_for_once_in_a_run(world: World) -> None:
    for number in range(5):
        ask(world, f"{number}", f"archive/{number}.jpg")
    world.fails(forbidden, name="list")
    world.run()
    assert world.states() == [State.CONFIRMED] * 5
    assert listed(world) == ["camera/a/", "archive/"]
    fact = world.board.fact("store/c")
    assert fact is not None and "cannot list" in fact.reason


def test_two_files_for_one_key_do_not_replace_each_other(world: World) -> None:
    for name in ("one", "two"):
        (world.root / "camera" / name).write_bytes(name.encode())
        row_id = world.journal.ask("a", f"generated_data/camera/{name}", cloud_path="k.txt")
        world.record(name, is_wanted=False)
        assert world.journal.row(row_id).state is State.READY
    world.run(10)
    assert world.states() == [State.CONFIRMED] * 2
    assert sorted(stored.body for stored in world.store.objects.values()) == [b"one", b"two"]


# -- sent before it was finished --------------------------------------------------------------------------------------


def send_unsettled(world: World, name: str = "log", content: bytes = b"so far") -> str:
    """Send a file that is still being written; the key of its object."""
    (world.root / "camera" / name).write_bytes(content)
    world.record(name, is_unsettled=True)
    world.run()
    key = f"camera/a/{name}"
    assert world.store.objects[key].metadata["syncagent-unsettled"] == "true"
    return key


@pytest.mark.parametrize("on_rewrite", ["suffix", "overwrite"])
def test_a_file_that_ends_as_it_was_sent_unsettled_replaces_that_object_by_one_without_the_flag(
    build: Callable[..., World], on_rewrite: str
) -> None:
    world = build(on_rewrite=on_rewrite)
    world.store.profile = StoreProfile(conditional_writes_proved=True)
    key = send_unsettled(world)
    world.record("log")
    world.run()
    assert set(world.store.objects) == {key}
    assert world.store.bytes_of(key) == b"so far"
    assert "syncagent-unsettled" not in world.store.objects[key].metadata
    assert world.states() == [State.REMOVED, State.CONFIRMED]
    sent = len(world.store.sent)
    world.write("log", b"so far")  # written again, the same: it is there
    world.run()
    assert len(world.store.sent) == sent


def test_an_unsettled_object_whose_finished_version_is_longer_stays_what_it_was(world: World) -> None:
    key = send_unsettled(world)
    world.write("log", b"so far and to the end")
    world.run()
    assert world.store.bytes_of(key) == b"so far"
    (other,) = set(world.store.objects) - {key}
    assert world.store.bytes_of(other) == b"so far and to the end"
    assert "syncagent-unsettled" not in world.store.objects[other].metadata


def test_what_somebody_else_put_in_place_of_an_unsettled_object_is_not_replaced(world: World) -> None:
    key = send_unsettled(world)
    world.store.objects[key] = Stored(b"theirs", "e", {}, "text/plain")
    world.record("log")
    world.run()
    assert world.store.bytes_of(key) == b"theirs"
    assert sorted(stored.body for stored in world.store.objects.values()) == [b"so far", b"theirs"]
    assert world.states()[-1] is State.CONFIRMED


def test_an_unsettled_object_that_somebody_removed_is_sent_again(world: World) -> None:
    key = send_unsettled(world)
    del world.store.objects[key]
    world.record("log")
    world.run()
    assert world.store.bytes_of(key) == b"so far"
    assert world.states()[-1] is State.CONFIRMED


def test_an_unsettled_object_that_was_replaced_by_an_attempt_whose_answer_was_lost_is_found(world: World) -> None:
    key = send_unsettled(world)
    world.record("log")
    world.fails(link, name="put", times=1, after=True)
    world.run(60)
    assert len(world.store.calls("put")) == 2
    assert set(world.store.objects) == {key}
    assert world.states()[-1] is State.CONFIRMED


def test_a_cloud_path_that_no_key_can_be_is_parked(world: World) -> None:
    (world.root / "camera" / "x").write_bytes(b"x")
    world.journal.ask("a", "generated_data/camera/x", cloud_path="a/../b")
    world.record("x", is_wanted=False)
    world.run()
    assert world.states() == [State.PARKED]


# -- outages ----------------------------------------------------------------------------------------------------------

OUTAGES: list[Callable[[], Transient | Blocked]] = [
    link,
    lambda: Transient("silent", trouble=Trouble.STALLED),
    lambda: Transient("500", trouble=Trouble.STORE),
    lambda: Transient("slow down", trouble=Trouble.THROTTLED, retry_after_s=5),
    lambda: Transient("slow down", trouble=Trouble.THROTTLED, retry_after_s=7_200),
    lambda: Transient("skewed", trouble=Trouble.CLOCK),
    lambda: Blocked("bad key", trouble=Trouble.CREDENTIALS),
    lambda: Blocked("no bucket", trouble=Trouble.BUCKET),
    lambda: Blocked("403", trouble=Trouble.FORBIDDEN),
]


@pytest.mark.parametrize("error", OUTAGES)
@pytest.mark.parametrize("outage_s", [3.0, 3_600.0])
def test_an_outage_fails_no_file_and_all_are_sent_within_thirty_seconds_of_its_end(
    world: World, error: Callable[[], Transient | Blocked], outage_s: float
) -> None:
    for number in range(12):
        world.write(f"{number}", b"%d" % number)
    world.fails(error)
    world.run(outage_s)
    assert not world.store.objects
    assert set(world.states()) <= {State.READY, State.WAITING}
    requests = len(world.store.sent)
    assert requests <= 40 + outage_s / 5
    world.store.scripts.clear()
    world.run(31)
    assert world.states() == [State.CONFIRMED] * 12
    assert len(world.store.sent) - requests == 12
    for name in ("link/c", "store/c"):
        fact = world.board.fact(name)
        assert fact is not None and fact.ok


def test_an_outage_is_one_line_in_the_log_and_its_end_another(world: World, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(12):
        world.write(f"{number}")
    with caplog.at_level(logging.INFO):
        world.fails(link)
        world.run(3_600)
        lines = [record.getMessage() for record in caplog.records]
        assert len([line for line in lines if line.startswith("store unavailable")]) == 1
        assert len(lines) <= 3, lines  # and what became of the file that met it
        world.store.scripts.clear()
        world.run(31)
    lines = [record.getMessage() for record in caplog.records]
    assert len([line for line in lines if line.startswith("store back")]) == 1
    assert len([line for line in lines if line.startswith("store unavailable")]) == 1


def test_while_the_store_is_away_status_says_so(world: World) -> None:
    world.write("x")
    world.fails(lambda: Blocked("bad key", trouble=Trouble.CREDENTIALS, remedy="mend it"))
    world.run(1)
    fact = world.board.fact("store/c")
    assert fact is not None
    assert (fact.ok, fact.state, fact.reason, fact.more["remedy"]) == (False, "credentials", "bad key", "mend it")


def test_a_403_of_one_address_does_not_stop_the_other(world: World) -> None:
    for number in range(20):
        world.write(f"a{number}", address="a")
        world.write(f"b{number}", address="b")
    world.fails(lambda: Blocked("403", trouble=Trouble.FORBIDDEN), prefix="camera/a/")
    world.run(1)
    assert len(world.store.objects) == 20
    fact = world.board.fact("store/c")
    assert fact is not None and fact.ok and "403" in fact.reason
    world.store.scripts.clear()
    world.run(31)
    assert len(world.store.objects) == 40


def refusals(world: World, key: str) -> int:
    return len([call for call in world.store.calls("put") if call.key == key and call.error])


def test_one_refused_key_holds_up_no_file_and_is_no_fact_of_the_store(world: World) -> None:
    world.write("bad")
    world.fails(forbidden, prefix="camera/a/bad")
    world.run(600)
    fact = world.board.fact("store/c")
    assert fact is not None and fact.state == "ok"
    world.write("good")
    world.run()
    assert "camera/a/good" in world.store.objects
    # It is told from a store that refuses everything by another key, once.
    assert 5 <= refusals(world, "camera/a/bad") <= 20
    assert [call.key for call in world.store.calls("put")].count("camera/default/.syncagent/probe") == 1


def test_a_key_that_is_refused_while_others_pass_is_asked_for_less_and_less(build: Callable[..., World]) -> None:
    world = build(retry_max_s=300)
    world.write("bad")
    world.fails(forbidden, prefix="camera/a/bad")
    for number in range(60):
        world.write(f"{number}")
        world.run(30)
    assert 8 <= refusals(world, "camera/a/bad") <= 16
    assert world.states() == [State.WAITING] + [State.CONFIRMED] * 60


@pytest.mark.parametrize("error", [forbidden, lambda: Doubtful("the store answered 400 InvalidRequest")])
def test_a_lone_file_shows_that_the_store_refuses_everything(world: World, error: Callable[[], Exception]) -> None:
    world.write("before")
    world.run()
    world.write("x")
    world.fails(error)
    world.run(30)
    fact = world.board.fact("store/c")
    assert fact is not None and fact.state in ("forbidden", "refused")


def test_a_link_that_is_down_when_another_key_is_tried_tells_nothing(world: World) -> None:
    world.write("bad")
    world.fails(forbidden, prefix="camera/a/bad")
    world.fails(link, prefix="camera/default/.syncagent", times=1)
    world.run(300)
    fact = world.board.fact("store/c")
    assert fact is not None and fact.state == "ok"
    assert [call.error for call in world.store.calls("put") if call.key.endswith("/probe")] == ["Transient", ""]


def test_a_file_that_was_refused_alone_goes_within_thirty_seconds_of_the_end_of_it(world: World) -> None:
    world.write("x")
    world.fails(forbidden)
    world.run(3_600)
    world.store.scripts.clear()
    world.run(31)
    assert world.states() == [State.CONFIRMED]


def test_three_refused_keys_with_none_between_that_passes_are_a_fact_of_the_store(world: World) -> None:
    for number in range(3):
        world.write(f"{number}")
    world.fails(forbidden)
    world.run(1)
    fact = world.board.fact("store/c")
    assert fact is not None and fact.state == "forbidden"


def test_an_address_that_was_refused_comes_back_even_if_its_probe_met_a_dead_link(world: World) -> None:
    for number in range(6):
        world.write(f"a{number}")
    world.fails(lambda: Blocked("403", trouble=Trouble.FORBIDDEN))
    world.run(60)
    world.store.scripts.clear()
    world.fails(link)
    world.run(60)
    world.store.scripts.clear()
    world.run(31)
    assert world.states() == [State.CONFIRMED] * 6


def test_one_request_at_a_time_asks_whether_the_store_is_back_whoever_returns_meanwhile(world: World) -> None:
    dock = world.dock
    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(1) as two:  # two workers, a thread each
        assert one.submit(dock.permission).result()[0] == 0.0  # a request that will take its time
        two.submit(dock.permission).result()
        two.submit(dock.failed, "a", Blocked("bad key", trouble=Trouble.CREDENTIALS)).result()
        world.clock.advance(60)
        assert two.submit(dock.permission).result()[0] == 0.0
        one.submit(dock.forgiven, "a").result()
        assert one.submit(dock.permission).result()[0] > 0
        two.submit(dock.forgiven, "a").result()
        assert one.submit(dock.permission).result()[0] == 0.0


def test_a_store_that_is_away_wakes_no_file_of_another_carrier(world: World) -> None:
    world.journal.set_stores({"a": "s", "b": "s", "other": "t"})
    others = world.write("theirs", address="other")
    world.journal.defer(others, reason="store", wait_s=5)
    world.write("ours")
    world.fails(link)
    world.run(60)
    assert (world.journal.row(others.id).state, world.journal.row(others.id).attempts) == (State.WAITING, 1)
    world.store.scripts.clear()
    world.run(31)
    assert (world.journal.row(others.id).state, world.journal.row(others.id).attempts) == (State.WAITING, 1)
    assert world.states() == [State.WAITING, State.CONFIRMED]
    # Nor does a worker that has nothing to do run round because of it.
    assert world.workers[0].pass_once(world.stop) == IDLE_S


def test_a_file_that_cannot_be_read_holds_up_nobody(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(10):
        world.write(f"{number}")
    locked = world.root / "camera" / "0"
    if os.getuid() == 0:
        # Root reads everything; a disk that refuses one file does as well.
        real = PinnedFile.open

        def refuse(root: str, path: str, **how: Any) -> Any:
            if path == "camera/0":
                raise Transient("cannot open: Permission denied", trouble=Trouble.FILE)
            return real(root, path, **how)

        monkeypatch.setattr(PinnedFile, "open", staticmethod(refuse))
    else:
        locked.chmod(0)
    world.run()
    assert world.states() == [State.WAITING] + [State.CONFIRMED] * 9
    assert "Permission denied" in world.journal.listing()[0].reason
    fact = world.board.fact("store/c")
    assert fact is not None and fact.ok


def doubtful() -> Doubtful:
    return Doubtful("the store answered 400 InvalidRequest")


def test_a_refusal_of_every_file_that_names_none_is_a_fact_of_the_store_and_parks_none(world: World) -> None:
    for number in range(12):
        world.write(f"{number}")
    world.fails(doubtful, name="put")
    world.run(3_600)
    assert set(world.states()) <= {State.READY, State.WAITING}
    assert len(world.store.calls("put")) <= 12 + 3_600 / 20
    fact = world.board.fact("store/c")
    assert fact is not None and "InvalidRequest" in fact.reason and fact.more["remedy"]
    world.store.scripts.clear()
    world.run(31)
    assert world.states() == [State.CONFIRMED] * 12


def test_a_file_that_is_refused_again_and_again_while_others_pass_is_parked(world: World) -> None:
    world.write("bad")
    world.fails(doubtful, prefix="camera/a/bad")
    world.run(600)
    assert world.states() == [State.WAITING]  # nobody can tell whether it is the file
    for number in range(8):
        world.write(f"{number}")
        world.run(150)
    assert world.states() == [State.PARKED] + [State.CONFIRMED] * 8
    assert world.journal.listing()[0].reason == "the store answered 400 InvalidRequest"


def test_the_parts_of_a_large_file_do_not_count_as_others_that_pass(build: Callable[..., World]) -> None:
    world = build(multipart_bytes=5 * MIB)
    world.write("film.mp4", os.urandom(11 * MIB))
    world.fails(doubtful, name="complete")
    world.run(600)
    assert world.states() == [State.WAITING]


def test_what_can_never_succeed_is_parked_with_its_reason_and_shown(world: World) -> None:
    world.write("x")
    world.fails(lambda: Refused("too large for this store"))
    world.run()
    (row,) = world.journal.listing()
    assert (row.state, row.reason) == (State.PARKED, "too large for this store")
    assert [complaint.path for complaint in world.board.complaints()] == ["generated_data/camera/x"]
    world.store.scripts.clear()
    assert world.journal.retry() == 1
    world.run()
    assert world.states() == [State.CONFIRMED]


def test_a_bug_that_one_file_meets_puts_it_off_and_the_others_go_on(world: World) -> None:
    world.write("poison")
    world.fails(lambda: RuntimeError("a bug"), prefix="camera/a/poison")
    for number in range(3):
        world.write(f"{number}")
    world.run()
    assert world.states() == [State.WAITING] + [State.CONFIRMED] * 3
    assert world.journal.listing()[0].reason == "RuntimeError: a bug"
    assert world.board.complaints()[0].path.endswith("poison")


def test_a_bug_that_every_file_meets_is_the_workers_and_not_the_files(world: World) -> None:
    world.fails(lambda: RuntimeError("a bug"))
    for number in range(6):
        world.write(f"{number}")
    with pytest.raises(RuntimeError):
        world.run()


# -- large files ------------------------------------------------------------------------------------------------------


class SlowCard:
    """Each read of a file takes a second, and something may happen in it."""

    def __init__(self, world: World, monkeypatch: pytest.MonkeyPatch, act: Callable[[int], object]) -> None:
        self.reads = 0
        real = PinnedFile.bytes_at

        def slowly(pinned: PinnedFile, start: int, size_bytes: int) -> bytes:
            self.reads += 1
            world.clock.advance(1.0)
            act(self.reads)
            return real(pinned, start, size_bytes)

        monkeypatch.setattr(PinnedFile, "bytes_at", slowly)


def test_while_a_large_file_is_hashed_the_nimble_worker_sends_the_small_ones(
    build: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    world = build(multipart_bytes=5 * MIB, workers=1)
    world.write("large", b"l" * (6 * MIB))

    def act(read: int) -> None:
        if read == 3:
            for number in range(3):
                world.write(f"small{number}")
            world.write("other", address="b")

    SlowCard(world, monkeypatch, act)
    world.run()
    assert world.states() == [State.CONFIRMED] * 5
    visible = [call.key for call in world.store.history if call.became_visible]
    assert visible[-1] == "camera/a/large"
    begun = next(number for number, call in enumerate(world.store.sent) if call.name == "create_multipart")
    assert [call.name for call in world.store.sent[:begun]] == ["put"] * 4
    assert world.board.flights() == []


def test_a_worker_that_is_not_nimble_hashes_on(build: Callable[..., World], monkeypatch: pytest.MonkeyPatch) -> None:
    world = build(multipart_bytes=5 * MIB)
    world.write("large", b"l" * (6 * MIB))
    SlowCard(world, monkeypatch, lambda read: read == 3 and world.write("small"))
    world.run(worker=1)
    assert [call.key for call in world.store.history if call.became_visible] == ["camera/a/large", "camera/a/small"]


def test_a_small_file_that_cannot_be_sent_in_between_holds_up_neither_the_large_one_nor_itself(
    build: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    world = build(multipart_bytes=5 * MIB, workers=1)
    world.write("large", b"l" * (6 * MIB))
    world.fails(lambda: Refused("not this one"), prefix="camera/a/small")
    SlowCard(world, monkeypatch, lambda read: read == 3 and world.write("small"))
    world.run()
    assert world.states() == [State.CONFIRMED, State.PARKED]


def test_a_worker_that_is_to_stop_does_not_hash_a_file_to_its_end(
    build: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    world = build(multipart_bytes=5 * MIB)
    world.write("large", b"l" * (6 * MIB))

    def act(read: int) -> None:
        if read == 3:
            world.stop.set()

    card = SlowCard(world, monkeypatch, act)
    with pytest.raises(Stopping):
        world.run(worker=1)
    assert card.reads == 3
    assert world.states() == [State.READY]
    assert world.journal.claim(["a"]) is not None


# -- files that change under the worker -------------------------------------------------------------------------------


def test_a_file_that_changed_after_it_was_recorded_settles_anew_and_nothing_is_sent(world: World) -> None:
    world.write("x", b"old")
    (world.root / "camera" / "x").write_bytes(b"newer bytes")
    world.run()
    assert world.states() == [State.SETTLING]
    assert world.looked_again == ["generated_data/camera/x"]
    assert not world.store.sent
    world.record("x")
    world.run()
    assert world.store.bytes_of("camera/a/x") == b"newer bytes"


def test_a_large_file_that_changed_while_it_was_sent_goes_out_with_its_new_bytes(build: Callable[..., World]) -> None:
    world = build(multipart_bytes=5 * MIB)
    row = world.write("x", b"o" * (6 * MIB))
    world.fails(link, name="put_part", skip=1, times=1)
    world.run()
    assert world.journal.row(row.id).digest is not None
    content = b"n" * (6 * MIB + 1)
    (world.root / "camera" / "x").write_bytes(content)
    world.run(40)
    assert world.states() == [State.SETTLING]
    world.record("x")
    world.run(40)
    assert world.states() == [State.CONFIRMED]
    assert world.store.bytes_of("camera/a/x") == content
    assert world.store.uploads == {}


@pytest.mark.parametrize("fate", [State.SUPERSEDED, State.GONE])
def test_a_file_that_is_overtaken_while_its_request_is_on_its_way_is_no_crash(world: World, fate: State) -> None:
    world.write("x", b"old")
    put, was_overtaken = world.store.put, False

    def put_and_overtake(*how: Any) -> str:
        nonlocal was_overtaken
        etag = put(*how)
        if not was_overtaken:
            was_overtaken = True
            if fate is State.GONE:
                os.unlink(world.root / "camera" / "x")
                world.journal.vanished([1])
            else:
                world.write("x", b"newer bytes")
        return etag

    world.store.put = put_and_overtake  # type: ignore[method-assign, assignment]
    world.run(40)
    assert b"old" in [stored.body for stored in world.store.objects.values()]
    assert world.journal.row(1).state in (State.CONFIRMED, State.REMOVED, fate)
    if fate is State.SUPERSEDED:
        assert world.states()[-1] is State.CONFIRMED
        assert b"newer bytes" in [stored.body for stored in world.store.objects.values()]


@pytest.mark.parametrize("is_recorded", [False, True])
def test_a_file_that_its_writer_removes_is_gone_whoever_finds_out_first(world: World, is_recorded: bool) -> None:
    row = world.write("x")
    claim = world.journal.claim

    def claim_and_remove(*how: Any, **more: Any) -> Row | None:
        claimed = claim(*how, **more)
        if claimed is not None:
            os.unlink(world.root / "camera" / "x")
            if is_recorded:
                world.journal.vanished([claimed.id])
        return claimed

    world.journal.claim = claim_and_remove  # type: ignore[method-assign]
    world.run()
    assert world.journal.row(row.id).state is State.GONE
    assert not world.store.sent


def test_a_later_version_that_is_recorded_while_a_worker_has_the_old_one_is_sent(world: World) -> None:
    world.write("x", b"old")
    claim, was_rewritten = world.journal.claim, False

    def claim_and_rewrite(*how: Any, **more: Any) -> Row | None:
        nonlocal was_rewritten
        claimed = claim(*how, **more)
        if not was_rewritten:
            was_rewritten = True
            world.write("x", b"newer bytes")
        return claimed

    world.journal.claim = claim_and_rewrite  # type: ignore[method-assign]
    world.run()
    assert world.states() == [State.SUPERSEDED, State.CONFIRMED]
    assert world.store.bytes_of("camera/a/x") == b"newer bytes"


def test_when_the_whole_disk_is_away_files_wait_and_are_not_gone(world: World) -> None:
    world.write("x")
    world.root.rename(world.root.parent / "away")
    world.run()
    assert world.states() == [State.WAITING]
    (world.root.parent / "away").rename(world.root)
    world.run(60)
    assert world.states() == [State.CONFIRMED]


# -- finding out what the store can do --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        lambda: Refused("the store answered 405 MethodNotAllowed"),
        lambda: NotOffered("the store answered 501 NotImplemented", trouble=Trouble.STORE),
        lambda: Blocked("the store answered 403 AccessDenied", trouble=Trouble.FORBIDDEN),
    ],
)
def test_a_store_that_refuses_the_listing_holds_up_no_file_and_the_status_says_what_is_not_seen(
    world: World, error: Callable[[], Exception]
) -> None:
    for number in range(3):
        world.write(f"{number}")
    world.fails(error, name="list")
    world.run(5)
    assert world.states() == [State.CONFIRMED] * 3
    assert len(world.store.calls("list")) == 1
    fact = world.board.fact("store/c")
    assert fact is not None and fact.ok and "cannot list" in fact.reason


def test_a_store_that_refuses_the_probe_parks_no_file_and_is_taken_for_one_that_guards_no_key(world: World) -> None:
    for number in range(3):
        world.write(f"{number}")
    world.store.probe_error = lambda: Refused("the store answered 404 NoSuchKey")
    world.run(5)
    assert world.states() == [State.CONFIRMED] * 3
    assert world.store.probes == ["conditional"]
    assert not world.dock.is_conditional()


def test_an_owner_who_forbids_to_overwrite_in_a_running_agent_has_the_store_probed(build: Callable[..., World]) -> None:
    world = build(on_rewrite="overwrite")
    world.write("1")
    world.run()
    assert world.store.probes == []
    world.dock.set_carrier(attrs.evolve(world.carrier, upload=Upload(on_rewrite="suffix")))
    for number in range(2, 4):
        world.write(f"{number}")
        world.run()
    assert len(world.store.probes) == 1
    assert len(world.store.calls("list")) == 1
    assert world.states() == [State.CONFIRMED] * 3


def test_checksums_are_probed_once_when_the_etags_turn_out_to_be_no_md5s(world: World) -> None:
    world.store.has_md5_etags = False
    for number in range(3):
        world.write(f"{number}")
    world.run()
    assert world.store.probes == ["conditional", "checksum"]
    world.restart()
    world.write("3")
    world.run()
    assert world.store.probes.count("checksum") == 1
    assert world.states() == [State.CONFIRMED] * 4


@pytest.mark.parametrize(
    ("has_md5_etags", "verify", "checksums"),
    [(True, "digest", None), (False, "read_back", None), (False, "digest", False), (False, "digest", True)],
)
def test_checksums_are_not_probed_where_they_prove_nothing_that_is_not_known(
    build: Callable[..., World], has_md5_etags: bool, verify: str, checksums: bool | None
) -> None:
    world = build(verify=verify)
    world.carrier = attrs.evolve(world.carrier, store=StoreKeys(checksums=checksums))
    world.restart()
    world.store.has_md5_etags = has_md5_etags
    for number in range(3):
        world.write(f"{number}")
    world.run()
    assert "checksum" not in world.store.probes
    assert world.store.profile.checksums_proved is checksums


def test_a_refused_probe_of_checksums_is_not_repeated_for_each_file(world: World) -> None:
    world.store.has_md5_etags = False
    world.store.probe_error = lambda: Refused("the store answered 405 MethodNotAllowed")
    for number in range(3):
        world.write(f"{number}")
    world.run()
    assert world.store.probes == ["conditional", "checksum"]
    assert world.states() == [State.CONFIRMED] * 3


def test_before_the_first_upload_in_parts_it_is_known_what_the_etags_are(build: Callable[..., World]) -> None:
    world = build(on_rewrite="overwrite", multipart_bytes=5 * MIB)
    world.store.has_md5_etags = False
    for number in range(2):
        world.write(f"{number}", os.urandom(6 * MIB))
    world.run()
    # A part proves nothing while its ETag may be anything, and there was no small file that told.
    assert world.store.probes == ["checksum"]
    assert world.states() == [State.CONFIRMED] * 2


# -- large files ------------------------------------------------------------------------------------------------------


def test_a_large_file_goes_in_parts_and_goes_on_where_it_stopped(build: Callable[..., World]) -> None:
    world = build(multipart_bytes=5 * MIB)
    content = os.urandom(11 * MIB)
    world.write("film.mp4", content)
    world.fails(link, name="put_part", skip=1, times=1)
    world.run(60)
    assert world.store.bytes_of("camera/a/film.mp4") == content
    assert len(world.store.calls("put_part")) == 4
    assert world.store.uploads == {}
    assert world.states() == [State.CONFIRMED]


def test_what_the_store_has_is_asked_for_again_when_the_link_was_down_at_that_moment(
    build: Callable[..., World],
) -> None:
    world = build(multipart_bytes=5 * MIB)
    world.write("film.mp4", os.urandom(11 * MIB))
    world.fails(Stopping, name="put_part", skip=1, times=1, after=True)  # and its note is lost
    with pytest.raises(Stopping):
        world.run()
    world.restart()
    world.fails(link, name="list_parts", times=1)
    world.run(60)
    assert world.states() == [State.CONFIRMED]
    assert len(world.store.calls("list_parts")) == 2
    assert len(world.store.calls("put_part")) == 3
    assert world.dock._reconciled == set()


def test_a_store_that_is_known_to_list_no_parts_is_not_asked_for_them(build: Callable[..., World]) -> None:
    world = build(multipart_bytes=5 * MIB)
    world.write("film.mp4", os.urandom(11 * MIB))
    world.fails(Stopping, name="put_part", skip=1, times=1)
    with pytest.raises(Stopping):
        world.run()
    world.restart()
    world.store.profile = replace(world.store.profile, list_parts=False)
    world.run()
    assert world.states() == [State.CONFIRMED]
    assert world.store.calls("list_parts") == []
    assert len(world.store.calls("put_part")) == 4


def test_a_store_without_uploads_in_parts_gets_large_files_in_one_request_and_that_is_remembered(
    build: Callable[..., World],
) -> None:
    world = build(multipart_bytes=5 * MIB)
    world.store.has_multipart = False
    content = os.urandom(6 * MIB)
    for number in range(3):
        world.write(f"{number}", content)
        world.run()
        if number == 1:
            world.restart()
    assert world.states() == [State.CONFIRMED] * 3
    assert world.store.bytes_of("camera/a/2") == content
    assert len(world.store.calls("create_multipart")) == 1
    assert world.store.probes.count("multipart") == 1


def test_a_large_file_that_alone_is_refused_an_upload_in_parts_is_parked_with_its_reason(
    build: Callable[..., World],
) -> None:
    world = build(multipart_bytes=5 * MIB)
    for number in range(3):
        world.write(f"{number}", os.urandom(6 * MIB))
    world.fails(lambda: Refused("the store answered 400 InvalidStorageClass"), name="create_multipart", times=1)
    world.run()
    assert world.states() == [State.PARKED, State.CONFIRMED, State.CONFIRMED]
    assert "InvalidStorageClass" in world.journal.listing()[0].reason
    assert world.store.calls("put") == []


def test_where_the_owner_says_that_there_are_uploads_in_parts_a_large_file_waits_for_them(
    build: Callable[..., World],
) -> None:
    world = build(multipart_bytes=5 * MIB)
    world.carrier = attrs.evolve(world.carrier, store=StoreKeys(multipart=True))
    world.restart()
    world.store.has_multipart = False
    world.write("film.mp4", os.urandom(6 * MIB))
    world.run()
    assert world.states() == [State.WAITING]
    assert "multipart" not in world.store.probes
    world.store.has_multipart = True
    world.run(31)
    assert world.states() == [State.CONFIRMED]


def test_a_file_too_large_for_one_request_is_tried_in_parts_again_and_parked_where_there_are_none(
    build: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(survey, "MAX_PUT_BYTES", 7 * MIB)
    world = build(multipart_bytes=5 * MIB)
    world.store.has_multipart = False
    for size in (6, 8):
        world.write(f"{size}", os.urandom(size * MIB))
    world.run()
    assert world.states() == [State.CONFIRMED, State.PARKED]
    assert "in parts" in world.journal.listing()[1].reason
    world.store.has_multipart = True
    world.journal.retry()
    world.run()
    assert world.states() == [State.CONFIRMED] * 2


def test_a_large_file_gives_way_to_a_small_one_between_two_parts(build: Callable[..., World]) -> None:
    world = build(multipart_bytes=5 * MIB)
    world.write("film.mp4", os.urandom(11 * MIB))
    put_part, arrived = world.store.put_part, False

    def put_and_arrive(*how: Any, **more: Any) -> Any:
        nonlocal arrived
        part = put_part(*how, **more)
        if not arrived:
            arrived = True
            world.write("small")
        return part

    world.store.put_part = put_and_arrive  # type: ignore[method-assign]
    world.run()
    names = [call.name for call in world.store.sent]
    assert names.index("put") < names.index("complete")
    assert len(world.store.calls("put_part")) == 3
    assert world.states() == [State.CONFIRMED] * 2


def test_a_refused_address_holds_up_no_large_file_of_another(build: Callable[..., World]) -> None:
    world = build(multipart_bytes=5 * MIB)
    for number in range(6):
        world.write(f"a{number}", address="a")
    world.fails(lambda: Blocked("403", trouble=Trouble.FORBIDDEN), prefix="camera/a/")
    world.run(1)
    world.write("film.mp4", os.urandom(11 * MIB), address="b")
    world.run()
    assert "camera/b/film.mp4" in world.store.objects


def test_a_large_file_does_not_give_way_to_a_file_that_another_worker_sends(build: Callable[..., World]) -> None:
    world = build(multipart_bytes=5 * MIB)
    world.write("small")
    ask(world, "small", "under/another/key")
    sent_elsewhere = world.journal.claim(["a"])
    assert sent_elsewhere is not None
    world.write("film.mp4", os.urandom(11 * MIB))
    world.run()
    assert set(world.store.objects) == {"camera/a/film.mp4"}


def test_a_file_that_is_on_its_way_to_one_address_goes_to_another_meanwhile(world: World) -> None:
    for address in ("a", "b"):
        world.write("small", address=address)
    sent_elsewhere = world.journal.claim(["a"])
    assert sent_elsewhere is not None
    world.run()
    assert set(world.store.objects) == {"camera/b/small"}


@pytest.mark.parametrize("others", [0, 3])
def test_a_large_file_that_may_go_although_the_budget_is_spent_goes(build: Callable[..., World], others: int) -> None:
    world = build(multipart_bytes=5 * MIB)
    world.write("film.mp4", os.urandom(11 * MIB))
    for number in range(others):
        world.write(f"{number}.jpg")
    world.dock.is_paused = lambda: True  # type: ignore[method-assign]
    world.dock.accepts = lambda: lambda path: path.endswith(".mp4")  # type: ignore[method-assign]
    world.run()
    assert set(world.store.objects) == {"camera/a/film.mp4"}


def test_what_may_go_although_the_budget_is_spent_is_tried_again_when_it_is_due(world: World) -> None:
    world.write("note.txt")
    world.dock.is_paused = lambda: True  # type: ignore[method-assign]
    world.dock.accepts = lambda: lambda path: path.endswith(".txt")  # type: ignore[method-assign]
    world.fails(lambda: Transient("500", trouble=Trouble.STORE), name="put", times=1)
    world.run(3)
    assert world.states() == [State.CONFIRMED]


def test_a_large_file_stops_between_two_parts_when_the_budget_is_spent(build: Callable[..., World]) -> None:
    world = build(multipart_bytes=5 * MIB)
    world.write("film.mp4", os.urandom(11 * MIB))
    world.dock.is_paused = lambda: bool(world.store.calls("put_part"))  # type: ignore[method-assign]
    world.dock.accepts = lambda: lambda path: False  # type: ignore[method-assign]
    world.run()
    assert (len(world.store.calls("put_part")), world.states()) == (1, [State.READY])


def orphan(world: World, name: str) -> None:
    """An upload of ours whose file is gone."""
    row = world.write(name, os.urandom(6 * MIB))
    world.fails(Stopping, name="put_part", times=1)
    with pytest.raises(Stopping):
        world.run()
    world.store.scripts.clear()
    world.journal.vanished([row.id])
    assert len(world.store.uploads) == 1


def test_own_orphans_are_aborted_at_the_start_and_now_and_then_although_files_are_waiting(
    build: Callable[..., World],
) -> None:
    world = build(multipart_bytes=5 * MIB)
    orphan(world, "film.mp4")
    world.restart()
    for _ in range(2):
        world.write("waiting")
        world.write("waiting too")
        world.workers[0].pass_once(world.stop)
        assert world.store.uploads == {}
        assert State.READY in world.states()
        orphan(world, "another.mp4")
        world.clock.advance(TIDY_S)


def test_an_orphan_that_cannot_be_aborted_holds_up_no_file(build: Callable[..., World]) -> None:
    world = build(multipart_bytes=5 * MIB)
    orphan(world, "film.mp4")
    world.restart()
    world.fails(link, name="abort")
    world.write("x")
    world.run(5)
    assert world.states() == [State.GONE, State.CONFIRMED]


def test_without_the_right_to_abort_a_file_that_changed_in_the_middle_goes_with_its_new_bytes(
    build: Callable[..., World],
) -> None:
    world = build(multipart_bytes=5 * MIB)
    world.write("x", b"o" * (6 * MIB))
    world.fails(link, name="put_part", skip=1, times=1)
    world.run()
    world.fails(forbidden, name="abort")
    content = b"n" * (6 * MIB + 1)
    (world.root / "camera" / "x").write_bytes(content)
    world.run(40)
    world.record("x")
    world.run(40)
    assert world.states() == [State.CONFIRMED]
    assert world.store.bytes_of("camera/a/x") == content


def test_without_the_right_to_abort_the_store_is_no_less_there_and_is_asked_now_and_then(
    build: Callable[..., World],
) -> None:
    world = build(multipart_bytes=5 * MIB)
    orphan(world, "film.mp4")
    world.restart()
    world.fails(forbidden, name="abort")
    world.run(3 * TIDY_S)
    fact = world.board.fact("store/c")
    assert fact is not None and fact.state == "ok"
    assert 3 <= len(world.store.calls("abort")) <= 4


# -- permission and rows are always given back ------------------------------------------------------------------------


def test_stopping_leaves_the_file_ready_and_charges_no_attempt(world: World) -> None:
    world.write("x")
    world.fails(Stopping, name="put", times=1)
    with pytest.raises(Stopping):
        world.run()
    (row,) = world.journal.listing()
    assert (row.state, row.attempts) == (State.READY, 0)
    world.run()
    assert world.states() == [State.CONFIRMED]


@pytest.mark.parametrize("method", ["claim", "wake", "wake_due", "sending", "confirm", "defer", "occupant"])
def test_a_disk_that_is_full_for_a_moment_strands_neither_a_file_nor_the_store(
    world: World, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    for number in range(4):
        world.write(f"{number}")
    world.fails(link)
    world.run(5)

    def full(*_: Any, **__: Any) -> Any:
        raise JournalBroken("disk full")

    with monkeypatch.context() as broken:
        broken.setattr(world.journal, method, full)
        for _ in range(3):
            for worker in world.workers:
                world.clock.advance(20)
                try:
                    worker.pass_once(world.stop)
                except JournalBroken:
                    continue
    world.store.scripts.clear()
    world.run(400)
    assert world.states() == [State.CONFIRMED] * 4


def test_a_full_disk_at_the_moment_of_confirmation_does_not_leave_the_file_sending_for_ever(
    build: Callable[..., World],
) -> None:
    world = build(multipart_bytes=5 * MIB)
    world.write("x", os.urandom(6 * MIB))
    write, complete = world.journal._write, world.store.complete

    def full(*_: Any, **__: Any) -> Any:
        raise JournalBroken("disk full")

    def complete_on_a_full_disk(*how: Any, **more: Any) -> str:
        etag = complete(*how, **more)
        world.journal._write = full  # type: ignore[method-assign]
        return etag

    world.store.complete = complete_on_a_full_disk  # type: ignore[method-assign]
    world.run()
    assert world.states() == [State.SENDING]
    world.journal._write = write  # type: ignore[method-assign]
    world.store.complete = complete  # type: ignore[method-assign]
    world.run(60)
    assert world.states() == [State.CONFIRMED]
    assert len(world.store.calls("put_part")) == 2


@pytest.mark.parametrize("multipart", [False, True])
def test_fields_that_are_too_long_for_the_headers_of_a_store_go_beside_the_object(
    build: Callable[..., World], *, multipart: bool
) -> None:
    world = build(multipart_bytes=5 * MIB)
    said = json.dumps({"msg_content": {"file_name": "a.jpg", "lens": "wide"}})
    ask = Ask("a", "generated_data/camera/a.jpg", None, said)
    world.journal.take([(b"1", "image_info", [ask])])
    world.fails(too_long, name="create_multipart" if multipart else "put", prefix="camera/a/a.jpg", times=1)
    world.write("a.jpg", b"x" * (6 * MIB if multipart else 1))
    world.run()
    assert State.CONFIRMED in world.states()
    found = world.store.objects["camera/a/a.jpg"]
    assert "lens" not in found.metadata
    beside = json.loads(world.store.objects[found.metadata["syncagent-sidecar"]].body)
    assert beside == {"key": "camera/a/a.jpg", "content": {"file_name": "a.jpg", "lens": "wide"}}
    assert world.dock.permission()[0] == 0, "the store is not to blame"


def too_long() -> Transient:
    return HeadersTooLarge("the store answered 431", trouble=Trouble.STORE)


def test_a_store_that_takes_no_headers_of_ours_at_all_is_the_stores_trouble(world: World) -> None:
    world.fails(too_long)
    world.write("a.jpg")
    world.run()
    assert world.states() == [State.WAITING]
