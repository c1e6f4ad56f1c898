"""Cuts a device's power while files arrive, go in parts, are pruned, and firmware is dropped; and what must hold then.

The store is on the host and outlives the cuts. The camera's own word is the oracle: what it says on the ack port it has
fsynced, and a file's bytes follow from its name.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from typing import Any

from tests.agent import is_own
from tests.firmware_publisher import FirmwarePublisher, into_verifying
from tests.servers import VerifyingS3
from tests.vm.device import SYSTEM_ID, install, put_file, set_up
from tests.vm.lab import Guest, wait_for
from tests.vm.workload import content_of

HERE = os.path.dirname(os.path.abspath(__file__))
PREFIX = f"camera/{SYSTEM_ID}/"
WORKLOAD = "/usr/local/lib/workload.py"
UNSYNCED = "/usr/local/lib/unsynced.py"
READY = "ready"
WORKERS = 4
#: QEMU's SCSI sometimes hangs in a machine that was brought back. To bring it back again is one more cut.
MOUNT_S = 60.0
IMAGE_BYTES = 4_000_000
#: What became of a file: the store has proved its digest.
PROVEN = ("confirmed", "removed")
#: ext4's own guesses must not hide a missing fsync.
GUESSLESS = "noauto_da_alloc"

CARRIER = f"""
source: s3
bucket_name: bucket
endpoint_url: http://10.0.2.2:%d
region: us-east-1
path: camera
system_id: $system_id
watch: {{settle_s: 0.3, scan_s: 10}}
upload: {{workers: {WORKERS}, multipart_bytes: 5242880, part_bytes: 5242880, max_bytes_per_s: 2500000, retry_max_s: 5}}
retention: {{keep_files: 8}}
"""
FIRMWARE = """
source: s3
bucket_name: bucket
endpoint_url: http://10.0.2.2:%d
region: us-east-1
path: firmware_images
system_id: $system_id
firmware: {root: root.json, component: cam, poll_s: 3}
"""
TASK = """
source_type: carrier
config_name: firmware
function: handle_new_firmware_message
message_type: firmware_image
"""


# -- the oracle -------------------------------------------------------------------------------------------------------


@cache
def digest_of(name: str) -> str:
    """Of what the camera writes under this name; empty when it writes none such."""
    try:
        return hashlib.sha256(content_of(name)).hexdigest()
    except ValueError:
        return ""


@dataclass(frozen=True, slots=True)
class Scene:
    """All that is known from outside: what the store shows (key -> SHA-256), what was acked, what was published."""

    objects: Mapping[str, str]
    acked: Iterable[str]
    images: frozenset[str]  # SHA-256
    others: Mapping[str, str] = field(default_factory=dict)  # key -> SHA-256 of what others had sent before


def breaches(survey: Mapping[str, Any], scene: Scene) -> list[str]:
    """Every promise that the disk and the bucket break, in words."""
    on_disk = set(survey["files"].values())
    found = [
        f"lost: {name} was fsynced, and is neither in the bucket nor on the disk"
        for name in scene.acked
        if scene.objects.get(PREFIX + name) != digest_of(name) and digest_of(name) not in on_disk
    ]
    found += [
        f"wrong: {key} has bytes that nobody wrote under that name"
        for key, sha256 in scene.objects.items()
        if key.startswith(PREFIX)
        and not is_own(key)
        and sha256 != (scene.others.get(key) or digest_of(key.removeprefix(PREFIX)))
    ]
    journal = survey["journal"]
    if journal["integrity"] != "ok":
        found.append(f"journal: {journal['integrity']}")
    for path, name, state, key, sha256 in journal["rows"]:
        if state in PROVEN and (key is None or scene.objects.get(key) != str(sha256).lower()):
            found.append(f"confirmed: {path}/{name} is {state}, and {key} is not in the bucket as it says")
    found += [f"journal: {name} was set aside" for name in survey["wrecks"]]
    found += [f"firmware: {path} is torn" for path in survey["torn_metadata"]]
    whole = {name for name, sha256 in survey["images"].items() if sha256 in scene.images}
    for name in survey["images"].keys() - whole:
        if not os.path.basename(name).startswith(".syncagent-drop-"):
            found.append(f"firmware: {name} is no image that was published")
    config = survey["config"]
    if config is not None and f"{config.strip()}.bin" not in whole:
        found.append(f"firmware: the config names {config!r}, which is not there whole")
    return found


# -- the machine ------------------------------------------------------------------------------------------------------


@dataclass
class Cuts:
    """Cuts the power again and again. `how`: «data» restores a saved machine around a data disk, «boot» cuts and boots
    the root disk itself. Without `is_synced` the agent runs with its fsyncs taken out."""

    guest: Guest
    store: VerifyingS3
    how: str = "data"
    data_disk: str = "writeback"
    is_synced: bool = True
    seed: int = 1
    acked: set[str] = field(default_factory=set)
    images: set[str] = field(default_factory=set)
    found: list[str] = field(default_factory=list)
    _newest: str = ""
    _others: dict[str, str] = field(default_factory=dict)
    _digests: dict[str, tuple[int, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.publisher = FirmwarePublisher(into_verifying(self.store), now=datetime.now(UTC))

    def prepare(self, package: str) -> None:
        """From a clean machine to a device that is not running."""
        install(self.guest, package)
        set_up(self.guest)
        self.configure()
        if self.how == "data":
            self.guest.save(READY)
            self.guest.kill()
            self._up()

    def configure(self) -> None:
        """Stop a device that is set up, and give it much to do."""
        if self.how == "boot":
            self.guest.run(f"mount -o remount,{GUESSLESS} /")
        self.guest.run("systemctl disable --now syncagent")
        self._others = self._objects()
        for file in ("workload.py", "unsynced.py"):
            self.guest.push(os.path.join(HERE, file), f"/usr/local/lib/{file}")
        configs = "/etc/syncagent/configs"
        put_file(self.guest, f"{configs}/carriers/bucket.yaml", CARRIER % self.guest.forward)
        put_file(self.guest, f"{configs}/carriers/firmware.yaml", FIRMWARE % self.guest.forward)
        put_file(self.guest, f"{configs}/tasks/firmware.yaml", TASK)
        put_file(self.guest, f"{configs}/root.json", self.publisher.trusted_root.decode())
        if not self.is_synced:
            unit = "/etc/systemd/system/syncagent.service.d/unsynced.conf"
            put_file(self.guest, unit, f"[Service]\nExecStart=\nExecStart=/usr/bin/python3 -I {UNSYNCED} run\n")
            self.guest.run("systemctl daemon-reload")
        self.guest.run("sync")

    def cycle(self, number: int) -> None:
        """Up, work, cut, up, and look."""
        begun = time.monotonic()
        self._publish()
        is_early = number % 4 == 0  # while it starts, and mends what the cut before left
        tag = f"c{number:02d}"
        self.guest.begin(f"exec python3 {WORKLOAD} camera {tag}")
        self.guest.run(f"systemctl start {'--no-block' if is_early else ''} syncagent", timeout_s=300)
        delay_s = self.random.uniform(2, 14) if is_early else self.random.uniform(3, 16)
        late_s = self.random.uniform(0, min(6.0, delay_s))
        time.sleep(delay_s - late_s)
        self._publish()  # which may be on its way, or half way to its place, when the power goes
        time.sleep(late_s)
        on_the_way = len(self.store.uploads)
        self.guest.kill()
        acked = set(self.guest.acked())
        fresh, self.acked = len(acked - self.acked), self.acked | acked
        self._up()
        survey, breaches = self.look()
        self.found += breaches
        states = Counter(row[2] for row in survey["journal"]["rows"])
        phases = [f"{release} {phase}" for release, phase, *_ in survey["journal"]["releases"][-1:]]
        print(
            f"cut {number} ({self.how}, {self.guest.disk if self.how == 'boot' else self.data_disk}) after"
            f" {delay_s:.1f} s: {fresh} files acked, {self._sent()} in the bucket, {on_the_way} going in parts,"
            f" {states['removed']} pruned, firmware {phases}: {len(breaches)} breaches"
            f" ({time.monotonic() - begun:.0f} s)",
            flush=True,
        )
        for breach in breaches[:5]:
            print(f"    {breach}", flush=True)

    def finish(self) -> None:
        """Left in peace, it sends everything."""
        self.guest.run("systemctl start syncagent", timeout_s=300)
        wait_for(lambda: self._missing() == 0, "every acked file is in the bucket", deadline_s=600)
        receipt = f"{SYSTEM_ID}/.syncagent/confirm_receipt/"
        wait_for(
            lambda: any(receipt in key for key in self.store.objects()) and self._named() == self._newest,
            "the newest firmware is in use",
        )
        status = json.loads(self.guest.says("syncagent status --json || [ $? = 1 ]"))
        assert not status["queue"].get("parked", {}).get("files"), status["queue"]
        self.guest.run("syncagent firmware status && systemctl stop syncagent")
        _, breaches = self.look()
        self.found += breaches
        puts = Counter(
            event.key
            for event in self.store.requests()
            if event.became_visible and event.key.startswith(PREFIX) and not is_own(event.key)
        )
        again = sum(puts.values()) - len(puts)
        begun = Counter(event.key for event in self.store.requests(operation="CreateMultipartUpload"))
        anew = sum(begun.values()) - len(begun)
        print(
            f"then {len(self.acked)} acked files are in the bucket, {again} of them sent twice; {len(begun)} went in"
            f" parts, {anew} of them begun anew, {len(self.store.uploads)} uploads left behind",
            flush=True,
        )

    def look(self) -> tuple[dict[str, Any], list[str]]:
        survey = json.loads(self.guest.says(f"python3 {WORKLOAD} survey"))
        scene = Scene(self._objects(), sorted(self.acked), frozenset(self.images), self._others)
        return survey, breaches(survey, scene)

    # -- steps --------------------------------------------------------------------------------------------------------

    def _up(self) -> None:
        if self.how == "boot":
            self.guest.boot()
            self.guest.run(f"mount -o remount,{GUESSLESS} /")
            return
        for attempts_left in (2, 1, 0):
            self.guest.restore(READY)
            disk = self.guest.attach(os.path.join(self.guest.directory, "data.raw"), size="2G", disk=self.data_disk)
            home = "/var/lib/syncagent"
            script = (
                f"if ! blkid {disk} > /dev/null; then mkfs.ext4 -q {disk}; mount {disk} /mnt; cp -a {home}/. /mnt;"
                f" umount /mnt; fi; mount -o noatime,{GUESSLESS} {disk} {home}"
            )
            done = self.guest.run(script, check=False, timeout_s=MOUNT_S)
            if done.returncode == 0:
                return
            print(f"    the machine that was brought back does not mount its disk: {done.stderr.strip()}", flush=True)
            assert attempts_left
            self.guest.kill()

    def _publish(self) -> None:
        """Of three releases in a row with one name, each takes the place of the one before."""
        image = self.random.randbytes(IMAGE_BYTES)
        self._newest = f"image-{len(self.images) // 3}"
        self.images.add(hashlib.sha256(image).hexdigest())
        self.publisher.publish(image, file_name=self._newest)

    def _named(self) -> str:
        return self.guest.says("cat /var/lib/syncagent/generated_data/latest_firmware.json || true")

    def _objects(self) -> dict[str, str]:
        """Key -> SHA-256 of what the store shows; each object is hashed once."""
        objects = self.store.objects()
        for key, body in objects.items():
            if self._digests.get(key, (0, ""))[0] != id(body):
                self._digests[key] = (id(body), hashlib.sha256(body).hexdigest())
        return {key: self._digests[key][1] for key in objects}

    def _missing(self) -> int:
        objects = self._objects()
        return sum(objects.get(PREFIX + name) != digest_of(name) for name in self.acked)

    def _sent(self) -> int:
        return sum(key.startswith(PREFIX) and not is_own(key) for key in self.store.objects())


def cut(cuts: Cuts, cycles: int) -> bool:
    """Whether it is as it should be: no breach with fsyncs, one at least without."""
    for number in range(1, cycles + 1):
        cuts.cycle(number)
        if cuts.found and not cuts.is_synced:
            print("without its fsyncs the agent breaks its promises, and the lab sees it")
            return True
    if cuts.is_synced:
        cuts.finish()
        print(f"{cycles} cuts, {len(cuts.acked)} files acked, {len(cuts.found)} breaches")
    return bool(cuts.found) != cuts.is_synced
