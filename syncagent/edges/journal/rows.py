"""What the journal hands out: rows, and how they are read. Values only."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, NamedTuple

from syncagent.core.model import OWED, Digest, Facts, Part, State

_COLUMNS = (
    "v.id, a.name, d.path, v.name, v.size, v.mtime_ns, v.ctime_ns, v.inode, v.state, v.reason, v.attempts, v.due,"
    " v.recorded, v.key, v.sha256, v.md5, v.etag, v.unsettled, v.cloud_path, v.message, v.position, v.confirmed_at,"
    " v.handled, v.body, v.said, v.said_key"
)
ROWS = f"SELECT {_COLUMNS} FROM version v JOIN address a ON a.id = v.address JOIN directory d ON d.id = v.directory"
OWED_WORDS = ", ".join(f"'{state}'" for state in sorted(OWED))
#: Why a row waits whose message came before its file was there, or finished.
FOR_FILE = "file"
#: Never due: what ends this waiting is the file.
NEVER = 1e300
#: Why a version is GONE whose handler wants it not to be sent; its file is still there, and no news.
DROPPED = "dropped by its handler"
#: Nothing of what a handler made of a version counts any more.
UNHANDLED = "handled = 0, body = NULL, body_size = NULL, said = NULL, said_key = NULL"
LIVE = f"(v.state NOT IN ('removed', 'superseded', 'gone', 'lost') OR (v.state = 'gone' AND v.reason = '{DROPPED}'))"
#: The versions that LIVE is asked of, by the index of those alone: old rows of a name must cost nothing.
LIVE_VERSIONS = "version v INDEXED BY version_live"


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
    is_handled: bool = False
    body: str | None = None  # what a handler made of it, below the directory of handled files
    said: str | None = None  # what a handler said of it, as JSON
    said_key: str | None = None

    @property
    def wording(self) -> str | None:
        """The message that travels with it: what its handler made of the one that asked for it, or that one."""
        return self.said if self.is_handled and self.said is not None else self.message

    @property
    def wanted_key(self) -> str | None:
        """The key that was asked for, by its handler if that had a word."""
        return self.said_key if self.is_handled and self.said is not None else self.cloud_path


class Known(NamedTuple):
    """What the journal says of one name, for one address: enough to tell whether a file is news."""

    id: int
    address: str
    facts: Facts
    state: State
    reason: str = ""
    is_unsettled: bool = False

    @property
    def is_expected(self) -> bool:
        """Whether it waits for the file to be there and finished."""
        return is_expected(self.state, self.reason)


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
class Ask:
    """A message's wish: one file for one address, under its own key or the one that is named."""

    address: str
    path: str
    cloud_path: str | None
    message: str  # the whole message, as JSON


@dataclass(frozen=True, slots=True)
class Tally:
    files: int
    bytes: int


def is_expected(state: State, reason: str) -> bool:
    """Whether a row waits for its file to be there and finished, so that it has no version yet."""
    return state is State.SETTLING or (state is State.WAITING and reason == FOR_FILE)


def split_path(path: str) -> tuple[bytes, bytes]:
    head, _, name = path.rpartition("/")
    if path.startswith("/") and not head:
        head = "/"
    return os.fsencode(head), os.fsencode(name)


def join_path(directory: bytes, name: bytes) -> str:
    return os.fsdecode(os.path.join(directory, name))


def row_of(values: tuple[Any, ...]) -> Row:
    (row_id, address, head, name, size, mtime_ns, ctime_ns, inode, state, reason, attempts, due) = values[:12]
    (recorded, key, sha256, md5, etag, unsettled, cloud_path, message, position, confirmed_at) = values[12:22]
    handled, body, said, said_key = values[22:]
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
        is_handled=bool(handled),
        body=os.fsdecode(body) if body is not None else None,
        said=said,
        said_key=said_key,
    )
