"""One scene of trouble: how it begins and ends, what `status` must say meanwhile, and how little may be asked.

`play` does the same for every scene: a file passes, the trouble begins, files are recorded, the trouble is held and
watched, it ends, and everything must be confirmed and byte for byte in the bucket. The scenes are in the tests.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.fault.fault_table import FaultTable, Line
from tests.fault.field import AnyStore, Field, field_of, until
from tests.servers import MotoS3, RcloneS3, VerifyingS3

#: Sending goes on within 30 s of the end; what was held up must then still be sent, on a shared machine.
RECOVERY_S = 45.0
#: A status must have said what is wrong within this time.
SAID_S = 25.0

Says = Callable[[Mapping[str, Any]], str]
Act = Callable[[Field], None]


def fact(name: str, state: str, *words: str, ok: bool = False) -> Says:
    """A fact of the status, with these words in its reason."""

    def says(status: Mapping[str, Any]) -> str:
        found = status["facts"][name]
        is_it = found["ok"] is ok and found["state"] == state and all(word in found["reason"] for word in words)
        return f"{name}: {found['state']}: {found['reason']}" if is_it else ""

    return says


def complaint(*words: str) -> Says:
    """An entry of `last_errors` with these words: trouble of single files, which is no fact."""

    def says(status: Mapping[str, Any]) -> str:
        reasons = [f"{entry['what']}: {entry['reason']}" for entry in status["last_errors"]]
        return next((reason for reason in reasons if all(word in reason for word in words)), "")

    return says


def nothing(_: Field) -> None:
    """For a trouble that is there from the start, or ends by itself."""


@dataclass(frozen=True)
class Scene:
    """See the module. `most_requests`: while the trouble lasts, beyond the files that pass in spite of it."""

    name: str
    begin: Act
    end: Act
    says: Says | None
    most_requests: int | None = None
    lasts_s: float = 4.0
    kind: str = "verifying"  # or "rclone", "moto"
    files: int = 8
    file_bytes: int = 40_000
    large_bytes: int = 0
    most_ratio: float | None = None
    copies: int = 1
    is_passable: bool = False  # everything is confirmed although the trouble lasts
    is_uncounted: bool = False  # a connection that is refused is seen by nobody
    is_early: bool = False  # the trouble is there before the agent's first request
    shift_s: float = 0.0
    host: str = ""
    upload: Mapping[str, Any] = field(default_factory=dict)
    prepare: Act = nothing
    meanwhile: Act = nothing
    expected: Callable[[Field], dict[str, bytes]] = Field.expected
    check: Act = nothing


def play(scene: Scene, top: str, table: FaultTable, *, servers: Mapping[str, AnyStore]) -> Line:
    """Play one scene, put its line into the table and return it. Raises AssertionError when a promise was broken."""
    try:
        line = _play(scene, top, servers.get(scene.kind))
    except BaseException as error:
        said = str(error).partition("\n")[0][:120]
        table.add(Line(scene.name, scene.kind, f"FAILED: {said}"))
        raise
    table.add(line)
    return line


def _play(scene: Scene, top: str, store: AnyStore | None) -> Line:
    os.makedirs(top, exist_ok=True)
    settings = {"stall_s": 2, "connect_timeout_s": 2, **scene.upload}
    with field_of(top, store, shift_s=scene.shift_s, host=scene.host, upload=settings) as here:
        scene.prepare(here)
        if not scene.is_early:
            here.agent.start()
            here.shoot("before.jpg", scene.file_bytes)
            here.all_confirmed(deadline_s=30, copies=scene.copies)
        sent, asked, begun = here.link.up_bytes, here.requests(), time.monotonic()
        scene.begin(here)
        if scene.is_early:
            here.agent.start()
        recorded = scene.files * scene.file_bytes + scene.large_bytes
        here.shoot_many(scene.files, scene.file_bytes)
        if scene.large_bytes:
            here.shoot("film.mp4", scene.large_bytes)
        said = _watch(scene, here, until_at=begun + scene.lasts_s)
        scene.meanwhile(here)
        if scene.is_passable:
            here.all_confirmed(deadline_s=RECOVERY_S, copies=scene.copies)
        lasted, requests = time.monotonic() - begun, here.requests() - asked
        scene.end(here)
        recovery = here.all_confirmed(deadline_s=RECOVERY_S, copies=scene.copies)
        ratio = (here.link.up_bytes - sent) / (recorded * scene.copies)
        assert here.objects() == scene.expected(here), f"the bucket holds {sorted(here.objects())}"
        if not (scene.is_passable and scene.is_early):  # a wrong clock stays wrong
            until(lambda: bool(here.agent.status()["healthy"]), deadline_s=20, what=here.story)
        scene.check(here)
        assert here.agent.stop() == 0
    if scene.most_requests is not None:
        assert requests <= scene.most_requests, f"{requests} requests in {lasted:.1f} s"
    if scene.most_ratio is not None:
        assert ratio <= scene.most_ratio, f"{ratio:.2f} times the files' bytes went over the link"
    outcome = f"all {len(here.files) * scene.copies} confirmed, byte for byte"
    counted = None if scene.is_uncounted else requests
    return Line(scene.name, _store_name(here.store), outcome, ratio, recovery, counted, lasted, said)


def _watch(scene: Scene, here: Field, *, until_at: float) -> str:
    """Hold the trouble for its time and return what the status said of it. Fails when it never said it."""
    said = ""
    seen: set[str] = set()

    def has_said() -> bool:
        nonlocal said
        status = here.agent.status()
        seen.add(status["reason"])
        said = said or (scene.says(status) if scene.says is not None else "-")
        return bool(said)

    begun = time.monotonic()
    until(has_said, deadline_s=SAID_S, what=lambda: f"status said {sorted(seen)}; {here.story()}", every_s=0.1)
    until(lambda: time.monotonic() >= until_at, deadline_s=max(0.0, until_at - begun) + 5, what="the time passes")
    return said if scene.says is not None else ""


def _store_name(store: AnyStore) -> str:
    return {VerifyingS3: "strict", RcloneS3: "rclone", MotoS3: "moto"}[type(store)]
