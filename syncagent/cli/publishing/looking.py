"""syncagent firmware verify, list, show, fleet, gc: what the bucket holds, and what of it may go."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from syncagent.cli.context import print_json, say
from syncagent.cli.publishing.desk import Desk, at_desk, commit
from syncagent.core.manifest import time_text
from syncagent.core.printable import printable
from syncagent.core.words import size_words
from syncagent.publish.audit import audit
from syncagent.publish.audit import fleet as devices_of
from syncagent.publish.changes import renew
from syncagent.publish.publisher import Publisher
from syncagent.publish.releases import find, image_of, manifest_of
from syncagent.publish.repository import Repository, left_fraction
from syncagent.publish.tidying import superfluous

_json = click.option("--json", "as_json", is_flag=True, help="One JSON document.")


def show_table(titles: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    table = Table(*titles, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*(escape(printable(cell)) for cell in row))
    console = Console()
    # Elsewhere nobody wraps for us, and a program that reads wants whole lines.
    console.print(table, soft_wrap=True) if console.is_terminal else Console(width=500).print(table)


@click.command()
@_json
@at_desk
def verify(desk: Desk, as_json: bool) -> None:
    """Look at the bucket as a device does: metadata, expiries, every image. Exits 1 when something is wrong."""
    with desk.publisher() as publisher:
        repository = publisher.load()
        findings = []
        for finding in audit(publisher.shelf, repository, publisher.now):
            findings.append(finding)
            if not as_json:
                click.echo(printable(f"{'ok ' if finding.is_ok else 'BAD'} {finding.what}: {finding.detail}"))
    if as_json:
        print_json([{"what": f.what, "ok": f.is_ok, "detail": f.detail} for f in findings])
    sys.exit(0 if all(finding.is_ok for finding in findings) else 1)


def release_row(channel: str, target: Any) -> dict[str, Any]:
    """A release as a flat object. `hardware` null: for devices that name none, and for no other."""
    manifest = manifest_of(target)
    waves = manifest.rollout.waves
    return {
        "channel": channel,
        "component": manifest.component,
        "version": manifest.version,
        "id": manifest.id,
        "hardware": manifest.hardware,
        "security_version": manifest.security_version,
        "bytes": target.length,
        "sha256": target.hashes["sha256"],
        "percent": waves[-1].percent if waves else 100,
        "halted": manifest.rollout.halt,
        "time": time_text(manifest.time),
    }


@click.command("list")
@_json
@at_desk
def list_(desk: Desk, as_json: bool) -> None:
    """List what each channel offers."""
    with desk.publisher() as publisher:
        repository = publisher.load()
    rows = [release_row(channel, target) for channel, target in repository.releases()]
    if as_json:
        print_json(rows)
        return
    lines = [
        (
            *(row["channel"], row["component"], row["version"], row["id"], row["hardware"] or "-"),
            *(size_words(row["bytes"]), "halted" if row["halted"] else f"{row['percent']} %", row["time"]),
        )
        for row in rows
    ]
    show_table(("channel", "component", "version", "id", "hardware", "size", "fleet", "published"), lines)
    empty = sorted(set(repository.channels) - {row["channel"] for row in rows})
    if empty:
        say(f"channels that offer nothing: {', '.join(empty)}")


def role_row(repository: Repository, role: str, metadata: Any, now: datetime) -> dict[str, Any]:
    asked = repository.role_of(role)
    return {
        "role": role,
        "version": metadata.signed.version,
        "expires": time_text(metadata.signed.expires),
        "left_percent": round(100 * left_fraction(role, metadata, now)),
        "threshold": asked.threshold,
        "keyids": list(asked.keyids),
    }


@click.command()
@click.argument("channel", required=False)
@click.argument("component", required=False)
@_json
@at_desk
def show(desk: Desk, channel: str | None, component: str | None, as_json: bool) -> None:
    """Show roles, keys and expiries; with CHANNEL and COMPONENT one release, as devices read it."""
    if (channel is None) != (component is None):
        raise click.UsageError("name CHANNEL and COMPONENT, or neither")
    with desk.publisher() as publisher:
        repository, now = publisher.load(), publisher.now
    if channel is not None and component is not None:
        target = find(repository, channel, component)
        key = publisher.shelf.image_key(image_of(target))
        custom = target.unrecognized_fields.get("custom")
        print_json({"key": key, "bytes": target.length, "sha256": target.hashes["sha256"], "custom": custom})
        return
    rows = [role_row(repository, role, metadata, now) for role, metadata in repository.metadata()]
    if as_json:
        print_json(rows)
        return
    lines = [
        (
            *(row["role"], str(row["version"]), row["expires"], f"{row['left_percent']} %"),
            f"{row['threshold']} of {', '.join(keyid[:16] for keyid in row['keyids'])}",
        )
        for row in rows
    ]
    show_table(("role", "version", "expires", "left", "keys"), lines)


@click.command()
@_json
@at_desk
def fleet(desk: Desk, as_json: bool) -> None:
    """List what each device confirmed last."""
    with desk.publisher() as publisher:
        devices = devices_of(publisher.shelf, publisher.load())
    if as_json:
        print_json(
            [
                {
                    "system_id": d.system_id,
                    "id": d.release,
                    "file_name": d.file_name,
                    "time": d.at,
                    "offered": d.offered,
                }
                for d in devices
            ]
        )
        return
    rows = [(d.system_id, d.release, d.file_name, d.at, d.offered or "-") for d in devices]
    show_table(("system", "release", "file", "confirmed", "offered now"), rows)


@click.command()
@click.option("--keep", type=click.IntRange(min=1), required=True, metavar="N", help="Snapshots whose images stay.")
@click.option("--yes", "is_meant", is_flag=True, help="Delete without asking.")
@at_desk
def gc(desk: Desk, keep: int, is_meant: bool) -> None:
    """Delete old metadata, and images that the newest N snapshots do not lead to. Not while somebody publishes.

    Uploads that were begun on this machine and given up are ended as well: stores keep, and bill, their parts.
    """
    with desk.publisher() as publisher:
        gone, unfinished = _superfluous(publisher, keep), publisher.shelf.unfinished()
        if not gone and not unfinished:
            click.echo("there is nothing to delete")
            return
        for name in gone:
            click.echo(printable(publisher.shelf.key(name)))
        for key in unfinished:
            click.echo(printable(f"{key} (an upload that did not end)"))
        if not is_meant:
            if not sys.stdin.isatty():
                say("nothing was deleted: say --yes")
                sys.exit(1)
            click.confirm(f"Delete these {len(gone) + len(unfinished)} objects?", abort=True, err=True)
        for key in unfinished:
            publisher.shelf.abort(key)
        if not gone:
            click.echo(f"ended {len(unfinished)} uploads")
            return
        # Whoever is half way through publishing is sent back by this: it may count on an image that goes now.
        commit(publisher, renew(publisher.load(), ["timestamp"], now=publisher.now), "renewed timestamp")
        for name in gone:
            publisher.shelf.delete(name)
        click.echo(f"deleted {len(gone)} objects")


def _superfluous(publisher: Publisher, keep: int) -> list[str]:
    # Listed before the repository is read: what is uploaded from here on is not looked at.
    images = [name.removeprefix("targets/") for name in publisher.shelf.list("targets/")]
    names = publisher.shelf.names()
    repository = publisher.load()
    return superfluous(
        names,
        images,
        current=repository.snapshot.signed.version,
        keep=keep,
        read=lambda name: publisher.shelf.read(publisher.shelf.metadata_key(name)),
    )
