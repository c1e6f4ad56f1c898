"""syncagent retry: release what is parked, make due what waits."""

from __future__ import annotations

import click

from syncagent.cli.context import Context, absolute_of
from syncagent.core.places import GENERATED, Places


def journal_path(places: Places, named: str) -> str:
    """A path as a person types it, as the journal has it: from `ls`, absolute, or from where they stand."""
    if named.startswith(GENERATED + "/"):
        return named
    absolute = absolute_of(named)
    return places.name_of(absolute) or absolute


@click.command()
@click.argument("paths", nargs=-1, metavar="[PATH...]")
@click.option("--all", "everything", is_flag=True, help="Every parked or waiting file.")
@click.pass_obj
def retry(context: Context, paths: tuple[str, ...], everything: bool) -> None:
    """Release parked files and make waiting ones due now."""
    if bool(paths) == everything:
        raise click.UsageError("name the files, or say --all")
    # Without the configuration: it may be in the middle of being edited, which is no reason not to try again.
    places = context.places()
    journal = context.journal()
    try:
        chosen = None if everything else [journal_path(places, path) for path in paths]
        count = journal.retry(chosen)
        context.poke(journal)
    finally:
        journal.close()
    click.echo(f"{count} released")
