"""One connection to the store, watched byte by byte.

Owns a connected socket while one request uses it. Promises: progress is what the other side acknowledged, not
what the kernel took; a link that acknowledges nothing for `stall_s` ends as Transient(STALLED); an answer
that comes before the body was sent is not lost. Leaves to others: making connections, and HTTP.
"""

from __future__ import annotations

import contextlib
import fcntl
import select
import socket
import ssl
import struct
import termios
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from syncagent.core.errors import Transient, Trouble
from syncagent.core.meter import Grant, Meter
from syncagent.edges.reading import AnswerReader

_TICK_S = 1.0
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)

#: While the meter holds a request back, the caller's progress is called this often.
_METER_TICK_S = 0.5

# Linux's struct tcp_info (since 4.19): the state, and tcpi_bytes_received, tcpi_bytes_sent, tcpi_bytes_retrans.
_TCP_RECEIVED_AT, _TCP_SENT_AT, _TCP_RESENT_AT, _TCP_INFO_BYTES = 128, 200, 208, 216
#: States of a connection whose other side has closed: TCP counts its FIN as a byte that was received.
_HAS_FIN = frozenset({6, 8, 9, 11})  # TIME_WAIT, CLOSE_WAIT, LAST_ACK, CLOSING


@dataclass(slots=True)
class Flight:
    """One request on its way: what the kernel took of its body, and what the other side acknowledged.

    `key` is empty for requests that carry no part of a file.
    """

    key: str
    size_bytes: int
    handed_bytes: int = 0
    acknowledged_bytes: int = 0

    def restart(self) -> None:
        """The body goes again from its beginning."""
        self.handed_bytes = self.acknowledged_bytes = 0


