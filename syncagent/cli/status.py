"""syncagent status: whether files get through, and if not, why."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import click
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from syncagent.assembly import open_journal
from syncagent.cli.context import EXIT_NOT_RUNNING, Context, fail, print_json, say
from syncagent.core.board import Board, Fact
from syncagent.core.errors import JournalTorn, SyncagentError
from syncagent.core.printable import printable
from syncagent.core.release import component_of, firmware_carriers
from syncagent.core.settings import Carrier, SendAddress, Settings, System
from syncagent.core.words import age_words, size_words
from syncagent.docks.channel import fact_of
from syncagent.edges.clock import Clock, Stop
from syncagent.edges.control import ask
from syncagent.reporter import NEVER_LOOKED, Reporter, disk_fact

WATCH_EVERY_S = 1.0
_COLOURS = {"ok": "green", "degraded": "yellow", "broken": "red", "stopped": "red"}


def read_status(context: Context) -> dict[str, Any]:
    """The running agent's own status, or, where none answers, what journal and disk say."""
    answer = ask(context.state_dir, "status")
    if isinstance(answer, dict) and "queue" in answer:
        return answer
    pid = context.agent_pid()
    clock = Clock()
    board = Board(clock.monotonic)
    board.set_fact("disk", disk_fact(context.directories))
    if pid is not None:
        silent = Fact(False, "silent", f"PID {pid or 'unknown'} does not answer")
        board.set_fact("watcher", silent)
        board.set_fact("uploader", silent)
    settings = context.settings_if_sound()
    try:
        journal = open_journal(settings, context.directories, clock, is_read_only=True)
    except JournalTorn as error:
        # Whether an agent runs is known all the same.
        say(f"nothing is known of files: {error}")
        board.set_fact("disk", Fact(False, "damaged", str(error)))
        nowhere = replace(context.directories, state_dir=os.path.join(context.state_dir, "no-journal"))
        journal = open_journal(settings, nowhere, clock, is_read_only=True)
    except SyncagentError as error:
        fail(str(error))
    try:
        if settings is None:
            settings = _unread(journal.address_names())
            journal.set_active(journal.address_names())
        for carrier in firmware_carriers(settings):
            face = journal.firmware_face(component_of(carrier)) or NEVER_LOOKED
            board.set_fact(f"firmware/{carrier.name}", fact_of(carrier, face))
        return Reporter(settings=settings, journal=journal, clock=clock, board=board, pid=pid).status()
    finally:
        journal.close()


def _unread(addresses: Sequence[str]) -> Settings:
    """Instead of a configuration that cannot be read: the addresses that the journal knows, and all else unsaid."""
    return Settings(
        system=System(id="unknown"),
        addresses=tuple(
            SendAddress(
                name=name, configured_name=name, message_type="", carrier=Carrier(name=name), duration="as_needed"
            )
            for name in addresses
        ),
        warnings=("the configuration cannot be read, see `syncagent check-config`",),
    )


def render(status: dict[str, Any]) -> Group:
    """The status as a person reads it: the headline first."""
    head = Text()
    head.append(f" {status['state']} ", style=f"bold white on {_COLOURS[status['state']]}")
    head.append(f" {status['system_id']}  ")
    head.append(printable(status["reason"]) or "files get through")
    oldest = Text(f"oldest unsent file: {age_words(status['oldest_unsent_s'])}")
    queue = Table(box=None, pad_edge=False)
    for title in ("state", "files", "bytes", "why"):
        queue.add_column(title, justify="right" if title in ("files", "bytes") else "left")
    for state, entry in status["queue"].items():
        if entry["files"]:
            why = ", ".join(f"{reason} ({count})" for reason, count in entry["reasons"].items())
            queue.add_row(state, str(entry["files"]), size_words(entry["bytes"]), _cell(why))
    facts = Table(box=None, pad_edge=False, show_header=False)
    for name, fact in status["facts"].items():
        mark = Text("ok", style="green") if fact["ok"] else Text("!!", style="red")
        facts.add_row(mark, name, _cell(fact["state"]), _cell(fact["reason"]))
    # The headline of an agent that is stopped or broken says only that.
    unsaid = [warning for warning in status["warnings"] if warning not in status["reason"]]
    warnings = [Text("warning: ", style="yellow").append(printable(warning)) for warning in unsaid]
    parts: list[Any] = [head, *warnings, oldest, Text(), queue, Text(), facts]
    if status["last_errors"]:
        errors = Table(box=None, pad_edge=False, title="last errors", title_justify="left")
        for title in ("age", "path", "what", "reason", "remedy"):
            errors.add_column(title)
        for error in status["last_errors"]:
            told = (_cell(error[name]) for name in ("path", "what", "reason", "remedy"))
            errors.add_row(age_words(error["age_s"]), *told)
        parts += [Text(), errors]
    return Group(*parts)


def _cell(text: str) -> Text:
    """Words of somebody else, which are neither markup nor orders to a terminal."""
    return Text(printable(text))


def exit_code(status: dict[str, Any]) -> int:
    if not status["running"]:
        return EXIT_NOT_RUNNING
    return 0 if status["healthy"] else 1


@click.command()
@click.option("--json", "as_json", is_flag=True, help="The status object on standard output.")
@click.option("--watch", is_flag=True, help="Keep showing it until Ctrl-C.")
@click.pass_obj
def status(context: Context, as_json: bool, watch: bool) -> None:
    """Show whether files get through, and if not, why.

    Exits 0 when healthy, 1 when not, 3 when no agent is running.
    """
    shown = read_status(context)
    if watch and not as_json:
        with Live(render(shown), console=Console(), auto_refresh=False) as live:
            for shown in _again(context):
                live.update(render(shown), refresh=True)
    elif as_json:
        print_json(shown)
    else:
        Console().print(render(shown))
    sys.exit(exit_code(shown))


def _again(context: Context) -> Iterator[dict[str, Any]]:
    stop = Stop()
    try:
        while not stop.wait(WATCH_EVERY_S):
            yield read_status(context)
    except KeyboardInterrupt:
        return
