"""The repository: what becomes visible when, to whom, and what a device makes of it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from tuf.api.exceptions import ExpiredMetadataError, RepositoryError
from tuf.api.metadata import Key, Metadata

from syncagent.core.errors import KeyTaken, Refused, Transient, Trouble
from syncagent.publish.changes import add_channel, remove_channel, renew, rotate, withdraw
from syncagent.publish.publisher import Publisher
from syncagent.publish.repository import file_name, left_fraction, parse_file_name
from syncagent.publish.shelf import Overtaken
from tests.fakes import Script
from tests.publishing import COMPONENT, PATH, ROLES, Device, MemoryBucket, Office

OLD, NEW = b"old image" * 1000, b"new image" * 1000


class Killed(BaseException):
    """The publisher is gone."""


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Keys are slow to make and to open, so they are made once."""
    directory = str(tmp_path_factory.mktemp("template"))
    Office(os.path.join(directory, "keys")).make_keys()
    return directory


@pytest.fixture
def office(template: str, tmp_path: os.PathLike[str]) -> Office:
    shutil.copytree(os.path.join(template, "keys"), os.path.join(tmp_path, "keys"))
    return Office(os.path.join(tmp_path, "keys"))


@pytest.fixture
def device(office: Office, tmp_path: os.PathLike[str]) -> Callable[[str], Device]:
    return lambda name: Device(os.path.join(tmp_path, name), office.root, office.objects)


def keys_of(publisher: Publisher, role: str, suffix: str) -> list[Key]:
    return [public.key for public in publisher.ring.public_keys(role) if public.name == f"{role}{suffix}"]


def test_names_of_metadata_are_read_as_they_are_written() -> None:
    assert file_name("stable", 12) == "12.stable.json" and file_name("timestamp", 3) == "timestamp.json"
    assert parse_file_name("12.stable.json") == ("stable", 12)
    assert [parse_file_name(name) for name in ("timestamp.json", ".probe", "x.root.json", "1.json", "²1.a.json")] == [
        None
    ] * 5


def test_the_layout_and_the_expiries_are_those_of_the_design(office: Office) -> None:
    office.now = datetime(2026, 3, 1, 12, 0, 0, 500, tzinfo=UTC)
    office.begin()
    office.release("1", OLD)
    names = set(office.store.objects)
    assert {f"{PATH}/metadata/{name}" for name in ("1.root.json", "1.targets.json", "timestamp.json")} <= names
    assert {f"{PATH}/metadata/2.stable.json", f"{PATH}/metadata/2.snapshot.json"} <= names
    assert len([name for name in names if name.startswith(f"{PATH}/targets/stable/{COMPONENT}/")]) == 1
    signed = {}
    for name in ("1.root", "1.targets", "2.stable", "2.snapshot", "timestamp"):
        signed[name] = json.loads(office.store.bytes_of(f"{PATH}/metadata/{name}.json"))["signed"]
    days = {name: datetime.fromisoformat(each["expires"]) - office.now for name, each in signed.items()}
    assert [round(days[name] / timedelta(days=1)) for name in signed] == [730, 365, 365, 30, 30]
    assert signed["timestamp"]["x-issued"] == "2026-03-01T12:00:00Z"
    assert signed["1.targets"]["delegations"]["roles"][0]["paths"] == ["stable/*/*"]
    assert signed["timestamp"]["meta"]["snapshot.json"].keys() == {"version", "length", "hashes"}


def test_a_device_gets_what_was_published_and_then_the_next(office: Office, device: Callable[[str], Device]) -> None:
    office.begin()
    seen = device("one")
    assert seen.look() is None
    for version, image in (("1", OLD), ("2", NEW)):
        office.release(version, image)
        assert seen.look() == (version, image)
    publisher = office.publisher()
    publisher.commit(withdraw(publisher.load(), "stable", f"stable/{COMPONENT}/image", now=office.now))
    assert seen.look() is None


