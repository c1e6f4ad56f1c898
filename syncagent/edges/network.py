"""Which interface traffic leaves by, and whether the system calls it metered.

Reads /proc, and asks NetworkManager's own tool. Not being able to tell is no error: then no link costs money.
"""

from __future__ import annotations

import logging
import os
import shutil
import subprocess

logger = logging.getLogger(__name__)

_UP = 0x1  # RTF_UP of <linux/route.h>
NMCLI_TIMEOUT_S = 5.0


def default_interface(*, ipv4: str = "/proc/net/route", ipv6: str = "/proc/net/ipv6_route") -> str | None:
    """The interface of the default route with the lowest metric; IPv4 first. None without a default route."""
    best: tuple[int, str] | None = None
    try:
        with open(ipv4, encoding="ascii") as table:
            for line in list(table)[1:]:
                words = line.split()
                if len(words) >= 8 and words[1] == words[7] == "00000000" and int(words[3], 16) & _UP:
                    best = min(best or (1 << 62, ""), (int(words[6]), words[0]))
        if best is not None:
            return best[1]
        with open(ipv6, encoding="ascii") as table:
            for line in table:
                words = line.split()
                if len(words) >= 10 and words[0] == "0" * 32 and words[1] == "00" and words[9] != "lo":
                    best = min(best or (1 << 62, ""), (int(words[5], 16), words[9]))
    except (OSError, ValueError) as error:
        logger.debug("routes unreadable reason=%s", error)
    return best[1] if best else None


def is_flagged_metered(interface: str) -> bool:
    """NetworkManager's word on an interface; False where it does not run."""
    nmcli = shutil.which("nmcli")
    if nmcli is None:
        return False
    try:
        answer = subprocess.run(  # noqa: S603 - a fixed program, an interface name from the kernel
            [nmcli, "-g", "GENERAL.METERED", "device", "show", interface],
            capture_output=True,
            text=True,
            timeout=NMCLI_TIMEOUT_S,
            env={**os.environ, "LC_ALL": "C", "LANGUAGE": ""},  # its words are translated
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        logger.debug("NetworkManager does not answer reason=%s", error)
        return False
    return answer.returncode == 0 and answer.stdout.strip().startswith("yes")
