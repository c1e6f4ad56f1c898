"""The page's server: HTTP on one port, for a few visitors at once, who may be slow or hostile.

Promises: at most MAX_VISITORS are served at once, each in a thread of its own; whoever holds a place and does not get
on loses it to the next one; a request has a bounded size and time; nothing but GET and HEAD is answered, to nobody
without the password where there is one, and on loopback under no strange name (core/visitors.py). Knows nothing of
what it shows.
"""

from __future__ import annotations

import contextlib
import io
import logging
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from syncagent.core.visitors import is_password, is_welcome, parse_listen

logger = logging.getLogger(__name__)

#: Of HTTP, for whoever makes answers.
OK, NOT_FOUND, UNAVAILABLE = 200, 404, 503
MAX_VISITORS = 8
#: All lines of a request together, and how long they may take.
MAX_REQUEST_BYTES = 32 * 1024
REQUEST_S = 10.0
#: One piece of an answer may take so long.
PIECE_S = 10.0
#: With all places taken, the one who has been here longest goes: after so long while asking, or while being answered.
ASKING_S, ANSWERED_S = 1.0, 10.0
#: Who guesses passwords waits for each answer.
WRONG_PASSWORD_S = 1.0
#: How long the end waits for answers that are on their way.
CLOSE_S = 1.0

_NOT_HERE = "This page answers to the names 127.0.0.1, localhost and [::1] only: a proxy must say one of these as Host."
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked for: a path that begins with "/", and what stands behind its "?"."""

    path: str
    query: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Answer:
    """`pieces` are `size_bytes` together; if they have a `close`, it is called. `headers` replace the strict ones."""

    status: int
    content_type: str
    pieces: Iterable[bytes]
    size_bytes: int
    headers: Mapping[str, str] = field(default_factory=dict)


def text_answer(status: int, text: str, **headers: str) -> Answer:
    """A line for whoever reads it."""
    body = f"{text}\n".encode("utf-8", "backslashreplace")
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(status, "text/plain; charset=utf-8", (body,), len(body), named)


class Web:
    """See the module. `respond` is called in the threads of visitors, several at once."""

    def __init__(self, listen: str, respond: Callable[[Question], Answer], *, password: str | None = None) -> None:
        self.listen = listen
        self.host, self._port = parse_listen(listen)
        self._respond = respond
        self._password = password
        self._server: _Server | None = None
        self._lock = threading.Lock()
        self._is_closed = threading.Event()

    @property
    def is_open(self) -> bool:
        return self._server is not None

    def open(self) -> None:
        """Take the port and begin to answer. Raises: OSError, when it is taken, or no address of this machine."""
        with self._lock:
            if self._server is not None or self._is_closed.is_set():
                return
            server = self._bind()
            threading.Thread(target=server.accept_all, name="page-server", daemon=True).start()
            self._server = server

    def _bind(self) -> _Server:
        places = socket.getaddrinfo(self.host, self._port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for number, (family, _, _, _, place) in enumerate(places, start=1):
            try:
                return _Server(self, family, place)
            except OSError:
                if number == len(places):
                    raise
        raise OSError(f"{self.host} is no address")

    def close(self) -> None:
        """No more answers; those that are on their way get a moment."""
        self._is_closed.set()
        with self._lock:
            server, self._server = self._server, None
        if server is not None:
            server.end(CLOSE_S)

    # -- what visitors' threads ask -----------------------------------------------------------------------------------

    def judge(self, hosts: list[str], authorization: str | None) -> Answer | None:
        """Why a request is not answered; None when it is."""
        if not is_welcome(hosts, host=self.host):
            return text_answer(HTTPStatus.MISDIRECTED_REQUEST, _NOT_HERE)
        if self._password is None or (authorization is not None and is_password(authorization, self._password)):
            return None
        if authorization is not None:
            self._is_closed.wait(WRONG_PASSWORD_S)
        challenge = 'Basic realm="syncagent", charset="UTF-8"'
        return text_answer(HTTPStatus.UNAUTHORIZED, "The password is web.password.", WWW_Authenticate=challenge)

    def respond(self, question: Question) -> Answer:
        try:
            return self._respond(question)
        except Exception:
            if not self._is_closed.is_set():
                logger.exception("no answer path=%r", question.path)
            return text_answer(HTTPStatus.INTERNAL_SERVER_ERROR, "A bug, or a disk that fails: see the agent's log.")


@dataclass(slots=True)
class _Place:
    """One of the places for visitors, taken."""

    since: float
    is_answered: bool = False

    def gives_way_in_s(self, now: float) -> float:
        """After how many seconds a newcomer may have it; 0 or less when it may now."""
        return self.since + (ANSWERED_S if self.is_answered else ASKING_S) - now


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 2 * MAX_VISITORS

    def __init__(self, web: Web, family: int, place: Any) -> None:
        self.web = web
        self.address_family = socket.AddressFamily(family)
        self._changed = threading.Condition()
        self._places: dict[socket.socket, _Place] = {}  # under _changed
        self._is_ended = threading.Event()
        super().__init__(place, _Visit)

    def server_bind(self) -> None:
        """Without looking up the name of this host, which HTTPServer does, and which may take a minute."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.web.host, 0

    def accept_all(self) -> None:
        """Let visitors in until the end; without a tick of its own while there are none."""
        while not self._is_ended.is_set():
            try:
                visitor, address = self.get_request()
            except OSError as error:
                if self._is_ended.wait(1.0):
                    return
                logger.warning("no visitor let in reason=%s", error)  # such as too many open files
                continue
            self._make_room()
            with self._changed:
                self._places[visitor] = _Place(time.monotonic())
            try:
                self.process_request(visitor, address)
            except RuntimeError as error:  # no memory, or no number, left for a thread
                logger.warning("no visitor served reason=%s", error)
                self.shutdown_request(visitor)

    def _make_room(self) -> None:
        with self._changed:
            while len(self._places) >= MAX_VISITORS and not self._is_ended.is_set():
                now = time.monotonic()
                visitor, place = min(self._places.items(), key=lambda taken: taken[1].gives_way_in_s(now))
                wait_s = place.gives_way_in_s(now)
                if wait_s <= 0:
                    _hang_up(visitor)
                    place.since = float("inf")  # once is enough: its thread ends now
                self._changed.wait(min(max(wait_s, 0.05), ANSWERED_S))

    def note_answering(self, visitor: socket.socket) -> None:
        """The visitor has asked, and is being answered."""
        with self._changed:
            if visitor in self._places:
                self._places[visitor] = _Place(time.monotonic(), is_answered=True)

    def shutdown_request(self, request: Any) -> None:
        try:
            super().shutdown_request(request)
        finally:
            with self._changed:
                self._places.pop(request, None)
                self._changed.notify_all()

    def handle_error(self, request: Any, client_address: Any) -> None:
        logger.debug("visitor lost", exc_info=True)

    def end(self, wait_s: float) -> None:
        """Let nobody in any more, and hang up on who is not answered within so many seconds."""
        self._is_ended.set()
        _hang_up(self.socket)  # shutdown wakes the accept in the other thread; close alone does not
        until = time.monotonic() + wait_s
        with self._changed:
            self._changed.notify_all()
            for visitor, place in self._places.items():
                if not place.is_answered:
                    _hang_up(visitor)
            while self._places and time.monotonic() < until:
                self._changed.wait(until - time.monotonic())
            for visitor in self._places:
                _hang_up(visitor)
        self.server_close()


