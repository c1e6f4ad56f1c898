"""Who owns a path, and whether it is wanted: the one place that decides what is a file of ours.

Paths here are relative to `generated_data`, "/"-separated, without a leading "/".
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from syncagent.core.settings import SendAddress

#: Below generated_data, and never a camera's: the message inbox.
RESERVED = "messages"
#: How the name of a file begins that is being removed, for the moment between two looks at it.
ASIDE = ".syncagent-aside."


@lru_cache(maxsize=256)
def _matcher(patterns: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(fnmatch.translate(pattern) for pattern in patterns) or r"(?!)")


def is_wanted(relative_path: str, *, include: tuple[str, ...], ignore: tuple[str, ...]) -> bool:
    """Whether a file, named by its path below its watched directory, is one to send.

    A pattern is tried on the whole path and on the file's name; a pattern of `ignore` on every directory's
    name, too, because rsync and gphoto2 keep final names inside temporary directories.
    """
    names = relative_path.split("/")
    if names[-1].startswith(ASIDE):
        return False
    ignored = _matcher(ignore)
    if ignored.match(relative_path) or any(ignored.match(name) for name in names):
        return False
    included = _matcher(include)
    return bool(included.match(relative_path) or included.match(names[-1]))


def is_within(path: str, directory: str) -> bool:
    return not directory or path == directory or path.startswith(directory + "/")


@dataclass(frozen=True, slots=True)
class Owner:
    """One watched directory and the addresses that ask for its files by themselves (on_change, or every N seconds)."""

    path: str
    addresses: tuple[SendAddress, ...]

    @property
    def settle_s(self) -> float:
        """Addresses that share a directory share the longest quiet time: one file is finished once."""
        return max(address.carrier.watch.settle_s for address in self.addresses)

    @property
    def max_unsettled_s(self) -> float | None:
        limits = [address.carrier.watch.max_unsettled_s for address in self.addresses]
        return min((limit for limit in limits if limit is not None), default=None)

    @property
    def scan_s(self) -> float:
        return min(address.carrier.watch.scan_s for address in self.addresses)

    @property
    def has_events(self) -> bool:
        return any(address.carrier.watch.events != "off" for address in self.addresses)

    def below(self, path: str) -> str:
        """`path` as seen from the watched directory."""
        return path[len(self.path) + 1 :] if self.path else path

    def wanting(self, path: str) -> tuple[SendAddress, ...]:
        """The addresses that want this file; a file in the place of the watched directory itself is nobody's."""
        relative = self.below(path)
        return tuple(
            address
            for address in self.addresses
            if relative
            and is_wanted(relative, include=address.carrier.watch.include, ignore=address.carrier.watch.ignore)
        )

    def enters(self, path: str) -> bool:
        """Whether a directory can hold a wanted file."""
        relative = self.below(path)
        return not relative or any(
            not any(_matcher(address.carrier.watch.ignore).match(part) for part in (relative, *relative.split("/")))
            for address in self.addresses
        )


class Territory:
    """The map of generated_data: which directory belongs to which addresses."""

    def __init__(self, addresses: Sequence[SendAddress], *, reserved: Iterable[str] = ()) -> None:
        """`reserved`: what is never watched, beside the inbox: firmware roots, the state directory, the lock."""
        self.reserved = (RESERVED, *sorted(set(reserved)))
        by_path: dict[str, list[SendAddress]] = {}
        for address in addresses:
            own = by_path.setdefault(address.carrier.path, [])
            if address.duration == "on_change" or isinstance(address.duration, int | float):
                own.append(address)
        # The longest path first: it owns what lies in it, even when it only sends what it is asked for.
        self._owners = tuple(
            Owner(path, tuple(own)) for path, own in sorted(by_path.items(), key=lambda item: -len(item[0]))
        )

    @property
    def owners(self) -> tuple[Owner, ...]:
        """Owners that want files by themselves, the longest path first."""
        return tuple(owner for owner in self._owners if owner.addresses)

    def is_reserved(self, path: str) -> bool:
        return any(is_within(path, directory) for directory in self.reserved)

    def owner_of(self, path: str) -> Owner | None:
        """The owner of a file or a directory, None when it is nobody's or only sent when asked for."""
        if self.is_reserved(path):
            return None
        for owner in self._owners:
            if is_within(path, owner.path):
                return owner if owner.addresses else None
        return None
