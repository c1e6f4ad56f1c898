"""The page's server against visitors that are slow, many, hostile or strangers. Over real sockets."""

from __future__ import annotations

import base64
import contextlib
import http.client
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from syncagent.edges import web as web_module
from syncagent.edges.web import MAX_VISITORS, Answer, Question, Web, text_answer
from tests.servers import free_port, wait_until

Respond = Callable[[Question], Answer]


class Site:
    """A server, and what it was asked."""

    def __init__(self) -> None:
        self.port = free_port()
        self.asked: list[Question] = []
        self.answer: Respond = lambda question: text_answer(200, f"you asked for {question.path}")
        self.web = Web(f"127.0.0.1:{self.port}", self.respond)

    def respond(self, question: Question) -> Answer:
        self.asked.append(question)
        return self.answer(question)

    def get(self, path: str = "/", *, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
        """(status, headers, body) of one request."""
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)) as connection:
            connection.request(method, path, headers=headers)
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()

    def raw(self, request: bytes) -> bytes:
        """All that comes for some bytes."""
        with self.connect() as sock:
            sock.sendall(request)
            return read_all(sock)

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=30)


def read_all(sock: socket.socket) -> bytes:
    received = b""
    with contextlib.suppress(ConnectionError):
        while piece := sock.recv(65_536):
            received += piece
    return received


def is_ended(sock: socket.socket) -> bool:
    """Whether the other side has closed it."""
    sock.setblocking(False)
    try:
        return sock.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


@pytest.fixture
def site() -> Iterator[Site]:
    made = Site()
    made.web.open()
    yield made
    made.web.close()


def test_a_request_is_answered_with_strict_headers(site: Site) -> None:
    status, headers, body = site.get("/a?b=c&d=%2F")
    assert (status, body) == (200, b"you asked for /a\n")
    assert site.asked == [Question("/a", {"b": "c", "d": "/"})]
    assert headers["Content-Security-Policy"].startswith("default-src 'none'")
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert headers["Cache-Control"] == "no-store"
    assert headers["Server"] == "syncagent"
    assert "Access-Control-Allow-Origin" not in headers


def test_head_has_the_headers_of_get_and_no_body(site: Site) -> None:
    _, of_get, body = site.get("/a")
    status, of_head, nothing = site.get("/a", method="HEAD")
    of_get.pop("Date")
    of_head.pop("Date")
    assert (status, nothing) == (200, b"")
    assert of_head == of_get
    assert of_head["Content-Length"] == str(len(body))


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "CONNECT", "BREW"])
def test_no_other_method_is_answered(site: Site, method: str) -> None:
    status, headers, _ = site.get("/", method=method)
    assert (status, headers["Allow"]) == (405, "GET, HEAD")
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert site.asked == []


def test_a_body_that_nobody_wants_does_not_cost_the_answer(site: Site) -> None:
    head = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 20000\r\n\r\n"
    assert site.raw(head + bytes(20_000)).startswith(b"HTTP/1.1 405 ")


@pytest.mark.parametrize("host", ["evil.example", f"127.0.0.1.evil.example:{80}", "", "192.168.0.1"])
def test_a_page_on_loopback_answers_under_no_strange_name(site: Site, host: str) -> None:
    assert site.get("/", Host=host)[0] == 421
    assert site.asked == []


def test_without_a_name_or_with_two_nothing_is_answered(site: Site) -> None:
    assert site.raw(b"GET / HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 421 ")
    assert site.raw(b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n").startswith(b"HTTP/1.1 421 ")
    assert site.asked == []


@pytest.mark.parametrize(
    "request_line",
    [b"GET http://localhost/ HTTP/1.1", b"GET a HTTP/1.1", b"GET /\xc3\xa4 HTTP/1.1", b"GET * HTTP/1.1"],
)
def test_what_is_no_path_is_refused(site: Site, request_line: bytes) -> None:
    assert site.raw(request_line + b"\r\nHost: localhost\r\n\r\n").startswith(b"HTTP/1.1 400 ")
    assert site.asked == []


@pytest.mark.parametrize(
    "junk",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 200 + b"\r\n",
        b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n",
        b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\na: " + b"b" * 60_000 + b"\r\n\r\n",
    ],
)
def test_junk_ends_its_connection_and_nothing_else(site: Site, junk: bytes) -> None:
    with site.connect() as sock:
        with contextlib.suppress(OSError):  # it may be closed by then, as of what is too long not all is read
            sock.sendall(junk)
            sock.shutdown(socket.SHUT_WR)
        read_all(sock)
    assert site.asked == []
    assert site.get("/")[0] == 200


def test_a_bug_is_an_answer_and_no_trace(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    def fail(_: Question) -> Answer:
        raise ValueError("the secret")

    site.answer = fail
    status, _, body = site.get("/")
    assert status == 500
    assert b"secret" not in body
    assert "ValueError: the secret" in caplog.text


def test_a_password_lets_in_whoever_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web_module, "WRONG_PASSWORD_S", 0.01)
    site = Site()
    site.web = Web(f"0.0.0.0:{site.port}", site.respond, password="hüsh")
    site.web.open()
    try:
        status, headers, _ = site.get("/", Host="pi.local")
        assert status == 401
        assert headers["WWW-Authenticate"] == 'Basic realm="syncagent", charset="UTF-8"'
        wrong, right = (base64.b64encode(each.encode()).decode() for each in ("me:hush", "me:hüsh"))
        assert site.get("/", Host="pi.local", Authorization=f"Basic {wrong}")[0] == 401
        assert site.asked == []
        assert site.get("/", Host="pi.local", Authorization=f"Basic {right}")[0] == 200
    finally:
        site.web.close()


