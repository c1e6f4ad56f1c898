"""Drives one guest through the life of a device: python -m tests.vm

Installed from the package into a clean Debian, set up without questions, fed by another user's program. Prints a line
per step with its seconds; exits 0 when all passed, 2 when there is no lab.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

from tests.servers import ACCESS_KEY, SECRET_KEY, VerifyingS3
from tests.vm.lab import ROOT, Guest, LabMissing, lab_dir, wait_for

CAMERA = "/var/lib/syncagent/generated_data/camera"


class Life:
    """The steps, in their order. Every one leaves a service that works."""

    def __init__(self, guest: Guest, store: VerifyingS3, packages: list[str]) -> None:
        self.guest = guest
        self.store = store
        self.packages = packages
        self.written: dict[str, bytes] = {}

    def steps(self) -> list[Callable[[], None]]:
        return [
            self.it_installs_into_a_clean_machine,
            self.setup_without_questions_starts_the_service,
            self.doctor_finds_nothing_that_fails,
            self.the_sandbox_is_tight_and_the_key_is_the_services_alone,
            self.files_of_another_user_arrive_byte_for_byte,
            self.messages_are_taken_and_bad_ones_set_aside,
            self.a_cable_that_is_pulled_loses_nothing,
            self.a_disk_that_comes_and_goes_is_followed,
            self.a_hung_agent_is_restarted_by_its_watchdog,
            self.a_bad_configuration_ends_it_with_78_and_no_restarts,
            self.after_an_upgrade_it_goes_on,
            self.after_a_reboot_it_goes_on,
        ]

    # -- helpers ------------------------------------------------------------------------------------------------------

    def write(self, *names: str, directory: str = CAMERA) -> None:
        """As pi's camera program does, each file of some random bytes."""
        for name in names:
            content = random.randbytes(random.randrange(1, 200_000))
            self.written[name] = content
            with tempfile.NamedTemporaryFile() as file:
                file.write(content)
                file.flush()
                os.chmod(file.name, 0o644)
                self.guest.push(file.name, "/home/pi/picture")
            self.guest.run(f"chown pi /home/pi/picture; su pi -c 'cp /home/pi/picture {directory}/{name}'")

    def has_arrived(self) -> bool:
        objects = self.store.objects()
        return all(objects.get(f"camera/field-7/{name}") == content for name, content in self.written.items())

    def expect_arrival(self) -> None:
        wait_for(self.has_arrived, "every file is in the bucket, byte for byte")

    def property(self, name: str) -> str:
        return self.guest.says(f"systemctl show syncagent --value --property={name}")

    def expect_active(self) -> None:
        wait_for(lambda: self.property("ActiveState") == "active", "the service is active")

    # -- steps --------------------------------------------------------------------------------------------------------

    def it_installs_into_a_clean_machine(self) -> None:
        for number, package in enumerate(self.packages):
            self.guest.push(package, f"/root/{number}.deb")
        self.guest.run("useradd --create-home pi; dpkg -i /root/0.deb")
        assert self.property("ActiveState") == "inactive"

    def setup_without_questions_starts_the_service(self) -> None:
        self.guest.run(
            f"export AWS_ACCESS_KEY_ID={ACCESS_KEY} AWS_SECRET_ACCESS_KEY={SECRET_KEY};"
            f"syncagent setup --bucket bucket --endpoint-url http://10.0.2.2:{self.guest.forward}"
            " --region us-east-1 --system-id field-7 --writer pi"
        )
        self.expect_active()
        assert self.property("UnitFileState") == "enabled"

    def doctor_finds_nothing_that_fails(self) -> None:
        done = self.guest.run("syncagent doctor --write --json", check=False)
        checks = json.loads(done.stdout)["checks"]
        assert done.returncode == 0, [check for check in checks if check["verdict"] == "failed"]
        assert "ok" in {check["verdict"] for check in checks if check["check"] == "unit"}

    def the_sandbox_is_tight_and_the_key_is_the_services_alone(self) -> None:
        self.guest.run("systemd-analyze security --threshold=15 --no-pager syncagent")
        assert SECRET_KEY not in self.guest.says("cat /etc/syncagent/configs/*/*")
        assert self.guest.says("stat -c '%a %U' /etc/credstore/syncagent.secret_access_key") == "600 root"
        pid = self.property("MainPID")
        granted = self.guest.says(f"grep -i capeff /proc/{pid}/status").split()[1]
        assert int(granted, 16) == 1 << 28, granted  # CAP_LEASE, <linux/capability.h>
        status = self.guest.says("su pi -c 'syncagent status --json' || [ $? = 1 ]")
        assert "lease" not in json.loads(status)["facts"]["watcher"]["reason"]

    def files_of_another_user_arrive_byte_for_byte(self) -> None:
        self.write(*(f"{number}.jpg" for number in range(5)))
        self.guest.run(f"su pi -c 'mkdir {CAMERA}/today'")
        self.write("today/a.jpg")
        self.expect_arrival()

    def messages_are_taken_and_bad_ones_set_aside(self) -> None:
        self.guest.run(
            """su pi -c 'syncagent post image_info "{\\"file_name\\": \\"0.jpg\\", \\"note\\": \\"hello\\"}"'"""
        )
        top = "/var/lib/syncagent/generated_data/messages"
        self.guest.run(
            f"echo nonsense > /home/pi/bad; su pi -c 'cp /home/pi/bad {top}/.x; mv {top}/.x {top}/image_info/bad.json'"
        )
        wait_for(
            lambda: self.guest.run(f"ls {top}/rejected/bad.reason.txt", check=False).returncode == 0,
            "the bad message is set aside",
        )
        assert self.guest.says(f"stat -c '%a %G' {top}/rejected") == "2775 syncagent"

    def a_cable_that_is_pulled_loses_nothing(self) -> None:
        self.guest.cable("down")
        self.write("in-the-dark-1.jpg", "in-the-dark-2.jpg")
        time.sleep(20)
        assert not self.has_arrived()
        assert self.property("ActiveState") == "active"
        self.guest.cable("up")
        self.expect_arrival()

    def a_disk_that_comes_and_goes_is_followed(self) -> None:
        disk, data = "/dev/disk/by-label/usb", "/var/lib/syncagent/generated_data"
        with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
            self.guest.attach(os.path.join(folder, "usb.raw"))
            found = self.guest.says("udevadm settle; lsblk -dnpo NAME,SIZE | awk '$2 == \"64M\" {print $1}'")
            self.guest.run(f"mkfs.ext4 -q -L usb {found}; udevadm settle; mount {disk} {data}")
            self.guest.run(f"install -d -m 2775 -o syncagent -g syncagent {data} {data}/camera")
            self.write("on-the-disk.jpg")
            self.expect_arrival()
            self.guest.run(f"umount {data}", timeout_s=100)
            self.write("without-the-disk.jpg")
            self.expect_arrival()
            self.guest.run(f"mount {disk} {data}")
            self.write("on-the-disk-again.jpg")
            self.expect_arrival()
            self.guest.run(f"umount {data}")

    def a_hung_agent_is_restarted_by_its_watchdog(self) -> None:
        self.guest.run(
            "mkdir -p /run/systemd/system/syncagent.service.d;"
            "printf '[Service]\\nWatchdogSec=30\\n' > /run/systemd/system/syncagent.service.d/quick.conf;"
            "systemctl daemon-reload; systemctl restart syncagent"
        )
        before, restarts = self.property("MainPID"), int(self.property("NRestarts"))
        self.guest.run(f"kill -STOP {before}")
        wait_for(lambda: int(self.property("NRestarts")) > restarts, "the watchdog has restarted it", deadline_s=400)
        self.expect_active()
        assert self.property("MainPID") != before
        self.write("after-the-watchdog.jpg")
        self.expect_arrival()

    def a_bad_configuration_ends_it_with_78_and_no_restarts(self) -> None:
        file = "/etc/syncagent/configs/carriers/bucket.yaml"
        self.guest.run(f"cp -p {file} /root/good; echo 'nonsense: true' >> {file}; systemctl restart syncagent || true")
        wait_for(lambda: self.property("ActiveState") == "failed", "the service has given up")
        assert self.property("ExecMainStatus") == "78"
        self.guest.run(f"cp -p /root/good {file}; systemctl restart syncagent")
        self.expect_active()

    def after_an_upgrade_it_goes_on(self) -> None:
        self.guest.run("dpkg -i --force-confold /root/1.deb")
        self.expect_active()
        status = json.loads(self.guest.says("syncagent status --json || [ $? = 1 ]"))
        assert status["version"] == "9.0"
        # Not only what is confirmed: the files on the disk that went have gone with it.
        assert sum(entry["files"] for entry in status["queue"].values()) >= len(self.written)
        self.write("after-the-upgrade.jpg")
        self.expect_arrival()

    def after_a_reboot_it_goes_on(self) -> None:
        self.guest.run("systemctl stop syncagent")
        self.write("while-it-was-stopped.jpg")
        self.guest.stop()
        self.guest.boot()
        self.expect_arrival()
        self.expect_active()


