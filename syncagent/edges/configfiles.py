"""Reads a configuration directory: one folder per kind, one JSON or YAML file per object.

Both formats become the same tree; `core.settings_assembly` makes Settings of it. Whatever cannot be read is a
problem with its file and line. A file's text is never quoted: it may hold a secret.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping
from typing import Any

import yaml

from syncagent.core.errors import Problem
from syncagent.core.findings import Findings
from syncagent.core.jsontext import parse_json
from syncagent.core.settings import Settings
from syncagent.core.settings_assembly import ConfigFiles, assemble
from syncagent.core.settings_files import KINDS, SECRETS
from syncagent.core.tree import (
    MAX_DEPTH,
    MAX_NODES,
    MAX_TEXT_BYTES,
    Node,
    Slip,
    TextError,
    dotted,
    nearest,
    parse_number,
    whole_characters,
)

ENDINGS = (".json", ".yaml", ".yml")

_PLAIN_WORDS: dict[str, object] = {"true": True, "false": False, "null": None, "~": None, "": None}


def load_settings(
    config_dir: str, *, identity: Callable[..., str], instead: Mapping[str, bytes] | None = None
) -> Settings:
    """The settings of a directory. `identity` tells who this device is; it may raise LookupError(reason).

    It is asked for a "hostname", …; for "i2c" with the bus and the address of the part that knows. `instead`: files,
    also new ones, as they would be.

    Raises ConfigError with every problem of every file.
    """
    findings = Findings()
    files = _read_directory(config_dir, findings, instead or {})
    return assemble(files, identity=identity, findings=findings)


def fingerprint(config_dir: str) -> tuple[tuple[str, int, int, int], ...]:
    """(name, inode, size, mtime in ns) of every file that `load_settings` would read: equal while none was edited."""
    found = []
    for kind in KINDS:
        folder = os.path.join(config_dir, kind)
        try:
            names = sorted(os.listdir(folder))
        except OSError:
            continue  # `load_settings` says why, once something else has changed
        for name in names:
            if name.endswith(ENDINGS):
                path = os.path.join(folder, name)
                try:
                    status = os.stat(path)
                except OSError:
                    continue
                found.append((path, status.st_ino, status.st_size, status.st_mtime_ns))
    return tuple(found)


def identify(what: str) -> str:
    """Who this device is: its "hostname", "machine_id" or "pi_serial". Raises LookupError(reason)."""
    if what == "hostname":
        return os.uname().nodename
    places = {"machine_id": "/etc/machine-id", "pi_serial": "/sys/firmware/devicetree/base/serial-number"}
    if what not in places:
        raise LookupError("no part that knows it has been read")
    try:
        found = _read_bytes(places[what]).strip(b" \t\r\n\0").decode("ascii")
    except (OSError, TextError, UnicodeDecodeError):
        raise LookupError(f"{places[what]} cannot be read") from None
    if not found:
        raise LookupError(f"{places[what]} is empty")
    return found


def parse_text(data: bytes, file: str, *, slips: list[Slip] | None = None) -> Node:
    """The tree of one file's bytes, JSON or YAML by the ending of its name. Raises TextError; `slips` as there."""
    if len(data) > MAX_TEXT_BYTES:
        raise TextError(f"larger than {MAX_TEXT_BYTES} bytes", line=0, remedy="this is no configuration file")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise TextError("this is not UTF-8", line=line, remedy="save the file as UTF-8") from None
    parse = parse_json if file.endswith(".json") else parse_yaml
    return parse(text, file, slips=slips)


def parse_yaml(text: str, file: str, *, slips: list[Slip] | None = None) -> Node:
    """The tree of one YAML document that means what the same JSON would mean. Raises TextError; `slips` as there."""
    try:
        return _YamlReader(text, file, slips).document()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        if mark is not None:
            line = int(mark.line) + 1
        else:
            # A character that YAML does not allow; its place is counted in characters.
            line = text.count("\n", 0, int(getattr(error, "position", 0) or 0)) + 1
        remedy = "correct the YAML on or just above this line; indent with spaces, and quote odd characters"
        raise TextError("this is not YAML", line=line, remedy=remedy) from None
    except (ValueError, OverflowError):
        # PyYAML lets an escape beyond Unicode's end through to chr().
        raise TextError("an escape names no character", line=0, remedy="write the character itself") from None


