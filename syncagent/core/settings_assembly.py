"""From the files of a configuration directory to Settings: inheritance, keywords, rules, and what is active.

Every mistake in every file is found before any is told. Only what is active must be complete; parents and
inactive objects are checked for everything else. Reading files and the device's identity are the caller's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import attrs

from syncagent.core.constraints import BadValueError
from syncagent.core.constraints import system_id as system_id_rule
from syncagent.core.devices import LIMITS, device_of
from syncagent.core.errors import ConfigError, Problem
from syncagent.core.findings import Findings
from syncagent.core.inheritance import heirs, inherit
from syncagent.core.keywords import IDENTITIES, replace_keywords
from syncagent.core.ownership import judge_ownership, text_at
from syncagent.core.parts import PARTS
from syncagent.core.settings import (
    MessageFields,
    SendAddress,
    Settings,
    System,
    SystemKeys,
)
from syncagent.core.settings_files import KINDS, SECRETS, DeviceFile, MessageFile, SystemFile
from syncagent.core.settings_routes import Routes
from syncagent.core.settings_structure import structure
from syncagent.core.tree import Node, record_origins
from syncagent.core.visitors import is_loopback, parse_listen

T = TypeVar("T")

#: Stands for the id of a device that could not tell it; a problem has been reported then.
_NO_ID = "unknown"
#: A list that a wrong system file does not have: all that is there is not asked to be complete then.
_NONE = Node([], "", 0)


@dataclass
class ConfigFiles:
    """What was read: `objects[kind][name]`; what could not be read is in `unreadable[kind]`, and reported. `ignored`
    says why, by name, of what lies beside the folders of the kinds."""

    config_dir: str
    objects: Mapping[str, Mapping[str, Node]]
    unreadable: Mapping[str, frozenset[str]] = field(default_factory=dict)
    ignored: Mapping[str, str] = field(default_factory=dict)


def assemble(files: ConfigFiles, *, identity: Callable[..., str], findings: Findings) -> Settings:
    """The settings that these files make. Raises ConfigError with every problem, `findings` included.

    `identity` is asked with a word, and for "i2c" with the bus and the address of the part that knows.
    """
    given = {kind: files.objects.get(kind, {}) for kind in KINDS}
    whole = {}
    for kind in KINDS:
        whole[kind] = inherit(
            given[kind],
            kind=kind,
            unreadable=files.unreadable.get(kind, frozenset()),
            report=_own_reporter(findings),
        )
    assembly = _Assembly(files, given, whole, findings)
    settings = assembly.settings(identity)
    if len(findings):
        raise ConfigError(findings.problems())
    return settings


def _own_reporter(findings: Findings) -> Callable[[Node, str, str, str], None]:
    def report(node: Node, key: str, what: str, remedy: str) -> None:
        findings.add(Problem(node.file, node.line, key, what, remedy))

    return report


class _Assembly:
    def __init__(
        self,
        files: ConfigFiles,
        given: Mapping[str, Mapping[str, Node]],
        whole: Mapping[str, Mapping[str, Node]],
        findings: Findings,
    ) -> None:
        self.files = files
        self.given = given
        self.whole = whole
        self.findings = findings
        self.ownership = judge_ownership(whole, given, findings)
        self.origins: dict[tuple[str, ...], str] = {}

    def settings(self, identity: Callable[..., str]) -> Settings:
        wanted, system = self._system(identity)
        self._check_all(system.id)
        routes = Routes(
            self.given,
            self.whole,
            unreadable=self.files.unreadable,
            findings=self.findings,
            ownership=self.ownership,
            system_id=system.id,
            origins=self.origins,
        )
        addresses = routes.addresses(wanted.get("addresses"))
        tasks = routes.tasks(wanted.get("tasks"))
        devices, messages = self._devices(), self._messages(system.id)
        self._check_places(devices)
        if not addresses and not tasks and not len(self.findings):
            place = next(iter(self.files.objects.get("system", {}).values()), None)
            self.findings.add(
                Problem(
                    place.file if place else self.files.config_dir,
                    0,
                    "",
                    "nothing active remains: there is no address or task for an s3 carrier",
                    "add a file to addresses/, or name one in the system file",
                )
            )
        # The root of trust lies there as well, and is not ignored at all.
        roots = {(task.carrier.firmware.root or "").partition("/")[0] for task in tasks}
        ignored = (why for name, why in self.files.ignored.items() if name not in roots)
        warnings = (*ignored, *self.ownership.warnings, *_slow(addresses, system))
        return Settings(
            system=system,
            addresses=tuple(addresses),
            tasks=tuple(tasks),
            devices=devices,
            messages=messages,
            warnings=warnings,
            origins=self.origins,
        )

    def _system(self, identity: Callable[..., str]) -> tuple[dict[str, Node], System]:
        """This system, and its lists of what is active; a list that is not there means all."""
        objects = self.files.objects.get("system", {})
        if len(objects) > 1:
            names = ", ".join(sorted(node.file for node in objects.values()))
            for node in list(objects.values())[1:]:
                what = f"there is more than one system file ({names})"
                self.findings.add(
                    Problem(node.file, 0, "", what, "keep one: a configuration directory is for one system")
                )
        name, node = next(iter(self.whole["system"].items()), ("", Node({}, self.files.config_dir, 0)))
        is_certain = bool(name) or not (objects or self.files.unreadable.get("system"))
        if not name and objects:
            name, node = next(iter(objects.items()))
        report = self.findings.reporter(node, f"system/{name}")
        written = node.members.get("id")
        identifier = Node("$hostname", node.file, node.line) if written is None or written.value is None else written
        text = identifier.value
        is_asked = isinstance(text, str) and text.startswith("$") and text[1:] in IDENTITIES
        if is_asked:
            found = _identify(identity, str(text)[1:], *(self._identity_place() if text == "$i2c" else ()))
            if isinstance(found, BadValueError):
                report(identifier, "id", found.what, found.remedy)
            else:
                identifier = Node(found, identifier.file, identifier.line)
            node = Node({key: child for key, child in node.members.items() if key != "id"}, node.file, node.line)
        node = self._replaced("system", node, {"name": name} if name else {}, report)
        if not is_asked:
            identifier = node.members["id"]
        parsed = structure(node, SystemFile, report)
        lists: dict[str, Node] = {
            key: node.members[key]
            for key in ("addresses", "tasks")
            if key in node.members and node.members[key].value is not None
        }
        if parsed is None or not is_certain:
            return {"addresses": _NONE, "tasks": _NONE, **lists}, System(id=_NO_ID)
        listen = parsed.web.listen
        if listen and not parsed.web.password and not is_loopback(parse_listen(listen)[0]):
            what = f'"{listen}" can be reached from outside, and there is no password'
            report(node.at(["web", "listen"]), "web.listen", what, "set web.password, or listen on 127.0.0.1")
        if name:
            record_origins(self.origins, ("system",), node)
            if written is not None:
                self.origins[("system", "id")] = f"{identifier.file}:{identifier.line}"
        known = {each.name: getattr(parsed, each.name) for each in attrs.fields(SystemKeys)}
        id_text = identifier.value if isinstance(identifier.value, str) else _NO_ID
        tidied = _NO_ID if id_text.startswith("$") else id_text.removeprefix("/").removesuffix("/")
        return lists, System(id=tidied, **known)

    def _check_all(self, system_id: str) -> None:
        """Report what is wrong in any object that is ours, used or not."""
        for kind, cls in KINDS.items():
            if kind == "system":
                continue
            for name, node in {**self.given[kind], **self.whole[kind]}.items():
                if not self._is_ours(kind, name):
                    continue
                report = self.findings.reporter(node, f"{kind}/{name}")
                words = {"name": name, "system_id": system_id}
                if kind != "devices":
                    words["msg_type"] = name if kind == "messages" else "msg_type"
                parsed = structure(self._replaced(kind, node, words, report), cls, report)
                if kind == "addresses" and text_at(node, "send_or_receive") == "receive":
                    what = "receiving is not defined for an s3 carrier"
                    report(node.members["send_or_receive"], "send_or_receive", what, 'use "send"')
                if kind == "devices" and isinstance(parsed, DeviceFile):
                    self._check_device(node, parsed, report)

    def _is_ours(self, kind: str, name: str) -> bool:
        if name in self.whole[kind]:
            return self.ownership.is_ours(kind, name)
        return self.ownership.is_ours_alone(kind, self.given[kind][name], self.given["carriers"])

    def _check_device(self, node: Node, device: DeviceFile, report: Callable[[Node, str, str, str], None]) -> None:
        for low, high in (
            ("pause_below_percent", "resume_above_percent"),
            ("pause_below_v", "resume_above_v"),
            ("resume_below_c", "pause_above_c"),
        ):
            lower, upper = getattr(device, low), getattr(device, high)
            if lower is not None and upper is not None and lower > upper:
                report(node.at([high]), high, f"{upper:g} is below {low}, {lower:g}", f"give {lower:g} or more")
        if device.source is None:
            return
        measured = PARTS[device.source].quantities
        for quantity, keys in LIMITS.items():
            for key in keys:
                if getattr(device, key) is not None and quantity not in measured:
                    what = f'"{device.source}" does not measure that'
                    report(node.at([key]), key, what, f"it measures {' and '.join(measured) or 'nothing'}")

    def _check_places(self, devices: Mapping[str, Mapping[str, Any]]) -> None:
        """Two parts cannot share an address: one of the files is a mistake, and its part would seem to lie."""
        takers: dict[str, str] = {}
        parents = {name for name, found in heirs(self.whole["devices"]).items() if found}
        for name, values in sorted(devices.items()):
            if name in parents:
                continue  # a pattern for others
            place = device_of(name, values).place
            first = takers.setdefault(place, name)
            if first != name:
                node = self.whole["devices"][name]
                report = self.findings.reporter(node, f"devices/{name}")
                key = "address" if "address" in node.members else "source"
                what = f"devices/{first} is at {place}, too"
                report(node.at([key]), key, what, "give each part its own address, or remove one of the two files")

    def _identity_place(self) -> tuple[int, ...]:
        """Bus and address of the first part that holds an identity; nothing when no file names one."""
        for name, node in sorted(self.whole["devices"].items()):
            parsed = self._quiet("devices", name, node, DeviceFile)
            if parsed is not None and parsed.source == "at24mac":
                device = device_of(name, attrs.asdict(parsed))
                return device.bus, device.address
        return ()

    def _devices(self) -> dict[str, Mapping[str, Any]]:
        parents = {name for name, found in heirs(self.whole["devices"]).items() if found}
        found: dict[str, Mapping[str, Any]] = {}
        for name, node in self.whole["devices"].items():
            parsed = self._quiet("devices", name, node, DeviceFile)
            if parsed is None:
                continue
            if parsed.source is None:
                if name not in parents:
                    report = self.findings.reporter(node, f"devices/{name}")
                    report(node, "source", "this key is missing", 'name the part, as in "source": "ds3231"')
                continue
            values = attrs.asdict(parsed)
            del values["inheritance"]
            found[name] = values
            record_origins(self.origins, ("devices", name), node)
        return found

    def _messages(self, system_id: str) -> dict[str, MessageFields]:
        found: dict[str, MessageFields] = {}
        for name, node in self.whole["messages"].items():
            parsed = self._quiet("messages", name, node, MessageFile, system_id=system_id)
            if parsed is not None:
                found[name] = MessageFields(id_field=parsed.id_field, time_field=parsed.time_field)
                record_origins(self.origins, ("messages", name), node)
        return found

    def _quiet(self, kind: str, name: str, node: Node, cls: type[T], system_id: str = "") -> T | None:
        """The parsed object; what is wrong with it was already reported."""
        words = {"name": name, "msg_type": name, "system_id": system_id}
        return structure(self._replaced(kind, node, words, _say_nothing), cls, _say_nothing)

    def _replaced(self, kind: str, node: Node, words: Mapping[str, str], report: Any) -> Node:
        return replace_keywords(node, words, literal=SECRETS.get(kind, frozenset()), report=report)


def _slow(addresses: Sequence[SendAddress], system: System) -> list[str]:
    """Addresses that gather for longer than a file may stay unsent: the status would be unhealthy before each tick."""
    limit_s = system.health.max_unsent_s
    return [
        f"addresses/{address.name}: a duration of {address.duration:g} s is above health.max_unsent_s, {limit_s:g}:"
        " files that only wait for their turn make the status unhealthy"
        for address in addresses
        if not isinstance(address.duration, str) and address.duration > limit_s
    ]


def _say_nothing(node: Node, key: str, what: str, remedy: str) -> None:
    pass


def _identify(identity: Callable[..., str], what: str, *place: int) -> str | BadValueError:
    try:
        found = identity(what, *place)
        return str(system_id_rule.check(found))
    except LookupError as error:
        reason = str(error.args[0]) if error.args else "it is not known"
        return BadValueError(f"${what}: {reason}", 'give this device an id of its own, as in "id": "field-7"')
    except BadValueError as error:
        return BadValueError(f"${what}: {error.what}", 'give this device an id of its own, as in "id": "field-7"')
