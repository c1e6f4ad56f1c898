"""Makes connections to the store: resolve, connect, tunnel through a proxy, TLS.

Promises: whatever goes wrong is Transient in words for a person; a connection over TLS leads to a host whose
certificate's chain, name and dates were verified, or says that its dates still must be; while it waits, the
caller's tick is called, so that an agent which is asked to end need not wait (but for the resolver). Leaves to
others: everything that is said over a connection.

Dates are judged by our clock. Only where it is in doubt (not synchronised, or before this release was made) and
the certificate does not hold at its time, they are judged by the store's time instead: a board that boots in 1970
would otherwise never hear what time it is.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import urlsplit

from urllib3.util import make_headers
from urllib3.util.ssl_ import create_urllib3_context

from syncagent.core.errors import Transient, Trouble
from syncagent.core.moments import moment_of
from syncagent.core.skew import is_valid_at
from syncagent.edges.connection import Place, Traffic
from syncagent.edges.reading import AnswerReader, NonsenseError
from syncagent.edges.signing import StoreClock

TICK_S = 0.5
#: Of each address family: a store may have many addresses, and a dead link costs the time-out of each.
MAX_ADDRESSES = 2
#: What the kernel may hold back beyond what is on its way: more would neither be progress nor could be stopped.
UNSENT_BYTES = 128 * 1024

_NO_CHECK_TIME = 0x200000  # X509_V_FLAG_NO_CHECK_TIME: chain, name and signatures are verified all the same
_DATE_ERRORS = (9, 10)  # X509_V_ERR_CERT_NOT_YET_VALID, X509_V_ERR_CERT_HAS_EXPIRED

Tick = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Validity:
    """When a certificate holds."""

    not_before: datetime
    not_after: datetime

    def holds_at(self, moment: datetime) -> bool:
        return is_valid_at(moment, not_before=self.not_before, not_after=self.not_after)


@dataclass(frozen=True, slots=True)
class Line:
    """A connected socket. With `unproved` nothing may be sent over it until the store's time was heard."""

    sock: socket.socket | ssl.SSLSocket
    traffic: Traffic
    unproved: Validity | None = None


class _DateError(Exception):
    """The certificate is good but for its dates, by our clock."""


