"""The journal's tables, and the steps that bring an older journal to them.

`PRAGMA user_version` says how many steps a file has seen. A step is never edited once released: add another.
"""

from __future__ import annotations

import sqlite3

#: Small pages: one transaction touches a few rows, and every touched page is written to the card twice.
PAGE_BYTES = 1024

_FIRST = """
CREATE TABLE directory(
    id INTEGER PRIMARY KEY,
    path BLOB NOT NULL UNIQUE               -- relative to the base directory, or absolute; bytes as the disk has them
);
CREATE TABLE address(
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    store TEXT NOT NULL                     -- endpoint and bucket: keys are unique within it
);
CREATE TABLE residence(                     -- which store an address sent to, after which position
    address INTEGER NOT NULL,
    since INTEGER NOT NULL,
    store TEXT NOT NULL,
    PRIMARY KEY (address, since)
) WITHOUT ROWID;
CREATE TABLE version(
    id INTEGER PRIMARY KEY,
    address INTEGER NOT NULL,
    directory INTEGER NOT NULL,
    name BLOB NOT NULL,
    size INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL,
    ctime_ns INTEGER NOT NULL,
    inode INTEGER NOT NULL,
    state TEXT NOT NULL,
    reason TEXT NOT NULL DEFAULT '',
    attempts INTEGER NOT NULL DEFAULT 0,
    due REAL NOT NULL DEFAULT 0,            -- monotonic seconds of the run that wrote it
    recorded REAL NOT NULL,                 -- journal time, see edges/journal/__init__.py
    key TEXT,
    sha256 BLOB,
    md5 BLOB,
    etag TEXT,
    unsettled INTEGER NOT NULL DEFAULT 0,
    cloud_path TEXT,                        -- the key that a person or a message asked for
    message TEXT,                           -- the message that asked for it, as JSON
    position INTEGER,                       -- order of confirmation, counts from 1
    confirmed REAL,                         -- journal time
    confirmed_at REAL                       -- UTC, seconds since 1970: for people
);
CREATE INDEX version_place ON version(directory, name);
CREATE INDEX version_ready ON version(address, attempts, mtime_ns) WHERE state = 'ready';
CREATE INDEX version_waiting ON version(due) WHERE state = 'waiting';
CREATE INDEX version_settling ON version(id) WHERE state = 'settling';
CREATE INDEX version_key ON version(key) WHERE key IS NOT NULL;
CREATE INDEX version_position ON version(position) WHERE position IS NOT NULL;
CREATE TABLE upload(                        -- a multipart upload that is on its way
    version INTEGER PRIMARY KEY,
    upload_id TEXT NOT NULL,
    key TEXT NOT NULL,
    sha256 BLOB NOT NULL,                   -- of the version that its parts are of
    part_bytes INTEGER NOT NULL,
    created REAL NOT NULL                   -- journal time
);
CREATE TABLE part(
    version INTEGER NOT NULL,
    number INTEGER NOT NULL,
    size INTEGER NOT NULL,
    md5 BLOB NOT NULL,
    etag TEXT NOT NULL,
    PRIMARY KEY (version, number)
) WITHOUT ROWID;
CREATE TABLE foreign_object(                -- what a listing found that this journal did not put there
    store TEXT NOT NULL,
    key TEXT NOT NULL,
    size INTEGER NOT NULL,
    etag TEXT NOT NULL,
    PRIMARY KEY (store, key)
) WITHOUT ROWID;
CREATE TABLE note(name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"""

_MESSAGES = """
CREATE TABLE message(                       -- what was taken from the inbox; asked for again, it is not acted on again
    digest BLOB PRIMARY KEY,                -- SHA-256 of the whole message
    type TEXT NOT NULL,
    taken REAL NOT NULL                     -- journal time
) WITHOUT ROWID;
ALTER TABLE version ADD COLUMN handled INTEGER NOT NULL DEFAULT 0;  -- its address's handler has seen it
ALTER TABLE version ADD COLUMN body BLOB;   -- what the handler made of it, below the directory of handled files
ALTER TABLE version ADD COLUMN body_size INTEGER;
ALTER TABLE version ADD COLUMN said TEXT;   -- what the handler said of it, in the words of a message
ALTER TABLE version ADD COLUMN said_key TEXT;  -- the key that the handler named
CREATE INDEX version_expected ON version(id) WHERE state = 'waiting' AND reason = 'file';
"""

