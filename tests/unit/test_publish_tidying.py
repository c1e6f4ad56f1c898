"""What gc may delete: nothing that is referred to, nothing that somebody is publishing."""

from __future__ import annotations

import os
import shutil

import pytest

from syncagent.publish.changes import withdraw
from syncagent.publish.tidying import superfluous
from tests.publishing import COMPONENT, PATH, Device, Office


@pytest.fixture
def office(tmp_path: os.PathLike[str]) -> Office:
    office = Office(os.path.join(tmp_path, "keys"))
    office.make_keys()
    office.begin()
    return office


def gone(office: Office, keep: int) -> list[str]:
    publisher = office.publisher()
    repository = publisher.load()
    return superfluous(
        publisher.shelf.names(),
        [name.removeprefix("targets/") for name in publisher.shelf.list("targets/")],
        current=repository.snapshot.signed.version,
        keep=keep,
        read=lambda name: publisher.shelf.read(publisher.shelf.metadata_key(name)),
    )


def test_of_a_new_repository_nothing_may_go(office: Office) -> None:
    assert gone(office, 1) == []
    office.release("1", b"one")
    assert gone(office, 2) == []


@pytest.mark.parametrize("keep", [1, 2, 3, 9])
def test_what_the_kept_snapshots_lead_to_stays(office: Office, keep: int, tmp_path: os.PathLike[str]) -> None:
    images = [b"one", b"two", b"three", b"one", b"five"]
    history = []
    for number, image in enumerate(images, 1):
        office.release(str(number), image)
        history.append(office.objects())
    names = gone(office, keep)
    for name in names:
        assert not name.endswith("root.json") and "timestamp" not in name
        office.store.delete(f"{PATH}/{name}")
    left = office.objects()
    # A device that got hold of a kept timestamp finds everything that it leads to.
    for number in range(max(0, len(images) - keep), len(images)):
        frozen = {**left, f"{PATH}/metadata/timestamp.json": history[number][f"{PATH}/metadata/timestamp.json"]}
        device = Device(os.path.join(tmp_path, f"device-{number}"), office.root, lambda frozen=frozen: frozen)  # type: ignore[misc]
        assert device.look() == (str(number + 1), images[number])
    assert bool(names) == (keep < 6)
    assert gone(office, keep) == []
    office.release("6", b"six")


def test_an_image_that_was_withdrawn_goes_and_one_that_another_channel_offers_stays(office: Office) -> None:
    office.release("1", b"one")
    publisher = office.publisher()
    publisher.commit(withdraw(publisher.load(), "stable", f"stable/{COMPONENT}/image", now=office.now))
    images = [name for name in gone(office, 1) if name.startswith("targets/")]
    assert len(images) == 1
    assert not [name for name in gone(office, 2) if name.startswith("targets/")]


def test_what_is_newer_than_the_snapshot_in_force_stays_with_its_images(office: Office) -> None:
    office.release("1", b"one")
    before = office.objects()[f"{PATH}/metadata/timestamp.json"]
    seen = os.path.join(office.keys_dir, "seen.json")
    shutil.copy(seen, seen + ".before")
    office.release("2", b"two")
    # As if the second publisher had not come to its last write yet.
    office.store.forge(f"{PATH}/metadata/timestamp.json", before)
    os.replace(seen + ".before", seen)
    assert not [name for name in gone(office, 1) if name.startswith("targets/") or "3." in name]


def test_other_objects_are_nobodys_business(office: Office) -> None:
    for name in ("metadata/.probe", "metadata/notes.txt", "other/file", "field-7/.syncagent/confirm_receipt/x.json"):
        office.store.forge(f"{PATH}/{name}", b"x")
    assert gone(office, 1) == []
    office.store.forge(f"{PATH}/targets/stable/other/{'0' * 64}.image", b"x")
    assert gone(office, 1) == [f"targets/stable/other/{'0' * 64}.image"]
