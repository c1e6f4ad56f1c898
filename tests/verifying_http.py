"""The HTTP half of the strict S3 server: reads a request whole, verifies it, lets the store act, answers.

Nothing reaches the store before the body is complete and is what its sender signed and announced.
"""

from __future__ import annotations

import base64
import hashlib
import re
import socket
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, unquote

from tests.s3_model import Answer, Fault, error_answer
from tests.sigv4 import S3Error, verify_signature

if TYPE_CHECKING:
    from tests.verifying import VerifyingS3

MAX_SKEW_S = 900

#: (method, names in the query that choose, has a key) -> operation and the store's method that does it
OPERATIONS: Sequence[tuple[str, str, bool, str, str]] = (
    ("PUT", "partNumber", True, "UploadPart", "put_part"),
    ("PUT", "", True, "PutObject", "put_object"),
    ("GET", "uploadId", True, "ListParts", "list_parts"),
    ("GET", "", True, "GetObject", "get_object"),
    ("HEAD", "", True, "HeadObject", "get_object"),
    ("POST", "uploads", True, "CreateMultipartUpload", "create_upload"),
    ("POST", "uploadId", True, "CompleteMultipartUpload", "complete_upload"),
    ("DELETE", "uploadId", True, "AbortMultipartUpload", "abort_upload"),
    ("DELETE", "", True, "DeleteObject", "delete_object"),
    ("GET", "uploads", False, "ListMultipartUploads", "list_uploads"),
    ("GET", "lifecycle", False, "GetBucketLifecycleConfiguration", "lifecycle_rules"),
    ("GET", "location", False, "GetBucketLocation", "locate_bucket"),
    ("GET", "list-type", False, "ListObjectsV2", "list_objects"),
    ("HEAD", "", False, "HeadBucket", "head_bucket"),
)
UPLOADS = frozenset({"PutObject", "UploadPart"})


