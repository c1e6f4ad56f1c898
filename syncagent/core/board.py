"""The status board: what each worker last said of itself, for whoever asks.

Threads write single facts and read copies; nothing decides anything from it but the watchdog and the status page.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any


@dataclass(frozen=True, slots=True)
class Fact:
    """One of the facts of `status`: watcher, uploader, link, store, disk, clock, power, firmware."""

    ok: bool
    state: str
    reason: str = ""
    more: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {"ok": self.ok, "state": self.state, "reason": self.reason, **self.more}


@dataclass(frozen=True, slots=True)
class Complaint:
    """One entry of `last_errors`. `at` is monotonic."""

    path: str
    what: str
    reason: str
    remedy: str
    at: float


@dataclass(frozen=True, slots=True)
class Flight:
    """One upload on its way."""

    path: str
    address: str
    size_bytes: int
    sent_bytes: int = 0
    before_bytes: int = 0  # of it, what earlier requests brought there
    is_recorded: bool = False  # the journal says SENDING, too; otherwise it still says READY
    read_bytes: int = 0  # how far it was read to be hashed, which takes minutes of a film on a card


class Furthest:
    """How far the files of one run got: a file that is sent again and again, and no further, gets no nearer."""

    def __init__(self) -> None:
        self._bytes: dict[tuple[str, str], int] = {}  # path, address -> the most that was on its way
        self._read: dict[tuple[str, str, int], int] = {}  # and what was there before -> the most that was read then

    def bytes_of(self, flights: Iterable[Flight]) -> int:
        """All together, with what is on its way now."""
        for flight in flights:
            name = (flight.path, flight.address)
            self._bytes[name] = max(flight.sent_bytes, self._bytes.get(name, 0))
            stage = (*name, flight.before_bytes)
            self._read[stage] = max(flight.read_bytes, self._read.get(stage, 0))
        return sum(self._bytes.values()) + sum(self._read.values())


#: How many complaints are kept; a status page is not a log.
MAX_COMPLAINTS = 20


class Board:
    """Thread-safe. Every method is a few lines under one lock."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._facts: dict[str, Fact] = {}
        self._beats: dict[str, float] = {}
        self._complaints: deque[Complaint] = deque(maxlen=MAX_COMPLAINTS)
        self._flights: dict[str, Flight] = {}
        self._counts: dict[str, int] = {}
        self._devices: dict[str, dict[str, Any]] = {}

    def set_fact(self, name: str, fact: Fact) -> None:
        with self._lock:
            self._facts[name] = fact

    def drop_fact(self, name: str) -> None:
        """Its reporter has nothing to say any more."""
        with self._lock:
            self._facts.pop(name, None)

    def set_device(self, name: str, face: dict[str, Any]) -> None:
        """What is known of a device of the I2C bus."""
        with self._lock:
            self._devices[name] = face

    def devices(self) -> dict[str, dict[str, Any]]:
        with self._lock:
            return dict(self._devices)

    def fact(self, name: str) -> Fact | None:
        with self._lock:
            return self._facts.get(name)

    def facts(self) -> dict[str, Fact]:
        with self._lock:
            return dict(self._facts)

    def beat(self, worker: str) -> None:
        """The worker made progress, or found that there is nothing to do."""
        with self._lock:
            self._beats[worker] = self._monotonic()

    def silences(self) -> dict[str, float]:
        """Seconds since each worker's last beat."""
        now = self._monotonic()
        with self._lock:
            return {worker: now - beat for worker, beat in self._beats.items()}

    def complain(self, path: str, what: str, reason: str, remedy: str = "") -> None:
        """Show a trouble to people. The newest of each (path, what) is kept."""
        with self._lock:
            for old in [old for old in self._complaints if (old.path, old.what) == (path, what)]:
                self._complaints.remove(old)
            self._complaints.append(Complaint(path, what, reason, remedy, self._monotonic()))

    def settle_complaint(self, path: str, what: str) -> None:
        """The trouble is over."""
        with self._lock:
            for old in [old for old in self._complaints if (old.path, old.what) == (path, what)]:
                self._complaints.remove(old)

    def complaints(self) -> list[Complaint]:
        with self._lock:
            return list(self._complaints)

    def fly(self, worker: str, flight: Flight | None) -> None:
        """What a worker is sending; None when it is done."""
        with self._lock:
            if flight is None:
                self._flights.pop(worker, None)
            else:
                self._flights[worker] = flight

    def move_flight(self, worker: str, sent_bytes: int) -> None:
        """How much of a worker's request in flight has arrived."""
        with self._lock:
            flight = self._flights.get(worker)
            if flight is not None and flight.before_bytes + sent_bytes != flight.sent_bytes:
                self._flights[worker] = replace(flight, sent_bytes=flight.before_bytes + sent_bytes)
                # A large file on a slow link is hours of one pass: bytes that arrive are its progress.
                self._beats[worker] = self._monotonic()

    def read_flight(self, worker: str, read_bytes: int) -> None:
        """How far the file of a worker's flight was read."""
        with self._lock:
            flight = self._flights.get(worker)
            if flight is not None:
                self._flights[worker] = replace(flight, read_bytes=read_bytes)

    def flights(self) -> list[Flight]:
        with self._lock:
            return list(self._flights.values())

    def add(self, name: str, amount: int = 1) -> None:
        """Count something since the start."""
        with self._lock:
            self._counts[name] = self._counts.get(name, 0) + amount

    def count(self, name: str) -> int:
        with self._lock:
            return self._counts.get(name, 0)
