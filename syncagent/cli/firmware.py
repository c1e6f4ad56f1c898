"""syncagent firmware: the group of its verbs, each loaded when it is asked for."""

from __future__ import annotations

import importlib

import click

from syncagent.cli.publishing import PUBLISHER_VERBS

FIRMWARE_VERBS = dict(PUBLISHER_VERBS)


class FirmwareVerbs(click.Group):
    """A group whose commands live in modules of their own."""

    def list_commands(self, _context: click.Context) -> list[str]:
        return list(FIRMWARE_VERBS)

    def get_command(self, _context: click.Context, name: str) -> click.Command | None:
        if name not in FIRMWARE_VERBS:
            return None
        module, function, _ = FIRMWARE_VERBS[name]
        command: click.Command = getattr(importlib.import_module(module), function)
        return command

    def format_commands(self, _context: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Verbs"):
            formatter.write_dl([(name, line) for name, (_, _, line) in FIRMWARE_VERBS.items()])


@click.group(cls=FirmwareVerbs)
def firmware() -> None:
    """Firmware: publish it, and see what the fleet has."""
