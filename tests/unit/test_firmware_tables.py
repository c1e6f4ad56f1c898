"""What a publisher's bucket says is shown as text, whatever stands in it."""

from __future__ import annotations

import pytest

from syncagent.cli.publishing.looking import show_table


def test_a_table_shows_control_characters_and_markup_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    show_table(("release",), [("1.0\x1b[2J[red]\n[/red]",)])
    shown = capsys.readouterr().out
    assert r"1.0\x1b[2J[red]\n[/red]" in shown
    assert "\x1b" not in shown
