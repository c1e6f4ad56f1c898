"""syncagent doctor: what breaks in the field, one line each with its remedy."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import click

from syncagent.assembly import identity_of, open_store
from syncagent.checks import Finding, Verdict
from syncagent.checks.device import check_device
from syncagent.checks.store import check_store
from syncagent.cli.context import Context, print_json
from syncagent.core.errors import ConfigError, SyncagentError
from syncagent.core.messages import all_addresses
from syncagent.core.printable import printable
from syncagent.core.settings import Carrier, Settings
from syncagent.docks.survey import prefix_of
from syncagent.edges.clock import Clock
from syncagent.edges.configfiles import load_settings
from syncagent.edges.control import ask

_MARKS = {Verdict.OK: "ok  ", Verdict.WARNING: "warn", Verdict.FAILED: "FAIL", Verdict.SKIPPED: "-   "}


def examine(context: Context, *, writes: bool) -> Iterator[Finding]:
    """Every check, in the order in which things are needed."""
    try:
        settings = load_settings(context.config_dir, identity=identity_of(context.directories))
    except ConfigError as error:
        for problem in error.problems:
            place = f"{problem.file}:{problem.line}" if problem.line else problem.file
            key = f"{problem.key}: " if problem.key else ""
            yield Finding("configuration", Verdict.FAILED, f"{place}: {key}{problem.what}", problem.remedy)
        return
    yield Finding("configuration", Verdict.OK, context.config_dir)
    for warning in settings.warnings:
        yield Finding("configuration", Verdict.WARNING, warning)
    yield from check_device(settings, context.directories, running=ask(context.state_dir, "status"))
    senders = {address.carrier.name for address in all_addresses(settings)}
    for carrier, prefix in _carriers(settings).values():
        store = open_store(carrier, Clock())
        try:
            yield from check_store(carrier, store, prefix, writes=writes, sends=carrier.name in senders)
        except SyncagentError as error:  # what no check expects is an answer, too
            yield Finding(carrier.name, Verdict.FAILED, str(error), "please report this")
        finally:
            store.close()


def _carriers(settings: Settings) -> dict[str, tuple[Carrier, str]]:
    """Each carrier that is in use, with the prefix of one of its addresses."""
    found: dict[str, tuple[Carrier, str]] = {}
    for address in all_addresses(settings):
        found.setdefault(address.carrier.name, (address.carrier, prefix_of(address.carrier, address)))
    for task in settings.tasks:
        prefix = f"{task.carrier.path}/" if task.carrier.path else ""
        found.setdefault(task.carrier.name, (task.carrier, prefix))
    return found


def report(findings: Iterator[Finding]) -> bool:
    """Print each as it comes; whether none failed."""
    is_well = True
    for finding in findings:
        is_well = is_well and finding.verdict is not Verdict.FAILED
        remedy = f" -- {finding.remedy}" if finding.remedy else ""
        click.echo(printable(f"{_MARKS[finding.verdict]}  {finding.check}: {finding.what}{remedy}"))
    return is_well


@click.command()
@click.option(
    "--write", "writes", is_flag=True, help="Try each right, with a probe object in .syncagent/ and nothing else."
)
@click.option("--json", "as_json", is_flag=True, help="One document on standard output.")
@click.pass_obj
def doctor(context: Context, writes: bool, as_json: bool) -> None:
    """Look for what breaks in the field: one line each, with its remedy.

    Exits 0 when nothing failed, else 1. As root it looks with the eyes of the user that the service runs as.
    """
    if not as_json:
        sys.exit(0 if report(examine(context, writes=writes)) else 1)
    findings = list(examine(context, writes=writes))
    is_well = all(finding.verdict is not Verdict.FAILED for finding in findings)
    print_json({"ok": is_well, "checks": [finding.as_json() for finding in findings]})
    sys.exit(0 if is_well else 1)
