"""What one request carries: bytes that are checked on their way out, headers, and the key in its URL.

Promises: the last chunk of a body leaves only if all of it is what was announced, and no header or key can be
anything but itself on the wire. Leaves to others: where the bytes come from.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Protocol
from urllib.parse import quote

from syncagent.core.errors import FileChanged, Refused, Transient, Trouble
from syncagent.core.model import Digest

CHUNK_BYTES = 256 * 1024

_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_HEADER_VALUE = re.compile(r"[\x20-\x7e]*")


class Body(Protocol):
    """Rewindable, sized source of bytes.

    `read` may raise Refused or Stopping; the connection is dropped then, and nothing becomes visible.
    """

    @property
    def size_bytes(self) -> int: ...
    def read(self, n: int = -1, /) -> bytes: ...
    def rewind(self) -> None: ...


class BytesBody:
    """Bytes in memory as a Body: what a probe sends."""

    def __init__(self, data: bytes) -> None:
        self.size_bytes = len(data)
        self._data = data
        self._at = 0

    def read(self, n: int = -1, /) -> bytes:
        end = len(self._data) if n < 0 else min(self._at + n, len(self._data))
        data, self._at = self._data[self._at : end], end
        return data

    def rewind(self) -> None:
        self._at = 0


def verified_chunks(body: Body, digest: Digest) -> Iterator[bytes]:
    """The body from its beginning; the last chunk comes only if all of it was what `digest` says.

    MD5, not SHA-256: this guards against a writer that comes back, not against a forger, on a board without
    instructions for either; the store checks the SHA-256 that the signature covers.
    """
    body.rewind()
    if getattr(body, "digest", None) == digest:
        # Bytes in memory that were hashed as they are: they cannot have changed since.
        yield body.read()
        return
    md5 = hashlib.md5(usedforsecurity=False)
    left_bytes = body.size_bytes
    held = b""
    while left_bytes > 0:
        chunk = body.read(min(CHUNK_BYTES, left_bytes))
        if not chunk:
            raise FileChanged(f"the file is {left_bytes} bytes shorter than it was")
        md5.update(chunk)
        left_bytes -= len(chunk)
        if held:
            yield held
        held = chunk
    if left_bytes < 0 or body.read(1):
        raise FileChanged("the file is longer than it was")
    if md5.digest() != digest.md5:
        raise FileChanged("the file's bytes are not those that were recorded")
    if held:
        yield held


def is_copy(chunks: Iterable[bytes], digest: Digest, *, size_bytes: int) -> bool:
    """Whether what a store gives back is what `digest` says."""
    sha256, got_bytes = hashlib.sha256(), 0
    for chunk in chunks:
        sha256.update(chunk)
        got_bytes += len(chunk)
        if got_bytes > size_bytes:
            break
    return got_bytes == size_bytes and sha256.digest() == digest.sha256


def verify_copy(chunks: Iterable[bytes], digest: Digest, *, size_bytes: int) -> None:
    """Raises Transient(STORE) unless what a store gives back is what `digest` says."""
    if not is_copy(chunks, digest, size_bytes=size_bytes):
        raise Transient("the store gives back other bytes than we sent", trouble=Trouble.STORE)


def object_headers(metadata: Mapping[str, str], *, content_type: str, storage_class: str | None) -> dict[str, str]:
    """The headers that describe an object; Refused where one could not be sent as it is."""
    headers = {f"x-amz-meta-{name}": value for name, value in metadata.items()}
    headers["Content-Type"] = content_type
    if storage_class is not None:
        headers["x-amz-storage-class"] = storage_class
    for name, value in headers.items():
        # A line break here would be a header of its own.
        if not _HEADER_NAME.fullmatch(name) or not _HEADER_VALUE.fullmatch(value):
            raise Refused(f"{name} cannot be sent: only printable ASCII can")
    return headers


def quote_key(key: str) -> str:
    """The key as it stands in a URL: percent-encoded once, slashes left alone."""
    try:
        return quote(key, safe="/~")
    except UnicodeEncodeError as error:
        raise Refused("the key is not UTF-8") from error
