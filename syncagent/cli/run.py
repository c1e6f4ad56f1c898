"""syncagent run: the agent."""

from __future__ import annotations

import logging
import os
import sys
from typing import Any

import click

from syncagent.cli.context import Context, fail, say
from syncagent.core.errors import AlreadyRunning, SyncagentError
from syncagent.core.printable import printable
from syncagent.edges import machine

_FORMAT = "%(asctime)s %(levelname)s %(threadName)s %(message)s"


class LineFormatter(logging.Formatter):
    """Each record is one line, whatever names it tells of; a traceback follows it, set in."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the name is the library's
        return printable(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:  # noqa: N802 - likewise
        return "\n".join(f"  {printable(line)}" for line in super().formatException(ei).split("\n"))


def set_up_log(level: str) -> None:
    """Lines on standard error; under systemd without the time, which the system log adds itself."""
    format_ = _FORMAT.removeprefix("%(asctime)s ") if "JOURNAL_STREAM" in os.environ else _FORMAT
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineFormatter(format_))
    logging.basicConfig(level=level.upper(), handlers=[handler])
    for library in ("boto3", "botocore", "urllib3", "s3transfer", "watchdog"):
        logging.getLogger(library).setLevel(logging.ERROR)


@click.command()
@click.option("--once", is_flag=True, help="Send what is there now, then end: 0 when nothing is left, else 1.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0),
    default=30.0,
    show_default=True,
    metavar="S",
    help="With --once: give up after so many seconds without progress.",
)
@click.pass_obj
def run(context: Context, once: bool, timeout: float) -> None:
    """Run the agent until SIGTERM or Ctrl-C."""
    settings = context.settings()
    set_up_log(settings.system.log_level)
    for warning in settings.warnings:
        say(f"warning: {warning}")
    from syncagent.app import App

    try:
        app = App(settings, context.directories, is_once=once)
    except AlreadyRunning as error:
        fail(f"another agent is running: {error}")
    except SyncagentError as error:
        fail(f"{error}{_remedy(context)}")
    sys.exit(app.run_once(timeout) if once else app.run())


def _remedy(context: Context) -> str:
    """What to do about a card that cannot be written to, when the agent cannot start on it."""
    directories = context.directories
    for directory in (directories.state_dir, directories.base_dir, directories.data_dir):
        if machine.is_read_only(directory):
            return f" -- {directory} is mounted read-only: {machine.READ_ONLY_REMEDY}"
    return ""