def _hang_up(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


class _Patience(io.RawIOBase):
    """A visitor's bytes, as long as all of them come in time and are not too many."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__()
        self._sock = sock
        self._until = time.monotonic() + REQUEST_S
        self._left_bytes = MAX_REQUEST_BYTES

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        left_s = self._until - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("the request takes too long")
        if self._left_bytes <= 0:
            raise ConnectionAbortedError("the request is too long")
        self._sock.settimeout(left_s)
        count = self._sock.recv_into(memoryview(buffer)[: self._left_bytes])
        self._left_bytes -= count
        return count


class _Visit(BaseHTTPRequestHandler):
    """One request and its answer; connections are not kept."""

    server: _Server
    protocol_version = "HTTP/1.1"

    def setup(self) -> None:
        super().setup()
        self.rfile = io.BufferedReader(_Patience(self.connection))

    def version_string(self) -> str:
        return "syncagent"

    def log_message(self, *arguments: Any) -> None:
        logger.debug("visitor %s", arguments[0] % arguments[1:])

    def do_GET(self) -> None:
        self.server.note_answering(self.connection)
        web = self.server.web
        refusal = web.judge(self.headers.get_all("Host") or [], self.headers.get("Authorization"))
        if refusal is not None:
            self._send(refusal)
            return
        if not self.path.startswith("/") or not self.path.isascii():
            self._send(text_answer(HTTPStatus.BAD_REQUEST, "That is no path."))
            return
        parts = urlsplit(self.path)
        try:
            query = dict(parse_qsl(parts.query, max_num_fields=8))
        except ValueError:
            query = {}
        self._send(web.respond(Question(parts.path, query)))

    do_HEAD = do_GET  # noqa: N815 - the library's name for it

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What the library refuses by itself, with our headers."""
        if code == HTTPStatus.NOT_IMPLEMENTED:  # a method that there is no `do_` for
            self._skip_body()
            self._send(text_answer(HTTPStatus.METHOD_NOT_ALLOWED, "Only GET and HEAD.", Allow="GET, HEAD"))
        else:
            self._send(text_answer(code, "That is no request."))

    def _skip_body(self) -> None:
        """What is left unread when the connection closes would have the answer thrown away."""
        length = self.headers.get("Content-Length", "0")
        with contextlib.suppress(OSError):
            self.rfile.read(min(int(length), MAX_REQUEST_BYTES) if length.isdecimal() else 0)

    def _send(self, answer: Answer) -> None:
        self.close_connection = True
        try:
            self.connection.settimeout(PIECE_S)
            self.send_response(answer.status)
            own = {"Content-Type": answer.content_type, "Content-Length": str(answer.size_bytes), "Connection": "close"}
            for name, value in {**_HEADERS, **answer.headers, **own}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                for piece in answer.pieces:
                    self.wfile.write(piece)
        finally:
            close = getattr(answer.pieces, "close", None)
            if close is not None:
                close()
