"""The inbox's worker: one message that cannot be dealt with never holds up another."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from syncagent.core.board import Board
from syncagent.core.errors import Transient, Trouble
from syncagent.core.model import Facts, State
from syncagent.core.places import Places
from syncagent.core.settings import Carrier, Messages, SendAddress, Settings, System, Task, Upload
from syncagent.docks.routing import Routing
from syncagent.edges import files
from syncagent.edges.inbox import Inbox, Letter, Outbox, drop
from syncagent.edges.journal import Arrival, Journal
from syncagent.workers.postman import TIDY_S, UNFINISHED_S, Postman
from tests.fakes import FakeClock, FakeStop

WAIT_S = 10.0


class World:
    """An inbox, a journal, and the worker between them. One address takes messages, one carrier takes receipts."""

    def __init__(self, base: Path, clock: FakeClock) -> None:
        self.clock, self.stop = clock, FakeStop(clock)
        self.root = base / "generated_data"
        (self.root / "camera").mkdir(parents=True)
        (base / "state").mkdir()
        self.journal = Journal(str(base / "state"), clock)
        self.board = Board(clock.monotonic)
        self.usb = base / "usb"
        self.usb.mkdir()
        carrier = Carrier(name="c", bucket_name="b", path="camera", system_id="pi")
        upload = Upload(allowed_roots=(str(self.usb),))
        ota = Carrier(name="ota", bucket_name="b", path="ota", system_id="pi", upload=upload)
        address = SendAddress(
            name="a", configured_name="a", message_type="image_info", carrier=carrier, duration="on_message"
        )
        other = SendAddress(name="o", configured_name="o", message_type="other", carrier=ota, duration="on_message")
        task = Task(name="t", configured_name="t", message_type="firmware_image", function="f", carrier=ota)
        system = System(id="pi", messages=Messages(wait_file_s=WAIT_S))
        self.settings = Settings(system=system, addresses=(address, other), tasks=(task,))
        self.journal.set_stores({"a": "s", "o": "s", "confirm_receipt@ota": "s"})
        self.outbox = Outbox(str(base / "state" / "outbox"))
        places = Places(str(base), str(self.root), (str(self.usb),), (self.outbox.directory,))
        self.routing = Routing(self.settings, places)
        self.inbox = Inbox(str(self.root))
        self.begin()

    def begin(self) -> None:
        """What a start of the agent does."""
        self.worker = Postman(
            settings=self.settings,
            routing=self.routing,
            inbox=self.inbox,
            journal=self.journal,
            outbox=self.outbox,
            clock=self.clock,
            board=self.board,
            on_taken=lambda: None,
            on_poll=lambda: None,
        )
        self.worker.open()

    def drop(self, name: str, document: object, *, message_type: str = "image_info") -> None:
        text = document if isinstance(document, str) else json.dumps(document)
        (self.root / "messages" / message_type).mkdir(exist_ok=True)
        (self.root / "messages" / message_type / name).write_text(text)

    def run(self) -> None:
        for _ in range(100):
            if self.worker.pass_once(self.stop) > 0:
                return
        raise AssertionError("the worker does not come to rest")

    def rejected(self) -> dict[str, str]:
        """Reasons, by the message's name."""
        top = self.root / "messages" / "rejected"
        return {
            path.name: path.with_name(path.name.removesuffix(".json") + ".reason.txt").read_text()
            for path in top.glob("*.json")
        }


@pytest.fixture
def world(tmp_path: Path, clock: FakeClock) -> Iterator[World]:
    world = World(tmp_path, clock)
    yield world
    world.journal.close()


def test_a_name_that_no_file_can_have_is_refused_and_one_that_just_can_is_waited_for(world: World) -> None:
    world.drop("long.json", {"file_name": "x" * 256})
    world.drop("deep.json", {"file_name": "x.jpg", "disk_path": f"generated_data/{'é' * 128}/x.jpg"})
    world.drop("fits.json", {"file_name": f"{'d' * 255}/{'x' * 255}"})
    world.run()
    assert sorted(world.rejected()) == ["deep.json", "long.json"]
    assert all("more than 255 bytes" in reason for reason in world.rejected().values())
    assert len(world.journal.expected(limit=9)) == 1


