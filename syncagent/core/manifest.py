"""The manifest of a firmware release: the `custom` object that the publisher signs with an image, and its unsigned
forerunner.

Promises that a Manifest is complete, typed and confined: its paths are relative, stay below whatever directory they
are joined to, and do not contain one another. Unknown fields are passed over (a newer publisher may add some); a
change that an old agent must not overlook raises `schema`. Whether the release is for this device, and when, is
decided in `core.release`; whether the manifest is genuine, in `edges.trust`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from syncagent.core.errors import ManifestRejected
from syncagent.core.jsontext import parse_json
from syncagent.core.places import GENERATED
from syncagent.core.tree import TextError, plain

SCHEMA = 1
#: Names of roles and channels; they become names of objects and of files.
NAME_PATTERN = r"[a-z0-9-]{1,64}"
#: A component is by default called as its carrier is, and carriers may be called more.
COMPONENT_PATTERN = r"[A-Za-z0-9_-]{1,64}"
RELEASE_PATTERN = r"[A-Za-z0-9._-]{1,64}"
CONFIG_FORMATS = ("text", "json")
DEFAULT_CONFIG_PATH = "latest_firmware.json"
DEFAULT_FOLDER = "firmware_images"
#: The unsigned manifest lies here, below the carrier's path.
UNSIGNED_NAME = "firmware_image.json"

#: No manifest needs more, and the unsigned one comes from anybody.
MAX_UNSIGNED_BYTES = 64 * 1024
MAX_NAME_BYTES = 200
MAX_PATH_BYTES = 1024
MAX_DEPTH = 16
MAX_WAVES = 64
COHORTS = 10_000
MAX_KEEP = 100
#: What SQLite and every other reader can hold.
MAX_INT = 2**63 - 1

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)")
_SHA256 = re.compile(r"[0-9A-Fa-f]{64}")
_PERCENT = re.compile(r"\d{1,3}(\.\d{1,2})?")
_VERSION = re.compile(r"\d{1,9}(\.\d{1,9}){0,3}")


@dataclass(frozen=True, slots=True)
class Wave:
    """From `not_before` on, cohorts below `cohorts` (of 10,000) may install.

    In the manifest it is `percent`: a whole number, or a text such as "0.25", because canonical JSON, which is what
    gets signed, has no fractions.
    """

    cohorts: int
    not_before: datetime

    @property
    def percent(self) -> int | str:
        return self.cohorts // 100 if self.cohorts % 100 == 0 else f"{self.cohorts / 100:g}"


@dataclass(frozen=True, slots=True)
class Rollout:
    """How a release reaches the fleet. `halt`: nobody begins to install it any more."""

    salt: str = ""
    waves: tuple[Wave, ...] = ()
    halt: bool = False


@dataclass(frozen=True, slots=True)
class Manifest:
    """What the publisher says of one image. `sha256` (hex) is only in an unsigned manifest: else the target has it."""

    id: str
    time: datetime
    file_name: str
    component: str
    version: str
    hardware: str | None = None
    security_version: int = 0
    cloud_path: str | None = None
    disk_path: str = ""
    config_path: str = DEFAULT_CONFIG_PATH
    confirm_receipt: bool = True
    rollout: Rollout = Rollout()
    config_format: str = "text"
    requires_agent: str | None = None
    requires_free_bytes: int = 0
    keep: int | None = None
    is_signed: bool = True
    sha256: str | None = None

    def to_custom(self) -> dict[str, Any]:
        """The object to sign; `parse_manifest` makes an equal Manifest of it."""
        requires: dict[str, Any] = {"free_bytes": self.requires_free_bytes} if self.requires_free_bytes else {}
        if self.requires_agent is not None:
            requires["agent"] = self.requires_agent
        optional = {"hardware": self.hardware, "cloud_path": self.cloud_path, "keep": self.keep}
        rollout = {
            "salt": self.rollout.salt,
            "waves": [
                {"percent": wave.percent, "not_before": time_text(wave.not_before)} for wave in self.rollout.waves
            ],
            "halt": self.rollout.halt,
        }
        return {
            "schema": SCHEMA,
            "id": self.id,
            "time": time_text(self.time),
            "file_name": self.file_name,
            "component": self.component,
            "version": self.version,
            "security_version": self.security_version,
            "disk_path": self.disk_path,
            "config_path": self.config_path,
            "confirm_receipt": self.confirm_receipt,
            "config_format": self.config_format,
            "rollout": rollout,
            **({"requires": requires} if requires else {}),
            **{name: value for name, value in optional.items() if value is not None},
        }


def target_path(channel: str, component: str) -> str:
    """The name of a component's image in the metadata. Its object is called <sha256>.image in the same folder, because
    TUF's consistent snapshots put the digest before the last segment."""
    return f"{channel}/{component}/image"


def image_name(channel: str, component: str, sha256_hex: str) -> str:
    """The image's object, below <path>/targets/."""
    return f"{channel}/{component}/{sha256_hex}.image"


def time_text(moment: datetime) -> str:
    """A moment as RFC 3339 in UTC."""
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat() + "Z"


