"""What counts as proof that a store holds our bytes, and what is known of a store.

Promises: a verdict depends on its arguments only, and an answer is never taken for proof because it came with
status 200. Leaves to others: reading back what could not be proved from the answer (edges/objects.py), and
finding out what a store can do (its probes).
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from enum import StrEnum

from syncagent.core.model import Digest

_MD5_HEX = re.compile(r"[0-9a-f]{32}")


class Verdict(StrEnum):
    """What an answer proves of the bytes that were sent."""

    PROVED = "proved"  # the store said our digest
    READ_BACK = "read back"  # a store answered, but what it said is not our digest: only a GET can tell
    NO_PROOF = "no proof"  # no S3 store answers like this: nothing was stored, as far as we know


@dataclass(frozen=True, slots=True)
class StoreProfile:
    """What is known of one store; None is unknown. Kept in the journal, found out by probes and by use."""

    addressing_style: str | None = None  # "path" or "virtual"
    etag_is_md5: bool | None = None  # False where objects are encrypted with the store's own keys
    checksums_proved: bool | None = None  # it refused a deliberately wrong x-amz-checksum-sha256
    conditional_writes_proved: bool | None = None  # a second `If-None-Match: *` was answered with 412
    multipart: bool | None = None
    list_parts: bool | None = None

    def to_json(self) -> dict[str, str | bool | None]:
        """A dictionary of plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, object]) -> StoreProfile:
        """Take what is well-formed; the rest stays unknown: that costs a probe, a wrong fact a file."""
        known: dict[str, str | bool | None] = {}
        for field in fields(cls):
            value = values.get(field.name)
            if field.name == "addressing_style":
                if value in ("path", "virtual"):
                    known[field.name] = str(value)
            elif isinstance(value, bool):
                known[field.name] = value
        return cls(**known)  # type: ignore[arg-type]  # checked field by field above


def is_md5_hex(etag: str) -> bool:
    """Whether an ETag (without quotes) has the form of an MD5."""
    return _MD5_HEX.fullmatch(etag.lower()) is not None


def checksum_header(digest: Digest) -> str:
    """The value of `x-amz-checksum-sha256`."""
    return base64.b64encode(digest.sha256).decode("ascii")


def judge_put(digest: Digest, *, etag: str | None, checksum_sha256: str | None, profile: StoreProfile) -> Verdict:
    """What the answer to a single PUT proves. `etag` is without quotes."""
    if etag and etag.lower() == digest.md5.hex():
        return Verdict.PROVED
    checksum_is_ours = checksum_sha256 == checksum_header(digest)
    # Some stores echo the header without looking at the bytes: it counts only after a wrong one was refused.
    if checksum_is_ours and profile.checksums_proved:
        return Verdict.PROVED
    # An ETag of MD5's form may be that of encrypted bytes (SSE-KMS), so that a difference alone proves no
    # harm.
    return Verdict.READ_BACK if etag or checksum_is_ours else Verdict.NO_PROOF


def judge_part(digest: Digest, *, etag: str | None, profile: StoreProfile) -> Verdict:
    """What the answer to one part proves; READ_BACK: only the whole object can be read back."""
    if not etag:
        return Verdict.NO_PROOF
    if etag.lower() == digest.md5.hex():
        return Verdict.PROVED
    # Unless the store is known to make ETags of something else, a strange one is taken for damage:
    # `judge_complete` computes with the ETags of parts, and must never compute with one that is not our MD5.
    return Verdict.READ_BACK if profile.etag_is_md5 is False else Verdict.NO_PROOF


def multipart_etag(part_md5s: Sequence[bytes]) -> str:
    """The ETag that S3 gives a multipart object: MD5 of the parts' MD5s, and how many there are."""
    return f"{hashlib.md5(b''.join(part_md5s), usedforsecurity=False).hexdigest()}-{len(part_md5s)}"


def judge_complete(part_etags: Sequence[str], *, etag: str | None, profile: StoreProfile) -> Verdict:
    """What the answer to a completion proves, given the ETags of parts that were proved one by one."""
    if not etag:
        return Verdict.NO_PROOF
    are_md5s = bool(part_etags) and profile.etag_is_md5 is not False and all(is_md5_hex(each) for each in part_etags)
    if are_md5s and etag.lower() == multipart_etag([bytes.fromhex(each) for each in part_etags]):
        return Verdict.PROVED
    return Verdict.READ_BACK
