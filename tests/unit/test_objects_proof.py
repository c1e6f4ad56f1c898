"""What counts as proof: the whole table."""

from __future__ import annotations

import hashlib

import pytest

from syncagent.core.model import Digest
from syncagent.core.proof import (
    StoreProfile,
    Verdict,
    checksum_header,
    judge_complete,
    judge_part,
    judge_put,
    multipart_etag,
)

DATA = b"a picture"
DIGEST = Digest(hashlib.md5(DATA).digest(), hashlib.sha256(DATA).digest())
OTHER = Digest(hashlib.md5(b"x").digest(), hashlib.sha256(b"x").digest())
MD5 = DIGEST.md5.hex()
PROVED_SUMS = StoreProfile(checksums_proved=True)


@pytest.mark.parametrize(
    ("etag", "checksum", "profile", "verdict"),
    [
        (MD5, None, StoreProfile(), Verdict.PROVED),
        (MD5.upper(), None, StoreProfile(), Verdict.PROVED),
        (MD5, None, StoreProfile(etag_is_md5=False), Verdict.PROVED),
        (OTHER.md5.hex(), None, StoreProfile(), Verdict.READ_BACK),
        (OTHER.md5.hex(), None, StoreProfile(etag_is_md5=True), Verdict.READ_BACK),
        (f"{MD5}-1", None, StoreProfile(), Verdict.READ_BACK),
        ("anything", checksum_header(DIGEST), StoreProfile(), Verdict.READ_BACK),
        ("anything", checksum_header(DIGEST), StoreProfile(checksums_proved=False), Verdict.READ_BACK),
        ("anything", checksum_header(DIGEST), PROVED_SUMS, Verdict.PROVED),
        ("anything", checksum_header(OTHER), PROVED_SUMS, Verdict.READ_BACK),
        (None, checksum_header(DIGEST), PROVED_SUMS, Verdict.PROVED),
        (None, checksum_header(DIGEST), StoreProfile(), Verdict.READ_BACK),
        (None, checksum_header(OTHER), PROVED_SUMS, Verdict.NO_PROOF),
        ("", None, PROVED_SUMS, Verdict.NO_PROOF),
        (None, None, StoreProfile(), Verdict.NO_PROOF),
    ],
)
def test_a_put_is_proved_only_by_our_digest(
    etag: str | None, checksum: str | None, profile: StoreProfile, verdict: Verdict
) -> None:
    assert judge_put(DIGEST, etag=etag, checksum_sha256=checksum, profile=profile) is verdict


@pytest.mark.parametrize(
    ("etag", "profile", "verdict"),
    [
        (MD5, StoreProfile(), Verdict.PROVED),
        (OTHER.md5.hex(), StoreProfile(), Verdict.NO_PROOF),
        ("strange", StoreProfile(), Verdict.NO_PROOF),
        ("strange", StoreProfile(etag_is_md5=True), Verdict.NO_PROOF),
        ("strange", StoreProfile(etag_is_md5=False), Verdict.READ_BACK),
        ("", StoreProfile(etag_is_md5=False), Verdict.NO_PROOF),
    ],
)
def test_a_part_with_a_strange_etag_is_taken_only_from_a_store_known_for_it(
    etag: str, profile: StoreProfile, verdict: Verdict
) -> None:
    assert judge_part(DIGEST, etag=etag, profile=profile) is verdict


def test_a_completion_is_proved_by_the_md5_of_md5s_alone() -> None:
    parts = [MD5, OTHER.md5.hex()]
    right = hashlib.md5(DIGEST.md5 + OTHER.md5).hexdigest() + "-2"
    assert multipart_etag([DIGEST.md5, OTHER.md5]) == right
    assert judge_complete(parts, etag=right, profile=StoreProfile()) is Verdict.PROVED
    assert judge_complete(parts[::-1], etag=right, profile=StoreProfile()) is Verdict.READ_BACK
    assert judge_complete(parts[:1], etag=right, profile=StoreProfile()) is Verdict.READ_BACK
    assert judge_complete(parts, etag="", profile=StoreProfile()) is Verdict.NO_PROOF
    # Where parts were taken without proof, an ETag made of theirs proves nothing.
    assert judge_complete(parts, etag=right, profile=StoreProfile(etag_is_md5=False)) is Verdict.READ_BACK
    assert judge_complete(["strange"], etag="strange-1", profile=StoreProfile()) is Verdict.READ_BACK
    assert judge_complete([], etag=multipart_etag([]), profile=StoreProfile()) is Verdict.READ_BACK


def test_a_profile_survives_json_and_ignores_what_it_does_not_know() -> None:
    profile = StoreProfile(addressing_style="path", etag_is_md5=True, conditional_writes_proved=False)
    assert StoreProfile.from_json(profile.to_json()) == profile
    strange = {"addressing_style": "sideways", "etag_is_md5": "yes", "multipart": True, "colour": "blue"}
    assert StoreProfile.from_json(strange) == StoreProfile(multipart=True)
