"""The README names tests as proof, files, and targets of make; each must exist."""

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


def _text(path: str) -> str:
    with open(os.path.join(ROOT, path), encoding="utf-8") as file:
        return file.read()


def test_every_test_that_the_readme_names_exists() -> None:
    text = _text("README.md")
    named = set(re.findall(r"`(test_\w+|tests/[\w/]+\.py)`", text))
    assert len(named) > 10
    assert named <= _tests(), named - _tests()


def test_every_verb_is_in_the_readme() -> None:
    from syncagent.cli.main import VERBS

    text = _text("README.md")
    assert [verb for verb in VERBS if f"`{verb}" not in text] == []


def test_every_promise_names_what_shows_it() -> None:
    table = _text("README.md").partition("| promise | shown by |\n|---|---|\n")[2].partition("\n\n")[0].splitlines()
    assert len(table) > 20
    proof = re.compile(r"\| .*`(test_\w+|tests/[\w/]+\.py|make [\w-]+)`.* \|")
    assert [row for row in table if not proof.fullmatch(row)] == []


def test_every_file_and_target_of_make_that_the_readme_names_exists() -> None:
    text = _text("README.md")
    paths = set(re.findall(r"[`(]((?:packaging|configs|syncagent|edges)/[\w/.-]*)[`)]", text))
    assert len(paths) > 5
    tops = (ROOT, os.path.join(ROOT, "syncagent"))
    assert [path for path in paths if not any(os.path.exists(os.path.join(top, path)) for top in tops)] == []
    targets = set(re.findall(r"^([a-z][\w-]*):", _text("Makefile"), re.MULTILINE))
    named = set(re.findall(r"(?:`| {4})make ([a-z][\w-]*)", text))
    assert len(named) > 5
    assert named <= targets, named - targets


def test_the_package_is_named_as_it_is_built() -> None:
    from syncagent import __version__

    assert set(re.findall(r"syncagent_([\w.]+)_all\.deb", _text("README.md"))) == {__version__}
