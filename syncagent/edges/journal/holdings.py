"""What the bucket should hold, in the order of keys, for whoever compares."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from syncagent.core.model import Digest

from .base import JournalBase
from .rows import OWED_WORDS, ROWS, Row, join_path

BATCH = 1_000


@dataclass(frozen=True, slots=True)
class Sent:
    """The version that was confirmed last under a key."""

    key: str
    path: str
    size_bytes: int
    digest: Digest
    etag: str | None
    address: str


class Holdings(JournalBase):
    """The part of the journal that is compared with the bucket; it only reads."""

    def sent_by(self, addresses: Sequence[str]) -> Iterator[Sent]:
        """What lies under each key, in the order of keys, of addresses that share a store; a batch in memory.

        What was confirmed before an address was given another bucket lies in the old one.
        """
        marks = ", ".join("?" * len(addresses))
        last: tuple[str, int] = ("", -1)
        held: Sent | None = None
        while True:
            found = self._read(
                "SELECT v.key, v.position, d.path, v.name, coalesce(v.body_size, v.size), v.md5, v.sha256, v.etag,"
                " a.name"
                " FROM version v JOIN address a ON a.id = v.address JOIN directory d ON d.id = v.directory"
                " WHERE v.key IS NOT NULL AND (v.key, v.position) > (?, ?) AND v.position IS NOT NULL"
                f" AND v.state IN ('confirmed', 'removed') AND a.name IN ({marks}) AND v.position >"
                " (SELECT coalesce(max(r.since), 0) FROM residence r WHERE r.address = v.address)"
                " ORDER BY v.key, v.position LIMIT ?",
                (*last, *addresses, BATCH),
            )
            for key, _, head, name, size, md5, sha256, etag, address in found:
                if held is not None and held.key != key:
                    yield held
                held = Sent(key, join_path(head, name), size, Digest(bytes(md5), bytes(sha256)), etag, address)
            if len(found) < BATCH:
                break
            last = (found[-1][0], found[-1][1])
        if held is not None:
            yield held

    def knows_key(self, key: str) -> bool:
        """Whether any version was, or is being, sent under that key."""
        return bool(self._read("SELECT 1 FROM version WHERE key = ? LIMIT 1", (key,)))

    def unsent_rows(self) -> Iterator[Row]:
        """Versions that the bucket does not have yet, and those that never will be sent as they are."""
        last = 0
        while found := self.rows(
            f"{ROWS} WHERE v.state IN ({OWED_WORDS}, 'parked') AND v.id > ? ORDER BY v.id LIMIT ?", (last, BATCH)
        ):
            yield from found
            last = found[-1].id
