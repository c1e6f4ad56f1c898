"""syncagent firmware keygen, init, channel, renew, rotate-key, sign, import: keys, and what only they decide."""

from __future__ import annotations

import os
import re
import sys
from typing import Any

import click

from syncagent.cli.context import say
from syncagent.cli.publishing.desk import Desk, at_desk, commit, dry_option, export_option
from syncagent.core.errors import Refused
from syncagent.core.settings import Carrier
from syncagent.edges.files import words, write_whole
from syncagent.publish.changes import add_channel, remove_channel, rotate
from syncagent.publish.changes import renew as renewed
from syncagent.publish.keys import KeyRing, check_name, read_file, write_new
from syncagent.publish.publisher import ROOT_FILE
from syncagent.publish.reading import MAX_METADATA_BYTES, parsed
from syncagent.publish.releases import version_of
from syncagent.publish.repository import TOP_ROLES, Repository, check_channel, left_fraction


class Percent(click.ParamType):  # type: ignore[type-arg, unused-ignore]
    """50 or 50%."""

    name = "percent"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            number = float(str(value).removesuffix("%"))
        except ValueError:
            number = -1.0
        if not 0 <= number <= 100:
            self.fail(f"{value!r} is no percentage", param, ctx)
        return number


@click.command()
@click.argument("roles", nargs=-1, required=True, metavar="ROLE...")
@click.option("--name", metavar="NAME", help="Name of the key's files. [default: the role's]")
@at_desk
def keygen(desk: Desk, roles: tuple[str, ...], name: str | None) -> None:
    """Make the key of a ROLE: root, targets, snapshot, timestamp, or a channel's name.

    The private half is written encrypted; the .pub file beside it may be given to anybody. A role may have several
    keys: name the others.
    """
    if name is not None and len(roles) != 1:
        raise click.UsageError("--name names the key of one ROLE")
    for role in roles:
        check_name(role, what="role")
    ring = desk.ring()
    for role in roles:
        made = ring.generate(name or role, role)
        click.echo(f"{os.path.join(desk.keys_dir, made.name)}.key: {role}, key id {made.key.keyid[:16]}…")


def thresholds_of(values: tuple[str, ...]) -> dict[str, int]:
    """ROLE=N, several times. Raises: click.BadParameter."""
    found = {}
    for value in values:
        role, equals, number = value.partition("=")
        if not equals or not re.fullmatch("[0-9]{1,4}", number):
            raise click.BadParameter(f"{value!r} is not of the form ROLE=N", param_hint="--threshold")
        found[role] = int(number)
    return found


@click.command()
@click.option("--channel", "channels", multiple=True, metavar="NAME", help="A channel. [default: the carrier's]")
@click.option("--threshold", "thresholds", multiple=True, metavar="ROLE=N", help="How many keys of a role must sign.")
@export_option
@dry_option
@at_desk
def init(
    desk: Desk, channels: tuple[str, ...], thresholds: tuple[str, ...], export_dir: str | None, is_dry: bool
) -> None:
    """Begin a repository in the bucket, with the keys that are in the key directory.

    Afterwards root.json in the key directory is what devices trust: bring it to each, as firmware.root of its
    carrier.
    """
    wanted = thresholds_of(thresholds)
    carrier = desk.carrier()
    names = channels or (carrier.firmware.channel,)
    for name in names:
        check_channel(name)
    for role in wanted:
        if role not in (*TOP_ROLES, *names):
            raise Refused(f"--threshold names {role}, which is neither a role nor a channel of this repository")
    with desk.publisher(carrier, is_dry=is_dry) as publisher:
        draft = publisher.begin(names, wanted)
        done = f"begun at {publisher.shelf.metadata_key('')} with {', '.join(names)}"
        commit(publisher, draft, done, export_dir=export_dir, is_dry=is_dry)
        if export_dir is None and not is_dry:
            hand_over(desk, carrier)


