"""JSON Schema for editors, made from the same classes and rules that validate."""

from __future__ import annotations

import types
from collections.abc import Mapping
from typing import Annotated, Any, Union, get_args, get_origin

import attrs

from syncagent.core.constraints import Rule, Secret
from syncagent.core.settings_files import KINDS

_SCALARS: dict[Any, dict[str, object]] = {
    str: {"type": "string"},
    bool: {"type": "boolean"},
    int: {"type": "integer"},
    float: {"type": "number"},
    object: {},
}


def json_schema(kind: str) -> dict[str, object]:
    """The schema of the files of one kind (a key of KINDS)."""
    cls = KINDS[kind]
    schema: dict[str, object] = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"syncagent {kind}",
    }
    return schema | _class_schema(cls)


def _class_schema(cls: type) -> dict[str, object]:
    attrs.resolve_types(cls)
    properties: dict[str, object] = {}
    for field in attrs.fields(cls):
        # Null is the default, for every key.
        schema: dict[str, object] = {"anyOf": [_schema(field.type), {"type": "null"}]}
        default = _default(field)
        if default is not None:
            schema["default"] = default
        properties[field.name] = schema
    schema = {"type": "object", "additionalProperties": False, "properties": properties}
    if cls.__doc__:
        schema["description"] = cls.__doc__.strip()
    return schema


def _schema(wanted: Any) -> dict[str, object]:
    origin = get_origin(wanted)
    if origin is Annotated:
        base, *marks = get_args(wanted)
        rules = [mark for mark in marks if isinstance(mark, Rule)]
        schema = {} if any(rule.is_whole for rule in rules) else _schema(base)
        for rule in rules:
            schema |= rule.schema
        if any(isinstance(mark, Secret) for mark in marks):
            schema["writeOnly"] = True
        return schema
    if origin in (Union, types.UnionType):
        choices = [each for each in get_args(wanted) if each is not type(None)]
        return _schema(choices[0]) if len(choices) == 1 else {"anyOf": [_schema(each) for each in choices]}
    if origin is tuple:
        return {"type": "array", "items": _schema(get_args(wanted)[0])}
    if origin is Mapping:
        name, entry = get_args(wanted)
        return {"type": "object", "propertyNames": _schema(name), "additionalProperties": _schema(entry)}
    if attrs.has(wanted):
        return _class_schema(wanted)
    return dict(_SCALARS[wanted])


def _default(field: Any) -> object:
    default = field.default
    if default is None or default is attrs.NOTHING or type(default).__name__ == "Factory" or attrs.has(type(default)):
        return None
    return list(default) if isinstance(default, tuple) else default
