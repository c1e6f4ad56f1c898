"""syncagent retry: release what is parked, make due what waits."""

from __future__ import annotations

import os

import click

from syncagent.cli.context import Context
from syncagent.core.places import GENERATED


def journal_path(context: Context, named: str, data_root: str) -> str:
    """A path as a person types it, as the journal has it: from `ls`, absolute, or from where they stand."""
    if named.startswith(GENERATED + "/"):
        return named
    absolute = os.path.join(os.path.realpath(os.path.dirname(os.path.abspath(named))), os.path.basename(named))
    if absolute.startswith(data_root + "/"):
        return f"{GENERATED}/{absolute[len(data_root) + 1 :]}"
    return absolute


@click.command()
@click.argument("paths", nargs=-1, metavar="[PATH...]")
@click.option("--all", "everything", is_flag=True, help="Every parked or waiting file.")
@click.pass_obj
def retry(context: Context, paths: tuple[str, ...], everything: bool) -> None:
    """Release parked files and make waiting ones due now."""
    if bool(paths) == everything:
        raise click.UsageError("name the files, or say --all")
    settings = context.settings()
    data_root = context.places(settings).data_root
    journal = context.journal(settings)
    try:
        chosen = None if everything else [journal_path(context, path, data_root) for path in paths]
        count = journal.retry(chosen)
        context.poke(journal)
    finally:
        journal.close()
    click.echo(f"{count} released")
