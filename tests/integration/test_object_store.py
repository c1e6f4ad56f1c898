"""One suite over every store: what the workers may rely on, whatever answers."""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import pytest

from syncagent.core.errors import (
    Blocked,
    FileChanged,
    KeyTaken,
    Refused,
    Stopping,
    Transient,
    Trouble,
    UploadGone,
)
from syncagent.core.model import Digest
from syncagent.edges.objects import ObjectStore, PutRequest, S3Store, StoreSettings
from syncagent.edges.payload import CHUNK_BYTES, BytesBody
from tests.fakes import MemoryStore
from tests.servers import ACCESS_KEY, SECRET_KEY, MotoS3, RcloneS3, VerifyingS3, free_port

PART_BYTES = 5 * 1024 * 1024

EXOTIC_KEYS = [
    "plain.jpg",
    "deep/er/and deeper/file.jpg",
    "space and+plus&amp;=?#.jpg",
    "percent%20%2F%zz%.jpg",
    "é-ü-日本語-😀.jpg",
    "~tilde'quote\"(par)[br]{cu}!*;:@,$|^`.jpg",
    " leading and trailing ",
    "a" * 200 + ".jpg",
    "e\u0301-decomposed.jpg",
]


def digest_of(data: bytes) -> Digest:
    return Digest(hashlib.md5(data).digest(), hashlib.sha256(data).digest())


def request(
    key: str, data: bytes, *, only_if_absent: bool = False, metadata: dict[str, str] | None = None
) -> PutRequest:
    return PutRequest(key, digest_of(data), metadata or {}, "image/jpeg", only_if_absent=only_if_absent)


class StoppedBody(BytesBody):
    """Says that the agent is asked to end, after so many bytes."""

    def __init__(self, data: bytes, *, after_bytes: int) -> None:
        super().__init__(data)
        self.left_bytes = after_bytes

    def read(self, n: int = -1, /) -> bytes:
        if self.left_bytes <= 0:
            raise Stopping
        self.left_bytes -= n
        return super().read(n)


@dataclass
class Subject:
    """One store under test, and what stands behind it."""

    name: str
    store: ObjectStore
    settings: StoreSettings | None
    visible: Callable[[], dict[str, bytes]]
    server: object = None


def settings_of(endpoint_url: str, bucket: str) -> StoreSettings:
    return StoreSettings(
        bucket,
        endpoint_url,
        access_key_id=ACCESS_KEY,
        secret_access_key=SECRET_KEY,
        connect_timeout_s=5,
        stall_s=10,
        page_keys=3,
    )


def open_store(settings: StoreSettings) -> S3Store:
    return S3Store(settings, clock=lambda: datetime.now(UTC))


def _visible_in_rclone(rclone: RcloneS3, bucket: str) -> dict[str, bytes]:
    found = {}
    for key, path in rclone.files(bucket):
        if os.path.basename(key).startswith(".rclone_temp_multipart_"):  # as hidden as its other ones
            continue
        with open(path, "rb") as file:
            found[key] = file.read()
    return found


def _visible_in_moto(moto: MotoS3, bucket: str) -> dict[str, bytes]:
    client = moto.client()
    listed = client.list_objects_v2(Bucket=bucket).get("Contents", [])
    return {o["Key"]: client.get_object(Bucket=bucket, Key=o["Key"])["Body"].read() for o in listed}


@pytest.fixture(params=["memory", "verifying", "rclone", "moto"])
def subject(request: pytest.FixtureRequest) -> Iterator[Subject]:
    """Each store with an empty bucket."""
    if request.param == "memory":
        memory = MemoryStore()
        yield Subject("memory", memory, None, lambda: {k: memory.bytes_of(k) for k in memory.objects})
        return
    server = request.getfixturevalue(request.param)
    bucket = "bucket" if request.param == "verifying" else request.getfixturevalue(f"{request.param}_bucket")
    visible: Callable[[], dict[str, bytes]]
    if request.param == "verifying":
        visible = server.objects
    elif request.param == "rclone":
        visible = functools.partial(_visible_in_rclone, server, bucket)
    else:
        visible = functools.partial(_visible_in_moto, server, bucket)
    settings = settings_of(server.endpoint_url, bucket)
    store = open_store(settings)
    yield Subject(request.param, store, settings, visible, server)
    store.close()


