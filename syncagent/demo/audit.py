"""What arrived, asked of the store itself and compared with disk and record, byte for byte.

Reads past the link and past the agent: it believes the journal only as to which key a version has.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from syncagent.core.errors import Transient, Trouble
from syncagent.core.model import State
from syncagent.demo.camera import Version
from syncagent.demo.camp import ACCESS_KEY_ID, BUCKET, FIRMWARE_PATH, REGION, SECRET_ACCESS_KEY
from syncagent.edges.journal import Row

_PIECE_BYTES = 256 * 1024
_ARRIVED = (State.CONFIRMED, State.REMOVED)
#: The agent's own objects lie here.
_OWN = "/.syncagent/"
#: What the publisher put there.
_FIRMWARE = f"{FIRMWARE_PATH}/"


@dataclass(slots=True)
class Verdict:
    """How the comparison ended."""

    files: int = 0
    size_bytes: int = 0
    earlier: int = 0  # versions that were rewritten later, and are in the bucket as well
    replaced: int = 0  # versions that were rewritten before they could be sent
    faults: list[str] = field(default_factory=list)


class Bucket:
    """The demo's bucket, as its owner sees it."""

    def __init__(self, endpoint_url: str) -> None:
        self._client: Any = boto3.session.Session().client(
            "s3",
            endpoint_url=endpoint_url,
            region_name=REGION,
            aws_access_key_id=ACCESS_KEY_ID,
            aws_secret_access_key=SECRET_ACCESS_KEY,
            config=Config(
                s3={"addressing_style": "path"},
                proxies={},
                connect_timeout=5,
                read_timeout=20,
                retries={"total_max_attempts": 2},
            ),
        )

    def create(self) -> None:
        """Raises: Transient."""
        try:
            self._client.create_bucket(Bucket=BUCKET)
        except (BotoCoreError, ClientError) as error:
            raise Transient(f"the embedded store: {error}", trouble=Trouble.STORE) from error

    def list_keys(self) -> Iterator[str]:
        for page in self._client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET):
            yield from (entry["Key"] for entry in page.get("Contents", ()))

    def pieces(self, key: str) -> Iterator[bytes]:
        body = self._client.get_object(Bucket=BUCKET, Key=key)["Body"]
        while piece := body.read(_PIECE_BYTES):
            yield piece

    def sha256(self, key: str) -> str:
        whole = hashlib.sha256()
        for piece in self.pieces(key):
            whole.update(piece)
        return whole.hexdigest()


def compare(
    base_dir: str,
    rows: Sequence[Row],
    versions: Sequence[Version],
    bucket: Bucket,
    progress: Callable[[int, int], None],
) -> Verdict:
    """Every file on the disk, every version that was finished, and every object in the bucket."""
    verdict = Verdict()
    names = sorted(_files(base_dir) | {version.path for version in versions})
    arrived = {(row.path, row.digest.sha256.hex()): row.key for row in rows if row.state in _ARRIVED and row.digest}
    newest = {version.path: version for version in versions}
    expected: set[str] = set()
    total, done = len(names) + len(versions) - len(newest), 0
    for path in names:
        version = newest.get(path)
        key = arrived.get((path, version.sha256)) if version else None
        if version is None:
            verdict.faults.append(f"{path}: the camera did not finish it")
        elif key is None:
            verdict.faults.append(f"{path}: not confirmed")
        else:
            expected.add(key)
            fault = _difference(os.path.join(base_dir, path), bucket, key)
            verdict.faults += [f"{path}: {key}: {fault}"] if fault else []
            verdict.files += 1
            verdict.size_bytes += version.size_bytes
        done += 1
        progress(done, total)
    for version in versions:
        if newest[version.path] is version:
            continue
        key = arrived.get((version.path, version.sha256))
        if key is None:
            verdict.replaced += 1
        else:
            expected.add(key)
            verdict.earlier += 1
            verdict.faults += _earlier_faults(version, bucket, key)
        done += 1
        progress(done, total)
    try:
        files = [key for key in bucket.list_keys() if _OWN not in f"/{key}" and not key.startswith(_FIRMWARE)]
        strange = [key for key in files if key not in expected]
        verdict.faults += [f"{key}: in the bucket, and no finished version" for key in strange]
    except (BotoCoreError, ClientError) as error:
        verdict.faults.append(f"the bucket cannot be listed: {error}")
    return verdict


def _files(base_dir: str) -> set[str]:
    found = set()
    for folder, _, names in os.walk(os.path.join(base_dir, "generated_data", "camera")):
        found |= {os.path.relpath(os.path.join(folder, name), base_dir) for name in names}
    return found


def _difference(path: str, bucket: Bucket, key: str) -> str:
    """Empty when object and file are the same, byte for byte."""
    try:
        with open(path, "rb") as file:
            offset = 0
            for piece in bucket.pieces(key):
                if file.read(len(piece)) != piece:
                    return f"differs within {len(piece)} bytes after byte {offset}"
                offset += len(piece)
            return "the object is shorter" if file.read(1) else ""
    except (BotoCoreError, ClientError, OSError) as error:
        return str(error)


def _earlier_faults(version: Version, bucket: Bucket, key: str) -> list[str]:
    try:
        found = bucket.sha256(key)
    except (BotoCoreError, ClientError, OSError) as error:
        return [f"{version.path}: an earlier version: {key}: {error}"]
    return [] if found == version.sha256 else [f"{version.path}: an earlier version: {key}: differs"]