class Dialer:
    """Connects to places; safe to share between threads."""

    def __init__(
        self,
        *,
        connect_timeout_s: float,
        ca_bundle: Callable[[], str],
        clock: StoreClock,
        on_lost: Callable[[int, int], None] = lambda _sent, _received: None,
    ) -> None:
        self._connect_timeout_s = connect_timeout_s
        self._ca_bundle = ca_bundle
        self._clock = clock
        self._on_lost = on_lost  # told of the bytes of connections that came to nothing
        self._lock = threading.Lock()
        self._contexts: dict[bool, ssl.SSLContext] = {}

    def dial(self, place: Place, *, tick: Tick) -> Line:
        """A new connection, through the proxy if there is one. Raises: Transient, and what `tick` raises."""
        if place.scheme != "https":
            return self._dial(place, tick, checks_dates=True)
        if not (self._clock.is_corrected and self._clock.is_doubtful):
            try:
                return self._dial(place, tick, checks_dates=True)
            except _DateError as error:
                if not self._clock.is_doubtful:
                    raise Transient(
                        f"TLS failure: the certificate of {place.host} is not valid: {error}", trouble=Trouble.STORE
                    ) from error
        return self._dial(place, tick, checks_dates=False)

    def _dial(self, place: Place, tick: Tick, *, checks_dates: bool) -> Line:
        via = _proxy_place(place) if place.proxy else place
        sock = self._connect(via, tick)
        traffic = Traffic()
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)
            if place.scheme != "https":
                return Line(sock, traffic)
            if place.proxy:
                self._tunnel(sock, via, place, tick)
            sock = self._wrap(sock, place, tick, checks_dates=checks_dates)
            return Line(sock, traffic, None if checks_dates else self._unproved(sock, place))
        except BaseException:
            self._on_lost(*traffic.count(sock))
            with contextlib.suppress(OSError):
                sock.close()
            raise

    def _connect(self, via: Place, tick: Tick) -> socket.socket:
        """TCP to the first address that answers."""
        tick()
        try:
            found = socket.getaddrinfo(via.host, via.port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise Transient(f"the name {via.host} cannot be resolved", trouble=Trouble.LINK) from error
        families = {family for family, *_ in found}
        addresses = [
            each for family in families for each in [entry for entry in found if entry[0] == family][:MAX_ADDRESSES]
        ]
        addresses.sort(key=found.index)
        timeout_s = self._connect_timeout_s / (1 if len(addresses) == 1 else 2)
        last: OSError = TimeoutError()
        for family, kind, protocol, _, address in addresses:
            sock = socket.socket(family, kind, protocol)
            try:
                sock.setblocking(False)
                _finish_connect(sock, address, time.monotonic() + timeout_s, tick)
                return sock
            except OSError as error:
                last = error
                sock.close()
            except BaseException:
                sock.close()
                raise
        if isinstance(last, ConnectionRefusedError):
            what = f"connection refused by {via}"
        elif isinstance(last, TimeoutError) and last.errno is None:
            what = f"no answer from {via} within {self._connect_timeout_s:g} s"
        else:
            what = f"cannot connect to {via}: {last.strerror or 'no connection'}"
        raise Transient(what, trouble=Trouble.LINK) from last

    def _tunnel(self, sock: socket.socket, via: Place, place: Place, tick: Tick) -> None:
        """Have the proxy connect us."""
        end_s = time.monotonic() + self._connect_timeout_s
        name = f"[{place.host}]" if ":" in place.host else place.host
        lines = [f"CONNECT {name}:{place.port} HTTP/1.1", f"Host: {name}:{place.port}"]
        lines += [f"{header}: {value}" for header, value in proxy_headers(place.proxy).items()]

        def receive() -> bytes:
            # Byte by byte: what follows the proxy's head is TLS's.
            while True:
                try:
                    return sock.recv(1)
                except BlockingIOError:
                    _wait(sock, select.POLLIN, end_s, tick)

        try:
            sock.sendall(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))
            status, _ = AnswerReader(receive, method="CONNECT").read_head()
        except TimeoutError as error:
            raise Transient(
                f"no answer from {via} within {self._connect_timeout_s:g} s", trouble=Trouble.LINK
            ) from error
        except (OSError, NonsenseError) as error:
            raise Transient(f"the proxy {via} did not connect us to {place}", trouble=Trouble.LINK) from error
        if not 200 <= status < 300:
            raise Transient(f"the proxy {via} did not connect us to {place}: {status}", trouble=Trouble.LINK)

    def _wrap(self, sock: socket.socket, place: Place, tick: Tick, *, checks_dates: bool) -> ssl.SSLSocket:
        """TLS over a connected socket. Raises: _DateError where only the dates are wrong."""
        end_s = time.monotonic() + self._connect_timeout_s
        context, host = self._context(checks_dates=checks_dates), place.host.partition("%")[0]
        wrapped: ssl.SSLSocket | None = None
        try:
            wrapped = context.wrap_socket(sock, server_hostname=host, do_handshake_on_connect=False)
            while True:
                try:
                    wrapped.do_handshake()
                    return wrapped
                except ssl.SSLWantReadError:
                    _wait(wrapped, select.POLLIN, end_s, tick)
                except ssl.SSLWantWriteError:
                    _wait(wrapped, select.POLLOUT, end_s, tick)
        except BaseException as error:
            # The plain socket was emptied into this one: it is this one that must be counted and closed.
            if wrapped is not None:
                self._on_lost(*Traffic().count(wrapped))
                with contextlib.suppress(OSError):
                    wrapped.close()
            if isinstance(error, ssl.SSLCertVerificationError):
                if error.verify_code in _DATE_ERRORS:
                    raise _DateError(error.verify_message) from error
                raise Transient(
                    f"the certificate of {place.host} is not trusted: {error.verify_message}", trouble=Trouble.LINK
                ) from error
            if isinstance(error, TimeoutError):
                raise Transient(
                    f"no answer from {place} within {self._connect_timeout_s:g} s", trouble=Trouble.LINK
                ) from error
            if isinstance(error, OSError | ValueError):
                raise Transient(f"no TLS connection with {place}", trouble=Trouble.LINK) from error
            raise

    def _unproved(self, sock: ssl.SSLSocket, place: Place) -> Validity | None:
        """What is still to be verified of a certificate: nothing, if we know the store's time and it holds then."""
        certificate = sock.getpeercert() or {}
        validity = Validity(
            _moment(str(certificate.get("notBefore"))),
            _moment(str(certificate.get("notAfter"))),
        )
        moment = self._clock.store_time()
        if moment is None:
            return validity
        verify_dates(validity, moment, place)
        return None

    def _context(self, *, checks_dates: bool) -> ssl.SSLContext:
        """One for all connections: reading the bundle of authorities costs tens of milliseconds."""
        with self._lock:
            context = self._contexts.get(checks_dates)
            if context is None:
                bundle = self._ca_bundle()
                context = create_urllib3_context(cert_reqs=ssl.CERT_REQUIRED)
                context.check_hostname = True
                if not checks_dates:
                    context.verify_flags |= _NO_CHECK_TIME
                try:
                    context.load_verify_locations(bundle)
                except OSError as error:
                    raise Transient(
                        f"the certificate authorities cannot be read: {bundle}", trouble=Trouble.LINK
                    ) from error
                self._contexts[checks_dates] = context
            return context


