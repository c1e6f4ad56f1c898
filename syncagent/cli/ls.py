"""syncagent ls: the journal's rows."""

from __future__ import annotations

import sys

import click

from syncagent.cli.context import Context, print_json
from syncagent.core.model import State
from syncagent.core.printable import printable
from syncagent.core.words import size_words
from syncagent.edges.control import ask
from syncagent.edges.journal import Row


def row_json(row: Row) -> dict[str, object]:
    """One row as programs read it."""
    return {
        "path": row.path,
        "address": row.address,
        "state": str(row.state),
        "reason": row.reason,
        "bytes": row.facts.size_bytes,
        "key": row.key,
        "sha256": row.digest.sha256.hex() if row.digest else None,
        "attempts": row.attempts,
        "position": row.position,
    }


@click.command()
@click.option("--state", "states", multiple=True, type=click.Choice([str(state) for state in State]), metavar="STATE")
@click.option("--json", "as_json", is_flag=True, help="One document on standard output.")
@click.pass_obj
def ls(context: Context, states: tuple[str, ...], as_json: bool) -> None:
    """List what the journal knows; with --state, only rows in that state (may be repeated)."""
    journal = context.journal(is_read_only=True)
    try:
        wanted = {State(state) for state in states} | ({State.READY} if State.SENDING in states else set())
        rows = [row_json(row) for row in journal.listing(sorted(wanted))]
    finally:
        journal.close()
    _mark_flights(context, rows)
    if states:
        rows = [row for row in rows if row["state"] in states]
    if not states or State.SETTLING in states:
        rows += _settling(context, {str(row["path"]) for row in rows if row["state"] == State.SETTLING})
    if as_json:
        print_json(rows)
        return
    for row in rows:
        reason = f"({row['reason']})" if row["reason"] else ""
        state = f"{row['state']}{reason}"
        size = size_words(float(str(row["bytes"])))
        click.echo(printable(f"{state:<12} {size:>9}  {row['path']}  {row['key'] or ''}".rstrip()))
    if not rows:
        click.echo("nothing", err=True)
        sys.exit(0)


def _mark_flights(context: Context, rows: list[dict[str, object]]) -> None:
    """The journal makes no note of a single request on its way; the agent knows."""
    flights = ask(context.state_dir, "flights")
    on_its_way = {(flight["path"], flight["address"]) for flight in (flights if isinstance(flights, list) else [])}
    for row in rows:
        if row["state"] == State.READY and (row["path"], row["address"]) in on_its_way:
            row["state"] = str(State.SENDING)


def _settling(context: Context, known: set[str]) -> list[dict[str, object]]:
    """What only the running agent knows: files that are not finished yet."""
    entries = ask(context.state_dir, "settling")
    return [
        {
            "path": entry["path"],
            "address": None,
            "state": str(State.SETTLING),
            "reason": entry["why"],
            "bytes": entry["bytes"],
            "key": None,
            "sha256": None,
            "attempts": 0,
            "position": None,
        }
        for entry in (entries if isinstance(entries, list) else [])
        if entry["path"] not in known
    ]
