"""Object keys: from a path, a template or a message to a name in the bucket.

Source of the limits: the S3 API reference, "Object key names" (1,024 bytes of UTF-8).
"""

from __future__ import annotations

import os.path
import re
from dataclasses import dataclass
from datetime import UTC, datetime

from syncagent.core.errors import Refused
from syncagent.core.moments import moment_of

MAX_KEY_BYTES = 1024
SHORT_DIGEST_CHARACTERS = 12
#: Words that a `default_cloud_path` may hold in braces.
TEMPLATE_WORDS = ("file_name", "relative_path", "year", "month", "day", "system_id")

_BRACED = re.compile(r"\{([^{}]*)\}")
_LOOKS_ESCAPED = re.compile(r"%(?=[0-9A-Fa-f]{2})")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_NOT_UTF8 = re.compile("[\udc80-\udcff]")
_SURROGATE = re.compile("[\ud800-\udfff]")  # JSON can say any of them, UTF-8 none


class KeyTooLong(Refused):
    """The key would pass MAX_KEY_BYTES."""


def escape(name: str) -> str:
    """A name from the disk as it stands in a key: what no key can hold becomes %XX, and nothing else changes.

    Reversible, because a "%" that could be taken for an escape is escaped itself. Half a character, which no name
    holds but JSON can say, becomes the bytes that UTF-8 would have for it.
    """
    name = _LOOKS_ESCAPED.sub("%25", name)
    name = _CONTROL.sub(lambda match: f"%{ord(match[0]):02X}", name)
    name = _NOT_UTF8.sub(lambda match: f"%{ord(match[0]) - 0xDC00:02X}", name)
    return _SURROGATE.sub(
        lambda match: "".join(f"%{byte:02X}" for byte in match[0].encode("utf-8", "surrogatepass")), name
    )


def has_half_characters(text: str) -> bool:
    """Whether UTF-8 cannot carry the text."""
    return _SURROGATE.search(text) is not None


def sayable(text: str) -> str:
    """Text as it is, unless UTF-8 cannot carry it: then as it stands in a key."""
    return escape(text) if has_half_characters(text) else text


def check_key(key: str) -> str:
    """The key itself when S3 and file-backed stores can hold it. It may hold the %XX that `escape` writes.

    Raises: KeyTooLong; Refused for an empty, "." or ".." segment and for characters that no key may hold.
    """
    if any(segment in ("", ".", "..") for segment in key.split("/")):
        raise Refused(f'the key {key!r} has an empty, "." or ".." segment')
    if _CONTROL.search(key) or _SURROGATE.search(key):
        raise Refused(f"the key {key!r} holds control characters or bytes that are not UTF-8")
    if len(key.encode()) > MAX_KEY_BYTES:
        raise KeyTooLong("key too long")
    return key


def check_cloud_path(key: str) -> str:
    """A key that a person or a message asked for: `check_key`, and no %XX, which would name another file's escape."""
    if _LOOKS_ESCAPED.search(key):
        raise Refused(f"the key {key!r} holds a %XX escape")
    return check_key(key)


def time_of(mtime_ns: int) -> datetime:
    """The mtime in UTC, whole seconds. What a file system can hold and no calendar becomes its first or last day."""
    try:
        return moment_of(mtime_ns // 1_000_000_000)
    except (ValueError, OverflowError):
        return datetime(9999, 12, 31, tzinfo=UTC) if mtime_ns > 0 else datetime(1, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Naming:
    """What the key of one file is made of. `relative_path` is below generated_data/<path>, or just the file's name."""

    path: str
    sub_path: str
    system_id: str
    default_cloud_path: str
    relative_path: str
    mtime_ns: int
    message_time: datetime | None = None

    def key(self) -> str:
        """Raises: KeyTooLong, Refused."""
        relative = escape(self.relative_path)
        if not self.default_cloud_path:
            return check_key("/".join(part for part in (self.path, self.sub_path, relative) if part))
        when = (self.message_time or time_of(self.mtime_ns)).astimezone(UTC)
        values = {
            "file_name": relative.rpartition("/")[2],
            "relative_path": relative,
            "year": f"{when.year:04d}",
            "month": f"{when.month:02d}",
            "day": f"{when.day:02d}",
            "system_id": self.system_id,
        }
        return check_key(_BRACED.sub(lambda match: values[match[1]], self.default_cloud_path).strip("/"))


def with_digest(key: str, sha256: bytes) -> str:
    """The key of a later version of the same name: `<stem>.<12 hex digits><ext>`, split as os.path.splitext does."""
    head, slash, name = key.rpartition("/")
    stem, extension = os.path.splitext(name)
    return check_key(f"{head}{slash}{stem}.{sha256.hex()[:SHORT_DIGEST_CHARACTERS]}{extension}")
