"""How much is measured, and what a measurement says."""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.bench.contenders import CONTENDERS


@dataclass(frozen=True, slots=True)
class Plan:
    """How much to measure."""

    rounds: int = 3
    contenders: tuple[str, ...] = tuple(CONTENDERS)
    shares: float = 1.0  # of the files, for a quick look
    idle_s: float = 60.0


@dataclass(frozen=True, slots=True)
class Row:
    what: str
    figures: dict[str, float]
    notes: list[str] = field(default_factory=list)
