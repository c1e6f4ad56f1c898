"""What is asked of an object store, and by what it is reached: the words between workers and `S3Store`.

Values and protocols, so that they cost nothing to import. What an operation promises stands with `S3Store`
(edges/objects.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from syncagent.core.model import Digest, ObjectFacts, Part
from syncagent.core.proof import StoreProfile
from syncagent.edges.payload import Body


@dataclass(frozen=True, slots=True)
class PutRequest:
    """One object to put. Where the store can tell, KeyTaken is raised with `only_if_absent` by an occupied key, and
    with `only_if_match` (an ETag) by a key that holds, or lacks, another object than that."""

    key: str
    digest: Digest
    metadata: Mapping[str, str]
    content_type: str
    storage_class: str | None = None
    only_if_absent: bool = False
    only_if_match: str | None = None

    @property
    def is_conditional(self) -> bool:
        return self.only_if_absent or self.only_if_match is not None


@dataclass(frozen=True, slots=True)
class StoreSettings:
    """How to reach one bucket. Without keys boto3's chain finds them; without a region, its configuration."""

    bucket: str
    endpoint_url: str | None = None
    region: str | None = None
    access_key_id: str | None = field(default=None, repr=False)
    secret_access_key: str | None = field(default=None, repr=False)
    addressing_style: str = "auto"  # "auto", "path" or "virtual"
    connect_timeout_s: float = 10.0
    stall_s: float = 30.0
    max_connections: int = 8  # that are kept open between requests
    reads_back: bool = False  # prove every object by a GET, whatever the answer to its PUT says
    page_keys: int = 1000


class MultipartStore(Protocol):
    """What a large file needs of a bucket."""

    def create_multipart(
        self, key: str, *, metadata: Mapping[str, str], content_type: str, storage_class: str | None = None
    ) -> str: ...
    def put_part(self, key: str, *, upload_id: str, number: int, body: Body, digest: Digest) -> Part: ...
    def list_parts(self, key: str, *, upload_id: str) -> list[Part]: ...
    def complete(
        self,
        key: str,
        *,
        upload_id: str,
        parts: Sequence[Part],
        only_if_absent: bool = False,
        digest: Digest | None = None,
    ) -> str: ...
    def abort(self, key: str, *, upload_id: str) -> None: ...
    def head(self, key: str) -> ObjectFacts | None: ...
    def read(self, key: str) -> Iterator[bytes]: ...


class ObjectStore(MultipartStore, Protocol):
    """What the workers need of a bucket."""

    def put(self, request: PutRequest, body: Body) -> str: ...
    def list(self, prefix: str) -> Iterator[ObjectFacts]: ...
    def close(self) -> None: ...


def style_of(settings: StoreSettings, profile: StoreProfile) -> str:
    """How to address the bucket: as the owner says, as it worked before, else "auto" as botocore means it."""
    style = settings.addressing_style
    if style == "auto":
        style = profile.addressing_style or style
    # A store of one's own seldom has a name per bucket; one with dots does not match a certificate.
    if style == "auto" and (settings.endpoint_url or "." in settings.bucket):
        style = "path"
    return style
