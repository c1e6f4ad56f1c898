"""A publisher of firmware for tests: signs as python-tuf does, and does wrong in one line each.

Every call of `publish`, `renew` and the like writes what a publisher would put into the bucket, in the publisher's
order: image, channel, snapshot, timestamp. What it wrote is in `files`, by key, so that a test can put an older state
back (`replay`) or change single bytes.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, cast

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from securesystemslib.signer import Signature, SSlibKey
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)

from syncagent.core.manifest import image_name, target_path, time_text
from tests.fakes import MemoryStore, Stored
from tests.verifying import VerifyingS3

Put = Callable[[str, bytes], None]
PATH = "firmware_images"
#: By the clock of the tests' FakeClock.
NOW = datetime(2025, 6, 1, 12, tzinfo=UTC)
TOP = ("root", "timestamp", "snapshot", "targets")


def into_memory(store: MemoryStore) -> Put:
    def put(key: str, data: bytes) -> None:
        store.objects[key] = Stored(data, hashlib.md5(data).hexdigest(), {}, "application/octet-stream")

    return put


def into_verifying(server: VerifyingS3, bucket: str = "bucket") -> Put:
    from tests.s3_model import StoredObject

    def put(key: str, data: bytes) -> None:
        with server.lock:
            etag = hashlib.md5(data).hexdigest()
            server.buckets[bucket][key] = StoredObject(data, etag, {}, "application/octet-stream")

    return put


def into_client(client: Any, bucket: str) -> Put:
    def put(key: str, data: bytes) -> None:
        client.put_object(Bucket=bucket, Key=key, Body=data)

    return put


class Pen:
    """An Ed25519 key that signs. securesystemslib's own signer needs a newer cryptography than Debian 12 has."""

    def __init__(self) -> None:
        self._key = Ed25519PrivateKey.generate()
        public = self._key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw).hex()
        self.public_key = SSlibKey(
            hashlib.sha256(public.encode()).hexdigest(), "ed25519", "ed25519", {"public": public}
        )

    def sign(self, payload: bytes) -> Signature:
        return Signature(self.public_key.keyid, self._key.sign(payload).hex())


