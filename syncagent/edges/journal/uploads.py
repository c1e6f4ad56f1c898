"""Multipart uploads that are on their way: their ids, and the parts that the store confirmed."""

from __future__ import annotations

import sqlite3

from syncagent.core.model import Part

from .base import JournalBase
from .rows import Row, Upload


class Uploads(JournalBase):
    """The multipart part of the journal."""

    def upload_of(self, row: Row) -> Upload | None:
        """The multipart upload of a row that is on its way."""
        found = self._read("SELECT upload_id, part_bytes FROM upload WHERE version = ?", (row.id,))
        if not found:
            return None
        parts = self._read("SELECT number, size, md5, etag FROM part WHERE version = ? ORDER BY number", (row.id,))
        upload_id, part_bytes = found[0]
        return Upload(
            upload_id, part_bytes, tuple((Part(number, size, etag), bytes(md5)) for number, size, md5, etag in parts)
        )

    def upload_begun(self, row: Row, upload_id: str, part_bytes: int) -> None:
        """Durable: an upload id that is forgotten is an orphan that nobody aborts."""

        def apply(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM part WHERE version = ?", (row.id,))
            connection.execute(
                "INSERT OR REPLACE INTO upload VALUES (?, ?, ?, ?)",
                (row.id, upload_id, part_bytes, self.time()),
            )

        self._write(apply, durable=True)

    def part_done(self, row: Row, part: Part, md5: bytes) -> None:
        """Durable: a part that is forgotten is sent again."""

        def apply(connection: sqlite3.Connection) -> None:
            connection.execute(
                "INSERT OR REPLACE INTO part VALUES (?, ?, ?, ?, ?)",
                (row.id, part.number, part.size_bytes, md5, part.etag),
            )

        self._write(apply, durable=True)

    def upload_ended(self, row_id: int) -> None:
        """The upload is aborted, or unknown to the store."""

        def apply(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM part WHERE version = ?", (row_id,))
            connection.execute("DELETE FROM upload WHERE version = ?", (row_id,))

        self._write(apply)

    def orphans(self) -> list[tuple[Row, str]]:
        """Uploads of our own whose version will never be sent: (row, upload id)."""
        ids = self._read(
            "SELECT u.version, u.upload_id FROM upload u JOIN version v ON v.id = u.version"
            " WHERE v.state IN ('superseded', 'gone', 'lost', 'parked', 'confirmed', 'removed')"
        )
        return [(self.row(row_id), upload_id) for row_id, upload_id in ids]
