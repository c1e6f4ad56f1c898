"""Which objects are ours.

The original's other carriers and tasks may stand beside them: they are ignored with one warning each, but a
name that is nearly ours is taken for a mistake.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from syncagent.core.findings import Findings
from syncagent.core.inheritance import heirs
from syncagent.core.settings_files import TASK_FUNCTION
from syncagent.core.tree import Node, nearest

SOURCE = "s3"
SOURCE_TYPE = "carrier"

Objects = Mapping[str, Node]


@dataclass(frozen=True)
class Ownership:
    """What is not ours, by kind, and one warning for each."""

    foreign: Mapping[str, frozenset[str]]
    warnings: tuple[str, ...] = field(default=())

    def is_ours(self, kind: str, name: str) -> bool:
        """Whether the object is checked and may be used."""
        return name not in self.foreign.get(kind, frozenset())

    def is_ours_alone(self, kind: str, node: Node, carriers: Objects) -> bool:
        """Whether an object whose parents cannot be had says by itself that it is ours."""
        if kind == "carriers":
            return text_at(node, "source") == SOURCE
        if kind == "tasks":
            said = (text_at(node, "source_type"), text_at(node, "function"))
            return said == (SOURCE_TYPE, TASK_FUNCTION) and self._is_carrier(text_at(node, "config_name"), carriers)
        return kind != "addresses" or self._is_carrier(text_at(node, "carrier"), carriers)

    def _is_carrier(self, name: str | None, carriers: Objects) -> bool:
        if name is None or name not in carriers or not self.is_ours("carriers", name):
            return False
        return text_at(carriers[name], "source") in (None, SOURCE)


def judge_ownership(whole: Mapping[str, Objects], given: Mapping[str, Objects], findings: Findings) -> Ownership:
    """Sort carriers, addresses and tasks. `whole` are the objects with what they inherit, `given` all as read."""
    warnings: list[str] = []
    carriers = _sort("carriers", whole["carriers"], whole, findings, warnings, frozenset())
    # What hangs on one that cannot be used, and says itself that it is not ours, is not ours, either.
    broken = {name: node for name, node in given["carriers"].items() if name not in whole["carriers"]}
    others = carriers | {name for name, node in broken.items() if _foreign_source(name, node, findings) is not None}
    addresses = _sort("addresses", whole["addresses"], whole, findings, warnings, others)
    tasks = _sort("tasks", whole["tasks"], whole, findings, warnings, others)
    foreign = {"carriers": carriers, "addresses": addresses, "tasks": tasks}
    return Ownership(foreign, tuple(warnings))


def text_at(node: Node, key: str) -> str | None:
    """The string under `key`, if there is one."""
    value = node.at([key]).value if key in node.members else None
    return value if isinstance(value, str) else None


def _sort(
    kind: str,
    objects: Objects,
    whole: Mapping[str, Objects],
    findings: Findings,
    warnings: list[str],
    foreign_carriers: frozenset[str],
) -> frozenset[str]:
    reasons: dict[str, str | None] = {}
    for name, node in objects.items():
        if kind == "carriers":
            reasons[name] = _foreign_source(name, node, findings)
        elif kind == "tasks":
            reasons[name] = _foreign_task(name, node, findings) or _foreign_carrier(
                text_at(node, "config_name"), foreign_carriers
            )
        else:
            reasons[name] = _foreign_carrier(text_at(node, "carrier"), foreign_carriers)
    foreign = {name for name, reason in reasons.items() if reason is not None}
    decisive = {"carriers": "source", "addresses": "carrier", "tasks": "config_name"}[kind]
    followers = heirs(whole[kind])
    for name, node in objects.items():
        decided = [heir for heir in followers[name] if heir in objects and text_at(objects[heir], decisive) is not None]
        # A parent that leaves the question to its heirs is theirs.
        if text_at(node, decisive) is None and decided and all(heir in foreign for heir in decided):
            foreign.add(name)
    for name in objects:
        reason = reasons[name]
        if reason is not None:
            warnings.append(f"{objects[name].file}: ignored: {reason}")
    return frozenset(foreign)


def _foreign_source(name: str, node: Node, findings: Findings) -> str | None:
    source = text_at(node, "source")
    if source is None or source == SOURCE:
        return None
    if is_nearly_s3(source):
        report = findings.reporter(node, f"carriers/{name}")
        report(node.members["source"], "source", f'"{source[:40]}" is not known', f'did you mean "{SOURCE}"?')
        return None
    return f'its source is "{source[:40]}", not "{SOURCE}"'


def is_nearly_s3(source: str) -> bool:
    """Whether someone meant s3: other case, a slip of one character, or s3 with decoration."""
    bare = re.sub(r"[^a-z0-9]", "", source.lower())
    if "s3" in bare or bare in ("3s", "s", "3", ""):
        return True
    return len(bare) == 2 and (bare[0] == "s" or bare[1] == "3")


def _foreign_task(name: str, node: Node, findings: Findings) -> str | None:
    report = findings.reporter(node, f"tasks/{name}")
    for key, ours in (("source_type", SOURCE_TYPE), ("function", TASK_FUNCTION)):
        value = text_at(node, key)
        if value is None or value == ours:
            continue
        if nearest(value, [ours], cutoff=0.85):
            report(node.members[key], key, f'"{value[:60]}" is not known', f'did you mean "{ours}"?')
            return None
        return f'its {key} is "{value[:60]}", not "{ours}"'
    return None


def _foreign_carrier(carrier: str | None, foreign_carriers: frozenset[str]) -> str | None:
    return f'its carrier "{carrier}" is not ours' if carrier is not None and carrier in foreign_carriers else None
