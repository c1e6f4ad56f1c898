"""The checks that need no network: configuration's directories, watches, card, buses, the unit."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from shlex import quote
from typing import Any

from syncagent import __version__
from syncagent.assembly import Directories
from syncagent.checks import Finding, Verdict
from syncagent.core.errors import Transient
from syncagent.core.settings import Retention, Settings
from syncagent.edges import files, machine

#: Below this a card is nearly full, where the configuration says nothing of its own.
MIN_FREE_PERCENT, MIN_INODES_PERCENT = 10.0, 5.0
#: Watches that other programs of the same user may hold.
SPARE_WATCHES = 64
#: From here on a card's own estimate asks for a new one.
WORN_PERCENT = 90
OWN_UNIT = "/etc/systemd/system/syncagent.service"


@dataclass(frozen=True, slots=True)
class Device:
    """Where to look; the defaults are the machine's own."""

    proc: str = "/proc"
    sys: str = "/sys"
    dev: str = "/dev"
    own_unit: str = OWN_UNIT


def check_device(
    settings: Settings, directories: Directories, *, running: Any = None, device: Device | None = None
) -> Iterator[Finding]:
    """`running` is the status of the running agent, if one answers."""
    device = device or Device()
    user = machine.service_user()
    roots = _roots(settings, directories)
    yield from _check_directories(settings, directories, roots, user=user)
    yield _check_watches(roots, device)
    yield from _check_card(settings, directories, device)
    yield from _check_buses(settings, device, user=user)
    yield from _check_unit(running, device)


def _roots(settings: Settings, directories: Directories) -> list[str]:
    data = os.path.realpath(directories.data_dir)
    found = [os.path.join(data, address.carrier.path).rstrip("/") for address in settings.addresses]
    found += [root for address in settings.addresses for root in address.carrier.upload.allowed_roots]
    return sorted(set(found)) or [data]


def _check_directories(
    settings: Settings, directories: Directories, roots: list[str], *, user: str | None
) -> Iterator[Finding]:
    name = "directories"
    deletes = any(_deletes(address.carrier.retention) for address in settings.addresses)
    gathers = any(address.duration not in ("on_message", "as_needed") for address in settings.addresses)
    group = user or "the agent"
    problems = 0
    for directory in (directories.base_dir, directories.data_dir):
        if not os.path.isdir(directory):
            problems += 1
            what = f"{directory} is not there" + (", but a link to it is" if os.path.islink(directory) else "")
            yield Finding(name, Verdict.FAILED, what, "mount its disk, or make it")
    for root in roots:
        if not os.path.isdir(root):
            if not gathers:
                continue  # whoever posts a message says where its file is
            problems += 1
            owner = f"-o {user} -g {user} " if user else ""
            make = f"mount its disk, or make it: sudo install -d -m 2775 {owner}{quote(root)}"
            yield Finding(name, Verdict.WARNING, f"{root} is not there, so that nothing is sent from it", make)
            continue
        found = machine.access(root, user=user)
        if found is None:
            yield Finding(name, Verdict.WARNING, f"nobody could look into {root} as {group}")
            continue
        # Without "t", in which only a file's owner may delete it.
        fix = f"sudo chgrp -R {user or '$(id -gn)'} {quote(root)}; sudo chmod -R g+rwX,-t {quote(root)}"
        if found.unreadable:
            problems += 1
            yield Finding(name, Verdict.FAILED, f"{group} cannot read in {root}: {_some(found.unreadable)}", fix)
        if found.no_delete and deletes:
            problems += 1
            yield Finding(name, Verdict.FAILED, f"{group} cannot delete in {root}: {_some(found.no_delete)}", fix)
    state = directories.state_dir
    if barred := machine.unwritable(state, user=user):
        problems += 1
        what = f"{group} cannot write in {state}: {_some(barred)}"
        yield Finding(name, Verdict.FAILED, what, f"sudo chown -R {user or '$USER'} {quote(state)}")
    if not problems:
        rights = "read and delete" if deletes else "read"
        yield Finding(name, Verdict.OK, f"{group} can {rights} in {_some(roots)}")


def _deletes(retention: Retention) -> bool:
    rules = (retention.keep_days, retention.keep_files, retention.keep_bytes)
    minima = (retention.min_free_percent, retention.min_free_bytes, retention.min_free_inodes_percent)
    return any(rule is not None for rule in rules + minima)


def _some(names: Iterable[str], most: int = 3) -> str:
    listed = list(names)
    return ", ".join(listed[:most]) + (", …" if len(listed) > most else "")


