"""A release: the image, and what is signed with it.

Pure. Promises: what is offered is what devices accept, because their own parser has read it.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from datetime import datetime

from tuf.api.metadata import TargetFile, Targets

from syncagent.core.errors import ManifestRejected, Refused
from syncagent.core.manifest import Manifest, Rollout, Wave, cohorts_of, image_name, parse_manifest, target_path
from syncagent.publish.repository import Repository

#: Of targets and channels: component -> the highest security version of releases that are not offered any more.
OFFERED_BEFORE = "x-security-versions"


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


def security_version_ever(repository: Repository, component: str) -> int:
    """The highest that is known to have been offered, now or before. Raises: ManifestRejected."""
    offered = security_version(repository, component)
    noted = [_noted(metadata.signed) for metadata in (repository.targets, *repository.channels.values())]
    return max([offered, *(versions.get(component, 0) for versions in noted)])


def security_versions(signed: Targets) -> dict[str, int]:
    """The highest of each component that a channel offers, or offered before."""
    known = Targets(unrecognized_fields={OFFERED_BEFORE: _noted(signed)})
    for target in signed.targets.values():
        note_security(known, target)
    return _noted(known)


def note_security(signed: Targets, target: TargetFile) -> None:
    """Keep of a release that is about to go what devices which had it will not fall below."""
    try:
        manifest = manifest_of(target)
    except ManifestRejected:
        return  # no device had it
    raise_security(signed, manifest.component, manifest.security_version)


def raise_security(signed: Targets, component: str, version: int) -> None:
    noted = _noted(signed)
    if version > noted.get(component, 0):
        signed.unrecognized_fields[OFFERED_BEFORE] = {**noted, component: version}


def _noted(signed: Targets) -> dict[str, int]:
    """What was signed by us, or by a publisher that means something else by that field."""
    noted = signed.unrecognized_fields.get(OFFERED_BEFORE)
    return {k: v for k, v in noted.items() if isinstance(v, int)} if isinstance(noted, dict) else {}


def image_of(target: TargetFile) -> str:
    """The name of a release's image below `targets/`."""
    channel, component, _ = target.path.split("/")
    return image_name(channel, component, target.hashes["sha256"])
