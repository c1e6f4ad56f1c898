"""What other programs are told of a confirmed version: one JSON object, and the message that belongs to it.

Owns the fields of `syncagent follow`, and the message that the agent makes itself for a version that no message
asked for. Printing and waiting are left to the command.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime

from syncagent.core.keys import time_of
from syncagent.core.messages import own_content


@dataclass(frozen=True, slots=True)
class Confirmation:
    """One version that the store has, as the journal remembers it. `path` is that of the journal's row."""

    position: int
    path: str
    key: str
    size_bytes: int
    mtime_ns: int
    sha256: str  # in hex
    address: str
    confirmed_at: float  # UTC, seconds since 1970
    message: str | None  # the message that asked for it, as JSON


def image_info(*, path: str, key: str, sha256: str, mtime_ns: int) -> dict[str, object]:
    """The message that the agent makes for a version which no message asked for."""
    content = own_content(path, mtime_ns, name=sha256[:32], cloud_path=key)
    return {"msg_type": "image_info", "msg_content": content}


def announcement(confirmation: Confirmation) -> str:
    """One line of JSON; names that are not UTF-8 keep their bytes as escaped surrogates."""
    said = confirmation
    fields: dict[str, object] = {
        "position": said.position,
        "path": said.path,
        "key": said.key,
        "bytes": said.size_bytes,
        "sha256": said.sha256,
        "address": said.address,
        "confirmed_at": _stamp(time_of(int(said.confirmed_at * 1e9))),
        "message": _message(said),
    }
    try:
        return json.dumps(fields, allow_nan=False)
    except (ValueError, RecursionError):
        # A number such as 1e400 is JSON on the way in and none on the way out. A reader that cannot parse a line
        # would miss the file, so the message goes as the text that it is.
        return json.dumps({**fields, "message": said.message})


def _message(said: Confirmation) -> object:
    if said.message is None:
        return image_info(path=said.path, key=said.key, sha256=said.sha256, mtime_ns=said.mtime_ns)
    try:
        return json.loads(said.message)
    except (ValueError, RecursionError):
        return said.message


def _stamp(moment: datetime) -> str:
    """RFC 3339 in UTC; `strftime` would write the year 1 with one digit."""
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="seconds") + "Z"
