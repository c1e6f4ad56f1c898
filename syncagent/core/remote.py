"""What reading from the bucket looks like to those who read: a conditional GET, its status, its bytes as they come."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol, Self

from syncagent.core.errors import Blocked, Transient, Trouble, Untrusted

#: What an answer may mean to the reader; every other status is an error of core/errors.py.
OK, PARTIAL, NOT_MODIFIED, FORBIDDEN, MISSING, CHANGED, OUT_OF_RANGE = 200, 206, 304, 403, 404, 412, 416
#: A small file that takes longer than this is a drip, not an answer.
PATIENCE_S = 300.0


@dataclass(slots=True)
class Got:
    """One answer. Names of headers are in lower case. `chunks` are read to their end, or `drop` is called, as a `with`
    block does at its end."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    chunks: Iterator[bytes] = field(default_factory=lambda: iter(()))
    reason: str = ""  # of a status that is no success, in words
    _drop: Callable[[], None] | None = None

    @property
    def etag(self) -> str:
        """As the store wrote it, quotes and all: it goes back in a condition like that."""
        return self.headers.get("etag", "")

    def drop(self) -> None:
        """End it without reading what is left."""
        if self._drop is not None:
            self._drop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.drop()


class Getter(Protocol):
    """A bucket to read from. `get` raises Transient, Blocked or Stopping, and so does reading the chunks."""

    def get(self, key: str, *, headers: Mapping[str, str] | None = None) -> Got: ...


def read_published(got: Got, key: str, *, allow: str, most_bytes: int, monotonic: Callable[[], float]) -> bytes:
    """All of a small file that somebody must have published. `allow`: what the agent has to be allowed to read.

    Raises: Transient, Blocked, Untrusted, and what reading the chunks raises.
    """
    name = key.rpartition("/")[2]
    pieces, size, until = [], 0, monotonic() + PATIENCE_S
    with got:
        if got.status == FORBIDDEN:
            remedy = f"allow {allow} to the agent's access key"
            raise Blocked(f"{name}: {got.reason}", trouble=Trouble.FORBIDDEN, remedy=remedy)
        if got.status == MISSING:
            raise Blocked(f"nothing is published: there is no {key}", trouble=Trouble.STORE, remedy="publish firmware")
        if got.status != OK:
            raise Transient(f"{name}: the store answered {got.status}", trouble=Trouble.STORE)
        for chunk in got.chunks:
            size += len(chunk)
            if size > most_bytes:
                raise Untrusted(f"{name} is longer than {most_bytes} bytes")
            if monotonic() > until:
                raise Transient(f"{name} did not come within {PATIENCE_S:.0f} s", trouble=Trouble.STALLED)
            pieces.append(chunk)
    return b"".join(pieces)
