"""The bucket as the workers see it: `ObjectStore`, and `S3Store` over any S3-compatible store.

Promises: `put` returns after the store proved the digest, and raises otherwise; no byte sequence but the
announced one can become visible, because the last chunk leaves only after the hash of everything that was
read agreed; nothing is retried here, but for one repeat on a connection that the store had closed while it
was idle. Everything raised is of core/errors.py. Leaves to others: when to try again, and which key to use.
"""

from __future__ import annotations

import base64
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import quote

from syncagent.core.errors import Blocked, Refused, Transient, Trouble, UploadGone
from syncagent.core.model import Digest, ObjectFacts, Part
from syncagent.core.proof import (
    StoreProfile,
    Verdict,
    checksum_header,
    judge_complete,
    judge_part,
    judge_put,
)
from syncagent.core.remote import Got
from syncagent.edges.connection import Flight, ProgressSink
from syncagent.edges.orders import ObjectStore, PutRequest, StoreSettings, style_of
from syncagent.edges.payload import (
    Body,
    BytesBody,
    object_headers,
    quote_key,
    verified_chunks,
    verify_copy,
)
from syncagent.edges.synchrony import is_synchronised

if TYPE_CHECKING:
    from syncagent.edges.answers import Answer
    from syncagent.edges.bucket import Bucket
    from syncagent.edges.wire import WireTotals

__all__ = ["Body", "ObjectStore", "PutRequest", "S3Store", "StoreSettings"]


_T = TypeVar("_T")


