"""The agent's process in a world of its own: another wall clock, and a resolver that a test can switch off.

`python -m tests.fault.warped SHIFT_S HOSTS ARGUMENT...` is `syncagent ARGUMENT...`. The clock is ahead by SHIFT_S
seconds; HOSTS is a file of lines "NAME ADDRESS" that alone decides which names resolve ("" leaves both as they are).
Only Python's own doors are moved, before anything of the product is imported: the kernel's file times stay true.
"""

from __future__ import annotations

import datetime
import runpy
import socket
import sys
import time
from dataclasses import dataclass
from typing import Any

from tests.agent import Agent


class _Kind(type):
    """Every real datetime counts as a warped one: the C code goes on making those."""

    def __instancecheck__(cls, value: object) -> bool:
        return isinstance(value, _REAL)


_REAL = datetime.datetime


def warp_clock(shift_s: float) -> None:
    """Move what Python calls now; the monotonic clock is untouched."""
    real_time, real_gmtime, real_localtime = time.time, time.gmtime, time.localtime
    shift = datetime.timedelta(seconds=shift_s)

    class Warped(_REAL, metaclass=_Kind):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> Any:
            return _REAL.now(tz) + shift

        @classmethod
        def utcnow(cls) -> Any:
            return _REAL.now(datetime.UTC).replace(tzinfo=None) + shift

    time.time = lambda: real_time() + shift_s
    time.time_ns = lambda: int((real_time() + shift_s) * 1e9)
    time.gmtime = lambda seconds=None: real_gmtime(time.time() if seconds is None else seconds)
    time.localtime = lambda seconds=None: real_localtime(time.time() if seconds is None else seconds)
    datetime.datetime = Warped  # type: ignore[misc]


def warp_names(hosts: str) -> None:
    """Resolve by the file, read anew each time; a name that it does not hold does not exist."""
    real = socket.getaddrinfo

    def getaddrinfo(host: Any, *arguments: Any, **options: Any) -> Any:
        with open(hosts) as file:
            addresses = dict(line.split() for line in file)
        if host not in addresses:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return real(addresses[host], *arguments, **options)

    socket.getaddrinfo = getaddrinfo


@dataclass
class WarpedAgent(Agent):
    """An agent whose clock is wrong by `shift_s`, which knows no names but those in the file `hosts`."""

    shift_s: float = 0.0
    hosts: str = ""
    variables: tuple[str, ...] = ()  # "NAME=VALUE" of its environment

    def command(self, *arguments: str) -> list[str]:
        command = super().command(*arguments)
        at = command.index("syncagent")
        warped = [*command[:at], "tests.fault.warped", str(self.shift_s), self.hosts, *command[at + 1 :]]
        return ["env", *self.variables, *warped] if self.variables else warped


def main() -> None:
    shift_s, hosts = float(sys.argv[1]), sys.argv[2]
    if shift_s:
        warp_clock(shift_s)
    if hosts:
        warp_names(hosts)
    sys.argv[1:3] = []
    runpy.run_module("syncagent", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
