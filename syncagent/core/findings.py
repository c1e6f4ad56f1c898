"""Every mistake that was met, each once, however many objects inherit it."""

from __future__ import annotations

from syncagent.core.errors import Problem
from syncagent.core.inheritance import Report
from syncagent.core.tree import Node

_NAMED_HEIRS = 3


class Findings:
    """Collects problems; a value that several objects inherit is one problem that names the heirs."""

    def __init__(self) -> None:
        self._heirs: dict[Problem, set[str]] = {}
        self._by_place: dict[tuple[str, int, str], Problem] = {}

    def __len__(self) -> int:
        return len(self._heirs)

    def add(self, problem: Problem) -> None:
        """Add one problem as it is."""
        self._heirs.setdefault(problem, set())
        if problem.key:
            self._by_place.setdefault((problem.file, problem.line, problem.key), problem)

    def reporter(self, own: Node, label: str) -> Report:
        """A report function for the object `label` (`carriers/site_a`), whose own file is that of `own`."""

        def report(node: Node, key: str, what: str, remedy: str) -> None:
            # One value, one complaint: the first is the nearest to its cause.
            place = (node.file, node.line, key)
            problem = self._by_place.setdefault(place, Problem(*place, what, remedy))
            heirs = self._heirs.setdefault(problem, set())
            if node.file != own.file:
                heirs.add(label)

        return report

    def problems(self) -> tuple[Problem, ...]:
        """All of them, in the order of files and lines."""
        found = []
        for problem, heirs in self._heirs.items():
            what = problem.what
            if heirs:
                names = sorted(heirs)
                more = f" and {len(names) - _NAMED_HEIRS} more" if len(names) > _NAMED_HEIRS else ""
                what += f" (inherited by {', '.join(names[:_NAMED_HEIRS])}{more})"
            found.append(Problem(problem.file, problem.line, problem.key, what, problem.remedy))
        return tuple(sorted(found, key=lambda problem: (problem.file, problem.line, problem.key)))
