"""What an answer means: the whole table, and what its words must not hold."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from syncagent.core.errors import (
    Blocked,
    KeyTaken,
    Refused,
    SyncagentError,
    Transient,
    Trouble,
    UploadGone,
)
from syncagent.edges.answers import Answer, check, retry_after_s, trouble_with

HTML = b"<!DOCTYPE html><html><body>Please accept our terms</body></html>"


def document(code: str, rest: str = "") -> bytes:
    return f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code>{rest}</Error>'.encode()


def kind_of(error: SyncagentError) -> str:
    return f"{type(error).__name__} {getattr(error, 'trouble', '')}".strip()


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (503, "SlowDown", "Transient throttled"),
        (429, "", "Transient throttled"),
        (400, "RequestLimitExceeded", "Transient throttled"),
        (503, "ServiceUnavailable", "Transient store"),
        (500, "InternalError", "Transient store"),
        (501, "NotImplemented", "NotOffered store"),
        (502, "", "Transient store"),
        (403, "SecondLevelDomainForbidden", "Misaddressed bucket"),
        (401, "", "Blocked credentials"),
        (403, "InvalidAccessKeyId", "Blocked credentials"),
        (403, "SignatureDoesNotMatch", "Blocked credentials"),
        (400, "ExpiredToken", "Blocked credentials"),
        (403, "AccessDenied", "Blocked forbidden"),
        (403, "", "Blocked forbidden"),
        (404, "NoSuchBucket", "Blocked bucket"),
        (301, "PermanentRedirect", "Blocked bucket"),
        (403, "RequestTimeTooSkewed", "Transient clock"),
        (400, "BadDigest", "Transient store"),
        (400, "XAmzContentSHA256Mismatch", "Transient store"),
        (400, "RequestTimeout", "Transient link"),
        (400, "IncompleteBody", "Transient link"),
        (400, "KeyTooLongError", "Refused"),
        (400, "EntityTooLarge", "Refused"),
        (413, "", "Refused"),
        (431, "", "HeadersTooLarge store"),
        (400, "MetadataTooLarge", "HeadersTooLarge store"),
        (404, "NoSuchKey", "Refused"),
        (400, "MetadataTooLarge", "HeadersTooLarge store"),
        (405, "MethodNotAllowed", "Doubtful"),
        (411, "MissingContentLength", "Doubtful"),
        (400, "InvalidArgument", "Doubtful"),
        (400, "InvalidRequest", "Doubtful"),
        (400, "NobodyKnowsThis", "Doubtful"),
        (400, "InvalidStorageClass", "Blocked bucket"),
        (400, "KMS.DisabledException", "Blocked bucket"),
        (400, "KMS.NotFoundException", "Blocked bucket"),
        (400, "KMS.ThrottlingException", "Transient throttled"),
        (403, "QuotaExceeded", "Blocked bucket"),
        (404, "NoSuchUpload", "UploadGone"),
        (400, "InvalidPart", "PartsRefused"),
        (400, "InvalidPartOrder", "PartsRefused"),
        (400, "", "Transient store"),
        (404, "", "Transient store"),
        (302, "", "Transient store"),
        (412, "PreconditionFailed", "Transient store"),
        (418, "Teapot", "Transient store"),
    ],
)
def test_each_answer_has_one_meaning(status: int, code: str, kind: str) -> None:
    error = trouble_with(Answer(status, {}, document(code) if code else b""))
    assert kind_of(error) == kind
    if isinstance(error, Blocked):
        assert error.remedy


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (412, "PreconditionFailed", "KeyTaken"),
        (412, "", "KeyTaken"),
        (409, "ConditionalRequestConflict", "Transient file"),
        (409, "OperationAborted", "Transient store"),
        (503, "SlowDown", "Transient throttled"),
    ],
)
def test_a_conditional_write_that_is_refused_found_the_key_taken(status: int, code: str, kind: str) -> None:
    answer = Answer(status, {}, document(code) if code else b"")
    assert kind_of(trouble_with(answer, is_conditional=True)) == kind


@pytest.mark.parametrize(
    "page", [b"<title>400 Request Header Or Cookie Too Large</title>", b"HTTP/1.0 431 Too many headers"]
)
def test_a_proxy_that_takes_no_long_headers_is_understood(page: bytes) -> None:
    assert kind_of(trouble_with(Answer(400, {"content-type": "text/html"}, page))) == "HeadersTooLarge store"


@pytest.mark.parametrize("status", [400, 404, 405, 411])
def test_a_page_of_html_never_refuses_a_file_for_ever(status: int) -> None:
    assert kind_of(trouble_with(Answer(status, {"content-type": "text/html"}, HTML))) == "Transient store"


@pytest.mark.parametrize(
    ("code", "message", "skew_s", "kind"),
    [
        ("", "", 3600.0, "Transient clock"),
        ("", "", -3600.0, "Transient clock"),
        ("", "", 200.0, "Blocked forbidden"),
        ("SignatureDoesNotMatch", "", 3600.0, "Transient clock"),
        ("AccessDenied", "Request has expired", 3600.0, "Transient clock"),
        ("AccessDenied", "No rights", 3600.0, "Blocked forbidden"),
        ("InvalidAccessKeyId", "", 3600.0, "Blocked credentials"),
    ],
)
def test_a_403_is_the_clocks_only_if_the_stores_date_says_so(code: str, message: str, skew_s: float, kind: str) -> None:
    body = document(code, f"<Message>{message}</Message>") if code else b""
    assert kind_of(trouble_with(Answer(403, {}, body, skew_s=skew_s))) == kind


def test_a_wrong_region_is_named_in_the_remedy() -> None:
    body = document("AuthorizationHeaderMalformed", "<Region>eu-west-3</Region>")
    error = trouble_with(Answer(400, {}, body))
    assert isinstance(error, Blocked) and error.trouble is Trouble.BUCKET and "eu-west-3" in error.remedy
    bare = trouble_with(Answer(301, {"x-amz-bucket-region": "eu-west-3"}))
    assert isinstance(bare, Blocked) and bare.trouble is Trouble.BUCKET and "eu-west-3" in bare.remedy


def test_retry_after_is_read_as_seconds_and_as_a_date() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    until = {
        "date": format_datetime(now, usegmt=True),
        "retry-after": format_datetime(now + timedelta(seconds=90), usegmt=True),
    }
    assert retry_after_s({"retry-after": "17"}) == 17
    assert retry_after_s(until) == 90
    assert retry_after_s({"retry-after": "999999999"}) == 86400
    assert retry_after_s({"retry-after": "soon"}) is None
    assert retry_after_s({}) is None
    error = trouble_with(Answer(503, {"retry-after": "17"}, document("SlowDown")))
    assert isinstance(error, Transient) and error.retry_after_s == 17


def test_an_error_document_with_status_200_is_an_error() -> None:
    with pytest.raises(Transient) as caught:
        check(Answer(200, {}, b"\n  " + document("InternalError")))
    assert caught.value.trouble is Trouble.STORE
    with pytest.raises(UploadGone):
        check(Answer(200, {}, document("NoSuchUpload")))


def test_a_success_without_its_document_is_no_success() -> None:
    with pytest.raises(Transient):
        check(Answer(200, {"content-type": "text/html"}, HTML), root="ListBucket")
    with pytest.raises(Transient):
        check(Answer(200, {}, b""), root="ListBucket")
    check(Answer(200, {}, b'<?xml version="1.0"?><ListBucketResult/>'), root="ListBucket")


def test_the_words_hold_neither_signature_nor_message() -> None:
    secrets = (
        "<Message>AKIDSECRET</Message><StringToSign>AWS4 x</StringToSign><SignatureProvided>abc123</SignatureProvided>"
    )
    text = str(trouble_with(Answer(403, {}, document("SignatureDoesNotMatch", secrets))))
    assert text == "the store answered 403 SignatureDoesNotMatch"


def test_key_taken_and_upload_gone_are_refusals() -> None:
    assert issubclass(KeyTaken, Refused) and issubclass(UploadGone, Refused)
