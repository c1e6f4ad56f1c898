"""A strict S3 server with a memory: what it shows is what a client announced, and it recalls everything.

It verifies the signature (SigV4), the payload hash, Content-MD5 and x-amz-checksum-sha256, so no
object can become visible whose bytes differ from what was announced. Every request stands in
`history`, also those that broke off. Misbehaviour is scripted by `faults` and by plain attributes,
both of which may change while it runs. Bytes on the wire are the business of `tests.proxy`.
"""

from __future__ import annotations

import hashlib
import itertools
import re
import socket
import threading
import time
from dataclasses import replace
from email.utils import formatdate
from http.server import ThreadingHTTPServer
from typing import Self
from urllib.parse import quote, unquote
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from tests.s3_model import Answer, Event, Fault, StoredObject, Upload, child_text, iso_time, xml_answer
from tests.sigv4 import S3Error
from tests.verifying_http import Handler


class VerifyingS3:
    """The server. Attributes are the store's habits; change them at any time."""

    def __init__(self, *buckets: str, access_key: str = "TESTACCESSKEY", secret_key: str = "test-secret-key") -> None:
        self.credentials = {access_key: secret_key}  # replace it to rotate keys under a running client
        self.buckets: dict[str, dict[str, StoredObject]] = {bucket: {} for bucket in buckets or ("bucket",)}
        self.uploads: dict[str, Upload] = {}
        self.faults: list[Fault] = []
        self.history: list[Event] = []
        self.clock_offset_s = 0.0  # what its Date is ahead of ours; more than 15 minutes refuses requests
        self.has_conditional_writes = True  # else If-None-Match and If-Match are ignored silently, as rclone does
        self.has_copy = True  # else x-amz-copy-source is not implemented
        self.has_checksums = True  # else x-amz-checksum-sha256 is ignored silently, and not answered
        self.etag_is_md5 = True
        self.may_delete = False
        self.lifecycle = ""  # the rules of every bucket, as XML
        self.page_size = 1000
        self.min_part_bytes = 5 * 1024 * 1024
        self.lock = threading.RLock()
        self._numbers = itertools.count(1)
        self._open: set[socket.socket] = set()
        self._http: ThreadingHTTPServer | None = None
        self._thread: threading.Thread | None = None

    @property
    def port(self) -> int:
        if self._http is None:
            raise AssertionError("the server is not running")
        return self._http.server_port

    @property
    def endpoint_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        handler = type("BoundHandler", (Handler,), {"store": self})
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), name="verifying-s3")
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._http is not None and self._thread is not None:
            self._http.shutdown()
            self._thread.join()
            self.drop_connections()
            self._http.server_close()

    def drop_connections(self) -> None:
        """Close every connection, as a server does with idle ones."""
        with self.lock:
            for connection in self._open:
                try:
                    connection.shutdown(socket.SHUT_RDWR)
                except OSError:
                    continue  # its client was faster

    def objects(self, bucket: str | None = None) -> dict[str, bytes]:
        """Every visible object of one bucket (default: the first)."""
        with self.lock:
            name = bucket or next(iter(self.buckets))
            return {key: stored.body for key, stored in self.buckets[name].items()}

    def requests(self, method: str | None = None, operation: str | None = None) -> list[Event]:
        """The history, or what of it has this method or operation."""
        with self.lock:
            return [e for e in self.history if method in (None, e.method) and operation in (None, e.operation)]

    def now(self) -> float:
        return time.time() + self.clock_offset_s

    def fault_for(self, operation: str, key: str) -> Fault | None:
        """The first scripted fault that hits this request."""
        with self.lock:
            return next((fault for fault in self.faults if fault.takes(operation, key)), None)

    def record(self, handler: Handler, status: int, *, became_visible: bool) -> None:
        with self.lock:
            self.history.append(
                Event(
                    *(next(self._numbers), time.monotonic(), handler.command, handler.operation, handler.key),
                    *(status, handler.received_bytes, became_visible, dict(handler.query)),
                    {name.lower(): value for name, value in handler.headers.items()},
                )
            )

    # What a store does. Called with the body complete and verified, under the lock.

    def etag_of(self, md5_hex: str) -> str:
        return md5_hex if self.etag_is_md5 else hashlib.sha256(md5_hex.encode()).hexdigest()[:40]

    def put_object(self, handler: Handler, objects: dict[str, StoredObject]) -> Answer:
        self._check_absent(handler, objects)
        self._check_match(handler, objects)
        source = handler.headers.get("x-amz-copy-source")
        if source is not None:
            return self._copy_object(handler, objects, unquote(source).lstrip("/").partition("/")[2])
        etag = self.etag_of(hashlib.md5(handler.body).hexdigest())
        objects[handler.key] = StoredObject(handler.body, etag, handler.metadata(), handler.content_type())
        answer = Answer(headers={"ETag": f'"{etag}"', **self._checksum(handler)})
        answer.became_visible = True
        return answer

    def get_object(self, handler: Handler, objects: dict[str, StoredObject]) -> Answer:
        if handler.key not in objects:
            raise S3Error(404, "NoSuchKey", "The specified key does not exist.")
        stored = objects[handler.key]
        headers = {"ETag": f'"{stored.etag}"', "Content-Type": stored.content_type, "Accept-Ranges": "bytes"}
        headers["Last-Modified"] = formatdate(stored.stored_at, usegmt=True)
        headers.update({f"x-amz-meta-{name}": value for name, value in stored.metadata.items()})
        quoted = headers["ETag"]
        if handler.headers.get("If-Match", quoted) != quoted:
            raise S3Error(412, "PreconditionFailed", "At least one of the pre-conditions you specified did not hold")
        if handler.headers.get("If-None-Match") == quoted:
            return Answer(304, b"", {"ETag": quoted})
        wanted = re.fullmatch(r"bytes=(\d*)-(\d*)", handler.headers.get("Range", ""))
        size = len(stored.body)
        if wanted is None or wanted.groups() == ("", ""):
            return Answer(200, stored.body, headers)
        first, last = wanted.groups()
        begin = int(first) if first else max(0, size - int(last))
        end = min(size, int(last) + 1) if first and last else size
        if begin >= end:
            raise S3Error(416, "InvalidRange", "The requested range is not satisfiable")
        return Answer(206, stored.body[begin:end], {**headers, "Content-Range": f"bytes {begin}-{end - 1}/{size}"})

    def delete_object(self, handler: Handler, objects: dict[str, StoredObject]) -> Answer:
        if not self.may_delete:
            raise S3Error(403, "AccessDenied", "Access Denied")
        objects.pop(handler.key, None)
        return Answer(204)

    def list_objects(self, handler: Handler, objects: dict[str, StoredObject]) -> Answer:
        query = handler.query
        prefix = query.get("prefix", "")
        after = query.get("continuation-token") or query.get("start-after", "")
        keys = sorted((k for k in objects if k.startswith(prefix) and k > after), key=lambda key: key.encode())
        page = keys[: min(self.page_size, int(query.get("max-keys", 1000)))]
        is_cut = len(page) < len(keys)
        encode = quote if query.get("encoding-type") == "url" else escape
        rows = "".join(
            f"<Contents><Key>{encode(key)}</Key><Size>{len(objects[key].body)}</Size>"
            f"<ETag>&quot;{objects[key].etag}&quot;</ETag><LastModified>{iso_time(objects[key].stored_at)}</LastModified>"
            "<StorageClass>STANDARD</StorageClass></Contents>"
            for key in page
        )
        token = f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>" if is_cut and page else ""
        coding = "<EncodingType>url</EncodingType>" if query.get("encoding-type") == "url" else ""
        return xml_answer(
            "ListBucketResult",
            f"<Name>{handler.bucket}</Name><Prefix>{encode(prefix)}</Prefix><KeyCount>{len(page)}</KeyCount>"
            f"<IsTruncated>{str(is_cut).lower()}</IsTruncated>{coding}{token}{rows}",
        )

    def create_upload(self, handler: Handler, objects: dict[str, StoredObject]) -> Answer:
        upload_id = f"upload-{next(self._numbers):06d}"
        self.uploads[upload_id] = Upload(handler.key, handler.metadata(), handler.content_type())
        return xml_answer(
            "InitiateMultipartUploadResult",
            f"<Bucket>{handler.bucket}</Bucket><Key>{escape(handler.key)}</Key><UploadId>{upload_id}</UploadId>",
        )

    def put_part(self, handler: Handler, objects: dict[str, StoredObject]) -> Answer:
        md5_hex = hashlib.md5(handler.body).hexdigest()
        self._upload(handler).parts[int(handler.query["partNumber"])] = (self.etag_of(md5_hex), handler.body)
        return Answer(headers={"ETag": f'"{self.etag_of(md5_hex)}"', **self._checksum(handler)})

    def list_parts(self, handler: Handler, objects: dict[str, StoredObject]) -> Answer:
        parts = sorted(self._upload(handler).parts.items())
        left = [part for part in parts if part[0] > int(handler.query.get("part-number-marker", 0))]
        page = left[: min(self.page_size, int(handler.query.get("max-parts", 1000)))]
        is_cut = len(page) < len(left)
        rows = "".join(
            f"<Part><PartNumber>{number}</PartNumber><ETag>&quot;{etag}&quot;</ETag><Size>{len(body)}</Size></Part>"
            for number, (etag, body) in page
        )
        marker = f"<NextPartNumberMarker>{page[-1][0]}</NextPartNumberMarker>" if page else ""
        return xml_answer("ListPartsResult", f"<IsTruncated>{str(is_cut).lower()}</IsTruncated>{marker}{rows}")

    def complete_upload(self, handler: Handler, objects: dict[str, StoredObject]) -> Answer:
        upload = self._upload(handler)
        self._check_absent(handler, objects)
        try:
            asked = [
                (int(child_text(p, "PartNumber")), child_text(p, "ETag").strip('"'))
                for p in ElementTree.fromstring(handler.body)
            ]
        except (ElementTree.ParseError, ValueError) as error:
            raise S3Error(400, "MalformedXML", "The XML you provided was not well-formed") from error
        if not asked or any(a >= b for (a, _), (b, _) in itertools.pairwise(asked)):
            raise S3Error(400, "InvalidPartOrder", "The list of parts was not in ascending order")
        if any(upload.parts.get(number, ("",))[0] != etag for number, etag in asked):
            raise S3Error(400, "InvalidPart", "One or more of the specified parts could not be found")
        bodies = [upload.parts[number][1] for number, _ in asked]
        if any(len(body) < self.min_part_bytes for body in bodies[:-1]):
            raise S3Error(400, "EntityTooSmall", "Your proposed upload is smaller than the minimum allowed size")
        md5 = hashlib.md5(b"".join(hashlib.md5(body).digest() for body in bodies)).hexdigest()
        etag = f"{self.etag_of(md5)}-{len(bodies)}"
        objects[upload.key] = StoredObject(b"".join(bodies), etag, upload.metadata, upload.content_type)
        del self.uploads[handler.query["uploadId"]]
        answer = xml_answer(
            "CompleteMultipartUploadResult",
            f"<Bucket>{handler.bucket}</Bucket><Key>{escape(upload.key)}</Key><ETag>&quot;{etag}&quot;</ETag>",
        )
        answer.became_visible = True
        return answer

    def abort_upload(self, handler: Handler, objects: dict[str, StoredObject]) -> Answer:
        self._upload(handler)
        del self.uploads[handler.query["uploadId"]]
        return Answer(204)

    def list_uploads(self, handler: Handler, objects: dict[str, StoredObject]) -> Answer:
        query = handler.query
        marker = (query.get("key-marker", ""), query.get("upload-id-marker", ""))
        rows = sorted((u.key, i) for i, u in self.uploads.items() if u.key.startswith(query.get("prefix", "")))
        left = [row for row in rows if row > marker]
        page = left[: min(self.page_size, int(query.get("max-uploads", 1000)))]
        is_cut = len(page) < len(left)
        text = "".join(
            f"<Upload><Key>{escape(key)}</Key><UploadId>{upload_id}</UploadId></Upload>" for key, upload_id in page
        )
        after = ""
        if is_cut and page:
            after = f"<NextKeyMarker>{escape(page[-1][0])}</NextKeyMarker>"
            after += f"<NextUploadIdMarker>{page[-1][1]}</NextUploadIdMarker>"
        return xml_answer(
            "ListMultipartUploadsResult", f"<IsTruncated>{str(is_cut).lower()}</IsTruncated>{after}{text}"
        )

    def head_bucket(self, handler: Handler, objects: dict[str, StoredObject]) -> Answer:
        return Answer()

    def lifecycle_rules(self, handler: Handler, objects: dict[str, StoredObject]) -> Answer:
        if not self.lifecycle:
            raise S3Error(404, "NoSuchLifecycleConfiguration", "The lifecycle configuration does not exist")
        return xml_answer("LifecycleConfiguration", self.lifecycle)

    def locate_bucket(self, handler: Handler, objects: dict[str, StoredObject]) -> Answer:
        return xml_answer("LocationConstraint", "")

    def _upload(self, handler: Handler) -> Upload:
        upload = self.uploads.get(handler.query.get("uploadId", ""))
        if upload is None or upload.key != handler.key:
            raise S3Error(404, "NoSuchUpload", "The specified multipart upload does not exist.")
        return upload

    def _check_absent(self, handler: Handler, objects: dict[str, StoredObject]) -> None:
        wants_absent = handler.headers.get("If-None-Match") == "*"
        if wants_absent and self.has_conditional_writes and handler.key in objects:
            raise S3Error(412, "PreconditionFailed", "At least one of the pre-conditions you specified did not hold")

    def _check_match(self, handler: Handler, objects: dict[str, StoredObject]) -> None:
        wanted = handler.headers.get("If-Match")
        if wanted is None or not self.has_conditional_writes:
            return
        if handler.key not in objects:
            raise S3Error(404, "NoSuchKey", "The specified key does not exist.")
        if wanted.strip('"') != objects[handler.key].etag:
            raise S3Error(412, "PreconditionFailed", "At least one of the pre-conditions you specified did not hold")

    def _copy_object(self, handler: Handler, objects: dict[str, StoredObject], source: str) -> Answer:
        if not self.has_copy:
            raise S3Error(501, "NotImplemented", "A header you provided implies functionality that is not implemented")
        if source not in objects:
            raise S3Error(404, "NoSuchKey", "The specified key does not exist.")
        objects[handler.key] = copied = replace(objects[source], stored_at=time.time())
        answer = xml_answer("CopyObjectResult", f"<ETag>&quot;{copied.etag}&quot;</ETag>")
        answer.became_visible = True
        return answer

    def _checksum(self, handler: Handler) -> dict[str, str]:
        said = handler.headers.get("x-amz-checksum-sha256")
        return {"x-amz-checksum-sha256": said} if said and self.has_checksums else {}
