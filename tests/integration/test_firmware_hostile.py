"""What bad input gets: the installed image, config and receipts stay untouched, the agent goes on, `status` says why.

Every test begins with a device that has `OLD` installed and confirmed by a receipt; `Untouched` looks that this is so
afterwards, and that the device still takes the next good release.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from syncagent.core.errors import Blocked, Transient, Trouble
from syncagent.core.manifest import time_text
from syncagent.core.release import Phase
from syncagent.core.remote import NOT_MODIFIED, Got
from tests.fakes import FakeClock, MemoryStore, Script
from tests.firmware_device import Device
from tests.firmware_publisher import NOW, PATH, FirmwarePublisher, Pen, into_memory

OLD = b"old" * 100_000
NEW = b"new" * 100_000


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    made = Device(str(tmp_path), poll_s=900)
    made.publisher.publish(OLD, id="old", security_version=2)
    made.poll()
    assert made.files["firmware_images/boot.bin"] == OLD
    yield made
    made.close()


@contextmanager
def untouched(device: Device) -> Iterator[None]:
    """Image, config and receipts are afterwards what they were."""
    before = (device.files, device.letters)
    yield
    assert (device.files, device.letters) == before
    assert not [name for name in os.listdir(device.directories.data_dir) if name.startswith(".syncagent")]


def recovers(device: Device) -> None:
    """The next good release is taken."""
    device.publisher.publish(b"good" * 1000, id="good", security_version=2)
    fact = device.poll()
    assert (fact.ok, fact.state) == (True, "activated"), fact
    assert device.files["firmware_images/boot.bin"] == b"good" * 1000


def refused(device: Device, *words: str, state: str | None = None) -> None:
    """The next poll leaves all as it is, and says why."""
    with untouched(device):
        fact = device.poll()
    assert not fact.ok
    for word in words:
        assert word in fact.reason, fact
        assert word in device.face["reason"], device.face
    if state is not None:
        assert fact.state == state
        assert device.face["state"] == state and device.face["reason"] in fact.reason


def sizes_below(directory: str) -> list[int]:
    return [os.path.getsize(os.path.join(folder, name)) for folder, _, names in os.walk(directory) for name in names]


# -- the image --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda image: image[:-1] + b"!", "digest differs"),
        (lambda image: image + b"more", "not 300000"),
        (lambda image: image[:-1], "not 300000"),
        (lambda _: b"", "not 300000"),
    ],
    ids=["changed", "longer", "truncated", "empty"],
)
def test_a_changed_longer_or_truncated_image_is_not_installed(
    device: Device, change: Callable[[bytes], bytes], words: str
) -> None:
    device.publisher.publish(NEW, security_version=2)
    key = device.publisher.image_key(NEW)
    device.publisher.put(key, change(NEW))
    refused(device, words, state="failed")
    asked = len(device.gets())
    refused(device, words, state="failed")
    assert device.gets(asked) == ["metadata/timestamp.json"]  # final until the metadata changes
    assert all(size <= len(NEW) for size in sizes_below(device.staging_dir))
    device.publisher.put(key, NEW)
    device.publisher.renew()
    assert device.poll().state == "activated"
    recovers(device)


class Endless(MemoryStore):
    """Answers `suffix` objects with bytes that do not end; counts what was taken."""

    suffix = ".image"
    taken = 0
    says_length: int | None = None

    def get(self, key: str, *, headers: Any = None) -> Got:
        got = super().get(key, headers=headers)
        if not key.endswith(self.suffix) or got.status != 200:
            return got

        def endless() -> Iterator[bytes]:
            while True:
                self.taken += 65536
                yield b"x" * 65536

        kept = {name: value for name, value in got.headers.items() if name != "content-length"}
        return Got(200, kept, endless())


def test_an_endless_image_is_cut_at_its_signed_length(tmp_path: Path) -> None:
    store = Endless()
    device = Device(str(tmp_path), store=store)
    device.publisher.publish(NEW)
    fact = device.poll()
    assert fact.state == "failed" and "longer" in fact.reason
    assert store.taken <= len(NEW) + 2 * 65536 and device.files == {} and device.letters == []
    device.close()


def test_an_image_of_another_component_is_rejected(device: Device) -> None:
    device.publisher.publish(NEW, target="stable/cam/image", component="pump")
    refused(device, "for component pump", state="rejected")
    recovers(device)


def test_wrong_hardware_is_rejected(device: Device) -> None:
    device.publisher.publish(NEW, hardware="pi9")
    refused(device, "hardware pi9", state="rejected")
    recovers(device)


def test_a_lower_security_version_is_rejected(device: Device) -> None:
    device.publisher.publish(NEW, security_version=1)
    refused(device, "security_version 1 is below 2", state="rejected")
    recovers(device)


def test_an_image_above_the_size_cap_is_rejected(tmp_path: Path) -> None:
    device = Device(str(tmp_path), max_image_bytes=1000)
    device.publisher.publish(NEW)
    assert device.poll().state == "rejected" and device.files == {}
    device.close()


@pytest.mark.parametrize(
    "more",
    [
        {"schema": 2},
        {"schema": None},
        {"id": None},
        {"id": 5},
        {"file_name": "../x"},
        {"time": "soon"},
        {"version": None},
        {"security_version": "9"},
        {"disk_path": "/etc/passwd"},
        {"disk_path": "../../x"},
        {"disk_path": "a\nb"},
        {"config_path": "firmware_images/boot.bin"},
        {"config_path": "firmware_images/boot.bin/x"},
        {"rollout": {"waves": [{"percent": 500, "not_before": "2026-01-01T00:00:00Z"}]}},
    ],
    ids=str,
)
def test_a_manifest_with_missing_mistyped_or_bad_fields_is_rejected(device: Device, more: dict[str, Any]) -> None:
    device.publisher.publish(NEW, **more)
    refused(device, "the manifest", state="rejected")
    recovers(device)


# -- the metadata -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["timestamp.json", "{}.snapshot.json", "{}.stable.json"])
def test_edited_metadata_does_not_verify(device: Device, name: str) -> None:
    publisher = device.publisher
    publisher.publish(NEW)
    versions = {"{}.snapshot.json": publisher.snapshot.version, "{}.stable.json": publisher.channel_targets.version}
    path = f"metadata/{name.format(versions.get(name, ''))}"
    publisher.tamper(path, lambda data: data.replace(b'"version":', b'"version": 1', 1))
    refused(device, "verification failed", state="rejected")
    recovers(device)


def test_older_metadata_is_not_believed(device: Device) -> None:
    state = device.publisher.state()
    device.publisher.publish(NEW, id="new", security_version=2)
    device.poll()
    device.publisher.replay(state)
    refused(device, "verification failed", state="rejected")
    recovers(device)


def test_mixed_metadata_is_not_believed(device: Device) -> None:
    publisher = device.publisher
    first = publisher.state()
    publisher.publish(NEW)
    version = publisher.channel_targets.version
    publisher.put(
        publisher.key(f"metadata/{version}.stable.json"), first[publisher.key(f"metadata/{version - 1}.stable.json")]
    )
    refused(device, "verification failed", state="rejected")
    recovers(device)


@pytest.mark.parametrize("suffix", ["timestamp.json", "snapshot.json", "stable.json"])
def test_endless_metadata_is_cut(tmp_path: Path, suffix: str) -> None:
    store = Endless()
    device = Device(str(tmp_path), store=store)
    device.publisher.publish(OLD, id="old")
    device.poll()
    store.suffix = suffix
    device.publisher.publish(NEW, id="new")
    with untouched(device):
        fact = device.poll()
    assert fact.state == "rejected" and "longer" in fact.reason
    assert store.taken <= 2 * 1024 * 1024
    device.close()


JUNK = {
    "empty": b"",
    "portal": b"<!DOCTYPE html><html><body>Please accept our terms</body></html>",
    "deep": b"[" * 16_000,
    "deep objects": b'{"a":' * 3_000,
    "huge number": b'{"signatures": [], "signed": {"version": ' + b"9" * 10_000 + b"}}",
    "huge float": b'{"signatures": [], "signed": {"_type": "timestamp", "version": 1e999}}',
    "not UTF-8": b"\xff\xfe\x00{",
    "a list": b"[]",
    "a number": b"7",
    "null": b"null",
    "no signatures": b'{"signed": {"_type": "timestamp"}}',
    "another role": b'{"signatures": [], "signed": {"_type": "mirrors"}}',
    "signatures of another kind": b'{"signatures": {"a": 1}, "signed": {"_type": "timestamp"}}',
}


@pytest.mark.parametrize("data", JUNK.values(), ids=JUNK.keys())
def test_a_junk_timestamp_is_told_and_nothing_else_happens(device: Device, data: bytes) -> None:
    device.publisher.tamper("metadata/timestamp.json", lambda _: data)
    refused(device, "verification failed", state="rejected")
    device.worker.pass_once(device.stop)
    recovers(device)


def test_too_few_signatures_are_none(device: Device) -> None:
    publisher = device.publisher
    publisher.root.add_key(Pen().public_key, "timestamp")
    publisher.root.roles["timestamp"].threshold = 2
    publisher.root.version += 1
    publisher.write_root()
    publisher.publish(NEW)
    refused(device, "verification failed", "1/2", state="rejected")


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets", "stable"])
def test_a_signature_of_a_retired_key_is_none(device: Device, role: str) -> None:
    old = device.publisher.signers[role]
    device.publisher.rotate(role)
    assert device.poll().ok
    new, device.publisher.signers[role] = device.publisher.signers[role], old
    device.publisher.targets.version += role == "targets"
    device.publisher.publish(NEW)
    refused(device, "verification failed", state="rejected")
    device.publisher.signers[role] = new
    device.publisher.targets.version += role == "targets"
    recovers(device)


@pytest.mark.parametrize(
    "roles",
    [("root",), ("timestamp",), ("snapshot",), ("targets",), ("root", "timestamp", "snapshot", "targets", "stable")],
)
def test_rotated_keys_are_followed(device: Device, roles: tuple[str, ...]) -> None:
    device.publisher.rotate(*roles)
    recovers(device)


def test_a_root_that_only_its_own_key_signed_is_not_followed(device: Device) -> None:
    thief = FirmwarePublisher(into_memory(device.store))  # same names, other keys
    thief.root.version = 2
    thief.write_root()
    thief.publish(NEW)
    refused(device, "verification failed", state="rejected")


@pytest.mark.parametrize("damage", ["truncated", "deleted", "garbled"])
def test_a_replay_is_refused_when_local_metadata_is_damaged(device: Device, damage: str) -> None:
    state = device.publisher.state()
    device.publisher.publish(NEW, id="new", security_version=2)
    device.poll()
    assert device.files["firmware_images/boot.bin"] == NEW
    for folder, _, names in os.walk(device.metadata_dir):
        for name in names:
            path = os.path.join(folder, name)
            if damage == "deleted":
                os.unlink(path)
            elif not os.path.islink(path):
                Path(path).write_bytes(b"" if damage == "truncated" else b"{}")
    device.publisher.replay(state)
    refused(device, "a rollback", "older than", state="rejected")
    recovers(device)


def lose_journal(device: Device) -> None:
    """The agent starts with a journal that knows nothing; all else in its state directory stays."""
    device.close()
    for name in os.listdir(device.directories.state_dir):
        if name.startswith("journal"):
            os.unlink(os.path.join(device.directories.state_dir, name))
    device.start()


def replays(device: Device, *words: str) -> None:
    """The next poll, of a device that remembers nothing but marks, leaves image, config and receipts as they are."""
    with untouched(device):
        fact = device.poll()
    assert (fact.ok, fact.state) == (False, "rejected"), fact
    assert all(word in fact.reason for word in words), fact


def test_a_replay_is_refused_when_journal_and_local_metadata_are_lost(device: Device) -> None:
    state = device.publisher.state()
    device.publisher.publish(NEW, id="new", security_version=2)
    device.poll()
    lose_journal(device)
    shutil.rmtree(device.metadata_dir)
    device.publisher.replay(state)
    replays(device, "a rollback", "older than")
    recovers(device)


def test_a_replay_is_refused_when_the_journal_is_an_older_one(device: Device) -> None:
    state = device.publisher.state()
    journal = os.path.join(device.directories.state_dir, "journal.db")
    device.close()
    kept = Path(journal).read_bytes()
    device.start()
    device.publisher.publish(NEW, id="new", security_version=2)
    device.poll()
    device.close()
    for name in (journal + "-wal", journal + "-shm"):
        Path(name).unlink(missing_ok=True)
    Path(journal).write_bytes(kept)
    device.start()
    shutil.rmtree(device.metadata_dir)
    device.publisher.replay(state)  # its timestamp is the one whose ETag this journal knows
    replays(device, "a rollback", "older than")
    recovers(device)


def test_a_lower_security_version_is_refused_when_the_journal_is_lost(device: Device) -> None:
    lose_journal(device)
    device.publisher.publish(NEW, id="new", security_version=1)
    replays(device, "security_version 1 is below 2")
    recovers(device)


def test_a_clock_in_1970_does_not_help_a_replay_when_the_journal_is_lost(device: Device) -> None:
    device.publisher.issued = NOW + timedelta(days=20)
    device.publisher.renew(40)
    device.poll()
    lose_journal(device)
    device.clock.jump(-50 * 365 * 86_400.0)
    device.publisher.issued = None
    device.publisher.renew(10)
    with untouched(device):
        fact = device.poll()
    assert fact.state == "stale", fact


@pytest.mark.parametrize("damage", ["empty", "zeroed", "garbled", "raised", "deleted", "no file"])
def test_a_torn_copy_of_the_marks_is_told_and_the_journal_used(
    device: Device, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    state = device.publisher.state()
    device.publisher.publish(NEW, id="new", security_version=3)
    device.poll()
    copy = Path(device.work_dir, "high-water.json")
    before = copy.read_bytes()
    if damage in ("deleted", "no file"):
        copy.unlink()
    if damage == "no file":
        copy.mkdir()
    elif damage != "deleted":
        bad = {
            "empty": b"",
            "zeroed": bytes(len(before)),
            "garbled": b"[1]",
            "raised": before.replace(b": 3", b": 999"),
        }
        assert bad[damage] != before
        copy.write_bytes(bad[damage])
    shutil.rmtree(device.metadata_dir)
    device.publisher.replay(state)
    replays(device, "a rollback")
    assert ("is of no use" in caplog.text) is (damage != "deleted")
    if damage != "no file":
        device.publisher.publish(b"good" * 1000, id="good", security_version=3)
        assert device.poll().state == "activated"
        assert json.loads(copy.read_bytes())["marks"]["security_version"] == 3, "it is whole again"


def test_a_channel_that_is_left_and_taken_up_again_has_its_marks(device: Device) -> None:
    state = device.publisher.state()
    device.publisher.publish(NEW, id="new", security_version=3)
    device.poll()
    for source in ("elsewhere", "here"):
        shutil.rmtree(device.metadata_dir)
        device.close()
        device.source = source
        device.start()
        if source == "elsewhere":
            device.poll()
    device.publisher.replay(state)
    replays(device, "a rollback")


def test_versions_that_a_thief_drove_up_do_not_come_back_with_an_older_journal(device: Device) -> None:
    publisher = device.publisher
    publisher.timestamp.version = publisher.snapshot.version = 1_000_000
    publisher.bump()
    device.poll()
    older = device.journal.firmware_memory("cam", "here")
    assert older is not None
    publisher.timestamp.version = publisher.snapshot.version = 10
    publisher.rotate("timestamp", "snapshot")
    assert device.poll().ok
    device.journal.remember_firmware("cam", "here", older)
    assert device.poll().ok
    publisher.publish(NEW, id="new", security_version=2)
    assert device.poll().state == "activated"


def test_metadata_of_what_was_followed_before_goes_once_the_new_is_believed(device: Device) -> None:
    old, other = (Path(device.work_dir, name) for name in ("metadata-0123456789abcdef", "metadata-mine"))
    for each in (old, other):
        (each / "root_history").mkdir(parents=True)
    device.store.objects, objects = {}, device.store.objects
    device.poll()
    assert old.is_dir()
    device.store.objects = objects
    device.publisher.bump()
    assert device.poll().ok and not old.exists() and other.is_dir()


def test_a_replay_of_the_time_before_a_key_was_retired_is_refused_when_local_metadata_is_gone(device: Device) -> None:
    state = device.publisher.state()
    device.publisher.rotate("timestamp", "snapshot")
    device.publisher.publish(NEW, id="new", security_version=2)
    device.poll()
    shutil.rmtree(device.metadata_dir)
    for key in [key for key in device.store.objects if key.endswith("2.root.json")]:
        del device.store.objects[key]
    device.publisher.replay(state)
    refused(device, "root 1 is older than 2", state="rejected")


def test_versions_that_a_thief_drove_up_are_recovered_from_by_new_keys(device: Device) -> None:
    publisher = device.publisher
    publisher.timestamp.version = publisher.snapshot.version = 1_000_000
    publisher.bump()
    assert device.poll().ok
    publisher.timestamp.version = publisher.snapshot.version = 10
    publisher.publish(NEW, id="new", security_version=2)
    refused(device, "verification failed", state="rejected")
    publisher.rotate("timestamp", "snapshot")
    assert device.poll().state == "activated"


# -- time -------------------------------------------------------------------------------------------------------------


def test_a_frozen_timestamp_becomes_stale_and_nothing_new_is_installed(device: Device) -> None:
    device.publisher.publish(NEW, id="new", security_version=2, put_image=False)
    device.wait(days=31)
    refused(device, "timestamp", "not synchronised", state="stale")
    device.publisher.now = device.clock.now()
    device.publisher.snapshot.expires = device.clock.now() + timedelta(days=30)
    device.publisher.timestamp.expires = device.clock.now() + timedelta(days=30)
    recovers(device)


def test_endless_304s_become_stale(device: Device) -> None:
    device.poll()
    real = device.store.get

    def frozen(key: str, *, headers: Any = None) -> Got:
        return Got(304, {}) if headers else real(key, headers=headers)

    device.store.get = frozen  # type: ignore[method-assign]
    for _ in range(3):
        assert device.poll().ok
        device.wait(hours=12)
    device.clock.jump(31 * 86400)
    refused(device, "time was over", state="stale")


@pytest.mark.parametrize("role", ["root", "timestamp", "snapshot", "targets", "stable"])
def test_what_is_expired_is_named(device: Device, role: str) -> None:
    publisher = device.publisher
    contents = {
        "root": publisher.root,
        "timestamp": publisher.timestamp,
        "snapshot": publisher.snapshot,
        "targets": publisher.targets,
        "stable": publisher.channel_targets,
    }
    contents[role].expires = NOW - timedelta(seconds=1)
    if role == "root":
        publisher.root.version += 1
        publisher.write_root()
    publisher.targets.version += role == "targets"
    publisher.publish(NEW)
    refused(device, role, state="stale")


def test_a_clock_in_1970_takes_new_releases_and_refuses_what_was_over_before(tmp_path: Path) -> None:
    clock = FakeClock(datetime(1970, 1, 1, 0, 5, tzinfo=UTC))
    device = Device(str(tmp_path), clock=clock)
    device.publisher.publish(OLD, id="old")
    assert device.poll().state == "activated"
    # Nor does its receipt say that it came before it was made.
    assert time_text(NOW) in device.letters[0].decode()
    # The floor is what the verified timestamp says: whatever was over by then is stale, whatever the clock says.
    device.publisher.timestamp.expires = NOW - timedelta(days=1)
    device.publisher.publish(NEW, id="new")
    refused(device, "timestamp", "1970", state="stale")
    device.close()


def test_a_stale_release_is_told_with_every_time_that_was_asked(tmp_path: Path) -> None:
    clock = FakeClock(datetime(1970, 1, 1, tzinfo=UTC))
    device = Device(str(tmp_path), clock=clock)
    try:
        device.publisher.issued = NOW + timedelta(days=10)
        device.publisher.publish(NEW)
        device.poll()
        device.publisher.issued = None
        device.publisher.renew(5)
        reason = device.poll().reason
        assert "the clock says 1970-01-01 and is not synchronised, a verified timestamp says 2025-06-11" in reason
        device.lower_bound = NOW + timedelta(days=40)
        reason = device.poll().reason
        assert "the clock says 1970-01-01 and is not synchronised, a real-time clock says 2025-07-11" in reason
        assert "a verified timestamp" not in reason
    finally:
        device.close()


def test_a_clock_in_2099_keeps_what_is_installed_and_recovers(device: Device) -> None:
    device.publisher.publish(NEW, id="new", security_version=2)
    right = device.clock.now()
    device.clock.jump((datetime(2099, 1, 1, tzinfo=UTC) - right).total_seconds())
    refused(device, "2099", "not synchronised", state="stale")
    device.clock.jump((right - device.clock.now()).total_seconds())
    recovers(device)


def test_the_floor_is_never_raised_by_the_wall_clock_nor_beyond_an_expiry(device: Device) -> None:
    from syncagent.core.release import Memory

    def floor() -> datetime | None:
        return Memory.from_text(device.journal.firmware_memory("cam", "here")).floor.at

    assert floor() == NOW
    device.wait(days=5)
    device.publisher.bump()
    device.poll()
    assert floor() == NOW
    device.publisher.issued = NOW + timedelta(days=400)
    device.publisher.bump()
    device.poll()
    assert floor() == device.publisher.timestamp.expires
    assert device.poll().state == "stale"  # whoever has the key can do that much, until he has it no more
    device.publisher.issued = None
    device.publisher.rotate("timestamp")
    assert device.poll().ok and floor() is None


# -- the place --------------------------------------------------------------------------------------------------------


def _link(path: str) -> None:
    os.symlink("/etc/passwd", path)


def _socket(path: str) -> None:
    here = os.getcwd()
    os.chdir(os.path.dirname(path))
    try:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(os.path.basename(path))
    finally:
        os.chdir(here)


@pytest.mark.parametrize("make", [_link, os.mkfifo, os.mkdir, _socket], ids=["link", "fifo", "directory", "socket"])
@pytest.mark.parametrize("name", ["firmware_images/new.bin", "new.json"])
def test_a_link_fifo_directory_or_socket_at_the_place_is_refused(
    device: Device, make: Callable[[str], None], name: str
) -> None:
    place = os.path.join(device.directories.data_dir, name)
    make(place)
    device.publisher.publish(
        NEW, id="new", disk_path="firmware_images/new.bin", config_path="new.json", security_version=2
    )
    refused(device, name, state="failed")
    asked = len(device.gets())
    refused(device, name, state="failed")
    assert device.gets(asked) == ["metadata/timestamp.json"]
    os.rmdir(place) if os.path.isdir(place) else os.unlink(place)
    assert device.poll().state == "activated"


def test_a_link_on_the_way_is_refused(device: Device, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    os.symlink(elsewhere, os.path.join(device.directories.data_dir, "way"))
    device.publisher.publish(NEW, disk_path="way/new.bin", security_version=2)
    refused(device, "way/new.bin", state="failed")
    assert os.listdir(elsewhere) == []


def test_a_file_on_the_way_is_refused(device: Device) -> None:
    device.publisher.publish(NEW, disk_path="latest_firmware.json/x/new.bin", config_path="c", security_version=2)
    refused(device, "is in the way", state="failed")


def test_a_path_that_is_not_firmware_s_is_refused(tmp_path: Path) -> None:
    device = Device(str(tmp_path), why_not=lambda path: "is the camera's" if path.startswith("camera/") else "")
    device.publisher.publish(NEW, disk_path="camera/a.jpg")
    fact = device.poll()
    assert fact.state == "failed" and "is the camera's" in fact.reason and device.files == {}
    device.close()


def test_a_place_that_stays_bad_costs_no_transition(device: Device) -> None:
    os.mkfifo(os.path.join(device.directories.data_dir, "new.json"))
    device.publisher.publish(NEW, id="new", config_path="new.json", security_version=2)
    for _ in range(40):
        device.poll()
    release = next(each for each in device.journal.releases("cam") if each.name == "new")
    assert release.transitions == 2 and "loop" not in release.reason


# -- the link and the store -------------------------------------------------------------------------------------------


def test_a_missing_image_is_final_until_the_metadata_changes(device: Device) -> None:
    device.publisher.publish(NEW, put_image=False, security_version=2)
    refused(device, "404", state="failed")
    asked = len(device.gets())
    for _ in range(3):
        refused(device, "404", state="failed")
    assert device.gets(asked) == ["metadata/timestamp.json"] * 3
    device.publisher.put(device.publisher.image_key(NEW), NEW)
    device.publisher.renew()
    assert device.poll().state == "activated"


def test_a_person_who_mended_the_bucket_need_not_wait_for_other_metadata(device: Device) -> None:
    device.publisher.publish(NEW, put_image=False, security_version=2)
    refused(device, "404", state="failed")
    device.publisher.put(device.publisher.image_key(NEW), NEW)
    refused(device, "404", state="failed")
    look = device.channel.look(is_full=True, is_urgent=True)
    assert (look.phase, look.reason) == (Phase.AVAILABLE, "") and look.release is not None
    assert device.installer.install(look.release, device.stop, basis=look.basis).phase is Phase.ACTIVATED


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (lambda: Transient("RequestTimeTooSkewed", trouble=Trouble.CLOCK), "clock"),
        (lambda: Blocked("SignatureDoesNotMatch", trouble=Trouble.CREDENTIALS), "credentials"),
        (lambda: Blocked("ExpiredToken", trouble=Trouble.CREDENTIALS), "credentials"),
        (lambda: Transient("reset", trouble=Trouble.LINK), "link"),
    ],
)
@pytest.mark.parametrize("name", ["2.root.json", "timestamp.json"])
def test_clock_credentials_and_link_are_no_missing_root(
    device: Device, error: Callable[[], BaseException], state: str, name: str
) -> None:
    device.publisher.publish(NEW, security_version=2)
    device.store.scripts = [Script(error, name="get", prefix=f"{PATH}/metadata/{name}")]
    refused(device)
    assert device.board.facts()["firmware/ota"].state == state
    device.store.scripts = []
    recovers(device)


def test_a_disk_without_room_waits_for_it(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    device.publisher.publish(NEW, id="new", security_version=2)
    full = os.statvfs_result((4096, 4096, 1000, 10, 10, 100, 100, 100, 0, 255))
    with monkeypatch.context() as patched:
        patched.setattr(os, "statvfs", lambda _: full)
        asked = len(device.gets())
        for _ in range(3):
            refused(device, "the disk is full")
        assert not any(name.endswith(".image") for name in device.gets(asked))
    assert device.poll().state == "activated"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EIO])
@pytest.mark.parametrize("call", ["pwrite", "write", "fsync", "rename", "mkdir"])
def test_a_disk_that_fails_leaves_all_as_it_was_and_is_tried_again(
    device: Device, monkeypatch: pytest.MonkeyPatch, number: int, call: str
) -> None:
    device.publisher.publish(NEW, id="new", security_version=2, disk_path="fresh/new.bin")

    def fail(*_: Any, **__: Any) -> Any:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patched:
        patched.setattr(os, call, fail)
        refused(device)
    assert device.poll().state == "activated"
    assert device.files["fresh/new.bin"] == NEW


def test_a_slow_drip_is_given_up_and_taken_up_again(tmp_path: Path) -> None:
    clock = FakeClock()

    class Drip(MemoryStore):
        is_slow = True

        def get(self, key: str, *, headers: Any = None) -> Got:
            got = super().get(key, headers=headers)
            if not (self.is_slow and key.endswith(".image") and got.status in (200, 206)):
                return got

            def drops() -> Iterator[bytes]:
                for chunk in got.chunks:
                    for byte in chunk:
                        clock.advance(5)
                        yield bytes([byte])

            return Got(got.status, got.headers, drops())

    store = Drip()
    device = Device(str(tmp_path), store=store, clock=clock)
    device.publisher.publish(NEW)
    fact = device.poll()
    assert fact.state == "stalled" and device.files == {}
    store.is_slow = False
    assert device.poll().state == "activated"
    device.close()


def test_two_agents_on_one_state_directory_never_act_at_once(device: Device) -> None:
    other = Device(device.top, store=device.store, publisher=device.publisher, clock=device.clock)
    device.publisher.publish(NEW, id="new", security_version=2)
    entered, leave = threading.Event(), threading.Event()
    real = device.store.get

    def slow(key: str, *, headers: Any = None) -> Got:
        entered.set()
        assert leave.wait(20)
        return real(key, headers=headers)

    device.store.get = slow  # type: ignore[method-assign]
    worker = threading.Thread(target=device.poll)
    worker.start()
    assert entered.wait(20)
    other.worker.poll_now()
    assert other.worker.pass_once(other.stop) == 2.0  # busy
    leave.set()
    worker.join(20)
    device.store.get = real  # type: ignore[method-assign]
    assert other.poll().state == "activated"
    assert other.files["firmware_images/boot.bin"] == NEW and len(other.letters) == 2
    other.close()


def test_a_publisher_that_was_killed_before_the_timestamp_changes_nothing(device: Device) -> None:
    before = device.publisher.files[f"{PATH}/metadata/timestamp.json"]
    device.publisher.publish(NEW, security_version=2)
    after = device.publisher.files[f"{PATH}/metadata/timestamp.json"]
    device.publisher.put(f"{PATH}/metadata/timestamp.json", before)
    with untouched(device):
        fact = device.poll()
    assert fact.ok and fact.state == "activated"
    device.publisher.put(f"{PATH}/metadata/timestamp.json", after)
    assert device.poll().state == "activated" and device.files["firmware_images/boot.bin"] == NEW


def test_status_shows_the_reason_to_programs(device: Device) -> None:
    device.publisher.publish(NEW, hardware="pi9")
    device.poll()
    assert json.loads(json.dumps(device.face)) == {
        "release": "r3",
        "state": "rejected",
        "reason": "it is for hardware pi9, this is None",
    }


def test_a_clock_that_goes_on_is_not_taken_for_a_real_time_clock(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = device.clock.now

    def ticking() -> datetime:
        device.clock.advance(0.001)
        return now()

    monkeypatch.setattr(device.clock, "now", ticking)
    device.publisher.publish(b"image")
    device.wait(days=40)
    fact = device.poll()
    assert fact.state == "stale"
    assert "real-time clock" not in fact.reason


def test_a_store_that_says_of_what_nobody_has_that_it_has_not_changed_is_not_believed(tmp_path: Path) -> None:
    class Unchanging(MemoryStore):
        def get(self, key: str, *, headers: Any = None) -> Got:
            return Got(NOT_MODIFIED)

    device = Device(str(tmp_path), store=Unchanging(), allow_unsigned=True)
    fact = device.poll()
    assert not fact.ok and "the store answered 304" in fact.reason
    device.close()
