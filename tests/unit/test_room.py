"""Room on the card is allocated behind a file's end, whatever the width of the machine's numbers."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from syncagent.edges.journal.room import LEAST_BYTES, MARGIN, MOST_BYTES, SHARE, Room, _allocate


def allocated(path: Path) -> int:
    return path.stat().st_blocks * 512


@pytest.mark.parametrize("start", [0, 3 << 30, 5 << 30])
def test_blocks_are_allocated_behind_the_end_also_beyond_what_32_bits_count(tmp_path: Path, start: int) -> None:
    path = tmp_path / "sparse"
    with open(path, "wb") as file:
        file.truncate(start)
        _allocate(file.fileno(), start, 1 << 20)
    assert path.stat().st_size == start
    assert 1 << 20 <= allocated(path) < 2 << 20


def test_a_file_keeps_room_behind_its_end_and_its_size(tmp_path: Path) -> None:
    figures = os.statvfs(tmp_path)
    wanted = min(MOST_BYTES, figures.f_blocks * figures.f_frsize // SHARE)
    if wanted < LEAST_BYTES or figures.f_bavail * figures.f_frsize < MARGIN * wanted:
        pytest.skip("the disk of the temporary files is too small or too full for room")
    path = tmp_path / "journal"
    path.write_bytes(b"x" * 1000)
    room = Room(str(path))
    room.keep()
    assert path.stat().st_size == 1000
    assert allocated(path) >= wanted
    before = allocated(path)
    room.keep()
    assert allocated(path) == before
    room.close()


def test_a_file_that_is_not_there_has_no_room_and_nobody_is_told(tmp_path: Path) -> None:
    room = Room(str(tmp_path / "missing"))
    room.keep()
    room.close()
