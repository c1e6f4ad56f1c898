"""What the machine says of itself: inotify limits, wear of the card, buses, names, its service manager, its users.

Only looks. What cannot be told is None or empty: not every machine has a card, a bus or a service manager.
"""

from __future__ import annotations

import json
import os
import pwd
import re
import shutil
import socket
import stat
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

SERVICE_USER = "syncagent"
UNIT = "syncagent.service"
SYSTEMCTL_TIMEOUT_S = 20.0
READ_ONLY_REMEDY = "look at `dmesg`, check the card or replace it, and mount it for writing"
#: Starting ends only when the agent is ready: TimeoutStartSec and TimeoutStopSec of the unit, and a little.
START_TIMEOUT_S = 330.0


@dataclass(frozen=True, slots=True)
class Wear:
    """A card's or chip's own estimate. SD cards seldom have one, eMMC has (JESD84-B51, EXT_CSD 267 to 269)."""

    device: str
    used_percent: int | None  # of its life, in tens; above 100 it is over
    is_reserve_low: bool


@dataclass(frozen=True, slots=True)
class Access:
    """What one user can do in a tree. Paths are relative to its top."""

    directories: int
    unreadable: tuple[str, ...] = ()
    no_delete: tuple[str, ...] = ()


def watch_limit(proc: str = "/proc") -> int | None:
    """How many inotify watches one user may have."""
    text = _read(os.path.join(proc, "sys/fs/inotify/max_user_watches"))
    return int(text) if text.isdigit() else None


def wear(sys: str = "/sys") -> list[Wear]:
    """Every memory card or chip that tells how far its life has gone."""
    found = []
    block = os.path.join(sys, "block")
    try:
        devices = sorted(name for name in os.listdir(block) if re.fullmatch(r"mmcblk\d+", name))
    except OSError:
        return []
    for name in devices:
        steps = [
            int(word, 16) for word in _read(os.path.join(block, name, "device/life_time")).split() if _is_hex(word)
        ]
        reserve = _read(os.path.join(block, name, "device/pre_eol_info"))
        # 0 is "not defined", 1 is up to a tenth used, 0x0B is "over".
        used = max(steps, default=0) * 10
        level = int(reserve, 16) if _is_hex(reserve) else 0
        if used or level:
            found.append(Wear(name, used or None, level >= 2))
    return found


def _is_hex(word: str) -> bool:
    return re.fullmatch(r"(0x)?[0-9a-fA-F]{1,2}", word) is not None


def _read(path: str) -> str:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read(4096).strip()
    except OSError:
        return ""


def is_read_only(path: str) -> bool:
    """Whether the file system refuses every write, as the kernel makes it after errors."""
    try:
        return bool(os.statvfs(path).f_flag & os.ST_RDONLY)
    except OSError:
        return False


def exists(path: str) -> bool:
    return os.path.lexists(path)


def can_open(path: str) -> bool:
    return os.access(path, os.R_OK | os.W_OK)


def resolve(host: str) -> str:
    """Empty when the name has an address, else why not."""
    try:
        socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        return getattr(error, "strerror", None) or "no such name"
    return ""


# -- other users ------------------------------------------------------------------------------------------------------


def service_user() -> str | None:
    """The user that the service runs as, where that is another than ours and we may be it."""
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam(SERVICE_USER).pw_name
    except KeyError:
        return None


def as_user(user: str | None, act: Callable[[], Any]) -> Any:
    """What `act` returns (as JSON can say it) when `user` does it, in a process of its own.

    None when it fails there. Without a user, as ourselves and here.
    """
    if user is None:
        return act()
    entry = pwd.getpwnam(user)
    receive, send = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(receive)
            os.initgroups(user, entry.pw_gid)
            os.setgid(entry.pw_gid)
            os.setuid(entry.pw_uid)
            with open(send, "wb") as pipe:
                pipe.write(json.dumps(act()).encode())
        finally:
            os._exit(0)
    os.close(send)
    with open(receive, "rb") as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    return json.loads(text) if text else None


def access(top: str, *, user: str | None = None, most: int = 5) -> Access | None:
    """What `user` can do below `top`, with the first `most` names of each trouble; None when nobody can tell."""
    found = as_user(user, lambda: _access(top, most))
    if found is None:
        return None
    return Access(int(found[0]), tuple(found[1]), tuple(found[2]))


def unwritable(top: str, *, user: str | None = None) -> list[str]:
    """What of a directory, itself as ".", `user` cannot write, as after a run as root; none where it is not there."""
    return list(as_user(user, lambda: _unwritable(top)) or ())


def _unwritable(top: str) -> list[str]:
    try:
        names = sorted(os.listdir(top))
    except FileNotFoundError:
        return []
    except OSError:
        return ["."]
    return [name for name in (".", *names) if not os.access(os.path.join(top, name), os.W_OK)]


def _access(top: str, most: int) -> tuple[int, list[str], list[str]]:
    count, unreadable, no_delete = 0, [], []
    for path, names in _walk(top):
        count += 1
        relative = os.path.relpath(path, top)
        if names is None or not os.access(path, os.R_OK | os.X_OK):
            unreadable.append(relative)
            continue
        status = os.stat(path)
        # In a sticky directory only the owner of file or directory may delete.
        is_barred = bool(status.st_mode & stat.S_ISVTX) and status.st_uid != os.geteuid() != 0
        if is_barred or not os.access(path, os.W_OK | os.X_OK):
            no_delete.append(relative)
        for name in names:
            file = os.path.join(path, name)
            if len(unreadable) < most and not os.access(file, os.R_OK) and os.path.isfile(file):
                unreadable.append(os.path.relpath(file, top))
    return count, unreadable[:most], no_delete[:most]


def _walk(top: str) -> Iterator[tuple[str, list[str] | None]]:
    """Every directory with the names of what is no directory in it; None where it cannot be listed."""
    waiting = [top]
    while waiting:
        path = waiting.pop()
        try:
            with os.scandir(path) as entries:
                names = []
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
                    elif entry.is_file(follow_symlinks=False):
                        names.append(entry.name)
        except FileNotFoundError:
            continue
        except OSError:
            yield path, None
        else:
            yield path, names


# -- the service manager ----------------------------------------------------------------------------------------------


def is_systemd_running(mark: str = "/run/systemd/system") -> bool:
    return os.path.isdir(mark)


def unit_properties(*names: str) -> dict[str, str]:
    """What the service manager knows of the unit; empty when it cannot be asked."""
    answer = systemctl("show", UNIT, *(f"--property={name}" for name in names))
    if answer is None or answer.returncode != 0:
        return {}
    return dict(line.split("=", 1) for line in answer.stdout.splitlines() if "=" in line)


def systemctl(*words: str, timeout_s: float = SYSTEMCTL_TIMEOUT_S) -> subprocess.CompletedProcess[str] | None:
    """One call of systemctl; None where there is none, or it does not end."""
    program = shutil.which("systemctl")
    if program is None or not is_systemd_running():
        return None
    try:
        return subprocess.run(  # noqa: S603 - a fixed program with our own words
            [program, *words], capture_output=True, text=True, timeout=timeout_s, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