# Of a name that is overwritten all day there are tens of thousands of rows, and a few that matter. The condition is
# that of `rows.LIVE`; a query that says `INDEXED BY version_live` fails when the two differ.
_LIVE = """
CREATE INDEX version_live ON version(directory, name) WHERE
    (state NOT IN ('removed', 'superseded', 'gone', 'lost') OR (state = 'gone' AND reason = 'dropped by its handler'));
"""

_FIRMWARE = """
CREATE TABLE firmware_release(
    id INTEGER PRIMARY KEY,
    component TEXT NOT NULL,
    release TEXT NOT NULL,                  -- its manifest's id
    identity TEXT NOT NULL,                 -- of its bytes: the SHA-256, or, where nobody said one, its manifest's
    key TEXT NOT NULL,                      -- the image's object
    length INTEGER,
    sha256 TEXT,
    manifest TEXT NOT NULL,                 -- its custom object, as JSON
    is_signed INTEGER NOT NULL,
    phase TEXT NOT NULL,
    reason TEXT NOT NULL,
    transitions INTEGER NOT NULL,
    etag TEXT NOT NULL DEFAULT '',          -- of the image's object, while it is fetched
    spent INTEGER NOT NULL DEFAULT 0,       -- bytes that came for it
    basis TEXT NOT NULL DEFAULT '',         -- what the metadata was when it failed
    is_retryable INTEGER NOT NULL DEFAULT 1,
    changed_at REAL NOT NULL,               -- UTC, seconds since 1970: for people, like activated_at
    activated_at REAL,
    is_receipted INTEGER NOT NULL DEFAULT 0,
    is_hooked INTEGER NOT NULL DEFAULT 0,
    is_kept INTEGER NOT NULL DEFAULT 0      -- its bytes are on the disk
);
CREATE INDEX firmware_release_name ON firmware_release(component, release);
CREATE TABLE firmware_step(                 -- every transition; at most 28 of a release
    id INTEGER PRIMARY KEY,
    release INTEGER NOT NULL,
    phase TEXT NOT NULL,
    reason TEXT NOT NULL,
    at REAL NOT NULL                        -- UTC, seconds since 1970
);
CREATE INDEX firmware_step_release ON firmware_step(release);
CREATE TABLE firmware_component(
    component TEXT PRIMARY KEY,
    release INTEGER,                        -- the one in use
    source TEXT,                            -- where `memory` is from: store, path, channel and root of trust
    memory TEXT,                            -- high-water marks, floor of the clock, what was verified last
    security_version INTEGER,
    intent TEXT,                            -- a rollback that has begun
    face TEXT                               -- what status shows
) WITHOUT ROWID;
"""

_RETENTION = """
CREATE INDEX version_confirmed ON version(confirmed) WHERE state = 'confirmed';
ALTER TABLE version ADD COLUMN lost_at REAL;  -- UTC, seconds since 1970: when it was dropped unsent
CREATE INDEX version_lost ON version(id) WHERE state = 'lost';
"""

# A row that grows by a key and two digests when it is confirmed has no room left on its page, and SQLite then writes
# its neighbours' pages, too: three for each file.
_ROOM = """
ALTER TABLE version ADD COLUMN room BLOB;   -- zeros, until what a confirmation adds takes their place
"""

STEPS: tuple[str, ...] = (_FIRST, _MESSAGES, _LIVE, _FIRMWARE, _RETENTION, _ROOM)


def _version(connection: sqlite3.Connection) -> int:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > len(STEPS):
        raise ValueError(f"the journal has schema {version}, this release knows {len(STEPS)}")
    return int(version)


def is_current(connection: sqlite3.Connection) -> bool:
    """Whether the journal can be read as it is; False when it has no tables yet.

    Raises: ValueError when the file was written by another release.
    """
    version = _version(connection)
    if 0 < version < len(STEPS):
        raise ValueError(f"the journal has schema {version}; start the agent, which brings it to {len(STEPS)}")
    return version > 0


def migrate(connection: sqlite3.Connection) -> None:
    """Bring the journal to the newest schema; each step is one transaction.

    Raises: ValueError when the file was written by a newer release.
    """
    version = _version(connection)
    for number, step in enumerate(STEPS[version:], start=version + 1):
        connection.executescript(f"BEGIN IMMEDIATE;\n{step}\nPRAGMA user_version = {number};\nCOMMIT;")
