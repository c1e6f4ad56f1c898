"""syncagent send: queue files because a person says so."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TransferSpeedColumn

from syncagent.assembly import territory_of
from syncagent.cli.context import Context, absolute_of, fail, say
from syncagent.core.errors import Refused
from syncagent.core.keys import check_cloud_path
from syncagent.core.model import Facts, State
from syncagent.core.places import GENERATED, Places
from syncagent.core.printable import printable
from syncagent.core.settings import SendAddress, Settings
from syncagent.core.territory import is_within
from syncagent.docks.naming import check_outside_corner
from syncagent.docks.routing import roots_of
from syncagent.edges.clock import Stop
from syncagent.edges.control import ask
from syncagent.edges.files import facts_of, is_file, look
from syncagent.edges.journal import Journal

LOOK_S = 0.1
#: States after which nothing more happens by itself.
ENDED = frozenset({State.CONFIRMED, State.REMOVED, State.PARKED, State.GONE, State.SUPERSEDED, State.LOST})
DONE = frozenset({State.CONFIRMED, State.REMOVED})


@dataclass(slots=True)
class Asked:
    """One file that was queued."""

    named: str
    row_id: int
    task: TaskID | None = None


def choose_address(settings: Settings, wanted: str | None, place: str | None) -> list[SendAddress]:
    """The addresses a file goes to: the one named, else those whose directory it lies in, else the only one."""
    if wanted is not None:
        chosen = [a for a in settings.addresses if wanted in (a.name, a.configured_name)]
        if not chosen:
            names = ", ".join(address.name for address in settings.addresses)
            raise click.UsageError(f"no active address is called {wanted!r}; there are: {names}")
        return chosen
    if place is not None:
        within = [address for address in settings.addresses if is_within(place, address.carrier.path)]
        longest = max((len(address.carrier.path) for address in within), default=0)
        within = [address for address in within if len(address.carrier.path) == longest]
        if within:
            return within
    if len({address.configured_name for address in settings.addresses}) == 1:
        return list(settings.addresses)
    names = ", ".join(address.name for address in settings.addresses)
    raise click.UsageError(f"say which address with --address: {names}")


def find(context: Context, settings: Settings, places: Places, named: str) -> tuple[str, Facts]:
    """The journal's path of a file that a person named, and its facts now. Raises: click.BadParameter."""
    path = places.name_of(absolute_of(named))
    if path is None:
        raise click.BadParameter(
            f"{named} lies neither below {os.path.join(context.base_dir, GENERATED)}"
            " nor below a directory of upload.allowed_roots"
        )
    territory = territory_of(settings, context.directories, places)
    if territory.is_reserved(places.relative_of(path) or "") or is_within(path, context.state_dir):
        raise click.BadParameter(f"{named} is the agent's own: messages, firmware and its state are never sent")
    located = places.locate(path)
    status = look(*located) if located else None
    if status is None or not is_file(status):
        raise click.BadParameter(f"{named} is not a regular file" if status else f"{named} is not there")
    return path, facts_of(status)


@click.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option("--address", metavar="N", help="Send to this address; by default the one whose directory the file is in.")
@click.option("--cloud-path", metavar="K", help="The object key; only with one FILE.")
@click.option("--wait", is_flag=True, help="Show the progress, and end when every file is confirmed.")
@click.pass_obj
def send(context: Context, files: tuple[str, ...], address: str | None, cloud_path: str | None, wait: bool) -> None:
    """Queue files now. Exits 1 when a file cannot be queued, or, with --wait, was not confirmed."""
    if not all(files):
        raise click.UsageError("a FILE has no name")
    if cloud_path is not None and len(files) != 1:
        raise click.UsageError("--cloud-path names one object, so it takes one FILE")
    settings = context.settings()
    if address is not None:
        choose_address(settings, address, None)
    if cloud_path is not None:
        try:
            check_cloud_path(cloud_path)
            check_outside_corner(cloud_path, [each.carrier for each in settings.addresses])
        except Refused as error:
            fail(str(error))
    places = context.places(settings)
    journal = context.journal(settings)
    try:
        asked, bad = [], 0
        for named in files:
            try:
                path, facts = find(context, settings, places, named)
                for chosen in choose_address(settings, address, places.relative_of(path)):
                    if not places.is_open(path, roots_of(chosen.carrier)):
                        raise click.BadParameter(f"{named} lies in no upload.allowed_roots of {chosen.carrier.name}")
                    row_id = journal.ask(chosen.name, path, cloud_path=cloud_path, facts=facts)
                    asked.append(Asked(named, row_id))
            except click.BadParameter as error:
                say(error.message)
                bad += 1
        context.poke(journal)
        if wait and asked:
            if context.agent_pid() is None:
                fail("queued, but no agent is running: start it with `syncagent run`")
            bad += _follow(context, journal, asked)
        elif asked:
            click.echo(f"{len(asked)} queued")
    finally:
        journal.close()
    sys.exit(1 if bad else 0)


def _follow(context: Context, journal: Journal, asked: list[Asked]) -> int:
    """Show each file's way until all have ended; how many did not arrive."""
    stop, failed = Stop(), 0
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(
        *columns, TextColumn("{task.fields[state]}"), console=console, disable=not console.is_terminal
    ) as bars:
        for item in asked:
            item.task = bars.add_task(escape(printable(os.path.basename(item.named))), total=None, state="queued")
        left = list(asked)
        while left:
            flights = ask(context.state_dir, "flights")
            sent = {(f["path"], f["address"]): f["sent_bytes"] for f in (flights or [])}
            for item in list(left):
                row = journal.row(item.row_id)
                assert item.task is not None
                state = f"{row.state} ({row.reason})" if row.reason else str(row.state)
                moved = row.facts.size_bytes if row.state in DONE else sent.get((row.path, row.address), 0)
                bars.update(item.task, total=row.facts.size_bytes, completed=moved, state=escape(printable(state)))
                if row.state in ENDED:
                    left.remove(item)
                    failed += row.state not in DONE
                    if not console.is_terminal:
                        say(printable(f"{item.named}: {state}{' ' + row.key if row.key else ''}"))
            if flights is None and context.agent_pid() is None:
                say("the agent ended; the files stay queued")
                return failed + len(left)
            if left:
                stop.wait(LOOK_S)
    return failed
