"""The connection to the store: HTTP/1.1 requests over TCP or TLS, watched byte by byte.

Owns every socket to the store, its pool, and the count of what went over the wire. Promises: a request ends
with an answer, or with Transient(LINK | STALLED | STORE | CLOCK), or with what the body raised; after
anything but an answer the connection is dropped with a reset, so that an unfinished body never becomes an
object. A request is sent again, once, only where the server closed an idle connection without a byte of an
answer. Progress is what the other side acknowledged, not what the kernel took. Leaves to others: what an
answer means, and signatures.
"""

from __future__ import annotations

import contextlib
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    NameResolutionError,
    NewConnectionError,
)
from urllib3.exceptions import SSLError as Urllib3SSLError
from urllib3.util import make_headers
from urllib3.util.ssl_ import create_urllib3_context

from syncagent.core.errors import Transient, Trouble
from syncagent.edges.answers import Answer
from syncagent.edges.connection import Connection, Flight, Place, ProgressSink
from syncagent.edges.reading import AnswerReader, NonsenseError

#: An idle connection older than this is not tried: stores close theirs after 5 to 60 s.
MAX_IDLE_S = 50.0
#: A request that must not be repeated takes only a connection that was in use a moment ago.
MAX_IDLE_ONCE_S = 2.0


#: Begins the body anew with each call.
Chunks = Callable[[], Iterator[bytes]]


@dataclass(frozen=True, slots=True)
class WireTotals:
    """Bytes over the wire since the start: headers, TLS and everything that was sent again included."""

    sent_bytes: int = 0
    received_bytes: int = 0


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
        progress: ProgressSink | None = None,
    ) -> None:
        self._connect_timeout_s = connect_timeout_s
        self._stall_s = stall_s
        self._max_idle_connections = max_idle_connections
        self._proxy_for = proxy_for
        self._ca_bundle = ca_bundle
        self._progress = progress
        self._lock = threading.Lock()
        self._idle: list[Connection] = []
        self._is_closed = False
        self._totals = WireTotals()
        self._tls: ssl.SSLContext | None = None
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
    ) -> Answer:
        """Send one request and return its answer. `chunks` must yield `Content-Length` bytes.

        With `is_streamed` the body of a success comes through `Answer.chunks`, to be read to its end or
        closed.
        """
        place, head = self._head(method, url, headers)
        max_idle_s = MAX_IDLE_S if may_repeat else MAX_IDLE_ONCE_S
        connection = self._take(place, max_idle_s) or self._connect(place)
        try:
            return self._converse(connection, method, head, chunks, flight, is_streamed)
        except _BrokenError as broken:
            if not (connection.is_reused and may_repeat):
                raise Transient(f"{place} closed the connection without an answer", trouble=Trouble.LINK) from broken
        if flight is not None:
            flight.handed_bytes = flight.acknowledged_bytes = 0
        try:
            return self._converse(self._connect(place), method, head, chunks, flight, is_streamed)
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
        # As botocore's signer sees it: no user part, and no port where it is the scheme's own.
        name = f"[{host}]" if ":" in host else host
        is_usual = port == (443 if scheme == "https" else 80)
        lines = [f"{method} {target} HTTP/1.1", f"Host: {name if is_usual else f'{name}:{port}'}"]
        if place.proxy and scheme == "http":
            lines += [f"{name}: {value}" for name, value in _proxy_headers(place.proxy).items()]
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
                    answer.chunks = self._stream(reader, connection)
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

    def _stream(self, reader: AnswerReader, connection: Connection) -> Iterator[bytes]:
        """The body of an answer as it comes. Dropped unless it was read to its end."""
        is_left_open = False
        try:
            connection.begin(None, None)
            with _reading(connection.place):
                for chunk in reader.read_chunks():
                    started_at = time.monotonic()
                    yield chunk
                    connection.waited(time.monotonic() - started_at)
            if reader.is_reusable:
                self._give_back(connection)
                is_left_open = True
        finally:
            if not is_left_open:
                self._count(connection)
                connection.drop()

    def _count(self, connection: Connection) -> None:
        sent, received = connection.count()
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

    def _connect(self, place: Place) -> Connection:
        """A new connection, through the proxy if there is one."""
        via = place
        if place.proxy:
            parts = urlsplit(place.proxy)
            if parts.scheme != "http" or not parts.hostname:
                raise Transient("only proxies of the form http://host:port can be used", trouble=Trouble.LINK)
            via = Place("http", parts.hostname, parts.port or 80, "")
        kind: HTTPConnection
        if place.scheme == "https":
            kind = HTTPSConnection(via.host, via.port, timeout=self._connect_timeout_s, ssl_context=self._tls_context())
            if place.proxy:
                kind.set_tunnel(place.host, place.port, headers=_proxy_headers(place.proxy), scheme="http")
        else:
            kind = HTTPConnection(via.host, via.port, timeout=self._connect_timeout_s)
        try:
            kind.connect()
        except (HTTPError, OSError) as error:
            with contextlib.suppress(OSError):
                kind.close()
            raise _connect_trouble(error, via, place, self._connect_timeout_s) from error
        # urllib3 only opens the connection: from here on the socket is ours.
        sock, kind.sock = kind.sock, None
        assert sock is not None
        return Connection(sock, place, stall_s=self._stall_s)

    def _tls_context(self) -> ssl.SSLContext:
        """One for all connections: reading the bundle of authorities costs tens of milliseconds."""
        with self._lock:
            if self._tls is None:
                bundle = self._ca_bundle()
                context = create_urllib3_context(cert_reqs=ssl.CERT_REQUIRED)
                context.check_hostname = True
                try:
                    context.load_verify_locations(bundle)
                except OSError as error:
                    raise Transient(
                        f"the certificate authorities cannot be read: {bundle}", trouble=Trouble.LINK
                    ) from error
                self._tls = context
            return self._tls