@pytest.mark.parametrize("has_conditions", [True, False])
def test_of_two_publishers_one_wins_and_nothing_of_the_other_is_visible(
    office: Office, device: Callable[[str], Device], tmp_path: os.PathLike[str], has_conditions: bool
) -> None:
    office.store.has_conditions = has_conditions
    office.begin()
    office.release("1", OLD)
    elsewhere = os.path.join(tmp_path, "elsewhere")
    shutil.copytree(office.keys_dir, elsewhere)
    first, second = office.publisher(), office.publisher(keys_dir=elsewhere)
    drafts = [office.draft("2", NEW, publisher=first), office.draft("3", b"third", publisher=second)]
    for draft, upload, publisher in drafts[:1]:
        publisher.commit(draft, [upload])
    before = office.objects()
    with pytest.raises(Overtaken, match="somebody published meanwhile"):
        drafts[1][2].commit(drafts[1][0], [drafts[1][1]])
    changed = {key for key, data in office.objects().items() if before.get(key) != data}
    assert not {key for key in changed if "/metadata/" in key}
    assert device("one").look() == ("2", NEW)
    office.release("3", b"third", publisher=office.publisher(keys_dir=elsewhere))
    assert device("one").look() == ("3", b"third")


@pytest.mark.parametrize("has_conditions", [True, False])
def test_of_two_that_only_renew_the_timestamp_one_wins(office: Office, has_conditions: bool) -> None:
    """Here nothing but the timestamp itself can tell."""
    office.store.has_conditions = has_conditions
    office.begin()
    first, second = office.publisher(), office.publisher()
    drafts = [renew(publisher.load(), ["timestamp"], now=office.now) for publisher in (first, second)]
    first.commit(drafts[0])
    won = office.objects()
    second.now = second.now + timedelta(days=1)
    drafts[1].now = second.now
    with pytest.raises(Overtaken):
        second.commit(drafts[1])
    assert office.objects() == won


def test_two_publishers_whose_writes_alternate_never_mix(
    office: Office, device: Callable[[str], Device], tmp_path: os.PathLike[str]
) -> None:
    office.begin()
    office.release("1", OLD)
    elsewhere = os.path.join(tmp_path, "elsewhere")
    shutil.copytree(office.keys_dir, elsewhere)
    plain_put, count = office.store.put, 0
    outcomes = []

    def put(request: object, body: object) -> str:
        nonlocal count
        count += 1
        if count == 2:  # between the image and the metadata of the first
            try:
                office.release("3", b"third", publisher=office.publisher(keys_dir=elsewhere))
                outcomes.append("other won")
            except Overtaken:
                outcomes.append("other lost")
        return plain_put(request, body)

    office.store.put = put  # type: ignore[method-assign]
    with pytest.raises(Overtaken):
        office.release("2", NEW)
    assert outcomes == ["other won"]
    assert device("one").look() == ("3", b"third")


def test_a_publisher_killed_between_any_two_writes_leaves_the_old_release_whole_and_the_next_publish_succeeds(
    office: Office, device: Callable[[str], Device], tmp_path: os.PathLike[str]
) -> None:
    office.begin()
    office.release("1", OLD)
    start, keys = dict(office.store.objects), os.path.join(tmp_path, "start")
    shutil.copytree(office.keys_dir, keys)
    survived = 0
    for writes in range(20):
        office.store = MemoryBucket()
        office.store.objects.update(start)
        shutil.rmtree(office.keys_dir)
        shutil.copytree(keys, office.keys_dir)
        seen = device(f"seen-{writes}")
        assert seen.look() == ("1", OLD)
        office.store.scripts.append(Script(Killed, name="put", skip=writes))
        try:
            office.release("2", NEW)
            survived = writes
        except Killed:
            for each in (seen, device(f"fresh-{writes}")):
                assert each.look() == ("1", OLD), writes
        office.store.scripts.clear()
        if survived:
            assert seen.look() == ("2", NEW)
            break
        office.release("3", b"third")
        for each in (seen, device(f"later-{writes}")):
            assert each.look() == ("3", b"third"), writes
    assert survived == 4  # image, channel, snapshot, timestamp


