"""JSON text to a tree that remembers lines: RFC 8259, and a key twice is an error.

The standard parser keeps neither the place of a value nor a second key of the same name. A mistake is
told by its line and never quoted.
"""

from __future__ import annotations

import bisect
import json
import re
from json.decoder import scanstring  # type: ignore[attr-defined]

from syncagent.core.tree import MAX_DEPTH, MAX_NODES, Node, Slip, TextError, parse_number, whole_characters

_SPACE = re.compile(r"[ \t\n\r]*")
_WORD = re.compile(r"[-+.A-Za-z0-9_]+")
_LITERALS: dict[str, object] = {"true": True, "false": False, "null": None}


def parse_json(text: str, file: str, *, slips: list[Slip] | None = None) -> Node:
    """The tree of one JSON document. Raises TextError.

    With `slips` these are added to it, each with its path, and the tree has null in their place.
    """
    reader = _Reader(text, file, slips)
    node = reader.value(reader.skip(0), 0)
    if reader.skip(reader.end) != len(text):
        raise reader.wrong("there is text after the end of the document", reader.skip(reader.end))
    return node


class _Reader:
    def __init__(self, text: str, file: str, slips: list[Slip] | None) -> None:
        self.text = text
        self.file = file
        self.slips = slips
        self.path: list[str | int] = []
        self.end = 0
        self.nodes = 0
        self._line_starts = [0, *(match.end() for match in re.finditer(r"\r\n|\n|\r", text))]

    def line(self, at: int) -> int:
        return bisect.bisect_right(self._line_starts, at)

    def wrong(self, what: str, at: int, *, remedy: str = "correct the JSON on or just above this line") -> TextError:
        return TextError(what, line=self.line(min(at, len(self.text))), remedy=remedy)

    def slip(self, found: Slip) -> None:
        found.path = tuple(self.path)
        if self.slips is None:
            raise found
        self.slips.append(found)

    def skip(self, at: int) -> int:
        match = _SPACE.match(self.text, at)
        return match.end() if match else at

    def value(self, at: int, depth: int, *, line: int | None = None) -> Node:
        """The value at `at`; `self.end` is just behind it afterwards. `line` is that of its key."""
        self.nodes += 1
        if depth > MAX_DEPTH:
            raise self.wrong(f"nested deeper than {MAX_DEPTH} levels", at, remedy="nest less")
        if self.nodes > MAX_NODES:
            raise self.wrong(f"more than {MAX_NODES} values", at, remedy="split the file")
        place = self.line(at) if line is None else line
        first = self.text[at : at + 1]
        if first == "{":
            return Node(self._members(at, depth), self.file, place)
        if first == "[":
            return Node(self._items(at, depth), self.file, place)
        value: object = None
        try:
            value = self._string(at) if first == '"' else self._word(at)
        except Slip as slip:  # it is read to its end all the same
            self.slip(slip)
        return Node(value, self.file, place)

    def _members(self, at: int, depth: int) -> dict[str, Node]:
        members: dict[str, Node] = {}
        at = self.skip(at + 1)
        if self.text[at : at + 1] == "}":
            self.end = at + 1
            return members
        while True:
            if self.text[at : at + 1] != '"':
                raise self.wrong("a key in double quotes is missing here", at)
            line = self.line(at)
            key = self._string(at)
            at = self.skip(self.end)
            if self.text[at : at + 1] != ":":
                raise self.wrong('a ":" is missing after a key', at)
            self.path.append(key)
            child = self.value(self.skip(at + 1), depth + 1, line=line)
            if key in members:
                what = f"this key stands twice, first on line {members[key].line}"
                self.slip(Slip(what, line=line, remedy="remove one of the two"))
            members.setdefault(key, child)
            self.path.pop()
            at = self._after_member(self.skip(self.end), "}")
            if at < 0:
                return members

    def _items(self, at: int, depth: int) -> list[Node]:
        items: list[Node] = []
        at = self.skip(at + 1)
        if self.text[at : at + 1] == "]":
            self.end = at + 1
            return items
        while at >= 0:
            self.path.append(len(items))
            items.append(self.value(at, depth + 1))
            self.path.pop()
            at = self._after_member(self.skip(self.end), "]")
        return items

    def _after_member(self, at: int, closing: str) -> int:
        """Where the next member starts, or -1 after the closing bracket."""
        found = self.text[at : at + 1]
        if found == closing:
            self.end = at + 1
            return -1
        if found != ",":
            raise self.wrong(f'a "," or the closing "{closing}" is missing', at)
        return self.skip(at + 1)

    def _string(self, at: int) -> str:
        try:
            text, self.end = scanstring(self.text, at + 1, True)
        except json.JSONDecodeError as error:
            raise self.wrong(
                "a string has no closing quote, or holds a line break or a wrong escape", error.pos
            ) from None
        return whole_characters(text, line=self.line(at))

    def _word(self, at: int) -> object:
        match = _WORD.match(self.text, at)
        word = match.group() if match else ""
        self.end = at + len(word)
        if word in _LITERALS:
            return _LITERALS[word]
        if word.lstrip("-+") in ("NaN", "Infinity"):
            remedy = "write a number, or null for the default"
            raise Slip("NaN and Infinity are not values", line=self.line(at), remedy=remedy)
        number = parse_number(word, line=self.line(at)) if word else None
        if number is None:
            raise self.wrong("a value is missing or malformed here", at)
        return number
