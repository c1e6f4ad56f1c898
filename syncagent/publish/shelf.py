"""The repository's place in the bucket: reads it as a client would, and writes a plan so that only one can win.

Promises: what `load` returns was verified from the trusted root on; nothing that is referenced is replaced, and
`timestamp.json`, the commit, only while it is the one that was read. A store without conditional writes gets
read-check-write instead, and `is_careful` says so. Whatever is interrupted leaves the old repository in force.
Leaves to others: what shall be written (publish/repository.py).
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, Targets, Timestamp
from tuf.api.serialization import DeserializationError

from syncagent.core.errors import KeyTaken, Refused, SyncagentError, Transient
from syncagent.core.model import Digest, ObjectFacts
from syncagent.core.retry import backoff_s
from syncagent.edges.clock import Stop
from syncagent.edges.files import Content, digest_of
from syncagent.edges.orders import ObjectStore, PutRequest
from syncagent.edges.payload import Body
from syncagent.publish.repository import (
    AnyMetadata,
    Repository,
    Write,
    file_name,
    parse_file_name,
    verified,
)

#: Far more than any repository needs; a bucket may answer with anything.
MAX_METADATA_BYTES = 8 * 1024 * 1024
ATTEMPTS = 4
#: Expiries are in days; a clock that is off by more than a slow network explains is a wrong one.
MAX_SKEW_S = 300.0

_T = TypeVar("_T")


class Overtaken(Refused):
    """Another publisher was faster; nothing of this attempt is visible."""

    def __init__(self) -> None:
        super().__init__("somebody published meanwhile; nothing of yours is visible: run it again")


class Store(ObjectStore, Protocol):
    """What a publisher needs of a bucket beyond what workers do."""

    @property
    def skew_s(self) -> float | None: ...
    def copy(self, source: str, key: str) -> None: ...
    def delete(self, key: str) -> None: ...
    def probe_conditional(self, key: str) -> bool: ...
    def probe_if_match(self, key: str) -> bool: ...


@dataclass(frozen=True, slots=True)
class Upload:
    """An image from the publisher's disk. `name` is its key below `targets/`."""

    name: str
    digest: Digest
    body: Body


@dataclass(frozen=True, slots=True)
class Copy:
    """An image that the bucket holds under another name."""

    source: str
    name: str
    sha256: bytes
    size_bytes: int


Image = Upload | Copy


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


