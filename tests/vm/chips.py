"""The lab's modelled chips: a device whose chips answer, go silent, lie, flip bits, drop off the bus and come back."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from typing import Any, Self

from tests.vm.device import Device, put_file
from tests.vm.lab import lab_dir, wait_for

EUI = "fcc23d123456"
#: The AT24MAC's identity block is at 0x58; the lab has no model of it, so its registers are set one by one.
CHIPS = ("ds3231@0x68", "ina219@0x40", "max17048@0x36", "at24c32@0x57", "regs8@0x58")
DEVICES: dict[str, dict[str, object]] = {
    "clock": {"source": "ds3231"},
    "supply": {"source": "ina219", "shunt_ohm": 0.1},
    "battery": {"source": "max17048", "pause_below_percent": 15, "resume_above_percent": 20, "attach": True},
    "identity": {"source": "at24mac"},
}


class I2cBus:
    """The host's side of the bus; the guest is started with `options`. A `with` block, and it may be unplugged."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="i2c-")
        self._program = os.path.join(lab_dir(), "i2c-bus")
        self._process: subprocess.Popen[str] | None = None
        self.socket = os.path.join(self._folder.name, "bus")

    @property
    def options(self) -> tuple[str, ...]:
        return ("--i2c-bus", self.socket)

    def __enter__(self) -> Self:
        self.plug()
        return self

    def __exit__(self, *_: object) -> None:
        self.unplug()
        self._folder.cleanup()

    def plug(self) -> None:
        command = [self._program, "serve", self.socket, *CHIPS]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        assert "ready" in self._process.stdout.readline()
        serial = [f"reg.0x{0x80 + number:02x}={number + 1}" for number in range(16)]
        eui = [f"reg.0x{0x9A + number:02x}={byte}" for number, byte in enumerate(bytes.fromhex(EUI))]
        self.set("0x58", *serial, *eui)

    def unplug(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            process.communicate()

    def set(self, address: str, *values: str) -> None:
        subprocess.run([self._program, "set", self.socket, address, *values], check=True, stdout=subprocess.DEVNULL)

    def flips_left(self) -> int:
        """Reads that will still come back with a flipped bit."""
        done = subprocess.run([self._program, "get", self.socket], check=True, stdout=subprocess.PIPE, text=True)
        return sum(int(chip["corrupt"]) for chip in json.loads(done.stdout).values())


class Chips:
    """The steps, for a device that runs."""

    def __init__(self, device: Device, bus: I2cBus) -> None:
        self.device = device
        self.guest = device.guest
        self.bus = bus

    def steps(self) -> list[Callable[[], None]]:
        return [
            self.the_scan_finds_the_chips_and_the_agent_reads_them,
            self.one_that_goes_silent_or_holds_the_bus_is_not_there_and_comes_back,
            self.one_that_lies_is_not_believed,
            self.a_flipped_bit_is_read_again_and_many_are_a_lie,
            self.on_a_low_battery_sending_waits_and_goes_on_when_it_is_charged,
            self.a_bus_that_is_unplugged_stops_nothing_and_comes_back,
            self.in_1970_only_the_clock_chip_knows_the_time,
        ]

    def states(self) -> dict[str, str]:
        return {name: face["state"] for name, face in self.device.status()["devices"].items()}

    def face(self, name: str) -> dict[str, Any]:
        face: dict[str, Any] = self.device.status()["devices"][name]
        return face

    def expect(self, **states: str) -> None:
        """Those that are not named work."""
        wanted = {**dict.fromkeys(DEVICES, "ok"), **states}
        wait_for(lambda: self.states() == wanted, f"the devices are {wanted}")

    # -- steps --------------------------------------------------------------------------------------------------------

    def the_scan_finds_the_chips_and_the_agent_reads_them(self) -> None:
        names = self.guest.says("grep -l i2c-tiny-usb /sys/class/i2c-adapter/i2c-*/name")
        number = int(names.split("/i2c-")[-1].split("/")[0])
        found = json.loads(self.guest.says(f"syncagent i2c scan --bus {number} --json"))["buses"][0]["found"]
        assert {each["address"]: each["source"] for each in found} == {
            "0x36": "max17048",
            "0x40": "ina219",
            "0x57": None,
            "0x58": "at24mac",
            "0x68": "ds3231",
        }, found
        for name, values in DEVICES.items():
            content = json.dumps({**values, "bus": number, "sample_s": 1})
            put_file(self.guest, f"/etc/syncagent/configs/devices/{name}.json", content)
        self.guest.run("systemctl restart syncagent")
        self.expect()
        assert self.face("identity")["eui"] == EUI
        assert self.face("supply")["values"] == {"volts": 5.1, "amps": 0.5}
        assert abs(self.face("clock")["ahead_s"]) < 60

    def one_that_goes_silent_or_holds_the_bus_is_not_there_and_comes_back(self) -> None:
        for fault, healed in (("nak=-1", "nak=0"), ("stall=-1", "stall=0"), ("gone=1", "gone=0")):
            self.bus.set("0x40", fault)
            self.expect(supply="not there")
            assert "0x40" in self.face("supply")["reason"]
            self.bus.set("0x40", healed)
            self.expect()

    def one_that_lies_is_not_believed(self) -> None:
        self.bus.set("0x36", "percent=3", "volts=4.15")  # as if it were empty, and full
        self.bus.set("0x68", "osf=1")
        self.expect(battery="not there", clock="doubtful")
        assert "not charged" in self.face("battery")["reason"]
        assert "oscillator" in self.face("clock")["reason"]
        self.device.write("while-they-lie.jpg")
        self.device.expect_arrival()
        self.bus.set("0x36", "percent=75", "volts=3.9")
        self.bus.set("0x68", "osf=0")
        self.expect()

    def a_flipped_bit_is_read_again_and_many_are_a_lie(self) -> None:
        # The lab flips a bit of the last byte that is read. In the gauge's version that is a lie, whatever it measures.
        for _ in range(5):
            self.bus.set("0x36", "corrupt=1")
            self.bus.set("0x40", "corrupt=1")
            wait_for(self.it_was_read_and_the_devices_are_well, "the flipped bits are read")
        self.bus.set("0x36", "corrupt=1000000")
        self.expect(battery="not there")
        assert "version" in self.face("battery")["reason"]
        self.bus.set("0x36", "corrupt=0")
        self.expect()

    def it_was_read_and_the_devices_are_well(self) -> bool:
        status = self.device.status()["devices"]
        assert (status["battery"]["state"], status["supply"]["values"]["volts"]) == ("ok", 5.1), status
        return self.bus.flips_left() == 0

    def on_a_low_battery_sending_waits_and_goes_on_when_it_is_charged(self) -> None:
        self.bus.set("0x36", "percent=12", "volts=3.5")
        self.expect(battery="paused")
        fact = self.device.status()["facts"]["uploader"]
        assert fact["reason"] == "power: battery at 12 %, resumes above 20 %", fact
        before = len(self.device.store.requests())
        self.device.write("on-a-low-battery.jpg")
        ready = self.device.status
        wait_for(lambda: ready()["queue"].get("ready", {}).get("files") == 1, "what is written is recorded")
        assert len(self.device.store.requests()) == before
        self.bus.set("0x36", "percent=30", "volts=3.7")
        self.device.expect_arrival()
        self.expect()

    def a_bus_that_is_unplugged_stops_nothing_and_comes_back(self) -> None:
        self.bus.unplug()
        self.expect(**dict.fromkeys(DEVICES, "not there"))
        self.device.write("without-the-bus.jpg")
        self.device.expect_arrival()
        self.bus.plug()
        self.expect()

    def in_1970_only_the_clock_chip_knows_the_time(self) -> None:
        # The second day: the kernel takes no time that is less than it has been up.
        self.guest.run("systemctl stop syncagent; date -u -s 1970-01-02 > /dev/null")
        self.device.write("in-1970.jpg")
        before = len(self.device.store.requests())
        self.guest.run("systemctl start syncagent")
        self.device.expect_arrival()
        first = self.device.store.requests()[before:]
        assert [event for event in first if event.status == 403] == [], "the first signature had the right time"
        status = self.device.status()
        assert status["facts"]["clock"]["state"] == "wrong", status["facts"]
        assert status["devices"]["clock"]["ahead_s"] > 50 * 365 * 86400
        self.guest.run(
            f"systemctl stop syncagent; date -u -s @{time.time():.0f} > /dev/null; systemctl start syncagent"
        )
        wait_for(lambda: "clock" not in self.device.bad_facts(), "the time is right again")
