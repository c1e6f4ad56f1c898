"""From a tree to the class of its kind: no value is coerced, every mistake is reported with its place.

The rules come from the annotations of the classes. A secret value is never part of a report.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Annotated, Any, TypeVar, get_args, get_origin

import attrs
from cattrs import BaseConverter, Converter
from cattrs.errors import (
    BaseValidationError,
    ClassValidationError,
    ForbiddenExtraKeysError,
    IterableValidationError,
    IterableValidationNote,
)
from cattrs.gen import make_dict_structure_fn

from syncagent.core.constraints import BadValueError, Rule, Secret
from syncagent.core.inheritance import Report
from syncagent.core.tree import Node, dotted, kind_of, plain, shown, suggestion

T = TypeVar("T")
Hook = Callable[[Any, Any], Any]
Path = tuple[str | int, ...]


def structure(node: Node, cls: type[T], report: Report) -> T | None:
    """The value that `node` says, or None after every mistake in it was reported."""
    try:
        return _converter().structure(plain(node), cls)
    except (BaseValidationError, BadValueError) as error:
        for path, what, remedy in _mistakes(error, (), cls):
            report(node.at(path), dotted(path), what, remedy)
        return None


@functools.cache
def _converter() -> Converter:
    """A converter that takes nothing for something else. Kept: making one compiles a function per class."""
    converter = Converter(detailed_validation=True, forbid_extra_keys=True)
    converter.register_structure_hook(str, _strict_hook(str))
    converter.register_structure_hook(bool, _strict_hook(bool))
    converter.register_structure_hook(int, _strict_hook(int))
    converter.register_structure_hook(float, _strict_hook(float))
    converter.register_structure_hook_factory(_has_origin(tuple), _list_hook)
    converter.register_structure_hook_factory(_has_origin(Mapping), _map_hook)
    converter.register_structure_hook_factory(_has_origin(Annotated), _annotated_hook)
    converter.register_structure_hook_factory(attrs.has, _class_hook)
    return converter


def _has_origin(origin: Any) -> Callable[[Any], bool]:
    return lambda wanted: get_origin(wanted) is origin


def _strict_hook(cls: Any) -> Hook:
    wanted = {str: "a string", bool: "true or false", int: "a whole number", float: "a number"}[cls]

    def hook(value: Any, _: Any) -> Any:
        # A bool is an int to Python, and an int is welcome where a float is wanted.
        if type(value) is cls or (cls is float and type(value) is int):
            return cls(value)
        remedy = f"give {wanted}"
        if isinstance(value, str) and cls is not str:
            remedy += ", without quotes"
        elif cls is str and isinstance(value, bool | int | float):
            remedy += f': "{shown(value)}"'
        raise BadValueError(f"{_described(value)} is not {wanted}", remedy)

    return hook


def _described(value: Any) -> str:
    scalar = isinstance(value, str | bool | int | float)
    return f"{kind_of(value)} ({shown(value)})" if scalar else kind_of(value)


def _list_hook(wanted: Any, converter: BaseConverter) -> Hook:
    item = get_args(wanted)[0]
    structure_item = converter.get_structure_hook(item)

    def hook(value: Any, _: Any) -> tuple[Any, ...]:
        if not isinstance(value, list):
            raise BadValueError(f"{kind_of(value)} is not a list", "write it in brackets: [ ... ]")
        return tuple(_each(enumerate(value), structure_item, item).values())

    return hook


def _map_hook(wanted: Any, converter: BaseConverter) -> Hook:
    name, item = get_args(wanted)
    structure_name = converter.get_structure_hook(name)
    structure_item = None if item is object else converter.get_structure_hook(item)

    def hook(value: Any, _: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise BadValueError(f"{kind_of(value)} is not a mapping", "write it in braces: { ... }")
        if structure_item is None:
            return dict(value)
        found = _each(((key, (key, entry)) for key, entry in value.items()), structure_entry, item)
        # Null is the default, and the default of an entry is not to be there.
        return {key: entry for key, entry in found.items() if entry is not None}

    def structure_entry(named: tuple[str, Any], _: Any) -> Any:
        key, entry = named
        structure_name(key, name)
        return None if entry is None or structure_item is None else structure_item(entry, item)

    return hook


def _each(entries: Any, structure_item: Hook, item: Any) -> dict[Any, Any]:
    found: dict[Any, Any] = {}
    errors: list[Exception] = []
    for index, entry in entries:
        try:
            found[index] = structure_item(entry, item)
        except (BaseValidationError, BadValueError) as error:
            error.__notes__ = [IterableValidationNote("", index, item)]
            errors.append(error)
    if errors:
        raise IterableValidationError("items", errors, dict)
    return found


def _annotated_hook(wanted: Any, converter: BaseConverter) -> Hook:
    base, *marks = get_args(wanted)
    rules = [mark for mark in marks if isinstance(mark, Rule)]
    is_secret = any(isinstance(mark, Secret) for mark in marks)
    structure_base = None if any(rule.is_whole for rule in rules) else converter.get_structure_hook(base)

    def hook(value: Any, _: Any) -> Any:
        try:
            found = value if structure_base is None else structure_base(value, base)
            for rule in rules:
                found = rule.check(found)
        except (BaseValidationError, BadValueError):
            if not is_secret:
                raise
            kind = "an empty string" if value == "" else kind_of(value)
            raise BadValueError(f"{kind} is not a secret", "give a string, or null for none") from None
        return found

    return hook


def _class_hook(cls: Any, converter: BaseConverter) -> Hook:
    structure_fields = make_dict_structure_fn(
        cls, converter, _cattrs_forbid_extra_keys=True, _cattrs_detailed_validation=True
    )
    known = {each.name for each in attrs.fields(cls)}

    def hook(value: Any, wanted: Any) -> Any:
        if not isinstance(value, dict):
            raise BadValueError(f"{kind_of(value)} is not a mapping", "write it in braces: { ... }")
        # Null is the default. An unknown key stays, to be named as one.
        given = {key: entry for key, entry in value.items() if entry is not None or key not in known}
        return structure_fields(given, wanted)

    return hook


def _mistakes(error: Exception, path: Path, root: type) -> list[tuple[Path, str, str]]:
    if isinstance(error, BadValueError):
        return [(path, error.what, error.remedy)]
    if isinstance(error, ForbiddenExtraKeysError):
        return [
            ((*path, key), "unknown key", _unknown_remedy(key, error.cl, path, root))
            for key in sorted(error.extra_fields)
        ]
    found: list[tuple[Path, str, str]] = []
    if isinstance(error, ClassValidationError):
        named, others = error.group_exceptions()
        for each, note in named:
            found += _mistakes(each, (*path, note.name), root)
    elif isinstance(error, IterableValidationError):
        indexed, others = error.group_exceptions()
        for each, place in indexed:
            found += _mistakes(each, (*path, place.index), root)
    else:
        # Its text may quote the value, so only the class is told.
        return [(path, f"this has the wrong form ({type(error).__name__})", "compare it with the documentation")]
    for each in others:
        found += _mistakes(each, path, root)
    return found


def _unknown_remedy(key: str, cls: type, path: Path, root: type) -> str:
    known = [field.name for field in attrs.fields(cls)]
    outer = [field.name for field in attrs.fields(root)]
    for group in attrs.fields(root):
        members = [field.name for field in attrs.fields(group.type)] if attrs.has(group.type or object) else []
        if key in members and (group.name,) != path:
            return f'it belongs into "{group.name}"'
    if path and key in outer:
        return "it belongs outside, beside this group"
    if key == "sub_path" and "additional_info" in outer:
        return 'it belongs into "additional_info"'
    return suggestion(key, known, otherwise=f"known here are {', '.join(known)}")