def built(folder: str) -> list[str]:
    """The package of this tree, and a newer one."""
    command = [sys.executable, os.path.join(ROOT, "packaging/build_deb.py"), "--output", folder]
    for options in ([], ["--version", "9.0"]):
        subprocess.run([*command, *options], check=True, stdout=subprocess.DEVNULL)
    return sorted((os.path.join(folder, name) for name in os.listdir(folder)), key=lambda path: "9.0" in path)


def main() -> int:
    begun = time.monotonic()
    try:
        lab_dir()
        with tempfile.TemporaryDirectory() as folder, VerifyingS3("bucket") as store:
            packages = built(folder)
            with Guest(f"syncagent-{os.getpid()}", store.port) as guest:
                print(f"ok      booted ({time.monotonic() - begun:.0f} s)", flush=True)
                for step in Life(guest, store, packages).steps():
                    at = time.monotonic()
                    try:
                        step()
                    except BaseException:
                        print(f"NOT OK  {step.__name__.replace('_', ' ')}", flush=True)
                        seen = guest.run("journalctl -u syncagent --no-pager -n 60", check=False)
                        print(seen.stdout[-6000:], file=sys.stderr)
                        raise
                    print(f"ok      {step.__name__.replace('_', ' ')} ({time.monotonic() - at:.0f} s)", flush=True)
    except LabMissing as error:
        print(error, file=sys.stderr)
        return 2
    print(f"all passed in {time.monotonic() - begun:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