@pytest.mark.parametrize("character", ["x", "é", "\U0001f4f7", "\udce9"], ids=ascii)
def test_messages_with_the_longest_names_are_set_aside_with_their_reasons(world: World, character: str) -> None:
    name = character * (255 // len(os.fsencode(character)))
    letter = name[: (250 // len(os.fsencode(character)))] + ".json"
    for _ in range(2):
        world.drop(letter, "{")
        world.run()
        world.clock.advance(UNFINISHED_S)
        world.run()
    if character != "\udce9":
        world.drop("waits.json", {"file_name": name})
        world.run()
        world.clock.advance(WAIT_S + 1)
        world.run()
        assert world.journal.expected(limit=9) == []
    found = world.rejected()
    assert len(found) == (3 if character != "\udce9" else 2)
    assert all(len(os.fsencode(name)) <= 255 for name in found)


def test_a_message_that_cannot_be_set_aside_holds_up_no_other(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("full.jpg", "a.jpg", "b.jpg"):
        world.drop(f"{name}.json", {"file_name": name})
    world.run()
    world.clock.advance(WAIT_S + 1)
    reject = world.inbox.reject_text

    def reject_text(name: str, text: str, reason: str) -> str:
        if name == "full.jpg.json":
            raise Transient("cannot write: No space left on device", trouble=Trouble.DISK)
        return reject(name, text, reason)

    monkeypatch.setattr(world.inbox, "reject_text", reject_text)
    world.run()
    assert sorted(world.rejected()) == ["a.jpg.json", "b.jpg.json"]
    assert [row.path for row in world.journal.expected(limit=9)] == ["generated_data/camera/full.jpg"]
    monkeypatch.undo()
    world.run()
    assert world.journal.expected(limit=9) == []


def test_a_hundred_messages_for_a_file_that_does_not_come_are_all_set_aside(world: World) -> None:
    for number in range(100):
        world.drop(f"{number}.json", {"file_name": "late.jpg", "id": number})
    world.run()
    world.clock.advance(WAIT_S + 1)
    world.run()
    assert len(world.rejected()) == 100
    assert {row.state for row in world.journal.listing()} == {State.GONE}


def test_what_cannot_be_read_is_said_and_counts_and_holds_up_no_other(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.drop("x.json", {"file_name": "x.jpg"}, message_type="aaa")
    world.drop("m.json", {"file_name": "m.jpg"})
    world.drop("n.json", {"file_name": "n.jpg"})
    scan, read = files.scan_directory, Inbox.read

    def scan_directory(root: str, path: str, **more: int) -> Iterator[files.Listing]:
        if path == "messages/aaa":
            return iter([files.Listing(path, error="Permission denied")])
        return scan(root, path, **more)

    def read_letter(inbox: Inbox, letter: Letter) -> bytes:
        if letter.name == "m.json":
            raise Transient("cannot open: Permission denied", trouble=Trouble.FILE)
        return read(inbox, letter)

    monkeypatch.setattr(files, "scan_directory", scan_directory)
    monkeypatch.setattr(Inbox, "read", read_letter)
    world.run()
    assert [row.path for row in world.journal.expected(limit=9)] == ["generated_data/camera/n.jpg"]
    assert world.worker.is_idle() and not world.worker.is_whole()
    said = {complaint.path: complaint.reason for complaint in world.board.complaints()}
    assert said == {
        "generated_data/messages/aaa": "cannot be read: Permission denied",
        "generated_data/messages/image_info/m.json": "cannot open: Permission denied",
    }
    fact = world.board.fact("inbox")
    assert fact is not None and not fact.ok and "2 cannot be read" in fact.reason
    monkeypatch.undo()
    world.run()
    assert world.worker.is_whole()
    assert len(world.journal.expected(limit=9)) == 2
    assert "no active" in world.rejected()["x.json"]
    assert not [complaint for complaint in world.board.complaints() if "cannot" in complaint.reason]


@pytest.mark.parametrize("place", ["messages", "messages/image_info"])
def test_an_inbox_behind_a_link_is_said_and_nobody_posts_into_it(world: World, tmp_path: Path, place: str) -> None:
    path = world.root / place
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    world.worker.open()
    world.run()
    assert not world.worker.is_whole()
    assert [(c.path, "is a link" in c.reason) for c in world.board.complaints() if c.path.endswith(place)] == [
        (f"generated_data/{place}", True)
    ]
    with pytest.raises(Transient, match="is a link"):
        drop(str(tmp_path), "image_info", "m.json", b"{}")


def test_what_one_carrier_may_send_from_elsewhere_another_may_not(world: World) -> None:
    for message_type in ("image_info", "other"):
        world.drop("m.json", {"file_name": "x", "disk_path": f"{world.usb}/x"}, message_type=message_type)
    world.run()
    assert [row.address for row in world.journal.expected(limit=9)] == ["o"]
    assert "lies neither" in world.rejected()["m.json"]


def test_what_the_agent_keeps_for_itself_is_not_sent_by_a_message(world: World) -> None:
    kept = world.outbox.keep("x.json", b"{}")
    world.drop("m.json", {"file_name": "x", "disk_path": kept}, message_type="other")
    world.run()
    assert "lies neither" in world.rejected()["m.json"]


def receipt(**more: object) -> dict[str, object]:
    return {"id": "r1", "file_name": "boot", "confirm_receipt": True, "time": "2026-01-01T00:00:00Z", **more}


def test_a_receipt_that_comes_again_after_it_was_sent_leaves_nothing_behind(world: World) -> None:
    for name in ("first.json", "again.json"):
        world.drop(name, receipt(), message_type="confirm_receipt")
        world.run()
        for row in world.journal.listing([State.WAITING]):
            facts = files.facts_of(os.stat(row.path))
            world.journal.record([Arrival(row.address, row.path, facts, is_wanted=False)])
            world.journal.confirm(row, key="k", digest=files.digest_of(b"x"), etag="e")
        assert len(list(world.outbox.kept())) == 1
        world.clock.advance(TIDY_S)
        world.run()
        assert list(world.outbox.kept()) == []
    assert [row.state for row in world.journal.listing()] == [State.REMOVED]


def test_a_receipt_that_is_not_sent_yet_is_kept_whatever_comes_again(world: World) -> None:
    world.drop("first.json", receipt(), message_type="confirm_receipt")
    world.run()
    (row,) = world.journal.listing()
    world.journal.record([Arrival(row.address, row.path, files.facts_of(os.stat(row.path)), is_wanted=False)])
    world.drop("again.json", receipt(), message_type="confirm_receipt")
    world.clock.advance(TIDY_S)
    world.run()
    assert len(list(world.outbox.kept())) == 1


def test_the_key_of_a_receipt_that_is_too_long_is_left_to_the_queue(world: World) -> None:
    world.drop("m.json", receipt(file_name="y" * 1100), message_type="confirm_receipt")
    world.run()
    (row,) = world.journal.expected(limit=9)
    assert row.cloud_path is not None and len(row.cloud_path) > 1100
    assert world.rejected() == {}


def test_a_message_whose_file_came_while_others_were_set_aside_is_not_rejected(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.jpg", "b.jpg"):
        world.drop(f"{name}.json", {"file_name": name})
    world.run()
    world.clock.advance(WAIT_S + 1)
    reject = world.inbox.reject_text

    def reject_text(name: str, text: str, reason: str) -> str:
        other = "b.jpg" if name.startswith("a") else "a.jpg"
        world.journal.record([Arrival("a", f"generated_data/camera/{other}", Facts(1, 1, 1, 1), is_wanted=False)])
        return reject(name, text, reason)

    monkeypatch.setattr(world.inbox, "reject_text", reject_text)
    world.run()
    assert len(world.rejected()) == 1
    assert {row.state for row in world.journal.listing()} == {State.GONE, State.READY}


def test_a_message_whose_file_came_while_the_agent_was_down_for_long_is_not_rejected(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    look = files.look

    def cannot(root: str, path: str) -> os.stat_result | None:
        if path.endswith("dark.jpg"):
            raise Transient("cannot look: Permission denied", trouble=Trouble.DISK)
        return look(root, path)

    for name in ("came.jpg", "dark.jpg", "growing.jpg", "never.jpg"):
        world.drop(f"{name}.json", {"file_name": name})
    world.run()
    for name in ("came.jpg", "growing.jpg"):
        (world.root / "camera" / name).write_bytes(b"x")
    world.clock.advance(2 * WAIT_S)
    monkeypatch.setattr(files, "look", cannot)
    world.begin()
    world.run()
    assert list(world.rejected()) == ["never.jpg.json"]
    # It was finished when the intake had looked; the other one is never.
    world.journal.record([Arrival("a", "generated_data/camera/came.jpg", Facts(1, 1, 1, 1), is_wanted=False)])
    world.clock.advance(WAIT_S + 1)
    world.run()
    assert sorted(world.rejected()) == ["dark.jpg.json", "growing.jpg.json", "never.jpg.json"]
    assert world.journal.expected(limit=9) == []
