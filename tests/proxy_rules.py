"""How a scripted link behaves, and what is remembered of each connection through it."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

Mode = Literal["pass", "refuse", "reset", "black_hole"]


@dataclass(frozen=True, slots=True)
class Rule:
    """How the link behaves. The default lets everything through.

    refuse: no connection is had, open ones are reset. reset: accepted, then reset at once.
    black_hole: accepted and never read; open connections fall silent and go on when the rule changes.
    """

    mode: Mode = "pass"
    latency_s: float = 0  # before each answer's first byte
    up_bytes_per_s: float | None = None  # the link's, shared by its connections
    down_bytes_per_s: float | None = None
    reset_after_up_bytes: int | None = None  # mid-body: so many bytes of an exchange pass, then a reset
    end_after_down_bytes: int | None = None  # of an answer, head included; what was let through still arrives
    reset_before_answer: bool = False  # the server has the whole request, the client gets no answer
    cut_share: float = 0  # of exchanges, cut after a random number of bytes up ...
    cut_within_bytes: int = 100_000  # ... below this one
    flip_up_byte_at: int | None = None  # in each exchange, one bit of the byte at this offset is flipped
    flip_down_byte_at: int | None = None
    times: int | None = None  # how many exchanges are reset or flipped; None: all


#: A timetable is repeated for ever: each rule for its seconds.
Timetable = Sequence[tuple[float, Rule]]


@dataclass(slots=True)
class Connection:
    """One client's connection, and what it carried."""

    number: int
    opened_at: float  # monotonic
    up_bytes: int = 0
    down_bytes: int = 0
    exchanges: int = 0
    outcome: str = "open"  # then "closed", "reset" or "unreachable" (the server was not there)
    cut_at: int | None = None
    exchange_up_bytes: int = 0
    exchange_down_bytes: int = 0
    is_answering: bool = True  # so that the first byte up begins an exchange
    sockets: list[socket.socket] = field(default_factory=list)


def up_and_down(up_s: float, down_s: float, *, down: Rule, up: Rule | None = None) -> Timetable:
    """The timetable of a link that is there for a while and then not."""
    return ((up_s, up or Rule()), (down_s, down))
