"""Firmware releases: how far each got, and what is remembered of the channel they come from."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from syncagent.core.release import IN_USE, MAX_TRANSITIONS, MOVES, Phase

from .base import JournalBase

_COLUMNS = (
    "id, component, release, identity, key, length, sha256, manifest, is_signed, phase, reason, transitions, etag,"
    " spent, basis, is_retryable, changed_at, activated_at, is_receipted, is_hooked, is_kept"
)
_NAMES = tuple(_COLUMNS.replace(" ", "").split(","))
_KINDS: Mapping[str, Callable[[Any], Any]] = {"phase": Phase, **{n: bool for n in _NAMES if n.startswith("is_")}}
#: Releases of one component that are remembered; the current one and those that are kept always are.
MAX_RELEASES = 50


@dataclass(frozen=True, slots=True)
class Release:
    """One release of one component. `manifest` is its custom object, as JSON; times are UTC, in seconds since 1970."""

    id: int
    component: str
    name: str
    identity: str  # of its bytes: the SHA-256, or, where nobody said one, its manifest's
    key: str
    length: int | None
    sha256: str | None
    manifest: str
    is_signed: bool
    phase: Phase
    reason: str
    transitions: int
    etag: str
    spent_bytes: int
    basis: str  # what the metadata was when it failed: it is tried again when that has changed
    is_retryable: bool
    changed_at: float
    activated_at: float | None
    is_receipted: bool  # its receipt is in the inbox, or it wants none
    is_hooked: bool  # the hooks after its activation have ended
    is_kept: bool  # its bytes are still on the disk


@dataclass(frozen=True, slots=True)
class Step:
    """One transition. `at` is UTC, in seconds since 1970."""

    release: str
    phase: Phase
    reason: str
    at: float


def _same(value: Any) -> Any:
    return value


class Releases(JournalBase):
    """The firmware's part of the journal. Everything that changes a release is durable, but for `note_download`."""

    def release_of(self, component: str, name: str, identity: str) -> Release | None:
        found = self._releases(
            "component = ? AND release = ? AND identity = ? ORDER BY id DESC LIMIT 1", (component, name, identity)
        )
        return found[0] if found else None

    def firmware_release(self, release_id: int) -> Release:
        return self._releases("id = ?", (release_id,))[0]

    def releases(self, component: str) -> list[Release]:
        """All that are remembered, the newest first."""
        return self._releases("component = ? ORDER BY id DESC", (component,))

    def kept_releases(self, component: str) -> list[Release]:
        """Those in use, or before, whose bytes are still on the disk, the one that was activated last first.

        By the order of what happened, not by its times: a board without a clock may have lived in 1970 meanwhile.
        """
        phases = ", ".join(f"'{phase}'" for phase in sorted(IN_USE))
        return self._releases(
            f"component = ? AND is_kept AND phase IN ({phases})"
            " ORDER BY (SELECT MAX(s.id) FROM firmware_step s WHERE s.release = firmware_release.id"
            f" AND s.phase = '{Phase.ACTIVATED}') DESC, id DESC",
            (component,),
        )

    def current_release(self, component: str) -> Release | None:
        """The one whose bytes are in use."""
        found = self._releases(
            "id = (SELECT release FROM firmware_component WHERE component = ?1) AND component = ?1", (component,)
        )
        return found[0] if found else None

    def offer_release(
        self,
        component: str,
        name: str,
        identity: str,
        *,
        key: str,
        length: int | None,
        sha256: str | None,
        manifest: str,
        is_signed: bool,
        phase: Phase,
        reason: str,
    ) -> Release:
        """Remember a release that was never seen before."""

        def apply(connection: sqlite3.Connection) -> int:
            at = self._clock.now().timestamp()
            (release_id,) = connection.execute(
                "INSERT INTO firmware_release(component, release, identity, key, length, sha256, manifest, is_signed,"
                " phase, reason, transitions, changed_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 1, ?) RETURNING id",
                (component, name, identity, key, length, sha256, manifest, is_signed, phase, reason, at),
            ).fetchone()
            self._step(connection, release_id, phase, reason, at)
            self._prune(connection, component)
            return int(release_id)

        return self.firmware_release(self._write(apply, durable=True))

    def move_release(self, release: Release, phase: Phase, reason: str = "", **values: Any) -> Release:
        """The next phase of a release; after too many it has FAILED for good, whatever was asked.

        `values` are columns to set in the same transaction; `is_current` among them says that its bytes are the ones in
        use now. A move that MOVES does not have is a bug: ValueError.
        """
        is_current = values.pop("is_current", False)

        def apply(connection: sqlite3.Connection) -> None:
            old, transitions = connection.execute(
                "SELECT phase, transitions FROM firmware_release WHERE id = ?", (release.id,)
            ).fetchone()
            chosen, words, more = phase, reason, dict(values)
            if phase is not Phase(old):
                if phase not in MOVES.get(Phase(old), frozenset()):
                    raise ValueError(f"release {release.name} cannot go from {old} to {phase}")
                # What is on the disk already may end as it must: a count does not undo it.
                if transitions >= MAX_TRANSITIONS and Phase(old) not in IN_USE and phase is not Phase.ACTIVATED:
                    chosen, words, more = Phase.FAILED, "loop", {"is_retryable": False, "basis": ""}
            at = self._clock.now().timestamp()
            more |= {"phase": chosen, "reason": words}
            if chosen is not Phase(old):
                more |= {"changed_at": at, "transitions": transitions + 1}
                self._step(connection, release.id, chosen, words, at)
            names = ", ".join(f"{name} = ?" for name in more)
            connection.execute(f"UPDATE firmware_release SET {names} WHERE id = ?", (*more.values(), release.id))
            if is_current:
                self._make_current(connection, release.component, release.id)

        self._write(apply, durable=True)
        return self.firmware_release(release.id)

    def amend_release(self, release: Release, *, manifest: str, key: str) -> Release:
        """What is signed of a release is another now; how far it got is not."""

        def apply(connection: sqlite3.Connection) -> None:
            connection.execute(
                "UPDATE firmware_release SET manifest = ?, key = ? WHERE id = ?", (manifest, key, release.id)
            )

        self._write(apply, durable=True)
        return self.firmware_release(release.id)

    def roll_back_release(self, bad: Release, good: Release | None, reason: str) -> None:
        """`good` is in use again instead of `bad`."""

        def apply(connection: sqlite3.Connection) -> None:
            at = self._clock.now().timestamp()
            connection.execute(
                "UPDATE firmware_release SET phase = ?, reason = ?, changed_at = ?, transitions = transitions + 1,"
                " is_hooked = 1, is_kept = 0 WHERE id = ?",
                (Phase.ROLLED_BACK, reason, at, bad.id),
            )
            self._step(connection, bad.id, Phase.ROLLED_BACK, reason, at)
            self._make_current(connection, bad.component, good.id if good else None)
            connection.execute("UPDATE firmware_component SET intent = NULL WHERE component = ?", (bad.component,))

        self._write(apply, durable=True)

    def note_download(self, release: Release, *, etag: str, spent_bytes: int) -> None:
        """Not durable: what a power cut takes of it is spent again."""
        self._write(
            lambda connection: connection.execute(
                "UPDATE firmware_release SET etag = ?, spent = ? WHERE id = ?", (etag, spent_bytes, release.id)
            )
        )

    def mark_release(self, release: Release, **flags: bool) -> None:
        """Set what is not a transition: is_receipted, is_hooked, is_kept."""
        names = ", ".join(f"{name} = ?" for name in flags)

        def apply(connection: sqlite3.Connection) -> None:
            connection.execute(f"UPDATE firmware_release SET {names} WHERE id = ?", (*flags.values(), release.id))

        self._write(apply, durable=True)

    def rollback_intent(self, component: str) -> tuple[int, int | None, str] | None:
        """(bad release, good release, why) of a rollback that has begun."""
        text = self._component(component, "intent")
        if text is None:
            return None
        bad, good, reason = json.loads(text)
        return int(bad), good, str(reason)

    def end_rollback(self, component: str) -> None:
        """Nothing comes of a rollback that has begun."""
        self._set_component(component, "intent", None)

    def intend_rollback(self, bad: Release, good: Release | None, reason: str) -> None:
        self._set_component(bad.component, "intent", json.dumps([bad.id, good.id if good else None, reason]))

    def firmware_memory(self, component: str, source: str) -> str | None:
        """What is remembered of a channel; None when it was another source."""
        rows = self._read(
            "SELECT memory FROM firmware_component WHERE component = ? AND source = ?", (component, source)
        )
        return str(rows[0][0]) if rows and rows[0][0] is not None else None

    def remember_firmware(self, component: str, source: str, memory: str) -> None:
        """Durable: high-water marks that a power cut forgets are none."""

        def apply(connection: sqlite3.Connection) -> None:
            connection.execute(
                "INSERT INTO firmware_component(component, source, memory) VALUES (?1, ?2, ?3)"
                " ON CONFLICT(component) DO UPDATE SET source = ?2, memory = ?3",
                (component, source, memory),
            )

        self._write(apply, durable=True)

    def security_version(self, component: str) -> int:
        """The highest that was accepted, from whatever source."""
        return int(self._component(component, "security_version") or 0)

    def raise_security_version(self, component: str, version: int) -> None:
        if version > self.security_version(component):
            self._set_component(component, "security_version", version)

    def firmware_face(self, component: str) -> dict[str, Any] | None:
        """What `status` shows of a component."""
        text = self._component(component, "face")
        face: dict[str, Any] | None = json.loads(text) if text is not None else None
        return face

    def set_firmware_face(self, component: str, face: dict[str, Any]) -> None:
        """Written only when it changed: an idle agent writes nothing."""
        if face != self.firmware_face(component):
            self._set_component(component, "face", json.dumps(face, sort_keys=True))

    def firmware_steps(self, component: str, *, limit: int = 200) -> list[Step]:
        """What happened, the newest first."""
        rows = self._read(
            "SELECT r.release, s.phase, s.reason, s.at FROM firmware_step s JOIN firmware_release r ON r.id = s.release"
            " WHERE r.component = ? ORDER BY s.id DESC LIMIT ?",
            (component, limit),
        )
        return [Step(name, Phase(phase), reason, at) for name, phase, reason, at in rows]

    # -- steps --------------------------------------------------------------------------------------------------------

    def _releases(self, where: str, values: Sequence[object]) -> list[Release]:
        rows = self._read(f"SELECT {_COLUMNS} FROM firmware_release WHERE {where}", values)
        return [
            Release(*(_KINDS.get(name, _same)(value) for name, value in zip(_NAMES, row, strict=True))) for row in rows
        ]

    def _step(self, connection: sqlite3.Connection, release_id: int, phase: Phase, reason: str, at: float) -> None:
        connection.execute(
            "INSERT INTO firmware_step(release, phase, reason, at) VALUES (?, ?, ?, ?)", (release_id, phase, reason, at)
        )

    def _make_current(self, connection: sqlite3.Connection, component: str, release_id: int | None) -> None:
        connection.execute(
            "INSERT INTO firmware_component(component, release) VALUES (?1, ?2)"
            " ON CONFLICT(component) DO UPDATE SET release = ?2",
            (component, release_id),
        )

    def _prune(self, connection: sqlite3.Connection, component: str) -> None:
        old = connection.execute(
            "SELECT id FROM firmware_release WHERE component = ?1 AND NOT is_kept"
            " AND id NOT IN (SELECT id FROM firmware_release WHERE component = ?1 ORDER BY id DESC LIMIT ?2)"
            " AND id IS NOT (SELECT release FROM firmware_component WHERE component = ?1)",
            (component, MAX_RELEASES),
        ).fetchall()
        for row in old:
            connection.execute("DELETE FROM firmware_step WHERE release = ?", row)
            connection.execute("DELETE FROM firmware_release WHERE id = ?", row)

    def _component(self, component: str, column: str) -> Any:
        rows = self._read(f"SELECT {column} FROM firmware_component WHERE component = ?", (component,))
        return rows[0][0] if rows else None

    def _set_component(self, component: str, column: str, value: object) -> None:
        def apply(connection: sqlite3.Connection) -> None:
            connection.execute(
                f"INSERT INTO firmware_component(component, {column}) VALUES (?1, ?2)"
                f" ON CONFLICT(component) DO UPDATE SET {column} = ?2",
                (component, value),
            )

        self._write(apply, durable=True)
