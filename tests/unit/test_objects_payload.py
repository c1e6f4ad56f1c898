"""What leaves in a request: bodies that are what they were, headers and keys that are only themselves."""

from __future__ import annotations

import hashlib
import logging
from datetime import UTC, datetime

import pytest

from syncagent.core.errors import Blocked, FileChanged, Refused, Trouble
from syncagent.core.model import Digest
from syncagent.edges.objects import S3Store, StoreSettings
from syncagent.edges.payload import CHUNK_BYTES, BytesBody, object_headers, quote_key, verified_chunks
from syncagent.edges.sender import proxy_for
from syncagent.edges.signing import Keys, Signer, StoreClock

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def digest_of(data: bytes) -> Digest:
    return Digest(hashlib.md5(data).digest(), hashlib.sha256(data).digest())


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES])
def test_a_true_body_comes_out_whole_and_again(size: int) -> None:
    data = bytes(range(256)) * (size // 256 + 1)
    body = BytesBody(data[:size])
    for _ in range(2):
        assert b"".join(verified_chunks(body, digest_of(data[:size]))) == data[:size]


@pytest.mark.parametrize("size", [1, CHUNK_BYTES + 1, 3 * CHUNK_BYTES])
@pytest.mark.parametrize("drift", ["other byte", "longer", "shorter"])
def test_the_last_chunk_of_a_changed_body_never_comes_out(size: int, drift: str) -> None:
    data = b"a" * size
    now = {"other byte": b"b" + data[1:], "longer": data + b"a", "shorter": data[:-1]}[drift]
    body = BytesBody(now)
    body.size_bytes = size
    came_out: list[bytes] = []
    with pytest.raises(FileChanged):
        came_out.extend(verified_chunks(body, digest_of(data)))
        came_out.append(b"")
    assert sum(map(len, came_out)) < size


def test_an_empty_file_that_has_grown_is_noticed() -> None:
    body = BytesBody(b"grown")
    body.size_bytes = 0
    with pytest.raises(FileChanged):
        list(verified_chunks(body, digest_of(b"")))


@pytest.mark.parametrize("value", ["line\r\nX-Evil: 1", "é", "tab\there", "\x00"])
def test_a_header_that_is_not_plain_ascii_is_refused(value: str) -> None:
    with pytest.raises(Refused):
        object_headers({"note": value}, content_type="image/jpeg", storage_class=None)
    with pytest.raises(Refused):
        object_headers({}, content_type=value, storage_class=None)
    with pytest.raises(Refused):
        object_headers({value: "x"}, content_type="image/jpeg", storage_class=None)


def test_a_key_is_percent_encoded_once() -> None:
    assert quote_key("a b+%20/é😀~(1).jpg") == "a%20b%2B%2520/%C3%A9%F0%9F%98%80~%281%29.jpg"
    with pytest.raises(Refused):
        quote_key("broken\udcff")


def keys() -> Keys:
    return Keys("AKID", "very-secret", new_session=lambda: None)


def test_a_signature_follows_the_corrected_clock_and_signs_the_payload() -> None:
    clock = StoreClock(lambda: NOON, monotonic=lambda: 0.0)
    clock.note_date("Thu, 01 Jan 2026 15:00:00 GMT")
    signer = Signer(keys(), clock, region="eu-west-3")
    signed = signer.sign("PUT", "http://store:9000/b/k", headers={"Content-Length": "0"}, sha256_hex="ab" * 32)
    assert signed["X-Amz-Date"] == "20260101T150000Z"
    assert signed["X-Amz-Content-SHA256"] == "ab" * 32
    assert "Credential=AKID/20260101/eu-west-3/s3/aws4_request" in signed["Authorization"]
    assert "content-length;host;x-amz-content-sha256;x-amz-date" in signed["Authorization"]


def test_the_signature_is_the_one_that_botocore_makes() -> None:
    from botocore.auth import S3SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials

    url, headers = "https://b.s3.eu-west-3.amazonaws.com/a%20b?partNumber=1&uploadId=x%2F", {"Content-MD5": "eA=="}
    theirs = AWSRequest(method="PUT", url=url, headers=headers, data=b"hello")
    theirs.context["payload_signing_enabled"] = True
    S3SigV4Auth(Credentials("AKID", "very-secret"), "s3", "eu-west-3").add_auth(theirs)
    moment = datetime.strptime(theirs.headers["X-Amz-Date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    signer = Signer(keys(), StoreClock(lambda: moment), region="eu-west-3")
    sha256_hex = theirs.headers["X-Amz-Content-SHA256"]
    if sha256_hex == "UNSIGNED-PAYLOAD":
        pytest.fail("botocore did not sign the payload: the comparison says nothing")
    ours = signer.sign("PUT", url, headers=headers, sha256_hex=sha256_hex)
    assert ours["Authorization"] == theirs.headers["Authorization"]


def test_without_credentials_anywhere_the_agent_is_blocked_and_told_what_to_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import botocore.session

    found = Keys(None, None, new_session=botocore.session.Session)
    with pytest.raises(Blocked) as caught:
        found.frozen()
    assert caught.value.trouble is Trouble.CREDENTIALS and "access_key_id" in caught.value.remedy
    # Credentials that appear later are found without a restart.
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "LATER")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    found.forget()
    assert found.frozen().access_key == "LATER"
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "ROTATED")
    assert found.frozen().access_key == "LATER"
    found.forget()
    assert found.frozen().access_key == "ROTATED"


def test_secrets_are_in_no_repr() -> None:
    settings = StoreSettings("bucket", access_key_id="AKID", secret_access_key="very-secret")
    store = S3Store(settings, clock=lambda: NOON)
    for thing in (settings, store, keys(), store.__dict__):
        assert "very-secret" not in repr(thing) and "AKID" not in repr(thing)


def test_the_libraries_say_nothing_below_an_error() -> None:
    S3Store(StoreSettings("bucket"), clock=lambda: NOON)
    for name in ("botocore.auth", "botocore.credentials", "urllib3.connectionpool"):
        assert not logging.getLogger(name).isEnabledFor(logging.WARNING)


def test_the_environment_names_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:3128")
    monkeypatch.setenv("NO_PROXY", "store.local")
    assert proxy_for("https://s3.example.org/b/k") == "http://proxy:3128"
    assert proxy_for("http://s3.example.org/b/k") == ""
    assert proxy_for("https://store.local/b/k") == ""


@pytest.mark.parametrize(
    ("settings", "url"),
    [
        (StoreSettings("buck-et", "http://127.0.0.1:9000"), "http://127.0.0.1:9000/buck-et/"),
        (StoreSettings("buck-et", "https://store.example:9000/"), "https://store.example:9000/buck-et/"),
        (
            StoreSettings("buck-et", "https://store.example", addressing_style="virtual"),
            "https://buck-et.store.example/",
        ),
        (StoreSettings("buck-et", region="eu-west-3"), "https://buck-et.s3.eu-west-3.amazonaws.com/"),
        (StoreSettings("buck.et", region="eu-west-3"), "https://s3.eu-west-3.amazonaws.com/buck.et/"),
        (
            StoreSettings("buck-et", region="eu-west-3", addressing_style="path"),
            "https://s3.eu-west-3.amazonaws.com/buck-et/",
        ),
    ],
)
def test_the_address_is_the_one_that_botocore_would_use(settings: StoreSettings, url: str) -> None:
    store = S3Store(settings, clock=lambda: NOON)
    assert store._url("a b") == url + "a%20b"
    assert store._rare().url() == url