class FirmwarePublisher:
    """See the module. Attributes are the repository's state; change them and call `write`."""

    def __init__(self, put: Put, *, path: str = PATH, channel: str = "stable", now: datetime = NOW) -> None:
        self._put = put
        self.path = path
        self.channel = channel
        self.now = now
        self.files: dict[str, bytes] = {}
        self.signers = {role: [Pen()] for role in (*TOP, channel)}
        expires = now + timedelta(days=365)
        self.root = Root(expires=expires, consistent_snapshot=True)
        self.timestamp = Timestamp(expires=now + timedelta(days=30))
        self.snapshot = Snapshot(expires=now + timedelta(days=30))
        self.targets = Targets(expires=expires)
        self.channel_targets = Targets(expires=expires)
        for role in TOP:
            self.root.add_key(self.signers[role][0].public_key, role)
        delegated = DelegatedRole(channel, [], 1, True, paths=[f"{channel}/*/*"])
        self.targets.delegations = Delegations({}, {channel: delegated})
        self.targets.add_key(self.signers[channel][0].public_key, channel)
        self.issued: datetime | None = now
        self.write_root()
        self.trusted_root = self.files[self.key("metadata/1.root.json")]
        self.write()

    def key(self, name: str) -> str:
        return f"{self.path}/{name}" if self.path else name

    def image_key(self, image: bytes, component: str = "cam") -> str:
        return self.key(f"targets/{image_name(self.channel, component, hashlib.sha256(image).hexdigest())}")

    # -- what a publisher does ----------------------------------------------------------------------------------------

    def publish(self, image: bytes, *, component: str = "cam", put_image: bool = True, **custom: Any) -> dict[str, Any]:
        """One release; returns its custom object. Fields that are given as None are left out of it."""
        name = custom.pop("target", None) or target_path(self.channel, component)
        whole = {
            "schema": 1,
            "id": f"r{self.channel_targets.version + 1}",
            "time": time_text(self.now),
            "file_name": "boot",
            "component": component,
            "version": f"{self.channel_targets.version + 1}.0",
        }
        whole = {field: value for field, value in {**whole, **custom}.items() if value is not None}
        info = TargetFile.from_data(name, image, ["sha256"])
        info.unrecognized_fields["custom"] = whole
        self.channel_targets.targets[name] = info
        if put_image:
            self.put(self.image_key(image, component), image)
        self.bump_channel()
        return whole

    def bump_channel(self) -> None:
        self.channel_targets.version += 1
        self.bump()

    def bump(self) -> None:
        """The next snapshot and timestamp."""
        self.snapshot.version += 1
        self.timestamp.version += 1
        self.write()

    def renew(self, days: float = 30) -> None:
        """Sign the timestamp anew."""
        self.timestamp.version += 1
        self.timestamp.expires = self.now + timedelta(days=days)
        self.write_timestamp()

    def withdraw(self, component: str = "cam") -> None:
        del self.channel_targets.targets[target_path(self.channel, component)]
        self.bump_channel()

    def rotate(self, *roles: str) -> None:
        """Give roles new keys; a root that is rotated is signed by the old key as well."""
        old_root = self.signers["root"]
        for role in roles:
            new = [Pen()]
            if role == self.channel:
                for signer in self.signers[role]:
                    self.targets.revoke_key(signer.public_key.keyid, role)
                self.targets.add_key(new[0].public_key, role)
            else:
                for signer in self.signers[role]:
                    self.root.revoke_key(signer.public_key.keyid, role)
                self.root.add_key(new[0].public_key, role)
            self.signers[role] = new
        if set(roles) & set(TOP):
            self.root.version += 1
            self.write_root(also=old_root if "root" in roles else [])
        if self.channel in roles:
            self.targets.version += 1
        self.bump()

    # -- writing ------------------------------------------------------------------------------------------------------

    def put(self, key: str, data: bytes) -> None:
        self.files[key] = data
        self._put(key, data)

    def signed(self, role: str, content: Any, also: list[Pen] | None = None) -> bytes:
        metadata: Metadata[Any] = Metadata(content)
        for signer in [*self.signers[role], *(also or [])]:
            metadata.sign(cast(Any, signer), append=True)
        return metadata.to_bytes()

    def write_root(self, also: list[Pen] | None = None) -> None:
        data = self.signed("root", self.root, also)
        self.put(self.key(f"metadata/{self.root.version}.root.json"), data)

    def write(self) -> None:
        """Everything but the root, in order."""
        channel = self.signed(self.channel, self.channel_targets)
        self.put(self.key(f"metadata/{self.channel_targets.version}.{self.channel}.json"), channel)
        targets = self.signed("targets", self.targets)
        self.put(self.key(f"metadata/{self.targets.version}.targets.json"), targets)
        self.snapshot.meta[f"{self.channel}.json"] = meta_of(self.channel_targets.version, channel)
        self.snapshot.meta["targets.json"] = meta_of(self.targets.version, targets)
        snapshot = self.signed("snapshot", self.snapshot)
        self.put(self.key(f"metadata/{self.snapshot.version}.snapshot.json"), snapshot)
        self.timestamp.snapshot_meta = meta_of(self.snapshot.version, snapshot)
        self.write_timestamp()

    def write_timestamp(self) -> None:
        self.timestamp.unrecognized_fields.pop("x-issued", None)
        if self.issued is not None:
            self.timestamp.unrecognized_fields["x-issued"] = time_text(self.issued)
        self.put(self.key("metadata/timestamp.json"), self.signed("timestamp", self.timestamp))

    # -- what an attacker does ----------------------------------------------------------------------------------------

    def state(self) -> Mapping[str, bytes]:
        """Everything that is in the bucket now."""
        return copy.copy(self.files)

    def replay(self, state: Mapping[str, bytes]) -> None:
        """An older state of the bucket is back."""
        for key, data in state.items():
            self.put(key, data)

    def tamper(self, name: str, change: Callable[[bytes], bytes]) -> None:
        """Change the bytes of an object."""
        self.put(self.key(name), change(self.files[self.key(name)]))


def meta_of(version: int, data: bytes) -> MetaFile:
    return MetaFile(version, len(data), {"sha256": hashlib.sha256(data).hexdigest()})