class S3Store:
    """One bucket of an S3-compatible store; safe to share between threads.

    `clock` gives the time in UTC for signatures; `store_clock` corrects it by what the store says. `progress` is
    called in the requesting thread while a request is on its way, and may raise Stopping to end it. `limit` says
    how many bytes per second all requests together may send; it is asked at each piece (None: no limit).
    """

    def __init__(
        self,
        settings: StoreSettings,
        *,
        clock: Callable[[], datetime],
        progress: ProgressSink | None = None,
        profile: StoreProfile | None = None,
        limit: Callable[[], int | None] | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        is_synchronised: Callable[[], bool] = is_synchronised,
        floor: Callable[[], datetime | None] = lambda: None,
    ) -> None:
        # Imported here: botocore costs most of a command's start, and most commands never reach the store.
        from syncagent.edges.sender import (
            Sender,
            find_ca_bundle,
            find_region,
            new_session,
            proxy_for,
            silence_libraries,
        )
        from syncagent.edges.signing import Keys, Signer, StoreClock
        from syncagent.edges.wire import Wire

        silence_libraries()
        self._settings = settings
        self._profile = profile or StoreProfile()
        self._lock = threading.Lock()
        self._base_url = ""
        self._bucket: Bucket | None = None
        self._addresses_tried = 0
        self.store_clock = StoreClock(clock, monotonic=monotonic, is_synchronised=is_synchronised, floor=floor)
        keys = Keys(settings.access_key_id, settings.secret_access_key, new_session=new_session)
        self._wire = Wire(
            connect_timeout_s=settings.connect_timeout_s,
            stall_s=settings.stall_s,
            max_idle_connections=settings.max_connections,
            proxy_for=proxy_for,
            ca_bundle=find_ca_bundle,
            clock=self.store_clock,
            progress=progress,
            limit=limit,
        )
        self._region = settings.region or find_region()
        signer = Signer(keys, self.store_clock, region=self._region)
        self._sender = Sender(self._wire, signer, keys=keys, clock=self.store_clock)

    @property
    def profile(self) -> StoreProfile:
        """What is known of this store by now."""
        with self._lock:
            return self._profile

    def set_profile(self, profile: StoreProfile) -> None:
        """Take what was known from an earlier run, or what the owner says."""
        with self._lock:
            self._profile = profile
            self._base_url, self._bucket = "", None

    @property
    def skew_s(self) -> float | None:
        """The store's time minus our wall clock's; None before its first answer."""
        return self.store_clock.skew_s

    @property
    def is_corrected(self) -> bool:
        """Whether requests are signed with the store's time, because our clock is wrong."""
        return self.store_clock.is_corrected

    def reach(self) -> None:
        """Prove with least that the link is back: a connection, no request. Raises: Transient, Stopping."""
        self._wire.reach(self._url(""), flight=Flight("", 0))

    def wire_totals(self) -> WireTotals:
        """Bytes over the wire since this store was made."""
        return self._wire.totals()

    def put(self, request: PutRequest, body: Body) -> str:
        """Put one object in one request; its ETag, once the store proved the digest."""
        return self._addressed(lambda: self._put_once(request, body))

    def _put_once(self, request: PutRequest, body: Body) -> str:
        answer = self._put(request, body)
        # Where the condition was honoured before, this is not about it.
        is_unknown = self.profile.conditional_writes_proved is None
        if request.only_if_absent and is_unknown and answer.denies_a_condition:
            answer = self._put(replace(request, only_if_absent=False), body)
            if 200 <= answer.status < 300:
                self._learn(lambda known: replace(known, conditional_writes_proved=False))
        self._sender.check(answer, is_conditional=request.is_conditional)
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
        if verdict is Verdict.PROVED:
            self._sender.note_proved(answer)
        self._learn_etag(answer.etag, request.digest)
        return answer.etag

    def create_multipart(
        self, key: str, *, metadata: Mapping[str, str], content_type: str, storage_class: str | None = None
    ) -> str:
        """Begin a multipart upload; its id."""
        object_headers(metadata, content_type=content_type, storage_class=storage_class)
        key = _sendable(key)
        upload_id = self._addressed(
            lambda: self._rare().create_multipart(
                key, metadata=metadata, content_type=content_type, storage_class=storage_class
            )
        )
        if not self.profile.multipart:
            self._learn(lambda known: replace(known, multipart=True))
        return upload_id

    def put_part(self, key: str, *, upload_id: str, number: int, body: Body, digest: Digest) -> Part:
        """Send one part; raises UploadGone, and Transient where the store's ETag is not the part's MD5."""
        url = f"{self._url(key)}?partNumber={number}&uploadId={quote(upload_id, safe='~')}"
        answer = self._send_body(url, {}, body, digest, key=key)
        try:
            self._sender.check(answer)
        except Refused as error:
            if answer.status == 404:  # a part has no other thing that could be missing
                raise UploadGone(str(error)) from error
            raise
        if judge_part(digest, etag=answer.etag, profile=self.profile) is Verdict.NO_PROOF:
            raise Transient(f"the store did not prove part {number}", trouble=Trouble.STORE)
        return Part(number, body.size_bytes, answer.etag)

    def list_parts(self, key: str, *, upload_id: str) -> list[Part]:
        """The parts that the store holds, all pages; raises UploadGone."""
        from syncagent.edges.answers import NotOffered

        try:
            return self._rare().list_parts(_sendable(key), upload_id=upload_id)
        except NotOffered:
            self._learn(lambda known: replace(known, list_parts=False))
            raise

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
        etag = self._complete(_sendable(key), upload_id, parts, only_if_absent=only_if_absent)
        verdict = judge_complete([part.etag for part in parts], etag=etag, profile=self.profile)
        if verdict is Verdict.PROVED and not (self._settings.reads_back and digest is not None):
            return etag
        if verdict is Verdict.NO_PROOF or digest is None:
            raise Transient("the store did not prove the completed object", trouble=Trouble.STORE)
        self._read_back(key, digest, size_bytes=sum(part.size_bytes for part in parts))
        return etag

    def _complete(self, key: str, upload_id: str, parts: Sequence[Part], *, only_if_absent: bool) -> str:
        from syncagent.edges.answers import NotOffered

        known = self.profile.conditional_writes_proved
        is_conditional = only_if_absent and known is not False
        try:
            return self._rare().complete(key, upload_id=upload_id, parts=parts, only_if_absent=is_conditional)
        except NotOffered:
            if not is_conditional or known:
                raise
        etag = self._rare().complete(key, upload_id=upload_id, parts=parts, only_if_absent=False)
        self._learn(lambda profile: replace(profile, conditional_writes_proved=False))
        return etag

    def abort(self, key: str, *, upload_id: str) -> None:
        """Drop a multipart upload; one that is gone, or that the store will never drop, is no error."""
        self._rare().abort(_sendable(key), upload_id=upload_id)

    def head(self, key: str) -> ObjectFacts | None:
        """What the store says of one object; None if there is none."""
        return self._addressed(lambda: self._rare().head(_sendable(key)))

    def read(self, key: str) -> Iterator[bytes]:
        """The object's bytes; raises while it is read, Refused if there is none."""
        return self._rare().read(_sendable(key))

    def copy(self, source: str, key: str) -> None:
        """Copy one object within the store, unproved: whoever believes the copy reads it first."""
        self._addressed(lambda: self._rare().copy(_sendable(source), _sendable(key)))

    def delete(self, key: str) -> None:
        """Delete one object. Not of `ObjectStore`: nothing that runs by itself may."""
        self._addressed(lambda: self._rare().delete(_sendable(key)))

    def get(self, key: str, *, headers: Mapping[str, str] | None = None) -> Got:
        """One GET with conditions or a range; the bytes come as they are read (edges/getting.py)."""
        from syncagent.edges.getting import get

        return self._addressed(lambda: get(self._sender, self._url(key), key=key, headers=headers or {}))

    def list(self, prefix: str) -> Iterator[ObjectFacts]:
        """Every object whose key begins with `prefix`."""
        yield from self._addressed(lambda: self._rare().begin_list(_sendable(prefix)))

    def drops_unfinished_uploads(self, prefix: str) -> bool:
        """Whether a rule of the bucket ends uploads below `prefix` that nobody completes."""
        return self._addressed(lambda: self._rare().drops_unfinished_uploads(_sendable(prefix)))

    def close(self) -> None:
        """Close the idle connections. Requests in flight end by themselves."""
        self._wire.close()

    def probe_conditional(self, key: str) -> bool:
        """Find out whether `If-None-Match: *` is honoured, by putting a probe at `key` twice."""
        from syncagent.edges.probing import probe_conditional

        is_proved = probe_conditional(self._probe_put(key), self._sender.check)
        self._learn(lambda known: replace(known, conditional_writes_proved=is_proved))
        return is_proved

    def probe_if_match(self, key: str) -> bool:
        """Find out whether `If-Match` is honoured by a PUT, by putting a probe at `key` that must be refused."""
        from syncagent.edges.probing import probe_if_match

        return probe_if_match(self._probe_put(key), self._sender.check)

    def probe_checksum(self, key: str) -> bool:
        """Find out whether x-amz-checksum-sha256 is checked: a wrong one must be refused, a right one taken."""
        from syncagent.edges.probing import probe_checksum

        is_proved = probe_checksum(self._probe_put(key), self._sender.check)
        self._learn(lambda known: replace(known, checksums_proved=is_proved))
        return is_proved

    def probe_multipart(self, key: str) -> bool:
        """Find out whether uploads in parts can be begun, listed and dropped: three small requests at most."""
        from syncagent.edges.probing import probe_multipart

        multipart, list_parts = self._addressed(
            lambda: probe_multipart(self._rare(), _sendable(key), self._probe_put(key), self._sender.check)
        )
        self._learn(lambda known: replace(known, multipart=multipart, list_parts=list_parts))
        return multipart and list_parts

    def _probe_put(self, key: str) -> Callable[[Mapping[str, str]], Answer]:
        """Puts the probe object at `key` with some headers more."""
        from syncagent.edges.probing import PROBE_BYTES, PROBE_DIGEST

        def put(headers: Mapping[str, str]) -> Answer:
            all_headers = {"Content-Type": "text/plain", **headers}
            answer = self._send_body(
                self._url(key), all_headers, BytesBody(PROBE_BYTES), PROBE_DIGEST, key=key, may_repeat=False
            )
            if 200 <= answer.status < 300 and answer.etag:
                self._learn_etag(answer.etag, PROBE_DIGEST)
            return answer

        return put

    def _put(self, request: PutRequest, body: Body) -> Answer:
        headers = object_headers(
            request.metadata, content_type=request.content_type, storage_class=request.storage_class
        )
        known = self.profile
        if request.only_if_absent and known.conditional_writes_proved is not False:
            headers["If-None-Match"] = "*"
        if request.only_if_match is not None:
            headers["If-Match"] = f'"{request.only_if_match}"'
        if known.checksums_proved:
            headers["x-amz-checksum-sha256"] = checksum_header(request.digest)
        # Sent twice, a conditional write would find its own object and call the key taken.
        return self._send_body(
            self._url(request.key),
            headers,
            body,
            request.digest,
            key=request.key,
            may_repeat=not request.is_conditional,
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
            flight=Flight(key, body.size_bytes),
            may_repeat=may_repeat,
        )

    def _read_back(self, key: str, digest: Digest, *, size_bytes: int) -> None:
        """Prove by reading: Transient(STORE) unless the object is what we sent."""
        try:
            verify_copy(self.read(key), digest, size_bytes=size_bytes)
        except Refused as error:
            raise Transient("the store said yes and holds no such object", trouble=Trouble.STORE) from error

    def _learn_etag(self, etag: str, digest: Digest) -> None:
        """From an object that is proved: does this store's ETag say its MD5?"""
        is_md5 = etag.lower() == digest.md5.hex()
        if self.profile.etag_is_md5 is not is_md5:
            self._learn(lambda known: replace(known, etag_is_md5=is_md5))

    def _learn(self, change: Callable[[StoreProfile], StoreProfile]) -> None:
        with self._lock:
            self._profile = change(self._profile)

    def _url(self, key: str) -> str:
        path, base_url, settings = quote_key(key), self._base_url, self._settings
        if not base_url:
            if settings.endpoint_url and self._style() == "path":
                # As botocore makes it, without the cost of building its client.
                base_url = f"{settings.endpoint_url.rstrip('/')}/{quote(settings.bucket)}/"
            else:
                base_url = self._rare().url()
            self._base_url = base_url
        return base_url + path

    def _style(self) -> str:
        return style_of(self._settings, self.profile)

    def _addressed(self, act: Callable[[], _T]) -> _T:
        """Do something; where a store of one's own cannot be addressed like that, once more in the other style."""
        from syncagent.edges.probing import other_style

        try:
            return act()
        except (Transient, Blocked) as error:
            settings, tried = self._settings, self._style()
            is_open = settings.addressing_style == "auto" and settings.endpoint_url and not self._addresses_tried
            other = other_style(tried, error) if is_open else None
            if other is None:
                raise
            self._addresses_tried += 1
            before = self.profile
            self.set_profile(replace(before, addressing_style=other))
            try:
                return act()
            except (Transient, Blocked):
                self.set_profile(before)
                raise error from None

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


def _sendable(key: str) -> str:
    quote_key(key)
    return key


def wire_sum(stores: Iterable[S3Store]) -> tuple[int, int]:
    """(bytes sent, bytes received) over the wire since these stores were made."""
    totals = [store.wire_totals() for store in stores]
    return sum(each.sent_bytes for each in totals), sum(each.received_bytes for each in totals)