def hand_over(desk: Desk, carrier: Carrier) -> None:
    """Say what devices trust, and give it to the one that is configured here, if it trusts nothing yet."""
    own = os.path.join(desk.keys_dir, ROOT_FILE)
    click.echo(f"devices trust {own}")
    if not carrier.firmware.root:
        return
    place = os.path.join(desk.context.config_dir, carrier.firmware.root)
    root = read_file(own, most_bytes=MAX_METADATA_BYTES)
    try:
        if not os.path.lexists(place):
            write_new(place, root, mode=0o644)
            click.echo(f"copied to {place}, the firmware.root of {carrier.name}")
        elif read_file(place, most_bytes=MAX_METADATA_BYTES) != root:
            say(f"{place}, the firmware.root of {carrier.name}, is of another repository: put this one in its place")
    except Refused as error:
        say(f"it was not copied to where firmware.root of {carrier.name} says: {error}")


@click.group()
def channel() -> None:
    """Add or remove a channel."""


@channel.command()
@click.argument("name")
@click.option("--threshold", type=click.IntRange(min=1), default=1, metavar="N", help="How many of its keys must sign.")
@export_option
@dry_option
@at_desk
def add(desk: Desk, name: str, threshold: int, export_dir: str | None, is_dry: bool) -> None:
    """Add an empty channel, signed by its own keys."""
    check_channel(name)
    with desk.publisher(is_dry=is_dry) as publisher:
        keys = [public.key for public in publisher.ring.public_keys(name)]
        draft = add_channel(publisher.load(), name, keys, threshold=threshold, now=publisher.now)
        commit(publisher, draft, f"added {name}", export_dir=export_dir, is_dry=is_dry)


@channel.command()
@click.argument("name")
@export_option
@dry_option
@at_desk
def remove(desk: Desk, name: str, export_dir: str | None, is_dry: bool) -> None:
    """Remove a channel. Devices that follow it keep what they have."""
    with desk.publisher(is_dry=is_dry) as publisher:
        draft = remove_channel(publisher.load(), name, now=publisher.now)
        commit(publisher, draft, f"removed {name}", export_dir=export_dir, is_dry=is_dry)


@click.command()
@click.option(
    "--if-less-than",
    "limit",
    type=Percent(),
    default="50%",
    show_default=True,
    metavar="PERCENT",
    help="Only what has less than this of its life left; 100% is everything.",
)
@click.option("--role", "wanted", multiple=True, metavar="ROLE", help="Only this role, whatever its life.")
@export_option
@dry_option
@at_desk
def renew(desk: Desk, limit: float, wanted: tuple[str, ...], export_dir: str | None, is_dry: bool) -> None:
    """Sign anew what expires, as far as the keys are here. Exits 1 when something that is due could not be renewed."""
    with desk.publisher(is_dry=is_dry) as publisher:
        repository, ring = publisher.load(), publisher.ring
        for role in wanted:
            repository.role_of(role)
        due = [
            role
            for role, metadata in repository.metadata()
            if (role in wanted if wanted else left_fraction(role, metadata, publisher.now) < limit / 100)
            or role in repository.orphans
        ]
        if not due:
            click.echo("nothing is due")
            return
        absent = [] if export_dir else [role for role in due if not _can_sign(ring, repository, role)]
        possible = [role for role in due if role not in absent]
        if possible:
            draft = renewed(repository, possible, now=publisher.now)
            commit(publisher, draft, f"renewed {', '.join(possible)}", export_dir=export_dir, is_dry=is_dry)
        if absent:
            say(f"not renewed, because too few of its keys are here: {', '.join(absent)}; see --export")
            sys.exit(1)


def _can_sign(ring: KeyRing, repository: Repository, name: str) -> bool:
    role = repository.role_of(name)
    return bool(sum(ring.has(keyid) for keyid in role.keyids) >= role.threshold)


