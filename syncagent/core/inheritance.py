"""Which object of a kind inherits what: parents from left to right, deeply merged, own keys last.

Pure: trees in, trees out. What the keys mean is not known here, but for `inheritance` itself.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from syncagent.core.tree import Node, merge, suggestion

#: Called with the node at fault, its dotted key, what is wrong, and the remedy.
Report = Callable[[Node, str, str, str], None]

KEY = "inheritance"
#: Parents of parents; nobody needs as many, and each is a call within a call.
MAX_GENERATIONS = 100


def parents_of(node: Node) -> list[tuple[str, Node]]:
    """The names that an object inherits from, with their places; validation finds what is no string."""
    inherited = node.members.get(KEY)
    if inherited is None:
        return []
    return [(item.value, item) for item in inherited.items if isinstance(item.value, str)]


def inherit(objects: Mapping[str, Node], *, kind: str, unreadable: Collection[str], report: Report) -> dict[str, Node]:
    """Every object with what it inherits. An object whose parents cannot be had is left out, and reported.

    `unreadable` are names whose files were already reported, and they are left out, whatever could be read of them.
    """
    whole: dict[str, Node | None] = {}

    def resolve(name: str, chain: tuple[str, ...]) -> Node | None:
        if name in whole:
            return whole[name]
        node = objects[name]
        base: Node | None = None
        broken = name in unreadable
        for index, (parent, place) in enumerate(parents_of(node)):
            key = f"{KEY}[{index}]"
            if parent in (*chain, name):
                path = (*chain, name)
                cycle = " -> ".join((*path[path.index(parent) :], parent))
                report(place, key, f"a cycle of inheritance: {cycle}", "remove one of these names")
                broken = True
                continue
            if parent in unreadable:
                broken = True
                continue
            if len(chain) >= MAX_GENERATIONS:
                what = f"inherited through more than {MAX_GENERATIONS} objects"
                report(place, key, what, "inherit from fewer, one from another")
                broken = True
                continue
            if parent not in objects:
                remedy = suggestion(parent, [n for n in objects if n != name], otherwise=f"add {kind}/{parent}.json")
                report(place, key, f'there is no "{parent}" in {kind}/', remedy)
                broken = True
                continue
            inherited = resolve(parent, (*chain, name))
            if inherited is None:
                broken = True
            else:
                base = inherited if base is None else merge(base, inherited)
        own = node if base is None else merge(_without_parents(base), node)
        # A broken parent would make every key that it should have set look missing: one error is enough.
        whole[name] = None if broken else own
        return whole[name]

    for name in objects:
        resolve(name, ())
    return {name: node for name, node in whole.items() if node is not None}


def heirs(objects: Mapping[str, Node]) -> dict[str, set[str]]:
    """For each object the names of all that inherit from it, directly or through others."""
    found: dict[str, set[str]] = {name: set() for name in objects}
    for name in objects:
        seen: set[str] = set()
        waiting = [name]
        while waiting:
            for parent, _ in parents_of(objects[waiting.pop()]):
                if parent in objects and parent not in seen:
                    seen.add(parent)
                    waiting.append(parent)
        for parent in seen - {name}:
            found[parent].add(name)
    return found


def _without_parents(node: Node) -> Node:
    return Node({key: child for key, child in node.members.items() if key != KEY}, node.file, node.line)