@pytest.mark.parametrize("size", [0, 1, 100_000, CHUNK_BYTES, CHUNK_BYTES + 1, 3_000_000])
def test_an_object_holds_exactly_the_bytes_that_were_put(subject: Subject, size: int) -> None:
    data = os.urandom(size)
    etag = subject.store.put(request("camera/a.jpg", data), BytesBody(data))
    assert etag == hashlib.md5(data).hexdigest()
    assert subject.visible() == {"camera/a.jpg": data}
    assert b"".join(subject.store.read("camera/a.jpg")) == data


def test_a_second_put_replaces_the_object(subject: Subject) -> None:
    for data in (b"first", b"second"):
        subject.store.put(request("a.jpg", data), BytesBody(data))
    assert subject.visible() == {"a.jpg": b"second"}


def test_every_key_arrives_as_it_is_spelled(subject: Subject) -> None:
    for key in EXOTIC_KEYS:
        data = key.encode()
        subject.store.put(request(key, data), BytesBody(data))
    assert subject.visible() == {key: key.encode() for key in EXOTIC_KEYS}
    assert sorted(found.key for found in subject.store.list("")) == sorted(EXOTIC_KEYS)
    for key in EXOTIC_KEYS:
        facts = subject.store.head(key)
        assert facts is not None and (facts.key, facts.size_bytes) == (key, len(key.encode()))
        assert b"".join(subject.store.read(key)) == key.encode()


def test_metadata_comes_back_with_head(subject: Subject) -> None:
    metadata = {"mtime": "2026-01-01T00:00:00.5Z", "syncagent-sha256": "ab" * 32, "note": "a b;c=d, e"}
    subject.store.put(request("a.jpg", b"x", metadata=metadata), BytesBody(b"x"))
    facts = subject.store.head("a.jpg")
    assert facts is not None and facts.etag == hashlib.md5(b"x").hexdigest()
    assert metadata.items() <= facts.metadata.items()


def test_what_is_not_there_is_none_to_head_and_refused_to_read(subject: Subject) -> None:
    assert subject.store.head("nothing") is None
    with pytest.raises(Refused):
        list(subject.store.read("nothing"))


def test_a_listing_has_every_page_and_only_its_prefix(subject: Subject) -> None:
    keys = [f"camera/{n:02d}.jpg" for n in range(8)]
    for key in [*keys, "other.jpg", "camera2/x.jpg"]:
        subject.store.put(request(key, b"12345"), BytesBody(b"12345"))
    found = list(subject.store.list("camera/"))
    assert [facts.key for facts in found] == keys
    assert {(facts.size_bytes, facts.etag) for facts in found} == {(5, hashlib.md5(b"12345").hexdigest())}
    assert list(subject.store.list("nothing/")) == []


def test_parts_become_one_object_and_are_listed_until_then(subject: Subject) -> None:
    store, key = subject.store, "videos/a b+é.mp4"
    pieces = [os.urandom(PART_BYTES), os.urandom(PART_BYTES), b"the end"]
    upload_id = store.create_multipart(key, metadata={"system": "field-7"}, content_type="video/mp4")
    assert store.list_parts(key, upload_id=upload_id) == []
    parts = [
        store.put_part(key, upload_id=upload_id, number=n, body=BytesBody(piece), digest=digest_of(piece))
        for n, piece in enumerate(pieces, 1)
    ]
    assert store.list_parts(key, upload_id=upload_id) == parts
    assert subject.visible() == {} and list(store.list("")) == []
    etag = store.complete(key, upload_id=upload_id, parts=parts)
    md5s = b"".join(hashlib.md5(piece).digest() for piece in pieces)
    assert etag == f"{hashlib.md5(md5s).hexdigest()}-3"
    assert subject.visible() == {key: b"".join(pieces)}
    facts = store.head(key)
    assert facts is not None and facts.metadata["system"] == "field-7"


