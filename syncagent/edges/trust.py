"""Whom to believe: python-tuf's client workflow over the bucket, made durable.

Promises: metadata that is returned verified, in full, from the root that the owner gave, by a clock that never falls
below what a verified timestamp said; nothing below the high-water marks is believed again, whatever became of the
local files; what is written survives a power cut or was not written. Everything raised is of core/errors.py: Stale
names the role whose time is over, Untrusted says what did not verify, Transient and Blocked are the link's, the
store's or the disk's. Leaves to others: when to look, the image, and what a manifest means.

python-tuf is used through its public interface and a few private members, named in `contract_breaches`, which says when
a release of it does not have them any more.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any

from cryptography.hazmat.primitives.asymmetric import types as _types

# Debian 12's cryptography has these names in capitals only. Without them securesystemslib falls back, silently, to
# Ed25519 in pure Python and knows neither RSA nor ECDSA.
if not hasattr(_types, "PublicKeyTypes"):
    _types.PublicKeyTypes = _types.PUBLIC_KEY_TYPES  # type: ignore[attr-defined]
    _types.PrivateKeyTypes = _types.PRIVATE_KEY_TYPES  # type: ignore[attr-defined]

from securesystemslib.exceptions import UnverifiedSignatureError
from securesystemslib.signer import Signature, SSlibKey
from tuf.api import exceptions as tuf
from tuf.api.metadata import Role, TargetFile
from tuf.ngclient import Updater, UpdaterConfig
from tuf.ngclient.fetcher import FetcherInterface

from syncagent.core.errors import Blocked, Stale, SyncagentError, Transient, Trouble, Untrusted
from syncagent.core.manifest import target_path
from syncagent.core.release import Marks, Memory, Target, Trusted, parse_issued
from syncagent.core.remote import FORBIDDEN, MISSING, NOT_MODIFIED, OK, PATIENCE_S, Getter, read_published

logger = logging.getLogger(__name__)

#: Stands for the bucket in the URLs that python-tuf makes; the fetcher takes it off again.
BUCKET_URL = "bucket:///"
TIMESTAMP = "timestamp.json"
#: Longest each file may be, for a link that costs money. python-tuf's own limits are several MB.
CONFIG = UpdaterConfig(
    root_max_length=256 * 1024,
    timestamp_max_length=16 * 1024,
    snapshot_max_length=512 * 1024,
    targets_max_length=1024 * 1024,
)

_KEYED_ROLES = ("timestamp", "snapshot", "targets")
_EXPIRED = re.compile(r"(?:Final |New )?([A-Za-z0-9_-]+)(?:\.json)? is expired")
_ODD = re.compile(r"[^\x20-\x7e]")
_SHA256 = re.compile(r"[0-9a-f]{64}")


def contract_breaches() -> list[str]:
    """What this python-tuf lacks of the private members that durability, the clock's floor and the marks rest on."""
    from tuf.ngclient._internal.trusted_metadata_set import TrustedMetadataSet

    methods: tuple[tuple[Any, str], ...] = ((Updater, "_persist_file"), (Updater, "_update_root_symlink"))
    attributes: tuple[tuple[Any, str], ...] = (
        (Updater, "_trusted_set"),
        (Updater, "_dir"),
        (TrustedMetadataSet, "reference_time"),
        (TrustedMetadataSet, "_trusted_set"),
    )
    lacking = [(owner, name) for owner, name in methods if not callable(getattr(owner, name, None))]
    lacking += [(owner, name) for owner, name in attributes if name not in owner.__init__.__code__.co_names]
    return [f"{owner.__name__}.{name}" for owner, name in lacking]


def verifier() -> str:
    """Which code verifies Ed25519, after it proved that it tells a true signature from a false one.

    Raises: Blocked.
    """
    from securesystemslib.signer import _key

    # RFC 8032, section 7.1, test 2.
    public = "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c"
    true = (
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
        "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
    )
    if not _is_verified(public, true, b"\x72") or _is_verified(public, true, b"\x73"):
        what = "true and false signatures are not told apart"
        raise Blocked(what, trouble=Trouble.STORE, remedy="reinstall securesystemslib and cryptography")
    if _key.CRYPTO_IMPORT_ERROR:
        return "pure Python"
    import cryptography

    return f"cryptography {cryptography.__version__}"


def _is_verified(public: str, signature: str, data: bytes) -> bool:
    try:
        SSlibKey("test", "ed25519", "ed25519", {"public": public}).verify_signature(Signature("test", signature), data)
    except UnverifiedSignatureError:
        return False
    return True


