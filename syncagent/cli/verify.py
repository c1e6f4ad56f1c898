"""syncagent verify: whether the bucket holds what the disk and the journal say."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager

import click
from rich.console import Console

from syncagent.assembly import open_store, store_name, territory_of
from syncagent.cli.context import Context, fail, print_json, say
from syncagent.core.errors import Blocked, Transient
from syncagent.core.messages import all_addresses
from syncagent.core.printable import printable
from syncagent.core.settings import SendAddress, Settings
from syncagent.docks.survey import Survey
from syncagent.docks.verification import HARMLESS, Finding, Verification
from syncagent.edges.clock import Clock
from syncagent.edges.journal import Journal
from syncagent.edges.objects import S3Store

#: A terminal is told of progress this often.
SHOW_S = 0.2


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One document on standard output.")
@click.pass_obj
def verify(context: Context, as_json: bool) -> None:
    """Compare disk and journal with the bucket, by listing and digest; changes nothing.

    Exits 0 when the bucket holds every file, whole; 1 when one is missing, different, or unsent.
    """
    settings = context.settings()
    journal = context.journal(settings, is_read_only=True)
    places = context.places(settings)
    verification = Verification(journal, places, territory_of(settings, context.directories, places))
    findings: list[Finding] = []
    trouble = None
    try:
        _verify(settings, journal, verification, findings, as_json=as_json)
    except Blocked as error:
        trouble = f"{error} -- {error.remedy}" if error.remedy else str(error)
    except Transient as error:
        trouble = str(error)
    finally:
        journal.close()
    faults = [finding for finding in findings if finding.kind not in HARMLESS]
    count = verification.count
    if as_json:
        print_json(
            {
                "ok": not faults and trouble is None,
                **({"error": trouble} if trouble is not None else {}),
                "files": count.files,
                "objects": count.objects,
                "read_back": count.read_back,
                "findings": [
                    {"kind": str(each.kind), "path": each.path, "key": each.key, "detail": each.detail}
                    for each in findings
                ],
            }
        )
    if trouble is not None:
        fail(trouble)
    say(
        f"{count.files} files, {count.objects} objects, {count.read_back} read back: "
        + (f"{len(faults)} faults" if faults else "all is there")
    )
    sys.exit(1 if faults else 0)


def _verify(
    settings: Settings, journal: Journal, verification: Verification, findings: list[Finding], *, as_json: bool
) -> None:
    """Adds to `findings`. Raises: Blocked, Transient, when there are no more because the store does not answer."""
    with _progress() as show:
        verification.on_step = lambda what: show(f"{what}: {verification.count.files + verification.count.objects}")
        for finding in _findings(settings, verification, journal):
            findings.append(finding)
            if not as_json:
                subject = finding.path or finding.key
                more = ": ".join(part for part in (finding.key if finding.path else "", finding.detail) if part)
                click.echo(printable(f"{finding.kind:<26}  {subject}  {more}".rstrip()))


def _findings(settings: Settings, verification: Verification, journal: Journal) -> Iterator[Finding]:
    yield from verification.compare_disk()
    buckets: dict[str, list[SendAddress]] = {}
    for address in all_addresses(settings):
        buckets.setdefault(store_name(address.carrier), []).append(address)
    for addresses in buckets.values():
        with ExitStack() as stack:
            stores: dict[str, S3Store] = {}
            for carrier in {address.carrier.name: address.carrier for address in addresses}.values():
                store = stores[carrier.name] = stack.enter_context(closing(open_store(carrier, Clock())))
                Survey(carrier, store, journal)  # tells the store what the journal remembers of it
            yield from verification.compare_store(addresses, stores)


@contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    """One line that changes on a terminal; nothing elsewhere, for the result says it all."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda _what: None
        return
    clock, shown = Clock(), 0.0
    with console.status("comparing …") as line:

        def show(what: str) -> None:
            nonlocal shown
            if clock.monotonic() - shown >= SHOW_S:
                shown = clock.monotonic()
                line.update(f"{what} …")

        yield show
