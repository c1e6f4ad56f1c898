"""What the bucket offers a component, and what is to be made of it.

Owns the order of judgement: signature and age first (edges/trust.py), then the manifest's form (core/manifest.py),
then whether it is for this device and whether its turn has come (core/release.py). Everything that is learnt is in the
journal before anybody acts on it. Leaves to others: the image (docks/installer.py), and when to look.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Protocol

from syncagent import __version__
from syncagent.core.board import Fact
from syncagent.core.errors import Blocked, Refused, Stale, Transient, Trouble, Untrusted
from syncagent.core.keys import check_cloud_path
from syncagent.core.manifest import (
    MAX_UNSIGNED_BYTES,
    UNSIGNED_NAME,
    Manifest,
    image_name,
    parse_manifest,
    parse_unsigned,
    time_text,
)
from syncagent.core.release import (
    IN_USE,
    MAX_TRANSITIONS,
    UNDER_WAY,
    Device,
    Memory,
    Phase,
    Target,
    Trusted,
    component_of,
    decide,
)
from syncagent.core.remote import NOT_MODIFIED, Getter, read_published
from syncagent.core.settings import Carrier
from syncagent.docks.highwater import HighWater
from syncagent.edges.clock import Clock
from syncagent.edges.journal import Journal, Release

logger = logging.getLogger(__name__)

#: Without a condition at least so often, so that a new root is noticed that no new timestamp came with.
FULL_EVERY_S = 86_400.0
UNSIGNED = "unsigned"
#: Sooner than this before metadata expires somebody should have signed it anew.
WARN = timedelta(days=7)
_LOUD = "firmware.allow_unsigned is on: images are taken without a signature"
_TROUBLES = frozenset({Phase.STALE, Phase.REJECTED, Phase.FAILED, Phase.ROLLED_BACK})


class Truster(Protocol):
    """edges.trust.Trust; that module is loaded only where firmware is wanted."""

    def poll(
        self, memory: Memory, *, reference: datetime, wall: datetime, is_full: bool
    ) -> tuple[str, Trusted] | None: ...


@dataclass(frozen=True, slots=True)
class Look:
    """What a look at the bucket led to. With AVAILABLE the release is to be installed."""

    phase: Phase
    reason: str = ""
    release: Release | None = None
    due: datetime | None = None  # when a DEFERRED release's wave begins
    basis: str = ""  # what the metadata was: a failure that is not retryable ends when it has changed
    warning: str = ""  # what will be a trouble if nobody acts


@dataclass(frozen=True, slots=True)
class _Offer:
    manifest: Manifest
    text: str  # the manifest, as the journal keeps it
    identity: str
    key: str
    length: int | None
    sha256: str | None
    basis: str


class Channel:
    """See the module. For one component, in the hands of one thread at a time."""

    def __init__(
        self,
        carrier: Carrier,
        *,
        system_id: str,
        journal: Journal,
        getter: Getter,
        clock: Clock,
        trust: Truster | None,
        high_water: HighWater,
        why_untrusted: str,
        is_synchronised: Callable[[], bool],
        lower_bound: Callable[[], datetime | None] = lambda: None,
    ) -> None:
        """`trust`: None where no root is configured, or where it cannot be used, as `why_untrusted` says then, and what
        to do. The source of `high_water` names store, path, channel and root of trust: what is remembered of another
        does not count."""
        self.component = component_of(carrier)
        self._carrier = carrier
        self._system_id = system_id
        self._journal = journal
        self._getter = getter
        self._clock = clock
        self._trust = trust
        self._high_water = high_water
        self._why_untrusted = why_untrusted
        self._is_synchronised = is_synchronised
        self._lower_bound = lower_bound  # what a real-time clock says while nobody knows the time

    def look(self, *, is_full: bool = False, is_urgent: bool = False) -> Look:
        """Look once. `is_urgent`: a person asks, and neither a wave nor, after a failure, other metadata is waited for.

        Raises: Transient, Blocked, Stopping.
        """
        memory = self._high_water.memory()
        try:
            if self._trust is not None:
                memory = self._verified(self._trust, memory, is_full=is_full)
            elif self._why_untrusted or not self._carrier.firmware.allow_unsigned:
                # A root that cannot be used is never an excuse to do without one.
                raise Blocked(self._why_untrusted or "no root of trust", trouble=Trouble.CREDENTIALS)
            else:
                memory = self._unverified(memory, is_full=is_full)
        except Stale as error:
            return Look(Phase.STALE, f"{error}; {self._clock_words(memory)}; nothing new is installed")
        except Untrusted as error:
            return Look(Phase.REJECTED, f"verification failed: {error}")
        return replace(self._judged(memory, is_urgent=is_urgent), warning=self._expires_soon(memory))

    def _judged(self, memory: Memory, *, is_urgent: bool) -> Look:
        if memory.target is None:
            self._drop_others(None, "withdrawn")
            return Look(Phase.UNCHANGED, "nothing is offered", self._journal.current_release(self.component))
        try:
            offer = self._offer_of(memory, memory.target)
        except Refused as error:
            self._drop_others(None, "withdrawn")
            return Look(Phase.REJECTED, f"the manifest: {error}")
        return self._judge(offer, memory, is_urgent=is_urgent)

    def _expires_soon(self, memory: Memory) -> str:
        role = memory.expired(self.reference(memory) + WARN)
        if not role:
            return ""
        return f"the {role}'s time is over on {memory.expires[role]:%Y-%m-%d}: the publisher has to renew it"

    def reference(self, memory: Memory) -> datetime:
        """The time to judge expiry by: never below what a verified timestamp said, less the owner's grace."""
        return self._less_grace(memory.floor.reference(self._now()))

    def _now(self) -> datetime:
        return self._at_least(self._clock.now())

    def _at_least(self, now: datetime) -> datetime:
        least = self._lower_bound()
        return now if least is None else max(now, least)

    def _less_grace(self, moment: datetime) -> datetime:
        return moment - timedelta(days=self._carrier.firmware.expiry_grace_days)

    def _clock_words(self, memory: Memory) -> str:
        """What the clock says, and what was believed instead of it."""
        is_synchronised = "synchronised" if self._is_synchronised() else "not synchronised"
        clock = self._clock.now()
        now = self._at_least(clock)  # not another look at the clock, which goes on and would seem to be a better one
        words = f"the clock says {clock:%Y-%m-%d} and is {is_synchronised}"
        reference = memory.floor.reference(now)
        if reference > now:
            return f"{words}, a verified timestamp says {reference:%Y-%m-%d}"
        return f"{words}, a real-time clock says {now:%Y-%m-%d}" if now > clock else words

    # -- what is believed ---------------------------------------------------------------------------------------------

    def _verified(self, trust: Truster, memory: Memory, *, is_full: bool) -> Memory:
        """What verified metadata says, by now. Raises: Stale, Untrusted, Transient, Blocked."""
        reference = self.reference(memory)
        age_s = self._journal.time() - memory.refreshed_at
        is_due = not memory.expires or not 0 <= age_s < FULL_EVERY_S
        wall = self._less_grace(self._now())
        news = trust.poll(memory, reference=reference, wall=wall, is_full=is_full or is_due)
        if news is None:
            self._high_water.keep(memory)
            role = memory.expired(reference)
            if role:
                raise Stale(f"the {role}'s time was over on {time_text(memory.expires[role])}", role=role)
            return memory
        etag, trusted = news
        memory = Memory(
            etag=etag,
            refreshed_at=self._journal.time(),
            marks=memory.marks.raised(trusted.marks),
            floor=memory.floor.raised(
                trusted.issued, expires=trusted.expires["timestamp"], keys=trusted.timestamp_keys
            ),
            expires=trusted.expires,
            target=trusted.target,
        )
        self._high_water.remember(memory)
        return memory

    def _unverified(self, memory: Memory, *, is_full: bool) -> Memory:
        """What the unsigned manifest says, by now. Raises: Untrusted, Transient, Blocked."""
        key = "/".join(part for part in (self._carrier.path, UNSIGNED_NAME) if part)
        condition = {"If-None-Match": memory.etag} if memory.etag and not is_full else {}
        got = self._getter.get(key, headers=condition)
        if got.status == NOT_MODIFIED and condition:
            return memory
        data = read_published(got, key, allow=key, most_bytes=MAX_UNSIGNED_BYTES, monotonic=self._clock.monotonic)
        text = data.decode("utf-8", "replace")
        digest = hashlib.sha256(text.encode()).hexdigest()
        memory = replace(memory, etag=got.etag, target=Target(0, digest, text, UNSIGNED))
        self._high_water.remember(memory)
        return memory

    # -- what is made of it -------------------------------------------------------------------------------------------

    def _offer_of(self, memory: Memory, target: Target) -> _Offer:
        """Raises: Refused."""
        carrier = self._carrier
        if target.path == UNSIGNED:
            manifest = parse_unsigned(target.custom.encode(), component=self.component)
            key = check_cloud_path(manifest.cloud_path or "")
            identity = manifest.sha256 or f"manifest-{target.sha256}"
            return _Offer(manifest, target.custom, identity, key, None, manifest.sha256, memory.etag)
        manifest = parse_manifest(target.custom)
        name = image_name(carrier.firmware.channel, self.component, target.sha256)
        key = "/".join(part for part in (carrier.path, "targets", name) if part)
        basis = f"timestamp {memory.marks.versions.get('timestamp', 0)}"
        text = json.dumps(target.custom, sort_keys=True)
        return _Offer(manifest, text, target.sha256, key, target.length, target.sha256, basis)

    def _judge(self, offer: _Offer, memory: Memory, *, is_urgent: bool) -> Look:
        journal, manifest = self._journal, offer.manifest
        current = journal.current_release(self.component)
        release = journal.release_of(self.component, manifest.id, offer.identity)
        if release is not None and release.phase in IN_USE:
            if current is not None and release.id == current.id:
                self._follow_security(release, manifest)
                self._drop_others(release, f"superseded by {release.name}")
                return Look(Phase.UNCHANGED, "", release)
            release = None  # it was in use before, and is wanted again
        if release is not None and release.phase is Phase.ROLLED_BACK:
            words = f"; {current.name} is in use" if current is not None else ""
            return Look(Phase.ROLLED_BACK, release.reason + words, release)
        if release is not None and (release.manifest, release.key) != (offer.text, offer.key):
            # The same image, signed anew: its place, say, was none, and is another one now.
            release = journal.amend_release(release, manifest=offer.text, key=offer.key)
        decision = decide(
            manifest,
            offer.length,
            device=self._device(),
            now=self.reference(memory),
            security_version=self._high_water.security_version(),
            is_first=current is None,
            is_urgent=is_urgent,
        )
        if decision.phase is Phase.AVAILABLE:
            self._drop_others(release, f"superseded by {manifest.id}")
        if release is None:
            release = journal.offer_release(
                self.component,
                manifest.id,
                offer.identity,
                key=offer.key,
                length=offer.length,
                sha256=offer.sha256,
                manifest=offer.text,
                is_signed=manifest.is_signed,
                phase=decision.phase,
                reason=decision.reason,
            )
            logger.info("firmware %s component=%s release=%s", release.phase, self.component, release.name)
        else:
            # Final until the metadata changes; what went round in circles is final for good.
            is_over = release.phase is Phase.FAILED and not release.is_retryable
            is_same = release.basis == offer.basis and not is_urgent
            if is_over and (is_same or release.transitions >= MAX_TRANSITIONS):
                return Look(Phase.FAILED, release.reason, release)
            release = self._follow(release, decision.phase, decision.reason)
        if release.phase is Phase.FAILED and not release.is_retryable:
            # Other metadata, or a person's word, is another try, with a budget of its own.
            journal.note_download(release, etag="", spent_bytes=0)
            release = journal.firmware_release(release.id)
        return Look(decision.phase, decision.reason, release, decision.due, offer.basis)

    def _follow_security(self, release: Release, manifest: Manifest) -> None:
        """The release in use was signed anew to shut out older ones: it must not shut out itself, of all releases."""
        if manifest.is_signed and manifest.security_version > self._high_water.security_version():
            custom = {**json.loads(release.manifest), "security_version": manifest.security_version}
            self._journal.amend_release(release, manifest=json.dumps(custom, sort_keys=True), key=release.key)
            self._high_water.raise_security_version(manifest.security_version)

    def _follow(self, release: Release, phase: Phase, reason: str) -> Release:
        """Bring a known release to what was decided, with as few transitions as that takes."""
        if phase is Phase.AVAILABLE and release.phase in (*UNDER_WAY, Phase.DEFERRED, Phase.FAILED):
            return release  # the installer goes on from where it is
        if phase is release.phase and reason == release.reason:
            return release
        if release.phase is Phase.REJECTED and phase is not Phase.REJECTED:
            release = self._journal.move_release(release, Phase.AVAILABLE)
            if phase is Phase.AVAILABLE:
                return release
        return self._journal.move_release(release, phase, reason)

    def _drop_others(self, wanted: Release | None, reason: str) -> None:
        """Releases on their way that nobody offers any more end here; one whose image is in place is finished first."""
        for other in self._journal.releases(self.component):
            is_other = wanted is None or other.id != wanted.id
            if is_other and other.phase in (Phase.AVAILABLE, Phase.DEFERRED, Phase.DOWNLOADING, Phase.VERIFIED):
                self._journal.move_release(other, Phase.FAILED, reason, is_retryable=True)

    def _device(self) -> Device:
        return Device(
            component=self.component,
            hardware=self._carrier.firmware.hardware,
            system_id=self._system_id,
            agent_version=__version__,
            max_image_bytes=self._carrier.firmware.max_image_bytes,
        )


