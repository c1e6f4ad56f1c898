"""How settings become the things that agent and commands share: directories, places, territory, store, journal."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import attrs

from syncagent.core.errors import JournalTorn, NotThere
from syncagent.core.manifest import DEFAULT_CONFIG_PATH, DEFAULT_FOLDER
from syncagent.core.messages import all_addresses
from syncagent.core.parts import PARTS, Options
from syncagent.core.places import GENERATED, Places
from syncagent.core.settings import Carrier, Settings
from syncagent.core.territory import Territory
from syncagent.edges import files
from syncagent.edges.clock import Clock
from syncagent.edges.configfiles import identify
from syncagent.edges.credentials import given_keys
from syncagent.edges.i2c import Buses
from syncagent.edges.journal import Journal, is_missing, set_aside, wrecks
from syncagent.edges.objects import S3Store, StoreSettings
from syncagent.edges.reserve import Reserve

logger = logging.getLogger(__name__)

STATE_LOCK = "agent.lock"
#: In the base directory, and in generated_data, which may be a link to what another base directory has, too.
BASE_LOCK = ".syncagent.lock"
#: What the part of `$i2c` said when it was last read: a bad contact must not make another device of this one.
IDENTITY = "identity"


@dataclass(frozen=True, slots=True)
class Directories:
    """Where everything is; absolute."""

    config_dir: str
    base_dir: str
    state_dir: str

    @property
    def data_dir(self) -> str:
        return os.path.join(self.base_dir, GENERATED)

    @property
    def outbox_dir(self) -> str:
        """Receipts on their way."""
        return os.path.join(self.state_dir, "outbox")

    @property
    def handled_dir(self) -> str:
        """What handlers made of files."""
        return os.path.join(self.state_dir, "handled")


def identity_of(directories: Directories, *, buses: Buses | None = None) -> Callable[..., str]:
    """Tells who this device is. Asked for "i2c", with bus and address: what the part there says, or last said."""

    def identity(what: str, *place: int) -> str:
        if what != "i2c":
            return identify(what)
        if not place:
            raise LookupError('no file in devices/ has "source": "at24mac"')
        number, address = place
        try:
            reading, _ = (buses or Buses()).sample(number, address, PARTS["at24mac"], Options())
        except NotThere as error:
            remembered = _remembered_identity(directories)
            if not remembered:
                raise LookupError(str(error)) from error
            return remembered
        return reading.eui

    return identity


def _remembered_identity(directories: Directories) -> str:
    try:
        with open(os.path.join(directories.state_dir, IDENTITY), encoding="ascii") as file:
            return file.read(64).strip()
    except (OSError, UnicodeDecodeError):
        return ""


def remember_identity(directories: Directories, eui: str) -> None:
    """For when the part cannot be read. Raises: OSError."""
    if _remembered_identity(directories) != eui:
        files.write_whole(directories.state_dir, IDENTITY, f"{eui}\n".encode("ascii"))


def places_of(settings: Settings | None, directories: Directories) -> Places:
    """Without settings only what lies below generated_data has a place."""
    addresses = settings.addresses if settings is not None else ()
    roots = {root for address in addresses for root in address.carrier.upload.allowed_roots}
    own = (os.path.realpath(directories.outbox_dir), os.path.realpath(directories.handled_dir))
    data_root = os.path.realpath(directories.data_dir)
    return Places(directories.base_dir, data_root, tuple(sorted(os.path.realpath(root) for root in roots)), own)


def territory_of(settings: Settings, directories: Directories, places: Places) -> Territory:
    reserved = {task.carrier.path for task in settings.tasks if task.carrier.path} | {BASE_LOCK}
    if settings.tasks:  # what is dropped there is no camera's
        reserved |= {DEFAULT_FOLDER, DEFAULT_CONFIG_PATH}
    state = places.heard(os.path.realpath(directories.state_dir))
    if state:
        reserved.add(state)
    return Territory(settings.addresses, reserved=reserved)


def store_name(carrier: Carrier) -> str:
    """What keys are unique within: the journal's name of the store."""
    return f"{carrier.endpoint_url or 'aws'} {carrier.bucket_name}"


