"""What a store can do is found out, remembered, and not believed before."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import socket
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from syncagent.core.errors import Blocked, KeyTaken, SyncagentError, Transient, Trouble, UploadGone
from syncagent.core.proof import StoreProfile
from syncagent.edges.objects import S3Store, StoreSettings
from syncagent.edges.payload import BytesBody
from tests.integration.test_object_store import digest_of, request, settings_of
from tests.servers import Fault, VerifyingS3

DATA = os.urandom(1000)
PROBE = ".syncagent/probe"


def open_store(settings: StoreSettings, profile: StoreProfile | None = None) -> S3Store:
    return S3Store(settings, clock=lambda: datetime.now(UTC), profile=profile)


@pytest.fixture
def store(verifying: VerifyingS3) -> Iterator[S3Store]:
    opened = open_store(settings_of(verifying.endpoint_url, "bucket"))
    yield opened
    opened.close()


def put(store: S3Store, key: str = "a.jpg", *, only_if_absent: bool = False) -> str:
    return store.put(request(key, DATA, only_if_absent=only_if_absent), BytesBody(DATA))


# -- conditional writes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("status", "code"), [(501, "NotImplemented"), (400, "InvalidArgument")])
def test_a_store_that_knows_no_condition_is_probed_as_such(
    verifying: VerifyingS3, store: S3Store, status: int, code: str
) -> None:
    verifying.faults.append(Fault(operation="PutObject", status=status, code=code, times=1))
    assert store.probe_conditional(PROBE) is False
    assert store.profile.conditional_writes_proved is False


@pytest.mark.parametrize(("status", "code"), [(501, "NotImplemented"), (400, "InvalidArgument"), (403, "AccessDenied")])
def test_a_probe_that_nothing_passes_finds_nothing(
    verifying: VerifyingS3, store: S3Store, status: int, code: str
) -> None:
    verifying.faults.append(Fault(status=status, code=code))
    for probe in (store.probe_conditional, store.probe_checksum):
        with pytest.raises(SyncagentError):
            probe(PROBE)
    assert store.profile.conditional_writes_proved is None and store.profile.checksums_proved is None


def test_a_probe_behind_a_portal_finds_nothing(verifying: VerifyingS3, store: S3Store) -> None:
    verifying.faults.append(Fault.portal())
    for probe in (store.probe_conditional, store.probe_checksum, store.probe_multipart):
        with pytest.raises(Transient):
            probe(PROBE)
    assert store.profile == StoreProfile()


@pytest.mark.parametrize(("status", "code"), [(501, "NotImplemented"), (400, "InvalidArgument")])
def test_a_put_goes_without_the_condition_that_its_store_does_not_know(
    verifying: VerifyingS3, store: S3Store, status: int, code: str
) -> None:
    verifying.faults.append(Fault(operation="PutObject", status=status, code=code, times=1))
    put(store, only_if_absent=True)
    assert store.profile.conditional_writes_proved is False
    first, second = verifying.requests("PUT")
    assert "if-none-match" in first.headers and "if-none-match" not in second.headers
    put(store, "b.jpg", only_if_absent=True)  # known by now: one request, without the header
    assert [("if-none-match" in event.headers) for event in verifying.requests("PUT")] == [True, False, False]


def test_a_store_that_answers_501_to_everything_teaches_nothing(verifying: VerifyingS3, store: S3Store) -> None:
    verifying.faults.append(Fault(status=501, code="NotImplemented"))
    with pytest.raises(Transient):
        put(store, only_if_absent=True)
    assert store.profile.conditional_writes_proved is None
    assert len(verifying.requests()) == 2


def test_a_condition_that_was_proved_is_never_dropped(verifying: VerifyingS3, store: S3Store) -> None:
    store.set_profile(StoreProfile(conditional_writes_proved=True))
    verifying.faults.append(Fault(status=501, code="NotImplemented", times=1))
    with pytest.raises(Transient):
        put(store, only_if_absent=True)
    assert len(verifying.requests()) == 1 and verifying.objects() == {}


@pytest.mark.parametrize(
    ("status", "code", "error"),
    [(412, "PreconditionFailed", KeyTaken), (409, "ConditionalRequestConflict", Transient)],
)
def test_a_taken_key_is_told_by_put_and_by_complete_and_a_race_for_it_is_not_one(
    verifying: VerifyingS3, store: S3Store, status: int, code: str, error: type[Exception]
) -> None:
    upload_id = store.create_multipart("a.jpg", metadata={}, content_type="image/jpeg")
    part = store.put_part("a.jpg", upload_id=upload_id, number=1, body=BytesBody(DATA), digest=digest_of(DATA))
    verifying.faults.append(Fault(status=status, code=code))
    with pytest.raises(error):
        put(store, only_if_absent=True)
    with pytest.raises(error):
        store.complete("a.jpg", upload_id=upload_id, parts=[part], only_if_absent=True)


def test_complete_goes_without_the_condition_that_its_store_does_not_know(
    verifying: VerifyingS3, store: S3Store
) -> None:
    upload_id = store.create_multipart("a.jpg", metadata={}, content_type="image/jpeg")
    part = store.put_part("a.jpg", upload_id=upload_id, number=1, body=BytesBody(DATA), digest=digest_of(DATA))
    verifying.faults.append(Fault(operation="CompleteMultipartUpload", status=501, code="NotImplemented", times=1))
    store.complete("a.jpg", upload_id=upload_id, parts=[part], only_if_absent=True)
    assert verifying.objects() == {"a.jpg": DATA} and store.profile.conditional_writes_proved is False


# -- multipart --------------------------------------------------------------------------------------------------------


def test_uploads_in_parts_are_probed_and_leave_nothing(verifying: VerifyingS3, store: S3Store) -> None:
    assert store.probe_multipart(PROBE) is True
    assert (store.profile.multipart, store.profile.list_parts) == (True, True)
    assert verifying.uploads == {} and verifying.objects() == {}


@pytest.mark.parametrize(
    ("operation", "found"), [("CreateMultipartUpload", (False, False)), ("ListParts", (True, False))]
)
def test_a_store_without_parts_or_their_list_is_found_out(
    verifying: VerifyingS3, store: S3Store, operation: str, found: tuple[bool, bool]
) -> None:
    verifying.faults.append(Fault(operation=operation, status=501, code="NotImplemented"))
    assert store.probe_multipart(PROBE) is False
    assert (store.profile.multipart, store.profile.list_parts) == found
    assert verifying.uploads == {}


@pytest.mark.parametrize("operation", ["UploadPart", "ListParts", "CompleteMultipartUpload"])
def test_an_upload_that_the_store_does_not_find_is_gone_whatever_it_calls_that(
    verifying: VerifyingS3, store: S3Store, operation: str
) -> None:
    upload_id = store.create_multipart("a.jpg", metadata={}, content_type="image/jpeg")
    part = store.put_part("a.jpg", upload_id=upload_id, number=1, body=BytesBody(DATA), digest=digest_of(DATA))
    verifying.faults.append(Fault(operation=operation, status=404, code="NoSuchKey"))
    with pytest.raises(UploadGone):
        if operation == "UploadPart":
            store.put_part("a.jpg", upload_id=upload_id, number=2, body=BytesBody(DATA), digest=digest_of(DATA))
        elif operation == "ListParts":
            store.list_parts("a.jpg", upload_id=upload_id)
        else:
            store.complete("a.jpg", upload_id=upload_id, parts=[part])
    assert store.profile.list_parts is None


def test_a_store_without_a_listing_of_parts_is_remembered(verifying: VerifyingS3, store: S3Store) -> None:
    upload_id = store.create_multipart("a.jpg", metadata={}, content_type="image/jpeg")
    verifying.faults.append(Fault(operation="ListParts", status=501, code="NotImplemented"))
    with pytest.raises(Transient):
        store.list_parts("a.jpg", upload_id=upload_id)
    assert store.profile.list_parts is False


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (404, "NoSuchUpload"),
        (404, "NoSuchKey"),
        (405, "MethodNotAllowed"),
        (400, "InvalidRequest"),
        (501, "NotImplemented"),
    ],
)
def test_an_abort_that_is_refused_is_no_error_and_is_logged(
    verifying: VerifyingS3, store: S3Store, caplog: pytest.LogCaptureFixture, status: int, code: str
) -> None:
    upload_id = store.create_multipart("a.jpg", metadata={}, content_type="image/jpeg")
    verifying.faults.append(Fault(operation="AbortMultipartUpload", status=status, code=code))
    with caplog.at_level("INFO"):
        store.abort("a.jpg", upload_id=upload_id)
    assert ("a.jpg" in caplog.text) is (status != 404)


@pytest.mark.parametrize(("status", "code"), [(500, "InternalError"), (403, "AccessDenied")])
def test_an_abort_that_may_succeed_later_raises(verifying: VerifyingS3, store: S3Store, status: int, code: str) -> None:
    upload_id = store.create_multipart("a.jpg", metadata={}, content_type="image/jpeg")
    verifying.faults.append(Fault(operation="AbortMultipartUpload", status=status, code=code))
    with pytest.raises((Transient, Blocked)):
        store.abort("a.jpg", upload_id=upload_id)


def test_a_store_that_refuses_everything_is_not_said_to_have_no_uploads_in_parts(
    verifying: VerifyingS3, store: S3Store
) -> None:
    verifying.faults.append(Fault(status=501, code="NotImplemented"))
    with pytest.raises(Transient):
        store.probe_multipart(PROBE)
    assert store.profile.multipart is None


def test_an_upload_in_parts_that_is_begun_shows_that_the_store_has_them(verifying: VerifyingS3, store: S3Store) -> None:
    store.set_profile(StoreProfile(multipart=False))
    store.create_multipart("a.jpg", metadata={}, content_type="image/jpeg")
    assert store.profile.multipart is True


# -- addresses --------------------------------------------------------------------------------------------------------


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Names that resolve to loopback; every other one does not. There is no DNS in a test."""
    known: set[str] = set()
    real = socket.getaddrinfo

    def resolve(host: Any, *args: Any, **kwargs: Any) -> Any:
        if str(host) in known:
            return real("127.0.0.1", *args, **kwargs)
        if str(host).endswith(".test"):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return real(host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    return known


@pytest.mark.parametrize("operation", ["put", "list", "create"])
def test_a_bucket_whose_own_name_does_not_resolve_is_addressed_by_path(
    verifying: VerifyingS3, names: set[str], operation: str
) -> None:
    names.add("store.test")
    settings = settings_of(f"http://store.test:{verifying.port}", "bucket")
    store = open_store(settings, StoreProfile(addressing_style="virtual"))
    if operation == "list":
        assert list(store.list("")) == []
    elif operation == "create":
        store.create_multipart("a.mp4", metadata={}, content_type="video/mp4")
    put(store)
    assert verifying.objects() == {"a.jpg": DATA}
    assert store.profile.addressing_style == "path"
    store.close()


def test_a_style_that_the_owner_chose_is_kept(verifying: VerifyingS3, names: set[str]) -> None:
    names.add("store.test")
    settings = settings_of(f"http://store.test:{verifying.port}", "bucket")
    store = open_store(replace(settings, addressing_style="virtual"))
    with pytest.raises(Transient) as caught:
        put(store)
    assert caught.value.trouble is Trouble.LINK and "bucket.store.test" in str(caught.value)


def test_a_link_that_is_down_changes_no_address(names: set[str]) -> None:
    settings = settings_of("http://store.test:9000", "bucket")
    store = open_store(settings, StoreProfile(addressing_style="virtual"))
    for _ in range(3):
        with pytest.raises(Transient) as caught:
            put(store)
        assert caught.value.trouble is Trouble.LINK
        assert store.profile.addressing_style == "virtual"


def test_a_store_that_forbids_paths_is_addressed_by_the_buckets_name(verifying: VerifyingS3, names: set[str]) -> None:
    names |= {"store.test", "bucket.store.test"}
    verifying.faults.append(Fault(status=403, code="SecondLevelDomainForbidden", times=1))
    store = open_store(settings_of(f"http://store.test:{verifying.port}", "bucket"))
    with pytest.raises(SyncagentError):  # the strict server knows paths only: what counts is where it was asked
        put(store)
    assert [event.headers["host"].partition(":")[0] for event in verifying.requests()] == [
        "store.test",
        "bucket.store.test",
    ]
    store.close()


# -- credentials of a role, and awscrt --------------------------------------------------------------------------------


class Role:
    """Gives credentials as a container's agent does; each call gives the present ones."""

    def __init__(self) -> None:
        self.key, self.secret, self.lifetime_s, self.asked = "ROLEKEY1", "role-secret-1", 3600.0, 0


@pytest.fixture
def role(monkeypatch: pytest.MonkeyPatch) -> Iterator[Role]:
    known = Role()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known.asked += 1
            ends = datetime.now(UTC) + timedelta(seconds=known.lifetime_s)
            body = json.dumps(
                {
                    "AccessKeyId": known.key,
                    "SecretAccessKey": known.secret,
                    "Token": f"token-of-{known.key}",
                    "Expiration": ends.strftime("%Y-%m-%dT%H:%M:%SZ"),
                }
            ).encode()
            self.send_response_only(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"http://127.0.0.1:{server.server_port}/role")
        yield known
        server.shutdown()
        thread.join()


def role_store(verifying: VerifyingS3) -> S3Store:
    settings = settings_of(verifying.endpoint_url, "bucket")
    return open_store(replace(settings, access_key_id=None, secret_access_key=None))


def test_a_roles_credentials_are_signed_with_their_token_and_asked_for_once(verifying: VerifyingS3, role: Role) -> None:
    verifying.credentials = {role.key: role.secret}
    store = role_store(verifying)
    for n in range(3):
        put(store, f"{n}.jpg")
    assert len(list(store.list(""))) == 3
    assert role.asked == 1
    for event in verifying.requests():
        assert event.headers["x-amz-security-token"] == f"token-of-{role.key}"
        assert "x-amz-security-token" in event.headers["authorization"]
    store.close()


def test_a_roles_credentials_are_renewed_before_they_end(verifying: VerifyingS3, role: Role) -> None:
    role.lifetime_s = 120.0  # near their end from the beginning, so that each use renews them
    verifying.credentials = {role.key: role.secret}
    store = role_store(verifying)
    put(store)
    role.key, role.secret, role.lifetime_s = "ROLEKEY2", "role-secret-2", 3600.0
    verifying.credentials = {role.key: role.secret}
    put(store, "b.jpg")
    assert sorted(verifying.objects()) == ["a.jpg", "b.jpg"]
    store.close()


def test_a_roles_credentials_that_were_revoked_are_asked_for_anew(verifying: VerifyingS3, role: Role) -> None:
    verifying.credentials = {role.key: role.secret}
    store = role_store(verifying)
    put(store)
    role.key, role.secret = "ROLEKEY2", "role-secret-2"
    verifying.credentials = {role.key: role.secret}
    with pytest.raises(Blocked) as caught:
        put(store, "b.jpg")
    assert caught.value.trouble is Trouble.CREDENTIALS
    put(store, "b.jpg")
    store.close()


def test_a_role_that_gives_what_has_ended_is_the_clocks_trouble(verifying: VerifyingS3, role: Role) -> None:
    role.lifetime_s = -86400.0
    with pytest.raises(Transient) as caught:
        put(role_store(verifying))
    assert caught.value.trouble is Trouble.CLOCK


def test_awscrt_beside_us_signs_nothing(verifying: VerifyingS3, tmp_path: os.PathLike[str]) -> None:
    package = os.path.join(tmp_path, "awscrt")
    os.mkdir(package)
    # Whatever is taken from it can be named, and whatever is done with it ends the process.
    source = """
        import os
        __version__ = "0.30.0"
        class _Named(type):
            def __getattr__(cls, name):
                return name
        class _Trap(metaclass=_Named):
            def __init__(self, *_, **__):
                os._exit(42)
        def __getattr__(name):
            if name.startswith("__"):
                raise AttributeError(name)
            return _Trap
    """
    for name in ("__init__", "auth", "checksums", "crypto", "exceptions", "http", "io", "s3"):
        with open(os.path.join(package, f"{name}.py"), "w", encoding="utf-8") as file:
            file.write(textwrap.dedent(source))
    script = f"""
        from datetime import UTC, datetime, timedelta
        import hashlib
        import botocore.compat
        assert botocore.compat.HAS_CRT
        from syncagent.core.model import Digest
        from syncagent.edges.objects import PutRequest, S3Store, StoreSettings
        from syncagent.edges.payload import BytesBody
        settings = StoreSettings("bucket", {verifying.endpoint_url!r}, access_key_id="TESTACCESSKEY",
                                 secret_access_key="test-secret-key")
        store = S3Store(settings, clock=lambda: datetime.now(UTC) - timedelta(days=9000))
        digest = Digest(hashlib.md5(b"x").digest(), hashlib.sha256(b"x").digest())
        store.put(PutRequest("a.jpg", digest, {{}}, "image/jpeg"), BytesBody(b"x"))
        assert [facts.key for facts in store.list("")] == ["a.jpg"]
        upload = store.create_multipart("b.jpg", metadata={{}}, content_type="image/jpeg")
        store.abort("b.jpg", upload_id=upload)
        assert store.is_corrected
    """
    environment = {**os.environ, "PYTHONPATH": os.fspath(tmp_path)}
    with contextlib.suppress(KeyError):
        del environment["BOTO_DISABLE_CRT"]
    ran = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))),
    )
    assert ran.returncode == 0, ran.stderr
    assert verifying.objects() == {"a.jpg": b"x"}
