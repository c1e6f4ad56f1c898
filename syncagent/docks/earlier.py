"""Images of earlier releases: kept on the disk as far as `keep` says, so that a release can be rolled back.

One that has a place of its own stays there; one whose place is taken moves to the staging directory before. Nothing is
removed but what has the digest that we put there.
"""

from __future__ import annotations

import logging

from syncagent.core.errors import Refused, Transient
from syncagent.core.manifest import Manifest
from syncagent.core.release import component_of
from syncagent.core.settings import Carrier
from syncagent.docks.channel import manifest_of
from syncagent.edges.drop import Drop
from syncagent.edges.journal import Journal, Release

logger = logging.getLogger(__name__)


def kept_path(release: Release) -> str:
    """Where an image is kept whose place is taken, below the staging directory."""
    return f"kept/{release.sha256}.image"


class Earlier:
    """See the module."""

    def __init__(self, carrier: Carrier, *, journal: Journal, drop: Drop, staging: Drop) -> None:
        self.component = component_of(carrier)
        self._carrier = carrier
        self._journal = journal
        self._drop = drop
        self._staging = staging

    def keep_count(self, manifest: Manifest) -> int:
        """How many earlier images stay once this release is in use."""
        return self._carrier.firmware.keep if manifest.keep is None else manifest.keep

    def in_the_way(self, manifest: Manifest) -> Release | None:
        """The release whose image has to move, because its place is taken and it is to stay."""
        kept = self._journal.kept_releases(self.component)[: self.keep_count(manifest)]
        return next((each for each in kept if manifest_of(each).disk_path == manifest.disk_path), None)

    def make_way(self, manifest: Manifest, release: Release) -> None:
        """Before a place is taken: the image that is there moves to where older ones are kept."""
        before = self.in_the_way(manifest)
        if before is None or before.sha256 in (None, release.sha256):
            return
        try:
            chunks = self._drop.read(manifest.disk_path)
            self._staging.put(kept_path(before), chunks, sha256=before.sha256 or "", length=before.length or 0)
        except Refused as error:
            # Somebody changed it at its place: there is nothing to go back to, and no reason to stay either.
            logger.warning("firmware component=%s: %s cannot be kept: %s", self.component, before.name, error)
            self._journal.mark_release(before, is_kept=False)

    def prune(self) -> None:
        """Remove images beyond `keep`."""
        current = self._journal.current_release(self.component)
        if current is None:
            return
        manifest = manifest_of(current)
        earlier = [each for each in self._journal.kept_releases(self.component) if each.id != current.id]
        kept = earlier[: self.keep_count(manifest)]
        in_use = {manifest.disk_path} | {manifest_of(each).disk_path for each in kept}
        wanted = {current.sha256} | {each.sha256 for each in kept}
        for each in earlier[len(kept) :]:
            path = manifest_of(each).disk_path
            try:
                if path not in in_use:
                    self._drop.remove(path, sha256=each.sha256)
                if each.sha256 not in wanted:
                    self._staging.remove(kept_path(each))
            except (Refused, Transient) as error:
                logger.warning("firmware component=%s: %s cannot be removed: %s", self.component, path, error)
                continue
            self._journal.mark_release(each, is_kept=False)
