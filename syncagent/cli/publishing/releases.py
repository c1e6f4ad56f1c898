"""syncagent firmware publish, promote, rollout, withdraw: what is offered to whom."""

from __future__ import annotations

import os
import re
import secrets
from dataclasses import replace

import click

from syncagent.cli.context import say
from syncagent.cli.publishing.desk import Desk, at_desk, commit, dry_option, export_option
from syncagent.core.errors import Refused
from syncagent.core.manifest import CONFIG_FORMATS, MAX_KEEP, Manifest, Rollout
from syncagent.core.release import component_of
from syncagent.core.words import size_words
from syncagent.publish.changes import offer
from syncagent.publish.changes import withdraw as withdrawn
from syncagent.publish.publisher import LocalImage, Publisher
from syncagent.publish.releases import (
    find,
    image_of,
    manifest_of,
    security_version,
    security_version_ever,
    version_of,
    wave,
    with_rollout,
)
from syncagent.publish.repository import Repository
from syncagent.publish.shelf import Copy

_component = click.option("--component", metavar="NAME", help="[default: the carrier's firmware.component]")
_channel = click.option("--channel", metavar="NAME", help="[default: the carrier's firmware.channel]")
_percent = click.option("--percent", metavar="P", help="How much of the fleet may install, such as 10 or 0.25.")


def new_rollout(percent: str | None, publisher: Publisher) -> Rollout:
    """A salt of its own for each release, so that it is not always the same devices that go first."""
    return Rollout(secrets.token_hex(8), wave(percent, publisher.now))


def to_whom(rollout: Rollout) -> str:
    if rollout.halt:
        return "halted"
    return f"to {rollout.waves[-1].percent} % of the fleet" if rollout.waves else "to the whole fleet"


@click.command()
@click.argument("image", type=click.Path(dir_okay=False), metavar="IMAGE")
@_channel
@_component
@click.option("--hardware", metavar="NAME", help="What it runs on. [default: the carrier's firmware.hardware]")
@click.option("--version", required=True, metavar="V", help="As people call it.")
@_percent
@click.option("--id", "release_id", metavar="ID", help="[default: the version and the beginning of its SHA-256]")
@click.option(
    "--security-version",
    type=click.IntRange(min=0),
    metavar="N",
    help="A device never installs a lower one again. [default: the highest that is, or was, offered]",
)
@click.option("--file-name", metavar="NAME", help="What the device's config will say. [default: IMAGE's, without .bin]")
@click.option("--disk-path", metavar="PATH", help="Where a device drops it, below its firmware root.")
@click.option("--config-path", metavar="PATH", help="The file that a device switches, below its firmware root.")
@click.option("--config-format", type=click.Choice(CONFIG_FORMATS), default=CONFIG_FORMATS[0], show_default=True)
@click.option("--keep", type=click.IntRange(0, MAX_KEEP), metavar="N", help="Previous images that a device keeps.")
@click.option("--requires-agent", metavar="VERSION", help="The oldest syncagent that may install it.")
@click.option("--requires-free-bytes", type=click.IntRange(min=0), default=0, metavar="N")
@click.option("--no-receipt", is_flag=True, help="Devices shall not confirm it.")
@export_option
@dry_option
@at_desk
def publish(
    desk: Desk,
    image: str,
    channel: str | None,
    component: str | None,
    hardware: str | None,
    version: str,
    percent: str | None,
    release_id: str | None,
    security_version: int | None,
    file_name: str | None,
    disk_path: str | None,
    config_path: str | None,
    config_format: str,
    keep: int | None,
    requires_agent: str | None,
    requires_free_bytes: int,
    no_receipt: bool,
    export_dir: str | None,
    is_dry: bool,
) -> None:
    """Offer IMAGE in a channel, in the place of what the channel offers for the component."""
    carrier = desk.carrier()
    channel = channel or carrier.firmware.channel
    component = component or component_of(carrier)
    local = LocalImage.open(image)
    if local.size_bytes > carrier.firmware.max_image_bytes:
        raise Refused(
            f"{image} has {local.size_bytes} bytes, and devices take {carrier.firmware.max_image_bytes}"
            " (firmware.max_image_bytes)"
        )
    if not local.size_bytes:
        raise Refused(f"{image} is empty")
    sha256_hex = local.digest.sha256.hex()
    with desk.publisher(carrier, is_dry=is_dry) as publisher:
        repository = publisher.load()
        # The original's convention: the name that the config says, and ".bin" behind it on the disk.
        name = file_name or os.path.basename(image).removesuffix(".bin")
        manifest = Manifest(
            id=release_id or f"{re.sub('[^A-Za-z0-9._-]', '-', version)[:50]}-{sha256_hex[:8]}",
            time=publisher.now.replace(microsecond=0),
            file_name=name,
            component=component,
            version=version,
            hardware=hardware or carrier.firmware.hardware,
            security_version=_security_version(repository, component, security_version),
            disk_path=disk_path or "",
            **({} if config_path is None else {"config_path": config_path}),  # type: ignore[arg-type]
            confirm_receipt=not no_receipt,
            rollout=new_rollout(percent, publisher),
            config_format=config_format,
            requires_agent=requires_agent,
            requires_free_bytes=requires_free_bytes,
            keep=keep,
        )
        draft, key = publisher.offer(repository, channel, manifest, sha256_hex=sha256_hex, size_bytes=local.size_bytes)
        commit(
            publisher,
            draft,
            f"published {component} {version} in {channel} {to_whom(manifest.rollout)}:"
            f" {manifest.id}, {size_words(local.size_bytes)}",
            images=[local.upload(key)],
            export_dir=export_dir,
            is_dry=is_dry,
        )


