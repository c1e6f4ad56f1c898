"""What a store's answer means, in the words of core/errors.py.

Owns the table from status and error code to Transient, Blocked or Refused. Promises: every answer that is not
a known success becomes an error, an unknown one a Transient; texts name status and code, never a header, a
query or a signature. Leaves to others: what then (core/retry.py), and failures that bring no answer
(edges/wire.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from syncagent.core.errors import (
    Blocked,
    Doubtful,
    HeadersTooLarge,
    KeyTaken,
    PartsRefused,
    Refused,
    SyncagentError,
    Transient,
    Trouble,
    UploadGone,
)
from syncagent.core.skew import WRONG_S
from syncagent.edges.signing import parse_date

LONGEST_RETRY_AFTER_S = 86400.0

_CODE = re.compile(rb"<Code>\s*([A-Za-z0-9._-]{1,80})\s*</Code>")
_MESSAGE = re.compile(rb"<Message>([^<]{0,500})</Message>")
_OF_TIME = re.compile(rb"expire|request time|skew|clock", re.IGNORECASE)
_REGION = re.compile(rb"<Region>\s*([a-z0-9-]{1,40})\s*</Region>")
_ROOT = re.compile(rb"\s*(?:\xef\xbb\xbf)?\s*(?:<\?xml[^>]*\?>)?\s*<(?:[A-Za-z0-9]+:)?([A-Za-z0-9]+)")

_THROTTLED = frozenset({"SlowDown", "SlowDownRead", "SlowDownWrite", "RequestLimitExceeded", "TooManyRequests"})
_CREDENTIALS = frozenset(
    {
        "AccountProblem",
        "AuthorizationHeaderMalformed",
        "ExpiredToken",
        "InvalidAccessKeyId",
        "InvalidSecurity",
        "InvalidToken",
        "MissingSecurityHeader",
        "NotSignedUp",
        "SignatureDoesNotMatch",
        "TokenRefreshRequired",
        "UnrecognizedClientException",
    }
)
_BUCKET = frozenset(
    {
        "IllegalLocationConstraintException",
        "IncorrectEndpoint",
        "InvalidBucketName",
        "InvalidRegion",
        "NoSuchBucket",
        "PermanentRedirect",
    }
)
_CLOCK = frozenset({"RequestTimeTooSkewed", "RequestExpired", "RequestInTheFuture"})
#: Codes of a 4xx that say nothing against the file: the bytes or the link went wrong on the way.
_LINK = frozenset({"IncompleteBody", "RequestTimeout", "UserNetworkDisconnected"})
_DAMAGED = frozenset(
    {
        "BadDigest",
        "InvalidDigest",
        "XAmzContentSHA256Mismatch",
        "XAmzContentChecksumMismatch",
        "InternalError",
    }
)
#: The upload cannot be completed as recorded, but the file can be sent from its beginning.
_UPLOAD_GONE = {"NoSuchUpload": UploadGone, "InvalidPart": PartsRefused, "InvalidPartOrder": PartsRefused}
#: The request's headers are too long; a proxy says so in words of its own.
_HEADERS = frozenset({"MetadataTooLarge", "RequestHeaderSectionTooLarge"})
_OF_HEADERS = re.compile(rb"header[^<]{0,40}too (?:large|long)|too many header", re.IGNORECASE)
_REFUSED_STATUS = frozenset({400, 404, 405, 411, 413, 414, 416})
#: Codes that name the object, its key or its bytes: as it is, it never will be taken.
_OF_THE_OBJECT = frozenset(
    {
        "EntityTooLarge",
        "InvalidObjectName",
        "InvalidURI",
        "KeyTooLong",
        "KeyTooLongError",
        "MaxMessageLengthExceeded",
        "NoSuchKey",
        "XMinioInvalidObjectName",
    }
)
#: Codes that name a setting which every object meets, and what cures it.
_SETTINGS = {
    "InvalidStorageClass": "set upload.storage_class of the carrier to a class that the store has",
    "QuotaExceeded": "make room in the bucket, or raise its quota",
    "XMinioAdminBucketQuotaExceeded": "make room in the bucket, or raise its quota",
}
KMS_REMEDY = "enable the key that the bucket is encrypted with, and allow it to the agent's access key"

#: The store wants the bucket's name at the other place of its address.
_MISADDRESSED = frozenset({"PathStyleDomainForbidden", "SecondLevelDomainForbidden"})
_NOT_OFFERED = frozenset({"NotImplemented", "XNotImplemented"})
#: Headers that S3 stores give and others do not. rclone gives none: there only its XML tells.
_MARKS = ("x-amz-request-id", "x-amz-id-2", "x-amzn-requestid")

KEYS_REMEDY = "check access_key_id and secret_access_key, and that the key is still active"
BUCKET_REMEDY = "check bucket_name, region and endpoint_url of the carrier"


class NotOffered(Transient):
    """The store says that it has no such operation, or knows no such header."""


class Misaddressed(Blocked):
    """The store wants to be addressed in the other style: its name, or the path, must hold the bucket's."""


