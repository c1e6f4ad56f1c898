"""The bucket as the workers see it: `ObjectStore`, and `S3Store` over any S3-compatible store.

Promises: `put` returns after the store proved the digest, and raises otherwise; no byte sequence but the
announced one can become visible, because the last chunk leaves only after the hash of everything that was
read agreed; nothing is retried here, but for one repeat on a connection that the store had closed while it
was idle. Everything raised is of core/errors.py. Leaves to others: when to try again, and which key to use.
"""

from __future__ import annotations

import base64
import hashlib
import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING, Protocol
from urllib.parse import quote

from syncagent.core.errors import KeyTaken, Refused, Transient, Trouble
from syncagent.core.model import Digest, ObjectFacts, Part
from syncagent.core.proof import (
    StoreProfile,
    Verdict,
    checksum_header,
    judge_complete,
    judge_part,
    judge_put,
)
from syncagent.edges.payload import Body, BytesBody, object_headers, quote_key, verified_chunks

if TYPE_CHECKING:
    from syncagent.edges.answers import Answer
    from syncagent.edges.bucket import Bucket
    from syncagent.edges.connection import Flight, ProgressSink
    from syncagent.edges.wire import WireTotals

__all__ = ["Body", "ObjectStore", "PutRequest", "S3Store", "StoreSettings"]


#: What a probe stores: it is read by people who wonder what this object is.
PROBE_BYTES = b"syncagent writes this object to find out what the store can do.\n"


@dataclass(frozen=True, slots=True)
class PutRequest:
    """One object to put. With `only_if_absent` an occupied key raises KeyTaken, where the store can tell."""

    key: str
    digest: Digest
    metadata: Mapping[str, str]
    content_type: str
    storage_class: str | None = None
    only_if_absent: bool = False


@dataclass(frozen=True, slots=True)
class StoreSettings:
    """How to reach one bucket. Without keys boto3's chain finds them; without a region, its configuration."""

    bucket: str
    endpoint_url: str | None = None
    region: str | None = None
    access_key_id: str | None = field(default=None, repr=False)
    secret_access_key: str | None = field(default=None, repr=False)
    addressing_style: str = "auto"  # "auto", "path" or "virtual"
    connect_timeout_s: float = 10.0
    stall_s: float = 30.0
    max_connections: int = 8  # that are kept open between requests
    reads_back: bool = False  # prove every object by a GET, whatever the answer to its PUT says
    page_keys: int = 1000


class ObjectStore(Protocol):
    """What the workers need of a bucket."""

    def put(self, request: PutRequest, body: Body) -> str: ...
    def create_multipart(
        self, key: str, *, metadata: Mapping[str, str], content_type: str, storage_class: str | None = None
    ) -> str: ...
    def put_part(self, key: str, *, upload_id: str, number: int, body: Body, digest: Digest) -> Part: ...
    def list_parts(self, key: str, *, upload_id: str) -> list[Part]: ...
    def complete(self, key: str, *, upload_id: str, parts: Sequence[Part], only_if_absent: bool = False) -> str: ...
    def abort(self, key: str, *, upload_id: str) -> None: ...
    def head(self, key: str) -> ObjectFacts | None: ...
    def read(self, key: str) -> Iterator[bytes]: ...
    def list(self, prefix: str) -> Iterator[ObjectFacts]: ...
    def close(self) -> None: ...


