"""An image's upload in parts, remembered in a file, so that another run of the publisher goes on with it."""

from __future__ import annotations

import contextlib
import json
import os
from typing import Any

from syncagent.core.model import Part
from syncagent.edges.files import write_whole

FILE_NAME = "uploads.json"


def begun(path: str | None) -> dict[str, str]:
    """The uploads that were begun here and did not end: their ids, by key."""
    found = {key: Notes(path, key).load() for key in _noted(path)}
    return {key: note[0] for key, note in found.items() if note is not None}


class Notes:
    """What edges/multipart.py wants remembered of one object. `path`: None to remember it for this run alone.

    The file is a convenience: one that is lost, or cannot be written, costs bytes that are sent again.
    """

    def __init__(self, path: str | None, key: str) -> None:
        self._path = path
        self._key = key
        self._note: dict[str, Any] | None = _noted(self._path).get(key)
        try:
            self.load()
        except (KeyError, TypeError, ValueError):  # somebody else's idea of such a file
            self._note = None

    @property
    def sent_bytes(self) -> int:
        return sum(part[1] for part in self._note["parts"]) if self._note else 0

    def load(self) -> tuple[str, int, dict[int, tuple[Part, bytes]]] | None:
        note = self._note
        if note is None:
            return None
        done = {part[0]: (Part(*part[:3]), bytes.fromhex(part[3])) for part in note["parts"]}
        return note["upload_id"], note["part_bytes"], done

    def begun(self, upload_id: str, part_bytes: int) -> None:
        self._keep({"upload_id": upload_id, "part_bytes": part_bytes, "parts": []})

    def reconciled(self) -> None:
        pass  # the store is asked by each run, and after each cut

    def part_done(self, part: Part, md5: bytes) -> None:
        assert self._note is not None
        others = [each for each in self._note["parts"] if each[0] != part.number]
        self._keep({**self._note, "parts": [*others, [part.number, part.size_bytes, part.etag, md5.hex()]]})

    def ended(self) -> None:
        self._keep(None)

    def _keep(self, note: dict[str, Any] | None) -> None:
        self._note = note
        if self._path is None:
            return
        notes = (
            {**_noted(self._path), self._key: note}
            if note
            else {k: v for k, v in _noted(self._path).items() if k != self._key}
        )
        folder, name = os.path.split(self._path)
        with contextlib.suppress(OSError):
            write_whole(folder, name, json.dumps(notes).encode(), mode=0o600)


def _noted(path: str | None) -> dict[str, Any]:
    """What is remembered, by key."""
    with contextlib.suppress(OSError, ValueError):
        if path is not None:
            with open(path, "rb") as file:
                notes = json.load(file)
            if isinstance(notes, dict):
                return notes
    return {}
