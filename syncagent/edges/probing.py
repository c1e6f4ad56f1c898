"""Finds out what a store can do, instead of believing its name.

Promises: an ability is found only where the store showed it; what a broken link or a refused key answers is no
finding and raises. Each probe writes at most one small object, at the key that it is given. Leaves to others:
remembering (core/proof.py), and when to ask again.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import socket
import ssl
from collections.abc import Callable, Mapping
from typing import Protocol

from syncagent.core.errors import Blocked, KeyTaken, Refused, SyncagentError, Transient, Trouble
from syncagent.core.model import Digest, Part
from syncagent.core.proof import checksum_header
from syncagent.edges.answers import Answer, Misaddressed, NotOffered

#: What a probe stores: it is read by people who wonder what this object is.
PROBE_BYTES = b"syncagent writes this object to find out what the store can do.\n"
PROBE_DIGEST = Digest(hashlib.md5(PROBE_BYTES, usedforsecurity=False).digest(), hashlib.sha256(PROBE_BYTES).digest())

Put = Callable[[Mapping[str, str]], Answer]


class Check(Protocol):
    """Raises unless an answer is a success."""

    def __call__(self, answer: Answer, *, is_conditional: bool = False) -> None: ...


class Parts(Protocol):
    """What of a bucket the probe for uploads in parts needs."""

    def create_multipart(
        self, key: str, *, metadata: Mapping[str, str], content_type: str, storage_class: str | None
    ) -> str: ...
    def list_parts(self, key: str, *, upload_id: str) -> list[Part]: ...
    def abort(self, key: str, *, upload_id: str) -> None: ...


def probe_conditional(put: Put, check: Check) -> bool:
    """Put twice with `If-None-Match: *`: the second one must find the first."""
    for _ in range(2):
        answer = put({"If-None-Match": "*"})
        try:
            _pass(answer, functools.partial(check, is_conditional=True))
        except KeyTaken:
            return True
        except NotOffered:
            break
        except Refused:
            # A 400 with a code of S3: it knows no such header. Other refusals are about the key.
            if answer.status != 400:
                raise
            break
    # Nothing is known until a plain one passes: something else may have been wrong.
    _pass(put({}), check)
    return False


def probe_if_match(put: Put, check: Check) -> bool:
    """Put plainly, then on the condition of an ETag that no object has: the second one must be refused."""
    _pass(put({}), check)
    answer = put({"If-Match": f'"{"0" * 32}"'})
    if answer.status == 412:
        return True
    if not _is_refusal(answer):
        _pass(answer, check)
    return False


def probe_checksum(put: Put, check: Check) -> bool:
    """A wrong checksum must be refused, and a right one taken and given back."""
    right = checksum_header(PROBE_DIGEST)
    wrong = base64.b64encode(hashlib.sha256(b"other bytes").digest()).decode("ascii")
    refusal = put({"x-amz-checksum-sha256": wrong})
    if not _is_refusal(refusal):
        _pass(refusal, check)
    answer = put({"x-amz-checksum-sha256": right})
    if _is_refusal(answer):
        _pass(put({}), check)
        return False
    _pass(answer, check)
    return refusal.status == 400 and answer.headers.get("x-amz-checksum-sha256") == right


def probe_multipart(bucket: Parts, key: str, put: Put, check: Check) -> tuple[bool, bool]:
    """Whether uploads in parts can be begun, and whether their parts are listed. Leaves no upload behind."""
    try:
        upload_id = bucket.create_multipart(key, metadata={}, content_type="text/plain", storage_class=None)
    except (NotOffered, Refused):
        _pass(put({}), check)  # a store that refuses everything says nothing of uploads in parts
        return False, False
    try:
        bucket.list_parts(key, upload_id=upload_id)
        is_listed = True
    except (NotOffered, Refused):
        is_listed = False
    finally:
        bucket.abort(key, upload_id=upload_id)
    return True, is_listed


def other_style(style: str, error: SyncagentError) -> str | None:
    """The addressing style to try instead, if this error may come of the one that was used."""
    if style == "path":
        return "virtual" if isinstance(error, Misaddressed) else None
    if isinstance(error, Misaddressed) or (isinstance(error, Blocked) and error.trouble is Trouble.BUCKET):
        return "path"
    # The bucket's own name does not resolve, or the certificate does not hold for it.
    is_nameless = isinstance(error, Transient) and error.trouble is Trouble.LINK and _is_of_the_name(error)
    return "path" if is_nameless else None


def _pass(answer: Answer, check: Callable[[Answer], None]) -> None:
    """Raises unless this is a store's yes: a portal says yes to everything, and knows no ETag."""
    check(answer)
    if not answer.etag:
        raise Transient(f"the store answered {answer.status} without an ETag", trouble=Trouble.STORE)


def _is_of_the_name(error: Transient) -> bool:

    return isinstance(error.__cause__, socket.gaierror | ssl.SSLCertVerificationError)


def _is_refusal(answer: Answer) -> bool:
    """An S3 store's word that it does not take a header, or its value."""
    return answer.status in (400, 501) and bool(answer.code)