class S3Store:
    """One bucket of an S3-compatible store; safe to share between threads.

    `clock` gives the time in UTC for signatures; `store_clock.offset` corrects it. `progress` is called in
    the uploading thread for every request that carries a body, and may raise Stopping to end it.
    """

    def __init__(
        self,
        settings: StoreSettings,
        *,
        clock: Callable[[], datetime],
        progress: ProgressSink | None = None,
        profile: StoreProfile | None = None,
    ) -> None:
        # Imported here: botocore costs most of a command's start, and most commands never reach the store.
        from syncagent.edges.sender import Sender, find_ca_bundle, find_region, new_session, proxy_for
        from syncagent.edges.signing import Keys, Signer, StoreClock
        from syncagent.edges.wire import Wire

        silence_libraries()
        self._settings = settings
        self._profile = profile or StoreProfile()
        self._lock = threading.Lock()
        self._base_url = ""
        self._bucket: Bucket | None = None
        self.store_clock = StoreClock(clock)
        keys = Keys(settings.access_key_id, settings.secret_access_key, new_session=new_session)
        self._wire = Wire(
            connect_timeout_s=settings.connect_timeout_s,
            stall_s=settings.stall_s,
            max_idle_connections=settings.max_connections,
            proxy_for=proxy_for,
            ca_bundle=find_ca_bundle,
            progress=progress,
        )
        self._region = settings.region or find_region()
        signer = Signer(keys, self.store_clock, region=self._region)
        self._sender = Sender(self._wire, signer, keys=keys, clock=self.store_clock)

    @property
    def profile(self) -> StoreProfile:
        """What is known of this store by now."""
        with self._lock:
            return self._profile

    def wire_totals(self) -> WireTotals:
        """Bytes over the wire since this store was made."""
        return self._wire.totals()

    def put(self, request: PutRequest, body: Body) -> str:
        """Put one object in one request; its ETag, once the store proved the digest."""
        answer = self._put(request, body, checksum=None)
        self._check(answer, is_conditional=request.only_if_absent)
        verdict = judge_put(
            request.digest,
            etag=answer.etag,
            checksum_sha256=answer.headers.get("x-amz-checksum-sha256"),
            profile=self.profile,
        )
        if verdict is Verdict.NO_PROOF:
            raise Transient(f"the store answered {answer.status} without an ETag", trouble=Trouble.STORE)
        if verdict is Verdict.READ_BACK or self._settings.reads_back:
            self._read_back(request.key, request.digest, size_bytes=body.size_bytes)
        self._learn_etag(answer.etag, request.digest)
        return answer.etag

    def create_multipart(
        self, key: str, *, metadata: Mapping[str, str], content_type: str, storage_class: str | None = None
    ) -> str:
        """Begin a multipart upload; its id."""
        object_headers(metadata, content_type=content_type, storage_class=storage_class)
        return self._rare().create_multipart(
            _sendable(key), metadata=metadata, content_type=content_type, storage_class=storage_class
        )

    def put_part(self, key: str, *, upload_id: str, number: int, body: Body, digest: Digest) -> Part:
        """Send one part; raises UploadGone, and Transient where the store's ETag is not the part's MD5."""
        url = f"{self._url(key)}?partNumber={number}&uploadId={quote(upload_id, safe='~')}"
        answer = self._send_body(url, {}, body, digest, key=key)
        self._check(answer)
        if judge_part(digest, etag=answer.etag, profile=self.profile) is Verdict.NO_PROOF:
            raise Transient(f"the store did not prove part {number}", trouble=Trouble.STORE)
        return Part(number, body.size_bytes, answer.etag)

    def list_parts(self, key: str, *, upload_id: str) -> list[Part]:
        """The parts that the store holds, all pages; raises UploadGone."""
        return self._rare().list_parts(_sendable(key), upload_id=upload_id)

    def complete(
        self,
        key: str,
        *,
        upload_id: str,
        parts: Sequence[Part],
        only_if_absent: bool = False,
        digest: Digest | None = None,
    ) -> str:
        """Make the parts one object; its ETag, once proved. Raises UploadGone and KeyTaken.

        The parts must be those that `put_part` returned, or `list_parts` with ETags that equal our own MD5s.
        `digest` (its SHA-256) is needed where the store's ETags are not MD5s: then the object is read back.
        """
        etag = self._rare().complete(_sendable(key), upload_id=upload_id, parts=parts, only_if_absent=only_if_absent)
        verdict = judge_complete([part.etag for part in parts], etag=etag, profile=self.profile)
        if verdict is Verdict.PROVED and not (self._settings.reads_back and digest is not None):
            return etag
        if verdict is Verdict.NO_PROOF or digest is None:
            raise Transient("the store did not prove the completed object", trouble=Trouble.STORE)
        self._read_back(key, digest, size_bytes=sum(part.size_bytes for part in parts))
        return etag

    def abort(self, key: str, *, upload_id: str) -> None:
        """Drop a multipart upload; one that is gone is no error."""
        self._rare().abort(_sendable(key), upload_id=upload_id)

    def head(self, key: str) -> ObjectFacts | None:
        """What the store says of one object; None if there is none."""
        return self._rare().head(_sendable(key))

    def read(self, key: str) -> Iterator[bytes]:
        """The object's bytes; raises while it is read, Refused if there is none."""
        return self._rare().read(_sendable(key))

    def list(self, prefix: str) -> Iterator[ObjectFacts]:
        """Every object whose key begins with `prefix`."""
        return self._rare().list(_sendable(prefix))

    def close(self) -> None:
        """Close the idle connections. Requests in flight end by themselves."""
        self._wire.close()

    def probe_conditional(self, key: str) -> bool:
        """Find out whether `If-None-Match: *` is honoured, by putting a probe at `key` twice."""
        request = replace(_probe(key), only_if_absent=True)
        is_proved = False
        for _ in range(2):
            answer = self._put(request, BytesBody(PROBE_BYTES), checksum=None)
            if answer.status == 501 or answer.code in ("NotImplemented", "InvalidArgument"):
                break
            try:
                self._check(answer, is_conditional=True)
            except KeyTaken:
                is_proved = True
                break
        self._learn(lambda known: replace(known, conditional_writes_proved=is_proved))
        return is_proved

    def probe_checksum(self, key: str) -> bool:
        """Find out whether x-amz-checksum-sha256 is checked: a wrong one must be refused, a right one taken."""
        request = _probe(key)
        right = checksum_header(request.digest)
        wrong = base64.b64encode(hashlib.sha256(b"other bytes").digest()).decode("ascii")
        refusal = self._put(request, BytesBody(PROBE_BYTES), checksum=wrong)
        if not (refusal.status == 400 and refusal.code):
            self._check(refusal)
        answer = self._put(request, BytesBody(PROBE_BYTES), checksum=right)
        is_proved = refusal.status == 400 and answer.headers.get("x-amz-checksum-sha256") == right
        if not (answer.status == 400 and answer.code):
            self._check(answer)
            self._learn_etag(answer.etag, request.digest)
        self._learn(lambda known: replace(known, checksums_proved=is_proved))
        return is_proved

    def _put(self, request: PutRequest, body: Body, *, checksum: str | None) -> Answer:
        headers = object_headers(
            request.metadata, content_type=request.content_type, storage_class=request.storage_class
        )
        if request.only_if_absent:
            headers["If-None-Match"] = "*"
        if checksum is None and self.profile.checksums_proved:
            checksum = checksum_header(request.digest)
        if checksum is not None:
            headers["x-amz-checksum-sha256"] = checksum
        # Sent twice, a conditional write would find its own object and call the key taken.
        return self._send_body(
            self._url(request.key),
            headers,
            body,
            request.digest,
            key=request.key,
            may_repeat=not request.only_if_absent,
        )

    def _send_body(
        self,
        url: str,
        headers: dict[str, str],
        body: Body,
        digest: Digest,
        *,
        key: str,
        may_repeat: bool = True,
    ) -> Answer:
        headers["Content-Length"] = str(body.size_bytes)
        headers["Content-MD5"] = base64.b64encode(digest.md5).decode("ascii")
        return self._sender.send(
            "PUT",
            url,
            headers=headers,
            sha256_hex=digest.sha256.hex(),
            chunks=lambda: verified_chunks(body, digest),
            flight=_new_flight(key, body.size_bytes),
            may_repeat=may_repeat,
        )

    def _check(self, answer: Answer, *, is_conditional: bool = False) -> None:
        self._sender.check(answer, is_conditional=is_conditional)

    def _read_back(self, key: str, digest: Digest, *, size_bytes: int) -> None:
        """Prove by reading: Transient(STORE) unless the object is what we sent."""
        sha256, got_bytes = hashlib.sha256(), 0
        try:
            for chunk in self.read(key):
                sha256.update(chunk)
                got_bytes += len(chunk)
                if got_bytes > size_bytes:
                    break
        except Refused as error:
            raise Transient("the store said yes and holds no such object", trouble=Trouble.STORE) from error
        if got_bytes != size_bytes or sha256.digest() != digest.sha256:
            raise Transient("the store gives back other bytes than we sent", trouble=Trouble.STORE)

    def _learn_etag(self, etag: str, digest: Digest) -> None:
        """From an object that is proved: does this store's ETag say its MD5?"""
        is_md5 = etag.lower() == digest.md5.hex()
        if self.profile.etag_is_md5 is not is_md5:
            self._learn(lambda known: replace(known, etag_is_md5=is_md5))

    def _learn(self, change: Callable[[StoreProfile], StoreProfile]) -> None:
        with self._lock:
            self._profile = change(self._profile)

    def _url(self, key: str) -> str:
        path = quote_key(key)
        if not self._base_url:
            settings = self._settings
            if settings.endpoint_url and self._style() == "path":
                # As botocore makes it, without the cost of building its client.
                self._base_url = f"{settings.endpoint_url.rstrip('/')}/{quote(settings.bucket)}/"
            else:
                self._base_url = self._rare().url()
        return self._base_url + path

    def _style(self) -> str:
        style = self._settings.addressing_style
        if style == "auto":
            style = self.profile.addressing_style or style
        # A store of one's own seldom has a name per bucket; one with dots does not match a certificate.
        if style == "auto" and (self._settings.endpoint_url or "." in self._settings.bucket):
            style = "path"
        return style

    def _rare(self) -> Bucket:
        from syncagent.edges.bucket import Bucket

        style = self._style()
        with self._lock:
            if self._bucket is None:
                self._bucket = Bucket(
                    self._settings.bucket,
                    sender=self._sender,
                    endpoint_url=self._settings.endpoint_url,
                    region=self._region,
                    addressing_style=style,
                    page_keys=self._settings.page_keys,
                )
            return self._bucket


def silence_libraries() -> None:
    """Their words about retries, refreshes and pools say worse what our errors say, and may quote a request."""
    for name in ("boto3", "botocore", "urllib3", "s3transfer"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _sendable(key: str) -> str:
    quote_key(key)
    return key


def _probe(key: str) -> PutRequest:
    digest = Digest(hashlib.md5(PROBE_BYTES, usedforsecurity=False).digest(), hashlib.sha256(PROBE_BYTES).digest())
    return PutRequest(key, digest, {}, "text/plain")


def _new_flight(key: str, size_bytes: int) -> Flight:
    from syncagent.edges.connection import Flight

    return Flight(key, size_bytes)
