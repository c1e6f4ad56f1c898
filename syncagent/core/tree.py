"""What a configuration file says, with the file and line of every value; JSON and YAML both become this.

A Node never shows its value in a `repr`: it may be a secret. The text formats are read elsewhere.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

_TYPE_NAMES: dict[type, str] = {
    dict: "a mapping",
    list: "a list",
    str: "a string",
    bool: "true or false",
    int: "a number",
}
_TYPE_NAMES |= {float: "a number", type(None): "null"}

MAX_NODES = 20_000  # of one file, aliases counted as often as they are used
MAX_DEPTH = 32
MAX_TEXT_BYTES = 1_048_576

_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?")
_MAX_NUMBER_CHARACTERS = 64


class TextError(Exception):
    """A file is not what its ending says. The text itself is never part of this: it may hold a secret."""

    def __init__(self, what: str, *, line: int, remedy: str, path: tuple[str | int, ...] = ()) -> None:
        super().__init__(what)
        self.what = what
        self.line = line
        self.remedy = remedy
        self.path = path


class Slip(TextError):
    """A mistake that leaves the rest of the file readable: a key twice, a value that is none."""


@dataclass(frozen=True, slots=True)
class Node:
    """One value: a scalar, a dict[str, Node] or a list[Node]. The line of a member is that of its key."""

    value: object = field(repr=False)
    file: str
    line: int

    @property
    def members(self) -> dict[str, Node]:
        """The members of a mapping; empty for anything else."""
        return self.value if isinstance(self.value, dict) else {}

    @property
    def items(self) -> list[Node]:
        """The items of a list; empty for anything else."""
        return self.value if isinstance(self.value, list) else []

    def at(self, path: Iterable[str | int]) -> Node:
        """The node at `path`, or the last one on the way to it that exists."""
        node = self
        for step in path:
            if isinstance(step, int):
                if not 0 <= step < len(node.items):
                    break
                node = node.items[step]
            else:
                if step not in node.members:
                    break
                node = node.members[step]
        return node


def plain(node: Node) -> object:
    """The value without its places."""
    if isinstance(node.value, dict):
        return {key: plain(child) for key, child in node.members.items()}
    if isinstance(node.value, list):
        return [plain(child) for child in node.items]
    return node.value


def merge(base: Node, over: Node) -> Node:
    """`over` laid on `base`: mappings deeply, all else replaces; every value keeps the place that set it."""
    if not isinstance(base.value, dict) or not isinstance(over.value, dict):
        return over
    members = dict(base.members)
    for key, child in over.members.items():
        members[key] = merge(members[key], child) if key in members else child
    return Node(members, over.file, over.line)


def parse_number(text: str, *, line: int) -> int | float | None:
    """The number that `text` is in JSON, or None when it is none. Raises Slip for one out of range."""
    if not _NUMBER.fullmatch(text):
        return None
    if len(text) > _MAX_NUMBER_CHARACTERS:
        raise Slip("this number is too long", line=line, remedy="write a shorter number")
    if text.lstrip("-").isdigit():
        return int(text)
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise Slip("this number is too large", line=line, remedy="write a smaller number")
    return number


def whole_characters(text: str, *, line: int) -> str:
    """`text` with surrogate pairs joined. Raises Slip for a lone one, which no UTF-8 can carry."""
    if not any("\ud800" <= character <= "\udfff" for character in text):
        return text
    try:
        return text.encode("utf-16", "surrogatepass").decode("utf-16")
    except UnicodeDecodeError:
        raise Slip("a \\u escape names half a character", line=line, remedy="write the character itself") from None


def kind_of(value: object) -> str:
    """What a value is, in words."""
    return _TYPE_NAMES.get(type(value), "something else")


def shown(value: object) -> str:
    """A value that is not secret, short enough for one line."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


def nearest(word: str, known: Iterable[str], *, cutoff: float = 0.6) -> str | None:
    """The known word that `word` was most likely meant to be."""
    by_lower = {name.lower(): name for name in known}
    found = difflib.get_close_matches(word.lower(), by_lower, n=1, cutoff=cutoff)
    return by_lower[found[0]] if found else None


def suggestion(word: str, known: Iterable[str], *, otherwise: str) -> str:
    """The remedy for an unknown word."""
    near = nearest(word, known)
    return f'did you mean "{near}"?' if near else otherwise


def dotted(path: Iterable[str | int]) -> str:
    """`("watch", "include", 0)` as people write it: `watch.include[0]`."""
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{_short(step)}" if text else _short(step)
    return text


def _short(key: str) -> str:
    printable = "".join(character if character.isprintable() else "?" for character in key)
    return printable if len(printable) <= 60 else printable[:57] + "..."


def record_origins(origins: dict[tuple[str, ...], str], prefix: tuple[str, ...], node: Node) -> None:
    """Note for every key of a mapping, and of those in it, which file and line set it."""
    for key, child in node.members.items():
        origins[(*prefix, key)] = f"{child.file}:{child.line}"
        record_origins(origins, (*prefix, key), child)