class Handler(BaseHTTPRequestHandler):
    """One connection. Reads, verifies, lets the store act, answers, records."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 1 << 16  # head and body of an answer leave in one segment
    store: VerifyingS3

    def setup(self) -> None:
        super().setup()
        with self.store.lock:
            self.store._open.add(self.connection)

    def finish(self) -> None:
        with self.store.lock:
            self.store._open.discard(self.connection)
        try:
            super().finish()
        except OSError:
            return  # the client left first

    def handle(self) -> None:
        try:
            super().handle()
        except (ConnectionError, TimeoutError):
            self.close_connection = True  # a broken connection is what many tests are about

    def handle_expect_100(self) -> bool:
        is_wanted = super().handle_expect_100()
        self.wfile.flush()
        return is_wanted

    def log_message(self, *_: object) -> None:
        """Silence: the history tells more."""

    def serve(self) -> None:
        """One request from its head to its line in the history."""
        self.body, self.received_bytes = b"", 0
        path, _, query = self.path.partition("?")
        self.query = dict(parse_qsl(query, keep_blank_values=True))
        self.bucket, _, self.key = unquote(path, errors="surrogateescape").lstrip("/").partition("/")
        self.operation, act = self._operation()
        fault = self.store.fault_for(self.operation, self.key)
        try:
            answer = self._answer(act, fault)
        except OSError:
            self.close_connection = True
            self.store.record(self, 0, became_visible=False)
            return
        if fault is not None and fault.after_s:
            time.sleep(fault.after_s)
        is_dropped = fault is not None and fault.drop
        # Recorded first, so that a client that has its answer finds the request in the history.
        self.store.record(self, 0 if is_dropped else answer.status, became_visible=answer.became_visible)
        if is_dropped:
            self.close_connection = True
            return
        self._write(answer)
        if fault is not None and fault.early:
            self._linger()

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = serve  # noqa: N815

    def metadata(self) -> dict[str, str]:
        names = ((name, name.lower()) for name in self.headers)
        return {low[11:]: self.headers[name] for name, low in names if low.startswith("x-amz-meta-")}

    def content_type(self) -> str:
        return self.headers.get("Content-Type", "binary/octet-stream")

    def _operation(self) -> tuple[str, str]:
        for method, chooser, has_key, name, act in OPERATIONS:
            if method == self.command and has_key == bool(self.key) and (not chooser or chooser in self.query):
                return name, act
        return "Unknown", ""

    def _answer(self, act: str, fault: Fault | None) -> Answer:
        lie = self._lie(fault)
        if lie is not None and fault is not None and fault.early:
            self.close_connection = True
            return lie
        self._read_body()
        if lie is not None and fault is not None and not fault.act_first:
            return lie
        try:
            self._verify()
            if not act:
                raise S3Error(501, "NotImplemented", "This server does not know the request")
            with self.store.lock:
                if self.bucket not in self.store.buckets:
                    raise S3Error(404, "NoSuchBucket", "The specified bucket does not exist")
                answer: Answer = getattr(self.store, act)(self, self.store.buckets[self.bucket])
        except S3Error as error:
            return error_answer(error.status, error.code, str(error))
        if lie is not None:
            lie.became_visible = answer.became_visible
            return lie
        if fault is not None and fault.etag is not None:
            old = answer.headers.get("ETag", "").strip('"')
            answer.body = re.sub(rb"<ETag>.*?</ETag>", f"<ETag>&quot;{fault.etag}&quot;</ETag>".encode(), answer.body)
            answer.headers.update({"ETag": f'"{fault.etag}"'} if old else {})
        return answer

    def _lie(self, fault: Fault | None) -> Answer | None:
        """The scripted answer; None when the fault leaves the answer true (or only late)."""
        if fault is None or not (fault.status or fault.body is not None):
            return None
        if fault.body is not None:
            return Answer(fault.status or 200, fault.body, dict(fault.headers))
        lie = error_answer(fault.status, fault.code or "InternalError", "scripted")
        lie.headers.update(fault.headers)
        return lie

    def _linger(self) -> None:
        """Swallow what is still on its way: closing over unread bytes would reset, and tear up the answer."""
        self.connection.shutdown(socket.SHUT_WR)
        self.connection.settimeout(2)
        while self.connection.recv(1 << 16):
            pass

    def _read_body(self) -> None:
        left = int(self.headers.get("Content-Length") or 0)
        pieces = []
        while left:
            piece = self.rfile.read1(min(left, 1 << 16))
            if not piece:
                raise ConnectionResetError("the body broke off")
            pieces.append(piece)
            left -= len(piece)
            self.received_bytes += len(piece)
        self.body = b"".join(pieces)

    def _verify(self) -> None:
        """Refuse whatever is not exactly what its sender signed and announced."""
        headers = {name.lower(): " ".join(value.split()) for name, value in self.headers.items()}
        if self.headers.get("Transfer-Encoding") or "aws-chunked" in headers.get("content-encoding", ""):
            raise S3Error(501, "NotImplemented", "A header you provided implies functionality that is not implemented")
        credentials = self.store.credentials
        verify_signature(self.command, self.path, headers, credentials=credentials)
        sent_at = datetime.strptime(headers["x-amz-date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC).timestamp()
        if abs(sent_at - self.store.now()) > MAX_SKEW_S:
            raise S3Error(
                403,
                "RequestTimeTooSkewed",
                "The difference between the request time and the server's is too large.",
            )
        sha256 = hashlib.sha256(self.body)
        said = headers["x-amz-content-sha256"]
        announced = said != "UNSIGNED-PAYLOAD"
        if announced and said != sha256.hexdigest():
            raise S3Error(400, "XAmzContentSHA256Mismatch", "The provided x-amz-content-sha256 header does not match")
        if "content-md5" in headers:
            announced = True
            if headers["content-md5"] != base64.b64encode(hashlib.md5(self.body).digest()).decode():
                raise S3Error(400, "BadDigest", "The Content-MD5 you specified did not match what we received.")
        if "x-amz-checksum-sha256" in headers and self.store.has_checksums:
            announced = True
            if headers["x-amz-checksum-sha256"] != base64.b64encode(sha256.digest()).decode():
                raise S3Error(400, "BadDigest", "The SHA256 you specified did not match the calculated checksum.")
        if self.operation in UPLOADS and "x-amz-copy-source" not in headers and not announced:
            raise S3Error(400, "InvalidRequest", "Missing required header for this request: Content-MD5")

    def _write(self, answer: Answer) -> None:
        self.send_response_only(answer.status)
        headers = {"Date": formatdate(self.store.now(), usegmt=True), "Server": "verifying"}
        headers |= {"x-amz-request-id": f"{id(answer):X}", **answer.headers}
        if answer.status not in (204, 304):
            headers["Content-Length"] = str(len(answer.body))
        if self.close_connection:
            headers["Connection"] = "close"
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        # A refused HEAD has no body either: its reason is unknown to the client, as with the real ones.
        if self.command != "HEAD" and answer.status not in (204, 304):
            self.wfile.write(answer.body)
        self.wfile.flush()