def test_who_guesses_waits(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    web = Web("127.0.0.1:1", site.respond, password="hush")
    monkeypatch.setattr(web._is_closed, "wait", waits.append)
    assert web.judge(["localhost"], None) is not None
    assert waits == [], "a browser asks without a password first"
    assert web.judge(["localhost"], "Basic " + base64.b64encode(b"a:b").decode()) is not None
    assert waits == [web_module.WRONG_PASSWORD_S]


def test_a_taken_port_is_an_error_that_leaves_nothing_and_may_pass(site: Site) -> None:
    second = Web(site.web.listen, site.respond)
    with pytest.raises(OSError):
        second.open()
    assert not second.is_open
    site.web.close()
    second.open()
    assert second.is_open
    assert site.get("/")[0] == 200
    second.close()


def test_an_address_of_another_machine_is_an_error(site: Site) -> None:
    with pytest.raises(OSError):
        Web(f"192.0.2.1:{site.port}", site.respond).open()


def test_ipv6_and_names_are_listened_on() -> None:
    for host in ("[::1]", "localhost"):
        site = Site()
        web = Web(f"{host}:{site.port}", site.respond)
        try:
            web.open()
        except OSError:
            assert host == "[::1]"  # a machine without IPv6
            continue
        with contextlib.closing(
            http.client.HTTPConnection(web.host, site.port, timeout=30)  # resolves it as any client does
        ) as connection:
            connection.request("GET", "/", headers={"Host": host})
            assert connection.getresponse().status == 200
        web.close()


def test_who_says_nothing_holds_up_nobody(site: Site) -> None:
    """With all places taken by connections that trickle or say nothing, the next visitor is answered."""
    with contextlib.ExitStack() as stack:
        silent = [stack.enter_context(site.connect()) for _ in range(3 * MAX_VISITORS)]
        for sock in silent[::2]:
            with contextlib.suppress(ConnectionError):
                sock.sendall(b"GET / HTTP/1.1\r\nHost: ")
        assert site.get("/")[0] == 200
        wait_until(lambda: sum(map(is_ended, silent)) >= 2 * MAX_VISITORS, what="the others are sent away")


def test_who_asks_too_slowly_is_sent_away_also_when_nobody_waits(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web_module, "REQUEST_S", 0.5)
    with site.connect() as sock:
        sent, end = 0, time.monotonic() + 30
        with contextlib.suppress(ConnectionError, TimeoutError):
            sock.settimeout(0.05)
            while time.monotonic() < end:  # always a little more, so that no single wait is long
                sock.sendall(b"G"[:1])
                sent += 1
                with contextlib.suppress(TimeoutError):
                    if sock.recv(1) == b"":
                        break
        assert 1 < sent < 600
    assert site.get("/")[0] == 200


def test_who_reads_too_slowly_loses_its_place(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web_module, "ANSWERED_S", 0.2)
    closed: list[bool] = []

    class Endless:
        def __iter__(self) -> Iterator[bytes]:
            while True:
                yield bytes(65_536)

        def close(self) -> None:
            closed.append(True)

    small = site.answer
    site.answer = lambda question: (
        Answer(200, "image/png", Endless(), 2**40) if question.path == "/endless" else small(question)
    )
    with contextlib.ExitStack() as stack:
        for _ in range(MAX_VISITORS):
            stack.enter_context(site.connect()).sendall(b"GET /endless HTTP/1.1\r\nHost: localhost\r\n\r\n")
        wait_until(lambda: len(site.asked) == MAX_VISITORS, what="all are being answered")
        assert site.get("/")[0] == 200
        wait_until(lambda: len(closed) >= 1, what="what it was sent is closed")


def test_never_more_threads_than_places(site: Site) -> None:
    def count() -> int:
        return sum("process_request_thread" in thread.name for thread in threading.enumerate())

    most = 0
    with contextlib.ExitStack() as stack:
        for _ in range(2 * MAX_VISITORS):
            stack.enter_context(site.connect())
            most = max(most, count())
        wait_until(lambda: count() == MAX_VISITORS, what="all places are taken")
    assert most <= MAX_VISITORS + 1  # one that was sent away may not have gone yet
    wait_until(lambda: count() == 0, what="all are gone")


def test_the_end_comes_soon_with_visitors_of_every_kind(site: Site) -> None:
    with site.connect(), site.connect() as asking:
        asking.sendall(b"GET / HTTP/1.1\r\n")
        began = time.monotonic()
        site.web.close()
        assert time.monotonic() - began < 5
    with pytest.raises(ConnectionError):
        site.get("/")
    site.web.open()
    assert not site.web.is_open, "closed is closed"
