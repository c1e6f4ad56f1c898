"""Runs in the guest, alone: a camera that says what it has made durable, and what a power cut left on the disk.

    workload.py camera TAG   writes for ever; each file that is durable is a line on the lab's ack port
    workload.py survey       one JSON document: files, journal, firmware

A file's bytes follow from its name, so that whoever knows the name knows them. Nothing of the product is imported, and
nothing is written where the product reads.
"""

from __future__ import annotations

import hashlib
import json
import os
import pwd
import shutil
import sqlite3
import sys
import tempfile
import time
from contextlib import closing
from typing import Any

TOP = "/var/lib/syncagent"
CAMERA = "generated_data/camera"
ACK = "/dev/virtio-ports/vmlab.ack"
KB = 1024
#: Every so many files one is large: it goes in parts of 5 MiB.
LARGE_EVERY = 10
PAUSE_S = 0.15


def content_of(name: str) -> bytes:
    """The bytes of the file with this name: <anything>-<size>.jpg."""
    size = int(os.path.splitext(name)[0].rpartition("-")[2])
    return hashlib.shake_256(os.path.basename(name).encode()).digest(size)


def size_of(number: int) -> int:
    noise = int.from_bytes(hashlib.sha256(str(number).encode()).digest()[:4], "big")
    if number % LARGE_EVERY == LARGE_EVERY - 1:
        return 5400 * KB + noise % (1500 * KB)
    return 1 + noise % (150 * KB)


def sync_directory(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    os.fsync(fd)
    os.close(fd)


def camera(tag: str) -> None:
    """As pi: each file under a temporary name, fsync, rename, fsync of the directory, and then the word."""
    with open(ACK, "w", buffering=1) as ack:
        pi = pwd.getpwnam("pi")
        os.initgroups(pi.pw_name, pi.pw_gid)
        os.setgid(pi.pw_gid)
        os.setuid(pi.pw_uid)
        os.umask(0o002)  # the agent, of the same group, removes what is confirmed
        os.chdir(os.path.join(TOP, CAMERA))
        number = 0
        while True:
            folder = f"{tag}-{number // 20}" if number % 2 else "."
            if not os.path.isdir(folder):
                os.mkdir(folder)
                sync_directory(".")
            name = os.path.normpath(f"{folder}/{tag}-{number:05d}-{size_of(number)}.jpg")
            temporary = os.path.join(folder, ".new.part")
            with open(temporary, "wb") as file:
                file.write(content_of(name))
                file.flush()
                os.fsync(file.fileno())
            os.rename(temporary, name)
            sync_directory(folder)
            ack.write(f"{name}\n")
            number += 1
            time.sleep(PAUSE_S)


# -- after the cut ----------------------------------------------------------------------------------------------------


def survey() -> dict[str, Any]:
    """What the disk holds. The journal is read in a copy: SQLite would fold its log into it."""
    return {
        "files": digests(CAMERA),
        "journal": journal(),
        "images": digests("generated_data/firmware_images"),
        "config": text("generated_data/latest_firmware.json"),
        "torn_metadata": torn_metadata(),
        "wrecks": [name for name in os.listdir(f"{TOP}/state") if ".torn-" in name],
    }


def digests(directory: str) -> dict[str, str]:
    """Relative path -> SHA-256 of every file, whatever its name."""
    top, found = os.path.join(TOP, directory), {}
    for folder, _, names in os.walk(top):
        for name in names:
            path = os.path.join(folder, name)
            with open(path, "rb") as file:
                found[os.path.relpath(path, top)] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def text(path: str) -> str | None:
    try:
        with open(os.path.join(TOP, path), encoding="utf-8") as file:
            return file.read()
    except FileNotFoundError:
        return None


def journal() -> dict[str, Any]:
    source = f"{TOP}/state/journal.db"
    if not os.path.exists(source):
        return {"integrity": "absent", "rows": [], "releases": []}
    with tempfile.TemporaryDirectory(dir="/run") as folder:
        for ending in ("", "-wal"):
            if os.path.exists(source + ending):
                shutil.copy(source + ending, f"{folder}/journal.db{ending}")
        with closing(sqlite3.connect(f"{folder}/journal.db")) as database:
            try:
                (integrity,) = database.execute("PRAGMA integrity_check").fetchone()
                return {
                    "integrity": integrity,
                    "rows": database.execute(
                        "SELECT d.path, v.name, v.state, v.key, hex(v.sha256) FROM version v"
                        " JOIN directory d ON d.id = v.directory"
                    ).fetchall(),
                    "releases": database.execute(
                        "SELECT release, phase, reason, sha256 FROM firmware_release ORDER BY id"
                    ).fetchall(),
                }
            except sqlite3.Error as error:
                return {"integrity": str(error), "rows": [], "releases": []}


def torn_metadata() -> list[str]:
    """Metadata of the firmware that is no JSON."""
    torn = []
    for folder, _, names in os.walk(f"{TOP}/state/firmware"):
        for name in names:
            if name.endswith(".json"):
                path = os.path.join(folder, name)
                try:
                    with open(path, encoding="utf-8") as file:
                        json.load(file)
                except ValueError:
                    torn.append(path)
    return torn


def _plain(value: object) -> str:
    return os.fsdecode(value) if isinstance(value, bytes) else str(value)


if __name__ == "__main__":
    if sys.argv[1] == "camera":
        camera(sys.argv[2])
    else:
        print(json.dumps(survey(), default=_plain))