def with_keys(carrier: Carrier) -> Carrier:
    """With the keys that the service manager hands over, where a carrier has none of its own."""
    if carrier.access_key_id is not None or carrier.secret_access_key is not None:
        return carrier
    keys = given_keys()
    return carrier if keys is None else attrs.evolve(carrier, access_key_id=keys[0], secret_access_key=keys[1])


def open_store(
    carrier: Carrier,
    clock: Clock,
    *,
    progress: Callable[[Any], None] | None = None,
    limit: Callable[[], int | None] | None = None,
    floor: Callable[[], datetime | None] = lambda: None,
) -> S3Store:
    carrier = with_keys(carrier)
    upload = carrier.upload
    return S3Store(
        StoreSettings(
            bucket=carrier.bucket_name or "",
            endpoint_url=carrier.endpoint_url,
            region=carrier.region,
            access_key_id=carrier.access_key_id,
            secret_access_key=carrier.secret_access_key,
            addressing_style=carrier.store.addressing_style,
            connect_timeout_s=upload.connect_timeout_s,
            stall_s=upload.stall_s,
            max_connections=upload.workers + 1,
            reads_back=upload.verify == "read_back",
        ),
        clock=clock.now,
        progress=progress,
        limit=limit,
        floor=floor,
    )


def stores_of(settings: Settings) -> dict[str, str]:
    """The store that each active address sends to, by the journal's name for it."""
    return {address.name: store_name(address.carrier) for address in all_addresses(settings)}


def open_journal(
    settings: Settings | None, directories: Directories, clock: Clock, *, is_read_only: bool = False
) -> Journal:
    """Where addresses send to is for the agent to say, which holds the lock. Without settings none is active.

    Raises: JournalBroken, Transient(DISK).
    """
    if not is_read_only:
        files.make_directory(directories.state_dir, mode=0o750)
    journal = Journal(directories.state_dir, clock, is_read_only=is_read_only)
    addresses = all_addresses(settings) if settings is not None else ()
    journal.set_ways(
        timed=[address.name for address in addresses if isinstance(address.duration, float | int)],
        handlers=[address.name for address in addresses if address.handler is not None],
    )
    journal.set_active(address.name for address in addresses)
    return journal


def recovered_journal(settings: Settings, directories: Directories, clock: Clock, reserve: Reserve) -> Journal:
    """For the agent: the journal of the last run, or a new one when that is torn or lost.

    Scan and listing of the bucket fill a new one. Raises: JournalBroken, Transient(DISK).
    """
    is_lost = reserve.is_there() and is_missing(directories.state_dir)
    if is_lost:
        logger.error("no journal is left, a new one is made from disk and bucket in=%s", directories.state_dir)
    try:
        journal, recovered = _recover(settings, directories, clock, reserve)
    except JournalTorn as error:
        logger.error("journal torn reason=%s", error)
        set_journal_aside(directories, clock)
        journal, recovered = _recover(settings, directories, clock, reserve)
    journal.know_torn(wrecks(directories.state_dir), is_lost=is_lost)
    if recovered:
        logger.info("recovered rows=%d", recovered)
    return journal


def _recover(settings: Settings, directories: Directories, clock: Clock, reserve: Reserve) -> tuple[Journal, int]:
    """The journal, and how many rows the last run left under way."""
    journal = open_journal(settings, directories, clock)
    try:
        journal.make_room = reserve.give_up
        journal.keep_room()
        if not journal.begin():
            logger.error("the journal's log is lost or torn: what the bucket holds is looked at anew")
        journal.set_stores(stores_of(settings))
        return journal, journal.recover()
    except BaseException:
        journal.close()
        raise


def set_journal_aside(directories: Directories, clock: Clock) -> None:
    """Move a torn journal, which nobody has open, out of the way. Raises: JournalBroken."""
    name = set_aside(directories.state_dir, f"{clock.now():%Y%m%d}")
    logger.error("torn journal set aside, a new one is made from disk and bucket name=%s", name)


def is_running(directories: Directories) -> int | None:
    """PID of the agent that runs on this state directory."""
    return files.is_held(os.path.join(directories.state_dir, STATE_LOCK))
