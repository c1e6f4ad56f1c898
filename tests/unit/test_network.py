"""What NetworkManager's tool says of a link, read the same in every country."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from syncagent.edges.network import is_flagged_metered

#: As nmcli does: its words are translated, and only LC_ALL=C keeps them as they are in its manual.
NMCLI = """#!/bin/sh
[ "$*" = "-g GENERAL.METERED device show wwan0" ] || exit 10
[ "$LC_ALL" = C ] && [ -z "$LANGUAGE" ] && echo "{english}" || echo "{german}"
"""


@pytest.mark.parametrize(
    ("english", "german", "is_metered"), [("yes (guessed)", "ja (geraten)", True), ("no", "yes", False)]
)
def test_the_words_of_networkmanager_are_asked_for_in_english(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, english: str, german: str, is_metered: bool
) -> None:
    tool = tmp_path / "nmcli"
    tool.write_text(NMCLI.format(english=english, german=german))
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("LANGUAGE", "de")
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    assert is_flagged_metered("wwan0") is is_metered


def test_without_networkmanager_no_link_costs_money(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not is_flagged_metered("wwan0")