class DurableUpdater(Updater):
    """python-tuf's Updater, whose files survive a power cut, judging by a time that it is given."""

    def __init__(
        self, metadata_dir: str, base_url: str, *, fetcher: FetcherInterface, root: bytes, reference: datetime
    ) -> None:
        super().__init__(metadata_dir, base_url, fetcher=fetcher, config=CONFIG, bootstrap=root)
        self._trusted_set.reference_time = reference

    def _persist_file(self, filename: str, data: bytes) -> None:
        # What is there already is left alone: a daily refresh must not cost the card a write per file.
        with contextlib.suppress(OSError), open(filename, "rb") as file:
            if file.read(len(data) + 1) == data:
                return
        write_durably(filename, data)

    def _update_root_symlink(self) -> None:
        # For people and tools; we always begin from the root that we were given.
        link = os.path.join(self._dir, "root.json")
        version = self._trusted_set.root.version
        with contextlib.suppress(OSError):
            if os.readlink(link) == os.path.join("root_history", f"{version}.root.json"):
                return
        super()._update_root_symlink()

    def trusted(self, path: str | None) -> Trusted:
        """What is believed now, and what it says of the target at `path`.

        Raises: what Updater raises; Untrusted.
        """
        info = self.get_targetinfo(path) if path is not None else None
        root, timestamp = self._trusted_set.root, self._trusted_set.timestamp
        roles = {name: self._trusted_set[name] for name in self._trusted_set._trusted_set}
        versions = {name: int(signed.version) for name, signed in roles.items() if name != "root"}
        return Trusted(
            marks=Marks(int(root.version), keys_of({name: root.roles[name] for name in _KEYED_ROLES}), versions),
            expires={name: signed.expires for name, signed in roles.items()},
            target=target_of(info) if info is not None else None,
            issued=parse_issued(timestamp.unrecognized_fields.get("x-issued")),
            timestamp_keys=self.timestamp_keys(),
        )

    def timestamp_keys(self) -> str:
        """One word for the keys that the newest root gives the timestamp."""
        return keys_of({"timestamp": self._trusted_set.root.roles["timestamp"]})


def keys_of(roles: Mapping[str, Role]) -> str:
    """One word that changes with the keys, or the threshold, of any of these roles."""
    text = ";".join(f"{name}:{role.threshold}:{','.join(sorted(role.keyids))}" for name, role in sorted(roles.items()))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def target_of(info: TargetFile) -> Target:
    """The signed facts of an image. Raises: Untrusted."""
    sha256 = info.hashes.get("sha256")
    if not isinstance(sha256, str) or not _SHA256.fullmatch(sha256):
        raise Untrusted(f"{info.path} has no SHA-256")
    return Target(info.length, sha256, info.custom, info.path)


