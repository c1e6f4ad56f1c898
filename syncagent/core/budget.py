"""A data budget on links that cost money: what was spent this month, and what may still go.

Pure: the caller says which interface is in use, what month it is and how many bytes went over the wire.
"""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass
from datetime import date, timedelta
from urllib.parse import urlsplit

from syncagent.core.settings import Metered
from syncagent.core.visitors import is_loopback

#: The interface by which a machine reaches itself.
LOOPBACK = "lo"
#: A clock that goes back further was wrong before, not now: a month, so that a step back never renews a budget soon.
PLAUSIBLE_STEP = timedelta(days=31)


@dataclass(slots=True)
class Spent:
    """Bytes over the wire, both ways, of one store: today's and this month's. `day` is "YYYY-MM-DD", UTC, or empty."""

    day: str = ""
    day_bytes: int = 0
    month_bytes: int = 0
    metered_month_bytes: int = 0

    def roll(self, day: str) -> None:
        """It is this day now. One before the last that was known is a clock that went back: it stays that day.

        One so long before it shows that the last one never was: it would hold the budget spent for as long. What was
        counted stays.
        """
        if day <= self.day:
            if date.fromisoformat(self.day) - date.fromisoformat(day) > PLAUSIBLE_STEP:
                self.day = day
            return
        if self.day:  # what was counted before any day was known belongs to the first
            self.day_bytes = 0
            if day[:7] != self.day[:7]:
                self.month_bytes = self.metered_month_bytes = 0
        self.day = day

    def add(self, count: int, *, is_metered: bool) -> None:
        """Count bytes on the day that it is."""
        self.day_bytes += count
        self.month_bytes += count
        if is_metered:
            self.metered_month_bytes += count

    def to_text(self) -> str:
        return f"{self.day} {self.day_bytes} {self.month_bytes} {self.metered_month_bytes}"

    @classmethod
    def from_text(cls, text: str | None) -> Spent:
        words = (text or "").split(" ")
        if len(words) != 4 or not all(word.isdigit() for word in words[1:]):
            return cls()
        try:
            date.fromisoformat(words[0] or "2000-01-01")
        except ValueError:
            return cls()
        return cls(words[0], *(int(word) for word in words[1:]))


def leads_to_loopback(endpoint_url: str | None) -> bool:
    """Whether a store is asked on this very machine."""
    return endpoint_url is not None and is_loopback(urlsplit(endpoint_url).hostname or "")


def is_metered(metered: Metered | None, interface: str | None, *, is_flagged: bool) -> bool:
    """Whether the link in use costs money: its interface is listed, or, with none listed, flagged by the system."""
    if metered is None:
        return False
    if metered.interfaces:
        return interface is not None and any(fnmatch.fnmatchcase(interface, glob) for glob in metered.interfaces)
    return is_flagged


def is_spent(metered: Metered | None, spent: Spent) -> bool:
    budget = metered.budget_bytes_per_month if metered else None
    return budget is not None and spent.metered_month_bytes >= budget


def is_allowed(metered: Metered | None, path: str) -> bool:
    """Whether a file may go although the budget is spent. `path` is below generated_data, or absolute."""
    globs = metered.allow if metered else ()
    name = path.rpartition("/")[2]
    return any(fnmatch.fnmatchcase(path, glob) or fnmatch.fnmatchcase(name, glob) for glob in globs)
