"""Messages: what other programs say of a file, and which addresses it is for.

Owns what a valid message is, what names it (the digest of the whole message: the original's `msg_id` names the
sender), and whom it goes to. Reading, keeping and acting on messages are the inbox's, the journal's and the workers'.
"""

from __future__ import annotations

import hashlib
import json
import os.path
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

from syncagent.core.constraints import MESSAGE_TYPE_PATTERN
from syncagent.core.errors import Refused
from syncagent.core.jsontext import parse_json
from syncagent.core.keys import KeyTooLong, check_cloud_path, escape, has_half_characters, time_of
from syncagent.core.moments import moment_of
from syncagent.core.places import GENERATED
from syncagent.core.settings import MessageFields, SendAddress, Settings
from syncagent.core.tree import MAX_DEPTH, MAX_NODES, TextError, plain

RECEIPT = "confirm_receipt"
#: Larger ones are refused: a message describes a file, it is none.
MAX_MESSAGE_BYTES = 256 * 1024
#: Fields that say where the file is and goes to; all others travel with the object.
PLACE_FIELDS = frozenset({"file_name", "disk_path", "cloud_path"})

_ENVELOPE = frozenset({"msg_id", "msg_time", "msg_type", "msg_content"})
#: The first one that the parser does not take.
_MOST_INTEGER = 10**63


@dataclass(frozen=True, slots=True)
class Message:
    """One valid message. `text` is the whole of it as JSON, in one spelling."""

    type: str
    content: Mapping[str, object]
    text: str

    @property
    def digest(self) -> bytes:
        """SHA-256 (32 bytes) of the whole message, whatever the order of its keys and its spacing."""
        return digest_of(self.text)

    @property
    def file_name(self) -> str:
        return str(self.content["file_name"])

    @property
    def disk_path(self) -> str | None:
        return _text_or_none(self.content.get("disk_path"))

    @property
    def cloud_path(self) -> str | None:
        return _text_or_none(self.content.get("cloud_path"))


def digest_of(text: str) -> bytes:
    """The name of a message, by its whole text."""
    return hashlib.sha256(text.encode()).digest()


def message_of(document: object, message_type: str, *, has_disk_names: bool = False) -> Message:
    """The message that a document of that type makes; a bare object is its content. Raises: Refused.

    The one judge of what a message is, however it comes in. `has_disk_names`: it is the agent's own, or a handler's
    word on that, so that the names of files in it may hold bytes that are not UTF-8.
    """
    if not re.fullmatch(MESSAGE_TYPE_PATTERN, message_type):
        raise Refused(f"{message_type!r} is no message type")
    if not isinstance(document, dict):
        raise Refused("a message is a JSON object")
    whole: dict[str, object] = {"msg_content": document}
    if _ENVELOPE & document.keys():
        if "msg_content" not in document:
            raise Refused("msg_content is missing")
        whole = dict(document)
        said = whole.get("msg_type")
        if said is not None and said != message_type:
            raise Refused(f"msg_type is {said!r}, and it was given as {message_type!r}")
    content = whole["msg_content"]
    if not isinstance(content, dict):
        raise Refused("msg_content is no JSON object")
    whole["msg_type"] = message_type
    _check_values(whole, has_disk_names=has_disk_names)
    try:
        text = _json(whole)
    except (TypeError, ValueError) as error:
        raise Refused(f"this cannot be said in JSON: {error}") from error
    if len(text.encode()) > MAX_MESSAGE_BYTES:
        raise Refused(f"longer than {MAX_MESSAGE_BYTES} bytes")
    if message_type == RECEIPT:
        _check_receipt(content)
    else:
        _check_places(content)
    return Message(message_type, content, text)


def parse_message(data: bytes, message_type: str) -> Message:
    """The message in the bytes of a file. Raises: Refused."""
    if len(data) > MAX_MESSAGE_BYTES:
        raise Refused(f"longer than {MAX_MESSAGE_BYTES} bytes")
    try:
        document = plain(parse_json(data.decode("utf-8-sig"), "message"))
    except UnicodeDecodeError as error:
        raise Refused("not UTF-8") from error
    except TextError as error:
        raise Refused(f"line {error.line}: {error.what}") from error
    return message_of(document, message_type)