def verify_dates(validity: Validity, moment: datetime, place: Place) -> None:
    """Raises Transient(STORE) unless a certificate holds at the store's own time."""
    if not validity.holds_at(moment):
        raise Transient(
            f"TLS failure: the certificate of {place.host} is not valid at the store's own time", trouble=Trouble.STORE
        )


def proxy_headers(proxy: str) -> dict[str, str]:
    """What a proxy wants to know of us."""
    parts = urlsplit(proxy)
    if parts.username is None:
        return {}
    found = make_headers(proxy_basic_auth=f"{parts.username}:{parts.password or ''}")
    return {name: value for name, value in found.items() if isinstance(value, str)}


def _proxy_place(place: Place) -> Place:
    parts = urlsplit(place.proxy)
    if parts.scheme != "http" or not parts.hostname:
        raise Transient("only proxies of the form http://host:port can be used", trouble=Trouble.LINK)
    return Place("http", parts.hostname, parts.port or 80, "")


def _moment(text: str) -> datetime:
    """A certificate's date. One that cannot be read holds never."""
    try:
        return moment_of(ssl.cert_time_to_seconds(text))
    except (ValueError, OverflowError):
        return datetime.min.replace(tzinfo=UTC)


def _finish_connect(sock: socket.socket, address: object, end_s: float, tick: Tick) -> None:
    error = sock.connect_ex(address)  # type: ignore[arg-type]  # as getaddrinfo gave it
    while error in (errno.EINPROGRESS, errno.EALREADY, errno.EWOULDBLOCK):
        _wait(sock, select.POLLOUT, end_s, tick)
        error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if error:
        raise OSError(error, os.strerror(error))


def _wait(sock: socket.socket, event: int, end_s: float, tick: Tick) -> None:
    """Until the socket is ready; raises TimeoutError after the deadline, and what `tick` raises."""
    poll = select.poll()
    poll.register(sock, event)
    while True:
        left_s = end_s - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        if poll.poll(min(left_s, TICK_S) * 1000):
            return
        tick()
