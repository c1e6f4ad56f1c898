"""The agent with devices: the battery falls and rises, the bus hangs, the part that knows who this is goes missing."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests import chips, fieldbus
from tests.agent import Agent, sent
from tests.firmware_publisher import FirmwarePublisher, into_verifying
from tests.integration.test_agent_firmware import configure, dropped
from tests.servers import VerifyingS3, s3_client, wait_until

EUI = "fcc23d123456"
BATTERY = {
    "source": "max17048",
    "pause_below_percent": 15,
    "resume_above_percent": 20,
    "sample_s": 1,
    "attach": True,
}


class Field:
    """The I2C bus of an agent in another process."""

    def __init__(self, path: Path) -> None:
        self._path = str(path)
        self.put({})

    def put(self, found: dict[int, chips.Chip | int | str]) -> None:
        """From now on these are on the bus."""
        document = {
            f"0x{address:02x}": {f"0x{register:02x}": data.hex() for register, data in chip.items()}
            if isinstance(chip, dict)
            else chip
            for address, chip in found.items()
        }
        with open(self._path + ".new", "w") as file:
            json.dump(document, file)
        os.replace(self._path + ".new", self._path)

    def battery(self, percent: float) -> None:
        self.put({0x36: chips.max17048(percent)})

    @property
    def opened(self) -> list[str]:
        path = self._path + ".opened"
        if not os.path.exists(path):
            return []
        with open(path) as file:
            return file.read().split()


@pytest.fixture
def bus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Field:
    folders = [os.path.dirname(fieldbus.__file__), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, folders)))
    monkeypatch.setenv("FAKE_I2C", str(tmp_path / "bus.json"))
    return Field(tmp_path / "bus.json")


@pytest.fixture
def agent(tmp_path: Path, verifying: VerifyingS3, bus: Field) -> Iterator[Agent]:
    with Agent(str(tmp_path)) as made:
        made.configure(verifying.endpoint_url)
        yield made


def facts(agent: Agent, name: str) -> dict[str, object]:
    fact: dict[str, object] = agent.status()["facts"][name]
    return fact


def test_on_a_low_battery_sending_waits_and_says_so_while_recording_goes_on(
    agent: Agent, bus: Field, verifying: VerifyingS3
) -> None:
    agent.put_config("devices/battery", BATTERY)
    bus.battery(75)
    agent.start()
    agent.write("before.jpg", b"before")
    wait_until(lambda: agent.key("before.jpg") in sent(verifying), what="a full battery sends")
    head = s3_client(verifying.endpoint_url).head_object(Bucket="bucket", Key=agent.key("before.jpg"))
    assert head["Metadata"]["syncagent-battery-percent"] == "75"

    bus.battery(12)
    wait_until(lambda: facts(agent, "uploader")["state"] == "paused", what="the battery is low")
    count = len(verifying.requests())
    agent.write("during.jpg", b"during")
    wait_until(lambda: agent.states("during.jpg") == ["ready"], what="recording goes on")
    status = agent.status()
    reason = "battery at 12 %, resumes above 20 %"
    assert status["facts"]["power"]["reason"] == reason
    assert status["facts"]["uploader"] == {"ok": True, "state": "paused", "reason": f"power: {reason}"}
    assert status["devices"]["battery"]["values"]["percent"] == 12.0
    assert (status["state"], status["healthy"]) == ("degraded", True)
    assert len(verifying.requests()) == count, "not one request"

    bus.battery(21)
    wait_until(lambda: sent(verifying).get(agent.key("during.jpg")) == b"during", what="sending goes on")
    assert facts(agent, "uploader")["state"] == "ok"
    assert facts(agent, "power")["state"] == "ok"
    assert agent.stop() == 0


def test_an_agent_that_starts_on_a_low_battery_sends_nothing_first(
    agent: Agent, bus: Field, verifying: VerifyingS3
) -> None:
    agent.put_config("devices/battery", BATTERY)
    bus.battery(5)
    agent.write("a.jpg", b"a")
    agent.start()
    wait_until(lambda: agent.states("a.jpg") == ["ready"], what="recording goes on")
    assert verifying.requests() == []
    bus.put({})
    wait_until(lambda: agent.key("a.jpg") in sent(verifying), what="a gauge that is gone does not pause")
    assert agent.status()["devices"]["battery"]["state"] == "not there"
    assert facts(agent, "power")["ok"] is False


def test_firmware_by_hand_waits_for_the_battery_as_the_agent_does(
    agent: Agent, bus: Field, verifying: VerifyingS3
) -> None:
    publisher = FirmwarePublisher(into_verifying(verifying), now=datetime.now(UTC).replace(microsecond=0))
    configure(agent, verifying.endpoint_url, publisher, poll_s=3600)
    agent.put_config("devices/battery", BATTERY)
    bus.battery(12)
    publisher.publish(b"one", id="first")
    for arguments in (("update",), ("update", "--now")):
        done = agent.cli("firmware", *arguments)
        assert (done.returncode, done.stdout) == (10, "cam: verified first: it waits for the battery\n"), done.stderr
    agent.start()
    bus.battery(17)  # what is between the limits is low only for who saw it below them
    done = agent.cli("firmware", "update", "--now")
    assert (done.returncode, done.stdout) == (10, "cam: verified first: it waits for the battery\n"), done.stderr
    assert dropped(agent)["latest_firmware.json"] is None
    assert agent.stop() == 0
    bus.battery(30)
    assert agent.cli("firmware", "update").returncode == 0
    assert dropped(agent)["firmware_images/boot.bin"] == b"one"


@pytest.mark.parametrize("trouble", ["hang", errno.EBUSY, errno.ETIMEDOUT])
def test_a_bus_that_hangs_or_is_stuck_stops_neither_the_work_nor_the_end(
    agent: Agent, bus: Field, verifying: VerifyingS3, trouble: int | str
) -> None:
    agent.put_config("devices/battery", BATTERY)
    bus.put({0x36: trouble})
    agent.start()
    agent.write("a.jpg", b"a")
    wait_until(lambda: agent.key("a.jpg") in sent(verifying), what="the file arrives")
    assert agent.status()["devices"]["battery"]["state"] == "not there"
    assert agent.stop(within_s=10) == 0


def test_without_a_device_file_the_bus_is_never_opened(agent: Agent, bus: Field, verifying: VerifyingS3) -> None:
    agent.write("a.jpg", b"a")
    assert agent.run_once().returncode == 0
    assert agent.key("a.jpg") in sent(verifying)
    assert bus.opened == []


def test_the_part_that_knows_who_this_is_names_the_agent_also_when_it_is_away_later(
    agent: Agent, bus: Field, verifying: VerifyingS3
) -> None:
    agent.system_id = EUI
    agent.configure(verifying.endpoint_url, system={"id": "$i2c"})
    agent.put_config("devices/who", {"source": "at24mac"})
    missing = agent.cli("check-config")
    assert missing.returncode == 78
    assert "$i2c: 0x58 on bus 1: nothing answers" in missing.stderr
    bus.put({0x58: chips.at24mac(EUI)})
    agent.write("a.jpg", b"a")
    assert agent.run_once().returncode == 0
    bus.put({0x58: errno.EBUSY})
    agent.write("b.jpg", b"b")
    assert agent.run_once().returncode == 0
    assert set(sent(verifying)) == {agent.key("a.jpg"), agent.key("b.jpg")}