def manifest_of(release: Release) -> Manifest:
    """A release's manifest, as it was accepted. Raises: ManifestRejected."""
    if release.is_signed:
        return parse_manifest(json.loads(release.manifest))
    return parse_unsigned(release.manifest.encode(), component=release.component)


def face_of(look: Look) -> Mapping[str, Any]:
    """What `status` shows of a component after a look."""
    release = look.release
    state = look.phase
    if release is not None and look.phase is Phase.UNCHANGED:
        state = release.phase
    return {"release": release.name if release else None, "state": str(state), "reason": look.reason}


def fact_of(carrier: Carrier, face: Mapping[str, Any], warning: str = "") -> Fact:
    """What the fact `firmware` says of a component with that face; also later, without an agent."""
    component, state, reason = component_of(carrier), Phase(face["state"]), face["reason"]
    # A release in use that nobody confirmed has a reason only where it should not be in use, or nobody can look.
    if state in _TROUBLES or (state in (Phase.ACTIVATED, Phase.IDLE) and reason):
        return Fact(False, str(state), f"{component}: {reason}")
    if carrier.firmware.allow_unsigned and carrier.firmware.root is None:
        return Fact(False, UNSIGNED, _LOUD)
    if warning:
        return Fact(False, str(state), f"{component}: {'; '.join(each for each in (reason, warning) if each)}")
    return Fact(True, str(state), reason)


def face_in_trouble(face: Mapping[str, Any] | None, error: Transient | Blocked) -> Mapping[str, Any]:
    """What `status` shows of a component whose look, or whose installation, did not get to an end."""
    return {**(face or {"release": None, "state": str(Phase.IDLE)}), "reason": f"{error.trouble}: {error}"}
