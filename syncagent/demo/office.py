"""The publisher of the demo: makes its keys, begins a repository, and publishes one release for the agent to find.

It reaches the store past the bad link. Promises: what it published is known, so that what the agent dropped can be
compared.
"""

from __future__ import annotations

import hashlib
import os
import secrets

from syncagent.core.manifest import Manifest, Rollout
from syncagent.demo.camp import ACCESS_KEY_ID, BUCKET, COMPONENT, FIRMWARE_PATH, REGION, SECRET_ACCESS_KEY, Camp
from syncagent.edges.clock import Clock
from syncagent.edges.objects import S3Store, StoreSettings
from syncagent.publish.keys import KeyRing
from syncagent.publish.publisher import LocalImage, Publisher
from syncagent.publish.repository import TOP_ROLES
from syncagent.publish.shelf import Shelf

VERSION = "1.0.0"
IMAGE_BYTES = 400_000
CHANNEL = "stable"


class Office:
    """Raises: what its store raises, of core/errors.py."""

    def __init__(self, camp: Camp, endpoint_url: str) -> None:
        self._camp = camp
        self._clock = Clock()
        passphrase = secrets.token_urlsafe(24)  # opens what is deleted with the demo
        settings = StoreSettings(
            BUCKET, endpoint_url, REGION, access_key_id=ACCESS_KEY_ID, secret_access_key=SECRET_ACCESS_KEY
        )
        self._store = S3Store(settings, clock=self._clock.now)
        self._ring = KeyRing(os.path.join(camp.directory, "firmware-keys"), lambda _path, _attempt: passphrase)
        self.sha256 = ""

    def _publisher(self) -> Publisher:
        return Publisher(Shelf(self._store, FIRMWARE_PATH), self._ring, self._clock.now())

    def begin(self) -> None:
        """Keys, an empty repository, and what the agent trusts beside its configuration."""
        for role in (*TOP_ROLES, CHANNEL):
            self._ring.generate(role, role)
        publisher = self._publisher()
        publisher.commit(publisher.begin((CHANNEL,), {}))
        with open(publisher.own_path("root.json"), "rb") as file:
            root = file.read()
        os.makedirs(self._camp.config_dir, exist_ok=True)
        with open(os.path.join(self._camp.config_dir, "root.json"), "wb") as file:
            file.write(root)

    def publish(self) -> None:
        """One release, with an image as good as any."""
        path = os.path.join(self._camp.scratch_dir, "camera.bin")
        with open(path, "wb") as file:
            file.write(os.urandom(IMAGE_BYTES))
        image = LocalImage.open(path)
        sha256_hex = image.digest.sha256.hex()
        publisher = self._publisher()
        now = self._clock.now().replace(microsecond=0)
        rollout = Rollout(secrets.token_hex(8))
        manifest = Manifest(
            id=VERSION, time=now, file_name="camera", component=COMPONENT, version=VERSION, rollout=rollout
        )
        draft, name = publisher.offer(
            publisher.load(), CHANNEL, manifest, sha256_hex=sha256_hex, size_bytes=image.size_bytes
        )
        publisher.commit(draft, [image.upload(name)])
        self.sha256 = sha256_hex

    def dropped(self) -> bool:
        """Whether the agent's disk has the image, whole. Raises: OSError."""
        path = os.path.join(self._camp.directory, "generated_data", "firmware_images", "camera.bin")
        if not self.sha256 or not os.path.exists(path):
            return False
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == self.sha256

    def close(self) -> None:
        self._store.close()
