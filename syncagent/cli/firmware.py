"""syncagent firmware: the group of its verbs, each loaded when it is asked for."""

from __future__ import annotations

import importlib

import click

from syncagent.cli.publishing import PUBLISHER_VERBS

#: verb -> (module, function, one line of help)
DEVICE_VERBS = {
    "check": ("syncagent.cli.firmware_device", "check", "Look whether there is a release for this device."),
    "update": ("syncagent.cli.firmware_device", "update", "Fetch and install it now."),
    "status": ("syncagent.cli.firmware_device", "status", "Show what is installed, and what is believed."),
    "rollback": ("syncagent.cli.firmware_device", "rollback", "Bring back the release before."),
    "confirm": ("syncagent.cli.firmware_device", "confirm", "Say that the installed release works."),
    "history": ("syncagent.cli.firmware_device", "history", "List what happened, the newest first."),
}
FIRMWARE_VERBS = {**DEVICE_VERBS, **PUBLISHER_VERBS}


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
        for title, verbs in (("On a device", DEVICE_VERBS), ("For a publisher", PUBLISHER_VERBS)):
            with formatter.section(title):
                formatter.write_dl([(name, line) for name, (_, _, line) in verbs.items()])


@click.group(cls=FirmwareVerbs)
def firmware() -> None:
    """Firmware: what this device has and is offered, and what a publisher offers."""
