"""Who owns what, and who belongs to which group: what only root can change."""

from __future__ import annotations

import grp
import os
import pwd
import subprocess


def is_root() -> bool:
    return os.geteuid() == 0


def has_user(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


def give(path: str, *, user: str | None, mode: int) -> None:
    """Mode and, as root, owner and group of a file. Raises: OSError."""
    if user is not None and is_root():
        entry = pwd.getpwnam(user)
        os.chown(path, entry.pw_uid, entry.pw_gid)
    os.chmod(path, mode)


def become_owner_of(path: str) -> None:
    """As root, go on as the user who owns a path, for the rest of this process; what is made then is that user's.

    Raises: OSError.
    """
    try:
        uid = os.stat(path).st_uid
    except FileNotFoundError:
        return
    if not is_root() or uid == os.geteuid():
        return
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        return
    os.initgroups(entry.pw_name, entry.pw_gid)
    os.setresgid(entry.pw_gid, entry.pw_gid, entry.pw_gid)
    os.setresuid(uid, uid, uid)


def is_member(user: str, group: str) -> bool:
    """Whether a user belongs to a group, as their next login will have it."""
    try:
        entry = grp.getgrnam(group)
        return user in entry.gr_mem or pwd.getpwnam(user).pw_gid == entry.gr_gid
    except KeyError:
        return False


def add_member(user: str, group: str) -> bool:
    """Whether the user belongs to the group now."""
    if is_member(user, group):
        return True
    try:
        done = subprocess.run(["/usr/sbin/usermod", "-aG", group, user], check=False, capture_output=True)  # noqa: S603
    except OSError:
        return False
    return done.returncode == 0