def test_an_upload_that_is_gone_is_called_gone(subject: Subject) -> None:
    store, key = subject.store, "a.mp4"
    upload_id = store.create_multipart(key, metadata={}, content_type="video/mp4")
    part = store.put_part(key, upload_id=upload_id, number=1, body=BytesBody(b"x"), digest=digest_of(b"x"))
    store.abort(key, upload_id=upload_id)
    store.abort(key, upload_id=upload_id)
    gone = Transient if subject.name == "moto" else UploadGone  # moto fails there with a bare 500
    with pytest.raises(gone):
        store.put_part(key, upload_id=upload_id, number=2, body=BytesBody(b"x"), digest=digest_of(b"x"))
    with pytest.raises(UploadGone):
        store.list_parts(key, upload_id=upload_id)
    with pytest.raises(gone):
        store.complete(key, upload_id=upload_id, parts=[part])
    assert subject.visible() == {}


@pytest.mark.parametrize("drift", ["other bytes", "longer", "shorter"])
@pytest.mark.parametrize("size", [1000, 3 * CHUNK_BYTES])
def test_a_body_that_drifts_never_becomes_visible(subject: Subject, drift: str, size: int) -> None:
    data = os.urandom(size)
    now = {"other bytes": data[:-1] + bytes([data[-1] ^ 1]), "longer": data + b"!", "shorter": data[:-1]}[drift]
    body = BytesBody(now)
    body.size_bytes = size
    with pytest.raises(FileChanged):
        subject.store.put(request("a.jpg", data), body)
    assert subject.visible() == {}
    subject.store.put(request("b.jpg", data), BytesBody(data))
    assert subject.visible() == {"b.jpg": data}


def test_a_body_that_is_stopped_half_way_never_becomes_visible(subject: Subject) -> None:
    data = os.urandom(8 * CHUNK_BYTES)
    with pytest.raises(Stopping):
        subject.store.put(request("a.jpg", data), StoppedBody(data, after_bytes=4 * CHUNK_BYTES))
    assert subject.visible() == {}
    subject.store.put(request("a.jpg", data), BytesBody(data))
    assert subject.visible() == {"a.jpg": data}


def test_a_key_that_is_taken_is_not_replaced_where_the_store_can_tell(subject: Subject) -> None:
    subject.store.put(request("a.jpg", b"first"), BytesBody(b"first"))
    if subject.name == "rclone":  # it ignores the condition, without a word: that is what the probe is for
        assert isinstance(subject.store, S3Store)
        assert subject.store.probe_conditional(".syncagent/probe") is False
        return
    with pytest.raises(KeyTaken):
        subject.store.put(request("a.jpg", b"second", only_if_absent=True), BytesBody(b"second"))
    assert subject.visible()["a.jpg"] == b"first"
    subject.store.put(request("b.jpg", b"new", only_if_absent=True), BytesBody(b"new"))
    assert subject.visible()["b.jpg"] == b"new"
    if isinstance(subject.store, S3Store):
        assert subject.store.probe_conditional(".syncagent/probe") is True
        assert subject.store.profile.conditional_writes_proved is True


def test_an_object_that_is_not_the_one_that_was_read_is_not_replaced_where_the_store_can_tell(subject: Subject) -> None:
    store, seen = subject.store, digest_of(b"first").md5.hex()
    store.put(request("a.jpg", b"first"), BytesBody(b"first"))
    if subject.name == "rclone":
        assert isinstance(store, S3Store) and store.probe_if_match(".syncagent/probe") is False
        return
    store.put(replace(request("a.jpg", b"second"), only_if_match=seen), BytesBody(b"second"))
    for key in ("a.jpg", "missing.jpg"):
        with pytest.raises(Refused):
            store.put(replace(request(key, b"third"), only_if_match=seen), BytesBody(b"third"))
    assert subject.visible() == {"a.jpg": b"second"}
    if isinstance(store, S3Store):
        assert store.probe_if_match(".syncagent/probe") is True


