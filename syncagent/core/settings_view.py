"""The effective configuration to look at: plain values, secrets masked, and who set each of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, get_args, get_origin

import attrs

from syncagent.core.constraints import Secret
from syncagent.core.settings import Settings

MASK = "********"
DEFAULT = "default"

Path = tuple[str, ...]


def effective(settings: Settings) -> dict[str, object]:
    """All that is active as plain values. No secret is in it; one that is not set stays None."""
    return {
        "system": _plain(settings.system),
        "addresses": {address.name: _plain(address, without="name") for address in settings.addresses},
        "tasks": {task.name: _plain(task, without="name") for task in settings.tasks},
        "devices": {name: dict(device) for name, device in settings.devices.items()},
        "messages": {name: _plain(fields) for name, fields in settings.messages.items()},
    }


def origin_of(settings: Settings, path: Path) -> str:
    """`FILE:LINE` that set the value at `path` of `effective`, or "default"."""
    return settings.origins.get(path, DEFAULT)


def origins(settings: Settings) -> dict[str, str]:
    """The origin of every value of `effective`, by dotted key."""
    return {".".join(path): origin_of(settings, path) for path, _ in _leaves(effective(settings), ())}


def as_yaml(settings: Settings, *, with_origin: bool = False) -> str:
    """`effective` as YAML; with who set each value as a comment, if asked."""
    lines: list[str] = []
    _write(effective(settings), (), lines, settings if with_origin else None)
    return "\n".join(lines) + "\n"


def _write(value: Mapping[str, object], path: Path, lines: list[str], settings: Settings | None) -> None:
    for key, child in value.items():
        indent = "  " * len(path)
        here = (*path, key)
        # JSON is YAML, and its quotes keep "off" and "08:00" strings for every reader.
        label = key if key.isidentifier() and key not in ("true", "false", "null", "yes", "no") else json.dumps(key)
        if isinstance(child, dict) and child:
            lines.append(f"{indent}{label}:")
            _write(child, here, lines, settings)
            continue
        line = f"{indent}{label}: {json.dumps(child)}"
        lines.append(line if settings is None else f"{line}  # {origin_of(settings, here)}")


def _leaves(value: object, path: Path) -> list[tuple[Path, object]]:
    if isinstance(value, dict) and value:
        return [leaf for key, child in value.items() for leaf in _leaves(child, (*path, key))]
    return [(path, value)] if path else []


def _plain(value: Any, without: str = "") -> Any:
    if attrs.has(type(value)):
        attrs.resolve_types(type(value))
        return {
            field.name: _masked(getattr(value, field.name))
            if _is_secret(field.type)
            else _plain(getattr(value, field.name))
            # What names the thing comes first.
            for field in sorted(attrs.fields(type(value)), key=lambda field: field.name not in ("id", "name"))
            if field.name != without
        }
    if isinstance(value, Mapping):
        return {key: _plain(child) for key, child in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(child) for child in value]
    return value


def _masked(value: object) -> object:
    return None if value is None else MASK


def _is_secret(wanted: Any) -> bool:
    if get_origin(wanted) is Annotated:
        return any(isinstance(mark, Secret) for mark in get_args(wanted)[1:])
    return any(_is_secret(each) for each in get_args(wanted))
