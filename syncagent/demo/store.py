"""The embedded store: moto's S3 in a process of its own, on a loopback port that the kernel chose.

Promises: it listens only on loopback, holds its objects in memory, writes its address into a file once it answers,
and ends when its standard input closes.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable

from moto.server import ThreadedMotoServer

from syncagent.demo.audit import Bucket
from syncagent.demo.camera import stop_with_input
from syncagent.edges.clock import Stop

HOST = "127.0.0.1"
#: Longer than anybody shows a demo; the wait for the closed input ends it.
_FOREVER_S = 10.0 * 365 * 86400


def start(port: int) -> int:
    """Serve in the background; the port (another one for 0)."""
    # One line per request would be most of what a demo writes.
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address=HOST, port=port, verbose=False)
    server.start()
    return int(server.get_host_and_port()[1])


def serve(port: int, on_ready: Callable[[str], None]) -> None:
    """Only the store, with its bucket, until the process is ended. Raises: Transient."""
    endpoint_url = f"http://{HOST}:{start(port)}"
    Bucket(endpoint_url).create()
    on_ready(endpoint_url)
    Stop().wait(_FOREVER_S)


def main(address_path: str) -> None:
    stop = Stop()
    stop_with_input(stop)
    port = start(0)
    with open(address_path + ".new", "w", encoding="ascii") as file:
        file.write(f"http://{HOST}:{port}")
    os.replace(address_path + ".new", address_path)
    stop.wait(_FOREVER_S)


if __name__ == "__main__":
    main(sys.argv[1])
