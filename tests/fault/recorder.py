"""What a process asks of the file system, recorded from outside by strace(1), and the two orders that must hold.

A file that the process wrote is flushed before a rename makes it visible, and the directory of its new name is
flushed afterwards. What stands in a database is flushed before the file that it tells of is unlinked.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence

import attrs

from tests.servers import program

TRACED = (
    *("write", "pwrite64", "writev", "pwritev", "ftruncate", "fsync", "fdatasync"),
    *("rename", "renameat", "renameat2", "link", "linkat", "unlink", "unlinkat"),
)
#: So much of what is written is kept: a page of the journal.
KEPT_BYTES = 4096

_LINE = re.compile(r"(?P<thread>\d+) +(?:<\.\.\. (?P<resumed>\w+) resumed>(?P<tail>.*)|(?P<name>\w+)\((?P<head>.*))$")
_RESULT = re.compile(r"\) += (?P<result>-?\d+)")
_FD = re.compile(r"\d+<(?P<path>/[^>]*)>")
#: A directory that a name is below, or none, and the name.
_NAME = re.compile(r'(?:(?:\d+|AT_FDCWD)(?:<(?P<top>[^>]*)>)?, )?"(?P<name>[^"]*)"')


@attrs.frozen
class Call:
    """One call that succeeded. `begun` and `ended` are places in the record: of calls side by side they overlap."""

    name: str
    words: str  # its arguments, as strace writes them
    begun: int
    ended: int

    @property
    def path(self) -> str:
        """Of the file that a descriptor stands for; "" where it is none."""
        found = _FD.match(self.words)
        return found["path"] if found else ""

    @property
    def names(self) -> list[str]:
        """Of a call that takes names: the absolute paths."""
        return [os.path.normpath(os.path.join(top or "/", name)) for top, name in _NAME.findall(self.words)]


def command(record: str, words: Sequence[str]) -> list[str]:
    """`words`, with what they and their children call written into `record`."""
    return [
        *(program("strace"), "--follow-forks", "--seccomp-bpf", "-y", "-s", str(KEPT_BYTES), "-o", record),
        *("-e", f"trace={','.join(TRACED)}", "-e", "signal=none", *words),
    ]


def read(record: str) -> list[Call]:
    """The calls that succeeded, in the order of their ends."""
    with open(record, errors="replace") as file:
        return list(_calls(file))


def _calls(lines: Iterable[str]) -> Iterator[Call]:
    open_calls: dict[str, tuple[str, str, int]] = {}
    for number, line in enumerate(lines):
        found = _LINE.match(line.rstrip("\n"))
        if found is None:
            continue
        if found["resumed"]:
            name, head, begun = open_calls.pop(found["thread"])
            words = head + found["tail"]
        else:
            name, words, begun = found["name"], found["head"], number
            if words.endswith(" <unfinished ...>"):
                open_calls[found["thread"]] = (name, words.removesuffix(" <unfinished ...>"), begun)
                continue
        results = list(_RESULT.finditer(words))
        if results and int(results[-1]["result"]) >= 0:
            yield Call(name, words[: results[-1].start()], begun, number)


@attrs.frozen
class Record:
    calls: Sequence[Call]

    def writes(self, path: str) -> list[Call]:
        names = ("write", "pwrite64", "writev", "pwritev", "ftruncate")
        return [call for call in self.calls if call.name in names and call.path == path]

    def renames(self) -> list[Call]:
        """What gives a file another name, or one more."""
        return [call for call in self.calls if call.name.startswith(("rename", "link")) and len(call.names) == 2]

    def unlinks(self) -> list[Call]:
        return [call for call in self.calls if call.name.startswith("unlink") and call.names]

    def is_flushed(self, path: str, *, after: int, before: int | None = None) -> bool:
        """Whether a flush of the file or directory began after one place of the record and ended before another."""
        return any(
            call.begun > after and (before is None or call.ended < before)
            for call in self.calls
            if call.name in ("fsync", "fdatasync") and call.path == path
        )

    def unsafe_renames(self) -> list[str]:
        """Of files that the process wrote: in words, each that a power cut could show torn, or take back."""
        said = []
        for rename in self.renames():
            old, new = rename.names
            writes = [call for call in self.writes(old) if call.ended < rename.begun]
            if not writes:
                continue
            if not self.is_flushed(old, after=writes[-1].ended, before=rename.begun):
                said.append(f"{old} was not flushed before it became {new}")
            if not self.is_flushed(os.path.dirname(new), after=rename.ended):
                said.append(f"the directory of {new} was not flushed afterwards")
        return said

    def unsafe_unlinks(self, told_of: dict[str, str], database: str) -> list[str]:
        """`told_of`: of names, what a page of the database must hold before they go, as a regular expression.

        In words, each that never went or that went early.
        """
        said = []
        for name, mark in told_of.items():
            unlink = next((call for call in self.unlinks() if call.names[-1].endswith(name)), None)
            if unlink is None:
                said.append(f"{name} was not unlinked")
                continue
            pages = [call for call in self.writes(database) if re.search(mark, call.words)]
            if not any(self.is_flushed(database, after=page.ended, before=unlink.begun) for page in pages):
                said.append(f"{name} was unlinked before its row was flushed")
        return said
