"""What is printed of a name that somebody else chose: one line, and nothing that a terminal obeys."""

from __future__ import annotations

import io
import logging
from dataclasses import replace

import pytest
from rich.console import Console

from syncagent.cli.run import LineFormatter
from syncagent.cli.status import render
from syncagent.core.board import Complaint, Fact
from syncagent.core.printable import printable
from syncagent.core.status import build
from tests.unit.test_status import SOUND

EVIL = "Köln [/x]\n2025-06-01 ERROR forged\x1b[31m\udcff.jpg"
SHOWN = "Köln [/x]\\n2025-06-01 ERROR forged\\x1b[31m\\udcff.jpg"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain [b] %41 \\n.jpg", "plain [b] %41 \\n.jpg"),
        ("Köln 東京 🦊 é.jpg", "Köln 東京 🦊 é.jpg"),
        ("a\nb\rc\td", "a\\nb\\rc\\td"),
        ("\x1b[31m\x00\x7f\x9b2J", "\\x1b[31m\\x00\\x7f\\x9b2J"),
        ("a\u2028b\u2029", "a\\u2028b\\u2029"),
        ("\udcff", "\\udcff"),
    ],
)
def test_only_what_is_no_text_is_escaped(text: str, expected: str) -> None:
    assert printable(text) == expected


def test_a_record_of_the_log_is_one_line_and_its_traceback_is_set_in() -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(LineFormatter("%(levelname)s %(message)s"))
    logger = logging.Logger("test")
    logger.addHandler(handler)
    logger.info("removed path=%s bytes=%d", EVIL, 3)
    try:
        raise ValueError(EVIL)
    except ValueError:
        logger.exception("crashed path=%s", EVIL)
    first, second, *rest = stream.getvalue().splitlines()
    assert (first, second) == (f"INFO removed path={SHOWN} bytes=3", f"ERROR crashed path={SHOWN}")
    assert rest[0] == "  Traceback (most recent call last):" and "forged" in rest[-1]
    assert all(line.startswith("  ") and "\x1b" not in line for line in rest)


def test_status_shows_names_and_reasons_and_obeys_none() -> None:
    status = build(
        replace(
            SOUND,
            facts={**SOUND.facts, "disk": Fact(False, "failing", EVIL)},
            complaints=(Complaint(EVIL, "remove", EVIL, "check the disk", 0.0),),
        )
    )
    console = Console(file=io.StringIO(), width=400)
    console.print(render(status))
    told = console.file.getvalue()  # type: ignore[attr-defined]
    assert told.count(SHOWN) == 4 and "\x1b" not in told and "\n2025" not in told
