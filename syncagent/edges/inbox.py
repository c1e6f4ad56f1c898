"""The message inbox: one directory per message type below generated_data/messages, one file per message.

Promises that a message which `drop` returned for is on the card under its final name, that such a one is never seen in
part, and that one which is refused is kept, its reason beside it, whatever its name. No link is followed below
generated_data, and what cannot be read hides nothing else. What a message means is left to others.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from syncagent.core.errors import FileVanished, Transient, Trouble
from syncagent.core.messages import MAX_MESSAGE_BYTES
from syncagent.core.model import Facts
from syncagent.core.places import GENERATED
from syncagent.edges import files

INBOX = "messages"
REJECTED = "rejected"
#: Group-writable, and what is made in it belongs to its group: cameras and agent are two users.
_MODE = 0o2775
#: Rejected messages of one name that are kept apart.
_MAX_TWINS = 1_000_000
#: Names of rejected messages of which the last number is remembered.
_MAX_REMEMBERED = 1_000
#: Of a name, without what is added to it: a number and an ending.
_MAX_STEM_BYTES = 255 - len(f".{_MAX_TWINS}.reason.txt")

_NO_LINK = "is a link, and none is followed: put a directory there"


@dataclass(frozen=True, slots=True)
class Letter:
    """One file in the inbox. `place` is below generated_data."""

    type: str
    name: str
    facts: Facts

    @property
    def place(self) -> str:
        return f"{INBOX}/{self.type}/{self.name}"


class Inbox:
    """The agent's side, for one thread."""

    def __init__(self, data_root: str) -> None:
        self._data_root = data_root
        self._twins: dict[str, int] = {}  # stem -> the last number that was taken

    def open(self, types: Iterable[str]) -> None:
        """Make the directories that messages are dropped into. Raises: Transient(DISK)."""
        for name in (*sorted(types), REJECTED):
            _make(self._data_root, f"{INBOX}/{name}")

    def letters(self, unread: dict[str, str]) -> Iterator[Letter]:
        """Every `*.json` that is there now, directory by directory; names with a leading dot are still being written.

        What cannot be read is put into `unread`: its place, and why. The others are found all the same.
        """
        for message_type in self._types(unread):
            for listing in files.scan_directory(self._data_root, f"{INBOX}/{message_type}", chunk=500):
                for name, facts in listing.files.items():
                    if name.endswith(".json") and not name.startswith("."):
                        yield Letter(message_type, name, facts)
                _note_unread(listing, unread)

    def _types(self, unread: dict[str, str]) -> list[str]:
        found: list[str] = []
        for listing in files.scan_directory(self._data_root, INBOX):
            found += [name for name in listing.directories if name != REJECTED and not name.startswith(".")]
            _note_unread(listing, unread)
            for name, kind in listing.odd.items():
                if kind == "link" and not name.startswith("."):
                    unread[f"{INBOX}/{name}"] = _NO_LINK
            if listing.missing and os.path.islink(os.path.join(self._data_root, INBOX)):
                unread[INBOX] = _NO_LINK
        return sorted(found)

    def read(self, letter: Letter) -> bytes:
        """All of it, or as much as shows that it is too long.

        Raises: FileVanished; FileChanged while it is written; Transient when it cannot be read.
        """
        with files.PinnedFile.open(self._data_root, letter.place, facts=letter.facts) as pinned:
            data = pinned.read(0, min(letter.facts.size_bytes, MAX_MESSAGE_BYTES + 1))
            pinned.check()
            return data

    def remove(self, letter: Letter) -> None:
        """The message is in the journal. Raises: FileVanished; Transient(DISK)."""
        with _translated(f"cannot remove {letter.place}"):
            files.unlink(self._data_root, letter.place)

    def reject(self, letter: Letter, reason: str) -> str:
        """Set a message aside; returns the name it has there. Raises: FileVanished; Transient(DISK)."""
        name = self._explain(letter.name, reason)
        with _translated(f"cannot set {letter.place} aside"):
            files.rename(self._data_root, letter.place, f"{INBOX}/{REJECTED}/{name}")
        return name

    def reject_text(self, name: str, text: str, reason: str) -> str:
        """Set aside a message that was taken before; returns its name there. Raises: FileVanished; Transient(DISK)."""
        name = self._explain(name, reason)
        with _translated(f"cannot write {name}"):
            files.write_whole(self._data_root, f"{INBOX}/{REJECTED}/{name}", text.encode(), mode=0o664)
        return name

    def _explain(self, name: str, reason: str) -> str:
        """Write the reason under a name that is free, before the message comes there."""
        _make(self._data_root, f"{INBOX}/{REJECTED}")
        stem = name.removesuffix(".json")
        while len(os.fsencode(stem)) > _MAX_STEM_BYTES:
            stem = stem[:-1]
        with _translated(f"cannot write into {INBOX}/{REJECTED}"):
            for number in range(self._twins.get(stem, 1), _MAX_TWINS):
                chosen = stem if number == 1 else f"{stem}.{number}"
                places = (f"{INBOX}/{REJECTED}/{chosen}.json", f"{INBOX}/{REJECTED}/{chosen}.reason.txt")
                if any(files.look(self._data_root, place) is not None for place in places):
                    continue
                files.write_whole(self._data_root, places[1], f"{reason}\n".encode(errors="replace"), mode=0o664)
                if number > 1:
                    if len(self._twins) >= _MAX_REMEMBERED:
                        self._twins.clear()
                    self._twins[stem] = number
                return f"{chosen}.json"
        raise Transient(f"{INBOX}/{REJECTED} holds too many messages called {name}", trouble=Trouble.DISK)


