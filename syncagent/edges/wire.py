"""The connection to the store: HTTP/1.1 requests over TCP or TLS, watched byte by byte.

Owns the pool of connections to the store, the meter that they share, and the count of what went over the
wire. Promises: a request ends with an answer, or with Transient(LINK | STALLED | STORE | CLOCK), or with what
the body raised; after anything but an answer the connection is dropped with a reset, so that an unfinished body
never becomes an object. A request is sent again, once, only where the server closed an idle connection without
a byte of an answer. Progress is what the other side acknowledged, not what the kernel took. Leaves to others:
what an answer means, signatures, and how connections are made (edges/dialing.py).
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from syncagent import __version__
from syncagent.core.errors import Transient, Trouble
from syncagent.edges.answers import Answer
from syncagent.edges.connection import Connection, Flight, Pace, Place, ProgressSink
from syncagent.edges.dialing import Dialer, Validity, proxy_headers, verify_dates
from syncagent.edges.reading import AnswerReader, NonsenseError
from syncagent.edges.signing import StoreClock

#: An idle connection older than this is not tried: stores close theirs after 5 to 60 s.
MAX_IDLE_S = 50.0
#: A request that must not be repeated takes only a connection that was in use a moment ago.
MAX_IDLE_ONCE_S = 2.0


USER_AGENT = f"syncagent/{__version__}"

#: Begins the body anew with each call.
Chunks = Callable[[], Iterator[bytes]]


@dataclass(frozen=True, slots=True)
class WireTotals:
    """Bytes over the wire since the start: headers, TLS, failed attempts and everything that we sent again.

    TCP's own headers and retransmissions are not in it.
    """

    sent_bytes: int = 0
    received_bytes: int = 0


class StaleError(Exception):
    """What was signed is not the time any more."""


class _BrokenError(Exception):
    """The connection ended without one byte of an answer."""


class Wire:
    """Requests to one store from any number of threads, each over a connection of its own."""

    def __init__(
        self,
        *,
        connect_timeout_s: float,
        stall_s: float,
        max_idle_connections: int,
        proxy_for: Callable[[str], str],
        ca_bundle: Callable[[], str],
        clock: StoreClock,
        progress: ProgressSink | None = None,
        limit: Callable[[], int | None] | None = None,
    ) -> None:
        self._dialer = Dialer(connect_timeout_s=connect_timeout_s, ca_bundle=ca_bundle, clock=clock, on_lost=self._add)
        self._clock = clock
        self._stall_s = stall_s
        self._max_idle_connections = max_idle_connections
        self._proxy_for = proxy_for
        self._progress = progress
        self._pace = None if limit is None else Pace(limit)
        self._lock = threading.Lock()
        self._idle: list[Connection] = []
        self._is_closed = False
        self._totals = WireTotals()
        self._proxies: dict[tuple[str, str], str] = {}

    def totals(self) -> WireTotals:
        """What went over the wire so far."""
        with self._lock:
            return self._totals

    def close(self) -> None:
        """Close what is idle; a request in flight closes its own connection when it ends."""
        with self._lock:
            self._is_closed = True
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def reach(self, url: str, *, flight: Flight) -> None:
        """Connect to where `url` leads, and keep the connection for the next request.

        The cheapest proof that the link is back. Nothing is asked (but for the time, where only the store can tell
        whether its certificate holds); through a proxy for plain http only the proxy is reached.
        """
        place, _ = self._head("HEAD", url, {})
        self._give_back(self._connect(place, flight))

    def exchange(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str],
        chunks: Chunks | None = None,
        flight: Flight | None = None,
        may_repeat: bool = True,
        is_streamed: bool = False,
        is_stale: Callable[[], bool] = lambda: False,
    ) -> Answer:
        """Send one request and return its answer. `chunks` must yield `Content-Length` bytes.

        A new connection may have told what time it is: where `is_stale` then, StaleError is raised and nothing sent.

        With `is_streamed` the body of a success comes through `Answer.chunks`, to be read to its end or
        closed.
        """
        place, head = self._head(method, url, headers)
        max_idle_s = MAX_IDLE_S if may_repeat else MAX_IDLE_ONCE_S
        connection = self._take(place, max_idle_s) or self._connect(place, flight)
        if is_stale():
            self._give_back(connection)
            raise StaleError
        try:
            return self._converse(connection, method, head, chunks, flight, is_streamed)
        except _BrokenError as broken:
            if not (connection.is_reused and may_repeat):
                raise Transient(f"{place} closed the connection without an answer", trouble=Trouble.LINK) from broken
        if flight is not None:
            flight.restart()
        try:
            return self._converse(self._connect(place, flight), method, head, chunks, flight, is_streamed)
        except _BrokenError as broken:
            raise Transient(f"{place} closed the connection without an answer", trouble=Trouble.LINK) from broken

    def _head(self, method: str, url: str, headers: Mapping[str, str]) -> tuple[Place, bytes]:
        """Where a request goes, and the bytes that open it."""
        parts = urlsplit(url)
        scheme = parts.scheme or "http"
        host = parts.hostname or ""
        port = parts.port or (443 if scheme == "https" else 80)
        proxy = self._proxies.get((scheme, parts.netloc))
        if proxy is None:
            # Asked once: the environment does not change, and reading it costs a third of a small request.
            proxy = self._proxies[scheme, parts.netloc] = self._proxy_for(url)
        place = Place(scheme, host, port, proxy)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        if place.proxy and scheme == "http":
            target = f"http://{parts.netloc.rpartition('@')[2]}{target}"
        # As the signature has it: no user part, and no port where it is the scheme's own.
        name = f"[{host}]" if ":" in host else host
        is_usual = port == (443 if scheme == "https" else 80)
        lines = [f"{method} {target} HTTP/1.1", f"Host: {name if is_usual else f'{name}:{port}'}"]
        if place.proxy and scheme == "http":
            lines += [f"{name}: {value}" for name, value in proxy_headers(place.proxy).items()]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        return place, ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")

    def _converse(
        self,
        connection: Connection,
        method: str,
        head: bytes,
        chunks: Chunks | None,
        flight: Flight | None,
        is_streamed: bool,
    ) -> Answer:
        """One request over one connection; whatever goes wrong, the connection is dropped."""
        reader = AnswerReader(connection.receive, method=method)
        is_left_open = False
        try:
            connection.begin(flight, self._progress)
            is_sent = self._send(connection, head, chunks, reader)
            with _reading(connection.place):
                answer = self._read_head(reader)
                connection.end(is_answered=is_sent)
                if is_streamed and 200 <= answer.status < 300:
                    answer.chunks = self._stream(reader, connection, flight)
                    next(answer.chunks)
                    is_left_open = True
                    return answer
                answer.body = reader.read_all()
            if is_sent and reader.is_reusable:
                self._give_back(connection)
                is_left_open = True
            return answer
        finally:
            if not is_left_open:
                connection.end(is_answered=False)
                self._count(connection)
                connection.drop()

    def _send(self, connection: Connection, head: bytes, chunks: Chunks | None, reader: AnswerReader) -> bool:
        """Send head and body; False if the answer (or the end) came before all of it was sent."""
        source = iter(()) if chunks is None else chunks()
        # Read before the head leaves: a file that is gone or changed costs no request.
        started_at = time.monotonic()
        chunk = next(source, b"")
        connection.waited(time.monotonic() - started_at)
        is_first = True
        data = head + chunk
        while data:
            if not connection.send(data, body_bytes=len(chunk), reader=reader, is_first=is_first):
                return False
            if not chunk:
                break
            is_first = False
            started_at = time.monotonic()
            data = chunk = next(source, b"")
            connection.waited(time.monotonic() - started_at)
        return True

    def _read_head(self, reader: AnswerReader) -> Answer:
        try:
            status, headers = reader.read_head()
        except OSError as error:
            if reader.is_empty:
                raise _BrokenError from error
            raise
        return Answer(status, headers)

    def _stream(self, reader: AnswerReader, connection: Connection, flight: Flight | None) -> Iterator[bytes]:
        """The body of an answer as it comes. Dropped unless it was read to its end."""
        is_left_open = False
        try:
            # Begun at once: closing a generator that never ran would leave the connection open, and uncounted.
            yield b""
            connection.begin(flight, self._progress)
            with _reading(connection.place):
                for chunk in reader.read_chunks():
                    self._count(connection)  # a long body must not spend a budget unseen
                    started_at = time.monotonic()
                    yield chunk
                    connection.waited(time.monotonic() - started_at)
            connection.end(is_answered=False)
            if reader.is_reusable:
                self._give_back(connection)
                is_left_open = True
        finally:
            if not is_left_open:
                self._count(connection)
                connection.drop()

    def _count(self, connection: Connection) -> None:
        self._add(*connection.count())

    def _add(self, sent: int, received: int) -> None:
        with self._lock:
            self._totals = WireTotals(self._totals.sent_bytes + sent, self._totals.received_bytes + received)

    def _take(self, place: Place, max_idle_s: float) -> Connection | None:
        """The idle connection to `place` that was used last, if one is still open."""
        while True:
            with self._lock:
                found = next((c for c in reversed(self._idle) if c.place == place), None)
                if found is None:
                    return None
                self._idle.remove(found)
            if time.monotonic() - found.idle_since <= max_idle_s and found.is_quiet():
                return found
            self._count(found)
            found.close()

    def _give_back(self, connection: Connection) -> None:
        self._count(connection)
        connection.is_reused = True
        connection.idle_since = time.monotonic()
        with self._lock:
            is_kept = not self._is_closed
            if is_kept:
                self._idle.append(connection)
            surplus = self._idle[: -self._max_idle_connections]
            del self._idle[: len(surplus)]
        for idle in surplus if is_kept else [connection]:
            idle.close()

    def _connect(self, place: Place, flight: Flight | None) -> Connection:
        """A new connection over which a body may go."""

        def tick() -> None:
            if self._progress is not None and flight is not None:
                self._progress(flight)

        for _ in range(2):
            line = self._dialer.dial(place, tick=tick)
            connection = Connection(line.sock, place, stall_s=self._stall_s, traffic=line.traffic, pace=self._pace)
            if line.unproved is None or self._hear_time(connection, line.unproved, flight):
                return connection
        raise Transient(f"{place} does not say what time it is", trouble=Trouble.CLOCK)

    def _hear_time(self, connection: Connection, unproved: Validity, flight: Flight | None) -> bool:
        """Verify a certificate's dates by what the store says of the time, before anything else is sent.

        True if the connection can be used on; else a new one is judged by what was heard.
        """
        place, is_kept = connection.place, False
        _, head = self._head("HEAD", f"https://{_authority(place)}/", {"User-Agent": USER_AGENT})
        reader = AnswerReader(connection.receive, method="HEAD")
        try:
            connection.begin(flight, self._progress)
            self._send(connection, head, None, reader)
            with _reading(place):
                answer = self._read_head(reader)
                reader.read_all()
            # The chain and the name were verified: this is the store, or who holds its key.
            self._clock.note_date(answer.headers.get("date"))
            moment = self._clock.store_time()
            if moment is None:
                raise Transient(f"{place} does not say what time it is", trouble=Trouble.CLOCK)
            verify_dates(unproved, moment, place)
            is_kept = reader.is_reusable
            return is_kept
        except _BrokenError as broken:
            raise Transient(f"{place} closed the connection without an answer", trouble=Trouble.LINK) from broken
        finally:
            if not is_kept:
                self._count(connection)
                connection.drop()


def _authority(place: Place) -> str:
    """Host and port as they stand in a URL."""
    name = f"[{place.host}]" if ":" in place.host else place.host
    return f"{name}:{place.port}"


@contextlib.contextmanager
def _reading(place: Place) -> Iterator[None]:
    """Our words for what goes wrong while an answer is read; the body's source has its own."""
    try:
        yield
    except NonsenseError as error:
        raise Transient(f"{place} answers, but not as a store does: {error}", trouble=Trouble.STORE) from error
    except OSError as error:
        raise Transient(f"the connection to {place} broke", trouble=Trouble.LINK) from error