def parse_time(value: object, name: str = "time") -> datetime:
    """The moment that RFC 3339 names, in UTC. Raises: ManifestRejected."""
    if isinstance(value, str) and _RFC3339.fullmatch(value):
        try:
            return datetime.fromisoformat(value.upper()).astimezone(UTC)
        except (ValueError, OverflowError):
            pass
    raise ManifestRejected(f"{name} is no time as RFC 3339 writes it")


def parse_manifest(custom: object) -> Manifest:
    """The manifest in a target's signed `custom` object. Raises: ManifestRejected."""
    fields = _Fields(_object(custom, "the manifest"))
    schema = fields.integer("schema")
    if schema != SCHEMA:
        raise ManifestRejected(f"schema {schema} is not known: this agent knows {SCHEMA}")
    manifest = Manifest(
        component=fields.text("component", COMPONENT_PATTERN),
        version=fields.shown("version"),
        hardware=fields.shown_or_none("hardware"),
        security_version=fields.integer("security_version", 0),
        rollout=_rollout(fields.part("rollout")),
        config_format=fields.one_of("config_format", CONFIG_FORMATS, "text"),
        requires_agent=_agent(fields.part("requires")),
        requires_free_bytes=fields.part("requires").integer("free_bytes", 0),
        keep=fields.integer_or_none("keep", most=MAX_KEEP),
        **_common(fields),
    )
    _check_paths(manifest)
    return manifest


def parse_unsigned(data: bytes, *, component: str) -> Manifest:
    """The original's manifest of seven fields, bare or as the content of a message. Raises: ManifestRejected."""
    if len(data) > MAX_UNSIGNED_BYTES:
        raise ManifestRejected(f"longer than {MAX_UNSIGNED_BYTES} bytes")
    try:
        document = plain(parse_json(data.decode("utf-8-sig"), "manifest"))
    except UnicodeDecodeError as error:
        raise ManifestRejected("not UTF-8") from error
    except TextError as error:
        raise ManifestRejected(f"line {error.line}: {error.what}") from error
    whole = _object(document, "the manifest")
    fields = _Fields(_object(whole["msg_content"], "msg_content") if "msg_content" in whole else whole)
    sha256 = fields.given("sha256")
    if sha256 is not None and not (isinstance(sha256, str) and _SHA256.fullmatch(sha256)):
        raise ManifestRejected("sha256 is not 64 hex digits")
    manifest = Manifest(
        component=component,
        version=fields.shown_or_none("version") or fields.text("id", RELEASE_PATTERN),
        is_signed=False,
        sha256=sha256.lower() if sha256 is not None else None,
        **_common(fields, is_original=True),
    )
    if manifest.cloud_path is None:
        raise ManifestRejected("cloud_path is missing")
    _check_paths(manifest)
    return manifest


def _common(fields: _Fields, *, is_original: bool = False) -> dict[str, Any]:
    """The seven fields that both kinds have."""
    file_name = fields.file_name("file_name")
    disk_path = fields.path("disk_path", is_original=is_original)
    config_path = fields.path("config_path", is_original=is_original)
    return {
        "id": fields.text("id", RELEASE_PATTERN),
        "time": parse_time(fields.needed("time")),
        "file_name": file_name,
        "cloud_path": fields.key("cloud_path"),
        "disk_path": disk_path or f"{DEFAULT_FOLDER}/{file_name}.bin",
        "config_path": config_path or DEFAULT_CONFIG_PATH,
        "confirm_receipt": fields.flag("confirm_receipt", True),
    }


def _rollout(fields: _Fields) -> Rollout:
    waves = fields.given("waves")
    if waves is None:
        waves = []
    if not isinstance(waves, list) or len(waves) > MAX_WAVES:
        raise ManifestRejected(f"rollout.waves is no list of at most {MAX_WAVES}")
    parsed = []
    for each in waves:
        wave = _Fields(_object(each, "a wave of the rollout"))
        not_before = parse_time(wave.needed("not_before"), "not_before of a wave")
        parsed.append(Wave(cohorts_of(wave.needed("percent")), not_before))
    salt = "" if fields.given("salt") == "" else fields.shown_or_none("salt") or ""
    return Rollout(salt, tuple(parsed), fields.flag("halt", False))


def cohorts_of(percent: object) -> int:
    """How many of 10,000 cohorts a percentage is. Raises: ManifestRejected."""
    if isinstance(percent, str) and _PERCENT.fullmatch(percent):
        whole, _, fraction = percent.partition(".")
        cohorts = int(whole) * 100 + int(f"{fraction:0<2}")
    elif isinstance(percent, int) and not isinstance(percent, bool):
        cohorts = percent * 100
    else:
        cohorts = -1
    if not 0 <= cohorts <= COHORTS:
        raise ManifestRejected('percent of a wave is no whole number from 0 to 100, nor a text such as "0.25"')
    return cohorts


def _agent(fields: _Fields) -> str | None:
    wanted = fields.given("agent")
    if wanted is not None and not (isinstance(wanted, str) and _VERSION.fullmatch(wanted)):
        raise ManifestRejected("requires.agent is no version such as 1.2")
    return wanted