def test_an_object_is_copied_within_the_store_and_deleted(subject: Subject) -> None:
    store = subject.store
    if not isinstance(store, S3Store):
        return  # workers have neither
    if isinstance(subject.server, VerifyingS3):
        subject.server.may_delete = True
    store.put(request("a b+é.jpg", b"first"), BytesBody(b"first"))
    store.copy("a b+é.jpg", "c d+é.jpg")
    assert subject.visible() == {"a b+é.jpg": b"first", "c d+é.jpg": b"first"}
    for _ in range(2):
        store.delete("a b+é.jpg")
    assert subject.visible() == {"c d+é.jpg": b"first"}


def test_a_checksum_header_is_believed_only_if_a_wrong_one_is_refused(subject: Subject) -> None:
    if not isinstance(subject.store, S3Store):
        return  # a fake has no headers
    # moto echoes whatever it is told, rclone says nothing: neither proves anything.
    is_proved = subject.name == "verifying"
    assert subject.store.probe_checksum(".syncagent/probe") is is_proved
    assert subject.store.profile.checksums_proved is is_proved
    assert subject.store.profile.etag_is_md5 is True
    subject.store.put(request("a.jpg", b"x"), BytesBody(b"x"))


@pytest.mark.parametrize("operation", ["put", "head", "list", "create"])
def test_a_bucket_that_is_not_there_blocks(subject: Subject, operation: str) -> None:
    if subject.settings is None:
        return
    store = open_store(replace(subject.settings, bucket="no-such-bucket"))
    if operation == "head":  # its answer has no body: a missing bucket looks like a missing object
        assert store.head("a.jpg") is None
        return
    with pytest.raises(Blocked) as caught:
        if operation == "put":
            store.put(request("a.jpg", b"x"), BytesBody(b"x"))
        elif operation == "list":
            list(store.list(""))
        else:
            store.create_multipart("a.jpg", metadata={}, content_type="image/jpeg")
    assert caught.value.trouble is Trouble.BUCKET and "bucket_name" in caught.value.remedy


@pytest.mark.parametrize("wrong", ["access_key_id", "secret_access_key"])
def test_wrong_credentials_block(subject: Subject, wrong: str) -> None:
    if subject.settings is None or subject.name == "moto":  # moto believes everybody
        return
    wrong_settings = (
        replace(subject.settings, access_key_id="WRONGKEY")
        if wrong == "access_key_id"
        else replace(subject.settings, secret_access_key="wrong-secret")
    )
    store = open_store(wrong_settings)
    with pytest.raises(Blocked) as caught:
        store.put(request("a.jpg", b"x"), BytesBody(b"x"))
    assert caught.value.trouble is Trouble.CREDENTIALS
    assert "wrong-secret" not in str(caught.value)
    with pytest.raises(Blocked) as caught:
        list(store.list(""))
    assert caught.value.trouble is Trouble.CREDENTIALS
    assert subject.visible() == {}


def test_a_refused_port_is_the_links_trouble() -> None:
    port = free_port()
    store = open_store(settings_of(f"http://127.0.0.1:{port}", "bucket"))
    for act in (
        lambda: store.put(request("a.jpg", b"x"), BytesBody(b"x")),
        lambda: store.head("a.jpg"),
        lambda: list(store.list("")),
    ):
        with pytest.raises(Transient) as caught:
            act()
        assert caught.value.trouble is Trouble.LINK
        assert str(caught.value) == f"connection refused by 127.0.0.1:{port}"


def test_a_name_that_cannot_be_resolved_is_the_links_trouble() -> None:
    store = open_store(settings_of("http://no-such-host.invalid", "bucket"))
    with pytest.raises(Transient) as caught:
        store.put(request("a.jpg", b"x"), BytesBody(b"x"))
    assert caught.value.trouble is Trouble.LINK and "no-such-host.invalid" in str(caught.value)
