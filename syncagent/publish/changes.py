"""What can be done with a repository: each function turns the one in force into a draft of the next.

Pure. Promises: what cannot be is refused before anything is signed. Leaves to others: signatures and the order of
writes (publish/repository.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from securesystemslib.signer import Key
from tuf.api.metadata import DelegatedRole, Delegations, Metadata, Root, TargetFile, Targets

from syncagent.core.errors import Refused
from syncagent.publish.releases import note_security, raise_security, security_versions
from syncagent.publish.repository import TOP_ROLES, AnyMetadata, Draft, Keys, Repository, check_channel, expiry


def check_threshold(role: str, keys: Sequence[Key], threshold: int) -> None:
    """Raises: Refused."""
    if not keys:
        raise Refused(f"there is no key for {role}; make one with: syncagent firmware keygen {role}")
    if not 1 <= threshold <= len(keys):
        raise Refused(f"{role}: a threshold of {threshold} with {len(keys)} keys cannot be")


def begin(
    keys: Keys,
    channels: Sequence[str],
    now: datetime,
    *,
    thresholds: Mapping[str, int] | None = None,
    root: Metadata[Root] | None = None,
    taken: Mapping[str, int] | None = None,
) -> Draft:
    """A repository with empty channels. `root`: the one that was made before, by an `init` that was interrupted."""
    thresholds = thresholds or {}
    for role in (*TOP_ROLES, *channels):
        check_threshold(role, keys.get(role, ()), thresholds.get(role, 1))
    changed: dict[str, AnyMetadata] = {}
    if root is None:
        signed = Root(1, expires=expiry("root", now), consistent_snapshot=True)
        for role in TOP_ROLES:
            for key in keys[role]:
                signed.add_key(key, role)
            signed.roles[role].threshold = thresholds.get(role, 1)
        root = Metadata(signed)
    draft = Draft(None, root, now, taken or {}, changed)
    changed["root"] = root
    version = draft.next_version("targets", 0)
    changed["targets"] = Metadata(Targets(version, expires=expiry("targets", now), delegations=Delegations({}, {})))
    for name in channels:
        _add_channel(draft, name, keys[name], thresholds.get(name, 1), 0)
    return draft


def add_channel(base: Repository, name: str, keys: Sequence[Key], *, threshold: int = 1, now: datetime) -> Draft:
    """A further, empty channel. Raises: Refused."""
    check_threshold(check_channel(name), keys, threshold)
    if name in base.channels:
        raise Refused(f"there is a channel {name} already")
    draft = Draft.of(base, now)
    draft.edit("targets")
    before = base.snapshot.signed.meta.get(f"{name}.json")
    _add_channel(draft, name, keys, threshold, before.version if before else 0)
    return draft


def _add_channel(draft: Draft, name: str, keys: Sequence[Key], threshold: int, before: int) -> None:
    check_channel(name)
    targets = draft.targets.signed
    if targets.delegations is None or targets.delegations.roles is None:
        targets.delegations = Delegations({}, {})
    assert targets.delegations.roles is not None
    targets.delegations.roles[name] = DelegatedRole(name, [], threshold, True, [f"{name}/*/*"])
    for key in keys:
        targets.add_key(key, name)
    version = draft.next_version(name, before)
    draft.changed[name] = Metadata(Targets(version, expires=expiry(name, draft.now)))


def remove_channel(base: Repository, name: str, *, now: datetime) -> Draft:
    """Without a channel; devices that follow it find nothing new. Raises: Refused."""
    channel = base.channel(name).signed
    draft = Draft.of(base, now)
    targets: Targets = draft.edit("targets")
    for component, version in security_versions(channel).items():
        raise_security(targets, component, version)
    assert targets.delegations is not None and targets.delegations.roles is not None
    for keyid in list(targets.delegations.roles[name].keyids):
        targets.revoke_key(keyid, name)
    del targets.delegations.roles[name]
    return draft


def offer(base: Repository, channel: str, target: TargetFile, *, now: datetime) -> Draft:
    """With a release in a channel, in the place of the one of its component. Raises: Refused."""
    base.channel(channel)
    draft = Draft.of(base, now)
    signed: Targets = draft.edit(channel)
    before = signed.targets.get(target.path)
    if before is not None:
        note_security(signed, before)
    signed.targets[target.path] = target
    return draft


def withdraw(base: Repository, channel: str, path: str, *, now: datetime) -> Draft:
    """Without a release. Raises: Refused."""
    if path not in base.channel(channel).signed.targets:
        raise Refused(f"{channel} offers no {path.split('/')[1]}")
    draft = Draft.of(base, now)
    signed: Targets = draft.edit(channel)
    note_security(signed, signed.targets.pop(path))
    return draft


def renew(base: Repository, roles: Sequence[str], *, now: datetime) -> Draft:
    """With new expiries for these roles."""
    draft = Draft.of(base, now)
    draft.renew(roles)
    return draft


def rotate(
    base: Repository,
    role: str,
    keys: Sequence[Key],
    *,
    threshold: int = 1,
    is_lost: bool = False,
    now: datetime,
) -> Draft:
    """With these keys, and no others, for a role; what it has signed is signed anew. Raises: Refused.

    `is_lost`: the old keys cannot sign any more. Then the new root is written first, and until the rest follows,
    seconds later, devices that ask find nothing that they believe.
    """
    before = set(base.role_of(role).keyids)
    check_threshold(role, keys, threshold)
    if {key.keyid for key in keys} == before and threshold == base.role_of(role).threshold:
        raise Refused(f"{role} has these keys already; make another with: syncagent firmware keygen {role} --name NAME")
    draft = Draft.of(base, now)
    delegator: Root | Targets = draft.edit("root" if role in TOP_ROLES else "targets")
    for keyid in before:
        delegator.revoke_key(keyid, role)
    for key in keys:
        delegator.add_key(key, role)
    delegator.get_delegated_role(role).threshold = threshold
    draft.renew([role])
    draft.is_root_first = is_lost and role in TOP_ROLES and role != "root"
    return draft
