"""A publisher and its devices, for tests: a repository in any store, and python-tuf's own client to read it with.

`MemoryBucket` adds what only a publisher asks of a store. `read_as_device` is the stock client with a directory of its
own, so that a device that saw the past can be asked about the present.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from tuf.api.exceptions import DownloadHTTPError
from tuf.ngclient import FetcherInterface, Updater

from syncagent.core.errors import Refused
from syncagent.core.manifest import Manifest, Rollout, target_path
from syncagent.edges.files import digest_of
from syncagent.edges.payload import BytesBody
from syncagent.publish.keys import KeyRing
from syncagent.publish.publisher import Publisher
from syncagent.publish.repository import Draft
from syncagent.publish.shelf import Shelf, Upload
from tests.fakes import MemoryStore, Stored

PASSPHRASE = "correct horse battery"
PATH = "firmware_images"
COMPONENT = "camera"
ROLES = ("root", "targets", "snapshot", "timestamp", "stable")


class MemoryBucket(MemoryStore):
    """A MemoryStore that a publisher can use. Without `has_conditions` conditions are ignored silently."""

    has_conditions = True
    has_copy = True
    skew_s: float | None = None

    def put(self, request: Any, body: Any) -> str:
        if not self.has_conditions:
            request = replace(request, only_if_absent=False, only_if_match=None)
        return super().put(request, body)

    def copy(self, source: str, key: str) -> None:
        def act() -> None:
            if not self.has_copy or source not in self.objects:
                raise Refused("the store answered 501 NotImplemented")
            self.objects[key] = self.objects[source]

        self._call("copy", key, act, shows=True)

    def delete(self, key: str) -> None:
        self._call("delete", key, lambda: self.objects.pop(key, None))

    def probe_conditional(self, key: str) -> bool:
        return self.has_conditions

    def probe_if_match(self, key: str) -> bool:
        return self.has_conditions

    def forge(self, key: str, data: bytes) -> None:
        """What somebody does who has got hold of the bucket."""
        self.objects[key] = Stored(data, hashlib.md5(data).hexdigest(), {}, "application/json")


def passphrase(_path: str, attempt: int) -> str:
    if attempt:
        raise Refused("the passphrase is wrong")
    return PASSPHRASE


@dataclass
class Office:
    """A key directory and a bucket, and the publishers that use them."""

    keys_dir: str
    store: MemoryBucket = field(default_factory=MemoryBucket)
    now: datetime = field(default_factory=lambda: datetime.now(UTC))

    def publisher(self, *, keys_dir: str | None = None) -> Publisher:
        shelf = Shelf(self.store, PATH, wait=lambda _wait_s: None)
        return Publisher(shelf, KeyRing(keys_dir or self.keys_dir, passphrase), self.now)

    def make_keys(self, *roles: str, suffix: str = "") -> None:
        ring = KeyRing(self.keys_dir, passphrase)
        for role in roles or ROLES:
            ring.generate(f"{role}{suffix}", role)

    def begin(self, *channels: str) -> None:
        publisher = self.publisher()
        publisher.commit(publisher.begin(channels or ("stable",), {}))

    def release(
        self, version: str, image: bytes, *, channel: str = "stable", publisher: Publisher | None = None
    ) -> None:
        draft, upload, publisher = self.draft(version, image, channel=channel, publisher=publisher)
        publisher.commit(draft, [upload])

    def draft(
        self, version: str, image: bytes, *, channel: str = "stable", publisher: Publisher | None = None
    ) -> tuple[Draft, Upload, Publisher]:
        publisher = publisher or self.publisher()
        digest = digest_of(image)
        manifest = Manifest(
            id=version, time=self.now, file_name="image", component=COMPONENT, version=version, rollout=Rollout("salt")
        )
        draft, key = publisher.offer(
            publisher.load(), channel, manifest, sha256_hex=digest.sha256.hex(), size_bytes=len(image)
        )
        return draft, Upload(key, digest, BytesBody(image)), publisher

    @property
    def root(self) -> bytes:
        """What a device is given today."""
        with open(os.path.join(self.keys_dir, "root.json"), "rb") as file:
            return file.read()

    def objects(self) -> dict[str, bytes]:
        return {key: self.store.bytes_of(key) for key in self.store.objects}


class _Fetcher(FetcherInterface):
    def __init__(self, objects: Callable[[], Mapping[str, bytes]]) -> None:
        self._objects = objects

    def _fetch(self, url: str) -> Iterator[bytes]:
        objects = self._objects()
        if url not in objects:
            raise DownloadHTTPError(f"{url} is not there", 404)
        return iter([objects[url]])


@dataclass
class Device:
    """The stock client with its own memory of what it saw."""

    directory: str
    root: bytes
    objects: Callable[[], Mapping[str, bytes]]
    path: str = PATH

    def look(self, channel: str = "stable", component: str = COMPONENT) -> tuple[str, bytes] | None:
        """(version, image) of what is offered, downloaded and verified; None where nothing is. Raises what the client
        raises."""
        os.makedirs(self.directory, exist_ok=True)
        updater = Updater(
            self.directory,
            f"{self.path}/metadata/",
            self.directory,
            f"{self.path}/targets/",
            fetcher=_Fetcher(self.objects),
            bootstrap=self.root,
        )
        updater.refresh()
        target = updater.get_targetinfo(target_path(channel, component))
        if target is None:
            return None
        with open(updater.download_target(target), "rb") as file:
            return target.unrecognized_fields["custom"]["version"], file.read()