def write_durably(path: str, data: bytes) -> None:
    """A file that is there whole, also after a power cut, or as it was. Raises: OSError."""
    directory, name = os.path.split(path)
    temporary = os.path.join(directory, f".{name}.tmp")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    try:
        with open(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.rename(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


class BucketFetcher(FetcherInterface):
    """python-tuf's fetcher over a bucket. `given`: answers that we have already, by name of object."""

    def __init__(
        self,
        getter: Getter,
        *,
        prefix: str = BUCKET_URL,
        given: Mapping[str, bytes] | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._getter = getter
        self._prefix = prefix
        self._given = dict(given or {})
        self._monotonic = monotonic

    def _fetch(self, url: str) -> Iterator[bytes]:
        """The body, piece by piece. What goes wrong on the way is translated here, where the bytes are pulled."""
        key = url.removeprefix(self._prefix)
        if key in self._given:
            yield self._given.pop(key)
            return
        until = self._monotonic() + PATIENCE_S
        try:
            got = self._getter.get(key)
            if got.status in (FORBIDDEN, MISSING):
                raise tuf.DownloadHTTPError(f"{key.rpartition('/')[2]}: {got.reason}", got.status)
            if got.status != OK:
                raise Transient(f"the store answered {got.status}", trouble=Trouble.STORE)
            with got:
                for chunk in got.chunks:
                    yield chunk
                    if self._monotonic() > until:
                        what = f"{key.rpartition('/')[2]} did not come within {PATIENCE_S:.0f} s"
                        raise Transient(what, trouble=Trouble.STALLED)
        except SyncagentError as error:
            raise tuf.DownloadError(str(error)) from error

    def download_bytes(self, url: str, max_length: int) -> bytes:
        """The body in memory. Its own version of python-tuf's, which goes through a file in /tmp: the card's."""
        pieces, size = [], 0
        with contextlib.closing(self.fetch(url)) as chunks:  # type: ignore[type-var]
            for chunk in chunks:
                size += len(chunk)
                if size > max_length:
                    what = f"{url.rpartition('/')[2]} is longer than the {max_length} bytes that it may have"
                    raise tuf.DownloadLengthMismatchError(what)
                pieces.append(chunk)
        return b"".join(pieces)


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """python-tuf's errors in our words. Raises: Stale, Untrusted, Transient, Blocked."""
    try:
        yield
    except tuf.ExpiredMetadataError as error:
        match = _EXPIRED.search(str(error))
        role = match.group(1) if match else "metadata"
        raise Stale(f"the {role}'s time is over", role=role) from error
    except tuf.DownloadLengthMismatchError as error:
        raise Untrusted(_shown(error)) from error
    except tuf.DownloadHTTPError as error:
        if error.status_code == FORBIDDEN:
            remedy = "allow the metadata's prefix to the agent's access key"
            raise Blocked(_shown(error), trouble=Trouble.FORBIDDEN, remedy=remedy) from error
        raise Transient(_shown(error), trouble=Trouble.STORE) from error
    except tuf.DownloadError as error:
        if isinstance(error.__cause__, SyncagentError):
            raise error.__cause__ from error
        raise Transient(_shown(error), trouble=Trouble.STORE) from error
    except tuf.RepositoryError as error:
        raise Untrusted(_shown(error)) from error
    except OSError as error:
        what = f"the metadata cannot be kept: {error.strerror or type(error).__name__}"
        raise Transient(what, trouble=Trouble.DISK) from error
    except (ValueError, TypeError, KeyError, RecursionError, AttributeError, OverflowError) as error:
        # What no parser expected came from outside, so it is theirs and not our bug; but it is worth a look.
        logger.warning("metadata broke the parser", exc_info=True)
        raise Untrusted(f"metadata that no parser takes: {_shown(error)}") from error


def _shown(error: Exception) -> str:
    """An error's text, fit for a status page: one line, and not for ever."""
    text = _ODD.sub("?", str(error)) or type(error).__name__
    return text if len(text) <= 200 else text[:197] + "..."


class Trust:
    """The metadata of one channel, for one component."""

    def __init__(
        self,
        getter: Getter,
        *,
        metadata_dir: str,
        root: bytes,
        path: str,
        channel: str,
        component: str,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`path`: the carrier's, below which the metadata lies. Raises: Blocked, where python-tuf is not the one that
        this was written for."""
        breaches = contract_breaches()
        if breaches:
            what = f"this python-tuf has no {', '.join(breaches)}"
            raise Blocked(what, trouble=Trouble.STORE, remedy="install tuf 7.0.x")
        self._getter = getter
        self._metadata_dir = metadata_dir
        self._root = root
        self._prefix = "/".join(part for part in (path, "metadata") if part) + "/"
        self._target_path = target_path(channel, component)
        self._monotonic = monotonic

    def poll(self, memory: Memory, *, reference: datetime, wall: datetime, is_full: bool) -> tuple[str, Trusted] | None:
        """One look: None when the timestamp is the one that was verified last, and that cost one request.

        Else a full refresh: the timestamp's ETag, and what is believed now. `is_full` asks without a condition.
        `reference` is the time to judge by, `wall` the same without the floor of what is remembered.
        Raises: Stale, Untrusted, Transient, Blocked, Stopping.
        """
        condition = {"If-None-Match": memory.etag} if memory.etag and not is_full else {}
        key = self._prefix + TIMESTAMP
        got = self._getter.get(key, headers=condition)
        if got.status == NOT_MODIFIED and condition:
            return None
        timestamp = read_published(
            got,
            key,
            allow=self._prefix,
            most_bytes=CONFIG.timestamp_max_length,
            monotonic=self._monotonic,
        )
        return got.etag, self._refresh(timestamp, memory, reference, wall)

    def _refresh(self, timestamp: bytes, memory: Memory, reference: datetime, wall: datetime) -> Trusted:
        with translated():
            os.makedirs(self._metadata_dir, mode=0o750, exist_ok=True)
            updater = self._updater(timestamp, reference)
            try:
                updater.refresh()
            except tuf.ExpiredMetadataError:
                # Whoever had the old key may have signed us into the future. A root that takes the key away from him
                # takes away what he said of the time as well.
                if wall >= reference or updater.timestamp_keys() == memory.floor.keys:
                    raise
                updater = self._updater(timestamp, wall)
                updater.refresh()
            found = updater.trusted(self._target_path)
        lower = memory.marks.lower(found.marks)
        if lower:
            raise Untrusted(f"a rollback: {lower}")
        return found

    def _updater(self, timestamp: bytes, reference: datetime) -> DurableUpdater:
        fetcher = BucketFetcher(self._getter, given={self._prefix + TIMESTAMP: timestamp}, monotonic=self._monotonic)
        url = BUCKET_URL + self._prefix
        return DurableUpdater(self._metadata_dir, url, fetcher=fetcher, root=self._root, reference=reference)


def parse_root(data: bytes) -> int:
    """The version of a root that the owner gave, which must be one. Raises: Untrusted."""
    from tuf.api.metadata import Metadata, Root

    with translated():
        root: Metadata[Root] = Metadata.from_bytes(data)
        if root.signed.type != "root":
            raise Untrusted(f"it is no root but {root.signed.type}")
        root.verify_delegate("root", root)
    return int(root.signed.version)
