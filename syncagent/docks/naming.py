"""Where the versions of an address go: keys, and our own corner of the bucket."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from syncagent.core.errors import Refused
from syncagent.core.keys import Naming, check_key, escape
from syncagent.core.messages import RECEIPT, time_in
from syncagent.core.places import Places
from syncagent.core.settings import Carrier, MessageFields, SendAddress
from syncagent.core.territory import is_within
from syncagent.edges.journal import Row

#: Below <path>/<system_id>/: our own corner of the bucket, where what the agent says of itself replaces what it said.
CORNER = ".syncagent"
#: The one file there that a later one replaces: what was dropped unsent.
LOSSES = "losses.jsonl"


def corner_key(carrier: Carrier, name: str) -> str:
    """The key of one of our own objects."""
    return "/".join(part for part in (carrier.path, carrier.system_id, CORNER, name) if part)


def is_in_corner(carrier: Carrier, key: str) -> bool:
    """Whether a key lies in our own corner."""
    return is_within(key, corner_key(carrier, ""))


def check_outside_corner(key: str, carriers: Iterable[Carrier]) -> None:
    """Raises: Refused for a key in our own corner: what lies there is replaced whenever we have news."""
    for carrier in carriers:
        if is_in_corner(carrier, key):
            raise Refused(f"the key {key!r} lies in {corner_key(carrier, '')}/, which is the agent's own")


def is_receipt(row: Row) -> bool:
    """Whether a row is the one kind of object that is asked for and goes into our own corner."""
    return row.message is not None and json.loads(row.message).get("msg_type") == RECEIPT


def is_report(row: Row, carrier: Carrier) -> bool:
    """Whether a row is the agent's own report of losses: nobody else may ask for its key."""
    return row.cloud_path is not None and row.cloud_path == corner_key(carrier, LOSSES)


def content_of(message: str | None) -> Mapping[str, Any]:
    """What the message of a row says; nothing for a row without one."""
    if message is None:
        return {}
    content = json.loads(message)["msg_content"]
    return content if isinstance(content, dict) else {}


def naming_of(row: Row, address: SendAddress, places: Places, fields: MessageFields) -> Naming:
    """What the key of a version is made of when nobody named one."""
    carrier, content = address.carrier, content_of(row.wording)
    path, place = carrier.path, places.relative_of(row.path)
    if place is None or (path and not place.startswith(path + "/")):
        # From elsewhere: under the name that the message gives it.
        said = content.get("file_name")
        relative = said.strip("/") if isinstance(said, str) and said.strip("/") else row.path.rpartition("/")[2]
    else:
        relative = place[len(path) + 1 :] if path else place
    return Naming(
        path=path,
        sub_path=address.sub_path,
        system_id=carrier.system_id,
        default_cloud_path=carrier.default_cloud_path,
        relative_path=relative,
        mtime_ns=row.facts.mtime_ns,
        message_time=time_in(content, fields),
    )


def key_beside(key: str, file_name: str) -> str:
    """The key of a further object beside the one that has this key: whatever its name says of directories.

    Raises: KeyTooLong, Refused.
    """
    head, slash, _ = key.rpartition("/")
    return check_key(f"{head}{slash}{escape(file_name.rpartition('/')[2])}")