class _YamlReader:
    """Builds the tree from PyYAML's events: its loader would resolve `off` and dates, and keeps no lines."""

    def __init__(self, text: str, file: str, slips: list[Slip] | None) -> None:
        self.file = file
        self.slips = slips
        self.path: list[str | int] = []
        self.events = yaml.parse(text, Loader=yaml.SafeLoader)
        self.anchors: dict[str, tuple[Node, int, int]] = {}
        self.open_anchors: set[str] = set()
        self.nodes = 0

    def document(self) -> Node:
        root: Node | None = None
        for event in self.events:
            if isinstance(event, yaml.DocumentStartEvent):
                if root is not None:
                    raise self._wrong(event, "a second document", "keep one document per file")
                root = self._value(next(self.events), 0)
        return Node(None, self.file, 1) if root is None else root

    def _wrong(self, event: Any, what: str, remedy: str) -> TextError:
        return TextError(what, line=_line(event), remedy=remedy)

    def _slip(self, found: Slip) -> None:
        found.path = tuple(self.path)
        if self.slips is None:
            raise found
        self.slips.append(found)

    def _count(self, event: Any, nodes: int) -> None:
        self.nodes += nodes
        if self.nodes > MAX_NODES:
            raise self._wrong(event, f"more than {MAX_NODES} values, aliases included", "split the file")

    def _value(self, event: Any, depth: int, *, line: int | None = None) -> Node:
        place = _line(event) if line is None else line
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event, place, depth)
        if event.tag is not None:
            raise self._wrong(event, "a tag", 'remove the word with "!": JSON has no tags')
        if depth > MAX_DEPTH:
            raise self._wrong(event, f"nested deeper than {MAX_DEPTH} levels", "nest less")
        before = self.nodes
        self._count(event, 1)
        anchor = event.anchor
        if anchor is not None:
            self.open_anchors.add(anchor)
        value: object = None
        if isinstance(event, yaml.MappingStartEvent):
            value = self._members(depth)
        elif isinstance(event, yaml.SequenceStartEvent):
            value = self._items(depth)
        else:
            try:
                value = _scalar(event)
            except Slip as slip:
                self._slip(slip)
        node = Node(value, self.file, place)
        if anchor is not None:
            self.open_anchors.discard(anchor)
            self.anchors[anchor] = (node, self.nodes - before, _height(node))
        return node

    def _alias(self, event: Any, place: int, depth: int) -> Node:
        if event.anchor in self.open_anchors:
            raise self._wrong(event, "an alias to what it stands in", "write the value itself")
        if event.anchor not in self.anchors:
            raise self._wrong(event, "an alias without its anchor", "write the value itself")
        found, nodes, height = self.anchors[event.anchor]
        self._count(event, nodes)
        if depth + height > MAX_DEPTH:
            raise self._wrong(event, f"nested deeper than {MAX_DEPTH} levels", "nest less")
        return Node(found.value, self.file, place)

    def _members(self, depth: int) -> dict[str, Node]:
        members: dict[str, Node] = {}
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            key = self._key(event)
            self.path.append(key)
            child = self._value(next(self.events), depth + 1, line=_line(event))
            if key in members:
                what = f"this key stands twice, first on line {members[key].line}"
                self._slip(Slip(what, line=_line(event), remedy="remove one of the two"))
            members.setdefault(key, child)
            self.path.pop()
        return members

    def _key(self, event: Any) -> str:
        if isinstance(event, yaml.ScalarEvent):
            if event.tag is None and event.style is None and event.value == "<<":
                raise self._wrong(event, '"<<" is not known here', 'use "inheritance"')
            found = _scalar(event)
            if isinstance(found, str) and event.tag is None and event.anchor is None:
                return found
        raise self._wrong(event, "a key that is no string", "write the key in double quotes")

    def _items(self, depth: int) -> list[Node]:
        items: list[Node] = []
        while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
            self.path.append(len(items))
            items.append(self._value(event, depth + 1))
            self.path.pop()
        return items


def _height(node: Node) -> int:
    children = [*node.members.values(), *node.items]
    return 1 + max(map(_height, children)) if children else 0


def _line(event: Any) -> int:
    return int(event.start_mark.line) + 1


def _scalar(event: Any) -> object:
    text = str(event.value)
    # Only a plain scalar can be other than a string, and only if JSON would read it so.
    if event.style is None:
        if text in _PLAIN_WORDS:
            return _PLAIN_WORDS[text]
        number = parse_number(text, line=_line(event))
        if number is not None:
            return number
    return whole_characters(text, line=_line(event))


