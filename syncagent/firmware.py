"""How the firmware half is put together, for the agent and for the commands: one `Hangar` per carrier of a task.

Loads python-tuf only where firmware is wanted. Constructs; decides nothing.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from syncagent.assembly import Directories, open_store, places_of, store_name, territory_of
from syncagent.core.errors import Blocked, SyncagentError
from syncagent.core.release import IN_USE, Phase, component_of, firmware_carriers
from syncagent.core.settings import Carrier, Settings
from syncagent.core.territory import RESERVED, is_within
from syncagent.docks.channel import Channel, Truster, manifest_of
from syncagent.docks.highwater import HighWater
from syncagent.docks.installer import Installer
from syncagent.docks.meter import Meter
from syncagent.edges.clock import Clock
from syncagent.edges.drop import Drop
from syncagent.edges.fetch import Fetch
from syncagent.edges.journal import Journal
from syncagent.edges.objects import S3Store, wire_sum
from syncagent.edges.synchrony import is_synchronised

logger = logging.getLogger(__name__)

FOLDER = "firmware"
#: What begins so at the top of generated_data, or of a place for firmware, is the agent's: its lock, and what comes.
OWN = ".syncagent"
NO_ROOT = "no root of trust: set firmware.root of the carrier to the publisher's root.json"


@dataclass(frozen=True, slots=True)
class Hangar:
    """All that one component's firmware needs."""

    carrier: Carrier
    component: str
    directory: str  # its part of the state; claimed by whoever is at work
    channel: Channel
    installer: Installer
    store: S3Store
    meter: Meter
    high_water: HighWater
    why_untrusted: str  # why no signature can be verified; empty when it can, or need not


def open_hangar(
    carrier: Carrier,
    *,
    settings: Settings,
    directories: Directories,
    journal: Journal,
    clock: Clock,
    on_receipt: Callable[[], None] = lambda: None,
    on_news: Callable[[int], None] = lambda _: None,
    wait: Callable[[float], object] | None = None,
    meter: Meter | None = None,
    progress: Callable[[Any], None] | None = None,
    lower_bound: Callable[[], datetime | None] = lambda: None,
    is_power_low: Callable[[], bool] = lambda: False,
) -> Hangar:
    """Build what one component's firmware needs; no request is made, and no directory. `meter`: of the carrier, where
    one counts its traffic already."""
    component = component_of(carrier)
    directory = os.path.join(directories.state_dir, FOLDER, component)
    places = places_of(settings, directories)
    root = carrier.firmware.directory or places.data_root
    staging_dir = _staging_dir(root, directories.state_dir, component)
    store = open_store(carrier, clock, progress=progress, floor=lower_bound)
    counted = meter or _meter(carrier, journal, clock, store)
    root_bytes, why_untrusted = _root(carrier, directories)
    trust, source = None, _source(carrier, root_bytes)
    if root_bytes is not None:
        trust, why_untrusted = _trust(carrier, component, store, root_bytes, os.path.join(directory, source))
    high_water = HighWater(directory, journal=journal, component=component, source=source)
    channel = Channel(
        carrier,
        system_id=settings.system.id,
        journal=journal,
        getter=store,
        clock=clock,
        trust=trust,
        high_water=high_water,
        why_untrusted=why_untrusted,
        is_synchronised=is_synchronised,
        lower_bound=lower_bound,
    )
    installer = Installer(
        carrier,
        journal=journal,
        high_water=high_water,
        fetch=Fetch(store, staging_dir, on_news=on_news, limit=counted.limit, wait=wait),
        drop=Drop(root, mode=int(carrier.firmware.mode, 8), group=carrier.firmware.group),
        staging=Drop(staging_dir, mode=0o600),
        clock=clock,
        base_dir=directories.base_dir,
        why_not=_Territory(settings, directories, root, journal=journal, component=component),
        on_receipt=on_receipt,
        is_power_low=is_power_low,
        why_wait=lambda path: _why_wait(counted, path if root == places.data_root else os.path.join(root, path)),
    )
    return Hangar(carrier, component, directory, channel, installer, store, counted, high_water, why_untrusted)


def _meter(carrier: Carrier, journal: Journal, clock: Clock, store: S3Store) -> Meter:
    store_time = store.store_clock.store_time
    return Meter(carrier, journal=journal, clock=clock, totals=lambda: wire_sum([store]), store_time=store_time)


