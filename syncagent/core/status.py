"""The status object: what the board and the journal say, in the one form that people and programs read.

Programs read it, so fields are added, never renamed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from syncagent.core.board import Complaint, Fact
from syncagent.core.model import State

#: Facts whose failure means that files do not get through.
VITAL = ("watcher", "uploader", "link", "store", "disk")
FACTS = (*VITAL, "clock", "power", "firmware")
#: What a fact says that nobody has reported yet.
_QUIET = {"power": Fact(True, "none"), "firmware": Fact(True, "off")}


@dataclass(frozen=True, slots=True)
class Cell:
    """Files of one address in one state for one reason."""

    address: str
    state: State
    reason: str
    files: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything that the status is made of, read at one moment."""

    version: str
    system_id: str
    time: str  # RFC 3339, UTC
    is_running: bool
    pid: int | None
    uptime_s: float | None
    max_unsent_s: float
    cells: Sequence[Cell] = ()
    facts: Mapping[str, Fact] = field(default_factory=dict)
    addresses: Sequence[str] = ()
    oldest_unsent_s: float | None = None
    oldest_by_address: Mapping[str, float | None] = field(default_factory=dict)
    complaints: Sequence[Complaint] = ()
    monotonic: float = 0.0
    rates: Mapping[str, float] = field(default_factory=dict)
    wire: Mapping[str, int | None] = field(default_factory=dict)
    warnings: Sequence[str] = ()
    devices: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    firmware: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # component -> its face


def merge(facts: Mapping[str, Fact], name: str) -> Fact:
    """One fact of several reporters ("link/carrier"): the first that is not ok, or that has something to say."""
    own = [fact for key, fact in sorted(facts.items()) if key == name or key.startswith(name + "/")]
    for fact in own:
        if not fact.ok:
            return fact
    for fact in own:
        if fact.reason:
            return fact
    return own[0] if own else _QUIET.get(name, Fact(True, "unknown"))


def _queue(cells: Iterable[Cell]) -> dict[str, dict[str, Any]]:
    queue: dict[str, dict[str, Any]] = {str(state): {"files": 0, "bytes": 0, "reasons": {}} for state in State}
    for cell in cells:
        entry = queue[cell.state]
        entry["files"] += cell.files
        entry["bytes"] += cell.bytes
        if cell.reason:
            entry["reasons"][cell.reason] = entry["reasons"].get(cell.reason, 0) + cell.files
    return queue


def build(snapshot: Snapshot) -> dict[str, Any]:
    """The object of `status --json`, `/status.json` and the heartbeat."""
    facts = {name: merge(snapshot.facts, name) for name in FACTS}
    if not snapshot.is_running:
        for name in ("watcher", "uploader"):
            facts[name] = Fact(False, "stopped", "the agent is not running")
    queue = _queue(snapshot.cells)
    oldest = snapshot.oldest_unsent_s
    troubles = [f"{name}: {facts[name].reason or facts[name].state}" for name in VITAL if not facts[name].ok]
    if oldest is not None and oldest > snapshot.max_unsent_s:
        troubles.append(f"the oldest unsent file waits for {oldest:.0f} s")
    warnings = [f"{name}: {facts[name].reason or facts[name].state}" for name in FACTS if not facts[name].ok]
    warnings += [f"{queue['parked']['files']} parked"] if queue["parked"]["files"] else []
    warnings += snapshot.warnings
    if not snapshot.is_running:
        state, reason = "stopped", "the agent is not running"
    elif troubles:
        state, reason = "broken", "; ".join(troubles)
    else:
        state, reason = ("degraded" if warnings else "ok"), "; ".join(warnings)
    return {
        "version": snapshot.version,
        "system_id": snapshot.system_id,
        "time": snapshot.time,
        "running": snapshot.is_running,
        "pid": snapshot.pid,
        "uptime_s": snapshot.uptime_s,
        "healthy": snapshot.is_running and not troubles,
        "state": state,
        "reason": reason,
        "oldest_unsent_s": oldest,
        "queue": queue,
        "facts": {name: fact.to_json() for name, fact in facts.items()},
        "addresses": {
            name: {
                "queue": _queue(cell for cell in snapshot.cells if cell.address == name),
                "oldest_unsent_s": snapshot.oldest_by_address.get(name),
            }
            for name in snapshot.addresses
        },
        "wire": {"bytes_today": None, "bytes_month": None, **snapshot.wire},
        "rates": dict(snapshot.rates),
        "firmware": {component: dict(face) for component, face in snapshot.firmware.items()},
        "devices": {name: dict(face) for name, face in snapshot.devices.items()},
        "losses": queue["lost"]["files"],
        "last_errors": [
            {
                "path": complaint.path,
                "what": complaint.what,
                "reason": complaint.reason,
                "remedy": complaint.remedy,
                "age_s": round(snapshot.monotonic - complaint.at, 1),
            }
            for complaint in reversed(snapshot.complaints)
        ],
        "warnings": list(snapshot.warnings),
    }