@dataclass(slots=True)
class Answer:
    """One answer: `body` is whole, or `chunks` yields it as it comes. Names of headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes = b""
    chunks: Iterator[bytes] = field(default_factory=lambda: iter(()))
    skew_s: float = 0.0  # its Date minus the time that we signed with

    @property
    def etag(self) -> str:
        """The ETag without its quotes; empty where there is none."""
        return self.headers.get("etag", "").strip().removeprefix("W/").strip('"')

    @property
    def denies_a_condition(self) -> bool:
        """Whether this may be a store's word that it does not know `If-None-Match`."""
        is_said = self.status == 501 or (self.status == 400 and self.code in ("NotImplemented", "InvalidArgument"))
        return is_said and bool(self.code)

    def drop(self) -> None:
        """End it without reading what is left."""
        close = getattr(self.chunks, "close", None)
        if close is not None:
            close()

    @property
    def root(self) -> str:
        """The name of the XML document's root element; empty where there is no document."""
        match = _ROOT.match(self.body[:4096])
        return match.group(1).decode("ascii") if match else ""

    @property
    def code(self) -> str:
        """The error code of an S3 error document; empty where there is none."""
        match = _CODE.search(self.body[:65536]) if self.root == "Error" else None
        return match.group(1).decode("ascii") if match else ""


def is_from_a_store(answer: Answer) -> bool:
    """Whether an answer looks like S3's own, so that its Date is the store's; a portal has a Date, too.

    What a cache kept says when it was made, and not what time it is.
    """
    if "age" in answer.headers:
        return False
    return any(name in answer.headers for name in _MARKS) or bool(answer.code)


