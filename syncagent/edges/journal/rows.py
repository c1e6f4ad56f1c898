"""What the journal hands out: rows, and how they are read. Values only."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from syncagent.core.model import OWED, Digest, Facts, Part, State

_COLUMNS = (
    "v.id, a.name, d.path, v.name, v.size, v.mtime_ns, v.ctime_ns, v.inode, v.state, v.reason, v.attempts, v.due,"
    " v.recorded, v.key, v.sha256, v.md5, v.etag, v.unsettled, v.cloud_path, v.message, v.position, v.confirmed_at"
)
ROWS = f"SELECT {_COLUMNS} FROM version v JOIN address a ON a.id = v.address JOIN directory d ON d.id = v.directory"
OWED_WORDS = ", ".join(f"'{state}'" for state in sorted(OWED))
LIVE = "state NOT IN ('removed', 'superseded', 'gone', 'lost')"


@dataclass(frozen=True, slots=True)
class Row:
    """One version of one file for one address. `path` is relative to the base directory, or absolute."""

    id: int
    address: str
    path: str
    facts: Facts
    state: State
    reason: str
    attempts: int
    due: float
    recorded: float
    key: str | None
    digest: Digest | None
    etag: str | None
    is_unsettled: bool
    cloud_path: str | None
    message: str | None
    position: int | None
    confirmed_at: float | None


@dataclass(frozen=True, slots=True)
class Known:
    """What the journal says of one name, for one address: enough to tell whether a file is news."""

    id: int
    address: str
    facts: Facts
    state: State
    is_unsettled: bool = False


@dataclass(frozen=True, slots=True)
class Upload:
    """A multipart upload on its way, with the parts that the store confirmed."""

    upload_id: str
    key: str
    sha256: bytes  # of the version that its parts are of
    part_bytes: int
    parts: tuple[tuple[Part, bytes], ...]  # with the MD5 of each


@dataclass(frozen=True, slots=True)
class Arrival:
    """A finished version to record for one address."""

    address: str
    path: str
    facts: Facts
    is_unsettled: bool = False
    is_wanted: bool = True  # by the address itself; else only what somebody asked for is recorded


@dataclass(frozen=True, slots=True)
class Tally:
    files: int
    bytes: int


def split_path(path: str) -> tuple[bytes, bytes]:
    head, _, name = path.rpartition("/")
    if path.startswith("/") and not head:
        head = "/"
    return os.fsencode(head), os.fsencode(name)


def join_path(directory: bytes, name: bytes) -> str:
    return os.fsdecode(os.path.join(directory, name))


def row_of(values: tuple[Any, ...]) -> Row:
    (row_id, address, head, name, size, mtime_ns, ctime_ns, inode, state, reason, attempts, due) = values[:12]
    (recorded, key, sha256, md5, etag, unsettled, cloud_path, message, position, confirmed_at) = values[12:]
    return Row(
        id=row_id,
        address=address,
        path=join_path(head, name),
        facts=Facts(size, mtime_ns, ctime_ns, inode),
        state=State(state),
        reason=reason,
        attempts=attempts,
        due=due,
        recorded=recorded,
        key=key,
        digest=Digest(md5, sha256) if sha256 is not None else None,
        etag=etag,
        is_unsettled=bool(unsettled),
        cloud_path=cloud_path,
        message=message,
        position=position,
        confirmed_at=confirmed_at,
    )