def test_a_beginning_that_is_killed_between_any_two_writes_is_finished_by_the_next_one(
    office: Office, template: str, device: Callable[[str], Device]
) -> None:
    for writes in range(20):
        office.store = MemoryBucket()
        shutil.rmtree(office.keys_dir)
        shutil.copytree(os.path.join(template, "keys"), office.keys_dir)
        office.store.scripts.append(Script(Killed, name="put", skip=writes))
        try:
            office.begin()
            break
        except Killed:
            trusted = office.root
        office.store.scripts.clear()
        with pytest.raises(Refused, match="there is no repository"):
            office.publisher().load()
        office.begin()
        assert office.root == trusted, "devices may have it already"
        office.release("1", OLD)
        assert device(f"one-{writes}").look() == ("1", OLD)
    assert writes == 5  # channel, targets, snapshot, root, timestamp


@pytest.mark.parametrize("role", [*ROLES])
def test_a_rotation_killed_between_any_two_writes_is_believed_throughout_and_then_done(
    office: Office, device: Callable[[str], Device], tmp_path: os.PathLike[str], role: str
) -> None:
    office.begin()
    office.make_keys(role, suffix="-2")
    office.release("1", OLD)
    start, keys = dict(office.store.objects), os.path.join(tmp_path, "start")
    shutil.copytree(office.keys_dir, keys)
    for writes in range(20):
        office.store = MemoryBucket()
        office.store.objects.update(start)
        shutil.rmtree(office.keys_dir)
        shutil.copytree(keys, office.keys_dir)
        seen = device("seen")
        assert seen.look() == ("1", OLD)
        office.store.scripts.append(Script(Killed, name="put", skip=writes))
        is_done = False
        try:
            _rotate(office, role)
            is_done = True
        except Killed:
            pass
        office.store.scripts.clear()
        for each in (seen, device(f"fresh-{writes}")):
            assert each.look() == ("1", OLD), writes
        if is_done:
            break
        _rotate(office, role)
        assert seen.look() == ("1", OLD)
        shutil.rmtree(seen.directory)
    assert is_done and writes >= 1
    # The old key is worth nothing any more, and the new one is.
    os.remove(os.path.join(office.keys_dir, f"{role}.key"))
    office.now += timedelta(seconds=1)
    publisher = office.publisher()
    publisher.commit(renew(publisher.load(), [role], now=office.now))
    office.release("2", NEW)
    for each in (seen, device("last")):
        assert each.look() == ("2", NEW)


def _rotate(office: Office, role: str, **how: bool) -> None:
    publisher = office.publisher()
    publisher.commit(rotate(publisher.load(), role, keys_of(publisher, role, "-2"), now=office.now, **how))


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets"])
def test_a_role_whose_key_is_lost_gets_another_and_an_interruption_is_healed_by_the_next_verb(
    office: Office, device: Callable[[str], Device], role: str
) -> None:
    office.begin()
    office.make_keys(role, suffix="-2")
    office.release("1", OLD)
    seen = device("seen")
    assert seen.look() == ("1", OLD)
    os.remove(os.path.join(office.keys_dir, f"{role}.key"))
    with pytest.raises(Refused, match=f"{role} needs 1 signature and has 0"):
        _rotate(office, role)
    office.store.scripts.append(Script(Killed, name="put", skip=1))
    with pytest.raises(Killed):
        _rotate(office, role, is_lost=True)
    office.store.scripts.clear()
    with pytest.raises(RepositoryError):
        device("fresh").look()
    office.release("2", NEW)
    for each in (seen, device("later")):
        assert each.look() == ("2", NEW)


def test_an_orphan_is_believed_only_as_it_was_seen(office: Office) -> None:
    """Whoever stole the key that was called lost must not have us sign what he wrote with it."""
    office.begin()
    office.make_keys("timestamp", suffix="-2")
    office.release("1", OLD)
    publisher = office.publisher()
    repository = publisher.load()
    office.store.scripts.append(Script(Killed, name="put", skip=1))
    with pytest.raises(Killed):
        _rotate(office, "timestamp", is_lost=True)
    office.store.scripts.clear()
    forged = Metadata.from_bytes(repository.timestamp.to_bytes())
    forged.signed.version += 1
    signer = publisher.ring.signer(next(iter(repository.timestamp.signatures)))
    assert signer is not None
    forged.sign(signer)
    office.store.forge(f"{PATH}/metadata/timestamp.json", forged.to_bytes())
    with pytest.raises(Refused, match="timestamp"):
        office.publisher().load()