def _json(document: object) -> str:
    """One spelling, that UTF-8 can carry: what it cannot is written with escapes."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
    if has_half_characters(text):
        return json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return text


def _check_values(whole: Mapping[str, object], *, has_disk_names: bool) -> None:
    """What the parser of the inbox would refuse is refused here, whoever says it. Raises: Refused."""
    left: list[tuple[object, int]] = [(whole, 0)]
    count = 0
    while left:
        value, depth = left.pop()
        count += 1
        if depth > MAX_DEPTH:
            raise Refused(f"nested deeper than {MAX_DEPTH} levels")
        if count > MAX_NODES:
            raise Refused(f"more than {MAX_NODES} values")
        if isinstance(value, dict):
            strange = [name for name in value if not isinstance(name, str)]
            if strange:
                raise Refused(f"the key {strange[0]!r} is no string")
            left += [(each, depth + 1) for each in value.values()]
        elif isinstance(value, list | tuple):
            left += [(each, depth + 1) for each in value]
        elif isinstance(value, int) and abs(value) >= _MOST_INTEGER:
            raise Refused("a number is too long")
        texts = value if isinstance(value, dict) else [value] if isinstance(value, str) else []
        if not has_disk_names and any(has_half_characters(text) for text in texts):
            raise Refused("a text holds half a character, or a byte that is not UTF-8")


def _check_places(content: Mapping[str, object]) -> None:
    for name in PLACE_FIELDS & content.keys():
        value = content[name]
        if value is not None and not isinstance(value, str):
            raise Refused(f"{name} is no string")
        if value is not None and "\0" in value:
            raise Refused(f"{name} holds a NUL character")
    file_name, cloud_path = content.get("file_name"), content.get("cloud_path")
    if cloud_path:
        with suppress(KeyTooLong):  # which parks, and that is the queue's to do, as with every other key
            check_cloud_path(str(cloud_path))
    if file_name is None:
        # A message that a handler or a poller understands needs no file; one that is to send one does.
        return
    if not file_name or any(segment in ("", ".", "..") for segment in str(file_name).lstrip("/").split("/")):
        raise Refused(f"file_name {file_name!r} names no file")


def _check_receipt(content: Mapping[str, object]) -> None:
    for name in ("id", "file_name", "time"):
        if content.get(name) in (None, ""):
            raise Refused(f"{name} is missing")
    if not isinstance(content["file_name"], str):
        raise Refused("file_name is no string")
    if content.get("confirm_receipt") is not True:
        raise Refused("confirm_receipt is not true")


def own_content(path: str, mtime_ns: int, *, name: str, **more: object) -> dict[str, object]:
    """The content of the message that the agent makes for a file that sends itself; `name` is its id."""
    when = time_of(mtime_ns).replace(tzinfo=None).isoformat(timespec="seconds") + "Z"
    return {"id": name, "time": when, "file_name": path.rpartition("/")[2], "disk_path": path, **more}


def time_in(content: Mapping[str, object], fields: MessageFields) -> datetime | None:
    """The message's own time: RFC 3339 or ISO 8601, or seconds since 1970; without a zone it is UTC.

    None when it says none, or none that can be read: then the file's time counts.
    """
    value = content.get(fields.time_field)
    try:
        if isinstance(value, str):
            when = datetime.fromisoformat(value)
            return when.astimezone(UTC) if when.tzinfo else when.replace(tzinfo=UTC)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return moment_of(value)
    except (ValueError, OverflowError):
        return None
    return None


def receipt_name(content: Mapping[str, object]) -> str:
    """The last segment of a receipt's key: <time>-<file_name>.json."""
    return escape(f"{content['time']}-{content['file_name']}.json".replace("/", "-"))


def takers(addresses: Sequence[SendAddress], message_type: str) -> tuple[SendAddress, ...]:
    """The addresses that a message of this type goes to.

    Those that wait for messages; those that watch (on_change) only where no other does, because their files go
    without being asked for. Never one that is used only as needed: it sends what `send` names.
    """
    ours = [address for address in addresses if address.message_type == message_type]
    waiting = tuple(a for a in ours if a.duration == "on_message" or isinstance(a.duration, float | int))
    return waiting or tuple(address for address in ours if address.duration == "on_change")


def why_nobody(settings: Settings, message_type: str) -> str:
    """Why no address takes a message of this type, and what to do, in words."""
    named = [address.name for address in settings.addresses if address.message_type == message_type]
    if named:
        return f"the address {named[0]} sends only what `syncagent send` names (duration as_needed)"
    known = sorted({a.message_type for a in settings.addresses} | {t.message_type for t in settings.tasks})
    return f"no active address or task takes messages of type {message_type}; there are: {', '.join(known)}"


def receipt_addresses(settings: Settings) -> tuple[SendAddress, ...]:
    """What receipts go through: the addresses that send that type, else each firmware carrier, by itself."""
    own = tuple(address for address in settings.addresses if address.message_type == RECEIPT)
    if own:
        return own
    carriers = {task.carrier.name: task.carrier for task in settings.tasks}
    return tuple(
        SendAddress(
            name=f"{RECEIPT}@{name}",
            configured_name=f"{RECEIPT}@{name}",
            message_type=RECEIPT,
            carrier=carrier,
            duration="on_message",
        )
        for name, carrier in carriers.items()
    )


def all_addresses(settings: Settings) -> tuple[SendAddress, ...]:
    """The configured addresses, and those that only receipts go through."""
    own = {address.name for address in settings.addresses}
    extra = tuple(address for address in receipt_addresses(settings) if address.name not in own)
    return settings.addresses + extra


def named_places(message: Message, carrier_path: str) -> tuple[str, ...]:
    """Where the file of a message may lie, the likeliest first: absolute, or relative to the base directory."""
    if message.disk_path is not None:
        return (message.disk_path,)
    name = message.file_name
    if name.startswith("/"):
        return (name,)
    below = os.path.join(GENERATED, carrier_path, name)
    return (name, below) if name.startswith(GENERATED + "/") else (below, name)


def _text_or_none(value: object) -> str | None:
    return str(value) if value else None
