"""A firmware release on this device: its states and legal moves, its turn in a rollout, and what it may never undercut.

Values in, values out: the journal keeps what is here, the docks act on it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Self

from syncagent.core.errors import ManifestRejected
from syncagent.core.manifest import COHORTS, Manifest, parse_time, time_text
from syncagent.core.settings import Carrier, Settings
from syncagent.core.settings_files import TASK_FUNCTION

#: Persisted transitions of one release; a release that needs more goes round in circles.
MAX_TRANSITIONS = 28


class Phase(StrEnum):
    """How far a component's firmware is. What is not in MOVES is only shown, and never written down as a transition."""

    IDLE = "idle"  # never looked
    UNCHANGED = "unchanged"
    STALE = "stale"  # the metadata's time is over: nothing new is installed
    AVAILABLE = "available"  # verified metadata offers it, and it is for us
    DEFERRED = "deferred"  # its rollout has not come to us yet
    DOWNLOADING = "downloading"
    VERIFIED = "verified"  # the whole image lies in staging, and is what was signed
    INSTALLED = "installed"  # the image is at its place
    ACTIVATED = "activated"  # the config names it: the commit point
    CONFIRMED = "confirmed"
    ROLLED_BACK = "rolled_back"
    FAILED = "failed"
    REJECTED = "rejected"  # for good


_END = frozenset({Phase.FAILED, Phase.REJECTED})
#: From -> to. A phase that is entered again is no move.
MOVES: Mapping[Phase, frozenset[Phase]] = {
    Phase.AVAILABLE: _END | {Phase.DEFERRED, Phase.DOWNLOADING, Phase.VERIFIED},
    Phase.DEFERRED: _END | {Phase.AVAILABLE, Phase.DOWNLOADING, Phase.VERIFIED},
    Phase.DOWNLOADING: _END | {Phase.DEFERRED, Phase.VERIFIED},
    # Back to downloading when the verified bytes are gone from staging.
    Phase.VERIFIED: _END | {Phase.DEFERRED, Phase.DOWNLOADING, Phase.INSTALLED},
    Phase.INSTALLED: _END | {Phase.DEFERRED, Phase.DOWNLOADING, Phase.ACTIVATED},
    Phase.ACTIVATED: frozenset({Phase.CONFIRMED, Phase.ROLLED_BACK}),
    Phase.CONFIRMED: frozenset({Phase.ROLLED_BACK}),
    # A person, or new metadata, asks for it again.
    Phase.ROLLED_BACK: _END | {Phase.AVAILABLE},
    Phase.FAILED: frozenset({Phase.REJECTED, Phase.AVAILABLE, Phase.DEFERRED, Phase.DOWNLOADING, Phase.VERIFIED}),
    Phase.REJECTED: frozenset({Phase.AVAILABLE}),
}
#: Releases whose bytes are, or were, in use.
IN_USE = frozenset({Phase.ACTIVATED, Phase.CONFIRMED})
#: On their way to the disk.
UNDER_WAY = frozenset({Phase.AVAILABLE, Phase.DOWNLOADING, Phase.VERIFIED, Phase.INSTALLED})


@dataclass(frozen=True, slots=True)
class Target:
    """What verified metadata offers for a component: an image, and the `custom` object that was signed with it."""

    length: int
    sha256: str  # hex
    custom: Any
    path: str = ""  # its name in the metadata

    def to_json(self) -> dict[str, Any]:
        return {"length": self.length, "sha256": self.sha256, "custom": self.custom, "path": self.path}


