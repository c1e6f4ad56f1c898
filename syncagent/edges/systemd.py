"""The service manager's side of sd_notify(3): READY, WATCHDOG, STOPPING.

Silent where there is no service manager. Source of the protocol: the manual page sd_notify(3).
"""

from __future__ import annotations

import logging
import os
import socket

logger = logging.getLogger(__name__)


class Notifier:
    """Sends lines to the socket that the service manager gave; does nothing without one."""

    def __init__(self, address: str | None, *, watchdog_usec: str | None = None) -> None:
        self._address = address
        self.watchdog_s = int(watchdog_usec) / 1e6 if watchdog_usec and watchdog_usec.isdigit() else None

    @classmethod
    def from_environment(cls) -> Notifier:
        """Takes WATCHDOG_USEC only when it is meant for this process."""
        pid = os.environ.get("WATCHDOG_PID")
        usec = os.environ.get("WATCHDOG_USEC") if pid in (None, str(os.getpid())) else None
        return cls(os.environ.get("NOTIFY_SOCKET"), watchdog_usec=usec)

    def tell(self, *lines: str) -> None:
        """Send assignments such as "READY=1". An unreachable manager is logged: the agent works without it."""
        if not self._address:
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
                sock.settimeout(1)
                sock.sendto("\n".join(lines).encode(), address)
        except OSError as error:
            logger.warning("service manager unreachable reason=%s", error)
