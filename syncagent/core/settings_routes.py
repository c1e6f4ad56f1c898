"""The active addresses and tasks, each with its carrier as it is for that one use.

A carrier is resolved per use, because `$msg_type` in it is the message type of whoever uses it. What an
object that is not active lacks is its own affair.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

import attrs

from syncagent.core.errors import Problem
from syncagent.core.findings import Findings
from syncagent.core.inheritance import Report, heirs
from syncagent.core.keywords import replace_keywords
from syncagent.core.manifest import COMPONENT_PATTERN
from syncagent.core.ownership import Ownership, text_at
from syncagent.core.settings import Carrier, CarrierKeys, HandlerSettings, SendAddress, Task
from syncagent.core.settings_files import (
    SECRETS,
    TASK_FUNCTION,
    AdditionalInfo,
    AddressFile,
    CarrierFile,
    HandlerFile,
    TaskFile,
)
from syncagent.core.settings_structure import structure
from syncagent.core.tree import Node, dotted, plain, record_origins, shown, suggestion

T = TypeVar("T")
Objects = Mapping[str, Node]

#: What an active object must say, and how.
_NEEDED = {
    "addresses": {
        "message_type": 'say what it sends, as in "message_type": "image_info"',
        "carrier": "name a file of carriers/",
        "duration": "use on_change, on_message, as_needed or a number of seconds",
    },
    "tasks": {
        "message_type": 'say what it waits for, as in "message_type": "firmware_image"',
        "config_name": "name a file of carriers/",
        "function": f'say "function": "{TASK_FUNCTION}"',
    },
}

#: The keys that name an object of another kind.
_NAMES = {"addresses": {"carrier": "carriers", "handler": "handlers"}, "tasks": {"config_name": "carriers"}}


@dataclass(frozen=True)
class _Use:
    """One object for one message type."""

    kind: str
    name: str
    configured_name: str
    message_type: str
    node: Node
    report: Report


class Routes:
    """Builds addresses and tasks of objects that have what they inherit; reports what keeps one from use."""

    def __init__(
        self,
        given: Mapping[str, Objects],
        whole: Mapping[str, Objects],
        *,
        unreadable: Mapping[str, frozenset[str]],
        findings: Findings,
        ownership: Ownership,
        system_id: str,
        origins: dict[tuple[str, ...], str],
    ) -> None:
        self.given = given
        self.whole = whole
        self.unreadable = unreadable
        self.findings = findings
        self.ownership = ownership
        self.system_id = system_id
        self.origins = origins

    def addresses(self, wanted: Node | None) -> list[SendAddress]:
        """The active addresses; `wanted` is the system file's list, None for all."""
        found = [self._address(use) for use in self._uses("addresses", wanted)]
        return [address for address in found if address is not None]

    def tasks(self, wanted: Node | None) -> list[Task]:
        """The active tasks; `wanted` is the system file's list, None for all."""
        found = [self._task(use) for use in self._uses("tasks", wanted)]
        tasks = [task for task in found if task is not None]
        self._check_components(tasks)
        return tasks

    def _check_components(self, tasks: list[Task]) -> None:
        """A component's firmware comes from one place: of two, one would never be looked at."""
        first: dict[str, Task] = {}
        for task in tasks:
            component = task.carrier.firmware.component or task.carrier.name
            if not re.fullmatch(COMPONENT_PATTERN, component):
                self._report_nameless(task)
                continue
            other = first.setdefault(component, task)
            if other.carrier == task.carrier:
                continue
            node = self.whole["carriers"][task.carrier.name]
            report = self.findings.reporter(node, f"carriers/{task.carrier.name}")
            where = self.whole["carriers"][other.carrier.name].file
            what = f'the component "{component}" gets its firmware from {where} already (task {other.name})'
            remedy = (
                f'give one of them another firmware.component, or leave one of the tasks out of "tasks": {task.name}'
            )
            report(node.at(["firmware", "component"]), "firmware.component", what, remedy)

    def _report_nameless(self, task: Task) -> None:
        """By default a component is called as its carrier is, and that may be no name that a publisher can give."""
        node = self.whole["carriers"][task.carrier.name]
        report = self.findings.reporter(node, f"carriers/{task.carrier.name}")
        what = f"the carrier's name, {shown(task.carrier.name)}, cannot be a component's"
        remedy = 'name the component, with letters, digits, "_" and "-"'
        report(node.at(["firmware", "component"]), "firmware.component", what, remedy)

    def _uses(self, kind: str, wanted: Node | None) -> list[_Use]:
        uses: dict[str, _Use] = {}
        ours = [each for each in self.whole[kind] if self.ownership.is_ours(kind, each)]
        by_configured = {each: self._split(kind, each) for each in ours}
        by_split = {use.name: use for each in by_configured.values() for use in each}
        if wanted is None:
            parents = {name for name, found in heirs(self.given[kind]).items() if found}
            # Without a list all are active; an incomplete one that others inherit from is only their parent.
            chosen_names = [n for n in by_configured if n not in parents or self._is_complete(kind, n)]
            names: list[tuple[object, Node | None]] = [(each, None) for each in chosen_names]
        else:
            names = [(item.value, item) for item in wanted.items]
        for number, (name, place) in enumerate(names):
            if not isinstance(name, str):
                continue  # reported already
            if name in by_configured:
                chosen = by_configured[name]
                if self._lacks(kind, name):
                    continue
            elif name in by_split:
                chosen = [by_split[name]]
                if self._lacks(kind, chosen[0].configured_name):
                    continue
            else:
                self._unknown(kind, number, name, place, [*self.given[kind], *by_split])
                continue
            for use in chosen:
                other = uses.setdefault(use.name, use)
                if other.configured_name != use.configured_name:
                    what = f'"{use.name}" is also the name of {other.node.file}'
                    use.report(use.node, "message_type", what, "rename one of the two files")
        return list(uses.values())

    def _split(self, kind: str, name: str) -> list[_Use]:
        node = self.whole[kind][name]
        report = self.findings.reporter(node, f"{kind}/{name}")
        types = plain(node.members["message_type"]) if "message_type" in node.members else None
        if isinstance(types, str):
            return [_Use(kind, name, name, types, node, report)]
        if isinstance(types, list):
            split = [each for each in types if isinstance(each, str)]
            return [_Use(kind, f"{name}_{each}", name, each, node, report) for each in split]
        return []

    def _unknown(self, kind: str, number: int, name: str, place: Node | None, known: list[str]) -> None:
        if name in self.unreadable.get(kind, ()) or name in self.given[kind] or place is None:
            return  # reported already, or not ours and warned of
        remedy = suggestion(name, known, otherwise=f"add {kind}/{name}.json")
        key = dotted([kind, number])
        self.findings.add(Problem(place.file, place.line, key, f'there is no "{name}" in {kind}/', remedy))

    def _is_complete(self, kind: str, name: str) -> bool:
        return all(_is_given(self.whole[kind][name], key) for key in _NEEDED[kind])

    def _lacks(self, kind: str, name: str) -> bool:
        node = self.whole[kind][name]
        report = self.findings.reporter(node, f"{kind}/{name}")
        missing = [key for key in _NEEDED[kind] if not _is_given(node, key)]
        for key in missing:
            report(node, key, "this key is missing", _NEEDED[kind][key])
        if missing:
            self._check_names(kind, node, report)
        return bool(missing)

    def _check_names(self, kind: str, node: Node, report: Report) -> None:
        """Report names of objects that are not there, in an object that is wrong in another way."""
        for key, other in _NAMES[kind].items():
            name = text_at(node, key)
            if name is not None and "$" not in name:
                self._is_there(other, name, node.members[key], key, report)

    def _is_there(self, kind: str, name: str, place: Node, key: str, report: Report) -> bool:
        """Whether the object can be used. One that is not there is reported, what is wrong with it has been."""
        if name in self.whole[kind]:
            return True
        if name not in self.unreadable.get(kind, ()) and name not in self.given[kind]:
            ours = [each for each in self.whole[kind] if self.ownership.is_ours(kind, each)]
            remedy = suggestion(name, ours, otherwise=f"add {kind}/{name}.json")
            report(place, key, f'there is no "{name}" in {kind}/', remedy)
        return False

    def _parsed(self, use: _Use, cls: type[T]) -> tuple[Node, T | None]:
        node = self._replaced(use.kind, use.node, use.name, use)
        parsed = structure(node, cls, use.report)
        if parsed is None:
            self._check_names(use.kind, node, use.report)
        return node, parsed

    def _replaced(self, kind: str, node: Node, name: str, use: _Use) -> Node:
        words = {"name": name, "msg_type": use.message_type, "system_id": self.system_id}
        report = self.findings.reporter(node, f"{kind}/{name}")
        return replace_keywords(node, words, literal=SECRETS.get(kind, frozenset()), report=report)

    def _address(self, use: _Use) -> SendAddress | None:
        node, parsed = self._parsed(use, AddressFile)
        if parsed is None or parsed.carrier is None or parsed.duration is None:
            return None
        carrier = self._carrier(use, node.members["carrier"], "carrier", parsed.carrier)
        info = node.members.get("additional_info")
        within = (
            Node({k: v for k, v in info.members.items() if k == "sub_path"}, info.file, info.line) if info else None
        )
        extra = AdditionalInfo()
        if within is not None:
            extra = structure(within, AdditionalInfo, _below(use.report, "additional_info")) or extra
        handler = self._handler(use, node, parsed)
        if carrier is None:
            return None
        if carrier.path == "messages" or carrier.path.startswith("messages/"):
            place = self.whole["carriers"][carrier.name].at(["path"])
            what = '"messages" below generated_data is where messages are dropped'
            self.findings.add(Problem(place.file, place.line, "path", what, "choose another path"))
        prefix = ("addresses", use.name)
        self._record(prefix, node)
        self._record((*prefix, "carrier"), self.whole["carriers"][carrier.name])
        self.origins[(*prefix, "carrier", "name")] = _place(node.members["carrier"])
        if within is not None:
            self._record(prefix, within)
        return SendAddress(
            name=use.name,
            configured_name=use.configured_name,
            message_type=use.message_type,
            carrier=carrier,
            duration=parsed.duration,
            sub_path=extra.sub_path,
            handler=handler,
            handler_function=parsed.handler_function,
            additional_info=parsed.additional_info,
        )

    def _task(self, use: _Use) -> Task | None:
        node, parsed = self._parsed(use, TaskFile)
        if parsed is None or parsed.config_name is None or parsed.function is None:
            return None
        carrier = self._carrier(use, node.members["config_name"], "config_name", parsed.config_name)
        if carrier is None:
            return None
        prefix = ("tasks", use.name)
        self._record(prefix, node)
        self._record((*prefix, "carrier"), self.whole["carriers"][carrier.name])
        self.origins[(*prefix, "carrier", "name")] = _place(node.members["config_name"])
        return Task(
            name=use.name,
            configured_name=use.configured_name,
            message_type=use.message_type,
            function=parsed.function,
            carrier=carrier,
            arguments=parsed.arguments,
        )

    def _record(self, prefix: tuple[str, ...], node: Node) -> None:
        record_origins(self.origins, prefix, node)

    def _carrier(self, use: _Use, place: Node, key: str, name: str) -> Carrier | None:
        """The carrier `name` for this use, or None after what is wrong was reported."""
        if not self._is_there("carriers", name, place, key, use.report):
            return None
        node = self.whole["carriers"][name]
        report = self.findings.reporter(node, f"carriers/{name}")
        parsed = structure(self._replaced("carriers", node, name, use), CarrierFile, report)
        if parsed is None:
            return None
        if text_at(node, "source") is None:
            report(node, "source", "this key is missing", 'say "source": "s3"')
        if parsed.bucket_name is None:
            report(node, "bucket_name", "an active carrier needs its bucket", "give the name of the bucket")
        one, other = ("access_key_id", "secret_access_key")
        if (parsed.access_key_id is None) != (parsed.secret_access_key is None):
            given, missing = (other, one) if parsed.access_key_id is None else (one, other)
            report(node, missing, f"{given} is set and this is not", "set both, or neither for boto3's own chain")
        if parsed.upload.retry_min_s > parsed.upload.retry_max_s:
            what = f"{parsed.upload.retry_min_s:g} is above retry_max_s, {parsed.upload.retry_max_s:g}"
            at = node.at(["upload", "retry_min_s"])
            report(at, "upload.retry_min_s", what, "let retry_max_s be the greater one")
        keys = {each.name: getattr(parsed, each.name) for each in attrs.fields(CarrierKeys)}
        firmware = parsed.firmware
        if firmware.component is None:
            keys["firmware"] = attrs.evolve(firmware, component=name)
        return Carrier(name=name, **keys)

    def _handler(self, use: _Use, node: Node, parsed: AddressFile) -> HandlerSettings | None:
        if (parsed.handler is None) != (parsed.handler_function is None):
            missing = "handler" if parsed.handler is None else "handler_function"
            other = "handler_function" if parsed.handler is None else "handler"
            use.report(node.at([other]), missing, f"{other} is set and this is not", "set both, or neither")
        if parsed.handler is None:
            return None
        if not self._is_there("handlers", parsed.handler, node.members["handler"], "handler", use.report):
            return None
        found = self.whole["handlers"][parsed.handler]
        report = self.findings.reporter(found, f"handlers/{parsed.handler}")
        written = structure(self._replaced("handlers", found, parsed.handler, use), HandlerFile, report)
        if written is None:
            return None
        if written.source is None:
            report(
                found,
                "source",
                "this key is missing",
                "name an entry point, or a file of handlers/ below the base directory",
            )
            return None
        self._record((use.kind, use.name, "handler"), found)
        self.origins[(use.kind, use.name, "handler", "name")] = _place(node.members["handler"])
        return HandlerSettings(name=parsed.handler, source=written.source, timeout_s=written.timeout_s)


def _is_given(node: Node, key: str) -> bool:
    return key in node.members and node.members[key].value is not None


def _place(node: Node) -> str:
    return f"{node.file}:{node.line}"


def _below(report: Report, prefix: str) -> Report:
    return lambda node, key, what, remedy: report(node, f"{prefix}.{key}" if key else prefix, what, remedy)
