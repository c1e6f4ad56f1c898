"""The life of a device, step by step: installed from the package into a clean Debian, set up without questions, fed by
another user's program, and upgraded.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable

from tests.servers import SECRET_KEY
from tests.vm.device import CAMERA, Device, install, set_up
from tests.vm.lab import wait_for


class Life:
    """The steps, in their order. Every one leaves a service that works."""

    def __init__(self, device: Device, packages: list[str]) -> None:
        self.device = device
        self.guest = device.guest
        self.packages = packages

    def steps(self) -> list[Callable[[], None]]:
        return [
            self.it_installs_into_a_clean_machine,
            self.setup_without_questions_starts_the_service,
            self.doctor_finds_nothing_that_fails,
            self.the_sandbox_is_tight_and_the_key_is_the_services_alone,
            self.files_of_another_user_arrive_byte_for_byte,
            self.messages_are_taken_and_bad_ones_set_aside,
            self.a_cable_that_is_pulled_loses_nothing,
            self.a_link_that_loses_a_third_delays_only,
            self.a_disk_that_comes_and_goes_is_followed,
            self.on_a_full_disk_confirmed_files_make_room_and_sending_goes_on,
            self.a_hung_agent_is_restarted_by_its_watchdog,
            self.a_bad_configuration_ends_it_with_78_and_no_restarts,
        ]

    def last_steps(self) -> list[Callable[[], None]]:
        return [self.after_an_upgrade_it_goes_on, self.after_a_reboot_it_goes_on]

    def short_steps(self) -> list[Callable[[], None]]:
        return [
            self.it_installs_into_a_clean_machine,
            self.setup_without_questions_starts_the_service,
            self.files_of_another_user_arrive_byte_for_byte,
            self.a_cable_that_is_pulled_loses_nothing,
        ]

    # -- steps --------------------------------------------------------------------------------------------------------

    def it_installs_into_a_clean_machine(self) -> None:
        install(self.guest, self.packages[0])
        assert self.device.property("ActiveState") == "inactive"

    def setup_without_questions_starts_the_service(self) -> None:
        set_up(self.guest)
        self.device.expect_active()
        assert self.device.property("UnitFileState") == "enabled"

    def doctor_finds_nothing_that_fails(self) -> None:
        done = self.guest.run("syncagent doctor --write --json", check=False)
        checks = json.loads(done.stdout)["checks"]
        assert done.returncode == 0, [check for check in checks if check["verdict"] == "failed"]
        assert "ok" in {check["verdict"] for check in checks if check["check"] == "unit"}

    def the_sandbox_is_tight_and_the_key_is_the_services_alone(self) -> None:
        self.guest.run("systemd-analyze security --threshold=15 --no-pager syncagent")
        assert SECRET_KEY not in self.guest.says("cat /etc/syncagent/configs/*/*")
        assert self.guest.says("stat -c '%a %U' /etc/credstore/syncagent.secret_access_key") == "600 root"
        pid = self.device.property("MainPID")
        granted = self.guest.says(f"grep -i capeff /proc/{pid}/status").split()[1]
        assert int(granted, 16) == 1 << 28, granted  # CAP_LEASE, <linux/capability.h>
        status = self.guest.says("su pi -c 'syncagent status --json' || [ $? = 1 ]")
        assert "lease" not in json.loads(status)["facts"]["watcher"]["reason"]

    def files_of_another_user_arrive_byte_for_byte(self) -> None:
        self.device.write(*(f"{number}.jpg" for number in range(5)))
        self.guest.run(f"su pi -c 'mkdir {CAMERA}/today'")
        self.device.write("today/a.jpg")
        self.device.expect_arrival()

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
        self.device.write("in-the-dark-1.jpg", "in-the-dark-2.jpg")
        time.sleep(20)
        assert not self.device.has_arrived()
        assert self.device.property("ActiveState") == "active"
        self.guest.cable("up")
        self.device.expect_arrival()

    def a_link_that_loses_a_third_delays_only(self) -> None:
        device = self.guest.says("ip -o route show default | grep -o 'dev [^ ]*' | cut -d' ' -f2")
        self.guest.run(f"tc qdisc add dev {device} root netem delay 50ms loss 30%")
        try:
            self.device.write("lossy-1.jpg", "lossy-2.jpg", "lossy-3.jpg", most_bytes=40_000)
            self.device.expect_arrival(deadline_s=400)
        finally:
            self.guest.run(f"tc qdisc del dev {device} root")

    def on_a_full_disk_confirmed_files_make_room_and_sending_goes_on(self) -> None:
        data = "/var/lib/syncagent/generated_data"
        with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
            found = self.guest.attach(os.path.join(folder, "small.raw"))
            self.guest.run(
                f"mkfs.ext4 -q -m 0 {found}; mount {found} {data};"
                f" install -d -m 2775 -o syncagent -g syncagent {data} {data}/camera"
            )
            names = [f"confirmed-{number}.jpg" for number in range(8)]
            self.device.write(*names, most_bytes=2_000_000)
            self.device.expect_arrival()
            # At once, or what is removed meanwhile would be filled as well.
            free = int(self.guest.says(f"df --output=avail -B1 {data} | tail -1"))
            self.guest.run(f"su pi -c 'mkdir {data}/other; fallocate -l {free - (1 << 20)} {data}/other/ballast'")
            self.guest.run(f"su pi -c 'cat /dev/zero > {data}/other/rest' 2> /dev/null || true")
            wait_for(
                lambda: "confirmed-0.jpg" not in self.guest.says(f"ls {CAMERA}"), "the oldest confirmed file makes room"
            )
            self.device.write("on-a-full-disk.jpg", most_bytes=20_000)
            self.device.expect_arrival()
            self.guest.run(f"rm -r {data}/other")
            self.device.write("with-room-again.jpg")
            self.device.expect_arrival()
            self.guest.run(f"umount {data}", timeout_s=100)

    def a_disk_that_comes_and_goes_is_followed(self) -> None:
        disk, data = "/dev/disk/by-label/usb", "/var/lib/syncagent/generated_data"
        with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
            self.guest.attach(os.path.join(folder, "usb.raw"))
            found = self.guest.says("udevadm settle; lsblk -dnpo NAME,SIZE | awk '$2 == \"64M\" {print $1}'")
            self.guest.run(f"mkfs.ext4 -q -L usb {found}; udevadm settle; mount {disk} {data}")
            self.guest.run(f"install -d -m 2775 -o syncagent -g syncagent {data} {data}/camera")
            self.device.write("on-the-disk.jpg")
            self.device.expect_arrival()
            self.guest.run(f"umount {data}", timeout_s=100)
            self.device.write("without-the-disk.jpg")
            self.device.expect_arrival()
            self.guest.run(f"mount {disk} {data}")
            self.device.write("on-the-disk-again.jpg")
            self.device.expect_arrival()
            self.guest.run(f"umount {data}")

    def a_hung_agent_is_restarted_by_its_watchdog(self) -> None:
        self.guest.run(
            "mkdir -p /run/systemd/system/syncagent.service.d;"
            "printf '[Service]\\nWatchdogSec=30\\n' > /run/systemd/system/syncagent.service.d/quick.conf;"
            "systemctl daemon-reload; systemctl restart syncagent"
        )
        before, restarts = self.device.property("MainPID"), int(self.device.property("NRestarts"))
        self.guest.run(f"kill -STOP {before}")
        wait_for(
            lambda: int(self.device.property("NRestarts")) > restarts, "the watchdog has restarted it", deadline_s=400
        )
        self.device.expect_active()
        assert self.device.property("MainPID") != before
        self.device.write("after-the-watchdog.jpg")
        self.device.expect_arrival()

    def a_bad_configuration_ends_it_with_78_and_no_restarts(self) -> None:
        file = "/etc/syncagent/configs/carriers/bucket.yaml"
        self.guest.run(f"cp -p {file} /root/good; echo 'nonsense: true' >> {file}; systemctl restart syncagent || true")
        wait_for(lambda: self.device.property("ActiveState") == "failed", "the service has given up")
        assert self.device.property("ExecMainStatus") == "78"
        self.guest.run(f"cp -p /root/good {file}; systemctl restart syncagent")
        self.device.expect_active()

    def after_an_upgrade_it_goes_on(self) -> None:
        self.guest.push(self.packages[1], "/root/newer.deb")
        self.guest.run("dpkg -i --force-confold /root/newer.deb")
        self.device.expect_active()
        status = json.loads(self.guest.says("syncagent status --json || [ $? = 1 ]"))
        assert status["version"] == "9.0"
        # Not only what is confirmed: the files on the disk that went have gone with it.
        assert sum(entry["files"] for entry in status["queue"].values()) >= len(self.device.written)
        self.device.write("after-the-upgrade.jpg")
        self.device.expect_arrival()

    def after_a_reboot_it_goes_on(self) -> None:
        self.guest.run("systemctl stop syncagent")
        self.device.write("while-it-was-stopped.jpg")
        self.guest.stop()
        self.guest.boot()
        self.device.expect_arrival()
        self.device.expect_active()
