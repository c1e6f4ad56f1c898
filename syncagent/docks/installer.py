"""From an accepted release to bytes at their place: download, drop, config switch, receipt, and the way back.

Promises: every phase is in the journal before the next step acts, and every step may be repeated; the config, whose
switch is the commit point, never names an image that is not there, whole and verified; a receipt is posted only after
that; what went before stays on the disk as far as `keep` says. Leaves to others: which release (docks/channel.py).

Hooks are the owner's own programs, from the carrier's `firmware.hooks`, by name:
- before_install: the image is verified and in staging. It fails: it is asked again with each poll.
- after_activate: the config names it. It fails: the release before it comes back. May run twice after a power cut.
- confirm: after that. It ends with 0: confirmed; else the release before comes back. Without it a release stays
  activated until `syncagent firmware confirm` or `rollback` says more.
- after_rollback: the older release is in use again. Its failure is only told.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from dataclasses import replace

from syncagent.core.errors import Blocked, ManifestRejected, Refused, Transient, Trouble
from syncagent.core.manifest import Manifest, config_text, time_text
from syncagent.core.messages import RECEIPT, message_of
from syncagent.core.moments import moment_of
from syncagent.core.release import IN_USE, Phase, component_of
from syncagent.core.settings import Carrier
from syncagent.docks.channel import manifest_of
from syncagent.docks.earlier import Earlier, kept_path
from syncagent.docks.highwater import HighWater
from syncagent.edges import hooks, inbox
from syncagent.edges.clock import Clock, Stop
from syncagent.edges.drop import Drop
from syncagent.edges.fetch import Fetch, Order, Ticket
from syncagent.edges.journal import Journal, Release

logger = logging.getLogger(__name__)

#: What is left alone of the disk, beside the image and what its manifest asks for.
RESERVE_BYTES = 1024 * 1024
#: Of one call of `install`: the three that it takes, and some that go back to the download. The next poll goes on.
MAX_STEPS = 8
LOW_POWER = "it waits for the battery"
ROLLBACK_FIRST = "it waits for a rollback to end"


class _Held(Exception):
    """The bytes of an image have to wait; the text says why."""


class Installer:
    """See the module. For one component, in the hands of one thread at a time."""

    def __init__(
        self,
        carrier: Carrier,
        *,
        journal: Journal,
        high_water: HighWater,
        fetch: Fetch,
        drop: Drop,
        staging: Drop,
        clock: Clock,
        base_dir: str,
        why_not: Callable[[str], str],
        on_receipt: Callable[[], None],
        is_power_low: Callable[[], bool] = lambda: False,
        why_wait: Callable[[str], str] = lambda _: "",
    ) -> None:
        """`staging`: the directory that `fetch` writes to; older images are kept there as well. `why_not` says why a
        path below the drop's root is none for firmware, in words. `is_power_low`: whoever takes the image from its
        place might not survive it. `why_wait` says why the bytes of an image for a path may not be spent now."""
        self.component = component_of(carrier)
        self._carrier = carrier
        self._journal = journal
        self._high_water = high_water
        self._fetch = fetch
        self._drop = drop
        self._staging = staging
        self._clock = clock
        self._base_dir = base_dir
        self._why_not = why_not
        self._on_receipt = on_receipt
        self._is_power_low = is_power_low
        self._why_wait = why_wait
        self._earlier = Earlier(carrier, journal=journal, drop=drop, staging=staging)
        self._is_tidy = False  # what a run that was killed left half dropped is gone

    # -- forwards -----------------------------------------------------------------------------------------------------

    def finish(self, stop: Stop) -> None:
        """End what an earlier run began and must not leave: needs neither the bucket nor the clock.

        Raises: Transient(DISK), Blocked where the way back is barred, Stopping.
        """
        if not self._is_tidy:
            self._tidy()
        intent = self._journal.rollback_intent(self.component)
        if intent is not None:
            # Whatever the battery: half a rollback may have left a config that names an image which is not there.
            self._end_rollback(*intent, stop)
        if self._is_power_low():
            return
        for release in self._journal.releases(self.component):
            if release.phase is Phase.INSTALLED:
                try:
                    self._activate(release, manifest_of(release))
                except Refused as error:
                    self._fail(release, str(error), basis="")
        current = self._journal.current_release(self.component)
        if current is not None and current.phase in IN_USE:
            self._after(current, stop)

    def _tidy(self) -> None:
        """Whatever became of a release since: half an image of one that nobody offers would stay for ever."""
        for release in self._journal.releases(self.component):
            try:
                manifest = manifest_of(release)
                self._drop.tidy(manifest.disk_path)
                self._drop.tidy(manifest.config_path)
                self._staging.tidy(kept_path(release))
            except (Refused, Transient) as error:
                logger.debug("firmware component=%s: nothing tidied: %s", self.component, error)
        self._is_tidy = True

    def install(self, release: Release, stop: Stop, *, basis: str = "", is_urgent: bool = False) -> Release:
        """Bring a release that the channel offers to its place; where it got. `basis`: what the metadata is now.
        `is_urgent`: a person asks, and pays for its bytes.

        Raises: Transient, Blocked, Stopping.
        """
        if self._journal.rollback_intent(self.component) is not None:
            return replace(release, reason=ROLLBACK_FIRST)
        if release.is_signed:
            # Before the first byte: an older one is refused from now on, even if this one never arrives.
            self._high_water.raise_security_version(manifest_of(release).security_version)
        try:
            manifest = manifest_of(release)
            self._check_place(manifest)
        except Refused as error:
            # The place is the owner's to mend; it is looked at again with each poll, and that costs no byte.
            return self._fail(release, str(error), basis="", is_retryable=True)
        try:
            for _ in range(MAX_STEPS):
                if release.phase in (Phase.VERIFIED, Phase.INSTALLED) and self._is_power_low():
                    return replace(release, reason=LOW_POWER)
                if release.phase in (Phase.AVAILABLE, Phase.DEFERRED, Phase.FAILED, Phase.DOWNLOADING):
                    release = self._download(release, manifest, is_urgent=is_urgent)
                elif release.phase is Phase.VERIFIED:
                    release = self._place(release, manifest, stop)
                elif release.phase is Phase.INSTALLED:
                    release = self._activate(release, manifest)
                else:
                    break
                if release.phase is Phase.FAILED:
                    return release
        except _Held as held:
            return replace(release, phase=Phase.AVAILABLE, reason=str(held))
        except hooks.HookFailed as error:
            # Its image stays verified: asked again with each poll, it costs the card nothing, and no try is the last.
            release = self._journal.firmware_release(release.id)
            if release.reason != str(error):
                release = self._move(release, release.phase, str(error))
            return replace(release, phase=Phase.FAILED)
        except Refused as error:
            return self._fail(release, str(error), basis=basis)
        if release.phase in IN_USE:
            self._after(release, stop)
            release = self._journal.firmware_release(release.id)
        return release

    def _check_place(self, manifest: Manifest) -> None:
        """Raises: Refused, Transient(DISK)."""
        for path in (manifest.disk_path, manifest.config_path):
            reason = self._why_not(path)
            if reason:
                raise ManifestRejected(f"{path} {reason}")
            self._drop.check(path)

    def _download(self, release: Release, manifest: Manifest, *, is_urgent: bool) -> Release:
        """Raises: _Held, Transient, Blocked, Refused, Stopping."""
        name = release.identity

        def go_on() -> None:
            reason = "" if is_urgent else self._why_wait(manifest.disk_path)
            if reason:
                raise _Held(reason)

        if release.sha256 is not None:
            length = self._drop.length_of(manifest.disk_path, sha256=release.sha256, length=release.length)
            if length is not None:
                return self._move(release, Phase.VERIFIED, length=length)
        have_bytes = self._fetch.have_bytes(name)
        if release.length is None or have_bytes < release.length:
            go_on()
        self._check_space(release, manifest, have_bytes)
        release = self._move(release, Phase.DOWNLOADING)
        if release.phase is Phase.FAILED:
            return release
        order = Order(release.key, name, release.length, release.sha256, self._carrier.firmware.max_image_bytes)
        ticket = Ticket(release.etag, release.spent_bytes)
        image = self._fetch.fetch(order, ticket, lambda t: self._note(release, t), go_on)
        return self._move(release, Phase.VERIFIED, length=image.length, sha256=image.sha256)

    def _note(self, release: Release, ticket: Ticket) -> None:
        self._journal.note_download(release, etag=ticket.etag, spent_bytes=ticket.spent_bytes)

    def _check_space(self, release: Release, manifest: Manifest, have_bytes: int) -> None:
        length = release.length or 0
        # Once in staging, once beside its place until it takes that; and the image before it, where that moves.
        needed = max(0, length - have_bytes) + length + manifest.requires_free_bytes + RESERVE_BYTES
        in_the_way = self._earlier.in_the_way(manifest)
        if in_the_way is not None:
            needed += in_the_way.length or 0
        free = self._drop.free_bytes()
        if free < needed:
            what = f"the disk is full: {needed} bytes are needed, {free} are free"
            raise Transient(what, trouble=Trouble.DISK)

    def _place(self, release: Release, manifest: Manifest, stop: Stop) -> Release:
        """Put the verified image at its place."""
        assert release.sha256 is not None and release.length is not None
        is_there = self._drop.holds(manifest.disk_path, sha256=release.sha256, length=release.length)
        part = f"{release.identity}.part"
        if not is_there and not self._staging.holds(part, sha256=release.sha256, length=release.length):
            return self._move(release, Phase.DOWNLOADING, "what was verified is not in staging any more")
        self._hook("before_install", release, manifest, stop)
        self._earlier.make_way(manifest, release)
        if not is_there:
            chunks = self._staging.read(part)
            self._drop.put(manifest.disk_path, chunks, sha256=release.sha256, length=release.length)
        return self._move(release, Phase.INSTALLED)

    def _activate(self, release: Release, manifest: Manifest) -> Release:
        """Switch the config; the release is in use once that is in the journal."""
        assert release.sha256 is not None and release.length is not None
        if not self._drop.holds(manifest.disk_path, sha256=release.sha256, length=release.length):
            return self._move(release, Phase.DOWNLOADING, "the image was changed at its place")
        self._put_config(release, manifest)
        now = self._clock.now()
        return self._move(
            release,
            Phase.ACTIVATED,
            # Not before it was made: a receipt of 1970 would be older than that of any other release.
            activated_at=(max(now, manifest.time) if manifest.is_signed else now).timestamp(),
            is_current=True,
            is_kept=True,
            is_receipted=not manifest.confirm_receipt,
            is_hooked=not self._carrier.firmware.hooks,
        )

    def _put_config(self, release: Release, manifest: Manifest) -> None:
        text = config_text(manifest, sha256=release.sha256 or "", size_bytes=release.length or 0)
        self._drop.put(manifest.config_path, [text], sha256=hashlib.sha256(text).hexdigest(), length=len(text))

    # -- afterwards ---------------------------------------------------------------------------------------------------

    def _after(self, release: Release, stop: Stop) -> None:
        """What is owed once a release is in use; each part once, or again after a power cut."""
        manifest = manifest_of(release)
        if not release.is_receipted:
            self._post_receipt(release, manifest)
        if not release.is_hooked:
            self._run_after(release, manifest, stop)
        self._fetch.sweep(self._wanted_parts())
        self._earlier.prune()

    def _wanted_parts(self) -> set[str]:
        """Parts that somebody will go on with: a hook may have failed, or another release be on its way."""
        over = (*IN_USE, Phase.ROLLED_BACK, Phase.REJECTED)
        return {each.identity for each in self._journal.releases(self.component) if each.phase not in over}

    def _post_receipt(self, release: Release, manifest: Manifest) -> None:
        """Through the inbox, like anybody's: the same message posted again is the same message."""
        content = {
            "id": manifest.id,
            "file_name": manifest.file_name,
            "confirm_receipt": True,
            "time": _utc(release.activated_at or 0.0),
            "component": self.component,
            "version": manifest.version,
            "sha256": release.sha256,
        }
        message = message_of(content, RECEIPT)
        inbox.drop(self._base_dir, RECEIPT, f"{message.digest.hex()[:40]}.json", message.text.encode())
        self._journal.mark_release(release, is_receipted=True)
        logger.info("firmware receipt posted component=%s release=%s", self.component, release.name)
        self._on_receipt()

    def _run_after(self, release: Release, manifest: Manifest, stop: Stop) -> None:
        try:
            self._hook("after_activate", release, manifest, stop)
            is_asked = release.phase is Phase.ACTIVATED and self._hook("confirm", release, manifest, stop)
        except hooks.HookFailed as error:
            logger.warning("firmware component=%s release=%s: %s", self.component, release.name, error)
            try:
                self._begin_to_go_back(release, str(error), stop, is_forced=True)
            except Refused as refusal:
                # The bad one stays, because the one before must not come back. People have to look.
                self._journal.move_release(release, release.phase, f"{error}; {refusal}", is_hooked=True)
            return
        if is_asked:
            release = self._move(release, Phase.CONFIRMED, "its hook said so")
        self._journal.mark_release(release, is_hooked=True)

    def confirm(self) -> Release:
        """A person, or a program, says that the release in use works. Raises: Refused."""
        current = self._journal.current_release(self.component)
        if current is None:
            raise Refused("no release is installed")
        if current.phase is Phase.ACTIVATED:
            return self._move(current, Phase.CONFIRMED, "confirmed by a person")
        return current

    # -- backwards ----------------------------------------------------------------------------------------------------

    def roll_back(self, reason: str, stop: Stop) -> Release:
        """Bring back the release before the one in use; returns it.

        Raises: Refused, Transient(DISK), Blocked where its place has to be cleared first, Stopping.
        """
        current = self._journal.current_release(self.component)
        if current is None:
            raise Refused("no release is installed")
        good = self._begin_to_go_back(current, reason, stop, is_forced=False)
        now = self._journal.current_release(self.component)
        if good is None or now is None or now.id != good.id:
            raise Refused(self._journal.firmware_release(current.id).reason)
        return good

    def _begin_to_go_back(self, bad: Release, reason: str, stop: Stop, *, is_forced: bool) -> Release | None:
        """`is_forced`: also where there is nothing to go back to; then no config names the bad one any more."""
        good = self._way_back(bad)
        if good is None and not is_forced:
            raise Refused("there is no earlier release on the disk")
        self._journal.intend_rollback(bad, good, reason)
        self._end_rollback(bad.id, good.id if good else None, reason, stop)
        return good

    def _way_back(self, bad: Release) -> Release | None:
        """The latest earlier release that can come back. Raises: Refused, where there are some, and none can."""
        refusal: Refused | None = None
        for each in self._journal.kept_releases(self.component):
            if each.id == bad.id:
                continue
            try:
                self._check_way_back(each)
            except Refused as error:
                refusal = refusal or error
            else:
                return each
        if refusal is not None:
            raise refusal
        return None

    def _check_way_back(self, good: Release) -> None:
        """Raises: Refused, Transient(DISK)."""
        manifest = manifest_of(good)
        least = self._high_water.security_version()
        if good.is_signed and manifest.security_version < least:
            what = f"security_version {manifest.security_version} is below {least}"
            raise Refused(f"the release before, {good.name}, must not come back: {what}")
        self._check_place(manifest)
        if not self._is_kept(good):
            raise Refused(f"the image of {good.name} is not on the disk any more")

    def _is_kept(self, release: Release) -> bool:
        """Whether an image that was in use is still on the disk. Raises: Transient(DISK)."""
        sha256, length = release.sha256 or "", release.length
        if self._staging.holds(kept_path(release), sha256=sha256, length=length):
            return True
        try:
            return self._drop.holds(manifest_of(release).disk_path, sha256=sha256, length=length)
        except Refused:  # something else stands there
            return False

    def _end_rollback(self, bad_id: int, good_id: int | None, reason: str, stop: Stop) -> None:
        """Do what a rollback that has begun asks for; where there is no way back any more, the bad one stays.

        Raises: Blocked where the place has to be cleared first, Transient(DISK), Stopping.
        """
        bad = self._journal.firmware_release(bad_id)
        good = self._journal.firmware_release(good_id) if good_id is not None else None
        try:
            self._go_back(bad, good, reason, stop)
        except Refused as error:
            if good is not None and self._is_kept(good):
                what, remedy = f"a rollback cannot be finished: {error}", "clear its place: it is tried again"
                raise Blocked(what, trouble=Trouble.DISK, remedy=remedy) from error
            logger.warning("firmware component=%s: no way back from %s: %s", self.component, bad.name, error)
            self._journal.move_release(bad, bad.phase, f"{reason}; no way back: {error}", is_hooked=True)
            self._journal.end_rollback(self.component)

    def _go_back(self, bad: Release, good: Release | None, reason: str, stop: Stop) -> None:
        """The intent is in the journal: repeated until it is done."""
        bad_manifest = manifest_of(bad)
        if good is None:
            self._remove(bad_manifest.config_path)
            reason = f"{reason}; there was none before it, so {bad_manifest.config_path} is removed"
        else:
            manifest, sha256, length = manifest_of(good), good.sha256 or "", good.length or 0
            if not self._drop.holds(manifest.disk_path, sha256=sha256, length=length):
                self._drop.put(manifest.disk_path, self._staging.read(kept_path(good)), sha256=sha256, length=length)
            self._put_config(good, manifest)
            if bad_manifest.config_path != manifest.config_path:
                self._remove(bad_manifest.config_path)
            if bad_manifest.disk_path != manifest.disk_path:
                self._remove(bad_manifest.disk_path, sha256=bad.sha256)
        self._journal.roll_back_release(bad, good, reason)
        logger.warning(
            "firmware rolled back component=%s from=%s to=%s reason=%s",
            *(self.component, bad.name, good.name if good else "nothing", reason),
        )
        if good is not None:
            try:
                self._hook("after_rollback", good, manifest_of(good), stop)
            except hooks.HookFailed as error:
                logger.warning("firmware component=%s: %s", self.component, error)

    def _remove(self, path: str, *, sha256: str | None = None) -> None:
        """Remove what the bad release had put there; what is there instead by now is its owner's."""
        try:
            self._drop.remove(path, sha256=sha256)
        except Refused as error:
            logger.warning("firmware component=%s: %s is not removed: %s", self.component, path, error)

    # -- steps --------------------------------------------------------------------------------------------------------

    def _hook(self, name: str, release: Release, manifest: Manifest, stop: Stop) -> bool:
        """Run a hook; whether there is one. Raises: hooks.HookFailed, Stopping."""
        path = self._carrier.firmware.hooks.get(name)
        if path is None:
            return False
        environment = {
            "SYNCAGENT_HOOK": name,
            "SYNCAGENT_COMPONENT": self.component,
            "SYNCAGENT_RELEASE": release.name,
            "SYNCAGENT_VERSION": manifest.version,
            "SYNCAGENT_SHA256": release.sha256 or "",
            "SYNCAGENT_IMAGE": self._drop.absolute(manifest.disk_path)
            if name != "before_install"
            else self._staging.absolute(f"{release.identity}.part"),
            "SYNCAGENT_CONFIG": self._drop.absolute(manifest.config_path),
        }
        hooks.run(name, path, environment, stop=stop)
        return True

    def _move(self, release: Release, phase: Phase, reason: str = "", **values: object) -> Release:
        moved = self._journal.move_release(release, phase, reason, **values)
        logger.info(
            "firmware %s component=%s release=%s reason=%s", moved.phase, self.component, moved.name, moved.reason
        )
        return moved

    def _fail(self, release: Release, reason: str, *, basis: str, is_retryable: bool = False) -> Release:
        if release.phase is Phase.FAILED and (release.reason, release.basis) == (reason, basis):
            return release
        moved = self._journal.move_release(release, Phase.FAILED, reason, basis=basis, is_retryable=is_retryable)
        logger.warning("firmware failed component=%s release=%s reason=%s", self.component, moved.name, moved.reason)
        return moved


def _utc(seconds: float) -> str:
    return time_text(moment_of(int(seconds)))
