"""The bucket as a device sees it, and what devices said.

Promises: `audit` believes what a device's own client believes, from the first root on, and reads every image;
nothing is written, but to a temporary directory.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from urllib.parse import unquote

from tuf.api.exceptions import DownloadError, DownloadHTTPError, RepositoryError
from tuf.ngclient import FetcherInterface

from syncagent.core.errors import ManifestRejected, Refused, SyncagentError
from syncagent.edges.trust import DurableUpdater
from syncagent.publish.releases import image_of, manifest_of
from syncagent.publish.repository import Repository
from syncagent.publish.shelf import Shelf

#: Sooner than this before an expiry it is worth a word.
WARN = timedelta(days=7)
MAX_RECEIPT_BYTES = 65_536
_RECEIPT = re.compile(r"(?P<system>.+)/\.syncagent/confirm_receipt/[^/]+\.json")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    what: str
    is_ok: bool
    detail: str


class _Fetcher(FetcherInterface):
    """python-tuf's way to the bucket: an address is a key."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self._names = shelf.names()

    def _fetch(self, url: str) -> Iterator[bytes]:
        key = unquote(url)
        if key.rpartition("/")[2] not in self._names:
            raise DownloadHTTPError(f"{key} is not there", 404)
        try:
            return iter([self._shelf.read(key)])
        except SyncagentError as error:
            raise DownloadError(str(error)) from error


def audit(shelf: Shelf, repository: Repository, now: datetime) -> Iterator[Finding]:
    """Everything that a device relies on, thing by thing.

    A device begins with the first root, whatever became of it since: an old one must find its way, too.
    """
    try:
        anchor = shelf.read(shelf.metadata_key("1.root.json"))
        if shelf.load(anchor).repository.root.to_bytes() != repository.root.to_bytes():
            raise Refused("it leads to another root than the one that is trusted here")
    except Refused as error:
        yield Finding("1.root.json", False, str(error))
        return
    with tempfile.TemporaryDirectory(prefix="syncagent-audit-") as directory:
        base = shelf.metadata_key("")
        updater = DurableUpdater(directory, base, fetcher=_Fetcher(shelf), root=anchor, reference=now)
        try:
            updater.refresh()
        except (RepositoryError, DownloadError) as error:
            yield Finding("metadata", False, f"a device refuses it: {error}")
            return
        yield Finding("metadata", True, "a device believes it")
        for role, metadata in repository.metadata():
            left = metadata.signed.expires - now
            if left < timedelta():
                yield Finding(role, False, f"expired at {metadata.signed.expires:%Y-%m-%d %H:%M} UTC: renew it")
            else:
                soon = ": renew it soon" if left < WARN else ""
                yield Finding(role, True, f"version {metadata.signed.version}, good for {left.days} days{soon}")
        for channel, target in repository.releases():
            yield _audit_release(shelf, updater, f"{channel}/{target.path.split('/')[1]}", target.path)


def _audit_release(shelf: Shelf, updater: DurableUpdater, what: str, path: str) -> Finding:
    try:
        target = updater.get_targetinfo(path)
        if target is None:
            return Finding(what, False, "a device does not find it")
        manifest = manifest_of(target)
        sha256 = bytes.fromhex(target.hashes["sha256"])
        if not shelf.is_image(image_of(target), sha256=sha256, size_bytes=target.length):
            return Finding(what, False, f"{image_of(target)} is missing, or is another image")
    except (RepositoryError, DownloadError, SyncagentError) as error:
        return Finding(what, False, f"a device refuses it: {error}")
    return Finding(what, True, f"{manifest.version}, {target.length} bytes, as signed")


def shown(value: object) -> str:
    """A short text of unknown origin as a terminal may show it."""
    return "".join(character if character.isprintable() else "?" for character in str(value)[:64])


@dataclass(frozen=True, slots=True)
class Device:
    """The last receipt of one device."""

    system_id: str
    release: str
    file_name: str
    at: str
    #: channel and version that offer this release now; empty where none does
    offered: str


def fleet(shelf: Shelf, repository: Repository) -> list[Device]:
    """What every device confirmed last."""
    last: dict[str, str] = {}
    for name in sorted(shelf.list("")):
        match = _RECEIPT.fullmatch(name)
        if match is not None:
            last[match["system"]] = name
    offered: dict[str, list[str]] = {}
    for channel, target in repository.releases():
        try:
            manifest = manifest_of(target)
        except ManifestRejected:
            continue
        offered.setdefault(manifest.id, []).append(f"{channel} {manifest.version}")
    return [_device(shelf, system, name, offered) for system, name in sorted(last.items())]


def _device(shelf: Shelf, system: str, name: str, offered: dict[str, list[str]]) -> Device:
    """A receipt may hold anything: whoever may write one need not be a device of ours."""
    try:
        document = json.loads(shelf.read(shelf.key(name), limit_bytes=MAX_RECEIPT_BYTES))
        content = document.get("msg_content", document)
        release, file_name, at = (shown(content.get(field, "")) for field in ("id", "file_name", "time"))
    except (ValueError, AttributeError, RecursionError, Refused):
        return Device(shown(system), "", "", "", "its receipt cannot be read")
    return Device(shown(system), release, file_name, at, ", ".join(offered.get(release, [])))
