"""The fault proxy itself: each rule does to a connection what its name says, and counts what it took."""

from __future__ import annotations

import http.client
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.proxy import Proxy, Rule, up_and_down
from tests.servers import wait_until


class _Echo(BaseHTTPRequestHandler):
    """Answers a PUT with its own body; `bodies` has what came in whole."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    bodies: list[bytes]

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if len(body) < int(self.headers["Content-Length"]):
            self.close_connection = True
            return
        self.bodies.append(body)
        self.send_response_only(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def handle(self) -> None:
        try:
            super().handle()
        except ConnectionError:
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Silence."""


class _Bench:
    """An echo server with a proxy in front of it."""

    def __init__(self, proxy: Proxy, bodies: list[bytes]) -> None:
        self.proxy, self.bodies = proxy, bodies
        self._connection: http.client.HTTPConnection | None = None

    def put(self, body: bytes, *, timeout_s: float = 10, fresh: bool = True) -> bytes:
        if fresh or self._connection is None:
            self.close()
            self._connection = http.client.HTTPConnection("127.0.0.1", self.proxy.port, timeout=timeout_s)
        self._connection.request("PUT", "/k", body=body)
        return self._connection.getresponse().read()

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()


@pytest.fixture
def bench() -> Iterator[_Bench]:
    bodies: list[bytes] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Echo", (_Echo,), {"bodies": bodies}))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        with Proxy(f"127.0.0.1:{server.server_port}", receive_buffer_bytes=8192) as proxy:
            bench = _Bench(proxy, bodies)
            yield bench
            bench.close()
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


BODY = bytes(range(256)) * 400


def test_without_a_rule_every_byte_passes_and_is_counted_both_ways(bench: _Bench) -> None:
    assert bench.put(BODY) == BODY
    assert bench.put(BODY, fresh=False) == BODY
    (connection,) = bench.proxy.connections
    assert connection.exchanges == bench.proxy.exchanges == 2
    assert 2 * len(BODY) < bench.proxy.up_bytes < 2 * len(BODY) + 400
    assert 2 * len(BODY) < bench.proxy.down_bytes < 2 * len(BODY) + 400
    bench.close()
    wait_until(lambda: connection.outcome == "closed")


def test_refuse_is_a_refused_connection_and_ends_with_the_rule(bench: _Bench) -> None:
    bench.proxy.rule = Rule("refuse")
    with pytest.raises(ConnectionRefusedError):
        bench.put(BODY)
    bench.proxy.rule = Rule()
    assert bench.put(BODY) == BODY


def test_refuse_resets_what_is_open(bench: _Bench) -> None:
    bench.put(BODY)
    bench.proxy.rule = Rule("refuse")
    with pytest.raises((ConnectionError, http.client.RemoteDisconnected)):
        bench.put(BODY, fresh=False)


def test_reset_accepts_and_resets(bench: _Bench) -> None:
    bench.proxy.rule = Rule("reset")
    with pytest.raises(ConnectionResetError):
        bench.put(BODY)
    assert bench.bodies == []


def test_a_black_hole_takes_no_more_than_the_kernel_buffers_and_goes_on_when_it_closes(bench: _Bench) -> None:
    bench.proxy.rule = Rule("black_hole")
    with socket.create_connection(("127.0.0.1", bench.proxy.port), timeout=0.3) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
        head = b"PUT /k HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(BODY)
        left = memoryview(head + BODY)
        with pytest.raises(TimeoutError):
            while left:
                left = left[client.send(left) :]
        assert left
        assert bench.proxy.up_bytes == 0
        bench.proxy.rule = Rule()
        client.settimeout(10)
        client.sendall(left)
        assert client.recv(12) == b"HTTP/1.1 200"
    assert bench.bodies == [BODY]


def test_a_black_hole_that_opens_during_a_request_loses_nothing(bench: _Bench) -> None:
    bench.put(BODY)
    bench.proxy.rule = Rule("black_hole")
    with pytest.raises(TimeoutError):
        bench.put(BODY, timeout_s=0.3)
    assert bench.bodies == [BODY]


def test_a_reset_mid_body_lets_exactly_so_many_bytes_pass(bench: _Bench) -> None:
    bench.proxy.rule = Rule(reset_after_up_bytes=50_000, times=1)
    with pytest.raises(ConnectionError):
        bench.put(BODY)
    assert bench.bodies == []
    assert bench.proxy.up_bytes >= 50_000
    assert bench.put(BODY) == BODY  # once was asked for


