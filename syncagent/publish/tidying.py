"""What of a repository may go: old metadata, and images that no kept metadata refers to.

Pure. Promises: every root stays, whatever the newest `keep` snapshots lead to stays, and so does everything that is
newer than the snapshot in force: somebody may be publishing it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator
from typing import Any

from syncagent.core.manifest import image_name
from syncagent.publish.repository import file_name, parse_file_name

#: The content of a metadata object by its name.
Read = Callable[[str], bytes]


def superfluous(names: Collection[str], images: Collection[str], *, current: int, keep: int, read: Read) -> list[str]:
    """Names below the repository that may be deleted. `current`: the version of the snapshot in force."""
    files = {name: parsed for name in names if (parsed := parse_file_name(name)) is not None}
    snapshots = sorted((version for role, version in files.values() if role == "snapshot"), reverse=True)
    newest = [version for version in snapshots if version <= current][: max(1, keep)]
    kept = {name for name, (role, _) in files.items() if role == "root"}
    kept |= {file_name("snapshot", version) for version in snapshots if version > current}
    in_force: dict[str, int] = {}
    for version in newest:
        kept.add(file_name("snapshot", version))
        for role, number in _listed(read(file_name("snapshot", version))):
            kept.add(file_name(role, number))
            in_force[role] = max(number, in_force.get(role, 0))
    kept |= {name for name, (role, version) in files.items() if version > in_force.get(role, 0) and role != "snapshot"}
    referred: set[str] = set()
    for name in sorted(kept & set(files)):
        if files[name][0] not in ("root", "snapshot"):
            referred |= set(_images(read(name)))
    gone = [f"metadata/{name}" for name in sorted(set(files) - kept)]
    return gone + [f"targets/{name}" for name in sorted(set(images) - referred)]


def _listed(data: bytes) -> Iterator[tuple[str, int]]:
    for name, meta in _signed(data).get("meta", {}).items():
        yield name.removesuffix(".json"), int(meta["version"])


def _images(data: bytes) -> Iterator[str]:
    for path, target in _signed(data).get("targets", {}).items():
        channel, _, rest = path.partition("/")
        yield image_name(channel, rest.partition("/")[0], target["hashes"]["sha256"])


def _signed(data: bytes) -> dict[str, Any]:
    document = json.loads(data)
    signed: dict[str, Any] = document["signed"]
    return signed