def _why_wait(meter: Meter, path: str) -> str:
    """Why an image is not fetched now; polls, which cost a few hundred bytes, go on."""
    meter.account()
    return meter.words() if meter.is_spent() and not meter.allows(path) else ""


def _root(carrier: Carrier, directories: Directories) -> tuple[bytes | None, str]:
    """The bytes of the owner's root of trust; or why there are none."""
    if carrier.firmware.root is None:
        return None, "" if carrier.firmware.allow_unsigned else NO_ROOT
    path = os.path.join(directories.config_dir, carrier.firmware.root)
    try:
        with open(path, "rb") as file:
            return file.read(1 << 20), ""
    except OSError as error:
        return None, f"firmware.root: cannot read {path}: {error.strerror}"


def _trust(
    carrier: Carrier, component: str, store: S3Store, root: bytes, metadata_dir: str
) -> tuple[Truster | None, str]:
    try:
        from syncagent.edges.trust import Trust, parse_root, verifier

        version = parse_root(root)
        trust = Trust(
            store,
            metadata_dir=metadata_dir,
            root=root,
            path=carrier.path,
            channel=carrier.firmware.channel,
            component=component,
        )
        logger.info("firmware component=%s root=%d verifier=%s", component, version, verifier())
    except ImportError as error:
        return None, f"python-tuf cannot be loaded: {error}; reinstall syncagent"
    except Blocked as error:
        return None, f"{error}; {error.remedy}"
    except SyncagentError as error:
        return None, f"firmware.root: {error}; take the publisher's root.json"
    return trust, ""


def _source(carrier: Carrier, root: bytes | None) -> str:
    """A short name for where the metadata is from: what is remembered of another source does not count."""
    firmware = carrier.firmware
    words = (store_name(carrier), carrier.path, firmware.channel, hashlib.sha256(root or b"").hexdigest())
    return f"metadata-{hashlib.sha256(repr(words).encode()).hexdigest()[:16]}"


def _staging_dir(root: str, state_dir: str, component: str) -> str:
    """On the file system of the images' place, so that its free space is what is looked at."""
    try:
        is_same = os.stat(root).st_dev == os.stat(state_dir).st_dev
    except OSError:
        is_same = True
    inside = os.path.join(state_dir, FOLDER, component, "staging")
    return inside if is_same else os.path.join(root, f".syncagent-{component}")


class _Territory:
    """Says why a path below the drop's root is none for firmware."""

    def __init__(
        self, settings: Settings, directories: Directories, root: str, *, journal: Journal, component: str
    ) -> None:
        places = places_of(settings, directories)
        self._journal = journal
        self._neighbours = {
            component_of(each): os.path.realpath(each.firmware.directory or places.data_root)
            for each in firmware_carriers(settings)
            if component_of(each) != component
        }
        self._root = os.path.realpath(root)
        self._data_root = places.data_root
        self._own = (os.path.realpath(directories.state_dir), os.path.realpath(directories.config_dir))
        self._territory = territory_of(settings, directories, places)

    def __call__(self, path: str) -> str:
        absolute = os.path.join(self._root, path)
        place = os.path.relpath(absolute, self._data_root)
        if path.startswith(OWN) or place.startswith(OWN):
            return "is the agent's own"
        if any(is_within(absolute, own) or is_within(own, absolute) for own in self._own):
            return "is inside the agent's own state or configuration"
        if is_within(absolute, self._data_root):
            if is_within(place, RESERVED):
                return "is where messages are dropped"
            owner = self._territory.owner_of(place)
            if owner is not None:
                return "is in a directory whose files are sent"
        return self._why_not_of_a_neighbour(absolute)

    def _why_not_of_a_neighbour(self, absolute: str) -> str:
        """Two components that publish to the default places would switch one another's config."""
        for component, root in self._neighbours.items():
            for release in self._journal.releases(component):
                if release.phase is Phase.INSTALLED or (release.phase in IN_USE and release.is_kept):
                    manifest = manifest_of(release)
                    for path in (manifest.disk_path, manifest.config_path):
                        other = os.path.join(root, path)
                        if is_within(absolute, other) or is_within(other, absolute):
                            return f"belongs to the component {component}: publish it for another place"
        return ""
