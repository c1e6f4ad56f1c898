"""A device in the field: an agent in a process of its own, a scripted link, a store behind it, and what was recorded.

Owns all three for one test. What the store holds is asked of the store; what went over the link, of the link.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.fault.warped import WarpedAgent
from tests.proxy import Proxy
from tests.servers import MotoS3, RcloneS3, VerifyingS3

AnyStore = VerifyingS3 | RcloneS3 | MotoS3

#: Keys of the agent's own objects hold this segment.
CORNER = "/.syncagent/"
#: The receive buffer of the link: small, so that its pace, and not memory, decides what was acknowledged.
BUFFER_BYTES = 4096

_numbers = itertools.count(1)


def until(
    condition: Callable[[], bool], *, deadline_s: float, what: str | Callable[[], str], every_s: float = 0.05
) -> float:
    """Wait for a condition and return the seconds it took; AssertionError when it never held."""
    begun = time.monotonic()
    while not condition():
        if time.monotonic() - begun > deadline_s:
            said = what if isinstance(what, str) else what()
            raise AssertionError(f"not within {deadline_s:g} s: {said}")
        time.sleep(every_s)
    return time.monotonic() - begun


@dataclass
class Field:
    """See the module. `files`: what was recorded, by its path below the watched directory."""

    agent: WarpedAgent
    link: Proxy
    store: AnyStore
    bucket: str
    files: dict[str, bytes] = field(default_factory=dict)
    _source: random.Random = field(default_factory=lambda: random.Random(1))

    @property
    def strict(self) -> VerifyingS3:
        """The store, where a scene scripts its answers."""
        assert isinstance(self.store, VerifyingS3)
        return self.store

    def shoot(self, name: str, size_bytes: int) -> bytes:
        """Record one file."""
        content = self.files[name] = self._source.randbytes(size_bytes)
        self.agent.write(name, content)
        return content

    def shoot_many(self, count: int, size_bytes: int, *, prefix: str = "img") -> list[str]:
        names = [f"{prefix}_{number:04d}.jpg" for number in range(1, count + 1)]
        for name in names:
            self.shoot(name, size_bytes)
        return names

    def objects(self) -> dict[str, bytes]:
        """Every object that is no object of the agent's own corner."""
        return {key: body for key, body in self._all_objects().items() if CORNER not in f"/{key}"}

    def _all_objects(self) -> dict[str, bytes]:
        if isinstance(self.store, VerifyingS3):
            return self.store.objects()
        if isinstance(self.store, RcloneS3):
            found = {}
            for key, path in self.store.files(self.bucket):
                with contextlib.suppress(FileNotFoundError), open(path, "rb") as file:
                    found[key] = file.read()
            return found
        client = self.store.client()
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket)
        keys = [item["Key"] for page in pages for item in page.get("Contents", [])]
        return {key: client.get_object(Bucket=self.bucket, Key=key)["Body"].read() for key in keys}

    def expected(self) -> dict[str, bytes]:
        """What the bucket should hold: every file under its own name."""
        return {self.agent.key(name): content for name, content in self.files.items()}

    def requests(self) -> int:
        """Requests so far: as the store counted them, or as many as connections that never got that far."""
        if isinstance(self.store, VerifyingS3):
            return max(len(self.store.history), len(self.link.connections))
        return max(self.link.exchanges, len(self.link.connections))

    def fact(self, name: str) -> dict[str, Any]:
        return dict(self.agent.status()["facts"][name])

    def confirmed(self) -> int:
        return self.agent.count("confirmed")

    def all_confirmed(self, *, deadline_s: float, copies: int = 1) -> float:
        """Wait until the agent says that every file was confirmed; the seconds it took."""
        wanted = copies * len(self.files)
        return until(lambda: self.confirmed() == wanted, deadline_s=deadline_s, what=self.story, every_s=0.1)

    def story(self) -> str:
        """What a failed test should show."""
        try:
            status = self.agent.status()
        except AssertionError as error:
            return str(error)
        queue = {state: entry for state, entry in status["queue"].items() if entry["files"]}
        return f"all {len(self.files)} files confirmed: {queue}, {status['reason']}\n{self.agent.log()[-2500:]}"


@contextmanager
def field_of(
    top: str,
    store: AnyStore | None = None,
    *,
    shift_s: float = 0.0,
    host: str = "",
    buffer_bytes: int = BUFFER_BYTES,
    upload: Mapping[str, Any] | None = None,
    carrier: Mapping[str, Any] | None = None,
) -> Iterator[Field]:
    """A field whose agent is configured and not started. Without a store, a strict one of its own.

    `host` is the name that the endpoint has instead of an address; it resolves as the file `hosts` in `top` says.
    """
    with ExitStack() as stack:
        store = store if store is not None else stack.enter_context(VerifyingS3())
        bucket = "bucket"
        if not isinstance(store, VerifyingS3):
            bucket = f"field-{next(_numbers)}"
            store.client().create_bucket(Bucket=bucket)
        link = stack.enter_context(Proxy(store.endpoint_url, receive_buffer_bytes=buffer_bytes))
        agent = WarpedAgent(top, shift_s=shift_s, hosts=os.path.join(top, "hosts") if host else "")
        stack.enter_context(agent)
        endpoint_url = link.endpoint_url.replace("127.0.0.1", host or "127.0.0.1")
        agent.configure(endpoint_url, bucket=bucket, upload=upload, carrier=carrier)
        field = Field(agent, link, store, bucket)
        if host:
            name_resolves(field, host)
        yield field


def name_resolves(field: Field, host: str, *, is_there: bool = True) -> None:
    """Whether a name exists, from now on."""
    with open(field.agent.hosts, "w") as file:
        file.write(f"{host} 127.0.0.1\n" if is_there else "")
