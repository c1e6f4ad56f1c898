"""The agent's process in a world of its own: another wall clock, and a resolver that a test can switch off.

`python -m tests.fault.warped SHIFT HOSTS ARGUMENT...` is `syncagent ARGUMENT...`. The clock is ahead by SHIFT
seconds, or by those that the file SHIFT holds at the moment; HOSTS is a file of lines "NAME ADDRESS" that alone
decides which names resolve ("" leaves both as they are).
Only Python's own doors are moved, before anything of the product is imported: the kernel's file times stay true.
"""

from __future__ import annotations

import datetime
import os
import runpy
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.agent import Agent


class _Kind(type):
    """Every real datetime counts as a warped one: the C code goes on making those."""

    def __instancecheck__(cls, value: object) -> bool:
        return isinstance(value, _REAL)


_REAL = datetime.datetime


def shift_of(word: str) -> Callable[[], float]:
    """How far the clock is ahead: a number, or the file that holds it."""
    if "/" not in word:
        return lambda: float(word)

    def shift_s() -> float:
        with open(word) as file:
            return float(file.read())

    return shift_s


def warp_clock(shift_s: Callable[[], float]) -> None:
    """Move what Python calls now; the monotonic clock is untouched."""
    real_time, real_gmtime, real_localtime = time.time, time.gmtime, time.localtime

    class Warped(_REAL, metaclass=_Kind):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> Any:
            return _REAL.now(tz) + datetime.timedelta(seconds=shift_s())

        @classmethod
        def utcnow(cls) -> Any:
            return _REAL.now(datetime.UTC).replace(tzinfo=None) + datetime.timedelta(seconds=shift_s())

    time.time = lambda: real_time() + shift_s()
    time.time_ns = lambda: int((real_time() + shift_s()) * 1e9)
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
    """An agent whose clock is wrong by `shift_s`, which knows no names but those in the file `hosts`.

    With `is_jumping`, set before the start, `jump` sets the clock while it runs.
    """

    shift_s: float = 0.0
    is_jumping: bool = False
    hosts: str = ""
    variables: tuple[str, ...] = ()  # "NAME=VALUE" of its environment

    def jump(self, shift_s: float) -> None:
        """Set the clock, from now on, to be wrong by so much."""
        self.shift_s = shift_s
        with open(f"{self._shift_file}.new", "w") as file:
            file.write(str(shift_s))
        os.rename(f"{self._shift_file}.new", self._shift_file)

    @property
    def _shift_file(self) -> str:
        return os.path.join(self.top, "shift")

    def command(self, *arguments: str) -> list[str]:
        shift = str(self.shift_s)
        if self.is_jumping:
            self.jump(self.shift_s)
            shift = self._shift_file
        command = super().command(*arguments)
        at = command.index("syncagent")
        warped = [*command[:at], "tests.fault.warped", shift, self.hosts, *command[at + 1 :]]
        return ["env", *self.variables, *warped] if self.variables else warped


def main() -> None:
    shift, hosts = sys.argv[1:3]
    if shift != "0.0":
        warp_clock(shift_of(shift))
    if hosts:
        warp_names(hosts)
    sys.argv[1:3] = []
    runpy.run_module("syncagent", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
