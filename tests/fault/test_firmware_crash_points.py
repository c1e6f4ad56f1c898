"""A device killed at every step of an update: each system call that touches the disk, each write of the journal.

After each kill the image at its place is the old or the new one, whole, and what the config says of it is true. The
next run ends with the new image, one receipt, and no transition that was not needed.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from syncagent.edges.journal import Journal
from tests.firmware_device import Device

DIED = 77
OLD, NEW = b"old image" * 40_000, b"new image" * 50_000
OS_CALLS = ("fsync", "rename", "unlink", "pwrite", "write", "ftruncate", "mkdir", "fchmod", "makedirs", "replace")
JOURNAL = (
    *("offer_release", "move_release", "mark_release", "note_download", "remember_firmware"),
    *("raise_security_version", "set_firmware_face", "intend_rollback", "roll_back_release"),
)


class Mortal:
    """Ends this process before (odd numbers) or after (even ones) each of its points."""

    def __init__(self, at: int) -> None:
        self.points: list[str] = []
        self._at = at

    def wrap(self, owner: Any, name: str) -> None:
        real = getattr(owner, name)

        @functools.wraps(real)
        def mortal(*args: Any, **kwargs: Any) -> Any:
            self._pass(f"before {name}")
            result = real(*args, **kwargs)
            self._pass(f"after {name}")
            return result

        setattr(owner, name, mortal)

    def _pass(self, point: str) -> None:
        self.points.append(point)
        if len(self.points) == self._at:
            os._exit(DIED)


def in_child(work: Callable[[], None]) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os._exit(0)
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def enumerate_points(
    tmp_path: Path, prepared: Device, act: Callable[[Device], None], check: Callable[[Device], None]
) -> int:
    """Run `act` on copies of a prepared device, killed at every point, and `check` each; how many points there were."""
    number = 0
    while True:
        number += 1
        top = str(tmp_path / f"run-{number}")
        shutil.copytree(prepared.top, top, symlinks=True)

        def run(at: int, top: str = top) -> None:
            mortal = Mortal(at)
            for name in OS_CALLS:
                mortal.wrap(os, name)
            for name in JOURNAL:
                mortal.wrap(Journal, name)
            act(Device(top, store=prepared.store, publisher=prepared.publisher))

        code = in_child(lambda number=number, run=run: run(number))  # type: ignore[misc]
        assert code in (0, DIED)
        device = Device(top, store=prepared.store, publisher=prepared.publisher)
        assert is_true(device), number
        check(device)
        device.close()
        shutil.rmtree(top)
        if code == 0:
            return number - 1


def is_true(device: Device) -> bool:
    """What the config says of the image is so."""
    files = device.files
    config = json.loads(files["latest_firmware.json"])
    image = files.get(config["disk_path"])
    return image is not None and hashlib.sha256(image).hexdigest() == config["sha256"]


def prepare(tmp_path: Path, **more: Any) -> Device:
    """Has OLD; is offered NEW, at a place of its own."""
    device = Device(str(tmp_path / "prepared"))
    publisher = device.publisher
    publisher.publish(OLD, id="old", file_name="old", config_format="json", **more)
    assert device.poll().state == "activated"
    publisher.publish(NEW, id="new", file_name="new", config_format="json", **more)
    return device


def test_an_update_that_is_killed_at_any_step_is_finished_by_the_next_run(tmp_path: Path) -> None:
    prepared = prepare(tmp_path)
    prepared.close()

    def check(device: Device) -> None:
        assert device.poll().state == "activated"
        assert device.files["firmware_images/new.bin"] == NEW
        assert json.loads(device.files["latest_firmware.json"])["file_name"] == "new"
        ids = [json.loads(letter)["msg_content"]["id"] for letter in device.letters]
        assert sorted(ids) == ["new", "old"]
        release = next(each for each in device.journal.releases("cam") if each.name == "new")
        assert release.transitions <= 6 and release.is_receipted
        assert set(device.files) == {"firmware_images/old.bin", "firmware_images/new.bin", "latest_firmware.json"}

    count = enumerate_points(tmp_path, prepared, lambda device: (device.poll(), None)[1], check)
    print(f"{count} points of an update")
    assert count >= 60


def test_a_rollback_that_is_killed_at_any_step_is_finished_by_the_next_run(tmp_path: Path) -> None:
    prepared = prepare(tmp_path)
    assert prepared.poll().state == "activated"
    prepared.close()

    def roll_back(device: Device) -> None:
        device.installer.finish(device.stop)
        current = device.journal.current_release("cam")
        if current is not None and current.name == "new":
            device.installer.roll_back("asked for", device.stop)

    def check(device: Device) -> None:
        roll_back(device)
        assert json.loads(device.files["latest_firmware.json"])["file_name"] == "old"
        assert device.files["firmware_images/old.bin"] == OLD
        assert device.poll().state == "rolled_back"
        assert len(device.letters) == 2

    count = enumerate_points(tmp_path, prepared, roll_back, check)
    print(f"{count} points of a rollback")
    assert count >= 10