#: Called in the sending thread when a Flight moved, and at least once a second while it waits. What it raises
#: ends the request, so that an agent which is asked to stop need not wait for an answer.
ProgressSink = Callable[[Flight], None]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a connection leads. `proxy` is a URL, or empty."""

    scheme: str
    host: str
    port: int
    proxy: str

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


class Traffic:
    """Counts the bytes of one TCP connection, headers, TLS and handshakes included.

    What TCP itself had to send again is left out: so the count is what a server could have received.
    """

    def __init__(self) -> None:
        self._counted = (0, 0)

    def count(self, sock: socket.socket | ssl.SSLSocket) -> tuple[int, int]:
        """Bytes sent and received since the last count; none where the kernel does not say."""
        sent, received = self._counted
        with contextlib.suppress(OSError):
            info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
            if len(info) >= _TCP_INFO_BYTES:
                once, again = struct.unpack_from("QQ", info, _TCP_SENT_AT)
                sent = max(sent, once - again)
                received = max(received, struct.unpack_from("Q", info, _TCP_RECEIVED_AT)[0] - (info[0] in _HAS_FIN))
        news = (sent - self._counted[0], received - self._counted[1])
        self._counted = (sent, received)
        return news


class Pace:
    """The meter of all connections of one store. `limit` is asked at each piece: it may change at any time."""

    def __init__(self, limit: Callable[[], int | None]) -> None:
        self._limit = limit
        self._meter = Meter()
        self._lock = threading.Lock()

    def ask(self, wanted_bytes: int) -> Grant:
        """What may go now."""
        rate = self._limit()
        with self._lock:
            return self._meter.ask(wanted_bytes, rate=rate, now_s=time.monotonic())


class Connection:
    """One connected socket, in the hands of one thread at a time."""

    def __init__(
        self,
        sock: socket.socket | ssl.SSLSocket,
        place: Place,
        *,
        stall_s: float,
        traffic: Traffic,
        pace: Pace | None = None,
    ) -> None:
        self.place = place
        self.is_reused = False
        self.idle_since = 0.0
        self._sock = sock
        self._stall_s = stall_s
        self._traffic = traffic
        self._pace = pace
        self._handed_bytes = 0
        self._acked_bytes = 0
        self._moved_at = 0.0
        self._flight: Flight | None = None
        self._before_body_bytes = 0
        self._sink: ProgressSink | None = None
        sock.settimeout(min(_TICK_S, stall_s / 4))

    def begin(self, flight: Flight | None, sink: ProgressSink | None) -> None:
        """Start watching one request."""
        self._flight, self._sink = flight, sink
        self._moved_at = time.monotonic()
        self._before_body_bytes = self._handed_bytes

    def end(self, *, is_answered: bool) -> None:
        """Stop watching; an answer acknowledges whatever was handed over."""
        flight, sink = self._flight, self._sink
        self._flight = self._sink = None
        if is_answered and flight is not None:
            flight.acknowledged_bytes = flight.handed_bytes
            if sink is not None:
                sink(flight)

    def waited(self, seconds: float) -> None:
        """Time that the body's source took is not the link's."""
        self._moved_at += seconds

    def is_quiet(self) -> bool:
        """Whether an idle connection is open: one that can be read was closed, or says what nobody asked."""
        try:
            self._sock.settimeout(0)
            self._sock.recv(1)
        except (BlockingIOError, ssl.SSLWantReadError):
            return True
        except OSError:
            return False
        finally:
            with contextlib.suppress(OSError):
                self._sock.settimeout(min(_TICK_S, self._stall_s / 4))
        return False

    def send(self, data: bytes, *, body_bytes: int, reader: AnswerReader, is_first: bool = False) -> bool:
        """Hand over `data`, whose last `body_bytes` are the body; False if an answer came instead."""
        view = memoryview(data)
        head_left = len(data) - body_bytes
        self._before_body_bytes += head_left
        must_look = not is_first
        while view:
            if must_look and self._take_early(reader):
                return False
            must_look = True
            granted_bytes = self._await_meter(len(view), reader)
            if not granted_bytes:
                return False
            piece, view = view[:granted_bytes], view[granted_bytes:]
            # To its end: TLS wants the same bytes again after it could not send them at once.
            while piece:
                try:
                    taken = self._sock.send(piece)
                except (TimeoutError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                    self.tick()
                    if self._take_early(reader):
                        return False
                    continue
                except OSError:
                    # The server may have said why before it hung up; the reader finds out.
                    return False
                piece = piece[taken:]
                self._handed_bytes += taken
                if self._flight is not None:
                    self._flight.handed_bytes += max(0, taken - head_left)
                head_left = max(0, head_left - taken)
                self._look()
        return True

    def _await_meter(self, wanted_bytes: int, reader: AnswerReader) -> int:
        """How much may go now; waits until something may. 0: the server answered meanwhile."""
        if self._pace is None:
            return wanted_bytes
        while True:
            grant = self._pace.ask(wanted_bytes)
            if grant.size_bytes:
                return grant.size_bytes
            started_at = time.monotonic()
            poll = select.poll()
            poll.register(self._sock, select.POLLIN)
            is_news = bool(poll.poll(max(1.0, min(grant.wait_s, _METER_TICK_S) * 1000)))
            self._look()
            # Our own meter is not the link's silence.
            self.waited(time.monotonic() - started_at)
            if self._sink is not None and self._flight is not None:
                self._sink(self._flight)
            if is_news and self._take_early(reader):
                return 0

    def _take_early(self, reader: AnswerReader) -> bool:
        """Whether the server answers (or hung up) while we still send. TLS tickets are no answer."""
        try:
            self._sock.settimeout(0)
            data = self._sock.recv(65536)
        except (BlockingIOError, ssl.SSLWantReadError):
            return False
        except OSError:
            return True
        finally:
            with contextlib.suppress(OSError):
                self._sock.settimeout(min(_TICK_S, self._stall_s / 4))
        return reader.feed(data) or not data

    def receive(self) -> bytes:
        """The next bytes; empty at the end. Raises ConnectionError, or Transient(STALLED)."""
        while True:
            try:
                data = self._sock.recv(65536)
            except (TimeoutError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                self.tick()
                continue
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                return b""
            self._moved_at = time.monotonic()
            return data

    def tick(self) -> None:
        """A second without news: is the kernel's queue at least moving?"""
        self._look()
        if time.monotonic() - self._moved_at >= self._stall_s:
            raise Transient(f"{self.place} acknowledged nothing for {self._stall_s:g} s", trouble=Trouble.STALLED)
        if self._sink is not None and self._flight is not None:
            self._sink(self._flight)

    def _look(self) -> None:
        """Note how much was acknowledged: what the kernel took, less what still lies in its queue.

        Without this a small body is "sent" as soon as the kernel has it, and a dead link looks like a slow
        answer.
        """
        try:
            queued = struct.unpack("i", fcntl.ioctl(self._sock.fileno(), termios.TIOCOUTQ, b"\0\0\0\0"))[0]
        except OSError:
            return  # a socket that was reset; the next read says so
        acked_bytes = self._handed_bytes - queued
        if acked_bytes > self._acked_bytes:
            self._acked_bytes = acked_bytes
            self._moved_at = time.monotonic()
            flight = self._flight
            if flight is not None:
                body_bytes = min(max(0, acked_bytes - self._before_body_bytes), flight.handed_bytes)
                if body_bytes > flight.acknowledged_bytes:
                    flight.acknowledged_bytes = body_bytes
                    if self._sink is not None:
                        self._sink(flight)

    def count(self) -> tuple[int, int]:
        """Bytes sent and received since the last count."""
        return self._traffic.count(self._sock)

    def drop(self) -> None:
        """Close with a reset: what still lies in the kernel's queue is not sent any more."""
        with contextlib.suppress(OSError):
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self.close()

    def close(self) -> None:
        """Close in peace."""
        with contextlib.suppress(OSError):
            self._sock.close()
