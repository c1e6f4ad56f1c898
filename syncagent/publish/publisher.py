"""A publisher at work: one key directory, one repository in one bucket.

Owns `root.json` (the newest trusted root) and `seen.json` (what this machine has seen) in the key directory, and the
directories that signatures are gathered in. Promises: nothing is signed that was not verified first.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from tuf.api.metadata import Metadata, Root

from syncagent.core.errors import Blocked, Refused, SyncagentError, Transient
from syncagent.core.manifest import Manifest, image_name
from syncagent.core.model import Digest
from syncagent.edges.files import PinnedFile, facts_of, look, make_directory, words, write_whole
from syncagent.publish.changes import begin, offer
from syncagent.publish.keys import KeyRing, read_file
from syncagent.publish.reading import MAX_METADATA_BYTES, Held, Seen, parsed, seen_from_json, seen_to_json, taken_of
from syncagent.publish.releases import release
from syncagent.publish.repository import TOP_ROLES, AnyMetadata, Draft, Repository, verified
from syncagent.publish.shelf import Copy, Image, Shelf, Upload

ROOT_FILE = "root.json"
SEEN_FILE = "seen.json"
DRAFT_FILE = "draft.json"


@dataclass(frozen=True, slots=True)
class LocalImage:
    """An image on the publisher's disk, pinned: what is uploaded is what was hashed."""

    path: str
    pinned: PinnedFile
    digest: Digest

    @classmethod
    def open(cls, path: str) -> LocalImage:
        """Raises: Refused."""
        folder, _, name = os.path.realpath(path).rpartition("/")
        try:
            status = look(folder or "/", name)
            if status is None:
                raise Refused("it is not there")
            if not stat.S_ISREG(status.st_mode):
                raise Refused("it is no regular file")
            pinned = PinnedFile.open(folder or "/", name, facts=facts_of(status))
            return cls(os.path.join(folder, name), pinned, pinned.digest())
        except SyncagentError as error:
            raise Refused(f"{path}: {error}") from error

    @property
    def size_bytes(self) -> int:
        return self.pinned.size_bytes

    def upload(self, name: str) -> Upload:
        return Upload(name, self.digest, self.pinned.stretch(0, self.pinned.size_bytes), self.pinned)