def _security_version(repository: Repository, component: str, wanted: int | None) -> int:
    """What is wanted, else the highest that was ever offered. Raises: Refused where it is below what is offered now."""
    highest, ever = security_version(repository, component), security_version_ever(repository, component)
    if wanted is None:
        return ever
    if wanted < highest:
        raise Refused(
            f"security version {wanted} is below {highest}, which is offered: devices that have it would refuse;"
            f" publish with --security-version {ever}"
        )
    if wanted < ever:
        say(f"security version {wanted} is below {ever}, which was offered before: devices that had it will refuse")
    return wanted


@click.command()
@_component
@click.option("--from", "source", default="canary", show_default=True, metavar="CHANNEL")
@click.option("--to", "channel", default="stable", show_default=True, metavar="CHANNEL")
@_percent
@export_option
@dry_option
@at_desk
def promote(
    desk: Desk,
    component: str | None,
    source: str,
    channel: str,
    percent: str | None,
    export_dir: str | None,
    is_dry: bool,
) -> None:
    """Offer the release of one channel in another one. Its image is copied within the bucket."""
    carrier = desk.carrier()
    component = component or component_of(carrier)
    if source == channel:
        raise click.UsageError("--from and --to are the same channel")
    with desk.publisher(carrier, is_dry=is_dry) as publisher:
        repository = publisher.load()
        before = find(repository, source, component)
        manifest = replace(manifest_of(before), rollout=new_rollout(percent, publisher))
        _security_version(repository, component, manifest.security_version)
        sha256_hex = before.hashes["sha256"]
        draft, key = publisher.offer(repository, channel, manifest, sha256_hex=sha256_hex, size_bytes=before.length)
        commit(
            publisher,
            draft,
            f"promoted {component} {manifest.version} from {source} to {channel} {to_whom(manifest.rollout)}",
            images=[Copy(image_of(before), key, bytes.fromhex(sha256_hex), before.length)],
            export_dir=export_dir,
            is_dry=is_dry,
        )


@click.command()
@_component
@_channel
@_percent
@click.option("--halt", is_flag=True, help="No device begins to install it any more.")
@click.option("--resume", is_flag=True, help="Go on with a rollout that was halted.")
@export_option
@dry_option
@at_desk
def rollout(
    desk: Desk,
    component: str | None,
    channel: str | None,
    percent: str | None,
    halt: bool,
    resume: bool,
    export_dir: str | None,
    is_dry: bool,
) -> None:
    """Change how much of the fleet may install a release, or halt it. Who was among the first stays among them."""
    if (halt and resume) or not (halt or resume or percent is not None):
        raise click.UsageError("say one of --percent P, --halt, --resume")
    carrier = desk.carrier()
    component, channel = component or component_of(carrier), channel or carrier.firmware.channel
    with desk.publisher(carrier, is_dry=is_dry) as publisher:
        repository = publisher.load()
        target = find(repository, channel, component)
        before = manifest_of(target).rollout
        waves = before.waves if percent is None else wave(percent, publisher.now)
        # A percentage alone leaves a halt as it is: whoever halted it knows why.
        after = Rollout(before.salt, waves, (before.halt or halt) and not resume)
        draft = offer(repository, channel, with_rollout(target, after), now=publisher.now)
        commit(publisher, draft, f"{component} in {channel}: {to_whom(after)}", export_dir=export_dir, is_dry=is_dry)


@click.command()
@_component
@_channel
@export_option
@dry_option
@at_desk
def withdraw(desk: Desk, component: str | None, channel: str | None, export_dir: str | None, is_dry: bool) -> None:
    """Offer a release no longer. Devices that have it keep it."""
    carrier = desk.carrier()
    component, channel = component or component_of(carrier), channel or carrier.firmware.channel
    with desk.publisher(carrier, is_dry=is_dry) as publisher:
        repository = publisher.load()
        target = find(repository, channel, component)
        draft = withdrawn(repository, channel, target.path, now=publisher.now)
        commit(
            publisher,
            draft,
            f"withdrew {component} {version_of(target)} from {channel}",
            export_dir=export_dir,
            is_dry=is_dry,
        )
