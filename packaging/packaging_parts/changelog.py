"""CHANGELOG.md as a Debian changelog."""

from __future__ import annotations

import re
import textwrap


def debian_changelog(text: str, *, maintainer: str, date: str, newest: str) -> str:
    """`## <version> (<when>)` with `- ` points become entries; the first one is given the version that is built."""
    entries = []
    for number, section in enumerate(re.split(r"^## ", text, flags=re.MULTILINE)[1:]):
        title, _, body = section.partition("\n")
        version = newest if number == 0 else title.split()[0]
        points = [" ".join(point.split()) for point in re.split(r"^- ", body, flags=re.MULTILINE)[1:]]
        lines = [f"syncagent ({version}) unstable; urgency=medium", ""]
        for point in points:
            lines += textwrap.wrap(point, 76, initial_indent="  * ", subsequent_indent="    ")
        lines += ["", f" -- {maintainer}  {date}", ""]
        entries.append("\n".join(lines))
    return "\n".join(entries)