def _check_paths(manifest: Manifest) -> None:
    disk, config = manifest.disk_path, manifest.config_path
    if disk == config:
        raise ManifestRejected(f"disk_path and config_path are both {disk!r}")
    if disk.startswith(config + "/") or config.startswith(disk + "/"):
        raise ManifestRejected("one of disk_path and config_path lies inside the other")


def check_relative(value: str, name: str) -> str:
    """A path that stays below what it is joined to. Raises: ManifestRejected."""
    segments = value.split("/")
    if value.startswith("/"):
        raise ManifestRejected(f"{name} is absolute")
    if _CONTROL.search(value):
        raise ManifestRejected(f"{name} holds a control character")
    if any(segment in ("", ".", "..") for segment in segments):
        raise ManifestRejected(f'{name} has an empty, "." or ".." segment')
    if len(value.encode()) > MAX_PATH_BYTES or len(segments) > MAX_DEPTH:
        raise ManifestRejected(f"{name} is too long")
    if any(len(segment.encode()) > MAX_NAME_BYTES + len(".bin") for segment in segments):
        raise ManifestRejected(f"a segment of {name} is longer than {MAX_NAME_BYTES} bytes")
    return value


def _object(value: object, what: str) -> Mapping[str, object]:
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
        raise ManifestRejected(f"{what} is no JSON object")
    return value


class _Fields:
    """One object's fields. A null is as if it were not there."""

    def __init__(self, values: Mapping[str, object], prefix: str = "") -> None:
        self._values = values
        self._prefix = prefix

    def given(self, name: str) -> object:
        return self._values.get(name)

    def needed(self, name: str) -> object:
        value = self._values.get(name)
        if value is None:
            raise ManifestRejected(f"{self._prefix}{name} is missing")
        return value

    def part(self, name: str) -> _Fields:
        value = self._values.get(name)
        return _Fields({} if value is None else _object(value, name), f"{name}.")

    def text(self, name: str, pattern: str) -> str:
        value = self.needed(name)
        if not isinstance(value, str) or not re.fullmatch(pattern, value):
            raise ManifestRejected(f"{self._prefix}{name} is not of the form {pattern}")
        return value

    def shown(self, name: str) -> str:
        """A text for people, one line of at most 64 characters."""
        value = self.needed(name)
        if not isinstance(value, str) or not 0 < len(value) <= 64 or _CONTROL.search(value):
            raise ManifestRejected(f"{self._prefix}{name} is no line of at most 64 characters")
        return value

    def shown_or_none(self, name: str) -> str | None:
        return None if self._values.get(name) is None else self.shown(name)

    def integer(self, name: str, default: int | None = None) -> int:
        value = self.integer_or_none(name)
        if value is not None:
            return value
        if default is None:
            raise ManifestRejected(f"{self._prefix}{name} is missing")
        return default

    def integer_or_none(self, name: str, *, most: int = MAX_INT) -> int | None:
        value = self._values.get(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
            raise ManifestRejected(f"{self._prefix}{name} is no whole number from 0 to {most}")
        return value

    def flag(self, name: str, default: bool) -> bool:
        value = self._values.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise ManifestRejected(f"{self._prefix}{name} is neither true nor false")
        return value

    def one_of(self, name: str, words: tuple[str, ...], default: str) -> str:
        value = self._values.get(name)
        if value is None:
            return default
        if not isinstance(value, str) or value not in words:
            raise ManifestRejected(f"{self._prefix}{name} is none of {', '.join(words)}")
        return value

    def file_name(self, name: str) -> str:
        value = self.needed(name)
        is_plain = isinstance(value, str) and value not in ("", ".", "..") and "/" not in value
        if not isinstance(value, str) or not is_plain or _CONTROL.search(value):
            raise ManifestRejected(f"{name} is no name of a file")
        if len(value.encode()) > MAX_NAME_BYTES:
            raise ManifestRejected(f"{name} is longer than {MAX_NAME_BYTES} bytes")
        return value

    def path(self, name: str, *, is_original: bool) -> str | None:
        value = self._values.get(name)
        if value is None or value == "":
            return None
        if not isinstance(value, str):
            raise ManifestRejected(f"{name} is no string")
        # The original counted from its working directory; we count from generated_data.
        return check_relative(value.removeprefix(f"{GENERATED}/") if is_original else value, name)

    def key(self, name: str) -> str | None:
        value = self._values.get(name)
        if value is None or value == "":
            return None
        if not isinstance(value, str) or _CONTROL.search(value) or len(value.encode()) > MAX_PATH_BYTES:
            raise ManifestRejected(f"{name} is no key of an object")
        return value


def config_text(manifest: Manifest, *, sha256: str, size_bytes: int) -> bytes:
    """What the config file holds once the release is active."""
    if manifest.config_format == "text":
        return manifest.file_name.encode()
    document = {
        "file_name": manifest.file_name,
        "sha256": sha256,
        "length": size_bytes,
        "version": manifest.version,
        "disk_path": manifest.disk_path,
    }
    return json.dumps(document, sort_keys=True).encode() + b"\n"