class Publisher:
    """Loads, signs and commits. `is_dry`: everything but the writing."""

    def __init__(self, shelf: Shelf, ring: KeyRing, now: datetime, *, is_dry: bool = False) -> None:
        self.shelf = shelf
        self.ring = ring
        self.now = now
        self._is_dry = is_dry
        self._held: Held | None = None

    # -- reading ------------------------------------------------------------------------------------------------------

    def load(self) -> Repository:
        """The repository in force, believed from this directory's root.json on. Raises: Refused."""
        anchor = self._read_own(ROOT_FILE)
        if anchor is None:
            raise Refused(
                f"{self.own_path(ROOT_FILE)} is not there: begin a repository with `syncagent firmware init`,"
                " or bring the file from where that was done"
            )
        self._held = self.shelf.load(anchor, self._seen())
        self._remember(self._held)
        return self._held.repository

    def _seen(self) -> Seen:
        data = self._read_own(SEEN_FILE)
        return seen_from_json(data, self.own_path(SEEN_FILE)) if data is not None else Seen()

    def _remember(self, held: Held) -> None:
        self._write_own(SEEN_FILE, seen_to_json(held.seen))
        self._write_own(ROOT_FILE, held.repository.root.to_bytes())

    # -- offering -----------------------------------------------------------------------------------------------------

    def offer(
        self, repository: Repository, channel: str, manifest: Manifest, *, sha256_hex: str, size_bytes: int
    ) -> tuple[Draft, str]:
        """The repository with a release of an image in a channel, and the image's name below `targets/`.

        Raises: Refused.
        """
        name = image_name(channel, manifest.component, sha256_hex)
        cloud_path = self.shelf.image_key(name)
        target = release(channel, manifest, sha256_hex=sha256_hex, size_bytes=size_bytes, cloud_path=cloud_path)
        return offer(repository, channel, target, now=self.now), name

    # -- beginning ----------------------------------------------------------------------------------------------------

    def begin(self, channels: Sequence[str], thresholds: Mapping[str, int]) -> Draft:
        """A new repository, or the rest of one that was begun. Raises: Refused."""
        names = self.shelf.names()
        if "timestamp.json" in names:
            raise Refused(f"there is a repository at {self.shelf.metadata_key('')} already")
        root: Metadata[Root] | None = None
        own = self._read_own(ROOT_FILE)
        if own is not None:
            root = parsed(own, Root, self.own_path(ROOT_FILE))
            verified(root.signed, "root", root)
            if root.signed.version != 1:
                raise Refused(
                    f"{self.own_path(ROOT_FILE)} is of a repository that was there before;"
                    " move it away to begin another"
                )
        if "1.root.json" in names and (own is None or self.shelf.read(self.shelf.metadata_key("1.root.json")) != own):
            raise Refused(f"{self.shelf.metadata_key('1.root.json')} is of another repository that was begun here")
        keys = {role: [public.key for public in self.ring.public_keys(role)] for role in (*TOP_ROLES, *channels)}
        return begin(keys, channels, self.now, thresholds=thresholds, root=root, taken=taken_of(names))

    # -- writing ------------------------------------------------------------------------------------------------------

    def commit(self, draft: Draft, images: Sequence[Image] = (), *, export_dir: str | None = None) -> list[str]:
        """Sign and write; the names that were written. With `export_dir` what is signed so far goes there instead."""
        self.shelf.check_clock()
        if draft.root.signatures and draft.base is None:
            self._sign_but_root(draft)
        else:
            draft.sign(self.ring.signer)
        if export_dir is not None:
            return self.export(draft, images, export_dir)
        writes = draft.finish(self.ring.signer)
        names = [f"targets/{image.name}" for image in images] + [f"metadata/{write.name}" for write in writes]
        if self._is_dry:
            return names
        if draft.base is None:
            # Kept before it is shown: an `init` that is interrupted goes on with it.
            self._write_own(ROOT_FILE, draft.root.to_bytes())
        self.shelf.commit(self._held, writes, images)
        try:
            self.load()
        except (Transient, Blocked) as error:
            # It is in force, and an error would say that it is not. What is seen of it is noted by the next verb.
            self.shelf.tell(f"it is written, and could not be read back: {error}")
        return names

    def _sign_but_root(self, draft: Draft) -> None:
        """The root of an interrupted `init` may be on devices already: it stays byte for byte what it is."""
        root = draft.changed.pop("root")
        draft.sign(self.ring.signer)
        draft.changed["root"] = root

    # -- signing elsewhere --------------------------------------------------------------------------------------------

    def export(self, draft: Draft, images: Sequence[Image], directory: str) -> list[str]:
        """Write what needs signatures as files, one per role. Images go to the bucket now, where nobody refers to them.

        Raises: Refused.
        """
        if os.path.isdir(directory) and _listed(directory):
            raise Refused(f"{directory} is not empty")
        base = draft.base
        before = {role: metadata.signed.version for role, metadata in base.metadata()} if base else {}
        document = {
            "schema": 1,
            "before": {role: before.get(role, 0) for role in {*draft.changed, "root"}},
            "is_new": base is None,
            "is_root_first": draft.is_root_first,
            "renewed": sorted(draft.renewed),
            "images": [_image_to_json(image) for image in images],
        }
        if not self._is_dry:
            self.shelf.put_images(images)
        make_directory(directory, mode=0o755)
        for role, metadata in draft.changed.items():
            _write(directory, f"{role}.json", metadata.to_bytes())
        _write(directory, DRAFT_FILE, (json.dumps(document, indent=2) + "\n").encode())
        return sorted(f"{role}.json" for role in draft.changed)

    def take_up(self, directory: str) -> tuple[Draft, list[Image]]:
        """What was exported, with the signatures that it got meanwhile. Raises: Refused."""
        try:
            document = json.loads(read_file(os.path.join(directory, DRAFT_FILE)))
            before: dict[str, int] = dict(document["before"])
            changed = {role: self._read_role(directory, role) for role in _roles_in(directory)}
            if document["is_new"]:
                draft = Draft(None, changed["root"], self.now, taken_of(self.shelf.names()), changed)
            else:
                draft = Draft.of(self.load(), self.now)
                draft.changed.update(changed)
                draft.root = changed.get("root", draft.root)
            draft.renewed |= set(document["renewed"])
            draft.is_root_first = bool(document["is_root_first"])
            images: list[Image] = [_image_from_json(entry) for entry in document["images"]]
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            raise Refused(f"{directory} is not what --export wrote") from error
        now = {role: metadata.signed.version for role, metadata in draft.base.metadata()} if draft.base else {}
        for role, version in before.items():
            if now.get(role, 0) != version:
                raise Refused(
                    f"{role} {now.get(role, 0)} was published after {directory} was exported: export it again"
                )
        return draft, images

    def _read_role(self, directory: str, role: str) -> AnyMetadata:
        path = os.path.join(directory, f"{role}.json")
        return parsed(read_file(path, most_bytes=MAX_METADATA_BYTES), object, path)

    # -- the publisher's own files ------------------------------------------------------------------------------------

    def own_path(self, name: str) -> str:
        """The path of one of the publisher's own files."""
        return os.path.join(self.ring.directory, name)

    def _read_own(self, name: str) -> bytes | None:
        """Raises: Refused."""
        path = self.own_path(name)
        return read_file(path, most_bytes=MAX_METADATA_BYTES) if os.path.exists(path) else None

    def _write_own(self, name: str, data: bytes) -> None:
        if self._read_own(name) != data:
            _write(self.ring.directory, name, data)


def _write(directory: str, name: str, data: bytes) -> None:
    try:
        write_whole(directory, name, data)
    except OSError as error:
        raise Refused(f"{os.path.join(directory, name)}: {words(error)}") from error


def _roles_in(directory: str) -> list[str]:
    return sorted(name[:-5] for name in _listed(directory) if name.endswith(".json") and name != DRAFT_FILE)


def _listed(directory: str) -> list[str]:
    """Raises: Refused."""
    try:
        return os.listdir(directory)
    except OSError as error:
        raise Refused(f"{directory}: {words(error)}") from error


def _image_to_json(image: Image) -> dict[str, Any]:
    sha256 = image.sha256 if isinstance(image, Copy) else image.digest.sha256
    size_bytes = image.size_bytes if isinstance(image, Copy) else image.body.size_bytes
    return {"name": image.name, "sha256": sha256.hex(), "size_bytes": size_bytes}


def _image_from_json(entry: Mapping[str, Any]) -> Copy:
    """An image that lies where it belongs; a copy of itself."""
    return Copy(entry["name"], entry["name"], bytes.fromhex(entry["sha256"]), int(entry["size_bytes"]))
