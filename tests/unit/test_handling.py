"""Versions on their way through a handler: whatever becomes of one, those behind it go on."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
import pytest

from syncagent.core.board import Board
from syncagent.core.errors import HandlerFailed
from syncagent.core.model import State
from syncagent.core.places import Places
from syncagent.core.settings import Carrier, HandlerSettings, SendAddress
from syncagent.edges import files
from syncagent.edges.files import facts_of
from syncagent.edges.handling import HandlerHost, Product
from syncagent.edges.journal import Arrival, Ask, Journal, Row
from syncagent.workers.handling import AHEAD, SOON_S, TIDY_S, Handling
from tests.fakes import FakeClock, FakeStop

Act = Callable[[dict[str, Any], str, str], list[Product]]


def same(content: dict[str, Any], _path: str, _scratch: str) -> list[Product]:
    return [Product(content, None)]


class Host(HandlerHost):
    """Calls what the test says, in this process."""

    def __init__(self) -> None:
        super().__init__("nowhere")
        self.act: Act = same
        self.seen: list[str] = []

    def call(
        self, source: str, function: str, content: Mapping[str, object], path: str, *, scratch: str, **more: Any
    ) -> list[Product]:
        self.seen.append(os.path.basename(path))
        os.makedirs(scratch, exist_ok=True)
        return self.act(dict(content), path, scratch)


class World:
    """A watched directory, a journal, and the worker for its two addresses."""

    def __init__(self, base: Path, clock: FakeClock) -> None:
        self.clock, self.stop = clock, FakeStop(clock)
        self.root = base / "generated_data"
        self.handled_dir = base / "state" / "handled"
        (self.root / "camera").mkdir(parents=True)
        (base / "state").mkdir()
        self.journal = Journal(str(base / "state"), clock)
        self.journal.set_stores({"a": "s", "b": "s"})
        self.journal.set_ways(timed=[], handlers=["a", "b"])
        self.board = Board(clock.monotonic)
        self.host = Host()
        carrier = Carrier(name="c", bucket_name="b", path="camera", system_id="pi")
        address = SendAddress(
            name="a",
            configured_name="a",
            message_type="image_info",
            carrier=carrier,
            duration="on_change",
            handler=HandlerSettings(name="h", source="own"),
            handler_function="act",
        )
        self.worker = Handling(
            addresses=[address, attrs.evolve(address, name="b", configured_name="b")],
            fields={},
            host=self.host,
            handled_dir=str(self.handled_dir),
            journal=self.journal,
            places=Places(str(base), str(self.root), (str(self.handled_dir),)),
            clock=clock,
            board=self.board,
            on_ready=lambda: None,
            on_look_again=self.look_again,
        )

    def write(self, name: str, content: bytes = b"content", *, address: str = "a") -> Row:
        (self.root / "camera" / name).write_bytes(content)
        self.look_again(f"generated_data/camera/{name}", address)
        return self.journal.listing()[-1]

    def look_again(self, path: str, address: str = "a") -> None:
        """What the intake does once the file is finished."""
        absolute = self.root / path.removeprefix("generated_data/")
        if absolute.exists():
            self.journal.record([Arrival(address, path, facts_of(os.stat(absolute)))])

    def run(self) -> None:
        """Passes until there is nothing to show."""
        for _ in range(100):
            if self.worker.pass_once(self.stop) > 0:
                return
        raise AssertionError("the worker does not come to rest")

    def send(self, count: int) -> None:
        """What the uploader does with some versions that were handled."""
        for row in [row for row in self.journal.listing([State.READY]) if row.is_handled][:count]:
            self.journal.confirm(row, key=row.path, digest=files.digest_of(row.path.encode()), etag="e")

    def rows(self) -> dict[str, Row]:
        return {row.path.rpartition("/")[2]: row for row in self.journal.listing()}


@pytest.fixture
def world(tmp_path: Path, clock: FakeClock) -> Iterator[World]:
    world = World(tmp_path, clock)
    yield world
    world.journal.close()


def test_a_second_call_sees_what_was_asked_for_and_not_what_the_first_one_said(world: World) -> None:
    titles: list[object] = []

    def entitle(content: dict[str, Any], _path: str, _scratch: str) -> list[Product]:
        titles.append(content.get("title"))
        return [Product({**content, "title": "made", "cloud_path": "made/a"}, None)]

    world.host.act = entitle
    row = world.write("a.jpg", b"one")
    world.run()
    world.journal.unhandle(row)
    world.run()
    world.write("a.jpg", b"second")
    world.run()
    assert titles == [None, None, None]
    newest = world.rows()["a.jpg"]
    assert (newest.cloud_path, newest.wanted_key) == (None, "made/a")
    assert [row.state for row in world.journal.listing()] == [State.SUPERSEDED, State.READY]


def test_a_bug_that_one_version_meets_puts_it_off_and_those_behind_it_go_on(world: World) -> None:
    def act(content: dict[str, Any], path: str, scratch: str) -> list[Product]:
        if path.endswith("bad.jpg"):
            raise AttributeError("unforeseen")
        return same(content, path, scratch)

    world.host.act = act
    for name in ("bad.jpg", "a.jpg", "b.jpg"):
        world.write(name)
    world.run()
    rows = world.rows()
    assert rows["a.jpg"].is_handled and rows["b.jpg"].is_handled
    assert (rows["bad.jpg"].state, rows["bad.jpg"].reason) == (State.WAITING, "handler: AttributeError: unforeseen")
    assert [complaint.what for complaint in world.board.complaints()] == ["handler"]


def test_an_address_whose_handler_hangs_takes_no_more_of_the_time_than_the_others(world: World) -> None:
    def act(content: dict[str, Any], path: str, scratch: str) -> list[Product]:
        if "hang" in path:
            world.clock.advance(20)
            raise HandlerFailed("handler: still running after 20 s")
        world.clock.advance(5)
        return same(content, path, scratch)

    world.host.act = act
    for number in range(3):
        world.write(f"hang{number}.jpg")
    for number in range(10):
        world.write(f"b{number}.jpg", address="b")
    world.run()
    seen = "".join(name[0] for name in world.host.seen)
    assert seen == "hbbbbhbbbbhbb"
    assert {row.state for row in world.journal.listing() if row.address == "b"} == {State.READY}
    # Who comes while another hangs is next.
    world.host.seen.clear()
    world.write("hang5.jpg")
    world.write("hang6.jpg")
    world.worker.pass_once(world.stop)
    world.write("late.jpg", address="b")
    world.worker.pass_once(world.stop)
    assert world.host.seen == ["hang5.jpg", "late.jpg"]
    world.run()
    # What an address did not use while it had nothing is not saved up.
    world.write("hang4.jpg")
    world.host.seen.clear()
    world.clock.advance(3600)
    for number in range(100):
        world.write(f"c{number}.jpg", address="b")
    for _ in range(20):
        world.worker.pass_once(world.stop)
    assert "hang4.jpg" in world.host.seen


def test_an_address_whose_handler_hangs_now_and_then_owes_the_others_that_time_whenever_it_comes_back(
    world: World,
) -> None:
    def act(content: dict[str, Any], path: str, scratch: str) -> list[Product]:
        if "hang" in path:
            world.clock.advance(20)
            raise HandlerFailed("handler: still running after 20 s")
        world.clock.advance(1)
        return same(content, path, scratch)

    world.host.act = act
    for number in range(100):
        world.write(f"b{number}.jpg", address="b")
    for number in range(3):
        world.write(f"hang{number}.jpg")
        for _ in range(4):  # it has nothing in the last of them
            world.worker.pass_once(world.stop)
    world.run()
    seen = "".join(name[0] for name in world.host.seen)
    assert [len(turns) for turns in seen.split("h")] == [1, 19, 20, 60]


def copy(content: dict[str, Any], _path: str, scratch: str) -> list[Product]:
    Path(scratch, "x").write_bytes(b"made")
    return [Product(content, "x")]


def test_no_more_is_made_than_the_card_may_hold_however_fast_the_handler_and_however_often_a_file_comes(
    world: World,
) -> None:
    def act(content: dict[str, Any], path: str, scratch: str) -> list[Product]:
        world.clock.advance(0.01)
        return copy(content, path, scratch)

    world.host.act = act
    for number in range(2 * AHEAD):
        world.write(f"a{number}.jpg")
    for _ in range(60):
        world.clock.advance(1)
        world.write("again.jpg")  # and rings
        world.run()
    assert len(os.listdir(world.handled_dir)) == AHEAD
    world.clock.advance(TIDY_S)
    assert world.worker.pass_once(world.stop) == TIDY_S  # nobody is in a hurry while the store is away
    # What is sent makes room at once.
    world.send(8)
    world.clock.advance(TIDY_S)
    world.run()
    assert len(world.host.seen) == AHEAD + 8
    world.send(8)
    world.clock.advance(SOON_S)
    world.run()
    assert len(world.host.seen) == AHEAD + 16


def test_an_address_whose_store_refuses_what_its_handler_makes_holds_up_no_other(world: World) -> None:
    world.host.act = copy
    for number in range(2 * AHEAD):
        world.write(f"a{number}.jpg")
    world.run()
    world.clock.advance(TIDY_S)
    world.run()
    for number in range(3):
        world.write(f"b{number}.jpg", address="b")
    world.run()
    assert {row.is_handled for row in world.journal.listing() if row.address == "b"} == {True}
    assert len(os.listdir(world.handled_dir)) == AHEAD + 3


def test_what_is_made_may_have_a_name_that_is_not_utf8(world: World) -> None:
    def act(content: dict[str, Any], path: str, scratch: str) -> list[Product]:
        Path(scratch, os.path.basename(path)).write_bytes(b"made")
        return [Product(content, os.path.basename(path))]

    world.host.act = act
    row = world.write("caf\udce9.jpg")
    world.run()
    assert world.journal.row(row.id).body == f"{row.id}/caf\udce9.jpg"


def test_a_further_object_without_a_name_parks_the_version(world: World) -> None:
    def act(content: dict[str, Any], _path: str, scratch: str) -> list[Product]:
        Path(scratch, "small").write_bytes(b"small")
        return [Product(content, None), Product({}, "small")]

    world.host.act = act
    row = world.write("a.jpg")
    world.run()
    row = world.journal.row(row.id)
    assert (row.state, row.reason) == (State.PARKED, "handler: every further object needs a file_name")


@pytest.mark.parametrize("named", ["a.jpg", "day/a.jpg", "generated_data/camera/day/a.jpg", "{root}/camera/day/a.jpg"])
@pytest.mark.parametrize("key", [None, "asked/for/a.jpg"])
def test_a_further_object_lies_beside_the_first_whatever_the_message_calls_that(
    world: World, named: str, key: str | None
) -> None:
    def act(content: dict[str, Any], _path: str, scratch: str) -> list[Product]:
        Path(scratch, "small").write_bytes(b"small")
        stem = os.path.splitext(content["file_name"])[0]
        return [Product(content, None), Product({"file_name": f"{stem}.thumb%41.jpg"}, "small")]

    world.host.act = act
    (world.root / "camera" / "day").mkdir()
    asking = json.dumps({"msg_content": {"file_name": named.format(root=world.root)}})
    world.journal.take([(b"1", "image_info", [Ask("a", "generated_data/camera/day/a.jpg", key, asking)])])
    world.write("day/a.jpg")
    world.run()
    keys = {row.cloud_path for row in world.journal.listing() if row.path.endswith("/small")}
    assert ("asked/for" if key else "camera/day") + "/a.thumb%2541.jpg" in keys


def test_a_handler_that_changes_its_own_file_is_called_three_times_and_the_file_is_parked(world: World) -> None:
    def touch(content: dict[str, Any], path: str, scratch: str) -> list[Product]:
        if path.endswith("a.jpg"):
            with open(path, "ab") as file:
                file.write(b"!")
        return same(content, path, scratch)

    world.host.act = touch
    ask = Ask("a", "generated_data/camera/a.jpg", "asked/a.jpg", '{"msg_content":{}}')
    world.journal.take([(b"1", "image_info", [ask])])
    world.write("a.jpg")
    world.write("b.jpg")
    world.run()
    world.look_again("generated_data/camera/a.jpg")
    world.run()
    assert world.host.seen.count("a.jpg") == 3
    parked = [
        row for row in world.journal.listing() if row.path.endswith("a.jpg") and row.state is not State.SUPERSEDED
    ]
    assert {row.reason for row in parked} == {"handler: the file changes while the handler runs"}
    assert {row.cloud_path for row in parked} == {None, "asked/a.jpg"}
    assert world.rows()["b.jpg"].is_handled
    # A person has the last word.
    world.host.act = same
    assert world.journal.retry() == 2
    world.run()
    assert all(row.is_handled for row in world.journal.listing() if row.state is State.READY)


def test_a_file_that_is_written_before_its_handler_is_called_may_change_as_often_as_it_likes(world: World) -> None:
    for number in range(5):
        world.write("a.jpg")
        (world.root / "camera" / "a.jpg").write_bytes(b"%d" % number)
        world.worker.pass_once(world.stop)
    assert world.host.seen == []
    world.run()
    assert world.rows()["a.jpg"].is_handled


def test_a_handler_that_removes_its_own_file_is_complained_of(world: World) -> None:
    def delete(content: dict[str, Any], path: str, scratch: str) -> list[Product]:
        os.unlink(path)
        return same(content, path, scratch)

    world.host.act = delete
    row = world.write("a.jpg")
    world.run()
    row = world.journal.row(row.id)
    assert (row.state, row.reason) == (State.GONE, "handler: the file was removed while the handler ran")
    assert [complaint.reason for complaint in world.board.complaints()] == [row.reason]
