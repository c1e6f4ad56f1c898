"""What a single value may be: rules that validation applies and that the JSON Schema tells.

A rule says what is wrong and the way out in words; it never decides about more than one value.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv6Address
from typing import Any

from syncagent.core.tree import kind_of, shown, suggestion

MIN_PART_BYTES = 5_242_880  # the floor of S3 for every part but the last
MAX_PUT_BYTES = 5_368_709_120  # the ceiling of S3 for one request
#: What a carrier's `firmware.hooks` may name; docks/installer.py says when each is run.
HOOKS = ("before_install", "after_activate", "confirm", "after_rollback")
CLOUD_PATH_WORDS = ("file_name", "relative_path", "year", "month", "day", "system_id")
DURATIONS = ("on_change", "on_message", "as_needed")
NO_ALWAYS = '"always" is not defined for this carrier'
DURATIONS_REMEDY = "use on_change, on_message, as_needed or a number of seconds"

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class BadValueError(ValueError):
    """One value breaks a rule."""

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(what)
        self.what = what
        self.remedy = remedy


@dataclass(frozen=True, eq=False)
class Rule:
    """`check` returns the value, perhaps tidied, or raises BadValueError; `schema` tells editors."""

    check: Callable[[Any], Any]
    schema: Mapping[str, object] = field(default_factory=dict)
    is_whole: bool = False  # judges the type, too


@dataclass(frozen=True)
class Secret:
    """Marks a value that is never shown, not even when it is wrong."""


def within(least: float | None = None, most: float | None = None, *, above: float | None = None) -> Rule:
    """A number between bounds, both included; `above` is excluded."""

    def check(value: float) -> float:
        # 1 in a file is 1.0 by now, and people look for what they wrote.
        given = f"{value:g}" if isinstance(value, float) else str(value)
        if least is not None and value < least:
            raise BadValueError(f"{given} is below {least}", f"give {least} or more")
        if above is not None and value <= above:
            raise BadValueError(f"{given} is not above {above}", f"give a number above {above}")
        if most is not None and value > most:
            raise BadValueError(f"{given} is above {most}", f"give {most} or less")
        return value

    limits = {"minimum": least, "maximum": most, "exclusiveMinimum": above}
    return Rule(check, {name: limit for name, limit in limits.items() if limit is not None})


def one_of(*words: str) -> Rule:
    """One of these words."""

    def check(value: str) -> str:
        if value not in words:
            listed = ", ".join(words)
            raise BadValueError(
                f"{shown(value)} is not known", suggestion(value, words, otherwise=f"use one of {listed}")
            )
        return value

    return Rule(check, {"enum": list(words)})


def matching(pattern: str, *, remedy: str) -> Rule:
    """A string of this form."""

    def check(value: str) -> str:
        if not re.fullmatch(pattern, value):
            raise BadValueError(f"{shown(value)} has the wrong form", remedy)
        return value

    return Rule(check, {"pattern": f"^(?:{pattern})$"})


def not_empty() -> Rule:
    """A string or list with something in it."""

    def check(value: Any) -> Any:
        if not value:
            raise BadValueError("this is empty", "give at least one, or leave the key out for its default")
        return value

    return Rule(check)


def _clean_segments(value: str) -> str:
    if _CONTROL.search(value):
        raise BadValueError("a control character", "use printable characters")
    # One slash at either end is a habit, not a mistake; two are.
    tidied = value.removeprefix("/").removesuffix("/")
    if tidied == "" and value in ("", "/"):
        return ""
    for segment in tidied.split("/"):
        if segment in ("", ".", ".."):
            raise BadValueError(
                f'{shown(value)} has the segment "{segment}"', 'no empty, "." or ".." segment may stand here'
            )
    return tidied


def _cloud_path(value: str) -> str:
    for word in re.findall(r"\{([^{}]*)\}", value):
        if word not in CLOUD_PATH_WORDS:
            known = ", ".join(f"{{{each}}}" for each in CLOUD_PATH_WORDS)
            near = suggestion(word, CLOUD_PATH_WORDS, otherwise=f"known are {known}")
            raise BadValueError(f"{{{word[:40]}}} is no placeholder", near)
    return _clean_segments(value)


def _system_id(value: str) -> str:
    tidied = _clean_segments(value)
    if not tidied:
        raise BadValueError("the system id is empty", "give it a name, or leave it out")
    return tidied


def _duration(value: Any) -> str | float:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise BadValueError(f"{kind_of(value)} is no duration", DURATIONS_REMEDY)
    if isinstance(value, str):
        if value == "always":
            raise BadValueError(NO_ALWAYS, DURATIONS_REMEDY)
        if value not in DURATIONS:
            remedy = DURATIONS_REMEDY
            if re.fullmatch(r"[0-9.]+", value):
                remedy = "write the number of seconds without quotes"
            raise BadValueError(f"{shown(value)} is no duration", suggestion(value, DURATIONS, otherwise=remedy))
        return value
    if not 0 < value <= 31_536_000:
        raise BadValueError(f"{shown(value)} seconds", "give more than 0 and at most 31536000 (a year)")
    return float(value)


def _message_types(value: Any) -> tuple[str, ...] | str:
    if isinstance(value, str):
        return _message_type(value)
    if not isinstance(value, list):
        raise BadValueError(f"{kind_of(value)}, not a message type", "give a string, or a list of strings")
    if not value:
        raise BadValueError("an empty list", "name at least one message type")
    for item in value:
        if not isinstance(item, str):
            raise BadValueError(f"the list holds {kind_of(item)}", "give a list of strings")
    if len(set(value)) != len(value):
        raise BadValueError("a message type stands twice", "name each once")
    return tuple(_message_type(item) for item in value)


MESSAGE_TYPE_PATTERN = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}"


def _message_type(value: str) -> str:
    if not re.fullmatch(MESSAGE_TYPE_PATTERN, value):
        raise BadValueError(
            f"{shown(value)} is no message type",
            'use letters, digits, "_", "-" and ".", at most 64, not "." first',
        )
    if value == "rejected":
        raise BadValueError('"rejected" is where refused messages go', "choose another name for the message type")
    return value


def _endpoint(value: str) -> str:
    # The value is not quoted: a URL may hold a password, and that is one of the mistakes looked for.
    match = re.fullmatch(r"https?://([^/?#\s]+)(/?)", value)
    remedy = "give scheme, host and port only, as in http://192.0.2.1:9000"
    if match is None:
        raise BadValueError("this is no endpoint", remedy)
    if "@" in match.group(1):
        raise BadValueError("an endpoint holds no user or password", "use access_key_id and secret_access_key")
    port = re.search(r":([^:\]]*)$", match.group(1))
    if port and not (port.group(1).isdigit() and 0 < int(port.group(1)) < 65_536):
        raise BadValueError("the port is no number from 1 to 65535", remedy)
    if not _is_host(match.group(1)[: port.start()] if port else match.group(1)):
        raise BadValueError("this is no host name or address", remedy)
    return value.removesuffix("/")


_LABEL = r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)"


def _is_host(text: str) -> bool:
    """Whether botocore takes this as a host; with another one no request is ever made."""
    if not text.startswith("["):
        return re.fullmatch(rf"{_LABEL}(?:\.{_LABEL})*\.?", text) is not None
    try:
        IPv6Address(text.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return text.endswith("]")


def _listen(value: str) -> str:
    if value == "":
        return value
    match = re.fullmatch(r"(?:\[[0-9A-Fa-f:.]+\]|[^\s:/\[\]]+):([0-9]{1,5})", value)
    if match is None or not 0 < int(match.group(1)) < 65_536:
        raise BadValueError(f"{shown(value)} is no address", 'give host:port, as in 127.0.0.1:8384, or "" for no page')
    return value


_WINDOW = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])-(?:([01][0-9]|2[0-3]):([0-5][0-9])|(24):(00))")


def _hook(name: str) -> str:
    if name not in HOOKS:
        raise BadValueError(
            f"{shown(name)} is no hook", suggestion(name, HOOKS, otherwise=f"use one of {', '.join(HOOKS)}")
        )
    return name


def _minutes(window: str) -> tuple[int, int]:
    match = _WINDOW.fullmatch(window)
    if match is None:
        raise BadValueError(f"{shown(window)} is no time of day", 'write "HH:MM-HH:MM", as in "08:00-18:00"')
    hour, minute, *until = (int(group) for group in match.groups() if group is not None)
    return hour * 60 + minute, until[0] * 60 + until[1]


def _window(value: str) -> str:
    start, end = _minutes(value)
    if start == end:
        raise BadValueError(f"{shown(value)} is empty", 'for the whole day write "00:00-24:00"')
    return value


def _timetable(value: Mapping[str, int]) -> Mapping[str, int]:
    taken: dict[int, str] = {}
    for window in value:
        start, end = _minutes(window)
        # A window may pass midnight.
        for each in range(start, end if end > start else end + 1440):
            other = taken.setdefault(each % 1440, window)
            if other != window:
                raise BadValueError(f"{shown(window)} overlaps {shown(other)}", "let each minute belong to one window")
    return value


def _metadata_name(value: str) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", value):
        raise BadValueError(f"{shown(value)} is no metadata name", 'use small letters, digits and "-"')
    if value.startswith("syncagent-"):
        raise BadValueError(f"{shown(value)} is the agent's own", "choose a name that does not begin with syncagent-")
    return value


def _metadata_value(value: str) -> str:
    if not re.fullmatch(r"[!-~](?:[ -~]*[!-~])?|", value):
        raise BadValueError("this value does not fit a header", "use printable ASCII characters")
    return value


def _metadata(value: Mapping[str, str]) -> Mapping[str, str]:
    size_bytes = sum(len(name) + len(text) for name, text in value.items())
    if size_bytes > 1024:
        raise BadValueError(
            f"{size_bytes} bytes of metadata", "give at most 1024: S3 takes 2048, the agent's own included"
        )
    return value


def _absolute(value: str) -> str:
    if not value.startswith("/") or "\0" in value or ".." in value.split("/"):
        raise BadValueError(f"{shown(value)} is no absolute path", 'begin with "/", without ".."')
    return value


def _i2c_address(value: Any) -> int:
    number = -1
    if isinstance(value, str) and re.fullmatch(r"0x[0-9A-Fa-f]{1,2}", value):
        number = int(value, 16)
    elif isinstance(value, int) and not isinstance(value, bool):
        number = value
    if not 0x03 <= number <= 0x77:
        raise BadValueError(f"{shown(value)} is no I2C address", 'give "0x03" to "0x77"')
    return number


segments = Rule(_clean_segments, {})
cloud_path = Rule(_cloud_path, {})
system_id = Rule(_system_id, {"minLength": 1})
duration = Rule(
    _duration,
    {"anyOf": [{"enum": list(DURATIONS)}, {"type": "number", "exclusiveMinimum": 0, "maximum": 31_536_000}]},
    is_whole=True,
)
_message_type_schema = {
    "type": "string",
    "pattern": f"^{MESSAGE_TYPE_PATTERN}$",
    "not": {"const": "rejected"},
}
message_types = Rule(
    _message_types,
    {
        "anyOf": [
            _message_type_schema,
            {"type": "array", "items": _message_type_schema, "minItems": 1, "uniqueItems": True},
        ]
    },
    is_whole=True,
)
endpoint = Rule(_endpoint, {"pattern": "^https?://[^/?#@\\s]+/?$"})
listen = Rule(_listen, {})
window = Rule(_window, {"pattern": f"^(?:{_WINDOW.pattern})$"})
timetable = Rule(_timetable)
metadata_name = Rule(_metadata_name, {"pattern": "^(?!syncagent-)[a-z0-9][a-z0-9-]*$"})
metadata_value = Rule(_metadata_value)
metadata = Rule(_metadata)
hook = Rule(_hook, {"enum": list(HOOKS)})
absolute_path = Rule(_absolute, {"pattern": "^/"})
i2c_address = Rule(
    _i2c_address,
    {
        "anyOf": [
            {"type": "string", "pattern": "^0x[0-9A-Fa-f]{1,2}$"},
            {"type": "integer", "minimum": 3, "maximum": 119},
        ]
    },
    is_whole=True,
)
