"""What a component's firmware may never undercut: in the journal, and once more in a file beside the metadata.

Promises: a journal that was torn, lost or put back to an older state opens no way back. Of the two the higher counts;
a copy that cannot be read is told, and the other is used. Both are on the card before anybody acts on what was learnt,
and nothing is written that is there already.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from dataclasses import dataclass, field, replace
from typing import Any, Self

from syncagent.core.errors import ManifestRejected, Transient, Trouble
from syncagent.core.release import Floor, Marks, Memory
from syncagent.edges import files
from syncagent.edges.journal import Journal

logger = logging.getLogger(__name__)

FILE_NAME = "high-water.json"
MAX_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class _Copy:
    """What the file says. `source` is whose marks these are; the security version is the component's."""

    source: str = ""
    marks: Marks = field(default_factory=Marks)
    floor: Floor = field(default_factory=Floor)
    security_version: int = 0

    def to_bytes(self) -> bytes:
        document = {
            "source": self.source,
            "marks": self.marks.to_json(),
            "floor": self.floor.to_json(),
            "security_version": self.security_version,
        }
        return json.dumps({"sha256": _digest(document), "marks": document}, sort_keys=True).encode() + b"\n"

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Raises: ValueError, whatever is wrong with it."""
        try:
            whole = json.loads(data)
            document = whole["marks"]
            if whole["sha256"] != _digest(document):
                raise ValueError("its digest differs")
            return cls(
                str(document["source"]),
                Marks.from_json(document["marks"]),
                Floor.from_json(document["floor"]),
                int(document["security_version"]),
            )
        except (KeyError, TypeError, RecursionError, ManifestRejected) as error:
            raise ValueError("it is torn") from error


def _digest(document: Any) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


class HighWater:
    """See the module. `directory` is the component's part of the state; `source` as the channel has it."""

    def __init__(self, directory: str, *, journal: Journal, component: str, source: str) -> None:
        self.component = component
        self.source = source
        self._directory = directory
        self._journal = journal

    def memory(self) -> Memory:
        """What is remembered of the source: with marks alone, where the journal knows less than the copy."""
        known = Memory.from_text(self._journal.firmware_memory(self.component, self.source))
        copy = self._read()
        if copy.source != self.source:
            return known
        marks, floor = known.joined(copy.marks, copy.floor)
        if (marks, floor) == (known.marks, known.floor):
            return known
        logger.warning("the journal knows less of the firmware than %s component=%s", FILE_NAME, self.component)
        return Memory(marks=marks, floor=floor)  # the rest is as old as the journal's marks: it is asked for anew

    def remember(self, memory: Memory) -> None:
        """Raises: Transient(DISK)."""
        self.keep(memory)
        self._journal.remember_firmware(self.component, self.source, memory.to_text())

    def keep(self, memory: Memory) -> None:
        """See that the copy says what the journal does. Raises: Transient(DISK)."""
        if memory.marks != Marks():
            self._write(_Copy(self.source, memory.marks, memory.floor, self.security_version()))

    def security_version(self) -> int:
        """The highest that was accepted, from whatever source."""
        return max(self._journal.security_version(self.component), self._read().security_version)

    def raise_security_version(self, version: int) -> None:
        """Raises: Transient(DISK)."""
        version = max(version, self.security_version())
        self._write(replace(self._read(), security_version=version))
        self._journal.raise_security_version(self.component, version)

    def _read(self) -> _Copy:
        path = os.path.join(self._directory, FILE_NAME)
        try:
            with open(path, "rb") as file:
                return _Copy.from_bytes(file.read(MAX_BYTES))
        except FileNotFoundError:
            pass
        except (OSError, ValueError) as error:
            logger.warning("%s is of no use, the journal's marks are used reason=%s", path, error)
        return _Copy()

    def _write(self, copy: _Copy) -> None:
        if copy == self._read():
            return
        try:
            os.makedirs(self._directory, mode=0o750, exist_ok=True)
            files.write_whole(self._directory, FILE_NAME, copy.to_bytes(), mode=0o600)
        except OSError as error:
            what = f"{FILE_NAME} cannot be kept: {files.words(error)}"
            raise Transient(what, trouble=Trouble.DISK) from error
