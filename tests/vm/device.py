"""A guest with the package in it, as an owner has it: what every guest test begins with, and looks at."""

from __future__ import annotations

import json
import os
import random
import shlex
import tempfile
from dataclasses import dataclass, field
from typing import Any

from tests.servers import ACCESS_KEY, SECRET_KEY, VerifyingS3
from tests.vm.lab import WAIT_S, Guest, wait_for

SYSTEM_ID = "field-7"
CAMERA = "/var/lib/syncagent/generated_data/camera"
#: The running agent's own answer, at a tenth of what the command costs in a guest.
ASK = (
    "import json, socket; sock = socket.socket(socket.AF_UNIX); sock.settimeout(60);"
    " sock.connect('/var/lib/syncagent/state/agent.sock');"
    ' sock.sendall(b\'{"ask": "status"}\\n\'); print(sock.makefile().readline())'
)


def put_file(guest: Guest, path: str, content: str | bytes, *, mode: int = 0o644) -> None:
    """A file of root's, and the directories that it needs."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.chmod(file.name, mode)
        guest.run(f"mkdir -p {os.path.dirname(path)}")
        guest.push(file.name, path)


def install(guest: Guest, package: str) -> None:
    """Into a clean machine, without a network; with a user whose program writes pictures."""
    guest.push(package, "/root/syncagent.deb")
    guest.run("useradd --create-home pi; dpkg -i /root/syncagent.deb")


def set_up(guest: Guest) -> None:
    """Without questions; the service runs afterwards."""
    guest.run(
        f"export AWS_ACCESS_KEY_ID={ACCESS_KEY} AWS_SECRET_ACCESS_KEY={SECRET_KEY};"
        f"syncagent setup --bucket bucket --endpoint-url http://10.0.2.2:{guest.forward}"
        f" --region us-east-1 --system-id {SYSTEM_ID} --writer pi"
    )


@dataclass
class Device:
    """A guest whose user pi writes pictures, and the store where they should arrive."""

    guest: Guest
    store: VerifyingS3
    written: dict[str, bytes] = field(default_factory=dict)

    def write(self, *names: str, directory: str = CAMERA, most_bytes: int = 200_000) -> None:
        """As pi's camera program does, each file of some random bytes."""
        for name in names:
            content = random.randbytes(random.randrange(1, most_bytes))
            self.written[name] = content
            put_file(self.guest, "/home/pi/picture", content)
            self.guest.run(f"chown pi /home/pi/picture; su pi -c 'cp /home/pi/picture {directory}/{name}'")

    def has_arrived(self) -> bool:
        objects = self.store.objects()
        return all(objects.get(f"camera/{SYSTEM_ID}/{name}") == content for name, content in self.written.items())

    def expect_arrival(self, *, deadline_s: float = WAIT_S) -> None:
        wait_for(self.has_arrived, "every file is in the bucket, byte for byte", deadline_s=deadline_s)

    def status(self) -> dict[str, Any]:
        """What the running agent says, once it answers."""
        said: list[str] = []

        def answers() -> bool:
            done = self.guest.run(f"python3 -c {shlex.quote(ASK)}", check=False)
            said[:] = [done.stdout]
            return done.returncode == 0 and done.stdout.startswith("{")

        wait_for(answers, "the agent answers")
        status: dict[str, Any] = json.loads(said[0])
        return status

    def bad_facts(self) -> dict[str, str]:
        """Name -> reason of what is not as it should be."""
        return {name: fact["reason"] for name, fact in self.status()["facts"].items() if not fact["ok"]}

    def property(self, name: str) -> str:
        return self.guest.says(f"systemctl show syncagent --value --property={name}")

    def expect_active(self) -> None:
        wait_for(lambda: self.property("ActiveState") == "active", "the service is active")
