"""A release: the image, and what is signed with it.

Pure. Promises: what is offered is what devices accept, because their own parser has read it.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from datetime import datetime

from tuf.api.metadata import TargetFile

from syncagent.core.errors import ManifestRejected, Refused
from syncagent.core.manifest import Manifest, Rollout, Wave, cohorts_of, image_name, parse_manifest, target_path
from syncagent.publish.repository import Repository


def manifest_of(target: TargetFile) -> Manifest:
    """Raises: ManifestRejected."""
    return parse_manifest(target.unrecognized_fields.get("custom"))


def version_of(target: TargetFile) -> object:
    """What a target's manifest calls its version, also where devices would refuse it; None where nothing does."""
    custom = target.unrecognized_fields.get("custom")
    return custom.get("version") if isinstance(custom, dict) else None


def wave(percent: str | None, now: datetime) -> tuple[Wave, ...]:
    """The share of the fleet that may install from now on. Raises: Refused."""
    if percent is None:
        return ()
    try:
        cohorts = cohorts_of(percent.removesuffix("%"))
    except ManifestRejected as error:
        raise Refused(f"{percent!r} is no percentage from 0 to 100 with at most two decimals") from error
    return (Wave(cohorts, now.replace(microsecond=0)),)


def release(channel: str, manifest: Manifest, *, sha256_hex: str, size_bytes: int, cloud_path: str) -> TargetFile:
    """The target that offers an image. Raises: Refused where devices would refuse it."""
    custom = replace(manifest, cloud_path=cloud_path).to_custom()
    try:
        parse_manifest(custom)
    except ManifestRejected as error:
        raise Refused(f"devices would refuse this release: {error}") from error
    path = target_path(channel, manifest.component)
    return TargetFile(size_bytes, {"sha256": sha256_hex}, path, {"custom": custom})


def with_rollout(target: TargetFile, rollout: Rollout) -> TargetFile:
    """The same release on another way to the fleet. Raises: ManifestRejected."""
    changed = copy.deepcopy(target)
    changed.unrecognized_fields["custom"] = replace(manifest_of(target), rollout=rollout).to_custom()
    return changed


def find(repository: Repository, channel: str, component: str) -> TargetFile:
    """The release of a component in a channel. Raises: Refused."""
    target = repository.channel(channel).signed.targets.get(target_path(channel, component))
    if target is None:
        offered = (
            ", ".join(sorted(path.split("/")[1] for path in repository.channel(channel).signed.targets)) or "nothing"
        )
        raise Refused(f"{channel} offers no {component}; it offers: {offered}")
    return target


def security_version(repository: Repository, component: str) -> int:
    """The highest that is offered of a component in any channel: lower is refused by devices that have it.

    Raises: ManifestRejected.
    """
    versions = [0]
    for _, target in repository.releases():
        manifest = manifest_of(target)
        if manifest.component == component:
            versions.append(manifest.security_version)
    return max(versions)


def image_of(target: TargetFile) -> str:
    """The name of a release's image below `targets/`."""
    channel, component, _ = target.path.split("/")
    return image_name(channel, component, target.hashes["sha256"])
