"""The nouns: what a file version is, the states it goes through, and which moves are legal."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple


class State(StrEnum):
    """Where one version of one file stands, for one address."""

    SETTLING = "settling"  # seen, not yet finished
    READY = "ready"  # finished and recorded; may be sent
    SENDING = "sending"  # its key is chosen and a request may be on its way
    CONFIRMED = "confirmed"  # the store proved our digest
    REMOVED = "removed"  # confirmed, and the local file is gone
    WAITING = "waiting"  # will be tried again; the reason says after what
    PARKED = "parked"  # can never succeed as it is; released by `retry`
    SUPERSEDED = "superseded"  # its bytes were replaced by a later version before they were sent
    GONE = "gone"  # its writer removed it before it was sent
    LOST = "lost"  # dropped unsent from a full card, because the owner allowed it


#: Every move that the journal accepts. A process that dies leaves SENDING, which the next start turns into READY.
TRANSITIONS: dict[State, frozenset[State]] = {
    State.SETTLING: frozenset({State.READY, State.WAITING, State.PARKED, State.SUPERSEDED, State.GONE}),
    State.READY: frozenset(
        {
            State.SETTLING,  # its file changed after it was recorded
            State.SENDING,
            State.CONFIRMED,
            State.WAITING,
            State.PARKED,
            State.SUPERSEDED,
            State.GONE,
            State.LOST,
        }
    ),
    State.SENDING: frozenset(
        {
            State.SETTLING,
            State.CONFIRMED,
            State.READY,
            State.WAITING,
            State.PARKED,
            State.SUPERSEDED,
            State.GONE,
        }
    ),
    State.CONFIRMED: frozenset({State.REMOVED}),
    State.REMOVED: frozenset({State.CONFIRMED}),  # a disk that was away came back
    State.WAITING: frozenset({State.READY, State.PARKED, State.SUPERSEDED, State.GONE, State.LOST}),
    State.PARKED: frozenset({State.READY, State.SUPERSEDED, State.GONE, State.LOST}),
    # REMOVED: a request was on its way when a later version came, or the file went, and the store took it after all.
    State.SUPERSEDED: frozenset({State.READY, State.REMOVED}),  # READY: the old bytes came back under the old name
    State.GONE: frozenset({State.READY, State.REMOVED, State.GONE}),  # GONE: its file went, too
    # READY: its file is there after all, because the process ended between the row and the removal.
    State.LOST: frozenset({State.REMOVED, State.READY}),
}

#: States whose bytes are still owed to the bucket.
OWED = frozenset({State.SETTLING, State.READY, State.SENDING, State.WAITING})


class Facts(NamedTuple):
    """What one `stat` says of one regular file; two equal Facts are taken for the same bytes.

    A tuple, because a scan makes two of them for every file on the disk.
    """

    size_bytes: int
    mtime_ns: int
    ctime_ns: int
    inode: int


@dataclass(frozen=True, slots=True)
class Digest:
    """MD5 (16 bytes) is what S3 proves with; SHA-256 (32 bytes) names a version."""

    md5: bytes
    sha256: bytes


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a multipart upload as the store confirmed it. `number` counts from 1."""

    number: int
    size_bytes: int
    etag: str  # without quotes


@dataclass(frozen=True, slots=True)
class ObjectFacts:
    """What the store says of one object, from HEAD or from a listing. Listings carry no metadata."""

    key: str
    size_bytes: int
    etag: str  # without quotes; MD5 in hex, or "<MD5 of MD5s>-<parts>", or anything at all
    metadata: dict[str, str] = field(default_factory=dict)
