"""The embedded store: moto's S3 in a process of its own, on a loopback port that the kernel chose.

Promises: it listens only on loopback, holds its objects in memory, writes its address into a file once it answers,
and ends when its standard input closes.
"""

from __future__ import annotations

import logging
import os
import sys

from moto.server import ThreadedMotoServer

from syncagent.demo.camera import stop_with_input
from syncagent.edges.clock import Stop

HOST = "127.0.0.1"
#: Longer than anybody shows a demo; the wait for the closed input ends it.
_FOREVER_S = 10.0 * 365 * 86400


def main(address_path: str) -> None:
    stop = Stop()
    stop_with_input(stop)
    # One line per request would be most of what a demo writes.
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address=HOST, port=0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    with open(address_path + ".new", "w", encoding="ascii") as file:
        file.write(f"http://{HOST}:{port}")
    os.replace(address_path + ".new", address_path)
    stop.wait(_FOREVER_S)


if __name__ == "__main__":
    main(sys.argv[1])
