"""The repository as it is read: verified from a trusted root on, as a client does, but for what expired.

Promises: nothing that did not verify comes out, and nothing older than what this machine has seen. Leaves to others:
where bytes come from (publish/shelf.py).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, Targets, Timestamp
from tuf.api.serialization import DeserializationError

from syncagent.core.errors import Refused
from syncagent.publish.repository import AnyMetadata, Repository, file_name, parse_file_name, verified

#: Far more than any repository needs; a bucket may answer with anything.
MAX_METADATA_BYTES = 8 * 1024 * 1024

#: The content of a metadata object by its name, at most so many bytes. Raises: Refused.
Read = Callable[[str, int], bytes]


@dataclass(frozen=True, slots=True)
class Seen:
    """What this machine has seen of the repository: older than that is an attack."""

    versions: Mapping[str, int] = field(default_factory=dict)
    timestamp_sha256: str = ""


@dataclass(frozen=True, slots=True)
class Held:
    """The repository as it was read, and what proves that it is still that one."""

    repository: Repository
    etag: str
    timestamp: bytes

    @property
    def seen(self) -> Seen:
        versions = {role: metadata.signed.version for role, metadata in self.repository.metadata()}
        return Seen(versions, hashlib.sha256(self.timestamp).hexdigest())


class Reader:
    """Reads one repository. `names`: of every metadata object that is there."""

    def __init__(self, read: Read, names: Collection[str]) -> None:
        self._read = read
        self._names = names

    def repository(self, anchor: bytes, timestamp: bytes, seen: Seen) -> Repository:
        """What `timestamp` leads to, believed from the trusted root `anchor` on. Raises: Refused."""
        roots = list(self._roots(anchor))
        # With the key of a role lost, root goes first. What came before it is believed only as it was when we saw it.
        is_known = hashlib.sha256(timestamp).hexdigest() == seen.timestamp_sha256
        believed = roots[-2:] if is_known else roots[-1:]
        repository = self._read_below(roots[-1], believed, timestamp)
        shown = {role: metadata.signed.version for role, metadata in repository.metadata()}
        for role, version in seen.versions.items():
            if shown.get(role, version) < version:
                raise Refused(
                    f"the bucket shows {role} {shown[role]}, and this machine has seen {version}:"
                    " somebody put back older metadata"
                )
        return repository

    def _roots(self, anchor: bytes) -> Iterator[Metadata[Root]]:
        """The trusted root and those that follow it."""
        root = parsed(anchor, Root, "the trusted root")
        verified(root.signed, "root", root)
        yield root
        while (name := file_name("root", root.signed.version + 1)) in self._names:
            following = parsed(self._read(name, MAX_METADATA_BYTES), Root, name)
            if following.signed.version != root.signed.version + 1:
                raise Refused(f"{name} says that it is version {following.signed.version}")
            verified(root.signed, "root", following)
            verified(following.signed, "root", following)
            root = following
            yield root

    def _read_below(self, root: Metadata[Root], believed: Sequence[Metadata[Root]], data: bytes) -> Repository:
        orphans = set()

        def check(role: str, metadata: AnyMetadata) -> None:
            try:
                verified(root.signed, role, metadata)
            except Refused:
                if len(believed) < 2:
                    raise
                verified(believed[0].signed, role, metadata)
                orphans.add(role)

        timestamp: Metadata[Timestamp] = parsed(data, Timestamp, "timestamp.json")
        check("timestamp", timestamp)
        snapshot: Metadata[Snapshot] = self._fetch("snapshot", timestamp.signed.snapshot_meta, Snapshot)
        check("snapshot", snapshot)
        targets: Metadata[Targets] = self._fetch("targets", _listed(snapshot, "targets"), Targets)
        check("targets", targets)
        channels: dict[str, Metadata[Targets]] = {}
        delegations = targets.signed.delegations
        for name in (delegations.roles or {}) if delegations else {}:
            channels[name] = self._fetch(name, _listed(snapshot, name), Targets)
            verified(targets.signed, name, channels[name])
        return Repository(root, timestamp, snapshot, targets, channels, taken_of(self._names), frozenset(orphans))

    def _fetch(self, role: str, meta: MetaFile, kind: type[Any]) -> AnyMetadata:
        name = file_name(role, meta.version)
        data = self._read(name, meta.length or MAX_METADATA_BYTES)
        try:
            meta.verify_length_and_hashes(data)
        except RepositoryError as error:
            raise Refused(f"{name} is not the file that was signed: {error}") from error
        metadata = parsed(data, kind, name)
        if metadata.signed.version != meta.version:
            raise Refused(f"{name} says that it is version {metadata.signed.version}")
        return metadata


def parsed(data: bytes, kind: type[Any], name: str) -> AnyMetadata:
    """Metadata of one kind. Raises: Refused."""
    try:
        metadata: AnyMetadata = Metadata.from_bytes(data)
    except (DeserializationError, RecursionError) as error:
        raise Refused(f"{name} is no metadata") from error
    if not isinstance(metadata.signed, kind):
        raise Refused(f"{name} is metadata of type {metadata.signed.type}")
    return metadata


def _listed(snapshot: Metadata[Snapshot], role: str) -> MetaFile:
    meta = snapshot.signed.meta.get(f"{role}.json")
    if meta is None:
        raise Refused(f"the snapshot does not list {role}")
    return meta


def taken_of(names: Iterable[str]) -> dict[str, int]:
    """The highest version of each role that has an object."""
    taken: dict[str, int] = {}
    for role, version in filter(None, map(parse_file_name, names)):
        taken[role] = max(taken.get(role, 0), version)
    return taken


def seen_to_json(seen: Seen) -> bytes:
    return (json.dumps({"versions": dict(seen.versions), "timestamp": seen.timestamp_sha256}, indent=2) + "\n").encode()


def seen_from_json(data: bytes, name: str) -> Seen:
    """What `seen_to_json` wrote into the file of this name. Raises: Refused."""
    try:
        document = json.loads(data)
        versions = {str(role): int(version) for role, version in document["versions"].items()}
        return Seen(versions, str(document["timestamp"]))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        remedy = "bring back a copy of it; without one, verify the bucket by other means and remove it"
        raise Refused(f"{name} does not say what was seen: {remedy}") from error
