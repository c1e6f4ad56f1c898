"""Multipart uploads that are on their way: their ids, and the parts that the store confirmed."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from syncagent.core.model import Part

from .base import JournalBase
from .rows import Row, Upload


class Uploads(JournalBase):
    """The multipart part of the journal."""

    def upload_of(self, row: Row) -> Upload | None:
        """The multipart upload of a row that is on its way."""
        found = self._read("SELECT upload_id, key, sha256, part_bytes FROM upload WHERE version = ?", (row.id,))
        if not found:
            return None
        upload_id, key, sha256, part_bytes = found[0]
        parts = self._read("SELECT number, size, md5, etag FROM part WHERE version = ? ORDER BY number", (row.id,))
        done = tuple((Part(number, size, etag), bytes(md5)) for number, size, md5, etag in parts)
        return Upload(upload_id, key, bytes(sha256), part_bytes, done)

    def upload_begun(self, row: Row, upload_id: str, *, key: str, sha256: bytes, part_bytes: int) -> None:
        """Durable: an upload id that is forgotten is an orphan that nobody aborts."""

        def apply(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM part WHERE version = ?", (row.id,))
            self._uploads.add(row.id)
            connection.execute(
                "INSERT OR REPLACE INTO upload(version, upload_id, key, sha256, part_bytes, created)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                (row.id, upload_id, key, sha256, part_bytes, self.time()),
            )

        self._write(apply, durable=True)

    def part_done(self, row: Row, part: Part, md5: bytes) -> None:
        """Durable: a part that is forgotten is sent again."""
        values = (row.id, part.number, part.size_bytes, md5, part.etag)

        def apply(connection: sqlite3.Connection) -> None:
            connection.execute("INSERT OR REPLACE INTO part VALUES (?, ?, ?, ?, ?)", values)

        self._write(apply, durable=True)

    def upload_ended(self, row_id: int) -> None:
        """The upload is aborted, or unknown to the store."""

        def apply(connection: sqlite3.Connection) -> None:
            end_upload(connection, row_id)
            self._uploads.discard(row_id)

        self._write(apply)

    def orphans(self, addresses: Sequence[str]) -> list[tuple[int, str, str]]:
        """(row id, key, upload id) of these addresses' uploads whose version will not be sent by them any more."""
        marks = ", ".join("?" * len(addresses))
        return [
            (row_id, key, upload_id)
            for row_id, key, upload_id in self._read(
                "SELECT u.version, u.key, u.upload_id FROM upload u JOIN version v ON v.id = u.version"
                f" JOIN address a ON a.id = v.address WHERE a.name IN ({marks})"
                " AND v.state IN ('superseded', 'gone', 'lost', 'parked', 'confirmed', 'removed')",
                tuple(addresses),
            )
        ]


def end_upload(connection: sqlite3.Connection, row_id: int) -> None:
    """Forget a multipart upload and its parts, inside a transaction."""
    connection.execute("DELETE FROM part WHERE version = ?", (row_id,))
    connection.execute("DELETE FROM upload WHERE version = ?", (row_id,))
