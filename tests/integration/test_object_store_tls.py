"""The S3 store over TLS and through proxies."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from syncagent.core.errors import Stopping, Transient, Trouble
from syncagent.edges.connection import Flight
from syncagent.edges.objects import S3Store, StoreSettings
from syncagent.edges.payload import BytesBody
from tests.integration.test_object_store import request, settings_of
from tests.proxy import Proxy
from tests.servers import Fault, VerifyingS3, wait_until

DATA = os.urandom(1_000_000)


class Relay:
    """Carries bytes to a target, after `welcome` has turned a connection into a plain stream to it."""

    def __init__(self, welcome: Callable[[socket.socket], tuple[socket.socket, int]]) -> None:
        self._welcome = welcome
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = [self._listener]
        self.port: int = self._listener.getsockname()[1]
        self._accepting = threading.Thread(target=self._accept)

    def __enter__(self) -> Relay:
        self._accepting.start()
        return self

    def __exit__(self, *_: object) -> None:
        for each in list(self._open):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        self._accepting.join()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self._open.append(client)
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            stream, target_port = self._welcome(client)
            target = socket.create_connection(("127.0.0.1", target_port))
            self._open += [stream, target]
            threading.Thread(target=self._pump, args=(target, stream), daemon=True).start()
            self._pump(stream, target)

    @staticmethod
    def _pump(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_RDWR)


def read_head(client: socket.socket) -> bytes:
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        piece = client.recv(1)
        if not piece:
            raise ConnectionError
        head += piece
    return head


def make_certificate(directory: str, *, host: str, begins: datetime, ends: datetime) -> str:
    """A PEM file with key and self-signed certificate for the address `host`."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test store")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(ends)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(host))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = os.path.join(directory, f"store-{host}-{begins:%Y}.pem")
    with open(path, "wb") as file:
        file.write(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        file.write(certificate.public_bytes(serialization.Encoding.PEM))
    return path


@contextlib.contextmanager
def tls_store(
    server: VerifyingS3,
    directory: str,
    *,
    host: str = "127.0.0.1",
    begins_in: timedelta = timedelta(days=-2),
    lasts: timedelta = timedelta(days=30),
) -> Iterator[tuple[StoreSettings, str]]:
    """Settings of `server` behind TLS, and the certificate that proves it."""
    begins = datetime.now(UTC) + begins_in
    certificate = make_certificate(directory, host=host, begins=begins, ends=begins + lasts)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with Relay(lambda client: (context.wrap_socket(client, server_side=True), server.port)) as relay:
        yield settings_of(f"https://127.0.0.1:{relay.port}", "bucket"), certificate


def open_store(settings: StoreSettings) -> S3Store:
    return S3Store(settings, clock=lambda: datetime.now(UTC))


def trouble_of_put(store: S3Store) -> Trouble:
    with pytest.raises(Transient) as caught:
        store.put(request("a.jpg", DATA), BytesBody(DATA))
    return caught.value.trouble


def test_a_certificate_of_the_configured_authority_is_trusted(
    verifying: VerifyingS3, tmp_path: os.PathLike[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with tls_store(verifying, os.fspath(tmp_path)) as (settings, certificate):
        monkeypatch.setenv("AWS_CA_BUNDLE", certificate)
        store = open_store(settings)
        for key in ("a.jpg", "b.jpg"):
            store.put(request(key, DATA), BytesBody(DATA))
        assert [facts.key for facts in store.list("")] == ["a.jpg", "b.jpg"]
        assert b"".join(store.read("a.jpg")) == DATA
        # TLS is on the wire, too: more than the two bodies and their headers.
        assert store.wire_totals().sent_bytes > 2 * len(DATA)
        store.close()
    assert verifying.objects() == {"a.jpg": DATA, "b.jpg": DATA}


def test_tls_is_counted_to_the_byte_and_so_are_handshakes_that_fail(
    verifying: VerifyingS3, tmp_path: os.PathLike[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with tls_store(verifying, os.fspath(tmp_path)) as (settings, certificate):
        assert settings.endpoint_url is not None
        with Proxy(settings.endpoint_url) as proxy:
            through = replace(settings, endpoint_url=proxy.endpoint_url.replace("http:", "https:"))
            wary = open_store(through)
            assert trouble_of_put(wary) is Trouble.LINK
            wait_until(lambda: wary.wire_totals().sent_bytes == proxy.up_bytes, what="the count of the handshake")
            assert wary.wire_totals().sent_bytes > 100
            monkeypatch.setenv("AWS_CA_BUNDLE", certificate)
            before = (proxy.up_bytes, proxy.down_bytes)
            store = open_store(through)
            store.reach()
            store.put(request("a.jpg", DATA), BytesBody(DATA))
            assert b"".join(store.read("a.jpg")) == DATA
            totals = store.wire_totals()
            assert totals.sent_bytes == proxy.up_bytes - before[0] > len(DATA)
            assert totals.received_bytes == proxy.down_bytes - before[1] > len(DATA)
            store.close()


def test_a_certificate_that_nobody_vouches_for_is_not_trusted(
    verifying: VerifyingS3, tmp_path: os.PathLike[str]
) -> None:
    with tls_store(verifying, os.fspath(tmp_path)) as (settings, _):
        assert trouble_of_put(open_store(settings)) is Trouble.LINK
    assert verifying.requests() == []


def test_a_certificate_of_another_host_is_not_trusted(
    verifying: VerifyingS3, tmp_path: os.PathLike[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with tls_store(verifying, os.fspath(tmp_path), host="127.0.0.9") as (settings, certificate):
        monkeypatch.setenv("AWS_CA_BUNDLE", certificate)
        assert trouble_of_put(open_store(settings)) is Trouble.LINK
    assert verifying.requests() == []


@pytest.mark.parametrize("begins_in", [timedelta(days=365), timedelta(days=-365)], ids=["not yet", "no more"])
def test_a_synchronised_clock_takes_no_certificate_out_of_its_dates(
    verifying: VerifyingS3,
    tmp_path: os.PathLike[str],
    monkeypatch: pytest.MonkeyPatch,
    begins_in: timedelta,
) -> None:
    with tls_store(verifying, os.fspath(tmp_path), begins_in=begins_in) as (settings, certificate):
        monkeypatch.setenv("AWS_CA_BUNDLE", certificate)
        store = S3Store(settings, clock=lambda: datetime.now(UTC), is_synchronised=lambda: True)
        assert trouble_of_put(store) is Trouble.STORE
    assert verifying.requests() == []


@pytest.mark.parametrize("begins_in", [timedelta(days=365), timedelta(days=-365)], ids=["not yet", "no more"])
def test_a_doubtful_clock_takes_no_certificate_that_does_not_hold_at_the_stores_time(
    verifying: VerifyingS3,
    tmp_path: os.PathLike[str],
    monkeypatch: pytest.MonkeyPatch,
    begins_in: timedelta,
) -> None:
    with tls_store(verifying, os.fspath(tmp_path), begins_in=begins_in) as (settings, certificate):
        monkeypatch.setenv("AWS_CA_BUNDLE", certificate)
        store = S3Store(settings, clock=lambda: datetime.now(UTC), is_synchronised=lambda: False)
        for _ in range(2):
            assert trouble_of_put(store) is Trouble.STORE
    # The time was asked for once, without a signature; nothing else was said.
    assert [event.method for event in verifying.requests()] == ["HEAD"]
    assert "authorization" not in verifying.requests()[0].headers


# OpenSSL looks at the machine's own clock, which a test cannot turn: here the store is what lives in another year.


@pytest.mark.parametrize("is_synchronised", [False, True])
@pytest.mark.parametrize("operation", ["put", "list", "reach"])
def test_a_board_that_boots_in_the_past_hears_the_time_before_it_sends_a_byte_of_a_body(
    verifying: VerifyingS3,
    tmp_path: os.PathLike[str],
    monkeypatch: pytest.MonkeyPatch,
    is_synchronised: bool,
    operation: str,
) -> None:
    if is_synchronised:
        # Before its release was made no clock is right, whatever the kernel says of it.
        monkeypatch.setattr("syncagent.core.skew.RELEASED_AT", datetime.now(UTC) + timedelta(days=300))
    verifying.clock_offset_s = 365 * 86400
    with tls_store(verifying, os.fspath(tmp_path), begins_in=timedelta(days=350)) as (settings, certificate):
        monkeypatch.setenv("AWS_CA_BUNDLE", certificate)
        store = S3Store(settings, clock=lambda: datetime.now(UTC), is_synchronised=lambda: is_synchronised)
        if operation == "reach":
            store.reach()
        elif operation == "list":
            assert list(store.list("")) == []
        store.put(request("a.jpg", DATA), BytesBody(DATA))
        store.put(request("b.jpg", DATA), BytesBody(DATA))
        assert store.is_corrected
        store.close()
        store.put(request("c.jpg", DATA), BytesBody(DATA))  # over a new connection, and nothing more is asked
    assert verifying.objects() == dict.fromkeys(["a.jpg", "b.jpg", "c.jpg"], DATA)
    first, *others = verifying.requests()
    assert (first.method, first.received_bytes) == ("HEAD", 0)
    assert all(event.status == 200 and event.method != "HEAD" for event in others)


def test_a_clock_two_years_ahead_does_not_outlive_the_certificate(
    verifying: VerifyingS3, tmp_path: os.PathLike[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("syncagent.core.skew.RELEASED_AT", datetime.now(UTC) - timedelta(days=800))
    verifying.clock_offset_s = -730 * 86400
    with tls_store(verifying, os.fspath(tmp_path), begins_in=timedelta(days=-740)) as (settings, certificate):
        monkeypatch.setenv("AWS_CA_BUNDLE", certificate)
        store = S3Store(settings, clock=lambda: datetime.now(UTC), is_synchronised=lambda: False)
        store.put(request("a.jpg", DATA), BytesBody(DATA))
        assert store.is_corrected
    assert verifying.objects() == {"a.jpg": DATA}


def test_a_store_that_lives_before_this_release_proves_no_dates(
    verifying: VerifyingS3, tmp_path: os.PathLike[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Whoever holds the key of an old certificate can show an old date with it.
    verifying.clock_offset_s = -730 * 86400
    with tls_store(verifying, os.fspath(tmp_path), begins_in=timedelta(days=-740)) as (settings, certificate):
        monkeypatch.setenv("AWS_CA_BUNDLE", certificate)
        store = S3Store(settings, clock=lambda: datetime.now(UTC), is_synchronised=lambda: False)
        assert trouble_of_put(store) is Trouble.STORE
    assert verifying.objects() == {}


@pytest.mark.parametrize("fault", ["another host", "nobody vouches"])
def test_a_doubtful_clock_excuses_dates_and_nothing_else(
    verifying: VerifyingS3, tmp_path: os.PathLike[str], monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    host = "127.0.0.9" if fault == "another host" else "127.0.0.1"
    begins_in = timedelta(days=-365)
    with tls_store(verifying, os.fspath(tmp_path), host=host, begins_in=begins_in) as (settings, certificate):
        if fault == "another host":
            monkeypatch.setenv("AWS_CA_BUNDLE", certificate)
        store = S3Store(settings, clock=lambda: datetime.now(UTC), is_synchronised=lambda: False)
        assert trouble_of_put(store) is Trouble.LINK
    assert verifying.requests() == []


def test_a_store_that_does_not_say_the_time_proves_no_dates(
    verifying: VerifyingS3, tmp_path: os.PathLike[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    verifying.faults.append(Fault(operation="HeadBucket", status=200, body=b"", headers={"Date": "no date"}))
    with tls_store(verifying, os.fspath(tmp_path), begins_in=timedelta(days=-365)) as (settings, certificate):
        monkeypatch.setenv("AWS_CA_BUNDLE", certificate)
        store = S3Store(settings, clock=lambda: datetime.now(UTC), is_synchronised=lambda: False)
        assert trouble_of_put(store) is Trouble.CLOCK
    assert [event.method for event in verifying.requests()] == ["HEAD"]


def test_a_handshake_that_waits_can_be_stopped(verifying: VerifyingS3) -> None:
    def stop(_: Flight) -> None:
        if stopped.is_set():
            raise Stopping

    stopped = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        settings = settings_of(f"https://127.0.0.1:{silent.getsockname()[1]}", "bucket")
        store = S3Store(replace(settings, connect_timeout_s=600), clock=lambda: datetime.now(UTC), progress=stop)
        timer = threading.Timer(0.2, stopped.set)
        timer.start()
        with pytest.raises(Stopping):
            store.put(request("a.jpg", DATA), BytesBody(DATA))
        timer.join()


def test_a_missing_bundle_of_authorities_is_named(
    verifying: VerifyingS3, tmp_path: os.PathLike[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with tls_store(verifying, os.fspath(tmp_path)) as (settings, _):
        monkeypatch.setenv("AWS_CA_BUNDLE", "missing.pem")
        with pytest.raises(Transient, match=r"missing\.pem"):
            open_store(settings).put(request("a.jpg", DATA), BytesBody(DATA))


def test_a_silent_tls_server_is_a_link_without_an_answer(verifying: VerifyingS3) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        settings = settings_of(f"https://127.0.0.1:{silent.getsockname()[1]}", "bucket")
        assert trouble_of_put(open_store(replace(settings, connect_timeout_s=0.5))) is Trouble.LINK


def test_a_plain_server_behind_https_is_a_link_without_tls(verifying: VerifyingS3) -> None:
    settings = settings_of(f"https://127.0.0.1:{verifying.port}", "bucket")
    assert trouble_of_put(open_store(settings)) is Trouble.LINK


def test_https_goes_through_the_proxy_of_the_environment(
    verifying: VerifyingS3, tmp_path: os.PathLike[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    heads: list[bytes] = []

    def tunnel(client: socket.socket) -> tuple[socket.socket, int]:
        head = read_head(client)
        heads.append(head)
        client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        return client, int(head.split()[1].rpartition(b":")[2])

    with tls_store(verifying, os.fspath(tmp_path)) as (settings, certificate), Relay(tunnel) as proxy:
        monkeypatch.setenv("AWS_CA_BUNDLE", certificate)
        monkeypatch.setenv("HTTPS_PROXY", f"http://user:word@127.0.0.1:{proxy.port}")
        monkeypatch.setenv("NO_PROXY", "")
        store = open_store(settings)
        store.put(request("a.jpg", DATA), BytesBody(DATA))
        assert [facts.key for facts in store.list("")] == ["a.jpg"]
        store.close()
    assert len(heads) == 1 and heads[0].startswith(b"CONNECT 127.0.0.1:")
    assert b"proxy-authorization: Basic dXNlcjp3b3Jk" in heads[0].replace(b"Proxy-Auth", b"proxy-auth")
    assert verifying.objects() == {"a.jpg": DATA}
    assert not any("proxy-authorization" in event.headers for event in verifying.requests())


def test_a_proxy_that_refuses_is_the_links_trouble(
    verifying: VerifyingS3, tmp_path: os.PathLike[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(client: socket.socket) -> tuple[socket.socket, int]:
        read_head(client)
        client.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
        raise OSError

    with tls_store(verifying, os.fspath(tmp_path)) as (settings, certificate), Relay(refuse) as proxy:
        monkeypatch.setenv("AWS_CA_BUNDLE", certificate)
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.port}")
        monkeypatch.setenv("NO_PROXY", "")
        assert trouble_of_put(open_store(settings)) is Trouble.LINK


def test_http_is_handed_to_the_proxy_with_its_whole_address(
    verifying: VerifyingS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bytes] = []

    def forward(client: socket.socket) -> tuple[socket.socket, int]:
        seen.append(client.recv(200, socket.MSG_PEEK))
        raise OSError

    with Relay(forward) as proxy:
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{proxy.port}")
        monkeypatch.setenv("NO_PROXY", "")
        store = open_store(replace(settings_of("http://store.invalid:9000", "bucket"), stall_s=1.0))
        assert trouble_of_put(store) in (Trouble.LINK, Trouble.STALLED)
    assert seen and seen[0].startswith(
        b"PUT http://store.invalid:9000/bucket/a.jpg HTTP/1.1\r\nHost: store.invalid:9000\r\n"
    )
