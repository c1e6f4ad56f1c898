"""The README names tests as proof; each must exist."""

from __future__ import annotations

import os
import re

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def _tests() -> set[str]:
    found = set()
    for folder, _, names in os.walk(os.path.join(ROOT, "tests")):
        for name in names:
            if name.endswith(".py"):
                path = os.path.join(folder, name)
                found.add(os.path.relpath(path, ROOT))
                with open(path, encoding="utf-8") as source:
                    found |= set(re.findall(r"^\s*(?:async )?def (test_\w+)", source.read(), re.MULTILINE))
    return found


def test_every_test_that_the_readme_names_exists() -> None:
    with open(os.path.join(ROOT, "README.md"), encoding="utf-8") as readme:
        text = readme.read()
    named = set(re.findall(r"`(test_\w+|tests/[\w/]+\.py)`", text))
    assert len(named) > 10
    assert named <= _tests(), named - _tests()


def test_every_verb_is_in_the_readme() -> None:
    from syncagent.cli.main import VERBS

    with open(os.path.join(ROOT, "README.md"), encoding="utf-8") as readme:
        text = readme.read()
    assert [verb for verb in VERBS if f"`{verb}" not in text] == []
