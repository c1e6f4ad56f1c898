"""Runs in the guest: the installed agent with its fsyncs taken out, to show that the lab sees what they are for."""

from __future__ import annotations

import os
import re
import runpy
import sqlite3
import sys
from typing import Any


def no_sync(_fd: int) -> None:
    """The promise without the deed."""


class Careless(sqlite3.Connection):
    """As if SQLite's own fsyncs were not there either."""

    def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
        return super().execute(re.sub(r"synchronous *= *\w+", "synchronous=OFF", sql), *values)


def connect(*values: Any, **options: Any) -> sqlite3.Connection:
    return _connect(*values, factory=Careless, **options)


if __name__ == "__main__":
    _connect = sqlite3.connect
    os.fsync = os.fdatasync = no_sync  # type: ignore[assignment]
    sqlite3.connect = connect  # type: ignore[assignment]
    sys.argv[0] = "/usr/bin/syncagent"
    runpy.run_path(sys.argv[0], run_name="__main__")