def test_a_lost_answer_to_a_write_is_no_reason_to_begin_anew(office: Office, device: Callable[[str], Device]) -> None:
    office.begin()
    office.store.scripts.append(
        Script(lambda: Transient("the link broke", trouble=Trouble.LINK), name="put", after=True, times=3)
    )
    office.release("1", OLD)
    office.store.scripts.clear()
    office.store.scripts.append(
        Script(lambda: Transient("the link broke", trouble=Trouble.LINK), name="put", after=True, skip=3, times=1)
    )
    office.release("2", NEW)
    assert device("one").look() == ("2", NEW)


def test_an_outage_is_an_error_that_leaves_the_old_release(office: Office, device: Callable[[str], Device]) -> None:
    office.begin()
    office.release("1", OLD)
    office.store.scripts.append(Script(lambda: Transient("the link is down", trouble=Trouble.LINK), name="put", skip=2))
    with pytest.raises(Transient):
        office.release("2", NEW)
    office.store.scripts.clear()
    assert device("one").look() == ("1", OLD)


def test_what_is_in_force_is_no_failure_when_it_cannot_be_read_back(
    office: Office, device: Callable[[str], Device]
) -> None:
    office.begin()
    draft, upload, publisher = office.draft("1", OLD)
    told: list[str] = []
    publisher.shelf.tell = told.append
    plain_put = office.store.put

    def put(request: object, body: object) -> str:
        etag = plain_put(request, body)
        if request.key.endswith("timestamp.json"):  # type: ignore[attr-defined]
            office.store.scripts.append(Script(lambda: Transient("the link is down", trouble=Trouble.LINK)))
        return etag

    office.store.put = put  # type: ignore[method-assign]
    publisher.commit(draft, [upload])
    office.store.scripts.clear()
    assert told[-1] == "it is written, and could not be read back: the link is down"
    assert device("one").look() == ("1", OLD)
    del office.store.put
    office.release("2", NEW)
    assert device("one").look() == ("2", NEW)


def test_an_image_that_somebody_removed_meanwhile_is_not_referred_to(office: Office) -> None:
    office.begin()
    draft, upload, publisher = office.draft("1", OLD)
    plain_put = office.store.put

    def put(request: object, body: object) -> str:
        etag = plain_put(request, body)
        if "snapshot" in request.key:  # type: ignore[attr-defined]
            office.store.delete(publisher.shelf.image_key(upload.name))
        return etag

    office.store.put = put  # type: ignore[method-assign]
    with pytest.raises(Overtaken):
        publisher.commit(draft, [upload])


@pytest.mark.parametrize("name", ["timestamp.json", "2.snapshot.json", "2.stable.json", "1.targets.json"])
def test_what_somebody_put_into_the_bucket_is_not_signed_by_us(office: Office, name: str) -> None:
    office.begin()
    office.release("1", OLD)
    good = office.store.bytes_of(f"{PATH}/metadata/{name}")
    document = json.loads(good)
    document["signed"]["expires"] = "2031-01-01T00:00:00Z"
    for data in (json.dumps(document).encode(), b"", b"<html>", b"[" * 100_000, good[:-10], b"\xff\xfe"):
        office.store.forge(f"{PATH}/metadata/{name}", data)
        with pytest.raises(Refused):
            office.publisher().load()


def test_older_metadata_that_is_put_back_is_noticed(office: Office) -> None:
    office.begin()
    office.release("1", OLD)
    before = office.store.bytes_of(f"{PATH}/metadata/timestamp.json")
    office.release("2", NEW)
    office.store.forge(f"{PATH}/metadata/timestamp.json", before)
    with pytest.raises(Refused, match="somebody put back older metadata"):
        office.publisher().load()