def test_a_reset_mid_body_is_counted_per_exchange_of_a_kept_connection(bench: _Bench) -> None:
    bench.proxy.rule = Rule(reset_after_up_bytes=60_000)
    for _ in range(3):
        assert bench.put(b"x" * 30_000, fresh=False) == b"x" * 30_000
    with pytest.raises(ConnectionError):
        bench.put(BODY, fresh=False)


def test_a_reset_before_the_answer_comes_after_the_server_has_it_all(bench: _Bench) -> None:
    bench.proxy.rule = Rule(reset_before_answer=True, times=1)
    with pytest.raises(ConnectionError):
        bench.put(BODY)
    assert bench.bodies == [BODY]
    assert bench.put(BODY) == BODY


def test_a_flipped_byte_is_one_bit_of_one_byte_on_either_way(bench: _Bench) -> None:
    bench.proxy.rule = Rule(flip_up_byte_at=5000, times=1)
    got = bench.put(BODY)
    assert sum(a != b for a, b in zip(got, BODY, strict=True)) == 1
    assert bench.bodies == [got]
    bench.proxy.rule = Rule(flip_down_byte_at=5000, times=1)
    got = bench.put(BODY)
    assert sum(a != b for a, b in zip(got, BODY, strict=True)) == 1
    assert bench.bodies[1] == BODY
    assert bench.put(BODY) == BODY


def test_no_more_exchanges_are_hit_than_were_asked_for_however_many_are_on_their_way(bench: _Bench) -> None:
    bench.proxy.rule = Rule(flip_up_byte_at=5000, times=2)
    clients = [http.client.HTTPConnection("127.0.0.1", bench.proxy.port, timeout=10) for _ in range(5)]
    for client in clients:
        client.putrequest("PUT", "/k")
        client.putheader("Content-Length", str(len(BODY)))
        client.endheaders(BODY[:1000])
    wait_until(lambda: bench.proxy.exchanges == len(clients), what="every exchange has begun")
    for client in clients:
        client.send(BODY[1000:])
    got = [client.getresponse().read() for client in clients]
    for client in clients:
        client.close()
    assert sum(body != BODY for body in got) == 2


def test_a_share_of_exchanges_is_cut(bench: _Bench) -> None:
    bench.proxy.rule = Rule(cut_share=0.3, cut_within_bytes=30_000)
    failed = 0
    for _ in range(60):
        try:
            bench.put(b"x" * 30_000)
        except (ConnectionError, http.client.HTTPException):
            failed += 1
    assert 8 <= failed <= 30  # 18 expected; the seed makes it the same every time


@pytest.mark.parametrize("rule", [Rule(up_bytes_per_s=200_000), Rule(down_bytes_per_s=200_000)])
def test_a_limited_link_takes_the_time_that_its_bytes_need(bench: _Bench, rule: Rule) -> None:
    bench.proxy.rule = rule
    begin = time.monotonic()
    assert bench.put(BODY) == BODY
    assert (
        time.monotonic() - begin >= 0.8 * len(BODY) / 200_000
    )  # never faster; how much slower is the machine's business


def test_latency_comes_before_the_answer(bench: _Bench) -> None:
    bench.proxy.rule = Rule(latency_s=0.2)
    begin = time.monotonic()
    bench.put(b"x")
    assert time.monotonic() - begin >= 0.2


def test_a_timetable_takes_the_link_down_and_brings_it_back(bench: _Bench) -> None:
    bench.proxy.timetable = up_and_down(0.3, 0.3, down=Rule("refuse"))
    seen: list[bool] = []
    end = time.monotonic() + 20
    while seen[-3:] != [True, False, True]:
        assert time.monotonic() < end
        try:
            is_up = bench.put(b"x") == b"x"
        except (ConnectionError, http.client.HTTPException):
            is_up = False
        if seen[-1:] != [is_up]:
            seen.append(is_up)


def test_a_server_that_is_away_is_told_apart() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        with Proxy(f"127.0.0.1:{nobody.getsockname()[1]}") as proxy:
            # The reset may come before connect has returned, or after.
            with (
                pytest.raises(ConnectionError),
                socket.create_connection(("127.0.0.1", proxy.port), timeout=5) as client,
            ):
                client.recv(1)
            wait_until(lambda: proxy.connections[0].outcome == "unreachable")
