"""What travels with an object: HTTP headers hold little, and only ASCII; the rest goes into an object beside it.

Source of the limit: the S3 user guide, "Working with object metadata": 2 KB of user-defined metadata, counted as
the bytes of all names and values. Text that is not ASCII is written as RFC 2047 encoded words, the form in which S3
itself gives such values back.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from email.header import decode_header, make_header

from syncagent.core.keys import sayable
from syncagent.core.messages import PLACE_FIELDS

MAX_METADATA_BYTES = 2_048
#: What the agent and its owner say of an object takes no more with what devices measured; the rest is the message's.
MAX_ATTACHED_BYTES = 1_536
#: Names the object that holds what did not fit.
SIDECAR = "syncagent-sidecar"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
#: What a header's value can hold as it is: no control characters, no space at an end, nothing that looks encoded.
_PLAIN = re.compile(r"(?!.*=\?)[!-~](?:[ -~]*[!-~])?")


def header_value(value: object) -> str:
    """A field's value as printable ASCII: text as it is or as an RFC 2047 word, anything else as JSON."""
    value = sayable_value(value)
    text = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"), allow_nan=False)
    if not text or _PLAIN.fullmatch(text):
        return text
    return f"=?UTF-8?B?{base64.b64encode(text.encode()).decode()}?="


def sayable_value(value: object) -> object:
    """A field's value without the names from the disk in it that are not UTF-8: they stand as in a key."""
    if isinstance(value, str):
        return sayable(value)
    if isinstance(value, list):
        return [sayable_value(each) for each in value]
    if isinstance(value, dict):
        return {sayable(name): sayable_value(each) for name, each in value.items()}
    return value


def text_of(value: str) -> str:
    """The text that `header_value` was given."""
    return str(make_header(decode_header(value)))


def attach(readings: Mapping[str, str], *, own: Mapping[str, str]) -> dict[str, str]:
    """Of what devices measured, as much as leaves room for the message's fields; whole entries, in their order."""
    attached: dict[str, str] = {}
    left = MAX_ATTACHED_BYTES - size_of(own)
    for name, text in readings.items():
        size = len(name) + len(text)
        if name not in own and size <= left:
            attached[name] = text
            left -= size
    return attached


def pack(fields: Mapping[str, object], *, own: Mapping[str, str], reserve_bytes: int) -> tuple[dict[str, str], bool]:
    """(metadata of a message's fields, whether that is all of them).

    `own` is what goes along in any case. When it is not all, `reserve_bytes` stay free for saying where the rest is.
    """
    packed, is_whole = _fill(fields, own=own, limit=MAX_METADATA_BYTES)
    if not is_whole:
        packed, _ = _fill(fields, own=own, limit=MAX_METADATA_BYTES - reserve_bytes)
    return packed, is_whole


def _fill(fields: Mapping[str, object], *, own: Mapping[str, str], limit: int) -> tuple[dict[str, str], bool]:
    left = limit - size_of(own)
    packed: dict[str, str] = {}
    is_whole = True
    for field, value in fields.items():
        if field in PLACE_FIELDS:
            continue
        # S3 keeps names in small letters; two fields that differ in case only are one name there.
        name = field.lower()
        text = header_value(value)
        size = len(name) + len(text)
        if not _NAME.fullmatch(name) or name in packed or name in own or name.startswith("syncagent-") or size > left:
            is_whole = False
            continue
        packed[name] = text
        left -= size
    return packed, is_whole


def size_of(metadata: Mapping[str, str]) -> int:
    """Bytes as S3 counts them."""
    return sum(len(name) + len(text) for name, text in metadata.items())
