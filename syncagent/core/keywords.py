"""Keywords: `$name`, `$msg_type`, `$system_id` wherever they stand in a string; `$$` is a dollar.

Credentials and passwords are taken literally. What the words stand for is given by the caller.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from syncagent.core.inheritance import KEY as INHERITANCE
from syncagent.core.inheritance import Report
from syncagent.core.tree import Node, dotted, suggestion

KEYWORDS = ("name", "msg_type", "system_id")
#: Whole values of the system `id` only.
IDENTITIES = ("hostname", "machine_id", "pi_serial", "i2c")

_DOLLAR = re.compile(r"\$(?:\$|\{|[A-Za-z_][A-Za-z0-9_]*)")

Path = tuple[str | int, ...]


def replace_keywords(node: Node, words: Mapping[str, str], *, literal: Collection[Path], report: Report) -> Node:
    """`node` with its keywords replaced. One that is not in `words` has no meaning here: reported, kept."""

    def walk(at: Node, path: Path) -> Node:
        if path in literal or path == (INHERITANCE,):
            return at
        if isinstance(at.value, dict):
            return Node({key: walk(child, (*path, key)) for key, child in at.members.items()}, at.file, at.line)
        if isinstance(at.value, list):
            return Node([walk(child, (*path, i)) for i, child in enumerate(at.items)], at.file, at.line)
        if isinstance(at.value, str) and "$" in at.value:
            return Node(_replaced(at, at.value, path, words, report), at.file, at.line)
        return at

    return walk(node, ())


def _replaced(node: Node, text: str, path: Path, words: Mapping[str, str], report: Report) -> str:
    def one(match: re.Match[str]) -> str:
        found = match.group()[1:]
        if found == "$":
            return "$"
        if found == "{":
            report(node, dotted(path), '"${" begins no keyword', "write $name without braces, or $$ for a dollar")
            return match.group()
        for word in sorted(KEYWORDS, key=len, reverse=True):
            # `img_$system_id_x`: an underscore may follow a keyword, a letter may not.
            if found == word or found.startswith(word + "_"):
                if word in words:
                    return words[word] + found[len(word) :]
                report(node, dotted(path), f"${word} has no meaning here", "write the word itself")
                return match.group()
        if found in IDENTITIES:
            remedy = f"set the whole id of the system file to ${found}, and write $system_id here"
        else:
            known = ", ".join(f"${word}" for word in KEYWORDS)
            near = suggestion(found, KEYWORDS, otherwise="")
            remedy = near.replace('"', '"$', 1) if near else f"known are {known}; $$ is a dollar"
        report(node, dotted(path), f"${found[:40]} is not a keyword", remedy)
        return match.group()

    return _DOLLAR.sub(one, text)