class Shelf:
    """One repository in one bucket. `path` is the carrier's; `wait` is for tests."""

    def __init__(
        self,
        store: Store,
        path: str,
        *,
        is_conditional: bool | None = None,
        wait: Callable[[float], object] | None = None,
        tell: Callable[[str], None] = lambda _line: None,
    ) -> None:
        self._store = store
        self._prefix = f"{path}/" if path else ""
        self._is_conditional = is_conditional
        self._wait = wait or Stop().wait
        self._tell = tell

    def key(self, name: str) -> str:
        """The key of a name such as `metadata/timestamp.json`."""
        return self._prefix + name

    def metadata_key(self, name: str) -> str:
        return self.key(f"metadata/{name}")

    def image_key(self, name: str) -> str:
        return self.key(f"targets/{name}")

    @property
    def is_careful(self) -> bool:
        """Whether the store honours conditions, so that of two publishers only one can win."""
        if self._is_conditional is None:
            probe = self.metadata_key(".probe")
            self._is_conditional = self.patiently(
                lambda: self._store.probe_conditional(probe) and self._store.probe_if_match(probe)
            )
        return self._is_conditional

    def check_clock(self) -> None:
        """Raises: Refused where the store says another time than this machine, as of its last answer."""
        skew_s = self._store.skew_s
        if skew_s is not None and abs(skew_s) > MAX_SKEW_S:
            # `x-issued` lifts every device's idea of the earliest possible time, and nothing but another key lowers it.
            where = "behind" if skew_s > 0 else "ahead of"
            raise Refused(f"this machine's clock is {abs(skew_s):.0f} s {where} the store's: set it before you sign")

    # -- reading ------------------------------------------------------------------------------------------------------

    def list(self, name: str) -> dict[str, ObjectFacts]:
        """Every object below a name, by its name."""
        found = self.patiently(lambda: list(self._store.list(self.key(name))))
        return {facts.key[len(self._prefix) :]: facts for facts in found}

    def names(self) -> set[str]:
        """The names of all metadata objects."""
        return {name.removeprefix("metadata/") for name in self.list("metadata/")}

    def read(self, key: str, *, limit_bytes: int = MAX_METADATA_BYTES) -> bytes:
        """Raises: Refused where there is none, or too much."""

        def read() -> bytes:
            pieces, size_bytes = [], 0
            for piece in self._store.read(key):
                pieces.append(piece)
                size_bytes += len(piece)
                if size_bytes > limit_bytes:
                    raise Refused(f"{key} is longer than {limit_bytes} bytes")
            return b"".join(pieces)

        return self.patiently(read)

    def load(self, anchor: bytes, seen: Seen | None = None) -> Held:
        """The repository in force, believed from the trusted root `anchor` on. Raises: Refused."""
        names = self.names()
        if "timestamp.json" not in names:
            raise Refused(
                f"there is no repository at {self.metadata_key('')}: begin one with `syncagent firmware init`"
            )
        # The ETag first: if the object is replaced in between, the commit fails, and nothing is lost.
        facts = self.patiently(lambda: self._store.head(self.metadata_key("timestamp.json")))
        if facts is None:
            raise Overtaken
        data = self.read(self.metadata_key("timestamp.json"))
        roots = list(self._roots(anchor, names))
        seen = seen or Seen()
        # With the key of a role lost, root goes first. What came before it is believed only as it was when we saw it.
        is_known = hashlib.sha256(data).hexdigest() == seen.timestamp_sha256
        believed = roots[-2:] if is_known else roots[-1:]
        held = Held(self._read_below(roots[-1], believed, data, taken_of(names)), facts.etag, data)
        shown = held.seen.versions
        for role, version in seen.versions.items():
            if shown.get(role, version) < version:
                raise Refused(
                    f"the bucket shows {role} {shown[role]}, and this machine has seen {version}:"
                    " somebody put back older metadata"
                )
        return held

    def _roots(self, anchor: bytes, names: set[str]) -> Iterator[Metadata[Root]]:
        """The trusted root and those that follow it."""
        root = parsed(anchor, Root, "the trusted root")
        verified(root.signed, "root", root)
        yield root
        while (name := file_name("root", root.signed.version + 1)) in names:
            following = parsed(self.read(self.metadata_key(name)), Root, name)
            if following.signed.version != root.signed.version + 1:
                raise Refused(f"{name} says that it is version {following.signed.version}")
            verified(root.signed, "root", following)
            verified(following.signed, "root", following)
            root = following
            yield root

    def _read_below(
        self, root: Metadata[Root], believed: Sequence[Metadata[Root]], data: bytes, taken: Mapping[str, int]
    ) -> Repository:
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
        return Repository(root, timestamp, snapshot, targets, channels, taken, frozenset(orphans))

    def _fetch(self, role: str, meta: MetaFile, kind: type[Any]) -> AnyMetadata:
        name = file_name(role, meta.version)
        data = self.read(self.metadata_key(name), limit_bytes=meta.length or MAX_METADATA_BYTES)
        try:
            meta.verify_length_and_hashes(data)
        except RepositoryError as error:
            raise Refused(f"{name} is not the file that was signed: {error}") from error
        metadata = parsed(data, kind, name)
        if metadata.signed.version != meta.version:
            raise Refused(f"{name} says that it is version {metadata.signed.version}")
        return metadata

    def is_image(self, name: str, *, sha256: bytes, size_bytes: int, md5: bytes | None = None) -> bool:
        """Whether the bucket holds these bytes under this name; read where its ETag does not tell."""
        key = self.image_key(name)
        facts = self.patiently(lambda: self._store.head(key))
        if facts is None or facts.size_bytes != size_bytes:
            return False
        if md5 is not None and facts.etag == md5.hex():
            return True

        def read() -> bytes:
            hashed, got_bytes = hashlib.sha256(), 0
            for piece in self._store.read(key):
                hashed.update(piece)
                got_bytes += len(piece)
                if got_bytes > size_bytes:
                    break
            return hashed.digest()

        return self.patiently(read) == sha256

    # -- writing ------------------------------------------------------------------------------------------------------

    def commit(self, base: Held | None, writes: Sequence[Write], images: Sequence[Image] = ()) -> None:
        """Write images, then metadata in the given order. Raises: Overtaken, Refused, Transient, Blocked."""
        self.put_images(images)
        for write in writes:
            if write.role == "timestamp":
                for image in images:
                    # Between its upload and this moment somebody may have tidied up.
                    if not self._is_there(self.image_key(image.name)):
                        raise Overtaken
                self._put_timestamp(base, write.data)
            else:
                self._put_new(self.metadata_key(write.name), write.data)

    def put_images(self, images: Sequence[Image]) -> None:
        """Bring images to their place, where nothing refers to them yet. Raises: Refused, Transient, Blocked."""
        for image in images:
            self._put_image(image)

    def _put_new(self, key: str, data: bytes) -> None:
        """An object that is not there yet; that it is there with these very bytes was our own attempt."""
        if not self.is_careful and self._is_there(key):
            if self.read(key) == data:
                return
            raise Overtaken
        try:
            self.patiently(lambda: self._put(key, data, only_if_absent=self.is_careful))
        except KeyTaken:
            if self.read(key) != data:
                raise Overtaken from None

    def _put_timestamp(self, base: Held | None, data: bytes) -> None:
        key = self.metadata_key("timestamp.json")
        if base is None:
            self._put_new(key, data)
            return
        if not self.is_careful:
            facts = self.patiently(lambda: self._store.head(key))
            if facts is None or facts.etag != base.etag:
                raise Overtaken
        try:
            self.patiently(lambda: self._put(key, data, only_if_match=base.etag if self.is_careful else None))
        except Refused:
            # 412, or 404 where it was deleted. Its bytes tell whether an attempt without an answer was ours.
            if not self._has(key, data):
                raise Overtaken from None

    def _has(self, key: str, data: bytes) -> bool:
        return self._is_there(key) and self.read(key) == data

    def _is_there(self, key: str) -> bool:
        return self.patiently(lambda: self._store.head(key)) is not None

    def _put(self, key: str, data: bytes, *, only_if_absent: bool = False, only_if_match: str | None = None) -> str:
        digest = digest_of(data)
        request = PutRequest(
            key, digest, {}, "application/json", only_if_absent=only_if_absent, only_if_match=only_if_match
        )
        return self._store.put(request, Content(data, digest))

    def _put_image(self, image: Image) -> None:
        if isinstance(image, Copy):
            self._copy(image)
            return
        size_bytes = image.body.size_bytes
        if self.is_image(image.name, sha256=image.digest.sha256, size_bytes=size_bytes, md5=image.digest.md5):
            self._tell("the image is in the bucket already")
            return
        # No condition: under this name nothing but these bytes is of use to anybody.
        request = PutRequest(self.image_key(image.name), image.digest, {}, "application/octet-stream")
        self.patiently(lambda: self._store.put(request, image.body))

    def _copy(self, image: Copy) -> None:
        def is_there() -> bool:
            return self.is_image(image.name, sha256=image.sha256, size_bytes=image.size_bytes)

        if is_there():
            self._tell("the image is in the bucket already")
            return
        try:
            self._store.copy(self.image_key(image.source), self.image_key(image.name))
            if is_there():
                self._tell("the image was copied within the bucket")
                return
        except SyncagentError:
            pass  # whether the source is whole is about to be seen
        with tempfile.TemporaryFile() as file:
            self._carry(image, file)

    def _carry(self, image: Copy, file: Any) -> None:
        """Copy by reading and sending, for stores that cannot."""
        md5, sha256, got_bytes = hashlib.md5(usedforsecurity=False), hashlib.sha256(), 0
        for piece in self._store.read(self.image_key(image.source)):
            md5.update(piece)
            sha256.update(piece)
            got_bytes += len(piece)
            if got_bytes > image.size_bytes:
                break
            file.write(piece)
        if got_bytes != image.size_bytes or sha256.digest() != image.sha256:
            raise Refused(f"the bucket's image {image.source} is not the one that was signed")
        digest = Digest(md5.digest(), sha256.digest())
        request = PutRequest(self.image_key(image.name), digest, {}, "application/octet-stream")
        self.patiently(lambda: self._store.put(request, _FileBody(file, image.size_bytes)))

    def delete(self, name: str) -> None:
        """Delete one object, by its name."""
        self.patiently(lambda: self._store.delete(self.key(name)))

    def patiently(self, act: Callable[[], _T]) -> _T:
        """Do something that a broken link may interrupt, a few times."""
        for attempt in range(1, ATTEMPTS):
            try:
                return act()
            except Transient as error:
                self._tell(f"{error}; once more")
                self._wait(backoff_s(attempt, least_s=1.0, most_s=10.0))
        return act()


class _FileBody:
    """An open file as the body of a request."""

    def __init__(self, file: Any, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self._file = file

    def read(self, n: int = -1, /) -> bytes:
        data: bytes = self._file.read(n)
        return data

    def rewind(self) -> None:
        self._file.seek(0)


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


def seen_from_json(data: bytes) -> Seen:
    """Raises: Refused."""
    try:
        document = json.loads(data)
        versions = {str(role): int(version) for role, version in document["versions"].items()}
        return Seen(versions, str(document["timestamp"]))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Refused("it does not say what was seen") from error
