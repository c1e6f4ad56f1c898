"""The drop, ended before each of its system calls, and with a disk that fails at each of them.

Whatever happens: at both places there is the old file or the new one, whole; the config never names an image that is
not there; a second try brings both, and leaves nothing else behind.
"""

from __future__ import annotations

import errno
import grp
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from syncagent.core.errors import Transient
from syncagent.edges.drop import Drop
from tests.agent import regular_files

CALLS = (
    *("open", "close", "mkdir", "stat", "fstat", "read", "write", "fchmod", "fchown", "fsync", "rename", "unlink"),
    *("statvfs",),
)
DIED = 77
OLD, NEW = b"old image" * 60_000, b"new image" * 70_000
IMAGE, CONFIG = "fresh/images/boot.bin", "latest.json"


class Calls:
    """Counts the drop's system calls; at number `at` does what `act` does."""

    def __init__(self, at: int | None, act: Callable[[str], None]) -> None:
        self.names: list[str] = []
        self._at = at
        self._act = act
        self._real: dict[str, Any] = {}

    def __enter__(self) -> Calls:
        for name in CALLS:
            self._real[name] = getattr(os, name)
            setattr(os, name, self._wrapped(name))
        return self

    def __exit__(self, *_: object) -> None:
        for name, real in self._real.items():
            setattr(os, name, real)

    def _wrapped(self, name: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.names.append(name)
            if len(self.names) == self._at:
                self._act(name)
            return self._real[name](*args, **kwargs)

        return call


def drop_both(root: str, image: bytes, config: bytes) -> None:
    """As the installer does: the image first, the config second."""
    drop = Drop(root, group=grp.getgrgid(os.getgid()).gr_name)
    drop.free_bytes()
    for path, data in ((IMAGE, image), (CONFIG, config)):
        drop.check(path)
        pieces = [data[begin : begin + 100_000] for begin in range(0, len(data), 100_000)]
        drop.put(path, pieces, sha256=hashlib.sha256(data).hexdigest(), length=len(data))


def config_of(image: bytes) -> bytes:
    return json.dumps({"sha256": hashlib.sha256(image).hexdigest()}).encode()


def is_consistent(root: str, *, had_old: bool) -> bool:
    """Old or new, whole; and the config was never switched before the image was there."""
    files = regular_files(root)
    image, config = files.get(IMAGE), files.get(CONFIG)
    if config == config_of(NEW):
        return image == NEW
    return image in (OLD if had_old else None, NEW) and config == (config_of(OLD) if had_old else None)


def counted(root: str) -> list[str]:
    with Calls(None, lambda _: None) as calls:
        drop_both(root, NEW, config_of(NEW))
    return calls.names


def fresh(tmp_path: Path, name: str, *, had_old: bool) -> str:
    root = str(tmp_path / name)
    os.mkdir(root)
    if had_old:
        drop_both(root, OLD, config_of(OLD))
    return root


@pytest.mark.parametrize("had_old", [False, True], ids=["first", "replacing"])
def test_killed_before_each_of_its_system_calls_the_drop_is_consistent(tmp_path: Path, had_old: bool) -> None:
    names = counted(fresh(tmp_path, "count", had_old=had_old))
    assert len(names) >= 30
    for number in range(1, len(names) + 1):
        root = fresh(tmp_path, str(number), had_old=had_old)
        pid = os.fork()
        if pid == 0:
            try:
                with Calls(number, lambda _: os._exit(DIED)):
                    drop_both(root, NEW, config_of(NEW))
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == DIED, (number, names[number - 1])
        assert is_consistent(root, had_old=had_old), (number, names[number - 1])
        drop_both(root, NEW, config_of(NEW))
        assert regular_files(root) == {IMAGE: NEW, CONFIG: config_of(NEW)}, (number, names[number - 1])


@pytest.mark.parametrize("had_old", [False, True], ids=["first", "replacing"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EROFS], ids=errno.errorcode.__getitem__)
def test_a_disk_that_fails_at_any_system_call_leaves_the_drop_consistent(
    tmp_path: Path, had_old: bool, code: int
) -> None:
    names = counted(fresh(tmp_path, "count", had_old=had_old))

    def fail(name: str) -> None:
        raise OSError(code, os.strerror(code))

    for number, name in enumerate(names, start=1):
        root = fresh(tmp_path, str(number), had_old=had_old)
        with Calls(number, fail):
            try:
                drop_both(root, NEW, config_of(NEW))
                is_done = True
            except Transient:
                is_done = False
        assert is_consistent(root, had_old=had_old), (number, name)
        if is_done:
            assert regular_files(root) == {IMAGE: NEW, CONFIG: config_of(NEW)}, (number, name)
        drop_both(root, NEW, config_of(NEW))
        assert regular_files(root) == {IMAGE: NEW, CONFIG: config_of(NEW)}, (number, name)


def test_what_is_dropped_is_synced_before_it_is_named_and_its_directory_after(tmp_path: Path) -> None:
    names = counted(fresh(tmp_path, "order", had_old=False))
    renames = [number for number, name in enumerate(names) if name == "rename"]
    assert len(renames) == 2
    for number in renames:
        before = names[:number]
        assert before[-2:] == ["fsync", "close"] and "fchmod" in before[-4:]
        assert "fsync" in names[number + 1 : number + 2]


def test_a_file_of_another_length_is_not_read_to_tell_that_it_is_another(tmp_path: Path) -> None:
    root = fresh(tmp_path, "root", had_old=True)
    drop, sha256 = Drop(root), hashlib.sha256(OLD).hexdigest()
    with Calls(None, lambda _: None) as calls:
        assert drop.length_of(IMAGE, sha256=sha256, length=len(OLD) + 1) is None
    assert "read" not in calls.names
    assert [drop.length_of(IMAGE, sha256=sha256, length=length) for length in (None, len(OLD))] == [len(OLD)] * 2
    assert drop.length_of("not/there.bin", sha256=sha256) is None
