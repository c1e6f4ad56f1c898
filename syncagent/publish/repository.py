"""The TUF repository as values: what it holds, what shall be next, and in which order that may be written.

Pure: no bucket, no key file, no clock. A `Repository` was verified; a `Draft` becomes a list of writes only when every
role in it has the signatures that clients will ask for. Promises: whoever stops between two of those writes leaves
either the old repository or the new one, whole. Leaves to others: reading (publish/reading.py), writing
(publish/shelf.py), and what a release is (publish/releases.py).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from securesystemslib.signer import Key, Signer
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import (
    Metadata,
    MetaFile,
    Role,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)

from syncagent.core.errors import Refused
from syncagent.publish.keys import check_name

TOP_ROLES = ("root", "targets", "snapshot", "timestamp")
CHANNEL_DAYS = 365
LIFETIME_DAYS = {"root": 730, "targets": 365, "snapshot": 30, "timestamp": 30}
ISSUED = "x-issued"

AnyMetadata = Metadata[Any]
Keys = Mapping[str, Sequence[Key]]
#: The signer of a key id, where its private half can be had.
FindSigner = Callable[[str], Signer | None]


def expiry(role: str, now: datetime) -> datetime:
    """When metadata that is signed now shall expire; TUF knows no fractions of a second."""
    return now.astimezone(UTC).replace(microsecond=0) + timedelta(days=LIFETIME_DAYS.get(role, CHANNEL_DAYS))


def check_channel(name: str) -> str:
    """Raises: Refused."""
    check_name(name, what="channel")
    if name in TOP_ROLES:
        raise Refused(f"{name} is the name of a role of the repository, and cannot be a channel's")
    return name


def file_name(role: str, version: int) -> str:
    """The name of a role's metadata below `metadata/`."""
    return "timestamp.json" if role == "timestamp" else f"{version}.{role}.json"


def parse_file_name(name: str) -> tuple[str, int] | None:
    """(role, version) of a versioned file's name, None for any other."""
    version, _, rest = name.partition(".")
    role = rest.removesuffix(".json")
    is_one = version.isascii() and version.isdigit() and role != rest and len(version) < 19
    return (role, int(version)) if is_one else None


@dataclass(frozen=True, slots=True)
class Repository:
    """What the bucket holds, verified from a trusted root on. Expiry is not judged: `renew` must be able to read."""

    root: Metadata[Root]
    timestamp: Metadata[Timestamp]
    snapshot: Metadata[Snapshot]
    targets: Metadata[Targets]
    channels: Mapping[str, Metadata[Targets]]
    #: role -> the highest version that has an object, be it of a publisher that was killed
    taken: Mapping[str, int] = field(default_factory=dict)
    #: Roles that only the root before this one believes: a rotation with a lost key was interrupted.
    orphans: frozenset[str] = frozenset()

    def metadata(self) -> Iterator[tuple[str, AnyMetadata]]:
        """Every role in force, as (name, metadata)."""
        yield "root", self.root
        yield "targets", self.targets
        yield from sorted(self.channels.items())
        yield "snapshot", self.snapshot
        yield "timestamp", self.timestamp

    def releases(self) -> Iterator[tuple[str, TargetFile]]:
        """Every (channel, target) that is offered."""
        for channel, metadata in sorted(self.channels.items()):
            for _, target in sorted(metadata.signed.targets.items()):
                yield channel, target

    def channel(self, name: str) -> Metadata[Targets]:
        """Raises: Refused."""
        if name not in self.channels:
            there = ", ".join(sorted(self.channels)) or "none"
            raise Refused(f"there is no channel {name}; there are: {there}")
        return self.channels[name]

    def role_of(self, role: str) -> Role:
        """Which keys a role asks for. Raises: Refused."""
        if role in TOP_ROLES:
            return self.root.signed.roles[role]
        self.channel(role)
        return self.targets.signed.get_delegated_role(role)


