"""What a publisher's bucket says is shown as text, whatever stands in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from syncagent.cli.publishing.desk import commit
from syncagent.cli.publishing.looking import show_table
from tests.publishing import Office


def test_a_table_shows_control_characters_and_markup_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    show_table(("release",), [("1.0\x1b[2J[red]\n[/red]",)])
    shown = capsys.readouterr().out
    assert r"1.0\x1b[2J[red]\n[/red]" in shown
    assert "\x1b" not in shown


@pytest.mark.parametrize("is_dry", [False, True])
def test_what_was_done_with_a_release_is_said_as_text(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], is_dry: bool
) -> None:
    office = Office(str(tmp_path))
    office.make_keys()
    office.begin()
    draft, _, publisher = office.draft("1.0", b"image")
    commit(publisher, draft, "withdrew cam 1.0\x1b[2J from stable", is_dry=is_dry)
    shown = capsys.readouterr().out
    assert r"withdrew cam 1.0\x1b[2J from stable" in shown
    assert "\x1b" not in shown
