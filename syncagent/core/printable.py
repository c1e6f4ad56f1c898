"""Text from elsewhere, a file's name above all, in a line of a log or a table: it ends no line and moves no cursor."""

from __future__ import annotations

import re

#: What terminals and readers of logs act on, or what hides or turns a line: C0, DEL, C1, the separators and the
#: formatting characters of Unicode, its tags, and what is no UTF-8.
_UNSEEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff\U000e0000-\U000e007f]"
)


def printable(text: str) -> str:
    """The text with an escape for each such character; all else stays as it is."""
    return _UNSEEN.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def printable_lines(text: str) -> str:
    """The same for words of our own, which may be several lines."""
    return "\n".join(printable(line) for line in text.split("\n"))
