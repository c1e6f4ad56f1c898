"""The table of faults: one row for each kind of trouble, measured while it was played, as Markdown."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass

HEADER = (
    "fault",
    "store",
    "outcome",
    "bytes sent / file size",
    "all confirmed after its end, s",
    "requests during it",
    "what `status` said meanwhile",
)


@dataclass(frozen=True, slots=True)
class Line:
    """What one fault did. A figure that cannot be had is None: a refused connection counts nowhere."""

    fault: str
    store: str
    outcome: str
    sent_ratio: float | None = None
    recovery_s: float | None = None
    requests: int | None = None
    lasted_s: float | None = None
    said: str = ""

    def cells(self) -> tuple[str, ...]:
        requests = "-"
        if self.requests is not None:
            requests = f"{self.requests} in {self.lasted_s:.1f} s" if self.lasted_s is not None else str(self.requests)
        return (
            self.fault,
            self.store,
            self.outcome,
            "-" if self.sent_ratio is None else f"{self.sent_ratio:.2f}",
            "-" if self.recovery_s is None else f"{self.recovery_s:.1f}",
            requests,
            self.said.replace("|", "\\|") or "-",
        )


class FaultTable:
    """Rows from any thread, shown in `order`; faults that it does not name come last."""

    def __init__(self) -> None:
        self.order: Sequence[str] = ()
        self._lines: dict[str, Line] = {}
        self._lock = threading.Lock()

    def add(self, line: Line) -> None:
        with self._lock:
            self._lines[line.fault] = line

    def lines(self) -> Sequence[Line]:
        with self._lock:
            return list(self._lines.values())

    def markdown(self) -> str:
        places = {name: place for place, name in enumerate(self.order)}
        lines = sorted(self.lines(), key=lambda line: places.get(line.fault, len(places)))
        rows = [HEADER, tuple("---" for _ in HEADER), *(line.cells() for line in lines)]
        return "".join(f"| {' | '.join(row)} |\n" for row in rows)
