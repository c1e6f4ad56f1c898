"""The repository's place in the bucket: reads it as a client would, and writes a plan so that only one can win.

Promises: what `load` returns was verified from the trusted root on; nothing that is referenced is replaced, and
`timestamp.json`, the commit, only while it is the one that was read. A store without conditional writes gets
read-check-write instead, and `is_careful` says so. Whatever is interrupted leaves the old repository in force.
Leaves to others: what shall be written (publish/repository.py).
"""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from syncagent.core.errors import KeyTaken, Refused, SyncagentError, Transient, Trouble, UploadGone
from syncagent.core.model import Digest, ObjectFacts
from syncagent.core.retry import backoff_s
from syncagent.edges.clock import Stop
from syncagent.edges.files import Content, PinnedFile, digest_of
from syncagent.edges.multipart import MIB, MIN_PART_BYTES, NotBegun, Parcel, Shipment, give_up
from syncagent.edges.orders import ObjectStore, PutRequest
from syncagent.edges.payload import Body
from syncagent.publish.reading import MAX_METADATA_BYTES, Held, Reader, Seen
from syncagent.publish.repository import Write
from syncagent.publish.uploads import Notes, begun

ATTEMPTS = 4
#: Expiries are in days; a clock that is off by more than a slow network explains is a wrong one.
MAX_SKEW_S = 300.0
#: An image that is larger goes in parts: a cut costs one of them.
MULTIPART_BYTES = 8 * MIB

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
    pinned: PinnedFile | None = None  # the same bytes, where they can be read in parts


@dataclass(frozen=True, slots=True)
class Copy:
    """An image that the bucket holds under another name."""

    source: str
    name: str
    sha256: bytes
    size_bytes: int


Image = Upload | Copy


class Shelf:
    """One repository in one bucket. `path` is the carrier's; `tell` takes a line for people; `wait` is for tests."""

    def __init__(
        self,
        store: Store,
        path: str,
        *,
        is_conditional: bool | None = None,
        wait: Callable[[float], object] | None = None,
        tell: Callable[[str], None] = lambda _line: None,
        notes: str | None = None,
        on_parts: Callable[[int, int], None] = lambda _sent_bytes, _size_bytes: None,
    ) -> None:
        """`notes`: the file in which uploads in parts are remembered. `on_parts` is told between two parts how much of
        an image is there."""
        self._store = store
        self._prefix = f"{path}/" if path else ""
        self._is_conditional = is_conditional
        self._wait = wait or Stop().wait
        self.tell = tell
        self._notes = notes
        self._on_parts = on_parts

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
        reader = Reader(lambda name, limit: self.read(self.metadata_key(name), limit_bytes=limit), names)
        return Held(reader.repository(anchor, data, seen or Seen()), facts.etag, data)

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
        except Refused as error:
            # Its bytes tell whether an attempt without an answer was ours.
            if self._has(key, data):
                return
            # 412, or 404 where it was deleted; anything else that is refused is nobody's doing.
            facts = self.patiently(lambda: self._store.head(key))
            if isinstance(error, KeyTaken) or facts is None or facts.etag != base.etag:
                raise Overtaken from error
            raise

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
            self.tell("the image is in the bucket already")
            return
        if image.pinned is not None and size_bytes > MULTIPART_BYTES and self._put_parts(image, image.pinned):
            return
        # No condition: under this name nothing but these bytes is of use to anybody.
        request = PutRequest(self.image_key(image.name), image.digest, {}, "application/octet-stream")
        self.patiently(lambda: self._store.put(request, image.body))

    def _put_parts(self, image: Upload, pinned: PinnedFile) -> bool:
        """Send an image in parts, from wherever an earlier attempt stopped; False where the store takes none."""
        parcel = Parcel(self.image_key(image.name), image.digest, {}, "application/octet-stream", None, MIN_PART_BYTES)
        notes = Notes(self._notes, parcel.key)

        def between() -> bool:
            self._on_parts(notes.sent_bytes, pinned.size_bytes)
            return False

        def attempt() -> str | None:
            return Shipment(self._store, pinned, notes, parcel).go_on(is_first_in_run=True, gives_way=between)

        is_anew = False
        while True:
            before = notes.sent_bytes
            try:
                self.patiently(attempt)
            except NotBegun:
                return False
            except UploadGone:
                if is_anew:
                    return False
                is_anew = True  # somebody ended it on the way: once more from the beginning, in parts
                continue
            except Transient as error:
                if notes.sent_bytes > before:
                    continue  # patience is for a link that brings nothing
                if error.trouble is Trouble.STORE and not notes.sent_bytes:
                    return False  # such as one that proves no part
                raise
            notes.ended()
            return True

    def _copy(self, image: Copy) -> None:
        def is_there() -> bool:
            return self.is_image(image.name, sha256=image.sha256, size_bytes=image.size_bytes)

        if is_there():
            self.tell("the image is in the bucket already")
            return
        try:
            self._store.copy(self.image_key(image.source), self.image_key(image.name))
            if is_there():
                self.tell("the image was copied within the bucket")
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

    def unfinished(self) -> Sequence[str]:
        """The keys of images whose upload in parts was begun by this publisher, and given up."""
        return [key for key in begun(self._notes) if key.startswith(self.image_key(""))]

    def abort(self, key: str) -> None:
        """Let the store forget the parts of an image that will never be whole."""
        upload_id = begun(self._notes)[key]
        with contextlib.suppress(UploadGone):
            self.patiently(lambda: give_up(self._store, key, upload_id=upload_id))
        Notes(self._notes, key).ended()

    def delete(self, name: str) -> None:
        """Delete one object, by its name."""
        self.patiently(lambda: self._store.delete(self.key(name)))

    def patiently(self, act: Callable[[], _T]) -> _T:
        """Do something that a broken link may interrupt, a few times."""
        for attempt in range(1, ATTEMPTS):
            try:
                return act()
            except Transient as error:
                self.tell(f"{error}; once more")
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
