"""Compares disk and journal with the bucket: one listing per prefix, one request for each key that is not in them, and
a read-back where an ETag proves nothing.

Changes nothing, here or there, and may run beside the agent: what looks wrong is asked again before it is told.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum

from syncagent.core.errors import Blocked, FileChanged, FileVanished, Refused, Transient, Trouble
from syncagent.core.model import OWED, Facts, ObjectFacts, State
from syncagent.core.places import Places
from syncagent.core.settings import SendAddress
from syncagent.core.territory import Owner, Territory
from syncagent.docks.naming import is_in_corner
from syncagent.docks.survey import prefix_of
from syncagent.edges import files
from syncagent.edges.files import PinnedFile
from syncagent.edges.journal import Journal, Known, Sent
from syncagent.edges.objects import ObjectStore

RIGHTS_REMEDY = "allow it to the access key; `syncagent iam-policy` prints the least policy for AWS"
_OF_PARTS = re.compile(r"[0-9a-f]{32}-[0-9]+")


class Kind(StrEnum):
    MISSING = "missing in the bucket"
    DIFFERENT = "different bytes"
    UNSENT = "unsent"
    UNKNOWN = "object without journal row"


#: What is no fault: other programs may write below the prefix, and a rebuilt journal knows only what is on the disk.
HARMLESS = frozenset({Kind.UNKNOWN})


@dataclass(frozen=True, slots=True)
class Finding:
    kind: Kind
    path: str  # empty where no file is known
    key: str
    detail: str = ""


@dataclass(slots=True)
class Count:
    """What was looked at so far."""

    files: int = 0
    objects: int = 0
    read_back: int = 0


class _OutOfOrder(Exception):
    """The store lists as it likes."""


@dataclass
class Verification:
    """One comparison. `on_step` is called now and then, for whoever shows progress."""

    journal: Journal
    places: Places
    territory: Territory
    on_step: Callable[[str], None] = lambda _what: None
    count: Count = field(default_factory=Count)

    # -- the bucket ---------------------------------------------------------------------------------------------------

    def compare_store(self, addresses: Sequence[SendAddress], stores: Mapping[str, ObjectStore]) -> Iterator[Finding]:
        """What the journal says of one bucket, and what is there, asked through the store of each carrier, by its name.

        Raises: Transient, Blocked, Refused.
        """
        names = [address.name for address in addresses]
        bucket = _Bucket(addresses, stores)
        prefixes = _outermost(prefix_of(address.carrier, address) for address in addresses)
        rows = _Ahead(self.journal.sent_by(names))
        unknown: list[str] = []
        for prefix in prefixes:
            try:
                found = list(self._merge(prefix, rows.below(prefix), _in_order(bucket.list(prefix)), bucket, unknown))
            except _OutOfOrder:
                listed = sorted(bucket.list(prefix), key=lambda facts: facts.key)
                again = (sent for sent in self.journal.sent_by(names) if sent.key.startswith(prefix))
                found = list(self._merge(prefix, again, iter(listed), bucket, unknown))
            yield from found
        for sent in self.journal.sent_by(names):
            if not any(sent.key.startswith(prefix) for prefix in prefixes):
                yield from self._judge(sent, bucket.head(sent), bucket)
        for key in dict.fromkeys(unknown):
            # It may have come while we looked.
            is_own = any(is_in_corner(address.carrier, key) for address in addresses)
            if not is_own and not self.journal.knows_key(key):
                yield Finding(Kind.UNKNOWN, "", key)

    def _merge(
        self,
        prefix: str,
        rows: Iterable[Sent],
        objects: Iterator[ObjectFacts],
        bucket: _Bucket,
        unknown: list[str],
    ) -> Iterator[Finding]:
        """Both in the order of keys."""
        facts = next(objects, None)
        for sent in rows:
            while facts is not None and facts.key < sent.key:
                unknown.append(facts.key)
                facts = self._next(prefix, objects)
            if facts is not None and facts.key == sent.key:
                yield from self._judge(sent, facts, bucket)
                facts = self._next(prefix, objects)
            else:
                # It may have come after its place in the listing went by.
                yield from self._judge(sent, bucket.head(sent), bucket)
        while facts is not None:
            unknown.append(facts.key)
            facts = self._next(prefix, objects)

    def _next(self, prefix: str, objects: Iterator[ObjectFacts]) -> ObjectFacts | None:
        self.count.objects += 1
        self.on_step(f"objects below {prefix or 'the bucket'}")
        return next(objects, None)

    def _judge(self, sent: Sent, facts: ObjectFacts | None, bucket: _Bucket) -> Iterator[Finding]:
        if facts is None:
            yield Finding(Kind.MISSING, sent.path, sent.key)
        elif facts.size_bytes != sent.size_bytes:
            detail = f"{facts.size_bytes} bytes in the bucket, {sent.size_bytes} were sent"
            yield Finding(Kind.DIFFERENT, sent.path, sent.key, detail)
        elif not _is_proof(sent, facts.etag):
            self.count.read_back += 1
            self.on_step(f"reading back {sent.key}")
            whole = hashlib.sha256()
            try:
                for piece in bucket.read(sent):
                    whole.update(piece)
            except Refused:
                yield Finding(Kind.MISSING, sent.path, sent.key)
                return
            if whole.digest() != sent.digest.sha256:
                yield Finding(Kind.DIFFERENT, sent.path, sent.key, f"its SHA-256 is {whole.hexdigest()}")

    # -- the disk -----------------------------------------------------------------------------------------------------

    def compare_disk(self) -> Iterator[Finding]:
        """Files that the bucket does not have, by the journal and by the disk. Raises: JournalBroken."""
        told: set[str] = set()
        for row in self.journal.unsent_rows():
            reason = f"{row.state}({row.reason})" if row.reason else str(row.state)
            told.add(row.path)
            yield Finding(Kind.UNSENT, row.path, row.key or "", reason)
        for owner in self.territory.owners:
            for path, detail in self._walk(owner):
                if path not in told:
                    yield Finding(Kind.UNSENT, path, "", detail)

    def _walk(self, owner: Owner) -> Iterator[tuple[str, str]]:
        todo = [owner.path]
        while todo:
            place = todo.pop()
            for listing in files.scan_directory(self.places.data_root, place):
                for name in listing.directories:
                    inner = f"{place}/{name}" if place else name
                    if self.territory.owner_of(inner) is owner and owner.enters(inner):
                        todo.append(inner)
                if listing.error:
                    yield self.places.path_of(place), f"cannot be read: {listing.error}"
                known = self.journal.known_among(self.places.path_of(place), list(listing.files))
                for name, facts in listing.files.items():
                    inner = f"{place}/{name}" if place else name
                    self.count.files += 1
                    self.on_step(f"files below {self.places.path_of(owner.path)}")
                    why = self._why_unsent(owner, inner, facts, known.get(name, []))
                    if why:
                        yield self.places.path_of(inner), why

    def _why_unsent(self, owner: Owner, place: str, facts: Facts, known: Sequence[Known]) -> str:
        rows = {row.address: row for row in known}
        for address in owner.wanting(place):
            row = rows.get(address.name)
            if row is None:
                return "not recorded yet"
            if row.state in OWED or row.state is State.PARKED:
                return str(row.state)
            if row.state is State.CONFIRMED and row.facts != facts and not self._is_same(row, place, facts):
                return "changed since it was sent"
        return ""

    def _is_same(self, row: Known, place: str, facts: Facts) -> bool:
        """Whether only its ctime is new (`chmod`), which its bytes tell."""
        if (row.facts.size_bytes, row.facts.mtime_ns) != (facts.size_bytes, facts.mtime_ns):
            return False
        try:
            with PinnedFile.open(self.places.data_root, place, facts=facts) as pinned:
                return pinned.digest() == self.journal.row(row.id).digest
        except (FileChanged, FileVanished, Transient):
            return False


class _Bucket:
    """One bucket, asked by each carrier for what is its own: another one's access key may not be allowed to see it."""

    def __init__(self, addresses: Sequence[SendAddress], stores: Mapping[str, ObjectStore]) -> None:
        self._addresses = {address.name: address for address in addresses}
        self._stores = stores

    def list(self, prefix: str) -> Iterator[ObjectFacts]:
        owner = next(each for each in self._addresses.values() if prefix_of(each.carrier, each) == prefix)
        with _refused_right(owner, "list", prefix, "s3:ListBucket"):
            yield from self._stores[owner.carrier.name].list(prefix)

    def head(self, sent: Sent) -> ObjectFacts | None:
        owner, place = self._place_of(sent)
        with _refused_right(owner, "look at", place, "s3:GetObject"):
            return self._stores[owner.carrier.name].head(sent.key)

    def read(self, sent: Sent) -> Iterator[bytes]:
        owner, place = self._place_of(sent)
        with _refused_right(owner, "read", place, "s3:GetObject"):
            yield from self._stores[owner.carrier.name].read(sent.key)

    def _place_of(self, sent: Sent) -> tuple[SendAddress, str]:
        """Whose it is, and the prefix that it lies below: its own key where somebody chose that."""
        owner = self._addresses[sent.address]
        prefix = prefix_of(owner.carrier, owner)
        return owner, prefix if sent.key.startswith(prefix) else sent.key