def verified(delegator: Root | Targets, role: str, metadata: AnyMetadata) -> None:
    """Raises: Refused unless enough of the role's keys have signed."""
    try:
        delegator.verify_delegate(role, metadata.signed_bytes, metadata.signatures)
    except (RepositoryError, ValueError) as error:
        raise Refused(f"{role} {metadata.signed.version}: {error}") from error


@dataclass(frozen=True, slots=True)
class Missing:
    """A role that too few keys have signed."""

    role: str
    have: int
    need: int

    def __str__(self) -> str:
        return f"{self.role} needs {self.need} signature{'s' if self.need > 1 else ''} and has {self.have}"


@dataclass(frozen=True, slots=True)
class Write:
    """One metadata object to put. `timestamp.json` replaces the one that was read; every other must not be there."""

    role: str
    version: int
    data: bytes

    @property
    def name(self) -> str:
        return file_name(self.role, self.version)


@dataclass(slots=True)
class Draft:
    """The next state of a repository, role by role. Made by publish/changes.py; becomes writes by `finish`."""

    base: Repository | None
    root: Metadata[Root]
    now: datetime
    taken: Mapping[str, int]
    #: role -> its next metadata: root, targets and channels
    changed: dict[str, AnyMetadata] = field(default_factory=dict)
    #: snapshot and timestamp, where nothing else asks for new ones
    renewed: set[str] = field(default_factory=set)
    #: The old key of a role that is rotated cannot sign any more: clients must see the new root first.
    is_root_first: bool = False

    @classmethod
    def of(cls, base: Repository, now: datetime) -> Draft:
        draft = cls(base, base.root, now, base.taken)
        draft.renew(sorted(base.orphans))
        return draft

    # -- changing -----------------------------------------------------------------------------------------------------

    def edit(self, role: str) -> Any:
        """The signed part of a role's next metadata, to be changed in place: a later version, with a new expiry."""
        if role not in self.changed:
            following = copy.deepcopy(self._current(role))
            following.signatures.clear()
            following.signed.version = self.next_version(role, following.signed.version)
            following.signed.expires = expiry(role, self.now)
            self.changed[role] = following
            if role == "root":
                self.root = following
        return self.changed[role].signed

    def renew(self, roles: Iterable[str]) -> None:
        """Sign these roles anew."""
        for role in roles:
            if role in ("snapshot", "timestamp"):
                self.renewed.add(role)
            else:
                self.edit(role)

    def next_version(self, role: str, current: int) -> int:
        """Root's versions have no gaps. Others may, and must where a publisher that was killed left an object."""
        return current + 1 if role in ("root", "timestamp") else max(current, self.taken.get(role, 0)) + 1

    def _current(self, role: str) -> AnyMetadata:
        assert self.base is not None
        if role == "root":
            return self.base.root
        return self.base.targets if role == "targets" else self.base.channel(role)

    @property
    def targets(self) -> Metadata[Targets]:
        """The top-level targets as they will be."""
        if "targets" in self.changed:
            return self.changed["targets"]
        assert self.base is not None
        return self.base.targets

    # -- signing ------------------------------------------------------------------------------------------------------

    def delegators(self, role: str) -> list[Root | Targets]:
        """Whose keys must sign a role: while root changes those that the old one names, too."""
        if role not in TOP_ROLES:
            return [self.targets.signed]
        if self.base is None or self.base.root is self.root or (self.is_root_first and role != "root"):
            return [self.root.signed]
        return [self.root.signed, self.base.root.signed]

    def sign(self, find: FindSigner) -> None:
        """Add the signature of every key that is to be had."""
        for role, metadata in self.changed.items():
            self._sign(role, metadata, find)

    def _sign(self, role: str, metadata: AnyMetadata, find: FindSigner) -> None:
        keyids = {keyid for delegator in self.delegators(role) for keyid in delegator.get_delegated_role(role).keyids}
        for keyid in sorted(keyids - set(metadata.signatures)):
            signer = find(keyid)
            if signer is not None:
                metadata.sign(signer, append=True)

    def missing(self) -> list[Missing]:
        """The roles that no client would believe yet."""
        return [lack for role, metadata in self.changed.items() if (lack := self._lack(role, metadata)) is not None]

    def _lack(self, role: str, metadata: AnyMetadata) -> Missing | None:
        for delegator in self.delegators(role):
            result = delegator.get_verification_result(role, metadata.signed_bytes, metadata.signatures)
            if not result:
                return Missing(role, len(result.signed), result.threshold)
        return None

    # -- writing ------------------------------------------------------------------------------------------------------

    def finish(self, find: FindSigner) -> list[Write]:
        """The writes in their order, signed by snapshot's and timestamp's keys, too.

        Channels, targets, snapshot, timestamp. A root that changes comes last, when everything carries the signatures
        that either root asks for. Raises: Refused where signatures are missing.
        """
        for lack in self.missing():
            raise Refused(f"{lack}; its keys are not here: bring them, or use --export DIR and sign elsewhere")
        writes = [self._write(role) for role in sorted(set(self.changed) - {"root", "targets"})]
        writes += [self._write(role) for role in ("targets",) if role in self.changed]
        if writes or self.renewed or self.base is None:
            snapshot = self._snapshot(is_new=bool(writes) or "snapshot" in self.renewed, find=find)
            if "snapshot" in self.changed:
                writes.append(self._write("snapshot"))
            self._timestamp(snapshot, find)
            writes.append(self._write("timestamp"))
        if "root" in self.changed:
            # Of a repository that begins, the timestamp is last.
            at = 0 if self.is_root_first else len(writes) - 1 if self.base is None else len(writes)
            writes.insert(at, self._write("root"))
        for role, metadata in self.base.metadata() if self.base else ():
            if role not in self.changed and role in TOP_ROLES and (stale := self._lack(role, metadata)):
                raise Refused(f"{stale}: the new root would leave it without the signatures that it asks for")
        return writes

    def _write(self, role: str) -> Write:
        metadata = self.changed[role]
        return Write(role, metadata.signed.version, metadata.to_bytes())

    def _snapshot(self, *, is_new: bool, find: FindSigner) -> Metadata[Snapshot]:
        """The snapshot in force, or a new one.

        What it lists stays listed, a removed channel, too: a client refuses a snapshot that has lost a file.
        """
        if not is_new and self.base is not None:
            return self.base.snapshot
        meta = dict(self.base.snapshot.signed.meta) if self.base else {}
        for role, metadata in self.changed.items():
            if role != "root":
                meta[f"{role}.json"] = described(metadata)
        version = self.next_version("snapshot", self.base.snapshot.signed.version if self.base else 0)
        return self._sign_last("snapshot", Snapshot(version, expires=expiry("snapshot", self.now), meta=meta), find)

    def _timestamp(self, snapshot: Metadata[Snapshot], find: FindSigner) -> Metadata[Timestamp]:
        version = self.base.timestamp.signed.version + 1 if self.base else 1
        # Only this raises the floor below a device's clock, and only once all of it is verified.
        issued = self.now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        expires = expiry("timestamp", self.now)
        signed = Timestamp(version, None, expires, described(snapshot), unrecognized_fields={ISSUED: issued})
        return self._sign_last("timestamp", signed, find)

    def _sign_last(self, role: str, signed: Any, find: FindSigner) -> AnyMetadata:
        metadata: AnyMetadata = Metadata(signed)
        self._sign(role, metadata, find)
        lack = self._lack(role, metadata)
        if lack is not None:
            raise Refused(f"{lack}; its keys are not here: bring them, because each change is signed by them")
        self.changed[role] = metadata
        return metadata


def described(metadata: AnyMetadata) -> MetaFile:
    """What snapshot says of targets, and timestamp of snapshot: with the length, so that no client reads for ever."""
    return MetaFile.from_data(metadata.signed.version, metadata.to_bytes(), ["sha256"])


def left_fraction(role: str, metadata: AnyMetadata, now: datetime) -> float:
    """How much of its life is left of a role's metadata; negative when it expired."""
    lifetime = timedelta(days=LIFETIME_DAYS.get(role, CHANNEL_DAYS))
    return float((metadata.signed.expires - now) / lifetime)
