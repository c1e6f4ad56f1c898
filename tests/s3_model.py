"""The nouns of the strict S3 server: what it recalls, what it answers, and how it may be told to lie."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Self
from xml.etree import ElementTree
from xml.sax.saxutils import escape


@dataclass(frozen=True, slots=True)
class Event:
    """One request as the server saw it. `status` 0: the request broke off, or got no answer."""

    number: int
    at: float  # monotonic
    method: str
    operation: str
    key: str
    status: int
    received_bytes: int  # of the body
    became_visible: bool
    query: dict[str, str]
    headers: dict[str, str]


@dataclass
class Fault:
    """What happens instead of the truth to requests of `operation` (None: any) below `prefix`.

    The first `skip` matches pass, the next `times` (None: all) are hit. With `act_first` the request
    is carried out and only its answer is a lie. `early` answers before the body is read. `drop`
    closes the connection without an answer. `etag` only replaces the ETag of a true answer.
    """

    operation: str | None = None
    prefix: str = ""
    skip: int = 0
    times: int | None = None
    status: int = 0
    code: str = ""
    body: bytes | None = None
    headers: dict[str, str] = field(default_factory=dict)
    etag: str | None = None
    act_first: bool = False
    early: bool = False
    drop: bool = False
    after_s: float = 0
    hits: int = 0

    @classmethod
    def portal(cls, **where: Any) -> Self:
        """A captive portal: HTML with status 200, whatever was asked."""
        page = b"<!DOCTYPE html><html><body>Please accept our terms of use</body></html>"
        return cls(status=200, body=page, headers={"Content-Type": "text/html"}, **where)

    @classmethod
    def throttled(cls, retry_after_s: int, **where: Any) -> Self:
        return cls(status=503, code="SlowDown", headers={"Retry-After": str(retry_after_s)}, **where)

    @classmethod
    def denied(cls, prefix: str = "", **where: Any) -> Self:
        return cls(status=403, code="AccessDenied", prefix=prefix, **where)

    @classmethod
    def error_in_complete(cls, code: str = "InternalError", **where: Any) -> Self:
        """Complete says 200, and in the body that it failed: nothing became visible."""
        return cls(operation="CompleteMultipartUpload", status=200, code=code, **where)

    @classmethod
    def store_then(cls, status: int, operation: str = "PutObject", **where: Any) -> Self:
        """The object is stored, the answer says that it was not."""
        return cls(operation=operation, status=status, code="InternalError", act_first=True, **where)

    def takes(self, operation: str, key: str) -> bool:
        """Count a request and say whether this fault hits it."""
        if self.operation not in (None, operation) or not key.startswith(self.prefix):
            return False
        self.hits += 1
        return self.hits > self.skip and (self.times is None or self.hits <= self.skip + self.times)


@dataclass(frozen=True, slots=True)
class StoredObject:
    body: bytes
    etag: str
    metadata: dict[str, str]
    content_type: str
    stored_at: float = field(default_factory=time.time)


@dataclass
class Upload:
    key: str
    metadata: dict[str, str]
    content_type: str
    parts: dict[int, tuple[str, bytes]] = field(default_factory=dict)


@dataclass
class Answer:
    """What a request gets, and whether it made an object visible."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    became_visible: bool = False


def error_answer(status: int, code: str, message: str) -> Answer:
    text = '<?xml version="1.0" encoding="UTF-8"?>\n'
    text += f"<Error><Code>{code}</Code><Message>{escape(message)}</Message></Error>"
    return Answer(status, text.encode(), {"Content-Type": "application/xml"})


def xml_answer(name: str, inner: str) -> Answer:
    space = "http://s3.amazonaws.com/doc/2006-03-01/"
    text = f'<?xml version="1.0" encoding="UTF-8"?>\n<{name} xmlns="{space}">{inner}</{name}>'
    return Answer(200, text.encode("utf-8", "surrogateescape"), {"Content-Type": "application/xml"})


def iso_time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")


def child_text(part: ElementTree.Element, name: str) -> str:
    found = next((child.text for child in part if child.tag.rpartition("}")[2] == name), None)
    if found is None:
        raise ValueError(name)
    return found