@contextmanager
def _refused_right(owner: SendAddress, what: str, place: str, action: str) -> Iterator[None]:
    """A 403 that tells who must be allowed what."""
    try:
        yield
    except Blocked as error:
        if error.trouble is not Trouble.FORBIDDEN:
            raise
        raise Blocked(
            f"{error}: the access key of the carrier {owner.carrier.name} may not {what}"
            f" {place + '*' if place.endswith('/') else place or 'the bucket'} ({action})",
            trouble=error.trouble,
            remedy=RIGHTS_REMEDY,
        ) from error


class _Ahead:
    """Rows in the order of keys, taken by prefixes that are in that order, too."""

    def __init__(self, rows: Iterator[Sent]) -> None:
        self._rows = rows
        self._next = next(rows, None)

    def below(self, prefix: str) -> Iterator[Sent]:
        while self._next is not None and self._next.key < prefix:
            self._next = next(self._rows, None)
        while self._next is not None and self._next.key.startswith(prefix):
            row, self._next = self._next, next(self._rows, None)
            yield row


def _outermost(prefixes: Iterable[str]) -> list[str]:
    """Each listing once: a prefix that another one contains is not listed by itself."""
    found: list[str] = []
    for prefix in sorted(set(prefixes)):
        if not any(prefix.startswith(other) for other in found):
            found.append(prefix)
    return found


def _in_order(objects: Iterable[ObjectFacts]) -> Iterator[ObjectFacts]:
    last = ""
    for facts in objects:
        if facts.key < last:
            raise _OutOfOrder
        last = facts.key
        yield facts


def _is_proof(sent: Sent, etag: str) -> bool:
    """Whether the ETag says that the object is the version that was sent; one that is neither an MD5 nor made of those
    of its parts says nothing of bytes."""
    if etag.lower() == sent.digest.md5.hex():
        return True
    return etag == sent.etag and _OF_PARTS.fullmatch(etag) is not None