class Outbox:
    """Bytes that are no file of a camera's, kept until the store has them."""

    def __init__(self, directory: str) -> None:
        self.directory = os.path.realpath(directory)

    def keep(self, name: str, data: bytes) -> str:
        """Put them on the card; returns the absolute path. Raises: Transient(DISK)."""
        files.make_directory(self.directory, mode=0o750)
        with _translated(f"cannot write to {self.directory}"):
            files.write_whole(self.directory, name, data)
        return os.path.join(self.directory, name)

    def kept(self) -> Iterator[str]:
        """Absolute paths of what is there."""
        for listing in files.scan_directory(self.directory, ""):
            yield from (os.path.join(self.directory, name) for name in listing.files if not name.startswith("."))

    def remove(self, path: str) -> None:
        """The store has it. Raises: Transient(DISK)."""
        with _translated(f"cannot remove {path}"):
            files.unlink(self.directory, os.path.basename(path))


def drop(base_dir: str, message_type: str, name: str, data: bytes) -> None:
    """Put one message into the inbox of a base directory, durable; the agent need not run. Raises: Transient(DISK)."""
    if not os.path.isdir(base_dir):
        raise Transient(f"there is no directory {base_dir}", trouble=Trouble.DISK)
    data_root = os.path.realpath(os.path.join(base_dir, GENERATED))
    files.make_directory(data_root)
    place = f"{INBOX}/{message_type}"
    _make(data_root, place)
    with _translated(f"cannot write to {os.path.join(data_root, place)}"):
        files.write_whole(data_root, f"{place}/{name}", data, mode=0o664)


def _note_unread(listing: files.Listing, unread: dict[str, str]) -> None:
    if listing.error:
        unread[listing.path] = f"cannot be read: {listing.error}"
    for name, why in listing.unreadable.items():
        unread[f"{listing.path}/{name}"] = f"cannot be read: {why}"


def _make(data_root: str, place: str) -> None:
    for above in (os.path.dirname(place), place):
        if os.path.islink(os.path.join(data_root, above)):
            raise Transient(f"{above} {_NO_LINK}", trouble=Trouble.DISK)
    with _translated(f"cannot make {place}"):
        files.make_below(data_root, place, mode=_MODE)


@contextmanager
def _translated(what: str) -> Iterator[None]:
    """The system's errors as ours."""
    try:
        yield
    except FileNotFoundError as error:
        raise FileVanished(f"{what}: it is not there any more") from error
    except OSError as error:
        raise Transient(f"{what}: {files.words(error)}", trouble=Trouble.DISK) from error
