"""The log beside the journal, as SQLite left it: <https://sqlite.org/fileformat2.html#the_write_ahead_log>.

When a log is opened SQLite drops its torn end without a word, and with it what was confirmed there. How much that was
can be told from what the log held before.
"""

from __future__ import annotations

import os
import struct

_MAGICS = (0x377F0682, 0x377F0683)
_HEADER = struct.Struct(">8xI4x8s8x")
_MAGIC = struct.Struct(">I")
_FRAME_BYTES = 24  # before each page
_SALT = slice(8, 16)


def frames_of(path: str) -> int:
    """How many frames were written since the log last began; a piece of one counts. 0: there is no log."""
    try:
        with open(path, "rb") as file:
            return _frames(file.fileno(), os.fstat(file.fileno()).st_size)
    except OSError:
        return 0


def _frames(fd: int, size_bytes: int) -> int:
    head = os.pread(fd, _HEADER.size, 0)
    if len(head) < _HEADER.size or _MAGIC.unpack_from(head)[0] not in _MAGICS:
        return min(1, size_bytes)
    page_bytes, salt = _HEADER.unpack(head)
    step = page_bytes + _FRAME_BYTES
    places = range(_HEADER.size, size_bytes, step)
    # Behind its own frames lie those from before it last began, under another salt; what is zero was never written.
    own = [place for place in places if os.pread(fd, _FRAME_BYTES, place)[_SALT] in (salt, bytes(8))]
    if places and places[-1] + step > size_bytes:
        return len(places)
    return max(1, (own[-1] - _HEADER.size) // step + 1 if own else 0)
