"""The rare operations on a bucket: boto3's client, whose requests go over our wire with our signature.

Promises: boto3 only writes requests and reads successes. It never signs, retries, redirects or opens a
socket, and it never sees an error, so that clock, stalls, TLS and the meaning of answers have one place each.
It is imported and built at first use: that costs seconds on a small board. Leaves to others: putting bytes
(edges/objects.py).
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError, ParamValidationError

from syncagent.core.errors import Blocked, Refused, Transient, Trouble, UploadGone
from syncagent.core.model import ObjectFacts, Part
from syncagent.edges.answers import BUCKET_REMEDY, Answer, NotOffered
from syncagent.edges.connection import Flight
from syncagent.edges.sender import Sender, sha256_hex

logger = logging.getLogger(__name__)

READ_BYTES = 256 * 1024

#: How the document of a success begins its name (some stores leave out "Result"): a portal's page, be it
#: well-formed, is no empty listing.
_ROOTS = {
    "CompleteMultipartUpload": "CompleteMultipartUpload",
    "CopyObject": "CopyObject",
    "CreateMultipartUpload": "InitiateMultipartUpload",
    "ListObjectsV2": "ListBucket",
    "ListParts": "ListParts",
}
#: Operations in which nothing can be missing but the upload: some stores call that NoSuchKey.
_OF_AN_UPLOAD = frozenset({"AbortMultipartUpload", "CompleteMultipartUpload", "ListParts"})


class _Raw:
    """The body of an answer as botocore reads it."""

    def __init__(self, answer: Answer) -> None:
        self._chunks = answer.chunks
        self._held = answer.body

    def stream(self) -> Iterator[bytes]:
        while data := self.read(READ_BYTES):
            yield data

    def read(self, amt: int | None = None) -> bytes:
        if amt is None:
            data, self._held = self._held + b"".join(self._chunks), b""
            return data
        while len(self._held) < amt:
            chunk = next(self._chunks, b"")
            if not chunk:
                break
            self._held += chunk
        data, self._held = self._held[:amt], self._held[amt:]
        return data

    def close(self) -> None:
        close = getattr(self._chunks, "close", None)
        if close is not None:
            close()


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    """What is left of botocore's own errors: bad names, and successes that it cannot read."""
    try:
        yield
    except ParamValidationError as error:
        raise Blocked(
            "the bucket's name or the key is not valid", trouble=Trouble.BUCKET, remedy=BUCKET_REMEDY
        ) from error
    except (BotoCoreError, ClientError, KeyError, ValueError) as error:
        raise Transient(f"the store's answer cannot be read: {type(error).__name__}", trouble=Trouble.STORE) from error


