"""The entry point: options that every verb shares, and verbs that are loaded when they are asked for."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from typing import Any

import click

from syncagent import __version__
from syncagent.core.errors import EXIT_BUG, SyncagentError
from syncagent.core.printable import printable_lines

#: verb -> (module, one line of help). Loaded late: most of a short command's time is imports.
VERBS = {
    "run": ("run", "Run the agent."),
    "check-config": ("check_config", "Load the configuration and print what is in force."),
    "status": ("status", "Show whether files get through, and if not, why."),
    "send": ("send", "Queue files now."),
    "post": ("post", "Hand the agent a message."),
    "follow": ("follow", "Print a line of JSON for each confirmed version."),
    "ls": ("ls", "List what the journal knows."),
    "retry": ("retry", "Release parked files; make waiting ones due now."),
    "verify": ("verify", "Compare disk and journal with the bucket."),
    "i2c": ("i2c", "Look for parts on an I2C bus."),
    "firmware": ("firmware", "What firmware this device has and is offered; and to publish it."),
    "doctor": ("doctor", "Look for what breaks in the field; each with its remedy."),
    "setup": ("setup", "Write the configuration, check it, and start the service."),
    "iam-policy": ("iam_policy", "Print the least AWS policy that this configuration needs."),
    "demo": ("demo", "Show the whole thing at work on this machine; needs no account."),
}


class Verbs(click.Group):
    """A group whose commands live in modules of their own."""

    def list_commands(self, _context: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, _context: click.Context, name: str) -> click.Command | None:
        if name not in VERBS:
            return None
        module = importlib.import_module(f"syncagent.cli.{VERBS[name][0]}")
        command: click.Command = getattr(module, VERBS[name][0])
        return command

    def format_commands(self, _context: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Verbs"):
            formatter.write_dl([(name, line) for name, (_, line) in VERBS.items()])

    def resolve_command(
        self, context: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(context, args)
        except click.UsageError as error:
            import difflib

            near = difflib.get_close_matches(args[0], VERBS, 1) if args else []
            if near:
                raise click.UsageError(f"{error.message} Did you mean '{near[0]}'?", context) from error
            raise


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="syncagent")
@click.option("--config-dir", envvar="SYNCAGENT_CONFIG_DIR", default="configs", show_default=True, metavar="DIR")
@click.option("--base-dir", envvar="SYNCAGENT_BASE_DIR", default=".", show_default=True, metavar="DIR")
@click.option(
    "--state-dir", envvar="SYNCAGENT_STATE_DIR", default=None, metavar="DIR", help="[default: state, below the base]"
)
@click.pass_context
def cli(context: click.Context, config_dir: str, base_dir: str, state_dir: str | None) -> None:
    """Moves what field cameras write into an S3 bucket, whatever fails.

    Files below generated_data/ of the base directory are sent once they are finished.
    Each option can also be given as SYNCAGENT_CONFIG_DIR, SYNCAGENT_BASE_DIR, SYNCAGENT_STATE_DIR.
    """
    from syncagent.cli.context import Context

    context.obj = Context.of(config_dir, base_dir, state_dir)


def main(args: list[str] | None = None) -> Any:
    """Run the command line. What is expected to go wrong exits 1 with a line, usage errors 2, a bug 70."""
    for stream in (sys.stdout, sys.stderr):
        # Names from the disk may hold bytes that no terminal can show.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        return cli(args, prog_name="syncagent")
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return sys.exit(1)
    except SyncagentError as error:
        click.echo(printable_lines(f"syncagent: {error}"), err=True)
        return sys.exit(1)
    except Exception:
        traceback.print_exc()
        click.echo("syncagent: this is a bug in syncagent; please report the lines above", err=True)
        return sys.exit(EXIT_BUG)
