"""What breaks in the field, looked for one by one: this machine, then each store.

A check never raises for what it finds; it says in one line what is wrong and in another what to do about it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum

__all__ = ["Finding", "Verdict"]


class Verdict(StrEnum):
    """How a check went. Only FAILED makes `doctor` end with 1."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Finding:
    """One check: what it looked at, how it went, what it saw, and the way out."""

    check: str
    verdict: Verdict
    what: str
    remedy: str = ""

    def as_json(self) -> dict[str, str]:
        return {name: str(value) for name, value in asdict(self).items()}