@contextlib.contextmanager
def _reading(place: Place) -> Iterator[None]:
    """Our words for what goes wrong while an answer is read; the body's source has its own."""
    try:
        yield
    except NonsenseError as error:
        raise Transient(f"{place} answers, but not as a store does: {error}", trouble=Trouble.STORE) from error
    except OSError as error:
        raise Transient(f"the connection to {place} broke", trouble=Trouble.LINK) from error


def _proxy_headers(proxy: str) -> dict[str, str]:
    parts = urlsplit(proxy)
    if parts.username is None:
        return {}
    found = make_headers(proxy_basic_auth=f"{parts.username}:{parts.password or ''}")
    return {name: value for name, value in found.items() if isinstance(value, str)}


def _connect_trouble(error: Exception, via: Place, place: Place, timeout_s: float) -> Transient:
    """Why no connection came about, in words for a person."""
    causes: list[BaseException | None] = [error, error.__cause__, *error.args]
    verify = next((c for c in causes if isinstance(c, ssl.SSLCertVerificationError)), None)
    if verify is not None:
        # X509_V_ERR_CERT_NOT_YET_VALID and _HAS_EXPIRED: a board without a clock boots in the past.
        if verify.verify_code in (9, 10):
            return Transient(
                f"the certificate of {place.host} is not valid at our time: {verify.verify_message}",
                trouble=Trouble.CLOCK,
            )
        return Transient(
            f"the certificate of {place.host} is not trusted: {verify.verify_message}", trouble=Trouble.LINK
        )
    if isinstance(error, NameResolutionError):
        what = f"the name {via.host} cannot be resolved"
    elif isinstance(error, ConnectTimeoutError | TimeoutError):
        what = f"no answer from {via} within {timeout_s:g} s"
    elif any(isinstance(c, ConnectionRefusedError) for c in causes):
        what = f"connection refused by {via}"
    elif isinstance(error, NewConnectionError):
        reason = error.__cause__.strerror if isinstance(error.__cause__, OSError) else None
        what = f"cannot connect to {via}: {reason or 'no connection'}"
    elif isinstance(error, Urllib3SSLError | ssl.SSLError):
        what = f"no TLS connection with {place}"
    elif via != place and isinstance(error, OSError):
        what = f"the proxy {via} did not connect us to {place}"
    else:
        what = f"the connection to {via} broke while it was made"
    return Transient(what, trouble=Trouble.LINK)
