"""The link between agent and store: a relay on loopback that is slow as an uplink is, and can be cut and mended.

Promises: while it is cut, its port refuses connections, and those that were there are reset; the port stays its own.
When it cuts is decided by who holds it; `Weather` is a timetable for that.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
import threading
from collections.abc import Callable

HOST = "127.0.0.1"
UPLINK_BYTES_PER_S = 1_500_000
_PIECE_BYTES = 16 * 1024
#: Small, so that what the agent sees acknowledged is what has passed.
_BUFFER_BYTES = 64 * 1024
_START_S = 10.0


class Link:
    """Runs in a thread of its own between `open` and `close`."""

    def __init__(self, target_port: int, *, bytes_per_s: int = UPLINK_BYTES_PER_S) -> None:
        self.is_up = False
        self.cuts = 0
        self._target_port = target_port
        self._bytes_per_s = bytes_per_s
        self._free_at = 0.0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="link", daemon=True)
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        # Bound and never listening: it keeps the port ours while the link is cut, and a client that knocks then is
        # refused, and not given the very port as its own.
        self._place = _bound(0)
        self.port: int = self._place.getsockname()[1]

    @property
    def endpoint_url(self) -> str:
        return f"http://{HOST}:{self.port}"

    def open(self) -> None:
        self._thread.start()
        self.mend()

    def cut(self) -> None:
        """Refuse, and reset what is open."""
        if self.is_up:
            self.is_up = False
            self.cuts += 1
            self._loop.call_soon_threadsafe(self._cut)

    def mend(self) -> None:
        if not self.is_up:
            asyncio.run_coroutine_threadsafe(self._mend(), self._loop).result(_START_S)
            self.is_up = True

    def close(self) -> None:
        if self._thread.is_alive():
            self.cut()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(5.0)
        self._place.close()

    # -- in the link's thread -----------------------------------------------------------------------------------------

    async def _mend(self) -> None:
        listener = _bound(self.port)
        # Before listening: connections inherit it.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
        self._server = await asyncio.start_server(self._carry, sock=listener, limit=_BUFFER_BYTES)

    def _cut(self) -> None:
        if self._server is not None:
            self._server.close()
        for writer in self._writers:
            with contextlib.suppress(OSError):
                # Lingering for no time makes close(2) a reset.
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
        self._writers.clear()

    async def _carry(self, from_agent: asyncio.StreamReader, to_agent: asyncio.StreamWriter) -> None:
        try:
            from_store, to_store = await asyncio.open_connection(HOST, self._target_port, limit=_BUFFER_BYTES)
        except OSError:
            to_agent.transport.abort()
            return
        ends = {to_agent, to_store}
        self._writers |= ends
        try:
            await asyncio.gather(self._pump(from_agent, to_store, slow=True), self._pump(from_store, to_agent))
        except OSError:
            pass  # one end is gone, so is the other
        finally:
            self._writers -= ends
            for writer in ends:
                writer.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, slow: bool = False) -> None:
        while piece := await reader.read(_PIECE_BYTES):
            if slow:
                now = self._loop.time()
                self._free_at = max(now, self._free_at) + len(piece) / self._bytes_per_s
                await asyncio.sleep(self._free_at - now)
            writer.write(piece)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()


def _bound(port: int) -> socket.socket:
    place = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    place.bind((HOST, port))
    return place


class Weather:
    """Cuts a link now and then, for a few seconds. `monotonic` tells the time; call `pass_once` often."""

    FIRST_CUT_S = 7.0
    UP_S = (14.0, 22.0)
    DOWN_S = (4.0, 7.0)

    def __init__(self, link: Link, monotonic: Callable[[], float]) -> None:
        self._link = link
        self._monotonic = monotonic
        self._dice = random.Random()  # noqa: S311 - weather
        self._turns_at = monotonic() + self.FIRST_CUT_S

    @property
    def turns_in_s(self) -> float:
        return max(0.0, self._turns_at - self._monotonic())

    def pass_once(self) -> None:
        if self.turns_in_s > 0:
            return
        if self._link.is_up:
            self._link.cut()
            self._turns_at = self._monotonic() + self._dice.uniform(*self.DOWN_S)
        else:
            self._link.mend()
            self._turns_at = self._monotonic() + self._dice.uniform(*self.UP_S)
