"""What a component's firmware may never undercut: in the journal, and once more in a file beside the metadata.

Promises: a journal that was torn, lost or put back to an older state opens no way back. Of the two the higher counts;
a copy that cannot be read is told, and the other is used. Both are on the card before anybody acts on what was learnt,
and nothing is written that is there already. The journal knows the source that is followed; the copy also knows those
that were followed before it, so that a channel which is left and taken up again finds its marks.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

from syncagent.core.errors import ManifestRejected, Transient, Trouble
from syncagent.core.release import Floor, Marks, Memory
from syncagent.edges import files
from syncagent.edges.journal import Journal

logger = logging.getLogger(__name__)

FILE_NAME = "high-water.json"
MAX_BYTES = 64 * 1024
#: Of so many sources the marks are kept; who changes channels more often than that is not ours to protect.
MAX_SOURCES = 16

#: The directory of a source's metadata, which is called as the source is.
_OF_A_SOURCE = re.compile(r"metadata-[0-9a-f]{16}")


@dataclass(frozen=True, slots=True)
class _Copy:
    """What the file says: of each source, the one that was followed last at the end, and of the component."""

    sources: Mapping[str, tuple[Marks, Floor]] = field(default_factory=dict)
    security_version: int = 0

    def followed(self, source: str, marks: Marks, floor: Floor) -> _Copy:
        """With what is known of the source that is followed now."""
        others = [(name, known) for name, known in self.sources.items() if name != source]
        return replace(self, sources=dict([*others, (source, (marks, floor))][-MAX_SOURCES:]))

    def to_bytes(self) -> bytes:
        document = {
            "sources": [[name, marks.to_json(), floor.to_json()] for name, (marks, floor) in self.sources.items()],
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
            sources = {
                str(name): (Marks.from_json(marks), Floor.from_json(floor))
                for name, marks, floor in document["sources"]
            }
            return cls(sources, int(document["security_version"]))
        except (KeyError, TypeError, AttributeError, OverflowError, RecursionError, ManifestRejected) as error:
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
        copy = self._read().sources.get(self.source)
        if copy is None:
            return known
        marks, floor = known.joined(*copy)
        if (marks, floor) == (known.marks, known.floor):
            return known
        logger.warning("the journal knows less of the firmware than %s component=%s", FILE_NAME, self.component)
        return Memory(marks=marks, floor=floor)  # the rest is as old as the journal's marks: it is asked for anew

    def remember(self, memory: Memory) -> None:
        """Raises: Transient(DISK)."""
        self.keep(memory)
        self._journal.remember_firmware(self.component, self.source, memory.to_text())
        self._remove_others()

    def keep(self, memory: Memory) -> None:
        """See that the copy says what the journal does. Raises: Transient(DISK)."""
        if memory.marks != Marks():
            copy = self._read().followed(self.source, memory.marks, memory.floor)
            self._write(replace(copy, security_version=self.security_version()))

    def _remove_others(self) -> None:
        """The metadata of what was followed before: its marks are kept here, and the rest can be had again."""
        with contextlib.suppress(OSError):
            for name in os.listdir(self._directory):
                if name != self.source and _OF_A_SOURCE.fullmatch(name):
                    files.remove_tree(self._directory, name)

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
        before = self._read()
        if copy == before and [*copy.sources] == [*before.sources]:
            return
        try:
            os.makedirs(self._directory, mode=0o750, exist_ok=True)
            files.write_whole(self._directory, FILE_NAME, copy.to_bytes(), mode=0o600)
        except OSError as error:
            what = f"{FILE_NAME} cannot be kept: {files.words(error)}"
            raise Transient(what, trouble=Trouble.DISK) from error