def _read_directory(config_dir: str, findings: Findings, instead: Mapping[str, bytes]) -> ConfigFiles:
    objects: dict[str, dict[str, Node]] = {}
    unreadable: dict[str, frozenset[str]] = {}
    ignored: dict[str, str] = {}
    folders = {os.path.dirname(path) for path in instead}
    there = _names(config_dir, findings, remedy="say where it is with --config-dir")
    for name in sorted({*there, *map(os.path.basename, folders)}):
        path = os.path.join(config_dir, name)
        if not os.path.isdir(path) and path not in folders:
            if name in KINDS:
                # Taken for one that is not there, it would make all that is active, under another name.
                what = "this is no folder, or a link to none"
                findings.add(Problem(_printable(path), 0, "", what, "put a folder there, or remove it"))
            elif name.endswith(ENDINGS):
                ignored[name] = f"{_printable(path)}: ignored: files are read from the folders of their kinds only"
        elif name in KINDS:
            objects[name], unreadable[name] = _read_folder(path, name, findings, instead)
        elif not _is_configuration(path):
            near = name.lower() if name.lower() in KINDS else nearest(name, KINDS, cutoff=0.8)
            if near:
                remedy = f'rename it to "{near}"'
                findings.add(Problem(_printable(path), 0, "", "this folder is of no kind that is known", remedy))
            else:
                ignored[name] = f"{_printable(path)}: ignored: this folder is of no kind that is ours"
    return ConfigFiles(_printable(config_dir), objects, unreadable, ignored)


def _is_configuration(path: str) -> bool:
    """Whether a folder is a whole configuration of its own, as an example beside the one in use."""
    return any(os.path.isdir(os.path.join(path, kind)) for kind in KINDS)


def _names(path: str, findings: Findings, *, remedy: str) -> list[str]:
    try:
        return sorted(name for name in os.listdir(path) if not name.startswith("."))
    except FileNotFoundError:
        findings.add(Problem(_printable(path), 0, "", "there is no such directory", remedy))
    except NotADirectoryError:
        findings.add(Problem(_printable(path), 0, "", "this is no directory", remedy))
    except OSError as error:
        what = f"this directory cannot be read ({error.strerror})"
        findings.add(Problem(_printable(path), 0, "", what, "let this user read it"))
    return []


class _AnyName(frozenset[str]):
    """What a folder that cannot be listed may hold: nobody can say of a name that it is not there."""

    def __contains__(self, name: object) -> bool:
        return True

    def __bool__(self) -> bool:
        return True


def _read_folder(
    path: str, kind: str, findings: Findings, instead: Mapping[str, bytes]
) -> tuple[dict[str, Node], frozenset[str]]:
    found: dict[str, Node] = {}
    unreadable: set[str] = set()
    files: dict[str, str] = {}
    new = {os.path.basename(file) for file in instead if os.path.dirname(file) == path}
    already = len(findings)
    there = _names(path, findings, remedy="add it again") if not new or os.path.isdir(path) else []
    is_listed = len(findings) == already
    for entry in sorted({*there, *new}):
        name, ending = os.path.splitext(entry)
        file = os.path.join(path, entry)
        if ending not in ENDINGS or os.path.isdir(file):
            continue
        if name in files:
            what = f"{_printable(files[name])} has the same name"
            findings.add(Problem(_printable(file), 0, "", what, "keep one of the two"))
            continue
        files[name] = file
        node, is_whole = _read_file(kind, name, file, findings, instead.get(file))
        if node is not None:
            found[name] = node
        if not is_whole:
            unreadable.add(name)
    return found, frozenset(unreadable) if is_listed else _AnyName()


def _read_file(kind: str, name: str, file: str, findings: Findings, data: bytes | None) -> tuple[Node | None, bool]:
    """What can be read of a file, and whether that is all that it says. What is wrong has been reported."""
    label = _printable(file)
    if not name.isprintable() or name != name.strip() or "$" in name:
        remedy = 'use printable characters, no "$", and no space at either end'
        findings.add(Problem(label, 0, "", "this file's name cannot be the name of an object", remedy))
        return None, False
    slips: list[Slip] = []
    node: Node | None = None
    try:
        node = parse_text(_read_bytes(file) if data is None else data, label, slips=slips)
        if not isinstance(node.value, dict):
            raise TextError("this is no mapping", line=node.line, remedy="put the keys into { ... }")
    except OSError as error:
        what = f"this file cannot be read ({error.strerror})"
        findings.add(Problem(label, 0, "", what, "let this user read it, or remove it"))
        return None, False
    except TextError as error:
        findings.add(Problem(label, error.line, "", error.what, error.remedy))
        node = None
    for slip in slips:
        findings.add(Problem(label, slip.line, dotted(_without_secrets(kind, slip.path)), slip.what, slip.remedy))
    return node, node is not None and not slips


def _without_secrets(kind: str, path: tuple[str | int, ...]) -> tuple[str | int, ...]:
    """A path as far as a secret value: what stands in the place of one may be the secret."""
    secrets = SECRETS.get(kind, frozenset())
    return next((path[:end] for end in range(len(path) + 1) if path[:end] in secrets), path)


def _read_bytes(file: str) -> bytes:
    # Not blocking, because a FIFO of this name would hold the start of the agent for ever.
    with open(os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as stream:
        if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
            raise TextError("this is no regular file", line=0, remedy="remove it")
        return stream.read(MAX_TEXT_BYTES + 1)


def _printable(path: str) -> str:
    return os.fsencode(path).decode("utf-8", "backslashreplace")