def test_a_channel_comes_and_goes_and_old_devices_go_on(office: Office, device: Callable[[str], Device]) -> None:
    office.begin()
    office.release("1", OLD)
    office.make_keys("canary")
    seen = device("one")
    for version in ("2", "3"):
        publisher = office.publisher()
        keys = [public.key for public in publisher.ring.public_keys("canary")]
        publisher.commit(add_channel(publisher.load(), "canary", keys, now=office.now))
        office.release(version, NEW, channel="canary")
        assert seen.look("canary") == (version, NEW) and seen.look() == ("1", OLD)
        publisher = office.publisher()
        publisher.commit(remove_channel(publisher.load(), "canary", now=office.now))
        assert seen.look("canary") is None and seen.look() == ("1", OLD)
    # A client refuses a snapshot that has lost a file, so what was removed stays listed for good.
    office.release("4", NEW)
    assert seen.look() == ("4", NEW) and seen.look("canary") is None


def test_a_channel_cannot_sign_for_another_one(office: Office, device: Callable[[str], Device]) -> None:
    office.make_keys("canary")
    office.begin("stable", "canary")
    office.release("1", OLD)
    office.release("9", NEW, channel="canary")
    publisher = office.publisher()
    repository = publisher.load()
    draft = withdraw(repository, "canary", f"canary/{COMPONENT}/image", now=office.now)
    stolen = repository.channels["canary"].signed.targets[f"canary/{COMPONENT}/image"]
    stolen.path = f"stable/{COMPONENT}/image"
    draft.edit("canary").targets[stolen.path] = stolen
    publisher.commit(draft)
    assert device("one").look() == ("1", OLD)


def test_what_expires_is_renewed_and_devices_go_on(office: Office, device: Callable[[str], Device]) -> None:
    now = office.now
    office.now = now - timedelta(days=40)
    office.begin()
    office.release("1", OLD)
    seen = device("one")
    with pytest.raises(ExpiredMetadataError):
        seen.look()
    office.now = now
    publisher = office.publisher()
    repository = publisher.load()
    due = [role for role, metadata in repository.metadata() if left_fraction(role, metadata, now) < 0.5]
    assert due == ["snapshot", "timestamp"]
    publisher.commit(renew(repository, due, now=now))
    assert seen.look() == ("1", OLD)


def test_a_threshold_that_is_not_reached_publishes_nothing(office: Office) -> None:
    office.make_keys("stable", suffix="-2")
    publisher = office.publisher()
    publisher.commit(publisher.begin(("stable",), {"stable": 2}))
    office.release("1", OLD)
    before = office.objects()
    os.remove(os.path.join(office.keys_dir, "stable-2.key"))
    with pytest.raises(Refused, match="stable needs 2 signatures and has 1"):
        office.release("2", NEW)
    assert office.objects() == before
    with pytest.raises(Refused, match="cannot be"):
        rotate(publisher.load(), "stable", keys_of(publisher, "stable", ""), threshold=2, now=office.now)


def test_there_is_one_beginning(office: Office, tmp_path: os.PathLike[str], template: str) -> None:
    office.begin()
    with pytest.raises(Refused, match="there is a repository"):
        office.begin()
    office.store.objects.pop(f"{PATH}/metadata/timestamp.json")
    elsewhere = os.path.join(tmp_path, "elsewhere")
    shutil.copytree(os.path.join(template, "keys"), elsewhere)
    with pytest.raises(Refused, match="another repository"):
        office.publisher(keys_dir=elsewhere).begin(("stable",), {})


def test_a_store_that_says_taken_to_our_own_bytes_is_believed(office: Office) -> None:
    """A write whose answer was lost is repeated, and finds itself."""
    office.begin()
    publisher = office.publisher()
    key = publisher.shelf.metadata_key("9.stable.json")
    publisher.shelf._put_new(key, b"{}")
    publisher.shelf._put_new(key, b"{}")
    with pytest.raises(Overtaken):
        publisher.shelf._put_new(key, b"[]")
    assert issubclass(KeyTaken, Refused)