class Bucket:
    """One bucket through boto3; safe to share between threads."""

    def __init__(
        self,
        name: str,
        *,
        sender: Sender,
        endpoint_url: str | None,
        region: str,
        addressing_style: str,
        page_keys: int,
    ) -> None:
        self._name = name
        self._sender = sender
        self._endpoint_url = endpoint_url
        self._region = region
        self._addressing_style = addressing_style
        self._page_keys = page_keys
        self._lock = threading.Lock()
        self._made: Any = None
        self._address = threading.local()

    def url(self) -> str:
        """The address of the bucket with a slash behind it, as botocore's endpoint rules make it.

        Taken from a request that is written and not sent: a presigned address would name the global endpoint,
        which sends requests for younger buckets elsewhere.
        """
        with _translated():
            client = self._client()
            self._address.is_asked = True
            try:
                client.head_object(Bucket=self._name, Key="k")
            finally:
                self._address.is_asked = False
        url: str = self._address.url
        return url.removesuffix("k")

    def create_multipart(
        self, key: str, *, metadata: Mapping[str, str], content_type: str, storage_class: str | None
    ) -> str:
        """The id of a new multipart upload."""
        optional = {} if storage_class is None else {"StorageClass": storage_class}
        with _translated():
            answer = self._client().create_multipart_upload(
                Bucket=self._name, Key=key, Metadata=dict(metadata), ContentType=content_type, **optional
            )
            upload_id = str(answer["UploadId"])
        if not upload_id:
            raise Transient("the store began an upload without an id", trouble=Trouble.STORE)
        return upload_id

    def list_parts(self, key: str, *, upload_id: str) -> list[Part]:
        """Every part that the store holds."""
        pages = self._pages("list_parts", Key=key, UploadId=upload_id)
        return [
            Part(int(part["PartNumber"]), int(part["Size"]), str(part["ETag"]).strip('"'))
            for page in pages
            for part in page.get("Parts", [])
        ]

    def complete(self, key: str, *, upload_id: str, parts: Sequence[Part], only_if_absent: bool) -> str:
        """The ETag of the object that the parts became."""
        listed = [{"PartNumber": part.number, "ETag": f'"{part.etag}"'} for part in parts]
        optional = {"IfNoneMatch": "*"} if only_if_absent else {}
        with _translated():
            answer = self._client().complete_multipart_upload(
                Bucket=self._name, Key=key, UploadId=upload_id, MultipartUpload={"Parts": listed}, **optional
            )
            return str(answer.get("ETag", "")).strip('"')

    def abort(self, key: str, *, upload_id: str) -> None:
        """Forget an upload; one that is gone, or that the store will never drop, is no error."""
        try:
            with _translated():
                self._client().abort_multipart_upload(Bucket=self._name, Key=key, UploadId=upload_id)
        except UploadGone:
            pass
        except (Refused, NotOffered) as error:
            # It knows no such operation, or not for this key: asking again would end the same.
            logger.warning("upload not aborted key=%s reason=%s", key, error)

    def head(self, key: str) -> ObjectFacts | None:
        """What the store says of one object; None if there is none."""
        with _translated():
            try:
                answer = self._client().head_object(Bucket=self._name, Key=key)
            except ClientError as error:
                if error.response["ResponseMetadata"]["HTTPStatusCode"] == 404:
                    return None
                raise
            etag = str(answer.get("ETag", "")).strip('"')
            size_bytes = answer.get("ContentLength")
        if not etag or size_bytes is None:
            raise Transient("the store answered 200 without an ETag", trouble=Trouble.STORE)
        return ObjectFacts(key, int(size_bytes), etag, dict(answer.get("Metadata", {})))

    def read(self, key: str) -> Iterator[bytes]:
        """The object's bytes as they come; an end before the announced length is Transient(LINK)."""
        with _translated():
            stream = self._client().get_object(Bucket=self._name, Key=key)["Body"]
        with contextlib.closing(stream):
            while True:
                with _translated():
                    chunk: bytes = stream.read(READ_BYTES)
                if not chunk:
                    return
                yield chunk

    def copy(self, source: str, key: str) -> None:
        """Copy one object within the bucket."""
        with _translated():
            self._client().copy_object(Bucket=self._name, Key=key, CopySource={"Bucket": self._name, "Key": source})

    def delete(self, key: str) -> None:
        """Delete one object; one that is gone is no error."""
        with _translated():
            self._client().delete_object(Bucket=self._name, Key=key)

    def list(self, prefix: str) -> Iterator[ObjectFacts]:
        """Every object below `prefix`, in the store's order."""
        for page in self._pages("list_objects_v2", Prefix=prefix, PaginationConfig={"PageSize": self._page_keys}):
            for item in page.get("Contents", []):
                etag = str(item.get("ETag", "")).strip('"')
                yield ObjectFacts(str(item["Key"]), int(item["Size"]), etag)

    def drops_unfinished_uploads(self, prefix: str) -> bool:
        """Whether a rule of the bucket ends uploads below `prefix` that nobody completes."""
        try:
            with _translated():
                rules = self._client().get_bucket_lifecycle_configuration(Bucket=self._name).get("Rules", [])
        except Refused:  # it has no rules at all
            return False
        return any(
            rule.get("Status") == "Enabled"
            and "AbortIncompleteMultipartUpload" in rule
            and prefix.startswith(str(rule.get("Filter", {}).get("Prefix", rule.get("Prefix", ""))))
            for rule in rules
        )

    def begin_list(self, prefix: str) -> Iterator[ObjectFacts]:
        """The same, once the request for its first page has succeeded."""
        objects = self.list(prefix)
        return itertools.chain(list(itertools.islice(objects, 1)), objects)

    def _pages(self, operation: str, **arguments: Any) -> Iterator[dict[str, Any]]:
        with _translated():
            pages = iter(self._client().get_paginator(operation).paginate(Bucket=self._name, **arguments))
        while True:
            with _translated():
                page = next(pages, None)
            if page is None:
                return
            yield page

    def _client(self) -> Any:
        # Held while it is built: workers that start together must not build one each.
        with self._lock:
            if self._made is None:
                with _translated():
                    self._made = make_client(
                        self._send,
                        endpoint_url=self._endpoint_url,
                        region=self._region,
                        addressing_style=self._addressing_style,
                    )
            return self._made

    def _send(self, request: Any, event_name: str, **_: Any) -> Any:
        """Carry one of botocore's prepared requests; it goes on only with a success, or a HEAD's 404."""
        from botocore.awsrequest import AWSResponse

        if getattr(self._address, "is_asked", False):
            self._address.url = request.url
            return AWSResponse(request.url, 200, {}, _Raw(Answer(200, {})))
        body = request.body or b""
        if not isinstance(body, bytes):
            body = body.encode() if isinstance(body, str) else body.read()
        headers = {name: _text(value) for name, value in request.headers.items()}
        if body or request.method in ("POST", "PUT"):
            headers["Content-Length"] = str(len(body))
        answer = self._sender.send(
            request.method,
            request.url,
            headers=headers,
            sha256_hex=sha256_hex(body),
            chunks=(lambda: iter((body,))) if body else None,
            flight=Flight("", len(body)),
            # An upload that is created twice, or completed twice, leaves an orphan or an error behind.
            may_repeat=request.method != "POST",
            is_streamed=bool(request.stream_output),
        )
        if not (request.method == "HEAD" and answer.status == 404):
            operation = event_name.rpartition(".")[2]
            try:
                self._sender.check(
                    answer,
                    is_conditional=any(name.lower() == "if-none-match" for name in headers),
                    root=_ROOTS.get(operation),
                )
            except Refused as error:
                if answer.status == 404 and operation in _OF_AN_UPLOAD:
                    raise UploadGone(str(error)) from error
                raise
        return AWSResponse(request.url, answer.status, answer.headers, _Raw(answer))


def _text(value: str | bytes) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else value


def make_client(send: Callable[..., Any], *, endpoint_url: str | None, region: str, addressing_style: str) -> Any:
    """boto3's S3 client without credentials, retries or checksums; `send` carries its requests."""
    import boto3
    from botocore import UNSIGNED
    from botocore.config import Config

    config = Config(
        signature_version=UNSIGNED,
        retries={"total_max_attempts": 1, "mode": "standard"},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        s3={"addressing_style": addressing_style},
    )
    session = boto3.session.Session(region_name=region)
    # Nobody here reads when an object was made, and parsing that is most of what a long listing costs.
    session._session.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=str)
    client = session.client("s3", endpoint_url=endpoint_url, config=config)
    client.meta.events.register("before-send.s3", send)
    return client