def is_refused_for_its_time(answer: Answer) -> bool:
    """Whether another time in the signature could turn this answer into a success."""
    if 200 <= answer.status < 300:
        return False
    error = trouble_with(answer)
    return isinstance(error, Transient) and error.trouble is Trouble.CLOCK


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds that a `Retry-After` asks for, given as a number or as a date (by the answer's own Date)."""
    value = headers.get("retry-after", "").strip()
    if not value:
        return None
    if re.fullmatch(r"\d{1,9}(\.\d{1,9})?", value):
        return min(float(value), LONGEST_RETRY_AFTER_S)
    until, now = parse_date(value), parse_date(headers.get("date"))
    if until is None or now is None:
        return None
    return min(max((until - now).total_seconds(), 0.0), LONGEST_RETRY_AFTER_S)


def trouble_with(answer: Answer, *, is_conditional: bool = False) -> SyncagentError:
    """The error for an answer that is no success."""
    status, code = answer.status, answer.code
    what = f"the store answered {status} {code}".rstrip()
    if is_conditional and code == "ConditionalRequestConflict":
        # Somebody else was at the key at the same moment. Whether it is taken now, only the next attempt can tell.
        return Transient(what, trouble=Trouble.FILE)
    if is_conditional and (status == 412 or (status == 409 and code != "OperationAborted")):
        return KeyTaken("another object has this key")
    if code in _UPLOAD_GONE:
        return _UPLOAD_GONE[code](what)
    wait_s = retry_after_s(answer.headers)
    if status == 429 or code in _THROTTLED or "Throttling" in code or (status == 503 and wait_s is not None):
        return Transient(what, trouble=Trouble.THROTTLED, retry_after_s=wait_s)
    if status == 501 or code in _NOT_OFFERED:
        return NotOffered(what, trouble=Trouble.STORE)
    if status >= 500:
        return Transient(what, trouble=Trouble.STORE, retry_after_s=wait_s)
    if status == 431 or code in _HEADERS or (status == 400 and not code and _OF_HEADERS.search(answer.body[:4096])):
        return HeadersTooLarge(what, trouble=Trouble.STORE)
    blocked = _blocked(answer, what)
    if blocked is not None:
        return blocked
    if code in _LINK or status == 408:
        return Transient(what, trouble=Trouble.LINK)
    if code in _DAMAGED:
        return Transient(what, trouble=Trouble.STORE)
    # Only an S3 error document may refuse a file for ever: a portal's page says nothing about it. A 413 is
    # the exception, because what stands in front of a store and limits sizes has its own words.
    if status == 413 or (status in _REFUSED_STATUS and code in _OF_THE_OBJECT):
        return Refused(what)
    if status in _REFUSED_STATUS and code:
        return Doubtful(what)
    return Transient(what, trouble=Trouble.STORE, retry_after_s=wait_s)


def _blocked(answer: Answer, what: str) -> SyncagentError | None:
    """Answers about our clock, our key, our rights or the bucket."""
    status, code, skew_s = answer.status, answer.code, answer.skew_s
    if code in _CLOCK or (status in (400, 403) and abs(skew_s) > WRONG_S and _may_be_the_clock(answer)):
        off = f"; our clock is {abs(skew_s):.0f} s {'behind' if skew_s > 0 else 'ahead'}" if skew_s else ""
        return Transient(what + off, trouble=Trouble.CLOCK)
    region = _REGION.search(answer.body[:65536]) if code == "AuthorizationHeaderMalformed" else None
    named_region = region.group(1).decode("ascii") if region else answer.headers.get("x-amz-bucket-region", "")
    if code in _SETTINGS or code.startswith("KMS."):
        return Blocked(what, trouble=Trouble.BUCKET, remedy=_SETTINGS.get(code, KMS_REMEDY))
    if code in _MISADDRESSED:
        return Misaddressed(what, trouble=Trouble.BUCKET, remedy="set store.addressing_style of the carrier")
    if region or code in _BUCKET or (status in (301, 400) and not code and named_region):
        remedy = f"set region of the carrier to {named_region}" if named_region else BUCKET_REMEDY
        return Blocked(what, trouble=Trouble.BUCKET, remedy=remedy)
    if status == 401 or code in _CREDENTIALS:
        return Blocked(what, trouble=Trouble.CREDENTIALS, remedy=KEYS_REMEDY)
    if status == 403 or code == "AccessDenied":
        return Blocked(what, trouble=Trouble.FORBIDDEN, remedy="allow this key prefix to the agent's access key")
    return None


def _may_be_the_clock(answer: Answer) -> bool:
    """Whether a 400 or 403 could mean a wrong time: a refused HEAD has no body, some stores say "signature".

    rclone says AccessDenied, with 400, to a clock that is behind, and means the time: its message tells.
    """
    if answer.code == "AccessDenied":
        message = _MESSAGE.search(answer.body[:65536])
        return message is not None and _OF_TIME.search(message.group(1)) is not None
    return (not answer.body and not answer.code) or answer.code in ("SignatureDoesNotMatch", "ExpiredToken")


def check(answer: Answer, *, is_conditional: bool = False, root: str | None = None) -> None:
    """Raise unless this is a success as S3 gives it; `root` begins the name of the document it must bring."""
    if not 200 <= answer.status < 300 or answer.root == "Error":
        raise trouble_with(answer, is_conditional=is_conditional)
    if root is not None and not answer.root.startswith(root):
        raise Transient(
            f"the store answered {answer.status} without {root}: something on the way answers in its place",
            trouble=Trouble.STORE,
        )
