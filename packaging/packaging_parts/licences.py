"""The licences of everything inside, as a Debian copyright file (DEP-5)."""

from __future__ import annotations

import email
import importlib.metadata
import os
import re
from collections.abc import Iterable

#: Whole texts that every Debian system has.
COMMON = {
    "Apache-2.0": "/usr/share/common-licenses/Apache-2.0",
    "MPL-2.0": "/usr/share/common-licenses/MPL-2.0",
}
#: What packages call their licence in their metadata -> its name.
NAMES = {
    "Apache License 2.0": "Apache-2.0",
    "Apache 2.0": "Apache-2.0",
    "MIT License": "MIT",
    "The MIT License": "MIT",
    "BSD": "BSD-3-Clause",
    "Dual License": "Apache-2.0 or BSD-3-Clause",
    "Apache-2.0 OR MIT": "Apache-2.0 or MIT",
    "MIT OR Apache-2.0": "Apache-2.0 or MIT",
    "PSF-2.0": "Python-2.0",
}
HEAD = """\
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: syncagent

Files: *
Copyright: The syncagent developers
License: Apache-2.0
"""
CERTIFICATES = """
Files: usr/lib/syncagent/botocore/cacert.pem
Copyright: Mozilla Contributors
License: MPL-2.0
"""


def debian_copyright(root: str, home: str, distributions: list[importlib.metadata.PathDistribution]) -> str:
    """One paragraph per distribution, with its own notices and its whole licence unless every Debian has that."""
    paragraphs = [HEAD, *(_paragraph(home, distribution) for distribution in distributions), CERTIFICATES]
    for name, path in COMMON.items():
        paragraphs.append(f"\nLicense: {name}\n On Debian systems the whole text of this licence is in\n {path}.\n")
    return "".join(paragraphs)


def _paragraph(home: str, distribution: importlib.metadata.PathDistribution) -> str:
    about = email.message_from_string(distribution.read_text("METADATA") or "")
    said = about.get("License-Expression") or about.get("License") or ""
    name = NAMES.get(said, said)
    texts = {path: _without_apache(_read(home, path)) for path in _licence_files(distribution)}
    if not re.fullmatch(r"[A-Za-z0-9.+-]+( (or|and) [A-Za-z0-9.+-]+)*", name) or not texts:
        raise SystemExit(f"{about['Name']}: what licence is {said!r}? Add it to packaging_parts/licences.py")
    holders = _holders(texts.values()) or [
        about.get("Author") or about.get("Author-email") or f"The authors of {about['Name']}"
    ]
    files = sorted(
        {
            f"{path.parts[0]}/*" if len(path.parts) > 1 else str(path)
            for path in distribution.files or ()
            if path.parts[0] not in ("..", "bin") and not path.parts[0].endswith(".dist-info")
        }
    )
    places = "\n       ".join(f"usr/lib/syncagent/{each}" for each in files)
    lines = [f"\nFiles: {places}", "Copyright: " + "\n           ".join(holders)]
    if name in COMMON:
        notices = [text for path, text in texts.items() if "NOTICE" in path]
        return "\n".join([*lines, f"License: {name}", *_comment(notices)]) + "\n"
    # A name of its own: two texts of "MIT" differ in more than their holders.
    lines.append(f"License: {name}-{about['Name'].lower()}")
    lines += [_indented(text) for text in texts.values()]
    return "\n".join(lines) + "\n"


def _licence_files(distribution: importlib.metadata.PathDistribution) -> list[str]:
    found = [str(path) for path in distribution.files or () if re.search(r"(LICEN[CS]E|COPYING|NOTICE)", path.name)]
    return sorted(path for path in found if not path.endswith((".py", ".pyc")))


def _read(home: str, path: str) -> str:
    with open(os.path.join(home, path), encoding="utf-8", errors="replace") as file:
        return file.read()


def _without_apache(text: str) -> str:
    """Every Debian system has the whole text of that one, and a package must not bring it again."""
    head, found, tail = text.partition("TERMS AND CONDITIONS FOR USE, REPRODUCTION, AND DISTRIBUTION")
    if not found:
        return text
    head = re.sub(r"\s*Apache License\s+Version 2.0, January 2004\s+http\S+\s*$", "", head)
    ends = list(
        re.finditer(r"(?:See the License for the specific language[^.]*\.|END OF TERMS AND CONDITIONS)\n", tail)
    )
    tail = tail[ends[-1].end() :] if ends else ""
    return f"{head.strip()}\nApache-2.0, see {COMMON['Apache-2.0']}\n{tail.strip()}\n".strip() + "\n"


def _holders(texts: Iterable[str]) -> list[str]:
    found: list[str] = []
    for text in texts:
        for line in text.splitlines():
            match = re.match(r"\s*(?:Copyright:?|©|\(c\))\s*(?:\([cC]\)|©)?\s*((?:\d{4}|[A-Z]).*)$", line.strip())
            if match and "owner" not in line and "notice" not in line and "[" not in line:
                found.append(match.group(1).strip().rstrip("."))
    return list(dict.fromkeys(found))


def _comment(notices: list[str]) -> list[str]:
    return ["Comment:", *(_indented(notice) for notice in notices)] if notices else []


def _indented(text: str) -> str:
    return "\n".join(f" {line.rstrip()}" if line.strip() else " ." for line in text.strip().splitlines())