@click.command("rotate-key")
@click.argument("role")
@click.option("--threshold", type=click.IntRange(min=1), metavar="N", help="How many must sign. [default: as before]")
@click.option("--retire", multiple=True, metavar="NAME", help="A key of the role that it shall not have any more.")
@click.option("--keep-old", is_flag=True, help="Only add keys; retire none.")
@click.option("--lost", "is_lost", is_flag=True, help="The old keys cannot sign any more.")
@export_option
@dry_option
@at_desk
def rotate_key(
    desk: Desk,
    role: str,
    threshold: int | None,
    retire: tuple[str, ...],
    keep_old: bool,
    is_lost: bool,
    export_dir: str | None,
    is_dry: bool,
) -> None:
    """Give a ROLE other keys: those of it in the key directory that it does not have yet, in the place of its own.

    Make the new one first: syncagent firmware keygen ROLE --name NAME. Devices follow by themselves.
    """
    with desk.publisher(is_dry=is_dry) as publisher:
        repository = publisher.load()
        before = repository.role_of(role)
        here = publisher.ring.public_keys(role)
        unknown = sorted(set(retire) - {public.name for public in here})
        if unknown:
            raise Refused(f"there is no key {unknown[0]} of {role}")
        new = [public.key for public in here if public.key.keyid not in before.keyids]
        if keep_old or retire:
            gone = {public.key.keyid for public in here if public.name in retire}
            delegator = repository.root.signed if role in TOP_ROLES else repository.targets.signed
            kept = [delegator.get_key(keyid) for keyid in before.keyids if keyid not in gone]
            new = kept + [key for key in new if key.keyid not in gone]
        elif not new:
            raise Refused(
                f"there is no other key of {role}: make one with `syncagent firmware keygen {role} --name NAME`"
            )
        draft = rotate(
            repository, role, new, threshold=threshold or before.threshold, is_lost=is_lost, now=publisher.now
        )
        commit(publisher, draft, f"{role} has {len(new)} key(s) now", export_dir=export_dir, is_dry=is_dry)


@click.command()
@click.argument("file", type=click.Path(dir_okay=False))
@click.option("--key", "key_file", required=True, type=click.Path(dir_okay=False), metavar="KEYFILE")
@at_desk
def sign(desk: Desk, file: str, key_file: str) -> None:
    """Sign an exported FILE with one key; nothing else is needed, least of all a network."""
    metadata = parsed(read_file(file, most_bytes=MAX_METADATA_BYTES), object, file)
    signer = desk.ring().unlock_file(key_file)
    signed = metadata.signed
    metadata.sign(signer, append=True)
    folder, _, name = os.path.abspath(file).rpartition("/")
    try:
        write_whole(folder or "/", name, metadata.to_bytes())
    except OSError as error:
        raise Refused(f"{file}: {words(error)}") from error
    click.echo(f"signed {signed.type} {signed.version}, good until {signed.expires:%Y-%m-%d}, which says:")
    for line in describe(signed):
        click.echo(f"  {line}")


def describe(signed: Any) -> list[str]:
    """What a person puts a name to."""
    lines = []
    if signed.type == "root":
        for name, role in sorted(signed.roles.items()):
            lines.append(f"{name}: {role.threshold} of {', '.join(keyid[:16] + '…' for keyid in role.keyids)}")
    for path, target in sorted(getattr(signed, "targets", {}).items()):
        lines.append(f"{path}: {version_of(target)}, {target.length} bytes, sha256 {target.hashes.get('sha256')}")
    delegations = getattr(signed, "delegations", None)
    for name, role in sorted((delegations.roles or {}).items()) if delegations else ():
        lines.append(f"channel {name}: {role.threshold} of {', '.join(keyid[:16] + '…' for keyid in role.keyids)}")
    # A file from elsewhere: what is signed must be what is seen.
    return ["".join(c if c.isprintable() else "?" for c in line) for line in lines] or ["nothing is offered"]


@click.command("import")
@click.argument("directory", type=click.Path(file_okay=False, exists=True))
@dry_option
@at_desk
def import_(desk: Desk, directory: str, is_dry: bool) -> None:
    """Publish what was exported to DIRECTORY, once enough keys have signed it."""
    carrier = desk.carrier()
    with desk.publisher(carrier, is_dry=is_dry) as publisher:
        draft, images = publisher.take_up(directory)
        roles = ", ".join(f"{role} {metadata.signed.version}" for role, metadata in draft.changed.items())
        commit(publisher, draft, f"published {roles}", images=images, is_dry=is_dry)
        if draft.base is None and not is_dry:
            hand_over(desk, carrier)