@dataclass(frozen=True, slots=True)
class Marks:
    """High-water marks of the metadata: nothing lower is believed again.

    `keys` names the keys of timestamp, snapshot and targets. When a verified root gives these roles other keys, their
    marks do not count any more: that is how TUF recovers from versions that a thief of keys drove up. The root's
    mark counts for ever, so that no old root can bring the old keys back.
    """

    root: int = 0
    keys: str = ""
    versions: Mapping[str, int] = field(default_factory=dict)

    def lower(self, seen: Marks) -> str:
        """Which role of `seen` is below these marks, in words; empty when none is."""
        if seen.root < self.root:
            return f"root {seen.root} is older than {self.root}, which was seen before"
        if seen.keys != self.keys:
            return ""
        for role, version in sorted(seen.versions.items()):
            if version < self.versions.get(role, 0):
                return f"{role} {version} is older than {self.versions[role]}, which was seen before"
        return ""

    def raised(self, seen: Marks) -> Marks:
        """These marks and what `seen` adds to them."""
        if seen.keys != self.keys:
            return Marks(max(self.root, seen.root), seen.keys, dict(seen.versions))
        roles = self.versions.keys() | seen.versions.keys()
        versions = {role: max(self.versions.get(role, 0), seen.versions.get(role, 0)) for role in sorted(roles)}
        return Marks(max(self.root, seen.root), self.keys, versions)

    def joined(self, other: Marks) -> Marks:
        """What two records know together: where their keys differ, those of the newer root are right."""
        return self.raised(other) if other.root >= self.root else other.raised(self)

    def to_json(self) -> dict[str, Any]:
        return {"root": self.root, "keys": self.keys, "versions": dict(self.versions)}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        versions = {str(role): int(version) for role, version in document["versions"].items()}
        return cls(int(document["root"]), str(document["keys"]), versions)


@dataclass(frozen=True, slots=True)
class Floor:
    """The least that the time can be: what a fully verified timestamp says of when it was made.

    It is dropped when the timestamp's keys change, so that a thief of the old key cannot keep us in the future.
    """

    at: datetime | None = None
    keys: str = ""

    def reference(self, now: datetime) -> datetime:
        """The time to judge by."""
        return now if self.at is None else max(now, self.at)

    def raised(self, issued: datetime | None, *, expires: datetime, keys: str) -> Floor:
        """With what a verified timestamp says; never beyond its own expiry."""
        before = self.at if keys == self.keys else None
        if issued is not None:
            issued = min(issued, expires)
            before = issued if before is None else max(before, issued)
        return Floor(before, keys)

    def to_json(self) -> list[str | None]:
        return [time_text(self.at) if self.at else None, self.keys]

    @classmethod
    def from_json(cls, document: Sequence[Any]) -> Self:
        at, keys = document
        return cls(parse_time(at) if at else None, str(keys))


@dataclass(frozen=True, slots=True)
class Trusted:
    """What one full, successful refresh said."""

    marks: Marks
    expires: Mapping[str, datetime]
    target: Target | None  # None: nothing is offered (any more)
    issued: datetime | None = None
    timestamp_keys: str = ""


@dataclass(frozen=True, slots=True)
class Memory:
    """What is kept of a channel between two polls. Stored as one JSON text in the journal."""

    etag: str = ""  # of the last fully verified timestamp
    refreshed_at: float = 0.0  # journal time of the last full refresh
    marks: Marks = Marks()
    floor: Floor = Floor()
    expires: Mapping[str, datetime] = field(default_factory=dict)
    target: Target | None = None

    def to_text(self) -> str:
        document = {
            "etag": self.etag,
            "refreshed_at": self.refreshed_at,
            "marks": self.marks.to_json(),
            "floor": self.floor.to_json(),
            "expires": {role: time_text(moment) for role, moment in self.expires.items()},
            "target": self.target.to_json() if self.target else None,
        }
        return json.dumps(document, sort_keys=True)

    @classmethod
    def from_text(cls, text: str | None) -> Self:
        if text is None:
            return cls()
        document = json.loads(text)
        return cls(
            etag=document["etag"],
            refreshed_at=document["refreshed_at"],
            marks=Marks.from_json(document["marks"]),
            floor=Floor.from_json(document["floor"]),
            expires={role: parse_time(moment) for role, moment in document["expires"].items()},
            target=Target(**document["target"]) if document["target"] else None,
        )

    def joined(self, marks: Marks, floor: Floor) -> tuple[Marks, Floor]:
        """The marks and the floor of this and of another record, together."""
        if floor.keys == self.floor.keys:
            at = max((each for each in (self.floor.at, floor.at) if each is not None), default=None)
            floor = Floor(at, floor.keys)
        elif marks.root < self.marks.root:
            floor = self.floor
        return self.marks.joined(marks), floor

    def expired(self, reference: datetime) -> str:
        """Which cached role's time is over at `reference`; empty when none is."""
        over = sorted((moment, role) for role, moment in self.expires.items() if moment <= reference)
        return over[0][1] if over else ""


