"""A scripted fault proxy for TCP: stands in front of any server and behaves like a bad link.

It knows bytes and no protocol. One *exchange* is what goes up until something came down, and then
until the next byte goes up: with HTTP, one request and its answer. Counters and cuts are per
exchange, so that a client which keeps one connection open meets them as often as one that does not.
Replace `rule` while it runs; what is open obeys within a twentieth of a second. Every byte that a
client brought to this side is counted, also those that a fault then swallowed.
"""

from __future__ import annotations

import contextlib
import random
import select
import socket
import struct
import threading
import time
from typing import Self
from urllib.parse import urlsplit

from tests.proxy_rules import Connection, Rule, Timetable, up_and_down

__all__ = ["Connection", "Proxy", "Rule", "Timetable", "up_and_down"]

TICK_S = 0.05
CHUNK_BYTES = 1 << 16


class Proxy:
    """The proxy in front of `target` ("http://127.0.0.1:9000" or "127.0.0.1:9000")."""

    def __init__(
        self, target: str, rule: Rule | None = None, *, seed: int = 1, receive_buffer_bytes: int | None = None
    ) -> None:
        # A small receive buffer keeps the kernel from acknowledging a whole body that nobody reads.
        self.receive_buffer_bytes = receive_buffer_bytes
        parts = urlsplit(target if "//" in target else f"//{target}")
        if parts.hostname is None or parts.port is None:
            raise ValueError(f"{target} names no host and port")
        self.target = (parts.hostname, parts.port)
        self.connections: list[Connection] = []
        self.port = 0
        self._rule = rule or Rule()
        self._hits = 0
        self._random = random.Random(seed)
        self._lock = threading.RLock()
        self._stopped = threading.Event()
        self._listener: socket.socket | None = None
        self._reserve: socket.socket | None = None
        self._threads: list[threading.Thread] = []
        self._timetable: Timetable = ()
        self._timetable_from = 0.0
        self._next_slot = {"up": 0.0, "down": 0.0}

    @property
    def endpoint_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def up_bytes(self) -> int:
        """Every byte that clients sent to this side, whatever became of it."""
        with self._lock:
            return sum(connection.up_bytes for connection in self.connections)

    @property
    def down_bytes(self) -> int:
        with self._lock:
            return sum(connection.down_bytes for connection in self.connections)

    @property
    def exchanges(self) -> int:
        """Requests, if the protocol is HTTP."""
        with self._lock:
            return sum(connection.exchanges for connection in self.connections)

    @property
    def rule(self) -> Rule:
        return self._rule

    @rule.setter
    def rule(self, rule: Rule) -> None:
        self.timetable = ()
        self._apply(rule)

    @property
    def timetable(self) -> Timetable:
        return self._timetable

    @timetable.setter
    def timetable(self, timetable: Timetable) -> None:
        """Begin a timetable now; the empty one leaves the rule as it is."""
        with self._lock:
            self._timetable = timetable
            self._timetable_from = time.monotonic()

    def __enter__(self) -> Self:
        self._reserve = self._bound()
        if self._rule.mode != "refuse":
            self._listen()
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        with self._lock:
            open_now = [c for c in self.connections if c.outcome == "open"]
        for connection in open_now:
            self._end(connection, "closed")
        for thread in self._threads:
            thread.join()
        self._unlisten()
        if self._reserve is not None:
            self._reserve.close()

    def reset_all(self) -> None:
        """Reset every open connection, once."""
        with self._lock:
            open_now = [c for c in self.connections if c.outcome == "open"]
        for connection in open_now:
            self._end(connection, "reset")

    # The listening side.

    def _start(self, work: object, *args: object) -> None:
        thread = threading.Thread(target=work, args=args, name="proxy", daemon=True)  # type: ignore[arg-type]
        with self._lock:
            self._threads = [t for t in self._threads if t.is_alive()]
            self._threads.append(thread)
            thread.start()

    def _listen(self) -> None:
        listener = self._bound()
        if self.receive_buffer_bytes is not None:  # inherited by what it accepts; too late once connected
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self.receive_buffer_bytes)
        listener.listen(128)
        self._listener = listener

    def _bound(self) -> socket.socket:
        """A socket bound to our port. One that never listens keeps the port ours while we refuse:

        a client that tries again and again would otherwise sooner or later be given it as its own.
        """
        bound = socket.socket()
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bound.bind(("127.0.0.1", self.port))
        self.port = bound.getsockname()[1]
        return bound

    def _unlisten(self) -> None:
        with self._lock:
            listener, self._listener = self._listener, None
            if listener is not None:
                # Refuses from here on; a close alone takes effect when the thread that polls it wakes.
                listener.shutdown(socket.SHUT_RDWR)
                listener.close()

    def _apply(self, rule: Rule) -> None:
        with self._lock:
            self._rule, self._hits = rule, 0
            if rule.mode == "refuse":
                self._unlisten()
            elif self._listener is None and self.port:
                self._listen()
            for connection in self.connections:
                connection.cut_at = None
        if rule.mode in ("refuse", "reset"):
            self.reset_all()

    def _tick(self) -> None:
        """Let the timetable choose the rule of this moment."""
        with self._lock:
            if not self._timetable:
                return
            at = (time.monotonic() - self._timetable_from) % sum(length for length, _ in self._timetable)
            for length, rule in self._timetable:
                if 0 <= at < length and rule is not self._rule:
                    self._apply(rule)
                at -= length

    def _accept(self) -> None:
        while not self._stopped.is_set():
            self._tick()
            with self._lock:
                listener = self._listener
            if listener is None:
                self._stopped.wait(TICK_S)
                continue
            try:
                if not _ready(listener):
                    continue
                client = listener.accept()[0]
            except OSError:
                continue  # closed by a new rule
            with self._lock:
                connection = Connection(len(self.connections) + 1, time.monotonic(), sockets=[client])
                self.connections.append(connection)
                mode = self._rule.mode
            if mode in ("refuse", "reset"):
                self._end(connection, "reset")
            else:
                self._start(self._carry, connection, client)

    # One connection.

    def _carry(self, connection: Connection, client: socket.socket) -> None:
        while self._rule.mode == "black_hole":
            if self._stopped.wait(TICK_S) or connection.outcome != "open":
                return
        try:
            server = socket.create_connection(self.target, timeout=10)
        except OSError:
            self._end(connection, "unreachable")
            return
        server.settimeout(None)
        with self._lock:
            if connection.outcome != "open":  # reset while we were connecting
                server.close()
                return
            connection.sockets.append(server)
            for side in connection.sockets:
                side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._start(self._pump, connection, server, client, "down")
        self._pump(connection, client, server, "up")

    def _pump(self, connection: Connection, source: socket.socket, sink: socket.socket, way: str) -> None:
        try:
            while not self._stopped.is_set() and connection.outcome == "open":
                if self._rule.mode == "black_hole":
                    self._stopped.wait(TICK_S)
                    continue
                if not _ready(source):
                    continue
                data = source.recv(self._allowance(way))
                if not data:
                    break
                self._pass(connection, data, sink, way)
            if connection.outcome == "open":
                sink.shutdown(socket.SHUT_WR)  # half closed: the answer may still be on its way
                if way == "down":
                    self._end(connection, "closed")
        except OSError:
            self._end(connection, "reset")

    def _pass(self, connection: Connection, data: bytes, sink: socket.socket, way: str) -> None:
        """Count, spoil and forward one piece, or cut the connection."""
        rule = self._rule
        if way == "up":
            with self._lock:
                if connection.is_answering:
                    self._begin_exchange(connection, rule)
                offset = connection.exchange_up_bytes
                connection.up_bytes += len(data)
                connection.exchange_up_bytes += len(data)
            data = self._flip(rule, data, offset, rule.flip_up_byte_at)
            limits = [n for n in (rule.reset_after_up_bytes, connection.cut_at) if n is not None]
            if limits and connection.exchange_up_bytes >= min(limits) and self._hits_one(rule):
                self._send(connection, sink, data[: max(0, min(limits) - offset)])
                self._end(connection, "reset")
                return
        else:
            is_first = not connection.is_answering
            connection.is_answering = True
            if is_first and rule.reset_before_answer and self._hits_one(rule):
                self._end(connection, "reset")
                return
            if is_first and rule.latency_s:
                self._stopped.wait(rule.latency_s)
            offset = connection.exchange_down_bytes
            connection.exchange_down_bytes += len(data)
            data = self._flip(rule, data, offset, rule.flip_down_byte_at)
            limit = rule.end_after_down_bytes
            if limit is not None and offset + len(data) > limit and self._hits_one(rule):
                data = data[: max(0, limit - offset)]
                with self._lock:
                    connection.down_bytes += len(data)
                self._send(connection, sink, data)
                self._end(connection, "closed")
                return
        self._pace(len(data), way, rule)
        # A black hole may have opened meanwhile: what is in hand waits as well.
        while self._rule.mode == "black_hole" and connection.outcome == "open" and not self._stopped.wait(TICK_S):
            pass
        if way == "down":
            with self._lock:  # before it leaves, so that a client that has its answer finds it counted
                connection.down_bytes += len(data)
        self._send(connection, sink, data)

    def _send(self, connection: Connection, sink: socket.socket, data: bytes) -> None:
        view = memoryview(data)
        while view and connection.outcome == "open" and not self._stopped.is_set():
            if _ready(sink, select.POLLOUT):
                with contextlib.suppress(BlockingIOError):
                    view = view[sink.send(view, socket.MSG_DONTWAIT) :]

    def _begin_exchange(self, connection: Connection, rule: Rule) -> None:
        connection.is_answering = False
        connection.exchanges += 1
        connection.exchange_up_bytes = connection.exchange_down_bytes = 0
        is_cut = rule.cut_share > 0 and self._random.random() < rule.cut_share
        connection.cut_at = self._random.randrange(1, rule.cut_within_bytes) if is_cut else None

    def _flip(self, rule: Rule, data: bytes, offset: int, at: int | None) -> bytes:
        if at is None or not offset <= at < offset + len(data) or not self._hits_one(rule):
            return data
        spoilt = bytearray(data)
        spoilt[at - offset] ^= 1
        return bytes(spoilt)

    def _hits_one(self, rule: Rule) -> bool:
        """Whether one more exchange is to be hit; counts it. Exact, however many are on their way."""
        with self._lock:
            if rule.times is not None and self._hits >= rule.times:
                return False
            self._hits += 1
            return True

    def _limit(self, way: str, rule: Rule) -> float | None:
        return rule.up_bytes_per_s if way == "up" else rule.down_bytes_per_s

    def _allowance(self, way: str) -> int:
        """How much to read at once: a slow link takes a twentieth of a second's worth."""
        limit = self._limit(way, self._rule)
        return CHUNK_BYTES if limit is None else max(1, min(CHUNK_BYTES, int(limit * TICK_S)))

    def _pace(self, size_bytes: int, way: str, rule: Rule) -> None:
        """Hold a piece until the link, shared by all connections, has had the time to carry it."""
        limit = self._limit(way, rule)
        if limit is None:
            return
        with self._lock:
            now = time.monotonic()
            self._next_slot[way] = slot = max(now, self._next_slot[way]) + size_bytes / limit
        self._stopped.wait(slot - now)

    def _end(self, connection: Connection, outcome: str) -> None:
        """Close both sides, for a reset with RST, counting what the client had already brought."""
        with self._lock:
            if connection.outcome != "open":
                return
            connection.outcome = outcome
            with contextlib.suppress(OSError):  # nothing more has arrived
                while data := connection.sockets[0].recv(CHUNK_BYTES, socket.MSG_DONTWAIT):
                    connection.up_bytes += len(data)
            for side in connection.sockets:
                if outcome != "closed":
                    side.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                with contextlib.suppress(OSError):  # the peer was faster
                    # Wakes whoever waits on it; a whole shutdown would send an orderly FIN before the RST.
                    side.shutdown(socket.SHUT_RD if outcome != "closed" else socket.SHUT_RDWR)
                side.close()


def _ready(side: socket.socket, event: int = select.POLLIN) -> bool:
    """Whether a socket can be read or written, after at most one tick; OSError when it was closed.

    Nothing waits longer, because a close does not wake a thread. poll, as select stops at fd 1024.
    """
    poll = select.poll()
    try:
        poll.register(side, event)
    except ValueError as error:
        raise OSError("closed") from error
    return bool(poll.poll(TICK_S * 1000))