def _check_watches(roots: list[str], device: Device) -> Finding:
    limit = machine.watch_limit(device.proc)
    if limit is None:
        return Finding("watches", Verdict.SKIPPED, "the kernel does not say how many inotify watches it allows")
    outer = [root for root in roots if not any(root.startswith(f"{other}/") for other in roots)]
    found = [machine.access(root) for root in outer if os.path.isdir(root)]
    needed = sum(each.directories for each in found if each is not None)
    if needed + SPARE_WATCHES > limit:
        wanted = max(524_288, 2 * needed)
        return Finding(
            "watches",
            Verdict.FAILED,
            f"{needed} directories need a watch each, and the kernel allows {limit}: changes are found by scans only",
            f"echo fs.inotify.max_user_watches={wanted} | sudo tee /etc/sysctl.d/60-syncagent.conf"
            "; sudo sysctl --system",
        )
    return Finding("watches", Verdict.OK, f"{needed} of {limit} inotify watches")


def _check_card(settings: Settings, directories: Directories, device: Device) -> Iterator[Finding]:
    data = directories.data_dir
    try:
        free, total, inodes = files.space_of(data)
    except Transient as error:
        yield Finding("card", Verdict.FAILED, str(error), "mount its disk, or make it")
        return
    percent = 100.0 * free / total if total else 100.0
    text = f"{percent:.0f} % of {total / 1e9:.1f} GB and {inodes:.0f} % of the inodes are free"
    rules = [address.carrier.retention for address in settings.addresses]
    least = max((rule.min_free_percent for rule in rules if rule.min_free_percent is not None), default=None)
    least_inodes = max(
        (rule.min_free_inodes_percent for rule in rules if rule.min_free_inodes_percent is not None), default=None
    )
    is_low = percent < (least or MIN_FREE_PERCENT) or inodes < (least_inodes or MIN_INODES_PERCENT)
    if machine.is_read_only(data):
        yield Finding("card", Verdict.FAILED, f"{data} is read-only", machine.READ_ONLY_REMEDY)
    elif is_low and (least is not None or least_inodes is not None):
        yield Finding("card", Verdict.WARNING, f"{text}: confirmed files are being removed", "a larger card, or less")
    elif is_low:
        remedy = "set retention.min_free_percent of the carrier to 10, so that confirmed files go"
        yield Finding("card", Verdict.FAILED, f"nearly full: {text}", remedy)
    else:
        yield Finding("card", Verdict.OK, text)
    for wear in machine.wear(device.sys):
        used = f"about {min(wear.used_percent, 100)} % of its life is used" if wear.used_percent else "worn"
        if wear.is_reserve_low or (wear.used_percent or 0) >= WORN_PERCENT:
            what = f"{wear.device}: {used}" + (", and its reserve is low" if wear.is_reserve_low else "")
            yield Finding("wear", Verdict.FAILED, what, "replace it soon; the journal and unsent files are on it")
        else:
            yield Finding("wear", Verdict.OK, f"{wear.device}: {used}")


def _check_buses(settings: Settings, device: Device, *, user: str | None) -> Iterator[Finding]:
    buses = {part.get("bus", 1) for part in settings.devices.values()}
    for bus in sorted(buses, key=str):
        path = os.path.join(device.dev, f"i2c-{bus}")
        if not machine.exists(path):
            remedy = "sudo raspi-config nonint do_i2c 0, then reboot; elsewhere: sudo modprobe i2c-dev"
            yield Finding("i2c", Verdict.FAILED, f"bus {bus} is switched off: there is no {path}", remedy)
        elif not machine.as_user(user, lambda path=path: machine.can_open(path)):  # type: ignore[misc]
            remedy = f"sudo adduser {user or '$USER'} i2c; sudo systemctl restart syncagent"
            yield Finding("i2c", Verdict.FAILED, f"{user or 'this user'} may not open {path}", remedy)
        else:
            yield Finding("i2c", Verdict.OK, f"bus {bus} is there")


def _check_unit(running: Any, device: Device) -> Iterator[Finding]:
    if machine.exists(device.own_unit):
        remedy = (
            f"sudo rm {device.own_unit}; sudo systemctl daemon-reload; changes belong into `systemctl edit syncagent`"
        )
        yield Finding("unit", Verdict.FAILED, f"{device.own_unit} is used instead of the package's unit", remedy)
        return
    if isinstance(running, dict) and running.get("version", __version__) != __version__:
        what = f"the agent that runs is {running['version']}, installed is {__version__}"
        yield Finding("unit", Verdict.FAILED, what, "sudo systemctl restart syncagent")
        return
    found = machine.unit_properties("NeedDaemonReload", "LoadState", "ActiveState", "UnitFileState")
    if found.get("NeedDaemonReload") == "yes":
        remedy = "sudo systemctl daemon-reload; sudo systemctl restart syncagent"
        yield Finding("unit", Verdict.FAILED, "the service manager works with an old unit", remedy)
    elif found.get("LoadState") == "loaded" and found.get("UnitFileState") != "enabled":
        remedy = "sudo systemctl enable --now syncagent"
        yield Finding("unit", Verdict.WARNING, "the service does not start by itself", remedy)
    elif found.get("LoadState") == "loaded":
        yield Finding("unit", Verdict.OK, f"the service is {found.get('ActiveState', 'unknown')}")