@dataclass(frozen=True, slots=True)
class Device:
    """What this device is, as far as a release asks."""

    component: str
    hardware: str | None
    system_id: str
    agent_version: str
    max_image_bytes: int


@dataclass(frozen=True, slots=True)
class Decision:
    """What becomes of an offered release. `due` is when its wave begins, where that is known."""

    phase: Phase
    reason: str = ""
    due: datetime | None = None


def cohort(salt: str, system_id: str) -> int:
    """This device's place in a rollout, from 0 to 9,999: other salts deal other places."""
    return int.from_bytes(hashlib.sha256((salt + system_id).encode("utf-8", "surrogateescape")).digest()) % COHORTS


def decide(
    manifest: Manifest,
    length: int | None,
    *,
    device: Device,
    now: datetime,
    security_version: int,
    is_first: bool,
    is_urgent: bool = False,
) -> Decision:
    """Whether a release is for this device, and whether it is its turn.

    `is_first`: nothing is installed, so waves do not hold it back. `is_urgent`: a person asks, who need not wait for
    a wave either. Neither begins what is halted.
    """
    if manifest.component != device.component:
        return Decision(Phase.REJECTED, f"it is for component {manifest.component}, this is {device.component}")
    if manifest.is_signed and manifest.hardware != device.hardware:
        return Decision(Phase.REJECTED, f"it is for hardware {manifest.hardware}, this is {device.hardware}")
    if manifest.security_version < security_version:
        what = f"security_version {manifest.security_version} is below {security_version}, which was accepted before"
        return Decision(Phase.REJECTED, what)
    if length is not None and length > device.max_image_bytes:
        return Decision(Phase.REJECTED, f"the image has {length} bytes, max_image_bytes is {device.max_image_bytes}")
    if manifest.requires_agent is not None and _numbers(manifest.requires_agent) > _numbers(device.agent_version):
        return Decision(Phase.DEFERRED, f"it needs syncagent {manifest.requires_agent}, this is {device.agent_version}")
    if manifest.rollout.halt:
        return Decision(Phase.DEFERRED, "its rollout is halted")
    if manifest.rollout.waves and not is_first and not is_urgent:
        place = cohort(manifest.rollout.salt, device.system_id)
        turns = [wave.not_before for wave in manifest.rollout.waves if place < wave.cohorts]
        due = min(turns, default=None)
        if due is None:
            return Decision(Phase.DEFERRED, "its rollout does not reach this device yet")
        if now < due:
            return Decision(Phase.DEFERRED, f"its wave begins at {time_text(due)}", due)
    return Decision(Phase.AVAILABLE)


def _numbers(version: str) -> tuple[int, ...]:
    numbers = []
    for part in version.split(".")[:4]:
        digits = "".join(character for character in part if character.isdigit())
        numbers.append(int(digits[:9] or 0))
    return tuple(numbers + [0] * (4 - len(numbers)))


def parse_issued(value: object) -> datetime | None:
    """The `x-issued` field of a timestamp; None when it says nothing that can be read."""
    try:
        return parse_time(value)
    except ManifestRejected:
        return None


def component_of(carrier: Carrier) -> str:
    """What the firmware of a carrier is for."""
    return carrier.firmware.component or carrier.name


def firmware_carriers(settings: Settings) -> tuple[Carrier, ...]:
    """The carriers that firmware comes from: of the active tasks, one per component."""
    found: dict[str, Carrier] = {}
    for task in settings.tasks:
        if task.function == TASK_FUNCTION:
            found.setdefault(component_of(task.carrier), task.carrier)
    return tuple(found.values())
